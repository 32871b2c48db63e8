"""What a pool takes on before it says no."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import is_amount, is_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pool takes on before it says no.

    Args:
        queue: Requests that may wait while backends are at `max_requests`. Default 100; the next
            one is answered 503 with Retry-After. 0: nobody waits. As many may wait until the retry
            budget has room for them.
        queue_timeout: Seconds a request waits at most. Default 5. A visitor who waited that long
            for a particular backend then goes to another one, if `on_lost` lets it; the others
            get 503.
        max_body: Largest request body in bytes. Default None: no limit. Beyond it: 413.

    Raises:
        ValueError: A value that is no such number: negative, a `queue_timeout` of 0 or infinite,
            a bool, a string.
    """

    queue: int = 100
    queue_timeout: float = 5.0
    max_body: int | None = None

    def __post_init__(self) -> None:
        if not is_count(self.queue):
            raise ValueError(f"queue must be an integer of at least 0, got {self.queue!r}")
        timeout = self.queue_timeout
        if not (is_amount(timeout) and timeout > 0):
            raise ValueError(f"queue_timeout must be a positive number of seconds, got {timeout!r}")
        if self.max_body is not None and not is_count(self.max_body):
            raise ValueError(
                f"max_body must be an integer of at least 0 or None, got {self.max_body!r}"
            )
