"""What a large pool costs: 10,000 backends beside 2, for visitors who stay and for new ones.

The backends have ids of their own and share the ports of the origin, but not their connections:
the gateway keeps some for each id, as it would for 10,000 machines. They are opened before
anything is measured, and kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from sticky_asgi import RequestInfo

from .payloads import SMALL
from .peers import gateway
from .pools import POLICIES, make_pool
from .processes import on_core
from .progress import say
from .results import Rounds, Series, side_by_side
from .runner import Bench, Running, order
from .subjects import SUBJECTS
from .visitors import Visitor

_SIZES = {"2 backends": 2, "10,000 backends": 10_000}
_CONNECTIONS = 64
#: More visitors than connections, so that a large pool is used in its breadth.
_STICKY_VISITORS = 1_000
#: New visitors know no backend, but `consistent_hash` can tell them apart.
_NEW_VISITORS = [Visitor(f"user={number}") for number in range(1_000)]
#: A policy that picks at random has met 95 % of the backends after so many requests for each.
_WARM_REQUESTS = 3
_PICK_SECONDS = 0.3


@contextlib.contextmanager
def _gateways(bench: Bench, policy: str, visitors: int) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                bench.running(
                    replace(SUBJECTS["gateway"], launch=partial(gateway, size=size, policy=policy)),
                    name=name,
                    visitors=visitors,
                )
            )
            for name, size in _SIZES.items()
        ]


def _measure(bench: Bench, policy: str, *, sticky: bool) -> Rounds:
    name = "sticky" if sticky else policy
    visitors = None if sticky else _NEW_VISITORS
    rounds = []

    def load(running: Running, seconds: int) -> tuple[int, float]:
        usage = running.load(SMALL, connections=_CONNECTIONS, seconds=seconds, visitors=visitors)
        return usage.answers, usage.microseconds

    with _gateways(bench, policy, _STICKY_VISITORS if sticky else 0) as gateways:
        for running in gateways:
            answers = 0
            while answers < _WARM_REQUESTS * _SIZES[running.name]:
                answers += load(running, seconds=2)[0]
        for turn in range(bench.rounds):
            values = {}
            for running in order(gateways, turn):
                _, microseconds = load(running, bench.seconds)
                values[f"{name}, {running.name}"] = microseconds
                say(f"{name} {turn + 1}/{bench.rounds} {running.name}", microseconds, "µs of CPU")
            rounds.append({f"{name}, {size}": values[f"{name}, {size}"] for size in _SIZES})
    return rounds


def _measure_picks(bench: Bench, policy: str) -> Rounds:
    """The cost of `pool.pick` alone, in this process."""
    requests = [RequestInfo(headers=[(b"cookie", v.cookie.encode())]) for v in _NEW_VISITORS]
    urls = [origin.url for origin in bench.origins]
    pools = {name: make_pool(urls, size=size, policy=policy) for name, size in _SIZES.items()}
    rounds = []
    with on_core(bench.cores.subject):
        for _ in range(bench.rounds):
            values = {}
            for name, pool in pools.items():
                picks, used, began = 0, 0.0, time.process_time()
                while used < _PICK_SECONDS:
                    pool.pick(requests[picks % len(requests)])
                    picks += 1
                    used = time.process_time() - began
                values[f"{policy}, {name}"] = used / picks * 1e6
            rounds.append(values)
    return rounds


def backends(bench: Bench) -> list[Series]:
    """Measure gateways with few and with many backends."""
    requests = [_measure(bench, "round_robin", sticky=True)]
    requests += [_measure(bench, policy, sticky=False) for policy in POLICIES]
    picks = [_measure_picks(bench, policy) for policy in POLICIES]
    return [
        Series("backends", "requests of 100 B by backends", "µs of CPU", side_by_side(requests)),
        Series("picks", "`pool.pick` alone", "µs of CPU", side_by_side(picks)),
    ]
