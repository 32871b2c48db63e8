"""How many repeats may be in flight, and whose turn it is next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sticky_asgi.retries import Retry
from sticky_asgi.retry_budget import RepeatWaiter, RetryBudget


@pytest.mark.parametrize(
    ("options", "active", "expected"),
    [
        pytest.param({}, 0, 3, id="idle"),
        pytest.param({}, 15, 3, id="minimum"),
        pytest.param({}, 19, 3, id="rounded-down"),
        pytest.param({}, 20, 4, id="share"),
        pytest.param({}, 1000, 200, id="busy"),
        pytest.param({"budget_min": 0}, 4, 0, id="no-minimum"),
        pytest.param({"budget_ratio": 0, "budget_min": 0}, 1000, 0, id="none-at-all"),
        pytest.param({"budget_ratio": 2.0}, 10, 20, id="more-than-all"),
    ],
)
def test_budget(options: dict[str, Any], active: int, expected: int) -> None:
    budget = RetryBudget(Retry(**options))
    started = 0
    while budget.start(active):
        started += 1
    assert started == budget.in_flight == expected


def test_a_finished_repeat_makes_room() -> None:
    budget = RetryBudget(Retry(budget_min=1))
    assert budget.start(1)
    assert not budget.start(1)
    budget.finish(0)
    assert budget.start(1)


def test_a_shrinking_pool_starts_nothing_until_repeats_have_ended() -> None:
    budget = RetryBudget(Retry())
    assert all(budget.start(100) for _ in range(20))
    assert not budget.start(10)
    for _ in range(18):
        budget.finish(0)
    assert budget.start(10)


def test_finish_without_start() -> None:
    budget = RetryBudget(Retry(budget_min=0))
    assert not budget.start(1)
    with pytest.raises(RuntimeError, match="start"):
        budget.finish(0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200))))
def test_the_budget_is_never_exceeded(steps: list[tuple[bool, int]]) -> None:
    budget = RetryBudget(Retry())
    running = 0
    for begins, active in steps:
        if begins:
            allowed = budget.start(active)
            assert allowed == (running < max(3, int(0.2 * active)))
            running += allowed
        elif running:
            budget.finish(0)
            running -= 1
        assert budget.in_flight == running


def test_budget_repr() -> None:
    budget = RetryBudget(Retry())
    budget.start(1)
    assert repr(budget) == "<RetryBudget 1 in flight, 0 waiting, limit 20% or 3>"


# When there is nobody else


@pytest.mark.parametrize(
    ("attempt", "share", "expected"),
    [
        pytest.param(1, 1, 0.1, id="first"),
        pytest.param(2, 1, 0.2, id="doubled"),
        pytest.param(4, 0.5, 0.4, id="a share"),
        pytest.param(5, 1, 1.0, id="tenfold at most"),
        pytest.param(500, 1, 1.0, id="for ever"),
        pytest.param(3, 0, 0.0, id="none of it"),
    ],
)
def test_pauses_grow(attempt: int, share: float, expected: float) -> None:
    assert Retry(backoff=0.1).pause(attempt, lambda: share) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("method", "attempt", "replayable", "expected"),
    [
        pytest.param("GET", 1, True, True, id="first of two"),
        pytest.param("GET", 2, True, False, id="the last one"),
        pytest.param("POST", 1, True, False, id="not idempotent"),
        pytest.param("PUT", 1, False, False, id="body is gone"),
    ],
)
def test_which_try_has_less_time(
    method: str, attempt: int, replayable: bool, expected: bool
) -> None:
    retry = Retry(attempts=1, attempt_timeout=1)
    assert retry.may_time_out(method=method, attempt=attempt, replayable=replayable) is expected
    assert not Retry().may_time_out(method="GET", attempt=1, replayable=True)


def test_those_who_wait_come_to_their_turn_in_order() -> None:
    budget = RetryBudget(Retry(budget_min=1))
    turns: list[str] = []
    assert not budget.can_wait(2), "while nothing is in flight, nobody will ever call"
    assert budget.start(1)
    first = budget.join(lambda: turns.append("first"))
    second = budget.join(lambda: turns.append("second"))
    assert not budget.can_wait(2)
    assert budget.can_wait(3)
    budget.finish(1)
    assert (turns, budget.in_flight, budget.waiting) == (["first"], 1, 1)
    budget.leave(first, 1)
    assert (turns, budget.in_flight, budget.waiting) == (["first", "second"], 1, 0)
    budget.leave(second, 1)
    assert budget.in_flight == 0


def test_no_newcomer_goes_before_those_who_wait() -> None:
    budget = RetryBudget(Retry())
    assert all(budget.start(100) for _ in range(20))
    waiter = budget.join(lambda: None)
    for _ in range(3):
        budget.finish(0)
    assert not waiter.is_granted, "fewer are active now"
    assert not budget.start(1000)
    for _ in range(15):
        budget.finish(0)
    assert waiter.is_granted
    assert budget.in_flight == 3


def test_who_leaves_before_the_turn_takes_nothing() -> None:
    budget = RetryBudget(Retry(budget_min=1))
    assert budget.start(1)
    waiter = budget.join(lambda: None)
    budget.leave(waiter, 1)
    budget.finish(1)
    assert (budget.in_flight, budget.waiting) == (0, 0)


def test_who_waits_in_a_loop_that_is_closed_takes_nothing() -> None:
    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    budget = RetryBudget(Retry(budget_min=1))
    assert budget.start(1)
    budget.join(closed)
    waiter = budget.join(lambda: None)
    budget.finish(1)
    assert waiter.is_granted
    assert (budget.in_flight, budget.waiting) == (1, 0)


def test_a_turn_may_have_come_before_the_wait_began() -> None:
    budget = RetryBudget(Retry(budget_min=1))
    assert budget.start(1)
    assert budget.can_wait(1)
    budget.finish(1)
    assert budget.join(lambda: None).is_granted


def test_who_was_in_a_closed_loop_may_still_leave() -> None:
    """As its coroutine does when it is thrown away."""

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    budget = RetryBudget(Retry(budget_min=1))
    assert budget.start(1)
    waiter = budget.join(closed)
    budget.finish(1)
    budget.leave(waiter, 1)
    assert (budget.in_flight, budget.waiting) == (0, 0)


class Budgets(RuleBasedStateMachine):
    """Requests fail, wait for their turn, give up and end, in any order."""

    @initialize(ratio=st.sampled_from([0.0, 0.2, 1.0]), least=st.integers(0, 4))
    def begin(self, ratio: float, least: int) -> None:
        self.retry = Retry(budget_ratio=ratio, budget_min=least)
        self.budget = RetryBudget(self.retry)
        self.active = 0
        self.running = 0
        #: Those who wait, in their order, and those whose turn came, in the order of the calls.
        self.waiting: list[RepeatWaiter] = []
        self.turns: list[int] = []
        self.loops_closed: set[int] = set()
        self.numbers: dict[RepeatWaiter, int] = {}

    def limit(self, waiting: int = 0) -> int:
        share = int(self.retry.budget_ratio * (self.active + waiting))
        return max(self.retry.budget_min, share)

    def note_turns(self, called: int, waited: int) -> None:
        """Since so many were called, of so many who waited."""
        if self.turns[called:]:
            assert self.budget.in_flight <= max(1, self.limit(waited))
        gone = [waiter for waiter in self.waiting if waiter.is_granted]
        assert [self.numbers[waiter] for waiter in gone] == self.turns[called:]
        self.running += len(gone)
        first = self.numbers[gone[-1]] if gone else -1
        self.waiting = [
            waiter
            for waiter in self.waiting
            if not waiter.is_granted
            and (self.numbers[waiter] > first or self.numbers[waiter] not in self.loops_closed)
        ]
        assert all(self.numbers[waiter] > first for waiter in self.waiting), "first come"

    @rule(active=st.integers(0, 40))
    def load_changes(self, active: int) -> None:
        self.active = active

    @rule()
    def fails(self) -> None:
        expected = not self.budget.waiting and self.running < self.limit()
        assert self.budget.start(self.active) is expected
        self.running += expected

    @precondition(lambda self: self.budget.can_wait(6))
    @rule()
    def waits(self) -> None:
        number, called = len(self.numbers), len(self.turns)

        def wake() -> None:
            if number in self.loops_closed:
                raise RuntimeError("Event loop is closed")
            self.turns.append(number)

        waiter = self.budget.join(wake)
        self.numbers[waiter] = number
        self.waiting.append(waiter)
        self.note_turns(called, len(self.waiting))

    @precondition(lambda self: self.running)
    @rule()
    def ends(self) -> None:
        called, waited = len(self.turns), len(self.waiting)
        self.running -= 1
        self.budget.finish(self.active)
        self.note_turns(called, waited)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        self.budget.leave(waiter, self.active)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def loop_ends(self, data: st.DataObject) -> None:
        self.loops_closed.add(self.numbers[data.draw(st.sampled_from(self.waiting))])

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.in_flight == self.running
            if self.budget.waiting:
                assert self.running, "somebody is there who will call the next"

    def teardown(self) -> None:
        """Nobody waits for ever, as long as others end."""
        if hasattr(self, "budget"):
            while self.running:
                self.ends()
            assert (self.budget.waiting, self.budget.in_flight) == (0, 0)


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
