"""The gateway is told to end while requests are under way."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

from ..answers import Connection
from ..arena import Arena, say
from ..bounds import Check, at_least, at_most, equal, none_of
from ..gateway import Gateway
from ..tally import begun, described, problems

#: Seconds that a request takes.
LONG = 0.5
#: Seconds that it serves on, and of these the last, in which a request may come too late.
DELAY, TOO_LATE = 2, 0.25
#: What belongs to a machine that others use, too.
SLACK = 3.0


async def sigterm(arena: Arena) -> Sequence[Check]:
    """It says so, serves on, answers whatever has come as far as a replica, and ends."""
    replicas = await arena.replicas()
    document = arena.document(replicas.backends())
    gateway = await arena.gateway(document, delay=DELAY)
    async with arena.load(gateway, wait=LONG, posts=5, visitors=300) as load:
        await arena.sleep(3)
        say("SIGTERM")
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        await _until_not_ready(gateway)
        told = time.monotonic()
        code = await asyncio.to_thread(gateway.wait)
        ended = time.monotonic()
    arrived = await replicas.arrived()
    on_time = problems(begun(load.outcomes, 0, began + DELAY - TOO_LATE))
    last = begun(load.outcomes, began + DELAY - LONG, began + DELAY)
    accepted = [each for each in load.outcomes if each.number in arrived]
    unanswered = problems(accepted)
    return [
        at_most("from SIGTERM to not ready", 1, told - began, " s"),
        none_of(
            f"errors of requests until {DELAY - TOO_LATE} s after",
            on_time.total(),
            described(on_time),
        ),
        at_least("requests under way then", 50, len(last)),
        at_least("requests that a replica was asked", 500, len(accepted)),
        none_of("of these without a whole answer", unanswered.total(), described(unanswered)),
        at_most("from SIGTERM to the end", DELAY + LONG + SLACK, ended - began, " s"),
        equal("exit code", 0, code),
        *arena.broken(load),
    ]


async def _until_not_ready(gateway: Gateway) -> None:
    """Raises NoAnswer if it ends without having said so."""
    status = 200
    while status == 200:
        connection = Connection(gateway.port)
        status = (await connection.ask("GET", "/-/sticky/ready", {})).status
        connection.close()
        await asyncio.sleep(0.05)
