"""ConsistentHash: whose visitors move, and how many each backend has."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.backend import BackendState
from sticky_asgi.balancers import ConsistentHash
from sticky_asgi.hash_keys import header_key
from sticky_asgi.request import RequestInfo

from ..contracts import states, visitors
from .common import REQUEST, Candidates, counts, weighted

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
def test_who_is_no_visitors_home_may_come_and_go(
    weights: list[int], key: bytes, data: st.DataObject
) -> None:
    candidates = weighted(weights)
    balancer = ConsistentHash(lambda request: key)
    home = balancer.pick(candidates, REQUEST)
    assert balancer.pick(candidates, REQUEST) is home
    others = [state for state in candidates if state is not home]
    rest = tuple(data.draw(st.permutations([home, *data.draw(st.sets(st.sampled_from(others)))])))
    assert balancer.pick(rest, REQUEST) is home


def places(data: bytes, person: bytes = b"") -> list[float]:
    digest = blake2b(data, person=person).digest()
    return [int.from_bytes(digest[n : n + 8], "little") / 2**64 for n in range(0, 64, 8)]


def way(key: bytes, state: BackendState) -> float:
    """The least way from one of the key's places back to one of the backend's, by weight."""
    own = places(state.id.encode(), b"1") + places(state.id.encode(), b"2")
    return min((start - place) % 1.0 for start in places(key) for place in own) / state.weight


@given(
    st.lists(st.sampled_from([0.01, 0.5, 1, 1, 1, 7, 300]), min_size=1, max_size=30),
    st.lists(st.binary(min_size=1), min_size=1, max_size=5),
    st.data(),
)
def test_the_shortest_way_wins_whatever_came_before(
    weights: list[float], keys: list[bytes], data: st.DataObject
) -> None:
    everyone = states(**{f"b{n}": weight for n, weight in enumerate(weights)})
    balancer = ConsistentHash(lambda request: request.query_string)
    for key in keys:
        chosen = data.draw(st.sets(st.sampled_from(everyone), min_size=1))
        candidates = tuple(data.draw(st.permutations(sorted(chosen, key=lambda state: state.id))))
        picked = balancer.pick(candidates, RequestInfo(query_string=key))
        assert picked is min(candidates, key=lambda state: way(key, state))


def test_the_shortest_way_may_lead_through_the_end_of_the_circle() -> None:
    for pool in range(20):
        everyone = states(**{f"{pool}-{n}": 1 + n % 2 for n in range(4)})
        balancer = ConsistentHash()
        balancer.pick(everyone, REQUEST)
        some = everyone[2:]
        for visitor in VISITORS[:50]:
            key = str(visitor.client).encode()
            assert balancer.pick(some, visitor) is min(some, key=lambda state: way(key, state))


def test_a_backend_that_returns_as_another_object_has_its_visitors_again() -> None:
    candidates = states(a=1, b=1, c=1)
    balancer = ConsistentHash()
    before = [balancer.pick(candidates, visitor).id for visitor in VISITORS[:50]]
    balancer.pick(candidates[:2], VISITORS[0])
    after = [balancer.pick((*candidates[:2], *states(c=1)), v).id for v in VISITORS[:50]]
    assert before == after


def test_many_backends_have_even_shares() -> None:
    """The spread of the shares beyond what chance alone would give so few visitors."""
    backends = states(**{f"shop-{n}": 1 for n in range(100)})
    counted = counts(ConsistentHash(), backends, 40_000)
    spread = statistics.pstdev(counted[state.id] / 400 for state in backends)
    assert math.sqrt(max(0, spread**2 - 1 / 400)) < 0.08


@pytest.mark.parametrize("heavy", [pytest.param(2, id="twice"), pytest.param(20, id="much")])
def test_many_backends_share_by_weight(heavy: int) -> None:
    backends = states(**{f"shop-{n}": (heavy if n % 4 == 0 else 1) for n in range(100)})
    counted = counts(ConsistentHash(), backends, 20_000)
    share = sum(counted[state.id] for state in backends[::4]) / 20_000
    assert share == pytest.approx(heavy / (heavy + 3), rel=0.04)


def test_a_request_that_excludes_some_uses_the_circle_there_is() -> None:
    everyone = states(**{f"b{n}": 1 for n in range(40)})
    balancer = ConsistentHash()
    balancer.pick(everyone, REQUEST)
    circle = balancer._circle
    known = circle._places
    length = len(known)
    for rest in (everyone[1:], everyone[20:], everyone[:10], everyone):
        assert balancer.pick(rest, REQUEST) in rest
        assert circle._places is known
        assert len(known) == length


def test_the_circle_can_be_made_before_the_first_key() -> None:
    everyone = states(**{f"b{n}": 1 for n in range(40)})
    prepared, other = ConsistentHash(), ConsistentHash()
    prepared.prepare(everyone)
    circle = prepared._circle
    known, length = circle._places, len(circle._places)
    assert prepared.pick(everyone, REQUEST) is other.pick(everyone, REQUEST)
    assert circle._places is known
    assert len(known) == length > 0


def test_those_who_are_gone_for_good_are_forgotten() -> None:
    balancer = ConsistentHash()
    for generation in range(30):
        backends = states(**{f"{generation}-{n}": 1 for n in range(10)})
        assert balancer.pick(backends, REQUEST) in backends
        circle = balancer._circle
        assert len(circle._placed) <= 5 * 10
        assert len(circle._places) == len(circle._owners) == 16 * len(circle._placed)


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
    assert "".join(homes(states(a=1, b=2, c=1))[:32]) == "aabbcbbbbbaacaabcbabcbccabbacbab"


def test_hash_without_key_is_random_by_weight() -> None:
    balancer = ConsistentHash(header_key("x-user"), rng=random.Random(6))
    counted = counts(balancer, states(a=3, b=1), 4000)
    assert counted["a"] == pytest.approx(3000, rel=0.05)
