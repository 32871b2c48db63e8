"""The configuration is read again and again, by a new file and by SIGHUP in turns."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, at_least, none_of
from ..streams import Streams
from ..tally import moves

HOW_OFTEN = 60


async def reloads(arena: Arena) -> Sequence[Check]:
    """No error, no session moves, no stream is cut."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    async with Streams(gateway.port, 5) as streams, arena.load(gateway, posts=5) as load:
        await arena.sleep(3)
        say(f"{HOW_OFTEN} reloads")
        for number in range(HOW_OFTEN):
            before = gateway.reloads
            if number % 2:
                gateway.signal(signal.SIGHUP)
            else:
                weights = {"a": {"weight": number + 2}}
                gateway.write(arena.document(replicas.backends(**weights)))
            await gateway.has_reloaded(before)
            await arena.sleep(0.2)
    found = moves((visitor.stays for visitor in load.visitors), ())
    return [
        no_error(load),
        at_least("reloads", HOW_OFTEN * gateway.workers, gateway.reloads),
        none_of("moves", found.made),
        none_of("event streams and WebSockets cut, of 10", streams.cut + streams.wrong),
        *arena.broken(load),
    ]
