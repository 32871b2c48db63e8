"""What a source of pools tells: pools, and where their requests come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHint:
    """Where a pool that was found wants its requests from; the arguments of a `Route`.

    Args:
        path: Path prefix. Default `/`.
        host: Host name. Default None: any.
        strip_prefix: Whether the path is taken off before forwarding. Default False.
    """

    path: str = "/"
    host: str | None = None
    strip_prefix: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredPool:
    """A pool that a source has found.

    Args:
        name: Its name, which no other pool of the source has.
        snapshot: Its backends, and what is said of its cookie.
        routes: Where its requests come from; at least one.
        host: Whose Host header its backends get: the visitor's (`"pass"`) or their own
            (`"backend"`). None: nothing is said.
    """

    name: str
    snapshot: Snapshot
    routes: tuple[RouteHint, ...]
    host: Literal["pass", "backend"] | None = None
