"""Which pool a request belongs to, by path, host, method and headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from .pool import Pool
from .target import path_below_root

_HOST = re.compile(r"(\*\.)?[^\s/:*\[\].][^\s/:*\[\]]*|\[[0-9A-Fa-f:.]+\]")


class Route:
    """Requests that go to a pool.

    Args:
        pool: The pool, or None to leave these requests to the wrapped application.
        path: Path prefix of whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
            Default `/`: every path. Among the routes that match, the longest path wins, then the
            first one in the list.
        host: Host name, without port, or `*.example.com` for every name below it; an IPv6
            address in brackets. Default None: any.
        methods: Request methods. Default None: any.
        headers: Header values that must be there, by name. Default None.
        strip_prefix: Whether to take `path` off the target's front. The backend finds it in
            `X-Forwarded-Prefix`. Default False: targets are passed on unchanged.

    Raises:
        ValueError: A path that does not begin with `/`, or an empty host, methods or header name.
    """

    def __init__(
        self,
        pool: Pool | None,
        *,
        path: str = "/",
        host: str | None = None,
        methods: Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
        strip_prefix: bool = False,
    ) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must begin with '/', got {path!r}")
        if host is not None and not _HOST.fullmatch(host):
            raise ValueError(
                "host must be a name without scheme and port, or one such as '*.example.com', "
                f"got {host!r}"
            )
        if isinstance(methods, str) or (methods is not None and not (methods and all(methods))):
            raise ValueError(f"methods must be a list such as ['GET'], got {methods!r}")
        if headers is not None and not all(headers):
            raise ValueError(f"headers must have names, got {dict(headers)!r}")
        self.pool = pool
        self.path = path.rstrip("/") or "/"
        self.host = None if host is None else host.lower().strip("[]").rstrip(".")
        self.methods = None if methods is None else frozenset(map(str.upper, methods))
        self.headers = tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        )
        self.strip_prefix = strip_prefix
        self._below = self.path.rstrip("/") + "/"
        self._is_plain = host is None and methods is None and not headers

    def matches(self, scope: Mapping[str, Any], path: str) -> bool:
        """Whether a request with this path below the root path goes here."""
        if self.path != "/" and path != self.path and not path.startswith(self._below):
            return False
        return self._is_plain or self._matches_details(scope)

    def _matches_details(self, scope: Mapping[str, Any]) -> bool:
        if self.methods is not None and scope.get("method", "GET") not in self.methods:
            return False
        if self.host is not None and not _host_matches(self.host, scope):
            return False
        # Not every server's pairs are tuples.
        present = [(name, value) for name, value in scope["headers"]]
        return all(field in present for field in self.headers)

    def __repr__(self) -> str:
        host = self.host or ""
        return f"<Route {host}{self.path} → {'app' if self.pool is None else self.pool.name}>"


def _host_matches(wanted: str, scope: Mapping[str, Any]) -> bool:
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").lower()
            break
    else:
        return False
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    else:
        host = host.partition(":")[0].rstrip(".")
    if wanted.startswith("*."):
        return host.endswith(wanted[1:])
    return host == wanted


Routes: TypeAlias = Mapping[str, Pool | None] | Sequence[Route]

_EXPECTED = "pools must map paths to Pool objects or None, or be a list of Route, got "


def _routes_of(pools: Mapping[str, Pool | None]) -> list[Route]:
    routes = {}
    for path, pool in pools.items():
        route = Route(pool, path=path)
        if route.path in routes:
            raise ValueError(f"two pools have the path {route.path!r}")
        routes[route.path] = route
    return list(routes.values())


class RouteTable:
    """The routes of a gateway, the most specific path first.

    Args:
        routes: Pools by path prefix, or a list of `Route`.

    Raises:
        ValueError: Two pools of one name, two entries of one path, or no route at all.
        TypeError: Something else than routes.
    """

    def __init__(self, routes: Routes) -> None:
        if isinstance(routes, Mapping):
            routes = _routes_of(routes)
        elif not isinstance(routes, Sequence):
            raise TypeError(_EXPECTED + repr(routes))
        for route in routes:
            if not isinstance(route, Route):
                raise TypeError(_EXPECTED + repr(route))
            if not isinstance(route.pool, Pool | None):
                raise TypeError(_EXPECTED + repr(route.pool))
        if not routes:
            raise ValueError("pools must have at least one route")
        self.routes = tuple(sorted(routes, key=lambda route: -len(route.path)))
        by_name: dict[str, Pool] = {}
        for route in self.routes:
            pool = route.pool
            if pool is not None and by_name.setdefault(pool.name, pool) is not pool:
                raise ValueError(f"two pools have the name {pool.name!r}")
        self.pools = tuple(by_name.values())

    def match(self, scope: Mapping[str, Any]) -> Route | None:
        """The route of a request, or None."""
        path = path_below_root(scope)
        if not path.startswith("/"):
            path = "/"
        for route in self.routes:
            if route.matches(scope, path):
                return route
        return None
