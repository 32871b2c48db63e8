"""`uvicorn_websocket`: an application gets, and a client reads, what they do with uvicorn's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol as UvicornsOwn,
)
from uvicorn.server import ServerState
from websockets.protocol import OPEN

from sticky_asgi import cli
from sticky_asgi.upstream.frames import FrameReader
from sticky_asgi.uvicorn_websocket import HIGH_WATER, WebSocketsSansIOProtocol
from tests import servers
from tests import websocket_peers as peers
from tests.loops import turn
from tests.websocket_peers import handshake
from tests.websocket_streams import (
    BINARY,
    FIN,
    MOST,
    TEXT,
    corpus,
    every_cut,
    frame,
    pieces,
    streams,
)

OURS = "sticky_asgi.uvicorn_websocket:WebSocketsSansIOProtocol"
DEFLATE = [(b"Sec-WebSocket-Extensions", b"permessage-deflate")]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """uvicorn logs a traceback for each message that is not UTF-8."""
    logger = logging.getLogger("uvicorn.error")
    level, logger.level = logger.level, logging.CRITICAL
    yield
    logger.setLevel(level)


class Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_being_read = True
        self.is_ended = False

    def write(self, data: Any) -> None:
        if data:
            self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.is_being_read = False

    def resume_reading(self) -> None:
        self.is_being_read = True

    def is_closing(self) -> bool:
        return self.is_ended

    def close(self) -> None:
        self.is_ended = True


class Served:
    """An application that sends back what it gets, and one connection to it.

    Args:
        kind: The protocol to serve it with.
        headers: Of the client's handshake.
    """

    def __init__(self, kind: type[UvicornsOwn], headers: Sequence[tuple[bytes, bytes]] = ()):
        self.may_accept = asyncio.Event()
        self.may_receive = asyncio.Event()
        self.may_receive.set()
        self.received: list[Message] = []
        self.wire = Wire()
        config = uvicorn.Config(
            self, ws_max_size=MOST, ws_ping_interval=None, log_config=None, lifespan="off"
        )
        config.load()
        self.protocol = kind(config, ServerState(), {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)
        self.protocol.data_received(handshake(headers=headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_accept.wait()
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await self.may_receive.wait()
            message = await receive()
            self.received.append(message)
            if message["type"] == "websocket.disconnect":
                return
            await send({**message, "type": "websocket.send"})

    async def accept(self) -> None:
        self.may_accept.set()
        await turn()

    async def feed(self, *chunks: bytes) -> None:
        """Let these arrive before anything else happens."""
        for chunk in chunks:
            if self.wire.is_ended:
                break
            try:
                self.protocol.data_received(chunk)
            except AssertionError:
                # uvicorn's, of a client that breaks the protocol before it is accepted. An event
                # loop closes the connection then.
                self.wire.close()
        await turn()

    async def end(self) -> None:
        await self.accept()
        self.protocol.connection_lost(None)
        await turn()


async def outcome(
    kind: type[UvicornsOwn], chunks: Sequence[bytes], *, early: int = 0, **options: Any
) -> tuple[list[Message], bytes, bool]:
    """What comes of it: messages, bytes, and whether it is closed.

    Of what arrives together with an error uvicorn drops every message. Those that ours has read by
    then are not: they count as if they had arrived just before.
    """
    served = Served(kind, **options)
    reader = FrameReader(is_masked=True, max_message=MOST)
    for number, chunk in enumerate(chunks):
        if number == early:
            await served.accept()
        if served.protocol.conn.state == OPEN:
            rest = reader.read(chunk)[1]
            end = len(chunk) - len(rest)
            await served.feed(*filter(None, (chunk[:end], rest)))
        else:
            reader.skip(chunk)
            await served.feed(chunk)
    await served.accept()
    is_ended = served.wire.is_ended
    await served.end()
    # Older versions of uvicorn leave the library's Date in.
    written = re.sub(rb"Date: .*\r\n", b"", b"".join(served.wire.written))
    return served.received, written, is_ended


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("name", corpus(is_masked=True))
def test_cut_anywhere(name: str, early: int) -> None:
    data = corpus(is_masked=True)[name]

    async def main() -> None:
        # What is written depends on what arrives together: an echo comes after a pong, or before.
        for chunks in every_cut(data)[:: max(1, len(data) // 60)]:
            expected = await outcome(UvicornsOwn, chunks, early=early)
            ours = await outcome(WebSocketsSansIOProtocol, chunks, early=early)
            assert ours == expected

    asyncio.run(main())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=streams(is_masked=True),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    early=st.sampled_from([0, 0, 1, 2]),
    headers=st.sampled_from([[], [], DEFLATE]),
)
def test_anything_cut_anywhere(
    data: bytes, cuts: list[int], early: int, headers: list[tuple[bytes, bytes]]
) -> None:
    async def main() -> None:
        chunks = pieces(data, cuts)
        expected = await outcome(UvicornsOwn, chunks, early=early, headers=headers)
        ours = await outcome(WebSocketsSansIOProtocol, chunks, early=early, headers=headers)
        assert ours == expected

    asyncio.run(main())


def test_messages_are_not_parsed_by_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError(args)

    async def main() -> None:
        served = Served(WebSocketsSansIOProtocol)
        await served.accept()
        for name in ("receive_data", "send_text", "send_binary"):
            monkeypatch.setattr(served.protocol.conn, name, fail)
        del served.wire.written[:]
        text = frame(FIN | TEXT, b"hello", is_masked=True)
        data = frame(FIN | BINARY, bytes(MOST), is_masked=True)
        await served.feed(text + data)
        assert served.wire.written == [
            frame(FIN | TEXT, b"hello", is_masked=False),
            frame(FIN | BINARY, bytes(MOST), is_masked=False),
        ]
        await served.end()

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, MOST])
def test_reading_pauses_when_the_application_is_behind(size: int) -> None:
    async def main() -> None:
        served = Served(WebSocketsSansIOProtocol)
        await served.accept()
        served.may_receive.clear()
        one = frame(FIN | BINARY, bytes(size), is_masked=True)
        # One is with the application already.
        await served.feed(one)
        taken = 0
        while served.wire.is_being_read:
            assert taken <= HIGH_WATER
            await served.feed(one * 8)
            taken += 8 * (size + 64)
        assert taken > HIGH_WATER
        served.may_receive.set()
        await turn()
        while len(served.received) < 1 + taken // (size + 64):
            assert not served.wire.is_being_read
            await turn()
        assert served.wire.is_being_read
        await served.end()

    asyncio.run(main())


def test_an_application_that_keeps_up_is_not_paused_for() -> None:
    async def main() -> None:
        served = Served(WebSocketsSansIOProtocol)
        await served.accept()
        one = frame(FIN | BINARY, bytes(MOST), is_masked=True)
        for _ in range(2 * HIGH_WATER // MOST):
            served.protocol.data_received(one)
            assert served.wire.is_being_read
            await turn()
        await served.end()

    asyncio.run(main())


def test_sending_waits_for_a_client_that_does_not_read() -> None:
    async def main() -> None:
        served = Served(WebSocketsSansIOProtocol)
        await served.accept()
        served.protocol.writable.clear()
        del served.wire.written[:]
        await served.feed(frame(FIN | TEXT, b"hello", is_masked=True))
        assert served.wire.written == []
        served.protocol.writable.set()
        await turn()
        assert served.wire.written == [frame(FIN | TEXT, b"hello", is_masked=False)]
        await served.end()

    asyncio.run(main())


def test_run_serves_with_it_if_uvicorn_would_take_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = "uvicorn.protocols.websockets.auto.AutoWebSocketsProtocol"
    monkeypatch.setattr(auto, UvicornsOwn)
    assert cli._websocket_protocol() is WebSocketsSansIOProtocol
    monkeypatch.setattr(auto, asyncio.Protocol)
    assert cli._websocket_protocol() == "auto"


# The end of the server


Ending = tuple[int, servers.RawClient, peers.Talker, Callable[[], None]]


@contextlib.contextmanager
def ending(
    patience: int | None,
) -> Iterator[tuple[int, servers.RawClient, peers.Talker, Callable[[], None]]]:
    """A client of a server that is told to end, and what waits for that."""
    talker = peers.Talker()
    with servers.serve(talker, ws=OURS, timeout_graceful_shutdown=patience) as server:
        with servers.RawClient(server.port) as client:
            client.send(handshake())
            assert client.read_head().status == 101
            server.call(setattr, server.server, "should_exit", True)
            yield server.port, client, talker, server.stop


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def echoes(client: servers.RawClient) -> bool:
    client.send(peers.frame(peers.TEXT, b"hello", mask=True))
    return peers.read_frame(client) == (peers.TEXT, b"hello")


def test_a_websocket_outlives_the_listener_and_the_server_ends_with_it() -> None:
    with ending(patience=3600) as (port, client, talker, stopped):
        servers.eventually(lambda: is_refused(port))
        assert echoes(client)
        client.send(peers.frame(peers.CLOSE, struct.pack("!H", 1000), mask=True))
        assert peers.read_frame(client) == (peers.CLOSE, struct.pack("!H", 1000))
        stopped()
        assert talker.ended == [(1000, "")]


@pytest.mark.parametrize(
    "patience", [pytest.param(1, id="its time is over"), pytest.param(None, id="no time")]
)
def test_a_websocket_is_told_to_come_back_in_the_end(patience: int | None) -> None:
    with ending(patience) as (_, client, talker, stopped):
        assert peers.read_frame(client) == (peers.CLOSE, struct.pack("!H", 1012))
        client.send(peers.frame(peers.CLOSE, struct.pack("!H", 1012), mask=True))
        stopped()
        assert [code for code, _ in talker.ended] == [1012]
