"""Memory: what an idle client costs, and what a slow one does."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence

from . import proc
from .payloads import HUGE, KIB, MIB, SMALL, Payload
from .processes import BenchmarkError
from .progress import say
from .results import Series
from .runner import Bench, Running
from .subjects import Subject
from .visitors import Visitor, headers_of

IDLE_CLIENTS = 1_000
SLOW_RATE = 20 * MIB
#: A slow reader reads nothing at all to begin with: whoever takes the body in does so now.
SLOW_START = 1.0


def _check(
    subject: Running, answer: http.client.HTTPResponse, payload: Payload, length: int, want: str
) -> None:
    origin = answer.headers.get("X-Origin", "")
    if answer.status != 200 or length != payload.received or want not in ("", origin):
        raise BenchmarkError(
            f"{subject.name}: got {answer.status}, {length} bytes, from {origin!r}"
        )
    subject.bench.tally["answers"] += 1


def _ask(connection: http.client.HTTPConnection, subject: Running, visitor: Visitor) -> None:
    connection.request(SMALL.method, SMALL.path, headers=headers_of(visitor))
    answer = connection.getresponse()
    _check(subject, answer, SMALL, len(answer.read()), visitor.origin)


def _idle_growth(subject: Running, clients: int) -> float:
    """KiB for one client that has made a request and stays connected."""
    with contextlib.ExitStack() as stack:
        connections = []
        for number in range(clients):
            connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=10)
            stack.callback(connection.close)
            if number == 0:
                # Whatever is done once only, is done for the first client.
                _ask(connection, subject, subject.visitors[0])
                before = proc.resident_bytes(subject.server.pids)
            _ask(connection, subject, subject.visitors[number % len(subject.visitors)])
            connections.append(connection)
        growth = proc.resident_bytes(subject.server.pids) - before
        # None of them was let go meanwhile: http.client would connect anew, on another port.
        for connection in connections:
            address = connection.sock.getsockname()
            _ask(connection, subject, subject.visitors[0])
            if connection.sock.getsockname() != address:
                raise BenchmarkError(f"{subject.name} closed an idle connection")
    return growth / clients / KIB


def idle(bench: Bench, subjects: Sequence[Subject]) -> list[Series]:
    """Measure what 1,000 idle clients cost, each time in a fresh process."""
    rounds = []
    for turn in range(bench.rounds):
        values = {}
        for subject in subjects:
            with bench.running(subject) as running:
                values[subject.name] = _idle_growth(running, IDLE_CLIENTS)
            say(f"idle {turn + 1}/{bench.rounds} {subject.name}", values[subject.name], "KiB")
        rounds.append(values)
    title = f"one of {IDLE_CLIENTS:,} idle keep-alive clients"
    return [Series("idle", title, "KiB", rounds, compare="gateway")]


def _read_slowly(subject: Running) -> None:
    """Fetch the huge file at SLOW_RATE, and check the answer."""
    visitor = subject.visitors[0]
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=30)
    connection.connect()
    # Else the kernel would take in several megabytes on the client's behalf.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * KIB)
    with contextlib.closing(connection):
        connection.request("GET", HUGE.path, headers=headers_of(visitor))
        time.sleep(SLOW_START)
        answer = connection.getresponse()
        began, length = time.monotonic(), 0
        while piece := answer.read1(64 * KIB):
            length += len(piece)
            time.sleep(max(0.0, began + length / SLOW_RATE - time.monotonic()))
    _check(subject, answer, HUGE, length, visitor.origin)


def slow_reader(bench: Bench, subjects: Sequence[Subject]) -> list[Series]:
    """Measure by how much a subject grows at most while a client fetches 200 MB slowly."""
    rounds = []
    # One fetch takes ten seconds and the growth hardly varies: two rounds will do.
    for turn in range(min(2, bench.rounds)):
        values = {}
        for subject in subjects:
            with bench.running(subject) as running:
                pids = running.server.pids
                proc.forget_peak(pids)
                before = proc.resident_bytes(pids)
                _read_slowly(running)
                values[subject.name] = (proc.peak_bytes(pids) - before) / MIB
            say(f"slow_reader {turn + 1} {subject.name}", values[subject.name], "MiB")
        rounds.append(values)
    title = "200 MB to a slow reader: growth"
    return [Series("slow_reader", title, "MiB", rounds, compare="gateway")]
