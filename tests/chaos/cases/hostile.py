"""Backends do all that a backend must not do, in random order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ..arena import Arena, say
from ..bounds import Check, at_least, none_of
from ..faults import DOORS, TRICKS, doors, tricks
from ..load import Load
from ..raw import RawBackend, Sceptic
from ..tally import described, problems

#: So long a name that no resolver asks anybody for it.
NOWHERE = {"id": "nowhere", "url": f"http://{'x.' * 130}invalid:80"}

#: What a visitor may see besides right answers.
ALLOWED = ("status 502", "status 503", "status 504", "cut off")


async def hostile(arena: Arena) -> Sequence[Check]:
    """Visitors see right answers, 502, 503, 504 and what was cut off; no clean wrong answer."""
    seed = arena.options.seed
    async with AsyncExitStack() as stack:
        peers = {
            name: await stack.enter_async_context(RawBackend(tricks(seed, name), doors(seed, name)))
            for name in "abc"
        }
        backends = [{"id": name, "url": peer.url} for name, peer in peers.items()]
        gateway = await arena.gateway(arena.document([*backends, NOWHERE]))
        load = Load(lambda name: Sceptic(name, gateway.port), posts=5, newcomers=5, visitors=300)
        say(f"backends misbehave, with seed {seed}")
        async with load:
            await arena.sleep(25)
    done = sum((peer.done for peer in peers.values()), Counter[str]())
    found = problems(load.outcomes)
    bad = Counter({what: count for what, count in found.items() if what not in ALLOWED})
    right = len(load.outcomes) - found.total()
    title = f"anything else in {len(load.outcomes):,} requests"
    return [
        at_least("right answers", len(load.outcomes) // 10, right),
        none_of(title, bad.total(), described(bad)),
        at_least("each fault", 1, min(done[each] for each in (*TRICKS, *DOORS))),
        *arena.broken(load),
    ]
