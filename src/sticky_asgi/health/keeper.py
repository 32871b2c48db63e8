"""What checks, failed requests and time make of the health of one pool's backends.

The keeper decides; `turn`, the pool's, puts a change in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from ..backend import BackendState, Health, Intent
from .check import CheckResult, HealthCheck
from .ejection import Ejection, Faults
from .slow_start import STEPS, share_after
from .tracker import Tracker

#: Who took a backend out; None: somebody else, who must bring it back.
Cause: TypeAlias = Literal["check", "ejection"]


#: Why a backend is unhealthy that waits for its first check.
NOT_CHECKED = "not checked yet"


class _Record:
    """What is remembered of one backend."""

    __slots__ = ("cause", "faults", "tracker")

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.faults = Faults()
        self.cause: Cause | None = None


class HealthKeeper:
    """Keeps the health of a pool's backends.

    Time passes when the pool asks: `due` says from when on `advance` has something to do, so a
    pool where nobody is out or on its way back asks nothing.

    Args:
        turn: Puts a change of health in force and tells why, and whether it is news: that a
            backend passes its first check is none.
        reweigh: Called when weights have changed.
        clock: Seconds that only go forward.

    Attributes:
        check: How backends are checked, or None.
        ejection: When failures take a backend out, or None.
        slow_start: Seconds in which a backend that is back gets its full weight, or None.
        due: When something is to change by itself, or None.
    """

    def __init__(
        self,
        turn: Callable[[BackendState, Health, str, bool], None],
        reweigh: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.check: HealthCheck | None = None
        self.ejection: Ejection | None = None
        self.slow_start: float | None = None
        self.due: float | None = None
        self._turn_in_pool = turn
        self._reweigh = reweigh
        self._clock = clock
        self._checkers = 0
        self._states: dict[BackendState, None] = {}
        self._unhealthy: set[BackendState] = set()
        self._records: dict[BackendState, _Record] = {}
        #: Until when, and since when.
        self._ejected: dict[BackendState, float] = {}
        self._returning: dict[BackendState, float] = {}
        self._next_step: float | None = None

    @property
    def is_checked(self) -> bool:
        """Whether somebody makes active checks now."""
        return self._checkers > 0

    # What is in force.

    def use(
        self, check: HealthCheck | None, ejection: Ejection | None, slow_start: float | None
    ) -> None:
        """Put other policies in force. Whom one that is switched off took out comes back."""
        self.check, self.ejection, self.slow_start = check, ejection, slow_start
        if ejection is None:
            self._void("ejection", "ejection was switched off")
        else:
            self._shorten(ejection)
        if slow_start is None:
            for state in [*self._returning]:
                self._end_slow_start(state)
        self._next_step = None
        self._keep_share()
        self._plan()

    def _shorten(self, rules: Ejection) -> None:
        """Nobody who is out already stays out for longer than these rules have it."""
        now = self._clock()
        for state, until in [*self._ejected.items()]:
            latest = now + self._record(state).faults.how_long(rules)
            self._ejected[state] = min(until, latest)

    def follow(self, states: Iterable[BackendState]) -> None:
        """These, and nobody else, are the pool's backends now."""
        self._states = dict.fromkeys(states)
        for state in [*self._records]:
            if state not in self._states:
                del self._records[state]
                self._ejected.pop(state, None)
                self._end_slow_start(state)
        self._unhealthy = {state for state in self._states if state.health is Health.UNHEALTHY}
        self._await_first_checks()
        self._keep_share()
        self._plan()

    def follow_intents(self, states: Iterable[BackendState]) -> None:
        """Somebody of the pool may be in service, or out of it, whom somebody has put there."""
        if self._ejected:
            # They may be others than before: intents change together with the set of backends.
            self.follow(states)

    def begin_checks(self) -> None:
        """Somebody begins to make active checks; `end_checks` is to follow."""
        self._checkers += 1
        self._await_first_checks()

    def end_checks(self) -> None:
        """Somebody makes no checks any more. With the last one, what checks have said is void."""
        self._checkers -= 1
        if not self._checkers:
            self._void("check", "no checks any more")
            self._plan()

    def _await_first_checks(self) -> None:
        if self._checkers and self.check is not None and self.check.initial == "unhealthy":
            for state in self._states:
                # One that has served already has shown more than that.
                is_unused = state.health is Health.UNKNOWN and not state.requests
                if is_unused and self._record(state).tracker.is_new:
                    self._turn(state, Health.UNHEALTHY, NOT_CHECKED, "check")

    def _void(self, cause: Cause, reason: str) -> None:
        for state, record in [*self._records.items()]:
            if record.cause == cause:
                self._return(state, record, Health.UNKNOWN, reason)
            if cause == "check" and record.cause != "ejection":
                record.tracker = Tracker()

    # What was observed.

    def observe_check(self, state: BackendState, result: CheckResult) -> None:
        """An active check has ended."""
        if self.check is None or state not in self._states:
            return
        record = self._record(state)
        is_first = record.tracker.is_new
        health = record.tracker.observe(result.passed, state.health, self.check)
        if health is state.health:
            return
        reason = f"check: {result.reason}"
        if health is Health.UNHEALTHY:
            self._turn(state, health, reason, "check")
        elif state.health is Health.UNHEALTHY and not is_first:
            self._return(state, record, health, reason)
        else:
            is_news = state.health is not Health.UNKNOWN or not is_first
            self._turn(state, health, reason, None, is_news=is_news)

    def observe_answer(self, state: BackendState, *, took: float = 0) -> None:
        """A request was answered: that ends a row of failures, and probation.

        Args:
            state: The backend.
            took: Seconds since it was sent there.
        """
        record = self._records.get(state)
        if record is None or self._clock() - took >= record.faults.returned:
            state.faults = 0

    def observe_fault(self, state: BackendState, reason: str, *, took: float = 0) -> None:
        """A request has failed for which the backend is to blame.

        Args:
            state: The backend.
            reason: How.
            took: Seconds since it was sent there.
        """
        rules = self.ejection
        if rules is None or state not in self._states:
            return
        now, record = self._clock(), self._record(state)
        if now - took < record.faults.returned:
            return
        verdict = record.faults.observe(state, rules, now)
        if verdict is None or state.health is Health.UNHEALTHY:
            return
        if not rules.has_room(*self._count_unhealthy()):
            return
        duration = record.faults.eject(rules, now)
        how_long = "until checks pass" if self.is_checked else f"for {duration:g} seconds"
        record.tracker.start_again()
        self._ejected[state] = now + duration
        self._turn(state, Health.UNHEALTHY, f"ejected {how_long}: {verdict}: {reason}", "ejection")
        self._plan()

    def _count_unhealthy(self) -> tuple[int, int]:
        """How many are out of those that would serve, and how many those are."""
        serving = [
            state
            for state in self._states
            if state.intent is not Intent.DOWN and state.backend.weight > 0
        ]
        return sum(state in self._unhealthy for state in serving), len(serving)

    def _keep_share(self) -> None:
        """Bring back whom requests have taken out, as far as too many are out now."""
        if self.ejection is None:
            return
        for state in sorted(self._ejected, key=lambda state: self._ejected[state]):
            if not self.ejection.is_too_much(*self._count_unhealthy()):
                return
            record = self._record(state)
            if record.cause == "ejection":
                self._return(state, record, Health.UNKNOWN, "too many are out")

    def observe_health(self, state: BackendState, health: Health, reason: str) -> None:
        """Somebody else says what a backend's health is."""
        record = self._record(state)
        record.tracker.start_again()
        if state.health is Health.UNHEALTHY and health is not Health.UNHEALTHY:
            self._return(state, record, health, reason)
            state.faults = 0  # Whoever says so knows better than old failures.
        else:
            self._ejected.pop(state, None)
            self._turn(state, health, reason, None)
        self._plan()

    # What time changes.

    def advance(self) -> None:
        """Let those come back whose time is over, and others get more weight."""
        now = self._clock()
        if self.due is None or now < self.due:
            return
        self.due = None  # What follows may make the pool ask again.
        for state, until in [*self._ejected.items()]:
            # Where checks are made, they decide.
            if until <= now and not self.is_checked:
                record = self._record(state)
                self._return(state, record, Health.UNKNOWN, "its ejection is over")
        if self._next_step is not None and self._next_step <= now:
            self._next_step = None
            self._step(now)
        self._plan()

    def _step(self, now: float) -> None:
        """Give everyone who is on the way back the weight that is due; all at one time, since
        each change of weights is work for the balancers.
        """
        for state, since in [*self._returning.items()]:
            share = 1.0 if self.slow_start is None else share_after(now - since, self.slow_start)
            if share < 1:
                state.scale(share)
            else:
                self._end_slow_start(state)
        self._reweigh()

    def _plan(self) -> None:
        """Say when something is to change by itself."""
        moments = [] if self.is_checked else [*self._ejected.values()]
        if not self._returning or self.slow_start is None:
            self._next_step = None
        elif self._next_step is None:
            self._next_step = self._clock() + self.slow_start / STEPS
        if self._next_step is not None:
            moments.append(self._next_step)
        self.due = min(moments, default=None)

    # Changes.

    def _return(self, state: BackendState, record: _Record, health: Health, reason: str) -> None:
        """A backend is back: on probation if requests had failed, and with little weight."""
        now = self._clock()
        self._ejected.pop(state, None)
        if record.cause == "ejection":
            record.faults.return_(state, self.ejection, now)
        if self.slow_start is not None:
            self._returning[state] = now
            state.scale(share_after(0, self.slow_start))
        self._turn(state, health, reason, None)
        self._plan()

    def _turn(
        self,
        state: BackendState,
        health: Health,
        reason: str,
        cause: Cause | None,
        *,
        is_news: bool = True,
    ) -> None:
        self._record(state).cause = cause
        if health is Health.UNHEALTHY:
            self._unhealthy.add(state)
            self._end_slow_start(state)
        else:
            self._unhealthy.discard(state)
        self._turn_in_pool(state, health, reason, is_news)

    def _end_slow_start(self, state: BackendState) -> None:
        if self._returning.pop(state, None) is not None:
            state.scale(1)

    def _record(self, state: BackendState) -> _Record:
        record = self._records.get(state)
        if record is None:
            record = self._records[state] = _Record()
        return record

    def __repr__(self) -> str:
        return (
            f"<HealthKeeper [{len(self._ejected)} ejected, {len(self._returning)} returning, "
            f"{self._checkers} checkers]>"
        )
