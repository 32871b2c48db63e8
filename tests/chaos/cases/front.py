"""Two gateways behind a third are restarted: killed without a word, then told to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, none_of
from ..gateway import FALL, INTERVAL, POOL
from ..tally import moves

#: Seconds that a gateway serves on: more than the one in front takes to hear of it.
DELAY = int(FALL * INTERVAL) + 2


async def front(arena: Arena) -> Sequence[Check]:
    """No error, no session moves: the two share a secret, and the third asks the other one."""
    replicas = await arena.replicas()
    document = arena.document(replicas.backends())
    behind = {
        name: await arena.gateway(document, name=name, delay=DELAY) for name in ("one", "two")
    }
    before = await arena.gateway(
        arena.document(
            [{"id": name, "url": gateway.url} for name, gateway in behind.items()],
            affinity=None,
            health_check={**POOL["health_check"], "path": "/-/sticky/ready"},
        ),
        name="front",
    )
    async with arena.load(before, newcomers=20) as reading:
        await arena.sleep(2)
        for name, gateway in behind.items():
            say(f"{name} is killed")
            gateway.signal(signal.SIGKILL)
            await arena.sleep(1)
            await asyncio.to_thread(gateway.start)
            await arena.sleep(3)
    async with arena.load(before, posts=5, newcomers=20) as writing:
        await arena.sleep(1)
        for name, gateway in behind.items():
            say(f"{name} is told to end")
            gateway.signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait)
            await asyncio.to_thread(gateway.start)
            await arena.sleep(3)
    visitors = (*reading.visitors, *writing.visitors)
    return [
        no_error(reading),
        no_error(writing),
        none_of("moves", moves((visitor.stays for visitor in visitors), ()).made),
        *arena.broken(reading),
        *arena.broken(writing),
    ]
