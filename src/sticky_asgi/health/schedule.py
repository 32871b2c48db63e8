"""When which backend is to be checked next."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable, Sequence
from itertools import count

from ..backend import BackendState, Health
from .check import HealthCheck

#: Seconds between the first checks of two backends, as far as there are not too many for that.
STAGGER = 0.01


class Schedule:
    """The due times of a pool's checks, shared by all event loops that make them.

    Whoever takes a check has it for itself: a backend is checked once, however many loops look.
    First checks are spread: over as long as it takes to make a hundred a second, at most over an
    interval.

    Args:
        rng: Returns random numbers from 0 to 1.
    """

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        self._rng = rng
        # Loops may run in several threads.
        self._lock = threading.Lock()
        #: Entries that are not in `_due` any more are void.
        self._heap: list[tuple[float, int, BackendState]] = []
        self._due: dict[BackendState, float] = {}
        self._numbers = count()

    @property
    def next_due(self) -> float | None:
        """When the next check is due; None if there is nobody to check."""
        with self._lock:
            while self._heap:
                due, _, state = self._heap[0]
                if self._due.get(state) == due:
                    return due
                heapq.heappop(self._heap)
            return None

    def follow(self, states: Sequence[BackendState], check: HealthCheck, now: float) -> None:
        """Have these checked, and nobody else. Who was checked before keeps its turn."""
        with self._lock:
            latest = now + check.pause(is_down=False, chance=1) + check.timeout
            # A shorter interval is in force at once.
            self._due = {
                state: min(self._due[state], latest) for state in states if state in self._due
            }
            new = [state for state in states if state not in self._due]
            spread = min(check.interval, STAGGER * len(new))
            for number, state in enumerate(new):
                self._due[state] = now + spread * number / len(new)
            self._heap = [(due, next(self._numbers), state) for state, due in self._due.items()]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Check nobody. Whoever is followed again begins anew."""
        with self._lock:
            self._heap, self._due = [], {}

    def take(self, now: float, most: int, check: HealthCheck) -> list[BackendState]:
        """Those whose check is due, at most so many; `done` is to be called for each."""
        taken: list[BackendState] = []
        with self._lock:
            while self._heap and len(taken) < most and self._heap[0][0] <= now:
                due, _, state = heapq.heappop(self._heap)
                if self._due.get(state) == due:
                    taken.append(state)
            for state in taken:
                # If its event loop ends without a word, somebody else takes it then.
                self._set(state, now + check.timeout + check.interval)
        return taken

    def done(self, state: BackendState, now: float, check: HealthCheck) -> None:
        """A check of a backend has ended that began `now`: set the time of the next one."""
        is_down = state.health is Health.UNHEALTHY
        with self._lock:
            if state in self._due:
                self._set(state, now + check.pause(is_down=is_down, chance=self._rng()))

    def hasten(self, state: BackendState, now: float, check: HealthCheck) -> None:
        """A backend was taken out for another reason: check it as often as one that is down."""
        with self._lock:
            due = now + check.pause(is_down=True, chance=self._rng())
            if due < self._due.get(state, now):
                self._set(state, due)

    def _set(self, state: BackendState, due: float) -> None:
        self._due[state] = due
        heapq.heappush(self._heap, (due, next(self._numbers), state))

    def __repr__(self) -> str:
        return f"<Schedule of {len(self._due)} checks>"
