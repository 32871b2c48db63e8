"""Passive ejection: failed requests take a backend out for a while."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ..backend import BackendState
from ..checks import is_amount, is_int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """When requests that fail take their backend out. Times are in seconds.

    What counts is what the backend is to blame for: no connection, a malformed or broken-off
    response, a timeout. A client that leaves, a 4xx and a repeat that was called off never do.

    Args:
        failures: Failed requests in a row, without an answer between them, however long that
            takes. Default 5, as with Envoy; None: they do not matter.
        failure_share: Share of a backend's requests in `window` that failed. Default 0.5; None:
            it does not matter. It finds backends that fail now and then, or in the middle of
            responses.
        min_requests: Requests in the window from which on the share is looked at. Default 20.
        window: How long requests are counted, from one that failed. Default 10.
        duration: How long a backend is out at first, each time twice as long as before. Default
            30. Back, it is on probation: until it has answered once, one failure is enough. Where
            there are active checks, they decide the return and this means nothing.
        max_duration: How long it is out at most, and for how long it must have been back for
            `duration` to count from anew. Default None: ten times `duration`.
        max_share: Share of the pool that may be unhealthy because of it, whatever fails. Default
            0.5: of two backends one, of one none. Those that are unhealthy for other reasons are
            counted.
        statuses: Statuses (500 to 599) that count as failed. Default none.

    Raises:
        ValueError: A value out of range.

    Source: Envoy's outlier detection, nginx's `max_fails`.
    """

    failures: int | None = 5
    failure_share: float | None = 0.5
    min_requests: int = 20
    window: float = 10.0
    duration: float = 30.0
    max_duration: float | None = None
    max_share: float = 0.5
    statuses: Collection[int] = ()

    def __post_init__(self) -> None:
        for name in ("failures", "min_requests"):
            value = getattr(self, name)
            if name == "failures" and value is None:
                continue
            if not is_int(value) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in ("window", "duration", "max_duration"):
            value = getattr(self, name)
            if name == "max_duration" and value is None:
                continue
            if not (is_amount(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        if self.max_duration is not None and self.max_duration < self.duration:
            raise ValueError(
                f"max_duration must be at least duration {self.duration!r}, "
                f"got {self.max_duration!r}"
            )
        share = self.failure_share
        if share is not None and not (is_amount(share) and 0 < share <= 1):
            raise ValueError(f"failure_share must be above 0 and at most 1, got {share!r}")
        if not is_amount(self.max_share) or self.max_share > 1:
            raise ValueError(f"max_share must be a number from 0 to 1, got {self.max_share!r}")
        object.__setattr__(self, "statuses", _statuses(self.statuses))

    @property
    def longest(self) -> float:
        """`max_duration` as a number of seconds."""
        return self.duration * 10 if self.max_duration is None else self.max_duration

    def has_room(self, unhealthy: int, backends: int) -> bool:
        """Whether one more of so many backends may be taken out."""
        return not self.is_too_much(unhealthy + 1, backends)

    def is_too_much(self, unhealthy: int, backends: int) -> bool:
        """Whether so many that are out are more than `max_share` allows."""
        # Shares are rarely exact: 0.29 of 100 is a bit less than 29.
        return unhealthy > self.max_share * backends + 1e-9


class Faults:
    """What one backend was to blame for, and how often it was taken out for it.

    Its consecutive failures are in `BackendState.faults`, where an answer ends the row.
    """

    __slots__ = ("_began", "_failed", "_requests", "_times", "_until", "returned")

    def __init__(self) -> None:
        self._began: float | None = None
        self._requests = 0
        self._failed = 0
        self._times = 0
        self._until = 0.0
        #: When it came back last: what failed of earlier requests says nothing of it any more.
        self.returned = -math.inf

    def observe(self, state: BackendState, rules: Ejection, now: float) -> str | None:
        """Count a failed request. Returns why the backend is to be taken out, or None."""
        state.faults += 1
        if self._began is None or now - self._began > rules.window:
            # This request was counted when it began.
            self._began, self._requests, self._failed = now, state.requests - 1, 0
        self._failed += 1
        total = state.requests - self._requests
        if rules.failures is not None and state.faults >= rules.failures:
            times = f"{state.faults} failures in a row"
            return times if state.faults > 1 else "a failure"
        if (
            rules.failure_share is not None
            and total >= rules.min_requests
            and self._failed >= rules.failure_share * total
        ):
            return f"{self._failed} of {total} requests failed"
        return None

    def eject(self, rules: Ejection, now: float) -> float:
        """Count an ejection. Returns for how many seconds."""
        if now - self._until >= rules.longest:
            self._times = 0
        self._times += 1
        duration = self.how_long(rules)
        self._until = now + duration
        return duration

    def how_long(self, rules: Ejection) -> float:
        """For how many seconds the latest ejection takes its backend out."""
        # Bounded: what is doubled so often is beyond any limit.
        return min(rules.duration * 2.0 ** min(self._times - 1, 64), rules.longest)

    def return_(self, state: BackendState, rules: Ejection | None, now: float) -> None:
        """The backend is back, on probation."""
        self._began = None
        self._until = self.returned = now
        state.faults = 0 if rules is None or rules.failures is None else rules.failures - 1


def _statuses(values: Collection[int]) -> frozenset[int]:
    try:
        statuses = list(values)
    except TypeError:
        raise ValueError(f"statuses must be a collection of statuses, got {values!r}") from None
    for status in statuses:
        if not is_int(status) or not 500 <= status <= 599:
            raise ValueError(f"statuses must hold integers from 500 to 599, got {status!r}")
    return frozenset(statuses)
