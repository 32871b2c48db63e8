"""How long the gateway waits for a backend."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import is_amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts of the gateway→backend leg, each in seconds; None waits for ever.

    Args:
        connect: Until the connection stands, TLS handshake included. Default 5; longer, and a
            backend whose host is gone holds its visitors that long before they move on. The
            client sees 504 when no other backend is left to try.
        response: From the request having been sent (or from the last progress of its upload)
            until the response head. Default 60, nginx's `proxy_read_timeout`; shorter than your
            slowest page and that page becomes a 504.
        idle: Between two pieces of a response body. Default None, so that streams of events may
            be silent; with a value, a body that pauses longer is cut off and the client sees an
            aborted response.
        keep_alive: How long an idle connection is kept for reuse. Default 4, one less than the
            5 of uvicorn and Node.js, so the backend is not the one that closes it first; 0 uses
            each connection once.

    Raises:
        ValueError: A value that is not a positive, finite number (`keep_alive` may be 0).
    """

    connect: float | None = 5.0
    response: float | None = 60.0
    idle: float | None = None
    keep_alive: float = 4.0

    def __post_init__(self) -> None:
        for name in ("connect", "response", "idle"):
            value = getattr(self, name)
            if value is not None and not (is_amount(value) and value > 0):
                raise ValueError(
                    f"{name} must be a positive number of seconds or None, got {value!r}"
                )
        if not is_amount(self.keep_alive):
            raise ValueError(
                f"keep_alive must be a number of seconds, at least 0, got {self.keep_alive!r}"
            )
