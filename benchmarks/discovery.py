"""What a Service of Kubernetes costs a gateway that follows it: how late changes are in force, and
how long the event loop is busy with them and nothing else.

The API server is `FakeKubernetes`, beside the load. Pods begin to terminate, go on serving, and
change their minds: so nobody's backend goes, and a visitor who is moved fails the run. The pods
share the origin's ports; who belongs to which pod is the gateway's word.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service

from .apps import API, NOTES
from .origin import Origin
from .payloads import SMALL
from .peers import Site, asgi
from .processes import BenchmarkError, Launch
from .progress import say
from .results import Series
from .runner import Bench, Running
from .subjects import SUBJECTS
from .visitors import Visitor, headers_of

_FEW_CHANGES = 200
#: One after the other: each is in force before the next one happens.
_FEW_PAUSE = 0.05
_MANY_RATE = 100
_MANY_SECONDS = 6
_IDLE_SECONDS = 3
#: Seconds in which the last change must be in force.
_PATIENCE = 2
#: Requests a second while all that happens; every tenth is a new visitor's.
_LOAD_RATE = 200
_VISITORS = 150
_RIGHT = {"200 kept", "200 new"}


@dataclass(frozen=True, slots=True)
class _Size:
    """How large a Service is."""

    name: str
    slices: int
    pods: int


#: So many that none changes its mind before it was heard.
_FEW = _Size("20 pods", slices=2, pods=10)
_MANY = _Size("5,000 pods", slices=50, pods=100)
#: What is measured, for the tables.
ONE_BY_ONE = f"{_FEW.name}, one by one"
MANY_CHANGES = f"{_MANY_RATE} a second"
OF_MANY_PODS = f"{_MANY.name}, {MANY_CHANGES}"


class _Cluster:
    """The Service, in a fake API server."""

    def __init__(self, size: _Size, origins: Sequence[Origin]) -> None:
        self.fake = FakeKubernetes(history=10_000)
        annotations = {"traefik.ingress.kubernetes.io/affinity": "true"}
        self.fake.create(
            service("web", namespace="shop", ports={"http": 80}, annotations=annotations)
        )
        self._slices = [
            _make_slice(number, size.pods, origins[number % len(origins)].port)
            for number in range(size.slices)
        ]
        for made in self._slices:
            self.fake.create(made)
        self._changes = 0

    def change(self) -> tuple[str, float]:
        """Another pod begins to terminate, or does not after all. Returns which one, and when."""
        turn, number = divmod(self._changes, len(self._slices))
        self._changes += 1
        changed = self._slices[number]
        one = changed["endpoints"][turn % len(changed["endpoints"])]
        conditions = one["conditions"]
        conditions["terminating"] = not conditions["terminating"]
        conditions["ready"] = not conditions["terminating"]
        now = time.monotonic()
        self.fake.replace(changed)
        return one["targetRef"]["name"], now


def _make_slice(number: int, pods: int, port: int) -> dict[str, Any]:
    endpoints = [
        endpoint(
            "127.0.0.1",
            pod=f"web-6d4cf56db6-{number:02d}-{pod:03d}",
            uid=f"0a1b2c3d-0000-4000-{number:04d}-{pod:012d}",
            node=f"ip-10-0-{pod}-12.eu-central-1.compute.internal",
            zone="eu-central-1a",
            serving=True,
            terminating=False,
        )
        for pod in range(pods)
    ]
    return endpoint_slice(
        "web", endpoints, ports={"http": port}, namespace="shop", name=f"web-{number:02d}"
    )


class _Load:
    """Light load in a thread, every answer checked. A context manager.

    Raises BenchmarkError when it is left, if any answer was wrong.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._is_over = threading.Event()
        self._wrong: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=10)
        due, number = time.monotonic(), 0
        try:
            while not self._is_over.wait(max(0.0, due - time.monotonic())):
                due += 1 / _LOAD_RATE
                known = self._running.visitors[number % len(self._running.visitors)]
                number += 1
                self._ask(connection, known if number % 10 else Visitor())
        except (OSError, http.client.HTTPException) as exc:
            self._wrong.append(repr(exc))
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, visitor: Visitor) -> None:
        connection.request(SMALL.method, SMALL.path, headers=headers_of(visitor))
        answer = connection.getresponse()
        origin, length = answer.headers.get("X-Origin", ""), len(answer.read())
        if answer.status != 200 or length != SMALL.received or visitor.origin not in ("", origin):
            self._wrong.append(f"{answer.status}, {length} bytes, from {origin!r}")
        self._running.bench.tally["answers"] += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._wrong:
            raise BenchmarkError(f"discovery: {len(self._wrong)} wrong: {self._wrong[0]}")


def _turn_page(running: Running) -> dict[str, Any]:
    """What the gateway has noticed. Raises BenchmarkError if a visitor was moved."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    try:
        connection.request("GET", NOTES)
        notes: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if not notes["outcomes"].keys() <= _RIGHT:
        raise BenchmarkError(f"discovery: requests ended otherwise: {notes['outcomes']}")
    return notes


def _delays(happened: Sequence[tuple[str, float]], notes: Mapping[str, Any]) -> list[float]:
    """How many milliseconds later each change was in force. Raises BenchmarkError if one is not."""
    if len(happened) != len(notes["changes"]):
        raise BenchmarkError(f"{len(happened)} changes, {len(notes['changes'])} in force")
    waiting: defaultdict[str, deque[float]] = defaultdict(deque)
    for pod, at in happened:
        waiting[pod].append(at)
    return [(at - waiting[pod].popleft()) * 1e3 for pod, at in notes["changes"]]


def _change(cluster: _Cluster, changes: int, pause: float) -> list[tuple[str, float]]:
    happened = []
    begin = time.monotonic()
    for number in range(1, changes + 1):
        happened.append(cluster.change())
        time.sleep(max(0.0, begin + number * pause - time.monotonic()))
    time.sleep(_PATIENCE)
    return happened


@contextlib.contextmanager
def _following(bench: Bench, size: _Size) -> Iterator[tuple[_Cluster, Running]]:
    """A gateway that follows a Service, under light load."""
    cluster = _Cluster(size, bench.origins)

    def launch(site: Site) -> Launch:
        made = asgi("following", site)
        return replace(made, env={**made.env, API: server.url})

    subject = replace(SUBJECTS["gateway"], launch=launch)
    with (
        cluster.fake.running() as server,
        bench.running(subject, name=f"discovery {size.name}", visitors=_VISITORS) as running,
    ):
        _turn_page(running)
        with _Load(running):
            yield cluster, running


def discovery(bench: Bench) -> list[Series]:
    """Measure how late changes are in force, and how long the event loop is kept busy by them."""
    delays: list[dict[str, float]] = []
    turns: list[dict[str, float]] = []
    for _ in range(bench.rounds):
        late: dict[str, float] = {}
        with _following(bench, _FEW) as (cluster, running):
            happened = _change(cluster, _FEW_CHANGES, _FEW_PAUSE)
            _note(late, ONE_BY_ONE, _delays(happened, _turn_page(running)))
        with _following(bench, _MANY) as (cluster, running):
            time.sleep(_IDLE_SECONDS)
            idle = _turn_page(running)
            happened = _change(cluster, _MANY_RATE * _MANY_SECONDS, 1 / _MANY_RATE)
            notes = _turn_page(running)
            _note(late, OF_MANY_PODS, _delays(happened, notes))
        delays.append(late)
        turns.append(
            {
                f"{when}, {what}": found[key] * 1e3
                for when, found in (("no changes", idle), (MANY_CHANGES, notes))
                for what, key in (
                    ("CPU time", "worked"),
                    ("of it garbage collection, at most", "collected"),
                    ("elapsed", "blocked"),
                )
            }
        )
        say("discovery: longest turn of the event loop", notes["worked"] * 1e3, "ms of CPU")
    return [
        Series("discovery", "a change of a Service is in force after", "ms", delays),
        Series("discovery turns", "longest turn of the event loop, 5,000 pods", "ms", turns),
    ]


def _note(figures: dict[str, float], name: str, delays: Sequence[float]) -> None:
    figures[f"{name}, median"] = median(delays)
    figures[f"{name}, slowest"] = max(delays)
    say(f"discovery: {name}", median(delays), "ms")
