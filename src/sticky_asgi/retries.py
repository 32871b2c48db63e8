"""May a failed attempt be repeated? `Retry` judges one request, `RetryBudget` the whole pool.

This file decides and does nothing else: the one retry loop is the gateway's, and which backend
comes next is the pool's affair.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .checks import is_amount, is_count, is_int
from .exceptions import ConnectError, ConnectTimeout, UpstreamError

# RFC 9110 §9.2.2: "Of the request methods defined by this specification, PUT, DELETE, and safe
# request methods are idempotent." §9.2.1: "the GET, HEAD, OPTIONS, and TRACE methods are defined
# to be safe." Methods are case-sensitive (§9.1).
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a request that failed is sent to another backend.

    A request of which nothing was written (the connection failed) is repeated whatever its
    method; one that the backend may have received, only if its method is idempotent (RFC 9110
    §9.2.2); none once a byte of a response went to the client.

    Args:
        attempts: How often a request may be repeated. Default 2: at most three tries; 0 repeats
            nothing. The repeat on a fresh connection after a kept-alive one was closed does not
            count.
        replay_limit: Bytes of a request body that are kept for a repeat, per request. Default
            65536; a request whose body is longer is not repeated once its body has been read.
        on_status: Response statuses (400 to 599) of a backend that count as failed, for
            idempotent methods. Default none: what a backend answers goes to the client. With
            `{502, 503}` visitors do not see a backend that is shutting down.
        budget_ratio: Share of the pool's active requests that may be repeats at one time. Default
            0.2, Envoy's `budget_percent`: so a dying pool is not hammered by three times its load.
            Beyond it a request waits for its turn, within `Limits.queue` and `queue_timeout`.
        budget_min: Repeats that may be active whatever the share says. Default 3, Envoy's
            `min_retry_concurrency`: so a quiet pool has repeats at all.
        backoff: Seconds to wait before a backend that has refused the connection gets the request
            once more, when there is no other to ask. Doubled at every repeat, up to tenfold, and of
            that a random share: so those who wait do not come back all at once. Default 0.025,
            Envoy's `base_interval`; None: none is asked twice.
        attempt_timeout: Seconds until the response head for a try that may still be repeated. The
            last one, those of which no repeat is allowed, and those whose body is still on its way
            have `Timeouts.response`. Default None: all have.
        total_timeout: Seconds since the request's arrival after which nothing is repeated, nor
            waits to be: the failure is passed on. Default None: no matter when.

    Raises:
        ValueError: A value out of range.
    """

    attempts: int = 2
    replay_limit: int = 65536
    on_status: Collection[int] = ()
    budget_ratio: float = 0.2
    budget_min: int = 3
    backoff: float | None = 0.025
    attempt_timeout: float | None = None
    total_timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("attempts", "replay_limit", "budget_min"):
            value = getattr(self, name)
            if not is_count(value):
                raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
        if not is_amount(self.budget_ratio):
            raise ValueError(
                f"budget_ratio must be a number of at least 0, got {self.budget_ratio!r}"
            )
        for name in ("backoff", "attempt_timeout", "total_timeout"):
            value = getattr(self, name)
            if value is not None and not (is_amount(value) and value > 0):
                raise ValueError(
                    f"{name} must be a positive number of seconds or None, got {value!r}"
                )
        object.__setattr__(self, "on_status", _statuses(self.on_status))

    def allows(
        self,
        exc: UpstreamError,
        *,
        method: str,
        attempt: int,
        replayable: bool,
        response_started: bool,
    ) -> bool:
        """Whether a request that failed may be sent again.

        Args:
            exc: How it failed. `exc.request_sent` says whether the backend may have received
                a part of it.
            method: The request's method, as sent.
            attempt: Which try failed: 1 for the first.
            replayable: Whether its body can be sent again: none, none read yet, or all that was
                read is held.
            response_started: Whether a byte of a response went to the client.
        """
        # RFC 9110 §9.2.2: "A proxy MUST NOT automatically retry non-idempotent requests." One
        # that no backend can have seen was never made. Malformed answers, timeouts and lost
        # connections all come after that.
        safe_to_repeat = not exc.request_sent or method in IDEMPOTENT_METHODS
        return safe_to_repeat and self._has_another_try(attempt, replayable, response_started)

    def allows_status(
        self,
        status: int,
        *,
        method: str,
        attempt: int,
        replayable: bool,
        response_started: bool,
    ) -> bool:
        """Whether a request that was answered with a status may be sent again instead.

        Args:
            status: The backend's answer, of which nothing was forwarded yet.
            method: The request's method, as sent.
            attempt: Which try was answered so: 1 for the first.
            replayable: Whether its body can be sent again.
            response_started: Whether a byte of a response went to the client.
        """
        return (
            status in self.on_status
            and method in IDEMPOTENT_METHODS
            and self._has_another_try(attempt, replayable, response_started)
        )

    def may_time_out(self, *, method: str, attempt: int, replayable: bool) -> bool:
        """Whether a try is one that `attempt_timeout` ends.

        Args:
            method: The request's method, as sent.
            attempt: Which try it is: 1 for the first.
            replayable: Whether its body can be sent again.
        """
        return (
            self.attempt_timeout is not None
            and method in IDEMPOTENT_METHODS
            and self._has_another_try(attempt, replayable, response_started=False)
        )

    def allows_same_backend(self, exc: UpstreamError) -> bool:
        """Whether who failed so may be asked once more, if there is nobody else.

        One that refuses connections may be back in a moment. One that keeps a request waiting would
        cost the visitor the same time again, and one that has failed over it may do so again.
        """
        return (
            self.backoff is not None
            and isinstance(exc, ConnectError)
            and not isinstance(exc, ConnectTimeout)
        )

    def pause(self, attempt: int, share: Callable[[], float] = random.random) -> float:
        """Seconds to wait before the same backend is tried again.

        Args:
            attempt: Which try failed: 1 for the first.
            share: Says which part of the longest pause it is to be, from 0 to 1.
        """
        return 0 if self.backoff is None else self.backoff * min(2 ** (attempt - 1), 10) * share()

    def _has_another_try(self, attempt: int, replayable: bool, response_started: bool) -> bool:
        return replayable and not response_started and attempt <= self.attempts


def _statuses(values: Collection[int]) -> frozenset[int]:
    try:
        statuses = list(values)
    except TypeError:
        raise ValueError(f"on_status must be a collection of statuses, got {values!r}") from None
    for status in statuses:
        if not is_int(status) or not 400 <= status <= 599:
            raise ValueError(f"on_status must hold integers from 400 to 599, got {status!r}")
    return frozenset(statuses)
