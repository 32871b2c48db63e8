"""Which fault comes when: all of it follows from a seed, so a run can be made again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

Kind: TypeAlias = Literal["kill", "pause", "stop"]

#: Seconds at the end of a minute without faults: processes come up, connections settle.
CALM = 20

#: What a raw peer may do in place of an answer, or to it.
Trick: TypeAlias = Literal[
    "honest",
    "honest chunked",
    "one byte at a time",
    "two answers",
    "503",
    "no answer",
    "reset",
    "reset in head",
    "end in head",
    "no http",
    "two lengths",
    "huge head",
    "reset in body",
    "end in body",
    "end in chunks",
    "bad chunk",
]
TRICKS: Sequence[Trick] = get_args(Trick)

#: What it may do before it accepts a connection.
Door: TypeAlias = Literal["open", "late", "refused"]
DOORS: Sequence[Door] = get_args(Door)


class Fault(NamedTuple):
    """What is to be done to a replica, and for how long, in seconds from the start."""

    at: float
    kind: Kind
    replica: str
    lasts: float


def schedule(seed: int, minutes: int, replicas: Sequence[str]) -> Sequence[Fault]:
    """Faults one after another, never two at a time, in all of each minute but its calm end."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    for minute in range(minutes):
        at = minute * 60 + rng.uniform(2, 4)
        while True:
            lasts = rng.uniform(1, 4)
            if at + lasts > minute * 60 + 60 - CALM:
                break
            faults.append(Fault(at, rng.choice(get_args(Kind)), rng.choice(replicas), lasts))
            # A replica takes a while to come up, and the gateway to believe it.
            at += lasts + rng.uniform(4, 6)
    return faults


def tricks(seed: int, replica: str) -> Iterator[Trick]:
    """Without end: each in every round once, in random order, and as often an honest answer."""
    rng = random.Random(f"{seed} {replica}")
    while True:
        some: list[Trick] = [*TRICKS]
        some += ["honest"] * len(TRICKS)
        rng.shuffle(some)
        yield from some


def doors(seed: int, replica: str) -> Iterator[Door]:
    """Without end: mostly open."""
    rng = random.Random(f"{seed} {replica} door")
    while True:
        yield rng.choices(DOORS, [8, 1, 1])[0]
