"""The policies one by one; what they have in common is in `contracts.py`."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.backend import Backend, BackendState
from sticky_asgi.balancers import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Random,
    RoundRobin,
    TwoChoices,
)
from sticky_asgi.hash_keys import HashKey, client_key, cookie_key, header_key, path_key, query_key
from sticky_asgi.request import RequestInfo

from .contracts import check_balancer, states, visitors

REQUEST = RequestInfo(client="192.0.2.1")
WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=7)

Candidates = tuple[BackendState, ...]


def picks(balancer: Balancer, candidates: Candidates, count: int) -> str:
    """The ids picked, one letter each, nothing ever being in flight."""
    return "".join(balancer.pick(candidates, REQUEST).id for _ in range(count))


def weighted(weights: list[int]) -> Candidates:
    return states(**{chr(ord("a") + n): weight for n, weight in enumerate(weights)})


def counts(balancer: Balancer, candidates: Candidates, count: int) -> Counter[str]:
    return Counter(balancer.pick(candidates, request).id for request in visitors(count))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(RoundRobin, id="round-robin"),
        pytest.param(lambda: Random(rng=random.Random(1)), id="random"),
        pytest.param(LeastRequests, id="least-requests"),
        pytest.param(lambda: TwoChoices(rng=random.Random(2)), id="two-choices"),
        pytest.param(LeastTime, id="least-time"),
        pytest.param(ConsistentHash, id="consistent-hash"),
        pytest.param(
            lambda: ConsistentHash(header_key("x-user"), rng=random.Random(3)),
            id="consistent-hash-without-key",
        ),
    ],
)
def test_contract(make: Callable[[], Balancer]) -> None:
    check_balancer(make)


@pytest.mark.parametrize(
    ("balancer", "expected"),
    [
        pytest.param(RoundRobin(), "RoundRobin()", id="round-robin"),
        pytest.param(Random(), "Random()", id="random"),
        pytest.param(LeastRequests(), "LeastRequests()", id="least-requests"),
        pytest.param(TwoChoices(), "TwoChoices()", id="two-choices"),
        pytest.param(LeastTime(), "LeastTime()", id="least-time"),
        pytest.param(ConsistentHash(), "ConsistentHash(key=client_key())", id="hash"),
        pytest.param(
            ConsistentHash(header_key("X-User")),
            "ConsistentHash(key=header_key('X-User'))",
            id="hash-by-header",
        ),
    ],
)
def test_repr(balancer: Balancer, expected: str) -> None:
    assert repr(balancer) == expected


# --- RoundRobin ---------------------------------------------------------------------------------


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
        state.backend = Backend(f"http://{state.id}.test", id=state.id, weight=1)
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


def test_a_pinned_backend_that_left_is_forgotten() -> None:
    balancer = RoundRobin()
    a, b = states(a=1, b=1)
    a.charged = True
    assert picks(balancer, (a, b), 1) == "b"
    assert picks(balancer, (b,), 2) == "bb"
    a.charged = True
    assert "a" in picks(balancer, (a, b), 3)


# --- Random and TwoChoices ----------------------------------------------------------------------


def test_random_follows_the_weights() -> None:
    counted = counts(Random(rng=random.Random(7)), states(a=5, b=1, c=2), 8000)
    assert counted["a"] == pytest.approx(5000, rel=0.05)
    assert counted["b"] == pytest.approx(1000, rel=0.1)
    assert counted["c"] == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("policy", [Random, TwoChoices])
def test_the_same_seed_picks_the_same(policy: Callable[..., Balancer]) -> None:
    candidates = states(a=1, b=2, c=3)
    one = picks(policy(rng=random.Random(9)), candidates, 50)
    other = picks(policy(rng=random.Random(9)), candidates, 50)
    assert one == other


def test_two_choices_avoids_the_busiest_wherever_it_is() -> None:
    for busy in range(4):
        candidates = states(a=1, b=1, c=1, d=1)
        candidates[busy].in_flight = 9
        counted = counts(TwoChoices(rng=random.Random(3)), candidates, 400)
        assert candidates[busy].id not in counted
        assert len(counted) == 3


def test_two_choices_of_two_is_the_less_busy() -> None:
    candidates = a, b = states(a=1, b=1_000_000)
    a.in_flight, b.in_flight = 0, 1
    assert picks(TwoChoices(rng=random.Random(4)), candidates, 50) == "a" * 50
    a.in_flight = 1
    assert picks(TwoChoices(rng=random.Random(4)), candidates, 50) == "b" * 50


def test_two_choices_shares_an_idle_pool_by_weight() -> None:
    counted = counts(TwoChoices(rng=random.Random(5)), states(a=3, b=1), 4000)
    assert counted["a"] == pytest.approx(3000, rel=0.05)


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=6), st.integers(0, 2**32))
def test_two_choices_draws_two_different_ones(weights: list[int], seed: int) -> None:
    """Only the idle one wins over all others; so whoever is drawn with it, it is not itself."""
    candidates = weighted(weights)
    for state in candidates:
        state.in_flight = 10**12
    balancer = TwoChoices(rng=random.Random(seed))
    light = min(candidates, key=lambda state: state.weight)
    others = tuple(state for state in candidates if state is not light)
    light.in_flight = 0
    assert balancer.pick((light, others[0]), REQUEST) is light
    assert balancer.pick((others[0], light), REQUEST) is light
    assert balancer.pick(candidates, REQUEST) in candidates


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("Random()", id="random"),
        pytest.param("TwoChoices()", id="two-choices"),
        pytest.param("ConsistentHash(header_key('x-user'))", id="hash-without-key"),
    ],
)
def test_forked_workers_pick_differently(policy: str) -> None:
    code = (
        "import os; from tests.contracts import *; from sticky_asgi import *\n"
        f"c = states(a=1, b=1, c=1, d=1); balancer = {policy}\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
        "line = ''.join(balancer.pick(c, RequestInfo()).id for _ in range(100)) + '\\n'\n"
        "os.write(1, line.encode())\n"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(path or "." for path in sys.path)},
    ).stdout.split()  # fmt: skip
    assert [len(line) for line in lines] == [100, 100]
    assert lines[0] != lines[1]


@pytest.mark.parametrize("policy", [Random, TwoChoices, ConsistentHash])
def test_a_source_of_randomness_is_asked_for_numbers(policy: Callable[..., Balancer]) -> None:
    with pytest.raises(TypeError, match=r"^rng must be an object with random\(\), got 5$"):
        policy(rng=5)


class Draws(random.Random):
    """A source of randomness that says what it is told to."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self._values = list(values)

    def random(self) -> float:
        return self._values.pop(0)


@pytest.mark.parametrize("first", [0.0, 0.3, 0.6, 1 - 2**-53])
@pytest.mark.parametrize("second", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param([1, 1, 1], id="equal"),
        pytest.param([1e-9, 1, 1e9], id="rising"),
        pytest.param([1e16, 1, 1e-3], id="falling"),
        pytest.param([1, 1e17], id="two"),
    ],
)
def test_two_choices_at_the_edges(weights: list[float], first: float, second: float) -> None:
    """The first draw is the busiest; a second one that repeated it would let it win."""
    candidates = states(**{f"b{n}": weight for n, weight in enumerate(weights)})
    drawn = Random(rng=Draws(first)).pick(candidates, REQUEST)
    drawn.in_flight = 1
    assert TwoChoices(rng=Draws(first, second)).pick(candidates, REQUEST) is not drawn


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


# --- ConsistentHash -----------------------------------------------------------------------------

VISITORS = list(visitors(2000))


def homes(candidates: Candidates) -> list[str]:
    balancer = ConsistentHash()
    return [balancer.pick(candidates, visitor).id for visitor in VISITORS]


def test_hash_follows_the_weights() -> None:
    counted = Counter(homes(states(a=1, b=2, c=5)))
    assert counted["a"] == pytest.approx(250, rel=0.2)
    assert counted["b"] == pytest.approx(500, rel=0.15)
    assert counted["c"] == pytest.approx(1250, rel=0.1)


def test_hash_does_not_depend_on_order() -> None:
    candidates = states(a=1, b=2, c=3)
    assert homes(candidates) == homes(candidates[::-1])


@pytest.mark.parametrize("leaving", range(4))
def test_hash_moves_only_the_visitors_of_the_one_that_leaves(leaving: int) -> None:
    candidates = states(a=1, b=2, c=3, d=1)
    rest = tuple(state for n, state in enumerate(candidates) if n != leaving)
    for before, after in zip(homes(candidates), homes(rest), strict=True):
        assert before == after or before == candidates[leaving].id


def test_hash_moves_visitors_only_to_the_one_that_grows() -> None:
    before, after = homes(states(a=1, b=1, c=1)), homes(states(a=1, b=1, c=2))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"c"}
    assert len(moved) == pytest.approx(2000 * (1 / 2 - 1 / 3), rel=0.2)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.binary(min_size=1), st.data())
def test_rendezvous(weights: list[int], key: bytes, data: st.DataObject) -> None:
    candidates = weighted(weights)
    balancer = ConsistentHash(lambda request: key)
    home = balancer.pick(candidates, REQUEST)
    assert balancer.pick(candidates, REQUEST) is home
    others = [state for state in candidates if state is not home]
    rest = tuple(data.draw(st.permutations([home, *data.draw(st.sets(st.sampled_from(others)))])))
    assert balancer.pick(rest, REQUEST) is home


def test_hash_is_the_same_in_another_process() -> None:
    """Python's own hashes are salted per process; these are not."""
    code = (
        "from tests.contracts import *; from sticky_asgi.balancers import ConsistentHash\n"
        "c = states(a=1, b=2, c=1); h = ConsistentHash()\n"
        "print(''.join(h.pick(c, v).id for v in visitors(60)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(path or "." for path in sys.path)},
    ).stdout.strip()  # fmt: skip
    assert out == "".join(homes(states(a=1, b=2, c=1))[:60])


def test_hash_stays_as_it_was_released() -> None:
    """To change the function moves every visitor of every user."""
    assert "".join(homes(states(a=1, b=2, c=1))[:32]) == "bbcbbbbcccabbcbabcbccacccbbbbcba"


def test_hash_without_key_is_random_by_weight() -> None:
    balancer = ConsistentHash(header_key("x-user"), rng=random.Random(6))
    counted = counts(balancer, states(a=3, b=1), 4000)
    assert counted["a"] == pytest.approx(3000, rel=0.05)


def info(
    *headers: tuple[bytes, bytes], query: bytes = b"", path: str = "/", client: str | None = None
) -> RequestInfo:
    return RequestInfo(headers=list(headers), query_string=query, path=path, client=client)


@pytest.mark.parametrize(
    ("key", "request_info", "expected"),
    [
        pytest.param(client_key(), info(client="2001:db8::1"), b"2001:db8::1", id="client"),
        pytest.param(client_key(), info(), None, id="client-unknown"),
        pytest.param(header_key("X-User"), info((b"x-user", b"ann")), b"ann", id="header"),
        pytest.param(header_key("x-user"), info(), None, id="header-absent"),
        pytest.param(header_key("x-user"), info((b"x-user", b"")), None, id="header-empty"),
        pytest.param(
            header_key("x-user"),
            info((b"x-user", b"1"), (b"x-user", b"2")),
            b"1",
            id="header-first",
        ),
        pytest.param(cookie_key("sid"), info((b"cookie", b"a=1; sid=x=y")), b"x=y", id="cookie"),
        pytest.param(cookie_key("sid"), info((b"cookie", b"SID=1")), None, id="cookie-case"),
        pytest.param(cookie_key("sid"), info(), None, id="cookie-absent"),
        pytest.param(query_key("u"), info(query=b"a=1&u=x&u=y"), b"x", id="query-first"),
        pytest.param(query_key("u"), info(query=b"u=%C3%A9+%2B%26"), "é +&".encode(), id="query"),
        pytest.param(query_key("a b"), info(query=b"a%20b=1"), b"1", id="query-name"),
        pytest.param(query_key("é"), info(query=b"%C3%A9=1"), b"1", id="query-name-utf8"),
        pytest.param(query_key("u"), info(query=b"u=\xff%zz"), b"\xff%zz", id="query-odd"),
        pytest.param(query_key("u"), info(query=b"uu=1&u"), None, id="query-no-value"),
        pytest.param(query_key("u"), info(), None, id="query-absent"),
        pytest.param(path_key(), info(path="/ä"), "/ä".encode(), id="path"),
        pytest.param(path_key(), info(path="/\udc80"), b"/\xed\xb2\x80", id="path-surrogate"),
    ],
)
def test_keys(key: HashKey, request_info: RequestInfo, expected: bytes | None) -> None:
    assert key(request_info) == expected


def test_keys_are_values() -> None:
    assert header_key("x-user") == header_key("x-user")
    assert header_key("x-user") != cookie_key("x-user")
    assert len({client_key(), client_key(), path_key(), query_key("q")}) == 3
    with pytest.raises(AttributeError):
        path_key().label = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: header_key(""), r"header_key: name .* got ''", id="header-empty"),
        pytest.param(lambda: header_key("x user"), r"got 'x user'", id="header-space"),
        pytest.param(lambda: header_key("x-üser"), r"got 'x-üser'", id="header-not-ascii"),
        pytest.param(lambda: header_key(b"x"), r"got b'x'", id="header-bytes"),  # type: ignore[arg-type]
        pytest.param(lambda: cookie_key("a=b"), r"cookie_key: name .* got 'a=b'", id="cookie"),
        pytest.param(lambda: query_key(""), r"query_key: name .* got ''", id="query"),
        pytest.param(
            lambda: ConsistentHash(header_key),  # type: ignore[arg-type]
            r"^key must be what header_key returns; did you mean header_key\(\.\.\.\)\?$",
            id="not-called",
        ),
        pytest.param(lambda: ConsistentHash("x-user"), r"key .* got 'x-user'", id="not-callable"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
