"""Hundreds of WebSockets whose clients and backends die at any moment: nothing may be left of them,
and whoever is still there is told why.

    STICKY_CHAOS_SECONDS=60 STICKY_CHAOS_SEED=7 python -m pytest tests/test_websocket_chaos.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sticky_asgi import Pool, SignedCookie, WebSocketOptions
from sticky_asgi.upstream.connections import Http1Client
from tests.servers import ProcessBackend, eventually
from tests.watching import SECRET, Watched, watched
from tests.websocket_peers import IMPLEMENTATIONS

pytestmark = pytest.mark.usefixtures("no_leaks")

CLIENTS = 500
SECONDS = float(os.environ.get("STICKY_CHAOS_SECONDS", "2"))
SEED = int(os.environ.get("STICKY_CHAOS_SEED", "1"))

#: What a client is told whose backend was killed, or raised an exception.
LOST = 1011
#: What a handshake is answered when a backend dies under it.
REFUSALS = {502, 503, 504}
#: What uvicorn's implementations log as an error, one of them when a client leaves during its
#: handshake, the other when an application refuses one with a response.
MISTAKEN = {
    "uvicorn.error: ASGI callable returned without sending handshake.",
    "uvicorn.error: ASGI callable returned without completing handshake.",
}
SIZES = (0, 1, 125, 126, 5_000, 70_000)


@dataclass
class Tally:
    """What clients have met."""

    echoes: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    #: Backends that were killed so far.
    kills: int = 0


class Client:
    """A visitor who opens one WebSocket after another and ends each in some way."""

    def __init__(self, url: str, seed: int, tally: Tally) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._tally = tally
        self._kills = 0
        self._ways: Sequence[Callable[[ClientConnection], Awaitable[None]]] = (
            self._leave,
            self._have_closed,
            self._have_it_die,
            self._vanish,
            self._vanish_amid_a_message,
        )

    async def open(self) -> ClientConnection:
        """A WebSocket that has carried a message."""
        self._kills = self._tally.kills
        client = await connect(
            self._url, compression=None, ping_interval=None, open_timeout=30, close_timeout=10
        )
        await self._echo(client)
        return client

    async def live(self, client: ClientConnection, until: float) -> None:
        """Use this WebSocket and others, until a time."""
        loop = asyncio.get_running_loop()
        await self._use(client)
        while loop.time() < until:
            try:
                if self._random.random() < 0.1:
                    await self._change_mind()
                else:
                    await self._use(await self.open())
            except InvalidStatus as exc:
                status = exc.response.status_code
                self._tally.ends[f"refused with {status}"] += 1
                if status not in REFUSALS:
                    self._tally.problems.append(f"refused with {status}")
                await asyncio.sleep(0.05)
            except ConnectionClosed as exc:
                self._closed(exc)

    async def _change_mind(self) -> None:
        """Leave during the handshake."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._random.uniform(0, 0.05)):
                client = await self.open()
                client.transport.abort()
        self._tally.ends["changed its mind"] += 1

    async def _use(self, client: ClientConnection) -> None:
        way = self._random.choice(self._ways)
        try:
            for _ in range(self._random.randint(0, 5)):
                await self._echo(client)
                await asyncio.sleep(self._random.uniform(0, 0.5))
            self._tally.ends[way.__name__] += 1
            await way(client)
        except ConnectionClosed as exc:
            self._closed(exc)
        finally:
            client.transport.abort()

    def _closed(self, exc: ConnectionClosed, expected: int | None = None) -> None:
        """What a client was told that has not left by itself."""
        self._ended(1006 if exc.rcvd is None else int(exc.rcvd.code), expected)

    def _ended(self, code: int, expected: int | None) -> None:
        self._tally.codes[code] += 1
        # Its backend may have been killed only if one was, since it was opened.
        may_be_lost = self._tally.kills > self._kills
        if code != expected and not (code == LOST and may_be_lost):
            self._tally.problems.append(f"closed with {code} in place of {expected}")

    async def _echo(self, client: ClientConnection) -> None:
        size = self._random.choice(SIZES)
        data = self._random.randbytes(size)
        message = data if self._random.random() < 0.5 else data.hex()[:size]
        await client.send(message)
        answer = await client.recv()
        self._tally.echoes += 1
        if answer != message:
            self._tally.problems.append(f"{len(answer)} came back for {size}")

    # Ends

    async def _leave(self, client: ClientConnection) -> None:
        code = self._random.choice((1000, 1001, 3000, 4999))
        await client.close(code, "going")
        self._ended(client.protocol.close_code or 0, code)

    async def _have_closed(self, client: ClientConnection) -> None:
        code = self._random.choice((1000, 1001, 1003, 1008, 1012, 3000, 4001))
        await self._until_closed(client, f"close {code}", code)

    async def _have_it_die(self, client: ClientConnection) -> None:
        await self._until_closed(client, "die", LOST)

    async def _until_closed(self, client: ClientConnection, message: str, expected: int) -> None:
        await client.send(message)
        try:
            async with asyncio.timeout(20):
                await client.recv()
        except ConnectionClosed as exc:
            self._closed(exc, expected)
        except TimeoutError:
            self._tally.problems.append(f"nothing came after {message!r}")

    async def _vanish(self, client: ClientConnection) -> None:
        await client.send("x" * self._random.choice(SIZES))
        client.transport.abort()

    async def _vanish_amid_a_message(self, client: ClientConnection) -> None:
        # The head of a masked frame of 64 KiB, and a part of it.
        with contextlib.suppress(RuntimeError):  # The gateway may just have closed it.
            client.transport.write(b"\x82\xff" + (65536).to_bytes(8) + bytes(4 + 1000))
        await asyncio.sleep(0)
        client.transport.abort()


async def kill_backends(backends: Sequence[ProcessBackend], until: float, tally: Tally) -> None:
    """Kill a backend, start it again, and so on."""
    order = random.Random(SEED)
    loop = asyncio.get_running_loop()
    while not tally.kills or loop.time() < until:
        backend = order.choice(backends)
        tally.kills += 1
        backend.kill()
        await asyncio.to_thread(backend.start)
        await asyncio.sleep(order.uniform(0, 1))


def open_websockets(front: Watched) -> int:
    """Connections to backends that carry a WebSocket, or did and still stand."""

    def count() -> int:
        return sum(
            len(client.websockets)
            for runtime in front.gateway._runtimes._by_loop.values()
            for clients in runtime.clients._pools.values()
            for _, client in clients.by_id.values()
            if isinstance(client, Http1Client)
        )

    return front.server.call(count)


@pytest.fixture(scope="module")
def backends() -> Iterator[list[ProcessBackend]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                ProcessBackend(
                    "tests.websocket_apps:echo", options=["--ws", "auto", "--log-level", "critical"]
                )
            )
            for _ in range(3)
        ]


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
def test_chaos_leaves_nothing_behind(ws: str, backends: list[ProcessBackend]) -> None:
    tally = Tally()
    pool = Pool(
        "shop",
        [backend.url for backend in backends],
        affinity=SignedCookie(SECRET),
        websocket=WebSocketOptions(close_timeout=2),
    )

    async def chaos(front: Watched) -> None:
        url = f"ws://127.0.0.1:{front.port}/"
        clients = [Client(url, SEED * 10_000 + number, tally) for number in range(CLIENTS)]
        opened = await asyncio.gather(*[client.open() for client in clients])
        assert pool.in_flight == open_websockets(front) == CLIENTS
        until = asyncio.get_running_loop().time() + SECONDS
        killer = asyncio.create_task(kill_backends(backends, until, tally))
        lives = [client.live(one, until) for client, one in zip(clients, opened, strict=True)]
        await asyncio.gather(*lives)
        await killer

    with watched(pool, "httptools", server={"ws": ws}) as front:
        asyncio.run(chaos(front))
        assert not tally.problems, Counter(tally.problems)
        assert {*front.server.errors} <= MISTAKEN
        assert tally.echoes > CLIENTS
        assert {LOST, 1000, 4001} <= tally.codes.keys()
        eventually(lambda: front.server.connections == 0)
        eventually(lambda: open_websockets(front) == 0)
        codes = {event.close_code for event in front.events}
        assert {1000, 1006} <= codes
    assert tally.kills
