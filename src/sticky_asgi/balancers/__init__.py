"""Which backend a new visitor gets: the `Balancer` protocol and the built-in policies.

A balancer chooses among candidates the pool has already narrowed (see `pool.py`). It never looks at
health, intent or capacity again, never waits, and knows nothing of connections. All it changes is
its own memory and what `BackendState` keeps for balancers.

    policy            compares                                cost of a pick
    RoundRobin        turns owed                              a step in a heap, per distinct weight
    Random            nothing                                 a bisection
    LeastRequests     in flight / weight                      a few steps in a heap
    TwoChoices        in flight / weight, of two              two bisections
    LeastTime         latency * (in flight + 1) / weight      a few steps in three heaps
    ConsistentHash    distance of key and id, by weight       eight bisections

Candidates that have changed are looked through once or twice, by all of them but `Random` and
`TwoChoices`, who only add up the weights.
"""

from __future__ import annotations

from .chance import Random, TwoChoices
from .consistent_hash import ConsistentHash
from .least import LeastRequests, LeastTime
from .protocol import Balancer
from .round_robin import RoundRobin

__all__ = [
    "Balancer",
    "ConsistentHash",
    "LeastRequests",
    "LeastTime",
    "Random",
    "RoundRobin",
    "TwoChoices",
]
