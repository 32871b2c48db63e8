"""How many repeats a pool may have in flight, and those that wait until there may be one more."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .retries import Retry


class RepeatWaiter:
    """A request that waits for its turn to be repeated. `wake` is called once, when it has come."""

    __slots__ = ("is_granted", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.is_granted = False


class RetryBudget:
    """How many repeats a pool may have in flight at one time.

    When a backend dies, a few repeats save its visitors; when the pool dies, repeats of
    everything are what keeps it down. So repeats are bounded by a share of what is active now.
    Those of a backend that had more than its share wait for their turn, first come, first served.

    Args:
        retry: Where `budget_ratio` and `budget_min` are read.

    Source: Envoy's retry budget (`cluster.CircuitBreakers.Thresholds.RetryBudget`), which does
    not wait.
    """

    __slots__ = ("_in_flight", "_lock", "_waiters", "retry")

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self._in_flight = 0
        self._waiters: deque[RepeatWaiter] = deque()
        #: Several event loops may serve one pool.
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Repeats that have started and not finished."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiters)

    def start(self, active: int) -> bool:
        """Count one more repeat, if there may be one and nobody waits for it already.

        Args:
            active: Requests that the pool has accepted and not finished, the one to be repeated
                included.

        Returns:
            Whether it may go ahead: then `finish()` must follow, exactly once.
        """
        with self._lock:
            if self._waiters or self._in_flight >= self._limit(active):
                return False
            self._in_flight += 1
            return True

    def can_wait(self, most: int) -> bool:
        """Whether one more may wait for its turn, of so many, and the turn will come."""
        return len(self._waiters) < most and self._in_flight > 0

    def join(self, wake: Callable[[], object]) -> RepeatWaiter:
        """Wait for a turn. When `wake` is called, it has come, and `finish()` must follow."""
        waiter = RepeatWaiter(wake)
        with self._lock:
            self._waiters.append(waiter)
            self._serve(0)
        return waiter

    def leave(self, waiter: RepeatWaiter, active: int) -> None:
        """Let it wait no more; a turn that has come meanwhile is given back."""
        with self._lock:
            if not waiter.is_granted:
                # One whose event loop is closed is not there any more.
                with suppress(ValueError):
                    self._waiters.remove(waiter)
                return
        self.finish(active)

    def finish(self, active: int) -> None:
        """Count a repeat as ended, however it ended, and let others begin.

        Args:
            active: Requests that the pool has accepted and not finished.

        Raises:
            RuntimeError: No repeat is in flight.
        """
        with self._lock:
            if not self._in_flight:
                raise RuntimeError("finish() without a start() that returned True")
            self._in_flight -= 1
            self._serve(active)

    def _serve(self, active: int) -> None:
        # Whatever becomes of the rest of the pool, those who wait come to their turn.
        limit = max(1, self._limit(active + len(self._waiters)))
        while self._waiters and self._in_flight < limit:
            waiter = self._waiters.popleft()
            try:
                waiter.wake()
            except RuntimeError:
                continue  # Its event loop is closed: nobody is there to repeat anything.
            waiter.is_granted = True
            self._in_flight += 1

    def _limit(self, active: int) -> int:
        return max(self.retry.budget_min, int(self.retry.budget_ratio * active))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._in_flight} in flight, {self.waiting} waiting, "
            f"limit {self.retry.budget_ratio:.0%} or {self.retry.budget_min}>"
        )
