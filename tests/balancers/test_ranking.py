"""Keeping backends sorted while their figures change: how much is looked at."""

from __future__ import annotations

from sticky_asgi.backend import BackendState
from sticky_asgi.balancers.ranking import Ranking

from ..contracts import states
from .common import Candidates


class Counted:
    """The requests in flight as a figure, and how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, state: BackendState) -> tuple[float]:
        self.asked += 1
        return (state.in_flight,)


def many(count: int) -> Candidates:
    return states(**{f"b{n}": 1 for n in range(count)})


def test_a_tuple_that_comes_again_is_looked_through_once_more_and_no_longer() -> None:
    figure, candidates = Counted(), many(1000)
    ranking = Ranking(figure)
    asked = []
    for _ in range(4):
        (state,) = ranking.first(candidates)
        state.in_flight += 1
        asked.append(figure.asked)
    assert asked[0] == 1000
    assert asked[3] <= 2000 + 10


def test_a_change_of_one_costs_a_few_looks() -> None:
    figure, candidates = Counted(), many(1000)
    ranking = Ranking(figure)
    busy = []
    for _ in range(3000):
        (state,) = ranking.first(candidates)
        state.in_flight += 1
        busy.append(state)
    begun = figure.asked
    for state in busy[:1000]:
        state.finish_request()
        (again,) = ranking.first(candidates)
        again.in_flight += 1
        assert again is state
    assert figure.asked - begun < 10 * 1000


def test_what_was_sorted_is_kept_while_others_come_once() -> None:
    figure, candidates = Counted(), many(1000)
    ranking = Ranking(figure)
    for _ in range(2):
        ranking.first(candidates)
    ranking.first(candidates[1:])
    begun = figure.asked
    candidates[500].in_flight = -1
    candidates[500].finish_request()
    assert ranking.first(candidates) == [candidates[500]]
    assert figure.asked - begun < 10


def test_a_list_is_looked_through_each_time() -> None:
    candidates = list(many(20))
    ranking = Ranking(Counted())
    for _ in range(5):
        (state,) = ranking.first(candidates)
        state.in_flight += 1
    candidates[7].in_flight = -1  # and nobody notes it
    assert ranking.first(candidates) == [candidates[7]]


def test_what_is_void_does_not_pile_up() -> None:
    """Pinned visitors come and go at one backend, while another stays the first."""
    candidates = first, *others = many(20)
    ranking = Ranking(Counted())
    for state in others:
        state.in_flight = 1
    for _ in range(1000):
        for state in others:
            state.in_flight = 5
        first.in_flight = 10
        ranking.first(candidates)
        for state in others:
            for _ in range(4):
                state.finish_request()
                first.in_flight = 0
                first.finish_request()
                ranking.first(candidates)
    assert len(ranking._standings[0]._heap) <= 2 * len(candidates) + 8


def test_who_is_noted_while_another_is_looked_at_is_looked_at_too() -> None:
    """By another thread: its requests end when they do."""
    candidates = many(20)
    looked_at, meanwhile = candidates[3], candidates[7]
    for state in candidates:
        state.in_flight = 5

    def figure(state: BackendState) -> tuple[float]:
        if state is looked_at and state.in_flight == 4:
            while meanwhile.in_flight:
                meanwhile.finish_request()
        return (state.in_flight,)

    ranking = Ranking(figure)
    for _ in range(2):
        ranking.first(candidates)
    looked_at.finish_request()
    assert ranking.first(candidates) == [meanwhile]
