"""Added latency at a fixed rate.

The client is open loop: requests are due at fixed times, whether or not the earlier ones have been
answered, and the time counts from when a request was due, not from when it got its turn. Else a
pause of the server would delay, and thus hide, the requests that would have met it.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections import deque
from collections.abc import Sequence
from functools import partial
from statistics import quantiles

from .payloads import SMALL
from .processes import BenchmarkError
from .progress import say
from .results import Series
from .runner import Bench, order
from .subjects import Subject
from .visitors import NOBODY, Visitor, headers_of

RATE = 500
CONNECTIONS = 32
#: The first requests meet cold connections.
WARM_SECONDS = 1


class _Connection(asyncio.Protocol):
    """One keep-alive connection: one request at a time, the answer checked."""

    def __init__(self, client: _Client, visitor: Visitor) -> None:
        lines = [f"GET {SMALL.path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in headers_of(visitor).items()]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._client = client
        self._origin = visitor.origin.encode()
        self._received = b""
        self._due = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= SMALL.received:
            self._received = b""
            is_right = head.startswith(b"HTTP/1.1 200 ") and len(body) == SMALL.received
            if self._origin and b"x-origin: " + self._origin not in head.lower():
                is_right = False
            self._client.answered(self, self._due, is_right)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(exc)


class _Client:
    """Sends what is due on whichever connection is free."""

    def __init__(self, port: int, visitors: Sequence[Visitor]) -> None:
        self._port = port
        self._visitors = visitors
        self._loop = asyncio.get_running_loop()
        self._free: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._left = 0
        self._done: asyncio.Future[None] = self._loop.create_future()
        self.latencies: list[float] = []

    async def run(self, count: int) -> list[float]:
        """Seconds that each of so many requests took."""
        transports = []
        for number in range(CONNECTIONS):
            visitor = self._visitors[number % len(self._visitors)]
            transport, connection = await self._loop.create_connection(
                partial(_Connection, self, visitor),
                "127.0.0.1",
                self._port,
            )
            transports.append(transport)
            self._free.append(connection)
        self._left = count
        began = self._loop.time() + 0.01
        for number in range(count):
            due = began + number / RATE
            self._loop.call_at(due, self._ask, due)
        try:
            await asyncio.wait_for(self._done, timeout=count / RATE + 30)
        finally:
            for transport in transports:
                transport.abort()
        return self.latencies

    def _ask(self, due: float) -> None:
        if self._free:
            self._free.popleft().ask(due)
        else:
            self._waiting.append(due)

    def answered(self, connection: _Connection, due: float, is_right: bool) -> None:
        self.latencies.append(self._loop.time() - due)
        self._left -= 1
        if not is_right:
            self._fail("a wrong answer")
        elif not self._left:
            if not self._done.done():
                self._done.set_result(None)
        elif self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, exc: Exception | None) -> None:
        self._fail(f"a connection was closed: {exc}")

    def _fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(BenchmarkError(reason))


def _new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact to microseconds; epoll's wait whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _percentiles(port: int, visitors: Sequence[Visitor], seconds: int) -> tuple[float, float]:
    """The 50th and the 99th percentile of the latency, in microseconds."""

    async def run() -> list[float]:
        await _Client(port, visitors).run(WARM_SECONDS * RATE)
        return await _Client(port, visitors).run(seconds * RATE)

    gc.collect()
    gc.disable()  # A pause of the client is none of the subject's.
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            cuts = quantiles(runner.run(run()), n=100)
    finally:
        gc.enable()
    return cuts[49] * 1e6, cuts[98] * 1e6


def latency(bench: Bench, subjects: Sequence[Subject]) -> list[Series]:
    """Measure what subjects add to the latency of the origin itself, asked in the same round."""
    rounds: dict[str, list[dict[str, float]]] = {"p50": [], "p99": []}
    with bench.running_all(subjects) as running:
        for turn in range(bench.rounds):
            direct = _percentiles(bench.origins[0].port, [NOBODY], bench.seconds)
            say(f"latency {turn + 1}/{bench.rounds} no proxy, p99", direct[1], "µs")
            added = {}
            for subject in order(running, turn):
                measured = _percentiles(subject.port, subject.visitors, bench.seconds)
                subject.server.check_core()
                bench.tally["answers"] += (WARM_SECONDS + bench.seconds) * RATE
                added[subject.name] = [m - d for m, d in zip(measured, direct, strict=True)]
                say(f"latency {turn + 1}/{bench.rounds} {subject.name}, p99", measured[1], "µs")
            for index, name in enumerate(rounds):
                rounds[name].append({s.name: added[s.name][index] for s in subjects})
    return [
        Series(
            f"latency {name}",
            f"added latency at {RATE} requests/s, {name}",
            "µs",
            rounds[name],
            compare="gateway",
        )
        for name in rounds
    ]
