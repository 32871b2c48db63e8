"""Which pool a request belongs to, by path, host, method and headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

from .checks import check_type, is_token
from .pool import Pool
from .target import path_below_root

_HOST = re.compile(r"(\*\.)?[^\s/:*\[\].][^\s/:*\[\]]*|\[[0-9A-Fa-f:.]+\]")
_NOT_IN_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
#: Servers take the blanks off both ends, and let no control character through.
_HEADER_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")


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
        ValueError: A path, host, method or header that no request can have, such as a path that
            does not begin with `/` or is not decoded, or an empty list of methods.
        TypeError: An argument of another type.
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
        check_type("pool", pool, Pool, None)
        check_type("path", path, str)
        check_type("host", host, str, None)
        check_type("strip_prefix", strip_prefix, bool)
        if not path.startswith("/"):
            raise ValueError(f"path must begin with '/', got {path!r}")
        if _NOT_IN_PATH.search(path):
            meant = unquote(re.split("[?#]", path)[0])
            raise ValueError(
                f"path is matched against the decoded path, without the query: got {path!r}, "
                f"did you mean {meant!r}?"
            )
        if host is not None and not _HOST.fullmatch(host):
            raise ValueError(
                "host must be a name without scheme and port, or one such as '*.example.com', "
                f"got {host!r}"
            )
        if methods is not None:
            _check_methods(methods)
        if headers is not None:
            _check_headers(headers)
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
        #: Whether every request goes here.
        self.matches_all = self._is_plain and self.path == "/"

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


def _check_methods(methods: Collection[str]) -> None:
    if isinstance(methods, str) or not isinstance(methods, Collection) or not methods:
        raise ValueError(f"methods must be a list such as ['GET'], got {methods!r}")
    for method in methods:
        if not is_token(method):
            raise ValueError(f"methods must hold names such as 'GET', got {method!r}")


def _check_headers(headers: Mapping[str, str]) -> None:
    check_type("headers", headers, Mapping, None)
    for name, value in headers.items():
        if not is_token(name):
            raise ValueError(f"headers must have names such as 'x-version', got {name!r}")
        check_type(f"headers: the value of {name!r}", value, str)
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"headers: the value of {name!r} must be Latin-1 text without control characters "
                f"or blanks around it, got {value!r}"
            )


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
        if not isinstance(path, str):
            raise TypeError(f"{_EXPECTED}the path {path!r}")
        if not isinstance(pool, Pool | None):
            raise TypeError(_EXPECTED + repr(pool))
        route = Route(pool, path=path)
        if route.path in routes:
            raise ValueError(f"two pools have the path {route.path!r}")
        routes[route.path] = route
    return list(routes.values())


class RouteTable:
    """The routes of a gateway, the most specific path first.

    Args:
        routes: Pools by path prefix, or a list of `Route`.
        may_be_empty: Whether there may be no route at all. Default False.

    Raises:
        ValueError: Two pools of one name, two entries of one path, or no route at all.
        TypeError: Something else than routes.
    """

    def __init__(self, routes: Routes, *, may_be_empty: bool = False) -> None:
        if isinstance(routes, Mapping):
            routes = _routes_of(routes)
        elif not isinstance(routes, Sequence):
            raise TypeError(_EXPECTED + repr(routes))
        for route in routes:
            if not isinstance(route, Route):
                raise TypeError(_EXPECTED + repr(route))
        if not routes and not may_be_empty:
            raise ValueError("pools must have at least one route")
        self.routes = tuple(sorted(routes, key=lambda route: -len(route.path)))
        by_name: dict[str, Pool] = {}
        for route in self.routes:
            pool = route.pool
            if pool is not None and by_name.setdefault(pool.name, pool) is not pool:
                raise ValueError(f"two pools have the name {pool.name!r}")
        self.pools = tuple(by_name.values())
        #: A route that every request takes, if there is one.
        self._only: Route | None = None
        if self.routes and self.routes[0].matches_all:
            self._only = self.routes[0]

    def match(self, scope: Mapping[str, Any]) -> Route | None:
        """The route of a request, or None."""
        if self._only is not None:
            return self._only
        path = path_below_root(scope)
        if not path.startswith("/"):
            path = "/"
        for route in self.routes:
            if route.matches(scope, path):
                return route
        return None
