"""All replicas are gone for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ..arena import Arena, say
from ..bounds import Check, at_least, at_most, none_of
from ..gateway import FALL, INTERVAL
from ..replicas import Replicas
from ..tally import begun, described, problems

#: Seconds until the gateway may be expected to know.
UNTIL_KNOWN = FALL * INTERVAL + 1
#: What belongs to a machine that others use, too.
SLACK = 1.0


async def down(arena: Arena) -> Sequence[Check]:
    """503 with Retry-After meanwhile, service within a check interval after; no retry storm."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    async with arena.load(gateway, newcomers=10) as load:
        await arena.sleep(3)
        say("all are killed")
        began, wall = time.monotonic(), time.time()
        await asyncio.gather(*map(replicas.kill, replicas.names))
        gone = time.monotonic()
        await arena.sleep(10)
        say("all are started")
        ups = await asyncio.gather(*(_start(replicas, name) for name in replicas.names))
        await arena.sleep(5)
    first_up, all_up = min(ups), max(ups)
    meanwhile = begun(load.outcomes, gone, first_up)
    known = begun(meanwhile, gone + UNTIL_KNOWN)
    refused = [each for each in known if each.status == 503 and each.retry_after]
    served = [each.ended for each in begun(load.outcomes, gone) if each.status == 200]
    others = problems(each for each in meanwhile if each.status not in (502, 503, 504))
    late = problems(begun(load.outcomes, all_up + INTERVAL + SLACK))
    requests = gateway.requests(wall, wall + first_up - began)
    attempts = sum(request.attempts for request in requests)
    return [
        at_least(f"requests from {UNTIL_KNOWN:g} s on", 100, len(known)),
        none_of("of these without a 503 with Retry-After", len(known) - len(refused)),
        none_of("anything but 502, 503, 504 before", others.total(), described(others)),
        at_most("attempts per request", 1.2, attempts / max(1, len(requests))),
        at_most(
            "from the first that is up to the first service",
            INTERVAL + SLACK,
            min(served, default=float("inf")) - first_up,
            " s",
        ),
        none_of(f"errors from {INTERVAL + SLACK:g} s on", late.total(), described(late)),
        *arena.broken(load),
    ]


async def _start(replicas: Replicas, name: str) -> float:
    await replicas.start(name)
    return time.monotonic()
