"""A backend's identity, and apart from it what is known of the backend while it runs.

`Backend` is immutable and comes from the user or from discovery. `BackendState` is mutable, lives
in the pool keyed by the backend's id, and survives rediscovery.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from starlette.types import ASGIApp

from .checks import check_type, is_count

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_PASSWORD = re.compile(r"^([a-z+]+://)?.*@", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Health(enum.Enum):
    """What has been observed of a backend."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Intent(enum.Enum):
    """What an operator, discovery or the backend itself wishes for a backend."""

    ACTIVE = "active"
    DRAINING = "draining"
    DOWN = "down"


class Backend:
    """One place a request may be sent to. Immutable; equality and bookkeeping go by `id`.

    Args:
        url: `http://host:port`, `https://host:port` or `http+unix:///path/to.sock`. No path:
            targets are forwarded byte for byte.
        app: An ASGI application, served in process instead of a URL. The gateway runs its lifespan
            if it is in a pool when the gateway starts; one that comes later, or from a source of
            backends, gets none.
        id: The backend's name in logs, counters and affinity. Default: `host:port` of the URL,
            or the socket's path; an in-process `app` needs one. Sessions follow the id, so a
            backend that changes its address but keeps its id keeps its visitors.
        weight: Share of new sessions relative to the others. Default 1. At 0 the backend keeps
            the sessions it has and gets no new ones.
        max_requests: Requests it may have in flight in this process. Default None: no limit.
            Beyond it, requests wait in the pool's queue.
        priority: Default 0. Those with a higher number are a backup: new sessions go to the
            lowest number of which anybody can be used. Sessions stay where they are.
        metadata: Anything you want to find again in balancers and events. Never sent anywhere.

    Raises:
        ValueError: Both or neither of `url` and `app`, a URL that cannot be used, an empty id, a
            negative or non-finite weight, a `max_requests` below 1, a negative `priority`.
        TypeError: A url or an id that is no string, metadata that is no mapping.
    """

    __slots__ = ("app", "host", "id", "max_requests", "metadata", "port", "priority", "scheme",
                 "uds", "url", "weight")  # fmt: skip

    app: ASGIApp | None
    host: str
    id: str
    max_requests: int | None
    metadata: Mapping[str, Any]
    port: int
    priority: int
    scheme: str
    uds: str | None
    url: str | None
    weight: float

    def __init__(
        self,
        url: str | None = None,
        *,
        app: ASGIApp | None = None,
        id: str | None = None,
        weight: float = 1,
        max_requests: int | None = None,
        priority: int = 0,
        metadata: Mapping[str, Any] = _EMPTY,
    ) -> None:
        if (url is None) == (app is None):
            raise ValueError("a backend takes either a url or an app")
        if url is not None and not isinstance(url, str):
            hint = "; did you mean Backend(app=..., id=...)?" if callable(url) else ""
            raise TypeError(f"backend url must be str, got {url!r}{hint}")
        check_type("id", id, str, None)
        check_type("metadata", metadata, Mapping)
        scheme, host, port, uds = ("http", "", 0, None) if url is None else _parse_url(url)
        if id is None:
            if url is None:
                raise ValueError("an in-process backend needs an id: Backend(app=app, id='a')")
            id = uds or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if not id or not id.isprintable():
            raise ValueError(f"id must be printable and not empty, got {id!r}")
        if app is not None and not callable(app):
            raise ValueError(f"app must be an ASGI application, got {app!r}")
        if type(weight) not in (int, float) or not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a number of at least 0, got {weight!r}")
        if max_requests is not None and (type(max_requests) is not int or max_requests < 1):
            raise ValueError(
                f"max_requests must be an integer of at least 1 or None, got {max_requests!r}"
            )
        if not is_count(priority):
            raise ValueError(f"priority must be an integer of at least 0, got {priority!r}")
        for name, value in (
            ("url", url),
            ("app", app),
            ("id", id),
            ("weight", weight),
            ("max_requests", max_requests),
            ("priority", priority),
            ("metadata", MappingProxyType(dict(metadata))),
            ("scheme", scheme),
            ("host", host),
            ("port", port),
            ("uds", uds),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Backend is immutable; make another one to change its {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Backend is immutable; its {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Backend) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        place = "in process" if self.url is None else self.url
        priority = f" priority={self.priority}" if self.priority else ""
        return f"<Backend {self.id!r} {place} weight={self.weight:g}{priority}>"

    @property
    def authority(self) -> str:
        """The `host[:port]` for a Host header of the backend's own."""
        if self.uds is not None or self.url is None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def reaches_same_place(self, other: Backend) -> bool:
        """Whether connections to one may serve the other."""
        return self.url == other.url and self.app is other.app


def _parse_url(url: str) -> tuple[str, str, int, str | None]:
    # What comes before an @ may be a password: it is shown nowhere, however odd the URL.
    shown = _PASSWORD.sub(r"\1…@", url)
    try:
        parts: SplitResult = urlsplit(url)
        has_user = "@" in parts.netloc
        port = None if has_user else parts.port
    except ValueError as exc:
        # The reason may quote from the URL.
        reason = "" if "@" in url else f": {exc}"
        raise ValueError(f"backend url {shown!r} cannot be read{reason}") from None
    if has_user:
        raise ValueError(f"backend url {shown!r} must have no user and password")
    if parts.scheme not in ("http", "https", "http+unix"):
        raise ValueError(f"backend url {shown!r} must begin with http://, https:// or http+unix://")
    if parts.query or parts.fragment:
        raise ValueError(f"backend url {shown!r} must have no query or fragment")
    if parts.scheme == "http+unix":
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/") or path == "/":
            raise ValueError(
                f"backend url {shown!r} must name a socket, as in http+unix:///run/app.sock"
            )
        return "http", "localhost", 0, path
    if not parts.hostname:
        raise ValueError(f"backend url {shown!r} has no host")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"backend url {shown!r} must be printable ASCII without spaces")
    if parts.path not in ("", "/"):
        raise ValueError(
            f"backend url {shown!r} must have no path: targets are forwarded unchanged "
            "(a Route can strip a prefix)"
        )
    if port == 0:
        raise ValueError(f"backend url {shown!r} must have a port from 1 to 65535")
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], None


class BackendState:
    """What is known of one backend while it runs: health, intent, load and latency.

    The pool owns it; balancers read it. `load` and `latency` are what the policies compare.
    """

    __slots__ = (
        "backend",
        "charged",
        "current_weight",
        "discovered",
        "drain_until",
        "drained_itself",
        "excused",
        "failures",
        "faults",
        "health",
        "in_flight",
        "intent",
        "latency",
        "noted_in",
        "requests",
        "streams",
        "turn",
        "websockets",
        "weight",
        "wished",
        "wishes_drain",
    )

    #: Share of the newest sample in the latency average: the last ten or so dominate.
    LATENCY_DECAY = 0.2

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        #: Its share of new sessions now: less than the backend's own during slow start.
        self.weight = backend.weight
        self.health = Health.UNKNOWN
        #: The stricter of what an operator or it itself wishes, and of what its source does.
        self.intent = self.wished = self.discovered = Intent.ACTIVE
        #: When its drain ends, or has ended, by the pool's `clock`; None: no drain has an end.
        self.drain_until: float | None = None
        #: Whether it has asked for no new sessions, and whether that is why it is draining.
        self.wishes_drain = False
        self.drained_itself = False
        #: Requests it has at the moment; among them responses that have begun, and WebSockets.
        self.in_flight = self.streams = self.websockets = 0
        self.requests = 0
        self.latency: float | None = None
        #: Requests that failed since the last answer.
        self.failures = 0
        #: The same, but only those that count for ejection: see `Ejection`.
        self.faults = 0
        # What balancers keep here: round robin's three (turns it is owed, whether pinned visitors
        # came since its last one, whether that one was lost to them), the number of the last pick,
        # and for those who keep backends sorted the set in which everyone is noted who may have
        # moved up.
        self.current_weight = 0.0
        self.charged = False
        self.excused = False
        self.turn = 0
        self.noted_in: set[BackendState] | None = None

    @property
    def id(self) -> str:
        """The backend's id."""
        return self.backend.id

    @property
    def is_full(self) -> bool:
        """Whether it has as many requests in flight as it may."""
        limit = self.backend.max_requests
        return limit is not None and self.in_flight >= limit

    @property
    def keeps_sessions(self) -> bool:
        """Whether a visitor who belongs to it may be sent to it."""
        return self.intent is not Intent.DOWN and self.health is not Health.UNHEALTHY

    @property
    def takes_sessions(self) -> bool:
        """Whether a new visitor may be sent to it."""
        return (
            self.intent is Intent.ACTIVE
            and self.health is not Health.UNHEALTHY
            and self.backend.weight > 0
        )

    @property
    def is_drained_or_draining(self) -> bool:
        """Whether a drain is under way, or has taken it out of service."""
        return self.wished is Intent.DRAINING or self.drain_until is not None

    def use(self, backend: Backend) -> None:
        """Another description of the same backend is in force; a slow start goes on."""
        share = self.weight / self.backend.weight if self.backend.weight else 1
        self.backend = backend
        self.scale(share)

    def scale(self, share: float) -> None:
        """Give it a share of its backend's weight, from 0 to 1."""
        self.weight = self.backend.weight if share == 1 else self.backend.weight * share

    def finish_request(self) -> None:
        """Count a request less in flight."""
        self.in_flight -= 1
        if self.noted_in is not None:
            self.noted_in.add(self)

    def observe_latency(self, seconds: float) -> None:
        """Add one time to first byte to the moving average: the backend has answered."""
        self.failures = 0
        if self.latency is None:
            self.latency = seconds
        else:
            self.latency += self.LATENCY_DECAY * (seconds - self.latency)
        if self.noted_in is not None:
            self.noted_in.add(self)

    def observe_failure(self) -> None:
        """Count a request that the backend did not answer."""
        self.failures += 1
        if self.noted_in is not None:
            self.noted_in.add(self)

    def __repr__(self) -> str:
        return (
            f"<BackendState {self.id!r} {self.intent.value} {self.health.value} "
            f"{self.in_flight} in flight>"
        )
