"""What the tests of the policies share; what policies have in common is in `tests/contracts.py`."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from hypothesis import strategies as st

from sticky_asgi.backend import BackendState
from sticky_asgi.balancers import Balancer
from sticky_asgi.request import RequestInfo

from ..contracts import states, visitors

REQUEST = RequestInfo(client="192.0.2.1")
WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=7)

Candidates: TypeAlias = tuple[BackendState, ...]


def picks(balancer: Balancer, candidates: Candidates, count: int) -> str:
    """The ids picked, one letter each, nothing ever being in flight."""
    return "".join(balancer.pick(candidates, REQUEST).id for _ in range(count))


def weighted(weights: list[int]) -> Candidates:
    return states(**{chr(ord("a") + n): weight for n, weight in enumerate(weights)})


def counts(balancer: Balancer, candidates: Candidates, count: int) -> Counter[str]:
    return Counter(balancer.pick(candidates, request).id for request in visitors(count))
