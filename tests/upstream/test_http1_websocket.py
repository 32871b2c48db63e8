"""WebSockets to backends by URL. The peers are threads that speak raw bytes, or `websockets`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import math
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio import server as real

from sticky_asgi import (
    TLS,
    Backend,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
    Timeouts,
    WebSocketOptions,
)
from sticky_asgi.request import RawHeaders
from sticky_asgi.upstream import (
    UpstreamRequest,
    UpstreamWebSocket,
    WebSocketEnded,
)
from sticky_asgi.upstream.connections import Http1Client
from sticky_asgi.upstream.http1 import READ_SIZE
from sticky_asgi.upstream.http1_response import HIGH_WATER
from sticky_asgi.upstream.http1_websocket import Http1WebSocket
from sticky_asgi.upstream.httpx_client import HttpxClient
from tests import servers
from tests.conftest import Authority
from tests.servers import Connection, RawBackend, RawRequest
from tests.upstream.test_connections import Run, VirtualLoop, advance, settle, until
from tests.websocket_peers import BINARY, CLOSE, PING, PONG, TEXT, frame, read_frame, upgrade

CONTINUATION = 0


@pytest.fixture(
    params=[
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


run_once = Run(asyncio.new_event_loop)
run_virtually = Run(VirtualLoop)


def handshake(*offered: str, headers: RawHeaders | None = None) -> UpstreamRequest:
    fields = [(b"host", b"shop.test"), *(headers or [])]
    if offered:
        fields.append((b"sec-websocket-protocol", ", ".join(offered).encode()))
    return UpstreamRequest("GET", b"/chat?x=%2F", fields)


def client_of(url: str, timeouts: Timeouts | None = None, **options: Any) -> Http1Client:
    tls = options.pop("tls", None)
    return Http1Client(
        Backend(url),
        timeouts=timeouts or Timeouts(),
        tls=tls,
        websocket=WebSocketOptions(**options),
    )


async def opened(client: Http1Client, *offered: str) -> Http1WebSocket:
    answer = await client.open_websocket(handshake(*offered))
    assert isinstance(answer, Http1WebSocket), answer.status
    return answer


async def end_of(websocket: UpstreamWebSocket) -> WebSocketEnded:
    """What it ended with. Messages before that are thrown away."""
    try:
        while True:
            await websocket.receive()
    except WebSocketEnded as ended:
        return ended


async def closed(client: Http1Client) -> None:
    """Close a client, and see that nothing is left of it."""
    await client.aclose()
    await until(lambda: not client.websockets)
    assert client.busy == 0


def accept_of(request: RawRequest) -> bytes:
    key = request.get(b"sec-websocket-key")
    assert key is not None
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def speaking(*data: bytes) -> servers.Handler:
    """A handler that accepts, sends this, and reads to the end."""

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.send(b"".join(data))
        connection.wait_closed()

    return handler


class Recorder:
    """A handler that accepts, sends `data`, and keeps every frame it gets.

    It answers a close with a close and then ends, as RFC 6455 wants it.
    """

    def __init__(self, *data: bytes) -> None:
        self.data = data
        self.frames: list[tuple[int, bytes]] = []

    def __call__(self, connection: Connection) -> None:
        upgrade(connection)
        connection.send(b"".join(self.data))
        while True:
            opcode, data = read_frame(connection)
            self.frames.append((opcode, data))
            if opcode == CLOSE:
                if not any(item[0] & 0x0F == CLOSE for item in self.data if item):
                    connection.send(frame(CLOSE, data))
                return


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Flood:
    """A handler that accepts and sends messages of a size, many at a time, then a close."""

    def __init__(self, size: int, count: float = math.inf) -> None:
        self.message = frame(BINARY, bytes(size))
        self.count = count
        self.sent = 0

    def __call__(self, connection: Connection) -> None:
        upgrade(connection)
        batch = max(1, 20_000 // len(self.message))
        while self.sent < self.count:
            connection.send(self.message * batch)
            self.sent += batch
        connection.send(close_frame(1000))
        connection.wait_closed()

    async def stalls(self) -> None:
        """Wait until it is not let go on."""
        before = -1
        while before != self.sent:
            before = self.sent
            await asyncio.sleep(0.1)


# The handshake


def test_what_is_asked(run: Run) -> None:
    async def main() -> None:
        with RawBackend(speaking()) as backend:
            client = client_of(backend.url)
            headers = [(b"cookie", b"a=1"), (b"origin", b"http://shop.test")]
            for _ in range(2):
                answer = await client.open_websocket(handshake("b", "a", headers=headers))
                await answer.aclose()
            await closed(client)
            first, second = backend.requests
            assert first.head.startswith(b"GET /chat?x=%2F HTTP/1.1\r\n")
            key = first.get(b"sec-websocket-key") or b""
            assert first.headers == [
                (b"host", b"shop.test"),
                *headers,
                (b"sec-websocket-protocol", b"b, a"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-version", b"13"),
                (b"sec-websocket-key", key),
            ]
            assert len(base64.b64decode(key, validate=True)) == 16
            assert key != second.get(b"sec-websocket-key")

    run(main)


def test_what_is_answered(run: Run) -> None:
    fields = [
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Server", b"x"),
        (b"Sec-WebSocket-Protocol", b"b"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Content-Length", b"0"),
        (b"Keep-Alive", b"timeout=5"),
    ]

    def handler(connection: Connection) -> None:
        upgrade(connection, fields)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client, "a", "b")
            assert isinstance(websocket, UpstreamWebSocket)
            assert websocket.status == 101
            assert websocket.subprotocol == "b"
            assert websocket.headers == [
                (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"server", b"x"),
            ]  # fmt: skip
            assert client.websockets == {websocket}
            await websocket.aclose()
            await closed(client)

    run(main)


LIES = {
    "wrong-accept": [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: eA=="],
    "no-accept": [b"Upgrade: websocket", b"Connection: Upgrade"],
    "two-accepts": [b"Upgrade: websocket", b"Connection: Upgrade", b"ACCEPT", b"ACCEPT"],
    "no-upgrade": [b"Connection: Upgrade", b"ACCEPT"],
    "other-upgrade": [b"Upgrade: h2c", b"Connection: Upgrade", b"ACCEPT"],
    "two-upgrades": [b"Upgrade: websocket, h2c", b"Connection: Upgrade", b"ACCEPT"],
    "no-connection": [b"Upgrade: websocket", b"ACCEPT"],
    "other-connection": [b"Upgrade: websocket", b"Connection: close", b"ACCEPT"],
    "extension": [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"ACCEPT",
        b"Sec-WebSocket-Extensions: permessage-deflate",
    ],
    "subprotocol": [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"ACCEPT",
        b"Sec-WebSocket-Protocol: c",
    ],
    "two-subprotocols": [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"ACCEPT",
        b"Sec-WebSocket-Protocol: a, b",
    ],
    "http-1.0": [b"Upgrade: websocket", b"Connection: Upgrade", b"ACCEPT"],
    "control-character": [b"Upgrade: websocket", b"Connection: Upgrade", b"ACCEPT", b"X: a\0b"],
    "head-too-large": [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"ACCEPT",
        b"X: " + b"x" * 70000,
    ],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bad_acceptance(lie: str) -> None:
    def handler(connection: Connection) -> None:
        request = connection.read_head()
        accept = b"Sec-WebSocket-Accept: " + accept_of(request)
        version = b"HTTP/1.0" if lie == "http-1.0" else b"HTTP/1.1"
        lines = [accept if line == b"ACCEPT" else line for line in LIES[lie]]
        head = [version + b" 101 Switching Protocols", *lines]
        connection.send(b"\r\n".join(head) + b"\r\n\r\n" + frame(TEXT, b"hello"))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            with pytest.raises(MalformedResponse) as caught:
                await client.open_websocket(handshake("a", "b"))
            assert caught.value.stage == "head"
            assert caught.value.side == "backend"
            await until(lambda: backend.connection().done.is_set())
            await closed(client)

    run_once(main)


@pytest.mark.parametrize(
    ("upgrade_line", "connection_line"),
    [
        pytest.param(b"Upgrade: WebSocket", b"Connection: keep-alive, UPGRADE", id="case"),
        pytest.param(b"upgrade:websocket  ", b"connection:\tupgrade", id="spaces"),
    ],
)
def test_an_odd_but_right_acceptance(run: Run, upgrade_line: bytes, connection_line: bytes) -> None:
    def handler(connection: Connection) -> None:
        accept = accept_of(connection.read_head())
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        lines = [upgrade_line, connection_line, b"sec-websocket-accept: " + accept]
        # One byte at a time, frames and all.
        data = b"\r\n".join([b"HTTP/1.1 101 Whatever", *lines]) + b"\r\n\r\n"
        data += frame(TEXT, b"h\xc3\xa9") + frame(BINARY, b"")
        for byte in data:
            connection.send(bytes([byte]))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            assert websocket.subprotocol is None
            assert [await websocket.receive() for _ in range(2)] == ["hé", b""]
            await websocket.aclose()
            await closed(client)

    run(main)


def test_messages_that_come_with_the_head_and_the_end(run: Run) -> None:
    """All of it in one segment: nothing of it may be lost to the HTTP side."""

    def handler(connection: Connection) -> None:
        accept = accept_of(connection.read_head())
        connection.send(
            b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            + frame(TEXT, b"one") + frame(TEXT, b"two") + close_frame(4000, b"done")
        )  # fmt: skip

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            assert [await websocket.receive() for _ in range(2)] == ["one", "two"]
            ended = await end_of(websocket)
            assert (ended.code, ended.reason, ended.error) == (4000, "done", None)
            await websocket.aclose()
            await closed(client)

    run(main)


@pytest.mark.parametrize("status", [200, 204, 302, 403, 426, 503])
def test_a_refusal(run: Run, status: int) -> None:
    body = b"" if status == 204 else b"who are you?"
    fields = [(b"WWW-Authenticate", b"Some x=1")]
    if status == 204:
        refusal = b"HTTP/1.1 204 No\r\nWWW-Authenticate: Some x=1\r\n\r\n"
    else:
        refusal = servers.response(status, body, fields)

    async def main() -> None:
        with RawBackend(servers.responding(refusal)) as backend:
            client = client_of(backend.url)
            answer = await client.open_websocket(handshake())
            assert not isinstance(answer, UpstreamWebSocket)
            assert answer.status == status
            assert (b"www-authenticate", b"Some x=1") in answer.headers
            assert await answer.read() == body
            assert answer.at_end
            await answer.aclose()
            # The connection is as good as any other afterwards.
            assert client.idle == 1
            again = await client.send(UpstreamRequest("GET", b"/", [(b"host", b"a")]))
            await again.aclose()
            assert len(backend.connections) == 1
            await closed(client)

    run(main)


def test_a_new_connection_each_time(run: Run) -> None:
    def handler(connection: Connection) -> None:
        if connection.index == 0:
            connection.read_request()
            connection.send(servers.response(200, b"ok"))
        else:
            upgrade(connection)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            response = await client.send(UpstreamRequest("GET", b"/", [(b"host", b"a")]))
            assert await response.read() == b"ok"
            assert client.idle == 1
            websocket = await opened(client)
            assert len(backend.connections) == 2
            await websocket.aclose()
            await closed(client)

    run(main)


def test_nobody_there(run: Run) -> None:
    async def main() -> None:
        with servers.refusing_port() as port, servers.unanswered_port() as silent:
            with pytest.raises(ConnectError) as caught:
                await client_of(f"http://127.0.0.1:{port}").open_websocket(handshake())
            assert not caught.value.request_sent
            client = client_of(f"http://127.0.0.1:{silent}", Timeouts(connect=0.05))
            with pytest.raises(ConnectTimeout):
                await client.open_websocket(handshake())

    run(main)


def test_a_handshake_that_is_never_answered(run: Run) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url, Timeouts(response=0.05))
            with pytest.raises(ResponseTimeout) as caught:
                await client.open_websocket(handshake())
            assert caught.value.request_sent
            await closed(client)

    run(main)


@pytest.mark.parametrize(
    "part", [b"", b"HTTP/1.1 101 Switching Pro", b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n"]
)
def test_a_handshake_that_breaks_off(run: Run, part: bytes) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(part)
        connection.reset()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            with pytest.raises(ConnectionLost):
                await client.open_websocket(handshake())
            await closed(client)

    run(main)


def test_nobody_waits_for_the_handshake_any_more(run: Run) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            task = asyncio.create_task(client.open_websocket(handshake()))
            await asyncio.to_thread(backend.wait_request)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: backend.connection().done.is_set())
            await closed(client)

    run(main)


def test_cancelled_as_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the acceptance and whoever waits for it."""
    taken = Http1WebSocket.take_over

    async def main() -> None:
        def take_over(self: Http1WebSocket, transport: asyncio.Transport, data: bytes) -> None:
            taken(self, transport, data)
            task.cancel()

        monkeypatch.setattr(Http1WebSocket, "take_over", take_over)
        with RawBackend(speaking()) as backend:
            client = client_of(backend.url)
            task = asyncio.create_task(client.open_websocket(handshake()))
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: backend.connection().done.is_set())
            await closed(client)

    run_once(main)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sticky_asgi.upstream.http1_websocket")
    monkeypatch.setitem(sys.modules, "websockets.protocol", None)

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"sticky-asgi\[websocket\]"):
            await client_of("http://127.0.0.1:1").open_websocket(handshake())

    run_once(main)


# Messages

MESSAGES: list[str | bytes] = [
    "", b"", "hello", "grüße \U0001f36a", b"\x00\xff", "x" * 125, "x" * 126, b"y" * 65535,
    b"y" * 65536, "z" * 1_000_000, b"\x80" * 3_000_000,
]  # fmt: skip


async def echo(connection: real.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.mark.parametrize("is_announced", [False, True], ids=["cut", "close-notify"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["no-close", "close"])
def test_everything_at_once_over_tls(
    run: Run, authority: Authority, is_announced: bool, is_closed: bool
) -> None:
    """The end of TLS arrives in the same breath as the switch."""

    def handler(connection: Connection) -> None:
        accept = accept_of(connection.read_head())
        connection.send(
            b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            + frame(TEXT, b"one") + (close_frame(4000) if is_closed else b"")
        )  # fmt: skip
        if is_announced:
            with suppress(OSError):
                connection.socket.unwrap()  # type: ignore[attr-defined]

    async def main() -> None:
        with RawBackend(handler, ssl_context=authority.server_context()) as backend:
            client = client_of(backend.url, tls=TLS(ca_file=authority.ca_file))
            websocket = await opened(client)
            assert await websocket.receive() == "one"
            assert (await end_of(websocket)).code == (4000 if is_closed else 1006)
            await websocket.aclose()
            await closed(client)

    run(main)


async def exchange(client: Http1Client) -> None:
    websocket = await opened(client, "a", "b")
    assert websocket.subprotocol == "b"
    for message in MESSAGES:
        await websocket.send(message)
        assert await websocket.receive() == message
    await websocket.close(4001, "für immer")
    await websocket.aclose()
    await closed(client)


def test_both_ways_with_a_real_server(run: Run) -> None:
    async def main() -> None:
        async with real.serve(echo, "127.0.0.1", 0, subprotocols=["b"], max_size=None) as server:  # type: ignore[list-item]
            port = server.sockets[0].getsockname()[1]
            await exchange(client_of(f"http://127.0.0.1:{port}"))

    run(main)


def test_both_ways_over_tls(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with real.serve(
            echo,
            "127.0.0.1",
            0,
            subprotocols=["b"],  # type: ignore[list-item]
            max_size=None,
            ssl=authority.server_context(),
        ) as server:
            port = server.sockets[0].getsockname()[1]
            tls = TLS(ca_file=authority.ca_file)
            await exchange(client_of(f"https://127.0.0.1:{port}", tls=tls))

    run(main)


def test_both_ways_over_a_unix_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        async with real.unix_serve(echo, path, subprotocols=["b"], max_size=None):
            await exchange(client_of(f"http+unix://{path}"))

    run(main)


def test_past_a_transport_of_httpx(run: Run) -> None:
    async def main() -> None:
        with RawBackend(speaking(frame(TEXT, b"hello"))) as backend:
            transport = httpx.MockTransport(lambda request: httpx.Response(200))
            client = HttpxClient(Backend(backend.url), transport, timeouts=Timeouts())
            websocket = await client.open_websocket(handshake())
            assert isinstance(websocket, UpstreamWebSocket)
            assert await websocket.receive() == "hello"
            await websocket.aclose()
            await client.aclose()
            await until(lambda: not client.own.websockets)

    run(main)


def test_fragments_are_joined(run: Run) -> None:
    text = "grüße \U0001f36a".encode()
    pieces = [text[:3], b"", text[3:8], text[8:]]
    frames = [
        frame(CONTINUATION if index else TEXT, piece, fin=index == 3)
        for index, piece in enumerate(pieces)
    ]
    # RFC 6455 §5.4: control frames may stand between fragments.
    recorder = Recorder(
        frames[0], frame(PING, b"?"), *frames[1:], frame(BINARY, b"a", fin=False),
        frame(CONTINUATION, b"b"), frame(TEXT, b"next"),
    )  # fmt: skip

    async def main() -> None:
        with RawBackend(recorder) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            assert await websocket.receive() == text.decode()
            assert await websocket.receive() == b"ab"
            assert await websocket.receive() == "next"
            await until(lambda: recorder.frames == [(PONG, b"?")])
            await websocket.aclose()
            await closed(client)

    run(main)


def test_fragments_without_end_take_no_memory() -> None:
    """A fragment of nothing may follow another for ever; the limit does not see them."""
    fragments = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, fin=False) * 50_000
    last = frame(CONTINUATION, b"b")

    async def main() -> None:
        with RawBackend(speaking(fragments, frame(PING, b"1"), last)) as backend:
            client = client_of(backend.url, max_message=2)
            websocket = await opened(client)
            assert await websocket.receive() == "ab"
            assert repr(websocket).endswith("open, 0 bytes held>")
            await websocket.aclose()
            await closed(client)

    run_once(main)


BAD = {
    "utf-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "utf-8-cut-short": (frame(TEXT, "é".encode()[:1]), 1007),
    "utf-8-in-fragments": (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\xff"), 1007),
    "too-big": (frame(BINARY, b"x" * 1001), 1009),
    "too-big-in-fragments": (
        frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 401),
        1009,
    ),
    "too-big-announced": (b"\x82\x7f" + b"\x7f" * 8, 1009),
    "masked": (frame(TEXT, b"hello", mask=True), 1002),
    "reserved-bit": (b"\xc1\x00", 1002),
    "opcode": (frame(3), 1002),
    "continuation-of-nothing": (frame(CONTINUATION, b"a"), 1002),
    "unfinished": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "long-ping": (frame(PING, b"x" * 126), 1002),
    "ping-in-fragments": (frame(PING, fin=False), 1002),
    "close-of-one-byte": (frame(CLOSE, b"x"), 1002),
    "close-code": (close_frame(1005), 1002),
    "close-reason": (close_frame(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
def test_what_breaks_the_protocol(data: bytes, code: int) -> None:
    frames: list[tuple[int, bytes]] = []

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.send(frame(TEXT, b"good") + data + frame(TEXT, b"late"))
        frames.append(read_frame(connection))

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url, max_message=1000)
            websocket = await opened(client)
            assert await websocket.receive() == "good"
            ended = await end_of(websocket)
            assert (ended.code, ended.reason) == (1006, "")
            assert isinstance(ended.error, MalformedResponse)
            assert ended.error.stage == "body"
            with pytest.raises(WebSocketEnded):
                await websocket.send("more")
            await websocket.close()
            await websocket.aclose()
            await until(lambda: frames)
            assert frames[0][0] == CLOSE
            assert struct.unpack("!H", frames[0][1][:2]) == (code,)
            await closed(client)

    run_once(main)


def test_as_large_as_allowed(run: Run) -> None:
    data = frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 400)

    async def main() -> None:
        with RawBackend(speaking(data, frame(BINARY, bytes(1000)))) as backend:
            client = client_of(backend.url, max_message=1000)
            websocket = await opened(client)
            assert await websocket.receive() == "x" * 1000
            assert await websocket.receive() == bytes(1000)
            await websocket.aclose()
            await closed(client)

    run(main)


# The end


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        pytest.param(close_frame(1000), 1000, "", id="normal"),
        pytest.param(close_frame(4999, "für immer".encode()), 4999, "für immer", id="reason"),
        pytest.param(frame(CLOSE), 1005, "", id="no-code"),
        pytest.param(close_frame(1012, b"x" * 123), 1012, "x" * 123, id="long"),
    ],
)
def test_the_backend_closes(run: Run, data: bytes, code: int, reason: str) -> None:
    recorder = Recorder(frame(TEXT, b"bye"), data)

    async def main() -> None:
        with RawBackend(recorder) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await until(lambda: recorder.frames)
            # Delivered though the end has come already; and the end is told again and again.
            assert await websocket.receive() == "bye"
            for _ in range(2):
                ended = await end_of(websocket)
                assert (ended.code, ended.reason, ended.error) == (code, reason, None)
            with pytest.raises(WebSocketEnded) as caught:
                await websocket.send("more")
            assert caught.value.code == code
            await websocket.close()
            await websocket.aclose()
            assert recorder.frames == [(CLOSE, data[2:])]
            # The backend is the one to end the connection (RFC 6455 §7.1.1).
            await until(lambda: not client.websockets)
            assert repr(websocket).endswith("closed, 0 bytes held>")
            await closed(client)

    run(main)


@pytest.mark.parametrize("how", ["finish", "reset"])
@pytest.mark.parametrize("part", [b"", b"\x81\x05he", frame(TEXT, b"a", fin=False)])
def test_the_backend_dies(run: Run, how: str, part: bytes) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.send(frame(TEXT, b"one") + part)
        assert read_frame(connection) == (TEXT, b"got it")
        getattr(connection, how)()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            assert await websocket.receive() == "one"
            await websocket.send("got it")
            ended = await end_of(websocket)
            assert ended.code == 1006
            assert isinstance(ended.error, ConnectionLost)
            assert ended.error.stage == "body"
            await websocket.close(1000)
            await websocket.aclose()
            await closed(client)

    run(main)


@pytest.mark.parametrize("end", [close_frame(4000, b"done"), b""])
def test_what_the_backend_said_before_a_write_failed(run: Run, end: bytes) -> None:
    """It closes the connection at once; what we write meets a reset."""
    go = threading.Event()
    said = frame(TEXT, b"bye") + frame(BINARY, bytes(100_000)) + frame(TEXT, b"last") + end

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait(go)
        connection.send(said)
        connection.reset()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            # Without letting the loop read meanwhile.
            go.set()
            assert backend.connection().done.wait(5)
            with suppress(WebSocketEnded):
                await websocket.send("more")
            assert [await websocket.receive() for _ in range(3)] == ["bye", bytes(100_000), "last"]
            ended = await end_of(websocket)
            assert (ended.code, ended.reason) == ((4000, "done") if end else (1006, ""))
            await websocket.aclose()
            await closed(client)

    run(main)


def test_whoever_waits_learns_of_the_end(run: Run) -> None:
    go = threading.Event()

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait(go)
        connection.reset()

    async def main() -> None:
        with RawBackend(handler, receive_buffer=4096) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            receiving = asyncio.create_task(websocket.receive())
            sending = asyncio.create_task(websocket.send(bytes(20_000_000)))
            await settle()
            go.set()
            for task in (receiving, sending):
                with pytest.raises(WebSocketEnded) as caught:
                    await task
                assert caught.value.code == 1006
            await websocket.aclose()
            await closed(client)

    run(main)


@pytest.mark.parametrize(
    ("code", "reason", "data"),
    [
        pytest.param(1000, "", b"\x03\xe8", id="normal"),
        pytest.param(4001, "für immer", b"\x0f\xa1" + "für immer".encode(), id="reason"),
        pytest.param(1005, "", b"", id="no-code"),
    ],
)
def test_the_gateway_closes(run: Run, code: int, reason: str, data: bytes) -> None:
    recorder = Recorder(frame(TEXT, b"unread"))

    async def main() -> None:
        with RawBackend(recorder) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            receiving = asyncio.create_task(end_of(websocket))
            await websocket.send("last")
            await websocket.close(code, reason)
            assert (await receiving).code == code
            assert recorder.frames == [(TEXT, b"last"), (CLOSE, data)]
            await websocket.close(4002, "again")
            await websocket.aclose()
            await websocket.aclose()
            assert len(recorder.frames) == 2
            await closed(client)

    run(main)


def test_a_close_is_answered_behind_much_that_nobody_read(run: Run) -> None:
    flood = Flood(65536, 200)

    async def main() -> None:
        with RawBackend(flood) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await flood.stalls()
            assert flood.sent < 200
            await websocket.close(1001)
            assert (await end_of(websocket)).code == 1000
            await websocket.aclose()
            await closed(client)

    run(main)


@pytest.mark.parametrize(
    "data", [close_frame(1000), frame(TEXT, b"\xff")], ids=["closed", "failed"]
)
def test_a_connection_that_is_never_ended(data: bytes) -> None:
    async def main() -> None:
        with RawBackend(speaking(data)) as backend:
            client = client_of(backend.url, close_timeout=7)
            websocket = await opened(client)
            await end_of(websocket)
            await websocket.aclose()
            await advance(6.9)
            assert client.websockets
            await advance(0.2)
            await until(lambda: not client.websockets)
            await until(lambda: backend.connection().done.is_set())
            await closed(client)

    run_virtually(main)


@pytest.mark.parametrize("is_answered", [False, True], ids=["never-answered", "never-ended"])
def test_a_close_is_waited_for_so_long(is_answered: bool) -> None:
    got: list[tuple[int, bytes]] = []

    def handler(connection: Connection) -> None:
        upgrade(connection)
        got.append(read_frame(connection))
        # RFC 6455 §7.1.1 has the server end the connection. This one does not.
        connection.send(frame(CLOSE, got[0][1]) if is_answered else frame(TEXT, b"what?"))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url, close_timeout=7)
            websocket = await opened(client)
            closing = asyncio.create_task(websocket.close(1000))
            await until(lambda: got)
            await settle()
            if is_answered:
                await closing
                await websocket.aclose()
            await advance(6.9)
            assert client.websockets
            await advance(0.2)
            await closing
            await until(lambda: not client.websockets)
            await until(lambda: backend.connection().done.is_set())
            await websocket.aclose()
            await closed(client)

    run_virtually(main)


def test_nobody_waits_for_the_close_any_more() -> None:
    async def main() -> None:
        with RawBackend(speaking()) as backend:
            client = client_of(backend.url, close_timeout=7)
            websocket = await opened(client)
            closing = asyncio.create_task(websocket.close())
            await settle()
            closing.cancel()
            await settle()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await websocket.aclose()
            assert client.websockets, "the timer looks after it"
            await advance(7.1)
            await until(lambda: not client.websockets)
            await closed(client)

    run_virtually(main)


def test_let_go_without_a_close(run: Run) -> None:
    async def main() -> None:
        with RawBackend(speaking(frame(TEXT, b"a"))) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await websocket.aclose()
            await websocket.aclose()
            ended = await end_of(websocket)
            assert (ended.code, ended.error) == (1006, None)
            with pytest.raises(WebSocketEnded):
                await websocket.send("more")
            await websocket.close()
            await until(lambda: backend.connection().done.is_set())
            await closed(client)

    run(main)


def test_a_client_that_is_closed_leaves_open_ones_open(run: Run) -> None:
    go = threading.Event()

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait(go)
        connection.send(close_frame(1000))
        connection.wait_closed()  # It never ends the connection.

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await client.aclose()
            await websocket.send("still there")
            assert websocket.is_open
            go.set()
            await end_of(websocket)
            await websocket.aclose()
            assert client.websockets
            await closed(client)

    run(main)


# Signs of life


def test_a_silent_backend_is_pinged_and_given_up() -> None:
    frames: list[tuple[int, bytes]] = []
    answer = threading.Event()

    def handler(connection: Connection) -> None:
        upgrade(connection)
        for index in itertools.count():
            frames.append(read_frame(connection))
            if index == 0:
                connection.send(frame(PONG, frames[0][1]))
            elif index == 1:
                connection.send(frame(TEXT, b"here"))
                answer.wait(10)

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url, ping_interval=20, ping_timeout=5)
            websocket = await opened(client)
            await advance(19.9)
            assert not frames
            await advance(0.2)
            await until(lambda: frames == [(PING, b"")])
            await wait_for_bytes(websocket)
            await advance(19.9)
            assert len(frames) == 1
            # Anything that comes is a sign of life.
            await advance(0.2)
            await until(lambda: len(frames) == 2)
            assert await websocket.receive() == "here"
            answer.set()
            receiving = asyncio.create_task(end_of(websocket))
            await advance(20.1)
            await until(lambda: len(frames) == 3)
            await advance(4.8)
            assert websocket.is_open
            await advance(0.3)
            ended = await receiving
            assert ended.code == 1006
            assert isinstance(ended.error, IdleTimeout)
            await until(lambda: len(frames) == 4)
            assert frames[3][0] == CLOSE
            assert struct.unpack("!H", frames[3][1][:2]) == (1011,)
            await until(lambda: not client.websockets)
            await websocket.aclose()
            await closed(client)

    run_virtually(main)


async def wait_for_bytes(websocket: Http1WebSocket) -> None:
    """Let what is under way arrive."""
    for _ in range(20):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("options", [{"ping_interval": None}, {"ping_timeout": None}])
def test_a_backend_may_be_silent_for_ever(options: dict[str, Any]) -> None:
    recorder = Recorder()

    async def main() -> None:
        with RawBackend(recorder) as backend:
            client = client_of(backend.url, **options)
            websocket = await opened(client)
            for _ in range(5):
                await advance(1000)
            assert websocket.is_open
            await websocket.close()
            await websocket.aclose()
            pings = [item for item in recorder.frames if item[0] == PING]
            assert len(pings) == (1 if "ping_timeout" in options else 0)
            await closed(client)

    run_virtually(main)


def test_a_backend_that_nobody_reads_is_not_given_up() -> None:
    """Its pongs stand behind what it has sent, and that is not its fault."""
    flood = frame(BINARY, bytes(65536)) * 40

    async def main() -> None:
        with RawBackend(speaking(flood)) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await wait_for_bytes(websocket)
            for _ in range(5):
                await advance(1000)
            assert websocket.is_open
            for _ in range(40):
                assert len(await websocket.receive()) == 65536
            # Now it is listened to again.
            await wait_for_bytes(websocket)
            await advance(20.1)
            await advance(20.1)
            assert not websocket.is_open
            await closed(client)

    run_virtually(main)


async def pour(websocket: Http1WebSocket, size: int) -> None:
    while True:
        await websocket.send(bytes(size))


@pytest.mark.parametrize("size", [60_000_000, 100_000])
def test_a_backend_that_reads_slowly_is_not_given_up(size: int) -> None:
    """The ping stands behind what takes longer than the timeout, and behind that comes more."""
    step = threading.Event()
    received = 0

    def handler(connection: Connection) -> None:
        nonlocal received
        upgrade(connection)
        while not connection.backend.stopping:
            connection.wait(step)
            step.clear()
            enough = received + 5_000_000
            while received < enough:
                received += len(connection.recv(65536))

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend.url, ping_interval=20, ping_timeout=5)
            websocket = await opened(client)
            sending = asyncio.create_task(pour(websocket, size))
            await wait_for_bytes(websocket)
            await advance(20.1)
            for _ in range(5):
                before = received
                step.set()
                await until(lambda at=before + 5_000_000: received >= at)  # type: ignore[misc]
                await wait_for_bytes(websocket)
                await advance(5.1)
                assert websocket.is_open
            await advance(5.1)
            assert not websocket.is_open, "and then it took in nothing any more"
            with pytest.raises(WebSocketEnded):
                await sending
            await closed(client)

    run_virtually(main)


# Bounds


@pytest.mark.parametrize(
    ("size", "most"),
    [
        # What one read brings goes in whole, and each message counts for 64 bytes at least.
        pytest.param(0, READ_SIZE // 2 * 64, id="empty"),
        pytest.param(10, READ_SIZE // 12 * 74, id="small"),
        pytest.param(10_000, 2 * READ_SIZE, id="large"),
        pytest.param(500_000, 500_000 + READ_SIZE, id="larger-than-all-bounds"),
    ],
)
def test_what_is_held_of_a_flood(run: Run, size: int, most: int) -> None:
    flood = Flood(size)

    async def main() -> None:
        with RawBackend(flood) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await flood.stalls()
            held = int(repr(websocket).split(", ")[1].split()[0])
            assert HIGH_WATER < held < HIGH_WATER + most
            await websocket.aclose()
            await closed(client)

    run(main)


def test_a_slow_reader_slows_the_backend_and_gets_all(run: Run) -> None:
    flood = Flood(20_000, 1000)

    async def main() -> None:
        with RawBackend(flood) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            await flood.stalls()
            assert flood.sent < 1000
            for _ in range(1000):
                assert len(await websocket.receive()) == 20_000
            assert (await end_of(websocket)).code == 1000
            await websocket.aclose()
            await closed(client)

    run(main)


def test_a_slow_backend_slows_the_sender(run: Run) -> None:
    go = threading.Event()
    received = 0

    def handler(connection: Connection) -> None:
        nonlocal received
        upgrade(connection)
        connection.wait(go)
        while (got := read_frame(connection))[0] != CLOSE:
            received += len(got[1])
        connection.send(frame(CLOSE, got[1]))

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(200):
                    await websocket.send(bytes(100_000))
                    sent += 1

            sending = asyncio.create_task(send())
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 150, "it is held up"
            go.set()
            await sending
            await websocket.close()
            assert received == 20_000_000
            await websocket.aclose()
            await closed(client)

    run(main)


def test_pings_of_a_backend_that_does_not_listen(run: Run) -> None:
    """Their pongs must not pile up. Of those the last one is enough (RFC 6455 §5.5.3)."""
    go = threading.Event()
    pings = frame(PING, b"x" * 100) * 1000
    pongs: list[bytes] = []

    def handler(connection: Connection) -> None:
        upgrade(connection)
        for _ in range(200):
            connection.send(pings)
        connection.send(frame(PING, b"last"))
        connection.send(frame(TEXT, b"done"))
        connection.wait(go)
        while (got := read_frame(connection))[0] != CLOSE:
            pongs.append(got[1])
        connection.send(frame(CLOSE, got[1]))

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            assert await websocket.receive() == "done"
            assert websocket._backlog < 500_000
            go.set()
            await websocket.send("")
            await until(lambda: b"last" in pongs)
            assert len(pongs) < 200_000
            await websocket.close()
            await websocket.aclose()
            await closed(client)

    run(main)


def test_a_cancelled_receive_loses_nothing(run: Run) -> None:
    go = threading.Event()

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait(go)
        connection.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend.url)
            websocket = await opened(client)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await websocket.receive()
            assert not websocket._waiters
            go.set()
            assert [await websocket.receive(), await websocket.receive()] == ["one", "two"]
            await websocket.aclose()
            await closed(client)

    run(main)


class Wire(asyncio.Transport):
    """A transport that leads nowhere, for what is about the order of bytes alone."""

    def __init__(self, *, is_lost: bool = False) -> None:
        super().__init__()
        self.written = b""
        self.is_lost = is_lost

    def is_closing(self) -> bool:
        return self.is_lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


def in_fragments(message: str | bytes, cuts: list[int]) -> bytes:
    data = message.encode() if isinstance(message, str) else message
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    result, start = b"", 0
    for index, end in enumerate(ends):
        opcode = CONTINUATION if index else TEXT if isinstance(message, str) else BINARY
        result += frame(opcode, data[start:end], fin=index == len(ends) - 1)
        start = end
    return result


@given(
    messages=st.lists(
        st.tuples(
            st.one_of(st.text(max_size=200), st.binary(max_size=200)),
            st.lists(st.integers(0, 200), max_size=3),
        ),
        max_size=5,
    ),
    pings=st.lists(st.binary(max_size=125), max_size=2),
    cuts=st.lists(st.integers(0, 2000), max_size=20),
)
def test_however_the_bytes_arrive(
    messages: list[tuple[str | bytes, list[int]]], pings: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(in_fragments(*message) for message in messages)
    data += b"".join(frame(PING, ping) for ping in pings) + close_frame(4001, b"bye")

    async def main() -> None:
        buffer = memoryview(bytearray(READ_SIZE))
        options = WebSocketOptions()
        websocket = Http1WebSocket("backend a", options=options, buffer=buffer, registry=set())
        wire = Wire()
        ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
        websocket.take_over(wire, data[: ends[0]])
        for start, end in itertools.pairwise(ends):
            if start < end:
                websocket.get_buffer(-1)[: end - start] = data[start:end]
                websocket.buffer_updated(end - start)
        for message, _ in messages:
            assert await websocket.receive() == message
        ended = await end_of(websocket)
        assert (ended.code, ended.reason) == (4001, "bye")
        sizes = [6 + len(ping) for ping in pings] + [6 + 5]
        assert len(wire.written) == sum(sizes)
        websocket.connection_lost(None)

    asyncio.run(main())


def test_a_connection_that_is_lost_already() -> None:
    """Its end has been told to the one it is taken over from."""

    async def main() -> None:
        registry: set[Http1WebSocket] = set()
        buffer, options = memoryview(bytearray(64)), WebSocketOptions()
        websocket = Http1WebSocket("backend a", options=options, buffer=buffer, registry=registry)
        websocket.take_over(Wire(is_lost=True), frame(TEXT, b"last"))
        assert not registry
        assert await websocket.receive() == "last"
        ended = await end_of(websocket)
        assert ended.code == 1006
        assert isinstance(ended.error, ConnectionLost)
        await websocket.aclose()

    run_once(main)
