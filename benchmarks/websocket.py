"""WebSockets: CPU time for a message to a backend and back, and what an idle one costs.

The client is as small as can be: it compares each frame that comes with the one that must come,
and writes the next, which is made already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import uvloop

from . import proc
from .echo_origin import running_echo_origins
from .frames import END_OF_HEAD, PING, Handshake, answered, asked, farewell, pong
from .payloads import KIB
from .processes import BenchmarkError
from .progress import say
from .results import Series
from .runner import Bench, Running, Usage, order
from .subjects import Subject
from .visitors import Visitor

CONNECTIONS = 16
MESSAGE_SIZE = 100
IDLE_WEBSOCKETS = 1_000
#: Different messages that a client sends in turn: no answer passes for another.
_MESSAGES = 16
_WARM_SECONDS = 1.0
_UNIT = "µs of CPU"


@contextlib.contextmanager
def _before_echoes(bench: Bench) -> Iterator[Bench]:
    """The same bench with origins that echo."""
    folder = bench.folder / "echo-origin"
    with running_echo_origins(folder, len(bench.origins), core=bench.cores.load) as origins:
        yield replace(bench, origins=origins)


class _Client(asyncio.Protocol):
    """One WebSocket on which one message is under way at a time."""

    def __init__(self, visitor: Visitor, failure: asyncio.Future[None]) -> None:
        self._handshake: Handshake | None = Handshake(visitor)
        self._failure = failure
        self._received = b""
        self._frames = []
        for _ in range(_MESSAGES):
            message = os.urandom(MESSAGE_SIZE)
            self._frames.append((asked(message), answered(message)))
        self._expected = b""
        self._transport: asyncio.Transport | None = None
        #: How many messages have come back.
        self.answers = 0
        #: Whether another is sent then.
        self.goes_on = True
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_waiting(self) -> bool:
        """Whether a message is under way."""
        return bool(self._expected)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._handshake is not None
        # uvloop's are none, but do what those do.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._handshake.request)

    def ask(self) -> None:
        """Send the next message."""
        assert self._transport is not None
        request, self._expected = self._frames[self.answers % _MESSAGES]
        self._transport.write(request)

    def leave(self) -> None:
        """Close the WebSocket and the connection."""
        assert self._transport is not None
        self._failure.cancel()
        self._transport.write(farewell())
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._received:
            data, self._received = self._received + data, b""
        if data == self._expected:
            self.answers += 1
            self._expected = b""
            if self.goes_on:
                self.ask()
        elif self._handshake is not None:
            self._received = data
            self._take_head(self._handshake)
        elif data[0] == PING and len(data) >= 2 + data[1]:
            assert self._transport is not None
            end = 2 + data[1]
            self._transport.write(pong(data[2:end]))
            if len(data) > end:
                self.data_received(data[end:])
        elif data[0] == PING or self._expected.startswith(data):
            self._received = data
        else:
            self._fail(f"{data!r} came in place of {self._expected!r}")

    def _take_head(self, handshake: Handshake) -> None:
        head, end, rest = self._received.partition(END_OF_HEAD)
        if not end:
            return
        self._handshake, self._received = None, b""
        problem = handshake.problem(head)
        if problem is not None:
            self._fail(problem)
            return
        self.opened.set_result(None)
        if rest:
            self.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"a connection was closed: {exc}")

    def _fail(self, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(BenchmarkError(reason))


async def _unless(failure: asyncio.Future[None], seconds: float) -> None:
    """Let time pass. Raises BenchmarkError as soon as anything goes wrong."""
    await asyncio.wait([failure], timeout=seconds)
    if failure.done():
        await failure


async def _use(subject: Running, seconds: float) -> Usage:
    """Have messages sent back and forth, and see what that takes."""
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()
    clients = []
    for number in range(CONNECTIONS):
        visitor = subject.visitors[number % len(subject.visitors)]
        make = partial(_Client, visitor, failure)
        _, client = await loop.create_connection(make, "127.0.0.1", subject.port)
        await asyncio.wait([client.opened, failure], return_when=asyncio.FIRST_COMPLETED)
        await _unless(failure, 0)
        clients.append(client)
        client.ask()
    await _unless(failure, _WARM_SECONDS)
    counts = [client.answers for client in clients]
    before = proc.cpu_seconds(subject.server.pids)
    await _unless(failure, seconds)
    used = proc.cpu_seconds(subject.server.pids) - before
    counts = [client.answers - count for client, count in zip(clients, counts, strict=True)]
    for client in clients:
        client.goes_on = False
    await _unless(failure, 0.2)
    if not all(counts) or any(client.is_waiting for client in clients):
        raise BenchmarkError(f"{subject.name}: some messages did not come back: {counts}")
    for client in clients:
        client.leave()
    subject.bench.tally["echoes"] += sum(client.answers for client in clients)
    return Usage(used, sum(counts))


def round_trips(bench: Bench, subjects: Sequence[Subject]) -> list[Series]:
    """Measure in turns what a message costs that comes back."""
    rounds = []
    with _before_echoes(bench) as echoes, echoes.running_all(subjects) as running:
        for turn in range(bench.rounds):
            values = {}
            for subject in order(running, turn):
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    usage = runner.run(_use(subject, bench.seconds))
                subject.server.check_core()
                values[subject.name] = usage.microseconds
                say(f"ws {turn + 1}/{bench.rounds} {subject.name}", usage.microseconds, _UNIT)
            rounds.append({subject.name: values[subject.name] for subject in subjects})
    title = f"WebSocket, {MESSAGE_SIZE} B there and back"
    return [Series("ws", title, _UNIT, rounds, compare="gateway")]


class _IdleWebSocket:
    """A WebSocket that says something when it is told to."""

    def __init__(self, subject: Running, visitor: Visitor) -> None:
        self._subject = subject
        self._socket = socket.create_connection(("127.0.0.1", subject.port), timeout=10)
        handshake = Handshake(visitor)
        self._socket.sendall(handshake.request)
        head = b""
        while not head.endswith(END_OF_HEAD):
            head += self._receive(1)
        problem = handshake.problem(head)
        if problem is not None:
            raise BenchmarkError(f"{subject.name}: {problem}")

    def _receive(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise BenchmarkError(f"{self._subject.name} closed an idle WebSocket")
        return data

    def ask(self) -> None:
        """Send a message, and wait until it comes back."""
        message = os.urandom(MESSAGE_SIZE)
        self._socket.sendall(asked(message))
        while (head := self._receive(2))[0] == PING:
            self._socket.sendall(pong(self._receive(head[1])))
        frame = head + self._receive(head[1] & 0x7F)
        if frame != answered(message):
            raise BenchmarkError(f"{self._subject.name}: {frame!r} came back for {message!r}")
        self._subject.bench.tally["echoes"] += 1

    def close(self) -> None:
        """Close the connection, and let that be all."""
        self._socket.close()


def _growth(subject: Running) -> float:
    """KiB for one WebSocket that has carried a message each way and stays open."""
    with contextlib.ExitStack() as stack:
        websockets = []
        for number in range(IDLE_WEBSOCKETS + 1):
            visitor = subject.visitors[number % len(subject.visitors)]
            websocket = _IdleWebSocket(subject, visitor)
            stack.callback(websocket.close)
            websocket.ask()
            websockets.append(websocket)
            if number == 0:
                # Whatever is done once only, is done for the first one.
                before = proc.resident_bytes(subject.server.pids)
        growth = proc.resident_bytes(subject.server.pids) - before
        for websocket in websockets:
            websocket.ask()
    return growth / IDLE_WEBSOCKETS / KIB


def idle_websockets(bench: Bench, subjects: Sequence[Subject]) -> list[Series]:
    """Measure what 1,000 idle WebSockets cost, each time in a fresh process."""
    rounds = []
    with _before_echoes(bench) as echoes:
        for turn in range(bench.rounds):
            values: dict[str, float] = {}
            for subject in subjects:
                with echoes.running(subject) as running:
                    growth = _growth(running)
                say(f"ws_idle {turn + 1}/{bench.rounds} {subject.name}", growth, "KiB")
                values[subject.name] = growth
            rounds.append(values)
    title = f"one of {IDLE_WEBSOCKETS:,} idle WebSockets"
    return [Series("ws_idle", title, "KiB", rounds, compare="gateway")]
