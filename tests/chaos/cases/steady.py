"""Random faults for a long time: does anything pile up?"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks import proc

from ..arena import Arena, say
from ..bounds import Check, at_least, at_most, grown, none_of
from ..faults import Fault, schedule
from ..gateway import Gateway
from ..replicas import Replicas
from ..streams import Streams
from ..tally import described, problems
from ..visitors import Outcome

SHARE = 0.02

#: Percent of the requests. A POST to a replica that dies or hangs fails; it is not repeated.
FAILED = 1.0

#: Seconds at the end of a minute in which no more requests are made, but one by each visitor at the
#: beginning, and of these the last, in which it is measured: connections to backends that are not
#: used are closed after four.
RESTING, MEASURED = 15, 7

#: Seconds that all visitors wait for an answer then: long enough for all to be under way at a time.
#: A process keeps what memory it has once needed. How much that was at most would be told later,
#: by the fault that happens to find the most sessions on one replica.
CROWDED = 1.0


class Size(NamedTuple):
    """What a gateway holds."""

    memory: float
    files: float
    tasks: float


async def steady(arena: Arena) -> Sequence[Check]:
    """Memory, open files and tasks are at the end what they were in the second minute."""
    options = arena.options
    replicas = await arena.replicas()
    document = arena.document(replicas.backends())
    gateway = await arena.gateway(document, module="tests.chaos.watched")
    faults = schedule(options.seed, options.minutes, replicas.names)
    sizes: list[Size] = []
    async with (
        Streams(gateway.port, 5) as streams,
        arena.load(gateway, posts=10, visitors=300) as load,
    ):
        began = time.monotonic()
        for minute in range(options.minutes):
            for fault in faults:
                if minute * 60 <= fault.at < minute * 60 + 60:
                    await asyncio.sleep(began + fault.at - time.monotonic())
                    await _inflict(fault, replicas)
            await asyncio.sleep(began + minute * 60 + 60 - RESTING - time.monotonic())
            load.is_resting = True
            await load.crowd(CROWDED)
            await asyncio.sleep(began + minute * 60 + 60 - MEASURED - time.monotonic())
            sizes.append(await _measure(gateway))
            load.is_resting = False
            say(f"minute {minute + 1}: {sizes[-1]}")
    # A replica that dies in the middle of an answer takes the rest of it along.
    failed = [each for each in load.outcomes if _is_lost(each)]
    others = problems(each for each in load.outcomes if not _is_lost(each))
    share = 100 * len(failed) / len(load.outcomes)
    second, last = sizes[1], sizes[-1]
    return [
        grown("resident memory", second.memory, last.memory, SHARE, " MiB"),
        grown("open files", second.files, last.files, SHARE),
        grown("tasks", second.tasks, last.tasks, SHARE),
        at_least("faults", 5 * options.minutes, len(faults)),
        at_most(f"502, 504 and cut off, of {len(load.outcomes):,}", FAILED, share, " %"),
        none_of("other errors", others.total(), described(others)),
        none_of("wrong messages in streams and WebSockets", streams.wrong),
        *arena.broken(load),
    ]


def _is_lost(outcome: Outcome) -> bool:
    return outcome.status in (502, 504) or outcome.problem == "cut off"


async def _inflict(fault: Fault, replicas: Replicas) -> None:
    say(f"{fault.kind} {fault.replica} for {fault.lasts:.1f} s")
    if fault.kind == "pause":
        replicas.pause(fault.replica)
        await asyncio.sleep(fault.lasts)
        replicas.resume(fault.replica)
    else:
        await (replicas.kill if fault.kind == "kill" else replicas.stop)(fault.replica)
        await asyncio.sleep(fault.lasts)
        await replicas.start(fault.replica)


async def _measure(gateway: Gateway) -> Size:
    """The median of some seconds in which nothing happens but events of streams."""
    sizes = []
    for _ in range(MEASURED):
        await asyncio.sleep(0.8)
        pids = gateway.pids
        gateway.signal(signal.SIGUSR1)
        await asyncio.sleep(0.1)
        memory = proc.resident_bytes(pids) / 2**20
        files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
        sizes.append((memory, files, int(gateway.tasks_file.read_text())))
    return Size(*(median(column) for column in zip(*sizes, strict=True)))
