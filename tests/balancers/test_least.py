"""LeastRequests and LeastTime: who is picked, and that keeping them sorted changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.backend import Backend, BackendState
from sticky_asgi.balancers import Balancer, LeastRequests, LeastTime
from sticky_asgi.pool import Pool

from ..contracts import states
from .common import REQUEST, Candidates, picks

# --- Both ---------------------------------------------------------------------------------------


class Turns:
    """A policy as its docstring has it: everyone is compared, equals take turns."""

    def __init__(self) -> None:
        self.picked: list[BackendState] = []

    def last_turn(self, state: BackendState) -> int:
        last = [turn for turn, picked in enumerate(self.picked) if picked is state]
        return last[-1] if last else -1

    def pick(self, candidates: Candidates) -> BackendState:
        state = min(candidates, key=lambda s: (*self.cost(s, candidates), self.last_turn(s)))
        self.picked.append(state)
        return state

    def cost(self, state: BackendState, candidates: Candidates) -> tuple[float, ...]:
        raise NotImplementedError


class NaiveRequests(Turns):
    def cost(self, state: BackendState, candidates: Candidates) -> tuple[float, ...]:
        return (state.in_flight / state.weight,)


class NaiveTime(Turns):
    def cost(self, state: BackendState, candidates: Candidates) -> tuple[float, ...]:
        if state.latency is not None and not state.failures:
            return (state.latency * (state.in_flight + 1) / state.weight, state.in_flight, 0)
        burden = state.in_flight + state.failures
        if burden == 0:
            return (-math.inf, 0, 0)
        slowest = max(other.latency or 0 for other in candidates) or 1.0
        return (slowest * ((burden + 1) / state.weight), burden, 1)


class NeverProbing(LeastTime):
    __slots__ = ()

    PROBE_EVERY = 10**9


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["pick", "pick", "pick", "finish", "finish", "pinned", "answer", "fail", "set"]
        ),
        st.integers(0, 10**6),
    ),
    max_size=120,
)


@given(st.lists(st.sampled_from([1, 1, 2, 0.5]), min_size=1, max_size=16), STEPS)
@pytest.mark.parametrize(
    ("make", "make_naive"),
    [
        pytest.param(LeastRequests, NaiveRequests, id="requests"),
        pytest.param(NeverProbing, NaiveTime, id="time"),
    ],
)
def test_they_are_compared_at_every_pick(
    make: Callable[[], Balancer],
    make_naive: Callable[[], Turns],
    weights: list[float],
    steps: list[tuple[str, int]],
) -> None:
    """Whatever happens between two picks, to candidates and others."""
    everyone = candidates = states(**{f"b{n}": weight for n, weight in enumerate(weights)})
    balancer, naive = make(), make_naive()
    for step, number in steps:
        state = everyone[number % len(everyone)]
        if step == "pick":
            state = naive.pick(candidates)
            assert balancer.pick(candidates, REQUEST) is state
            state.in_flight += 1
        elif step == "finish" and state.in_flight:
            state.finish_request()
        elif step == "pinned":
            state.in_flight += 1
        elif step == "answer":
            state.observe_latency(number % 7 / 10)
        elif step == "fail":
            state.observe_failure()
        elif step == "set":
            bits = number | 1 << number % len(everyone)
            some = tuple(state for n, state in enumerate(everyone) if bits >> n & 1)
            candidates = some if number % 2 else everyone


@pytest.mark.parametrize("policy", [LeastRequests, LeastTime])
def test_in_a_large_pool_who_has_finished_comes_first(policy: Callable[[], Balancer]) -> None:
    backends = [Backend(f"http://b{n}.test", id=f"b{n}") for n in range(30)]
    pool = Pool("shop", backends, balancer=policy())
    leases = []
    for _ in range(60):
        state = pool.pick(REQUEST)
        leases.append(pool.lease(state))
        state.observe_latency(1.0)
    assert {state.in_flight for state in pool.states} == {2}
    leases[41].release()
    leases[17].release()
    picked = [pool.pick(REQUEST) for _ in range(2)]
    assert {state.id for state in picked} == {leases[41].state.id, leases[17].state.id}
    leases[3].release()
    leases[33].release()  # the same backend's second
    assert pool.pick(REQUEST) is leases[3].state


@pytest.mark.parametrize("policy", [LeastRequests, LeastTime])
def test_who_is_no_candidate_any_more_may_finish(policy: Callable[[], Balancer]) -> None:
    everyone = states(**{f"b{n}": 1 for n in range(30)})
    balancer = policy()
    rest = everyone[10:]
    for candidates in (everyone, rest):
        for _ in range(2):
            balancer.pick(candidates, REQUEST)
    everyone[0].in_flight = 1
    everyone[0].finish_request()
    assert balancer.pick(rest, REQUEST) is everyone[12]
    assert balancer.pick(everyone, REQUEST) is everyone[2]


# --- LeastRequests ------------------------------------------------------------------------------


def test_least_requests_compares_by_weight() -> None:
    candidates = a, b, c = states(a=1, b=4, c=2)
    a.in_flight, b.in_flight, c.in_flight = 1, 3, 2
    assert picks(LeastRequests(), candidates, 3) == "bbb"


def test_least_requests_lets_equals_take_turns() -> None:
    candidates = states(a=1, b=1, c=1)
    balancer = LeastRequests()
    assert picks(balancer, candidates, 7) == "abcabca"
    for state in candidates:
        state.in_flight = 2
    assert picks(balancer, candidates, 4) == "bcab"


def test_least_requests_fills_by_weight() -> None:
    candidates = states(a=5, b=1, c=2)
    balancer = LeastRequests()
    for _ in range(80):
        balancer.pick(candidates, REQUEST).in_flight += 1
    assert [state.in_flight for state in candidates] == [50, 10, 20]


def test_turns_go_on_when_the_candidates_change() -> None:
    a, b, c, d = states(a=1, b=1, c=1, d=1)
    balancer = LeastRequests()
    assert picks(balancer, (a, b, c), 2) == "ab"
    assert picks(balancer, (a, b, c, d), 1) == "c"  # one came
    assert picks(balancer, (a, b, d), 1) == "d"  # the one picked last left
    assert picks(balancer, (a, b), 1) == "a"  # and left at the end
    assert picks(balancer, (d, c, a, b), 1) == "b"  # all stand elsewhere


# --- LeastTime ----------------------------------------------------------------------------------


def test_least_time_weighs_latency_and_load() -> None:
    candidates = a, b = states(a=1, b=1)
    a.latency, b.latency = 0.010, 0.035
    balancer = LeastTime()
    picked = ""
    for _ in range(5):
        state = balancer.pick(candidates, REQUEST)
        state.in_flight += 1
        picked += state.id
    assert picked == "aaaba"


def test_least_time_compares_by_weight() -> None:
    candidates = a, b = states(a=1, b=4)
    a.latency, b.latency = 0.010, 0.030
    assert picks(LeastTime(), candidates, 3) == "bbb"


def test_least_time_lets_equals_take_turns() -> None:
    candidates = states(a=1, b=1, c=1)
    for state in candidates:
        state.latency = 0.02
    assert picks(LeastTime(), candidates, 6) == "abcabc"


def test_least_time_breaks_ties_of_no_latency_by_load() -> None:
    candidates = a, b = states(a=1, b=1)
    a.latency = b.latency = 0.0
    a.in_flight = 1
    assert picks(LeastTime(), candidates, 3) == "bbb"


def test_cold_backends_come_first_in_turn() -> None:
    candidates = a, _, _ = states(a=1, b=1, c=1)
    a.latency = 0.001
    assert picks(LeastTime(), candidates, 4) == "bcbc"


def test_a_cold_backend_comes_before_one_that_takes_no_time() -> None:
    candidates = a, _ = states(a=1, b=1)
    a.latency = 0.0
    assert picks(LeastTime(), candidates, 2) == "bb"


def test_a_cold_backend_is_not_flooded() -> None:
    """It does not answer; the visitors after the first go by the slowest of the others."""
    candidates = a, b, cold = states(a=1, b=1, cold=1)
    a.latency, b.latency = 0.010, 0.050
    balancer = LeastTime()
    for _ in range(50):
        balancer.pick(candidates, REQUEST).in_flight += 1
    assert 1 <= cold.in_flight <= b.in_flight + 1
    assert a.in_flight > 3 * cold.in_flight


def test_a_pool_that_is_cold_all_over_is_filled_evenly() -> None:
    candidates = states(a=1, b=1, c=2)
    balancer = LeastTime()
    for _ in range(40):
        balancer.pick(candidates, REQUEST).in_flight += 1
    assert [state.in_flight for state in candidates] == [10, 10, 20]


def test_a_slow_first_answer_is_not_held_against_a_backend_for_ever() -> None:
    candidates = a, b = states(a=1, b=1)
    a.latency, b.latency = 0.02, 5.0
    balancer = LeastTime()
    rounds = 0
    while b.latency > 0.02 and rounds < 10_000:
        state = balancer.pick(candidates, REQUEST)
        state.observe_latency(0.02 if state is a else 0.01)
        rounds += 1
    assert picks(balancer, candidates, 10).count("b") >= 9


def test_a_backend_that_hangs_is_not_probed_again() -> None:
    candidates = a, b = states(a=1, b=1)
    a.latency, b.latency = 0.02, 5.0
    b.in_flight = 1
    assert picks(LeastTime(), candidates, 1000) == "a" * 1000


@pytest.mark.parametrize(
    "latency",
    [pytest.param(None, id="dead-from-the-start"), pytest.param(0.001, id="was-the-fastest")],
)
def test_a_dead_backend_is_seldom_tried(latency: float | None) -> None:
    candidates = _, dead, _ = states(a=1, b=1, c=1)
    for state in candidates:
        state.latency = latency
    balancer = LeastTime()
    tried = 0
    for _ in range(300):
        state = balancer.pick(candidates, REQUEST)
        if state is dead:
            tried += 1
            state.observe_failure()
        else:
            state.observe_latency(0.02)
    # First, perhaps when the others turn out to be slower, and when it is probed.
    assert 1 <= tried <= 5


def test_a_dead_backend_does_not_attract_visitors_by_being_idle() -> None:
    candidates = a, dead, c = states(a=1, b=1, c=1)
    a.in_flight = c.in_flight = 5
    a.latency = c.latency = 0.02
    balancer = LeastTime()
    tried = 0
    for _ in range(300):
        if balancer.pick(candidates, REQUEST) is dead:
            tried += 1
            dead.observe_failure()
    assert 1 <= tried <= 10


def test_a_backend_that_is_back_gets_visitors_again() -> None:
    candidates = a, b = states(a=1, b=1)
    a.latency = 0.02
    b.failures = 1000
    balancer = LeastTime()
    picked = ""
    for _ in range(400):
        state = balancer.pick(candidates, REQUEST)
        state.observe_latency(0.02)
        picked += state.id
    assert b.failures == 0
    assert picked[-100:].count("b") >= 45


def test_a_pool_that_is_dead_all_over_is_tried_in_turn() -> None:
    candidates = states(a=1, b=1, c=1)
    balancer = LeastTime()
    for _ in range(30):
        balancer.pick(candidates, REQUEST).observe_failure()
    assert [state.failures for state in candidates] == [10, 10, 10]
