"""What the annotations of a Service come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ....affinity.settings import CookieSettings
from ...found import RouteHint
from .findings import Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the annotations of a Service say.

    Args:
        affinity: The settings of its cookie; None: it is not sticky.
        scheme: How its pods are to be asked. None: nothing is said.
        host: Whose Host header they get: the visitor's (`"pass"`) or their own (`"backend"`).
            None: nothing is said.
        routes: Where its requests come from. Empty: nothing is said. None: what is said of it
            cannot be read, and what is left would be more than was meant.
        warnings: What the operator should change.
        notes: What is different here and does no harm.
    """

    affinity: CookieSettings | None = None
    scheme: Literal["http", "https"] | None = None
    host: Literal["pass", "backend"] | None = None
    routes: tuple[RouteHint, ...] | None = ()
    warnings: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
