"""What happened, for those who listen: access logs, metrics, tests.

A listener is told after the fact and changes nothing. With no listener nothing is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .affinity import AffinityStatus
from .exceptions import GatewayError


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


class Listener(Protocol):
    """Somebody who wants to know. Must neither block nor raise: it runs on the request path."""

    def on_request(self, event: RequestFinished) -> None:
        """A request has ended."""
        ...
