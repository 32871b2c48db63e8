"""Two gateways behind a third are restarted: without a word, then after a drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, none_of
from ..gateway import Gateway
from ..tally import moves


async def front(arena: Arena) -> Sequence[Check]:
    """No error, no session moves: the gateways share a secret, the third asks the other one."""
    replicas = await arena.replicas()
    document = arena.document(replicas.backends())
    behind = {name: await arena.gateway(document, name=name) for name in ("one", "two")}

    def backends(drained: str | None = None) -> list[dict[str, object]]:
        return [
            {"id": name, "url": gateway.url, "drain": name == drained}
            for name, gateway in behind.items()
        ]

    before = await arena.gateway(arena.document(backends(), affinity=None), name="front")
    async with arena.load(before, newcomers=20) as reading:
        await arena.sleep(2)
        for name, gateway in behind.items():
            say(f"{name} is restarted")
            await _restart(gateway)
            await arena.sleep(3)
    async with arena.load(before, posts=5, newcomers=20) as writing:
        await arena.sleep(1)
        for name, gateway in behind.items():
            say(f"{name} is drained and restarted")
            reloads = before.reloads
            before.write(arena.document(backends(name), affinity=None))
            await before.has_reloaded(reloads)
            await arena.sleep(1)
            await _restart(gateway)
            before.write(arena.document(backends(), affinity=None))
            await arena.sleep(3)
    visitors = (*reading.visitors, *writing.visitors)
    return [
        no_error(reading),
        no_error(writing),
        none_of("moves", moves((visitor.stays for visitor in visitors), ()).made),
        *arena.broken(reading),
        *arena.broken(writing),
    ]


async def _restart(gateway: Gateway) -> None:
    gateway.signal(signal.SIGTERM)
    await asyncio.to_thread(gateway.wait)
    await asyncio.to_thread(gateway.start)
