"""Replicas are killed and started again, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, at_least, equal, none_of
from ..tally import moves


async def killed(arena: Arena) -> Sequence[Check]:
    """No client sees an error; a session moves once per death of its replica, and no other."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    async with arena.load(gateway, newcomers=20) as load:
        await arena.sleep(3)
        for name in replicas.names:
            say(f"{name} is killed")
            await replicas.kill(name)
            await arena.sleep(3)
            await replicas.start(name)
            await arena.sleep(4)
    found = moves((visitor.stays for visitor in load.visitors), replicas.deaths)
    return [
        no_error(load),
        at_least("sessions whose replica died", 50, found.due),
        equal("their moves", found.due, found.made),
        none_of("moves of anybody else", found.undue),
        *arena.broken(load),
    ]
