"""Smooth weighted round robin, compared with nginx's."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.backend import Backend
from sticky_asgi.balancers import RoundRobin

from ..contracts import states
from .common import REQUEST, WEIGHTS, picks, weighted


def test_round_robin_is_as_smooth_as_nginx() -> None:
    assert picks(RoundRobin(), states(a=5, b=1, c=1), 14) == "aabacaa" * 2


def nginx(weights: list[int], count: int) -> list[int]:
    """`ngx_http_upstream_get_peer`, line by line."""
    current = [0] * len(weights)
    chosen = []
    for _ in range(count):
        best = -1
        for index, weight in enumerate(weights):
            current[index] += weight
            if best < 0 or current[index] > current[best]:
                best = index
        current[best] -= sum(weights)
        chosen.append(best)
    return chosen


@given(WEIGHTS)
def test_round_robin_picks_what_nginx_picks(weights: list[int]) -> None:
    balancer, candidates = RoundRobin(), weighted(weights)
    count = 2 * sum(weights) + 3
    picked = [candidates.index(balancer.pick(candidates, REQUEST)) for _ in range(count)]
    assert picked == nginx(weights, count)


@given(WEIGHTS, st.integers(1, 3), st.integers(0, 20))
def test_round_robin_is_exact_over_any_whole_cycles(
    weights: list[int], cycles: int, skipped: int
) -> None:
    balancer, candidates = RoundRobin(), weighted(weights)
    picks(balancer, candidates, skipped)
    counted = Counter(picks(balancer, candidates, cycles * sum(weights)))
    assert counted == {state.id: cycles * state.weight for state in candidates}


@given(WEIGHTS, st.data())
def test_round_robin_stays_exact_when_the_tuple_changes(
    weights: list[int], data: st.DataObject
) -> None:
    """The same backends in another tuple, and in another order, go on where they were."""
    balancer, candidates = RoundRobin(), weighted(weights)
    counted: Counter[str] = Counter()
    for _ in range(3 * sum(weights)):
        counted[balancer.pick(candidates, REQUEST).id] += 1
        if data.draw(st.booleans()):
            candidates = tuple(data.draw(st.permutations(candidates)))
    for state in candidates:
        assert abs(counted[state.id] - 3 * state.weight) <= 1


def test_a_change_of_candidates_does_not_favour_the_first() -> None:
    balancer = RoundRobin()
    everyone = a, b, c, d = states(a=1, b=1, c=1, d=1)
    assert balancer.pick(everyone, REQUEST) is a
    assert balancer.pick((a, b, c), REQUEST) is b
    assert balancer.pick((a, b, c, d), REQUEST) is c
    assert balancer.pick((a, b, d), REQUEST) is d
    assert balancer.pick(everyone, REQUEST) is not d


def test_a_change_of_every_weight_leaves_no_debt_behind() -> None:
    """Heavy weights leave sums in the thousands; the next weights are small."""
    balancer = RoundRobin()
    a, b = candidates = states(a=1000, b=1000)
    assert picks(balancer, candidates, 1) == "a"
    for state in (a, b):
        state.use(Backend(f"http://{state.id}.test", id=state.id, weight=1))
    assert picks(balancer, (a, b), 5) == "babab"


def test_a_new_backend_gets_its_share_and_no_more() -> None:
    balancer = RoundRobin()
    old = states(a=1, b=1)
    picks(balancer, old, 1001)
    counted = Counter(picks(balancer, (*old, *states(c=1)), 30))
    assert max(counted.values()) - min(counted.values()) <= 1


def test_a_retry_leaves_the_others_turns_alone() -> None:
    balancer = RoundRobin()
    everyone = a, b, c = states(a=1, b=1, c=1)
    counted: Counter[str] = Counter()
    for _ in range(300):
        state = balancer.pick(everyone, REQUEST)
        if state is a:  # it fails each time
            state = balancer.pick((b, c), REQUEST)
        counted[state.id] += 1
    assert abs(counted["b"] - counted["c"]) <= 2


def test_fractional_weights() -> None:
    counted = Counter(picks(RoundRobin(), states(a=0.5, b=0.25, c=0.25), 400))
    assert counted == {"a": 200, "b": 100, "c": 100}


@pytest.mark.parametrize("burst", [pytest.param(1, id="one"), pytest.param(1000, id="many")])
def test_a_burst_of_pinned_requests_counts_as_one_turn(burst: int) -> None:
    balancer = RoundRobin()
    candidates = a, _, _ = states(a=1, b=1, c=1)
    for _ in range(burst):
        a.charged = True
    assert picks(balancer, candidates, 6) == "bcabca"
    assert not a.charged


def test_a_charged_turn_is_paid_by_weight() -> None:
    balancer = RoundRobin()
    candidates = a, _, _ = states(a=5, b=1, c=1)
    a.charged = True
    assert picks(balancer, candidates, 6) == "abacaa"


def test_everyone_charged_still_picks() -> None:
    candidates = states(a=1, b=1)
    for state in candidates:
        state.charged = True
    assert picks(RoundRobin(), candidates, 4) == "abab"


@given(WEIGHTS)
def test_pinned_traffic_everywhere_keeps_the_weights(weights: list[int]) -> None:
    """Every backend serves pinned visitors all the time: light ones get new visitors too."""
    balancer, candidates = RoundRobin(), weighted(weights)
    counted: Counter[str] = Counter()
    for _ in range(4 * sum(weights)):
        for state in candidates:
            state.charged = True
        counted[balancer.pick(candidates, REQUEST).id] += 1
    for state in candidates:
        assert abs(counted[state.id] - 4 * state.weight) <= 2


def test_a_steady_pinned_stream_costs_every_other_turn_at_most() -> None:
    balancer = RoundRobin()
    candidates = a, _ = states(a=1, b=1)
    counted: Counter[str] = Counter()
    for _ in range(300):
        a.charged = True
        counted[balancer.pick(candidates, REQUEST).id] += 1
    assert counted == {"a": 100, "b": 200}


@pytest.mark.parametrize("often", [1, 2, 3, 10])
def test_who_is_no_candidate_now_and_then_loses_no_two_turns_in_a_row(often: int) -> None:
    """It is full, or excluded by a request that has tried it: its excuse outlasts that."""
    balancer = RoundRobin()
    everyone = a, *others = states(a=1, b=1, c=1, d=1, e=1, f=1)
    counted: Counter[str] = Counter()
    for number in range(660):
        a.charged = True
        counted[balancer.pick(everyone, REQUEST).id] += 1
        if number % often == 0:
            balancer.pick(tuple(others), REQUEST)
    assert abs(counted["a"] - 660 / 11) <= 1, "every other turn, as if there were no retries"


def test_a_pinned_backend_that_was_away_keeps_its_excuse() -> None:
    balancer = RoundRobin()
    a, b = states(a=1, b=1)
    a.charged = True
    assert picks(balancer, (a, b), 1) == "b"
    assert picks(balancer, (b,), 2) == "bb"
    a.charged = True
    assert picks(balancer, (a, b), 1) == "a"
