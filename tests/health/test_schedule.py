"""Who is checked when, by numbers alone."""

from __future__ import annotations

from collections import Counter

import pytest

from sticky_asgi.backend import Backend, BackendState, Health
from sticky_asgi.health import HealthCheck, Schedule

CHECK = HealthCheck(interval=5, timeout=2, jitter=0)


def states(count: int) -> list[BackendState]:
    return [BackendState(Backend(f"http://b{number}")) for number in range(count)]


def schedule(count: int, check: HealthCheck = CHECK) -> tuple[Schedule, list[BackendState]]:
    made, members = Schedule(lambda: 0.5), states(count)
    made.follow(members, check, 100)
    return made, members


def due(made: Schedule) -> float:
    assert made.next_due is not None
    return made.next_due


def test_few_begin_at_once_and_one_after_the_other() -> None:
    made, members = schedule(3)
    assert due(made) == 100
    assert made.take(100, 10, CHECK) == members[:1]
    assert due(made) == pytest.approx(100.01)
    assert made.take(100.5, 10, CHECK) == members[1:]
    for state in members:
        made.done(state, 100.5, CHECK)
    assert due(made) == 105.5


def test_many_are_spread_over_the_interval() -> None:
    made, _ = schedule(10_000)
    per_second = Counter[int]()
    now = 100.0
    while now < 104.99:
        for state in made.take(now, 10_000, CHECK):
            per_second[int(now)] += 1
            made.done(state, now, CHECK)
        now += 0.02
    assert set(per_second) == {100, 101, 102, 103, 104}
    assert max(per_second.values()) < 2100


def test_who_is_down_is_asked_more_often() -> None:
    made, (state,) = schedule(1)
    made.take(100, 1, CHECK)
    state.health = Health.UNHEALTHY
    made.done(state, 100, CHECK)
    assert due(made) == 101


def test_who_was_taken_out_for_another_reason_is_asked_soon() -> None:
    made, (state,) = schedule(1)
    made.take(100, 1, CHECK)
    made.done(state, 100, CHECK)
    made.hasten(state, 102, CHECK)
    assert due(made) == 103
    made.hasten(state, 102.5, CHECK)
    assert due(made) == 103, "never later"
    made.follow([], CHECK, 103)
    made.hasten(state, 103, CHECK)
    assert made.next_due is None


def test_a_check_is_taken_once_however_many_look() -> None:
    made, members = schedule(4)
    assert made.take(101, 3, CHECK) == members[:3]
    assert made.take(101, 3, CHECK) == members[3:]
    assert made.take(101, 3, CHECK) == []


def test_a_check_that_is_never_done_is_taken_by_somebody_else() -> None:
    made, members = schedule(1)
    made.take(100, 1, CHECK)
    assert made.take(106.9, 1, CHECK) == []
    assert made.take(107, 1, CHECK) == members


def test_backends_come_and_go() -> None:
    made, members = schedule(2)
    made.take(101, 2, CHECK)
    for state in members:
        made.done(state, 101, CHECK)
    (late,) = states(1)
    made.follow([members[1], late], CHECK, 102)
    assert made.take(102, 9, CHECK) == [late]
    made.done(members[0], 102, CHECK)
    assert made.take(106, 9, CHECK) == [members[1]]
    made.follow([], CHECK, 107)
    assert made.next_due is None
    made.done(late, 107, CHECK)
    assert made.next_due is None
    assert repr(made) == "<Schedule of 0 checks>"


def test_a_shorter_interval_is_in_force_at_once() -> None:
    made, (state,) = schedule(1, HealthCheck(interval=3600, jitter=0))
    made.take(100, 1, CHECK)
    made.done(state, 100, HealthCheck(interval=3600, jitter=0))
    made.follow([state], CHECK, 101)
    assert due(made) <= 101 + 5 + 2


def test_nothing_is_left_of_what_was_put_off() -> None:
    made, members = schedule(10)
    for now in range(101, 10_000, 5):
        for state in made.take(now, 10, CHECK):
            made.done(state, now, CHECK)
    assert len(made._heap) <= 40
    assert len(members) == 10
