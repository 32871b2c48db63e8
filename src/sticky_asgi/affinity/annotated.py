"""A signed cookie whose settings come with the backends, as from a Service's annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cookie import SignedCookie
from .settings import CookieSettings


class AnnotatedCookie:
    """The affinity of a pool that finds its backends, as its source says.

    A source that says nothing of affinity means none, as with Traefik: every request is then a
    new session. What is said may change at any time; a session lasts through it unless the
    cookie's name, path or domain is another.

    Args:
        secrets: As those of `SignedCookie`.
        options: Options of `SignedCookie`. What is given here holds whatever the source says.

    Raises:
        TypeError: An option that `SignedCookie` has not, or a value of the wrong type.
        ValueError: A value that cannot work.
    """

    __slots__ = ("_options", "_secrets")

    def __init__(self, secrets: str | bytes | Sequence[str | bytes], **options: Any) -> None:
        SignedCookie(secrets, **options)
        self._secrets = secrets
        self._options = options

    def make(self, settings: CookieSettings | None) -> SignedCookie | None:
        """The cookie under these settings; None: no affinity.

        Raises:
            ValueError: They do not go together with the options.
        """
        if settings is None:
            return None
        return SignedCookie(self._secrets, **{**settings.given(), **self._options})

    def __repr__(self) -> str:
        # The options hold no secret; these are apart.
        options = "".join(f" {name}={value!r}" for name, value in self._options.items())
        return f"<AnnotatedCookie{options}>"
