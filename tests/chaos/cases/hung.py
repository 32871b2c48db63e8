"""A replica hangs: it holds its connections and does not answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..arena import Arena, no_error, say
from ..bounds import Check, at_least, at_most, none_of
from ..gateway import FALL, INTERVAL, RESPONSE_TIMEOUT
from ..tally import begun, longest, most_of_one
from ..visitors import Outcome

#: Seconds that checks, or requests that fail, take to put it out, with some to spare.
UNTIL_OUT = FALL * (INTERVAL + 1) + 1
#: What belongs to a machine that others use, too.
SLACK = 1.5


def is_slow(outcome: Outcome) -> bool:
    """Whether somebody waited for a replica that did not answer."""
    return outcome.ended - outcome.began >= 0.9 * RESPONSE_TIMEOUT


async def hung(arena: Arena) -> Sequence[Check]:
    """A visitor pays one response timeout at most; then it is out, until it answers."""
    replicas = await arena.replicas()
    gateway = await arena.gateway(arena.document(replicas.backends()))
    victim = replicas.names[0]
    async with arena.load(gateway, newcomers=10) as load:
        await arena.sleep(3)
        say(f"{victim} hangs")
        paused = time.monotonic()
        replicas.pause(victim)
        await arena.sleep(10)
        say(f"{victim} goes on")
        resumed = time.monotonic()
        replicas.resume(victim)
        await arena.sleep(5)
    meanwhile = begun(load.outcomes, paused, resumed)
    out = begun(meanwhile, paused + UNTIL_OUT)
    back = [
        visitor
        for visitor in load.newcomers
        for stay in visitor.stays
        if stay.replica == victim and stay.since > resumed
    ]
    return [
        no_error(load),
        at_least("visitors it had", 20, len({each.visitor for each in meanwhile if is_slow(each)})),
        at_most(
            "response timeouts that one visitor paid", 1, most_of_one(filter(is_slow, meanwhile))
        ),
        at_most("the longest request", RESPONSE_TIMEOUT + SLACK, longest(meanwhile), " s"),
        none_of(f"slow requests from {UNTIL_OUT:g} s on", sum(map(is_slow, out))),
        at_least("newcomers it got when it answered again", 1, len(back)),
        *arena.broken(load),
    ]
