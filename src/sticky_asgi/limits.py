"""What a pool takes on before it says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pool takes on before it says no.

    Args:
        queue: Requests that may wait while backends are at `max_requests`. Default 100; the next
            one is answered 503 with Retry-After. 0: nobody waits.
        queue_timeout: Seconds a request waits at most. Default 5. A visitor who waited that long
            for a particular backend then goes to another one, if `on_lost` lets it; the others
            get 503.
        max_body: Largest request body in bytes. Default None: no limit. Beyond it: 413.

    Raises:
        ValueError: A negative number, or a `queue_timeout` of 0.
    """

    queue: int = 100
    queue_timeout: float = 5.0
    max_body: int | None = None

    def __post_init__(self) -> None:
        if self.queue < 0:
            raise ValueError(f"queue must not be negative, got {self.queue!r}")
        if not self.queue_timeout > 0:
            raise ValueError(f"queue_timeout must be positive, got {self.queue_timeout!r}")
        if self.max_body is not None and self.max_body < 0:
            raise ValueError(f"max_body must not be negative, got {self.max_body!r}")
