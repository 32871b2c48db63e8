"""What a source of pools tells: pools, and where their requests come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import check_type
from ..snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHint:
    """Where a pool that was found wants its requests from; the arguments of a `Route`.

    Args:
        path: Path prefix. Default `/`.
        host: Host name. Default None: any.
        strip_prefix: Whether the path is taken off before forwarding. Default False.

    Raises:
        TypeError: An argument of another type. What no route can have is found out later.
    """

    path: str = "/"
    host: str | None = None
    strip_prefix: bool = False

    def __post_init__(self) -> None:
        check_type("path", self.path, str)
        check_type("host", self.host, str, None)
        check_type("strip_prefix", self.strip_prefix, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredPool:
    """A pool that a source has found.

    Args:
        name: Its name, which no other pool of the source has.
        snapshot: Its backends, and what is said of its cookie.
        routes: Where its requests come from; at least one.
        host: Whose Host header its backends get: the visitor's (`"pass"`) or their own
            (`"backend"`). None: nothing is said.

    Raises:
        ValueError: An unknown `host`.
        TypeError: An argument of another type.
    """

    name: str
    snapshot: Snapshot
    routes: tuple[RouteHint, ...]
    host: Literal["pass", "backend"] | None = None

    def __post_init__(self) -> None:
        check_type("name", self.name, str)
        check_type("snapshot", self.snapshot, Snapshot)
        for hint in self.routes:
            check_type("a route", hint, RouteHint)
        if self.host not in (None, "pass", "backend"):
            raise ValueError(f"host must be 'pass', 'backend' or None, got {self.host!r}")
