"""What somebody else than the program says of a pool's affinity cookie."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .attributes import SameSite
from .base import LostAction
from .cookie import SignedCookie

#: Stands in for the secrets where only the other settings are tried.
_PLACEHOLDER = "-" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieSettings:
    """Settings of an affinity cookie that a source of backends has read, as from annotations.

    They say everything about the cookie but its secrets, in the words of `SignedCookie`. None
    says nothing: what the program has set holds, or else the default of `SignedCookie`.

    Raises:
        ValueError: A value that cannot work by itself, or that browsers would refuse.
        TypeError: A value of the wrong type.
    """

    name: str | None = None
    path: str | None = None
    domain: str | None = None
    secure: bool | None = None
    http_only: bool | None = None
    same_site: SameSite | None = None
    partitioned: bool | None = None
    max_age: float | None = None
    idle_timeout: float | None = None
    absolute_timeout: float | None = None
    on_lost: LostAction | None = None

    def __post_init__(self) -> None:
        SignedCookie(_PLACEHOLDER, **self.given())

    def given(self) -> dict[str, Any]:
        """The settings that say something, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}
