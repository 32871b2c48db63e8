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
from sticky_asgi.hash_keys import header_key

from ..contracts import check_balancer


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
