"""What happened, for those who listen: access logs, metrics, tests.

A listener is told after the fact and changes nothing. Requests, of which there are many, have a
hook of their own; everything else comes to another. With no listener nothing is built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .affinity import AffinityStatus
from .backend import Health, Intent
from .exceptions import GatewayError, UpstreamError

logger = logging.getLogger("sticky_asgi")

T = TypeVar("T")
Hooks = tuple[Callable[[T], object], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """A request, or a WebSocket, that was routed to a pool has ended, well or not.

    Attributes:
        method: Request method.
        path: Raw request path, as the visitor sent it.
        client: The visitor's address, trusted proxies taken into account; None if unknown.
        pool: Name of the pool.
        backend: Id of the backend that was tried last; None if none was.
        affinity: Outcome of affinity; None if it was never asked.
        attempts: How many times a backend was tried.
        status: Status code the client was sent; 499 if the client left before one was.
        error: What ended the request, if it did not end well. Its text may hold addresses.
        duration: Seconds from the request's arrival to its end.
        time_to_first_byte: Seconds from its arrival to the response head; None without one.
        close_code: Of a WebSocket that was accepted (status 101): the code of the side that ended
            it, 1005 if that gave none and 1006 if it was lost (RFC 6455 §7.4.1). Else None.
    """

    method: str
    path: str
    client: str | None
    pool: str
    backend: str | None
    affinity: AffinityStatus | None
    attempts: int
    status: int | None
    error: GatewayError | None
    duration: float
    time_to_first_byte: float | None
    close_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRetried:
    """A backend has failed a request, which is about to be sent once more.

    Attributes:
        pool: Name of the pool.
        backend: Id of the backend that has failed.
        method: Request method.
        path: Raw request path.
        attempt: Which try has failed, 1 for the first.
        error: How. Its text may hold addresses.
    """

    pool: str
    backend: str
    method: str
    path: str
    attempt: int
    error: UpstreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestQueued:
    """A request has waited in the pool's queue or was not let in, or for its turn to be repeated.

    Attributes:
        pool: Name of the pool.
        method: Request method.
        path: Raw request path.
        waited: Seconds.
        error: `QueueFull`, `QueueTimeout`, or what else ended the wait; None: it goes on.
    """

    pool: str
    method: str
    path: str
    waited: float
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged:
    """A backend's health was observed to be another.

    Attributes:
        pool: Name of the pool.
        backend: Id of the backend.
        before: What it was.
        after: What it is.
        reason: Why, for the operator; empty if whoever said so gave none. May hold addresses.
    """

    pool: str
    backend: str
    before: Health
    after: Health
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentChanged:
    """Something else is wished for a backend, or until another time.

    Attributes:
        pool: Name of the pool.
        backend: Id of the backend.
        before: What was wished.
        after: What is wished.
        until: When a drain ends, by the pool's `clock`; None: at no set time.
        reason: Why; empty if whoever said so gave none.
    """

    pool: str
    backend: str
    before: Intent
    after: Intent
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendsReplaced:
    """A pool has another set of backends.

    Attributes:
        pool: Name of the pool.
        added: Ids of those that are new.
        removed: Ids of those that are gone; what runs on them is finished.
    """

    pool: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryFailed:
    """A pool's source of backends is away, or says what cannot be used; what was known holds.

    Attributes:
        pool: Name of the pool; empty for a gateway's source of pools.
        reason: Why, for the operator. May hold addresses.
        failures: How often in a row, this one included.
        pause: Seconds until the source is asked again; 0 where it is still listened to.
    """

    pool: str
    reason: str
    failures: int
    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryRecovered:
    """A pool's source of backends is back.

    Attributes:
        pool: Name of the pool; empty for a gateway's source of pools.
        failures: How often in a row it had failed.
    """

    pool: str
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """A configuration file was read again.

    Attributes:
        name: The file.
        error: What was wrong with it: then nothing has changed. None: it is in force.
    """

    name: str
    error: Exception | None


#: What a pool has to say.
PoolEvent = HealthChanged | IntentChanged | BackendsReplaced | DiscoveryFailed | DiscoveryRecovered
#: Everything but the end of requests.
Event = PoolEvent | RequestRetried | RequestQueued | Reloaded


class Listener(Protocol):
    """Somebody who wants to know of requests.

    Must neither block nor raise: it runs on the request path. What it raises goes to the log.
    """

    def on_request(self, event: RequestFinished) -> None:
        """A request has ended."""
        ...


class EventListener(Protocol):
    """Somebody who wants to know of everything else. It may be a `Listener` as well.

    Must neither block nor raise, as a `Listener`. It may be called in any thread that changes a
    pool.
    """

    def on_event(self, event: Event) -> None:
        """Something has happened; `match` tells what."""
        ...


class Listeners:
    """Those who are told. What one of them raises is its own bug, and goes to the log.

    Args:
        listeners: Objects with `on_request`, `on_event` or both.

    Raises:
        TypeError: One has neither.
    """

    __slots__ = ("of_events", "of_requests")

    def __init__(self, listeners: Sequence[Listener | EventListener]) -> None:
        for listener in listeners:
            if not _hooks([listener], "on_request") and not _hooks([listener], "on_event"):
                raise TypeError(
                    f"a listener must have on_request() or on_event(), got {listener!r}"
                )
        self.of_requests: Hooks[RequestFinished] = _hooks(listeners, "on_request")
        self.of_events: Hooks[Event] = _hooks(listeners, "on_event")


def tell(hooks: Hooks[T], event: T) -> None:
    """Tell everyone. A bug in one is no reason to fail a request, or to leave others untold."""
    for hook in hooks:
        try:
            hook(event)
        except Exception:
            logger.exception("listener %r raised an exception", hook)


def _hooks(listeners: Sequence[object], name: str) -> tuple[Any, ...]:
    hooks = (getattr(listener, name, None) for listener in listeners)
    return tuple(hook for hook in hooks if callable(hook))
