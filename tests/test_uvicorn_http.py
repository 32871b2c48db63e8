"""`uvicorn_http`: a response's head goes out with the beginning of its body, and nothing waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import uvicorn
import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi.uvicorn_http import JOINED, H11Protocol, HeadHolder, HttpToolsProtocol
from tests import servers
from tests.apps import lifespan
from tests.conftest import Authority
from tests.servers import RawClient, encode_request

CLASSES = [pytest.param(H11Protocol, id="h11"), pytest.param(HttpToolsProtocol, id="httptools")]


class Connection(asyncio.Transport):
    """A transport that writes down what it is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[bytes | str] = []
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.said.append(bytes(data))

    def write_eof(self) -> None:
        self.said.append("eof")

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.said.append("close")

    def abort(self) -> None:
        self.closing = True
        self.said.append("abort")

    def get_write_buffer_size(self) -> int:
        return 5


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Holding:
    """A holder over a `Connection`, in a loop that turns when told to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.below = Connection()
        self.holder = HeadHolder(self.below, self.loop)

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def holding() -> Iterator[Holding]:
    made = Holding()
    yield made
    made.loop.close()


def test_head_and_body_are_one_write(holding: Holding) -> None:
    holding.holder.write(HEAD)
    assert holding.below.said == []
    assert holding.holder.get_write_buffer_size() == len(HEAD) + 5
    holding.holder.write(b"body")
    assert holding.below.said == [HEAD + b"body"]
    holding.holder.write(b"more")
    holding.turn()
    assert holding.below.said == [HEAD + b"body", b"more"]
    assert holding.holder.get_write_buffer_size() == 5


def test_head_alone_goes_out_with_the_next_turn(holding: Holding) -> None:
    holding.holder.write(HEAD)
    holding.turn()
    assert holding.below.said == [HEAD]


def test_a_protocol_that_takes_over_finds_nothing_held_back(holding: Holding) -> None:
    holding.holder.write(HEAD)
    assert holding.holder.release() is holding.below
    assert holding.below.said == [HEAD]


def test_large_body_is_not_copied_behind_the_head(holding: Holding) -> None:
    body = bytes(JOINED + 1)
    holding.holder.write(HEAD)
    holding.holder.write(body)
    assert holding.below.said == [HEAD, body]


def test_nothing_but_a_head_waits(holding: Holding) -> None:
    holding.holder.write(b"5\r\nhello\r\n")
    holding.holder.writelines([b"a", b"b"])
    assert holding.below.said == [b"5\r\nhello\r\n", b"ab"]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        pytest.param("close", [HEAD, "close"], id="close"),
        pytest.param("write_eof", [HEAD, "eof"], id="eof"),
        pytest.param("abort", ["abort"], id="abort"),
    ],
)
def test_head_before_the_end(holding: Holding, ask: str, said: list[bytes | str]) -> None:
    holding.holder.write(HEAD)
    getattr(holding.holder, ask)()
    holding.turn()
    assert holding.below.said == said
    assert holding.holder.is_closing() is holding.below.closing


def test_connection_that_is_lost_meanwhile_is_not_written_to(holding: Holding) -> None:
    holding.holder.write(HEAD)
    holding.below.closing = True
    holding.turn()
    assert holding.below.said == []


# Over sockets


served = partial(servers.serve, lifespan="off")


def says(*messages: dict[str, Any]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


def start(status: int, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("protocol", CLASSES)
@pytest.mark.parametrize(
    ("method", "status", "pieces", "expected"),
    [
        pytest.param("GET", 200, [b"hello"], b"hello", id="small"),
        pytest.param("GET", 200, [b"x" * 300_000], b"x" * 300_000, id="large"),
        pytest.param("GET", 200, [b"a", b"b", b""], b"ab", id="in pieces"),
        pytest.param("GET", 200, [b""], b"", id="empty"),
        pytest.param("HEAD", 200, [b"hello"], b"", id="head"),
        pytest.param("GET", 204, [b""], b"", id="204"),
        pytest.param("GET", 304, [b""], b"", id="304"),
    ],
)
def test_responses_are_what_uvicorn_writes(
    protocol: type[asyncio.Protocol],
    loop: Any,
    method: str,
    status: int,
    pieces: list[bytes],
    expected: bytes,
) -> None:
    last = len(pieces) - 1
    app = says(start(status), *(body(piece, more=n < last) for n, piece in enumerate(pieces)))
    with served(app, http=protocol, loop=loop) as server, RawClient(server.port) as client:
        for _ in range(2):
            answer = client.request(method)
            assert (answer.status, answer.body) == (status, expected)


@pytest.mark.parametrize("protocol", CLASSES)
def test_pipelined_requests(protocol: type[asyncio.Protocol]) -> None:
    app = says(start(200), body(b"hello"))
    with served(app, http=protocol) as server, RawClient(server.port) as client:
        client.send(encode_request() * 3)
        assert [client.read_response().body for _ in range(3)] == [b"hello"] * 3


@pytest.mark.parametrize("protocol", CLASSES)
def test_head_arrives_before_there_is_a_body(protocol: type[asyncio.Protocol]) -> None:
    has_head = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"2")))
        await asyncio.to_thread(has_head.wait, servers.WAIT)
        await send(body(b"ok"))

    with served(app, http=protocol) as server, RawClient(server.port) as client:
        client.send(encode_request())
        answer = client.read_head()
        assert answer.get(b"content-length") == b"2"
        has_head.set()
        assert client.read_body(answer).body == b"ok"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("protocol", CLASSES)
def test_client_that_sends_nothing_more(protocol: type[asyncio.Protocol], loop: Any) -> None:
    app = says(start(200), body(b"unseen"))
    with served(app, http=protocol, loop=loop) as server, RawClient(server.port) as client:
        client.send(encode_request("HEAD"))
        client.finish()
        assert client.read_response("HEAD").status == 200


@pytest.mark.parametrize("protocol", CLASSES)
def test_closing_response(protocol: type[asyncio.Protocol]) -> None:
    app = says(start(200, (b"connection", b"close")), body(b"bye"))
    with served(app, http=protocol) as server, RawClient(server.port) as client:
        assert client.request().body == b"bye"
        assert client.wait_closed()


@pytest.mark.parametrize("protocol", CLASSES)
def test_continue_is_sent_when_the_body_is_asked_for(protocol: type[asyncio.Protocol]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        await send(start(200))
        await send(body(message["body"]))

    expects = [(b"expect", b"100-continue"), (b"content-length", b"2")]
    with served(app, http=protocol) as server, RawClient(server.port) as client:
        client.send(encode_request("POST", headers=expects))
        assert client.recv().startswith(b"HTTP/1.1 100 ")
        client.send(b"hi")
        assert client.read_response().body == b"hi"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("protocol", CLASSES)
def test_over_tls(protocol: type[asyncio.Protocol], loop: Any, authority: Authority) -> None:
    files = {"ssl_certfile": authority.cert_file, "ssl_keyfile": authority.key_file}
    app = says(start(200), body(b"hello"))
    with (
        served(app, http=protocol, loop=loop, **files) as server,
        RawClient(server.port, ssl_context=authority.client_context()) as client,
    ):
        for _ in range(2):
            assert client.request().body == b"hello"


UPGRADE = [
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
]


@pytest.mark.parametrize("protocol", CLASSES)
def test_a_websocket_gets_the_connection_itself(protocol: type[asyncio.Protocol]) -> None:
    """After a response that is still held back, which must not be lost."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        elif scope["type"] == "websocket":
            await receive()
            seen.extend(type(one.transport) for one in running.server.server_state.connections)
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "HTTP/1."})
            await receive()
        else:
            await lifespan(receive, send)

    with (
        servers.serve(app, http=protocol, ws="wsproto") as running,
        RawClient(running.port) as client,
    ):
        assert client.request().status == 204
        client.send(encode_request(headers=UPGRADE))
        assert client.read_head().status == 101
        assert client.recv() == b"\x81\x07HTTP/1."
        assert HeadHolder not in seen


@pytest.mark.parametrize(
    "ws",
    [name for name in ("websockets-sansio", "wsproto") if name in uvicorn.config.WS_PROTOCOLS],
)
@pytest.mark.parametrize("protocol", CLASSES)
@pytest.mark.parametrize(
    "also",
    [
        pytest.param([(b"Cookie", b"x" * 9000)], id="long field"),
        pytest.param([(b"X-A", b"1")] * 130, id="many fields"),
        pytest.param([(b"Content-Length", b"5")], id="body"),
    ],
)
def test_no_handshake_stays_unanswered(
    protocol: type[asyncio.Protocol], ws: str, also: list[tuple[bytes, bytes]]
) -> None:
    """One that the WebSocket implementation turns down before the application is called."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

    with servers.serve(app, http=protocol, ws=ws) as running, RawClient(running.port) as client:
        client.send(encode_request(headers=[*UPGRADE, *also]))
        answer = client.read_head()
        assert answer.status in (101, 400, 431), "as the implementation and its version see it"
        if answer.status != 101:
            assert client.read_body(answer).complete
            assert client.wait_closed()
        assert running.errors == []
