"""Random and TwoChoices."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.balancers import Balancer, ConsistentHash, Random, TwoChoices

from ..contracts import states
from .common import REQUEST, counts, picks, weighted


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
