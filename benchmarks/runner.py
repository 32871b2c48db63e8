"""The bench: running subjects side by side, and what one of them uses while it is under load."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import proc
from .origin import Origin
from .payloads import Payload
from .peers import Site
from .processes import Cores, Server, free_port, running
from .subjects import Subject
from .visitors import NOBODY, Visitor, is_answering, welcome
from .wrk import run_wrk

VISITORS = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """What a subject has used while it answered."""

    cpu: float
    answers: int

    @property
    def microseconds(self) -> float:
        """CPU time for one answer."""
        return self.cpu / self.answers * 1e6


@dataclass(frozen=True, slots=True)
class Running:
    """A subject that runs, and the visitors that belong to its backends."""

    bench: Bench
    name: str
    port: int
    server: Server
    visitors: Sequence[Visitor]

    def load(
        self,
        payload: Payload,
        *,
        connections: int,
        seconds: int,
        visitors: Sequence[Visitor] | None = None,
    ) -> Usage:
        """Send requests at full speed. Raises BenchmarkError if any answer is wrong."""
        before = proc.cpu_seconds(self.server.pids)
        report = run_wrk(
            self.port,
            payload,
            visitors or self.visitors,
            connections=connections,
            seconds=seconds,
            core=self.bench.cores.load,
            folder=self.bench.folder,
        )
        self.bench.tally.update(report.counts)
        report.check(self.name)
        used = proc.cpu_seconds(self.server.pids) - before
        self.server.check_core()
        return Usage(used, report.answers)


@dataclass(frozen=True, slots=True)
class Bench:
    """The place: which cores, which origins, a folder for everything, how often and how long."""

    cores: Cores
    origins: Sequence[Origin]
    folder: Path
    rounds: int
    seconds: int
    #: How many answers were checked, and how many were wrong in which way.
    tally: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def running(
        self,
        subject: Subject,
        *,
        name: str = "",
        visitors: int = VISITORS,
    ) -> Iterator[Running]:
        """Run a subject that so many visitors know already, for the time of a `with` block."""
        name = name or subject.name
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        site = Site(free_port(), self.origins, folder)
        log = folder / "log"
        with running(name, subject.launch(site), core=self.cores.subject, log=log) as server:
            server.wait_until(lambda: is_answering(site.port))
            known = welcome(site.port, visitors) if subject.is_sticky and visitors else [NOBODY]
            yield Running(self, name, site.port, server, known)

    @contextlib.contextmanager
    def running_all(self, subjects: Sequence[Subject]) -> Iterator[list[Running]]:
        """Run several subjects side by side for the time of a `with` block."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.running(subject)) for subject in subjects]


def order(subjects: Sequence[Running], turn: int) -> Sequence[Running]:
    """Who comes when in a round: every other one goes the other way, so nobody is always first."""
    return subjects[::-1] if turn % 2 else subjects
