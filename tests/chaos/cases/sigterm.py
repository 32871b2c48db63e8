"""The gateway is told to end while requests are under way."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

from ..arena import Arena, say
from ..bounds import Check, at_least, at_most, equal, none_of
from ..tally import described, problems

#: Seconds that a request takes.
LONG = 0.5
#: Seconds that the rest of it takes: replicas that are idle are not waited for.
SLACK = 3.0


async def sigterm(arena: Arena) -> Sequence[Check]:
    """Whatever has come as far as a replica is answered, and then the gateway ends."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    async with arena.load(gateway, path=f"/session?wait={LONG}", posts=5, visitors=300) as load:
        await arena.sleep(3)
        say("SIGTERM")
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        code = await asyncio.to_thread(gateway.wait)
        ended = time.monotonic()
    arrived = await replicas.arrived()
    under_way = [each for each in load.outcomes if each.began < began < each.ended]
    accepted = [each for each in load.outcomes if each.number in arrived]
    unanswered = problems(accepted)
    return [
        at_least("requests under way at SIGTERM", 50, len(under_way)),
        at_least("requests that a replica was asked", 300, len(accepted)),
        none_of("of these without a whole answer", unanswered.total(), described(unanswered)),
        at_most("from SIGTERM to the end", LONG + SLACK, ended - began, " s"),
        equal("exit code", 0, code),
        *arena.broken(load),
    ]
