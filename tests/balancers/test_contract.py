"""What every policy holds to."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sticky_asgi.balancers import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Random,
    RoundRobin,
    TwoChoices,
)
from sticky_asgi.hash_keys import header_key, path_key
from sticky_asgi.request import RequestInfo

from ..contracts import check_balancer, states
from .common import REQUEST


def own_key(request: RequestInfo) -> bytes:
    return b"key"


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


RNG = random.Random(4)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(RoundRobin, id="round-robin"),
        pytest.param(Random, id="random"),
        pytest.param(lambda: Random(rng=RNG), id="random-seeded"),
        pytest.param(LeastRequests, id="least-requests"),
        pytest.param(TwoChoices, id="two-choices"),
        pytest.param(LeastTime, id="least-time"),
        pytest.param(ConsistentHash, id="hash"),
        pytest.param(lambda: ConsistentHash(header_key("x-user"), rng=RNG), id="hash-by-header"),
        pytest.param(lambda: ConsistentHash(own_key), id="hash-by-own-key"),
    ],
)
def test_the_same_options_make_equals(make: Callable[[], Balancer]) -> None:
    one, other = make(), make()
    one.pick(states(a=1, b=2), REQUEST)
    assert one == other
    assert hash(one) == hash(other)


class Own(ConsistentHash):
    """Has options of its own, for all that is known."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(RoundRobin(), LeastRequests(), id="types"),
        pytest.param(Random(), TwoChoices(), id="types-of-the-same-options"),
        pytest.param(Random(), Random(rng=RNG), id="a-rng"),
        pytest.param(TwoChoices(rng=random.Random(4)), TwoChoices(rng=RNG), id="rngs-alike"),
        pytest.param(ConsistentHash(), ConsistentHash(path_key()), id="keys"),
        pytest.param(
            ConsistentHash(header_key("a")), ConsistentHash(header_key("b")), id="headers"
        ),
        pytest.param(ConsistentHash(), ConsistentHash(rng=RNG), id="a-rng-of-a-hash"),
        pytest.param(Own(), Own(), id="subclass"),
        pytest.param(Own(), ConsistentHash(), id="subclass-and-class"),
        pytest.param(RoundRobin(), "round_robin", id="no-balancer"),
    ],
)
def test_other_options_make_others(one: object, other: object) -> None:
    assert one == one
    assert one != other
    assert other != one


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
