"""CPU time for one answer at full speed: 100 bytes, 10 KB, 1 MB, and an upload of 64 KB."""

from __future__ import annotations

from collections.abc import Sequence

from .payloads import Payload
from .progress import say
from .results import Series
from .runner import Bench, order
from .subjects import Subject

_UNIT = "µs of CPU"


def full_speed(
    bench: Bench,
    subjects: Sequence[Subject],
    *,
    name: str,
    title: str,
    payload: Payload,
    connections: int,
) -> list[Series]:
    """Measure subjects in turns.

    Each turn begins with a second that is not measured: a keep-alive time may have passed since
    the last one, and what a connection costs is not the question here.
    """
    rounds = []
    with bench.running_all(subjects) as running:
        for turn in range(bench.rounds):
            values = {}
            for subject in order(running, turn):
                subject.load(payload, connections=connections, seconds=1)
                usage = subject.load(payload, connections=connections, seconds=bench.seconds)
                values[subject.name] = usage.microseconds
                say(f"{name} {turn + 1}/{bench.rounds} {subject.name}", usage.microseconds, _UNIT)
            rounds.append({subject.name: values[subject.name] for subject in subjects})
    return [Series(name, title, _UNIT, rounds, compare="gateway")]
