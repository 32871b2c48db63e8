"""A rolling restart: each replica is drained by the file, stopped, started and taken back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, at_least, equal, none_of
from ..tally import Event, moves

DEADLINE = 5


async def rolling(arena: Arena) -> Sequence[Check]:
    """No error, no move before the deadline of a drain, no session lost that was still held."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    deadlines: list[Event] = []
    async with arena.load(gateway, posts=5, newcomers=20) as load:
        await arena.sleep(3)
        for name in replicas.names:
            say(f"{name} is drained")
            # The drain begins once the gateway has read the file: later than this.
            deadlines.append(Event(name, time.monotonic() + DEADLINE))
            reloads = gateway.reloads
            backends = replicas.backends(**{name: {"drain": f"{DEADLINE}s"}})
            gateway.write(arena.document(backends))
            await gateway.has_reloaded(reloads)
            await asyncio.sleep(DEADLINE + 1)
            say(f"{name} is stopped and started")
            await replicas.stop(name)
            await replicas.start(name)
            gateway.write(arena.document(replicas.backends()))
            await arena.sleep(3)
    found = moves((visitor.stays for visitor in load.visitors), deadlines)
    return [
        no_error(load),
        at_least("sessions whose replica was drained", 50, found.due),
        equal("their moves", found.due, found.made),
        none_of("moves before the deadline, or of anybody else", found.undue),
        *arena.broken(load),
    ]
