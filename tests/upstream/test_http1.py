"""One connection: what goes over the wire, what comes back, and what is refused.

The peer runs in the test's own event loop, so a test decides what arrives in one piece. How
connections are kept, timed out and given up is in `test_connections.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import h11
import pytest
import uvloop

from sticky_asgi.backend import Backend
from sticky_asgi.exceptions import ConnectionLost, MalformedResponse
from sticky_asgi.headers import end_to_end
from sticky_asgi.request import RawHeaders
from sticky_asgi.timeouts import Timeouts
from sticky_asgi.upstream.client import UpstreamRequest
from sticky_asgi.upstream.connections import Http1Client
from sticky_asgi.upstream.http1_response import Http1Response

T = TypeVar("T")
Main = Callable[[], Awaitable[T]]


class Run:
    """Runs a coroutine function in an event loop of one kind."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.factory = factory

    def __call__(self, main: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(30):
                return await main()

        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(bounded())


@pytest.fixture(
    params=[
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


class Link(asyncio.Protocol):
    """The peer's end of a connection."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.received = b""
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peer.links.append(self)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.transport.close()


class Peer:
    def __init__(self) -> None:
        self.links: list[Link] = []
        self.port = 0


@asynccontextmanager
async def listening() -> AsyncIterator[Peer]:
    peer = Peer()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Link(peer), "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for link in peer.links:
            link.close()
        await until(lambda: all(link.is_closed for link in peer.links))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def settle() -> None:
    """Let what was written on loopback arrive and be handled."""
    for _ in range(4):
        await asyncio.sleep(0)


def request(
    method: str = "GET", target: bytes = b"/", headers: RawHeaders | None = None
) -> UpstreamRequest:
    return UpstreamRequest(method, target, headers or [(b"host", b"shop")])


class Result(NamedTuple):
    status: int
    headers: RawHeaders
    body: bytes
    is_reusable: bool


async def drain(response: Http1Response) -> bytes:
    body = b""
    while not response.at_end:
        piece = await response.read()
        assert piece or response.at_end
        body += piece
    assert await response.read() == b""
    return body


async def exchange(
    peer: Peer,
    client: Http1Client,
    pieces: Sequence[bytes],
    *,
    method: str = "GET",
    closes: bool = False,
) -> Result:
    """One request, answered with these pieces, each of which arrives alone."""
    seen = sum(len(link.received) for link in peer.links)
    sending = asyncio.create_task(client.send(request(method)))
    await until(lambda: sending.done() or sum(len(link.received) for link in peer.links) > seen)
    link = max(peer.links, key=lambda link: not link.is_closed)
    for piece in pieces:
        if not link.is_closed:
            link.write(piece)
            await settle()
    if closes:
        link.close()
    response = await sending
    try:
        return Result(response.status, response.headers, await drain(response), client.idle == 1)
    finally:
        await response.aclose()


async def converse(pieces: Sequence[bytes], *, method: str = "GET", closes: bool = False) -> Result:
    """One exchange with a client and a peer of its own."""
    async with listening() as peer:
        client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"), max_head=4096)
        try:
            return await exchange(peer, client, pieces, method=method, closes=closes)
        finally:
            assert client.busy == 0
            await client.aclose()
            await until(lambda: all(link.is_closed for link in peer.links))


# Good responses


class Good(NamedTuple):
    raw: bytes
    status: int = 200
    headers: RawHeaders = []
    body: bytes = b""
    method: str = "GET"
    closes: bool = False
    is_reusable: bool = True


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = [(b"transfer-encoding", b"chunked")]

GOOD = [
    pytest.param(
        Good(
            OK + b"Content-Length: 5 \r\nX:\r\nX-Y:  a b \r\n\r\nhello",
            headers=[(b"content-length", b"5"), (b"x", b""), (b"x-y", b"a b")],
            body=b"hello",
        ),
        id="content-length",
    ),
    pytest.param(
        Good(OK + b"Content-Length: 0\r\n\r\n", headers=[(b"content-length", b"0")]),
        id="empty",
    ),
    pytest.param(
        Good(
            OK + b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
            b'3;a=b;c="d;e"\r\nhel\r\n002\r\nlo\r\n0;x\r\nX: 1\r\nY:\r\n\r\n',
            headers=[*CHUNKED, (b"trailer", b"X")],
            body=b"hello",
        ),
        id="chunked",
    ),
    pytest.param(
        Good(
            OK + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200, [(CHUNKED[0][0], b"Chunked")]
        ),
        id="chunked-empty",
    ),
    pytest.param(
        Good(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n"
            b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n\r\n",
            201,
            [(b"content-length", b"2")],
            b"\r\n",
        ),
        id="1xx-before",
    ),
    pytest.param(
        Good(
            OK + b"X: y\r\n\r\nHTTP/1.1 200\r\n\r\n",
            headers=[(b"x", b"y")],
            body=b"HTTP/1.1 200\r\n\r\n",
            closes=True,
            is_reusable=False,
        ),
        id="until-closed",
    ),
    pytest.param(
        Good(
            OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nok",
            headers=[(b"connection", b"x, Close"), (b"content-length", b"2")],
            body=b"ok",
            is_reusable=False,
        ),
        id="connection-close",
    ),
    pytest.param(
        Good(
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            headers=[(b"content-length", b"2")],
            body=b"ok",
            is_reusable=False,
        ),
        id="1.0",
    ),
    pytest.param(
        Good(
            b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
            headers=[(b"connection", b"Keep-Alive"), (b"content-length", b"2")],
            body=b"ok",
        ),
        id="1.0-keep-alive",
    ),
    pytest.param(
        Good(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nok",
            headers=[(b"connection", b"keep-alive")],
            body=b"ok",
            closes=True,
            is_reusable=False,
        ),
        id="1.0-until-closed",
    ),
    pytest.param(
        Good(OK + b"Content-Length: 5\r\n\r\n", headers=[(b"content-length", b"5")], method="HEAD"),
        id="head-content-length",
    ),
    pytest.param(
        Good(OK + b"Transfer-Encoding: chunked\r\n\r\n", headers=CHUNKED, method="HEAD"),
        id="head-chunked",
    ),
    pytest.param(Good(OK + b"\r\n", method="HEAD"), id="head-bare"),
    pytest.param(Good(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", 204, [(b"x", b"y")]), id="204"),
    pytest.param(
        Good(b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, [(b"content-length", b"5")]),
        id="304",
    ),
    pytest.param(
        Good(
            b"HTTP/1.1 599 \xe4\tx\r\nX: \xe4\xf6\xfc \x80\tz\r\nContent-Length: 1\r\n\r\n\x00",
            599,
            [(b"x", b"\xe4\xf6\xfc \x80\tz"), (b"content-length", b"1")],
            b"\x00",
        ),
        id="obs-text",
    ),
    pytest.param(
        Good(
            b"HTTP/1.1 200\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n",
            headers=[(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"0")],
        ),
        id="no-reason",
    ),
]


def expected(good: Good) -> Result:
    headers = end_to_end(good.headers, status=good.status)
    return Result(good.status, headers, good.body, good.is_reusable)


@pytest.mark.parametrize("good", GOOD)
def test_a_response_means_the_same_wherever_it_is_split(run: Run, good: Good) -> None:
    raw = good.raw
    splits = [(raw[:at], raw[at:]) for at in range(1, len(raw))]

    async def main() -> None:
        async with listening() as peer:
            backend = Backend(f"http://127.0.0.1:{peer.port}")
            client = Http1Client(backend, timeouts=Timeouts(keep_alive=60))
            for pieces in [(raw,), *splits, [raw[at : at + 1] for at in range(len(raw))]]:
                peer.links = [link for link in peer.links if not link.is_closed]
                result = await exchange(
                    peer, client, pieces, method=good.method, closes=good.closes
                )
                assert result == expected(good), pieces
                assert client.busy == 0
                if not good.is_reusable:
                    await until(lambda: all(link.is_closed for link in peer.links))
            await client.aclose()

    run(main)


@pytest.mark.parametrize("good", GOOD)
def test_h11_reads_the_same(good: Good) -> None:
    status, headers, body = by_h11(good.raw, method=good.method)
    assert (status, body) == (good.status, good.body)
    # h11 writes the coding in lower case.
    assert [(n, v.lower()) for n, v in headers] == [(n, v.lower()) for n, v in good.headers]


def by_h11(raw: bytes, *, method: str = "GET") -> tuple[int, RawHeaders, bytes]:
    """What h11 makes of a response after which the connection ends. Raises RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "shop")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    status, headers, body = 0, [], b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status, headers = event.status_code, [(bytes(n), bytes(v)) for n, v in event.headers]
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, headers, body
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("no response")


def test_a_small_response_is_there_when_send_returns(run: Run) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            sending = asyncio.create_task(client.send(request()))
            await until(lambda: peer.links and peer.links[0].received)
            peer.links[0].write(
                OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
            )
            response = await sending
            assert response.is_complete
            assert not response.at_end
            assert repr(response) == "<Http1Response 200 complete, 2 buffered>"
            assert (client.idle, client.busy) == (1, 0)
            assert await response.read() == b"ab"
            assert response.at_end
            assert await response.read() == b""
            await client.aclose()

    run(main)


def test_each_piece_is_handed_on_at_once(run: Run) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            sending = asyncio.create_task(client.send(request()))
            await until(lambda: peer.links and peer.links[0].received)
            peer.links[0].write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            response = await sending
            assert repr(response) == "<Http1Response 200 under way, 0 buffered>"
            for word in (b"one", b"two", b"three"):
                reading = asyncio.create_task(response.read())
                await settle()
                assert not reading.done()
                peer.links[0].write(b"%x\r\n%s\r\n" % (len(word), word))
                assert await reading == word
            peer.links[0].write(b"0\r\n\r\n")
            assert await response.read() == b""
            assert response.at_end
            await response.aclose()
            assert client.idle == 1
            await client.aclose()

    run(main)


# Bad ones


def bad(raw: bytes, id: str, *, stage: str = "head", method: str = "GET") -> object:
    return pytest.param(raw, stage, method, id=id)


def with_header(line: bytes) -> bytes:
    return OK + line + b"\r\nContent-Length: 2\r\n\r\nok"


TE = b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nok"

BAD = [
    bad(b"SSH-2.0-OpenSSH_9.6\r\n", "garbage"),
    bad(b"H" + b"x" * 100, "garbage-with-an-H"),
    bad(b"\x16\x03\x01\x02\x00\x01\x00", "tls"),
    bad(b"<html>", "0.9"),
    bad(b"\r\n" + OK + LENGTH, "blank-line-first"),
    bad(b"HTTP/1.1 103 E\r\n\r\n\r\n" + OK + LENGTH, "blank-line-after-1xx"),
    bad(b"ICE/1.0 200 OK\r\n" + LENGTH, "ice"),
    bad(b"RTSP/1.0 200 OK\r\n" + LENGTH, "rtsp"),
    bad(b"HTTP/0.9 200 OK\r\n" + LENGTH, "version-0.9"),
    bad(b"HTTP/2.0 200 OK\r\n" + LENGTH, "version-2.0"),
    bad(b"HTTP/1.2 200 OK\r\n" + LENGTH, "version-1.2"),
    bad(b"HTTP/2.0 103 E\r\n\r\n" + OK + LENGTH, "version-2.0-of-1xx"),
    bad(b"HTTP/1.1 000 X\r\n" + LENGTH, "status-000"),
    bad(b"HTTP/1.1 099 X\r\n" + LENGTH, "status-099"),
    bad(b"HTTP/1.1 600 X\r\n" + LENGTH, "status-600"),
    bad(b"HTTP/1.1 999 X\r\n" + LENGTH, "status-999"),
    bad(b"HTTP/1.1 20 X\r\n" + LENGTH, "status-20"),
    bad(b"HTTP/1.1 2000 X\r\n" + LENGTH, "status-2000"),
    bad(b"HTTP/1.1 -20 X\r\n" + LENGTH, "status-negative"),
    bad(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc", "101"),
    bad(b"HTTP/1.1 101 X\r\n\r\n", "101-bare"),
    bad(b"HTTP/1.1 200 O\x00K\r\n" + LENGTH, "nul-in-reason"),
    bad(b"HTTP/1.1 200 O\rK\r\n" + LENGTH, "cr-in-reason"),
    bad(with_header(b"a b: c"), "space-in-name"),
    bad(with_header(b"a : c"), "space-after-name"),
    bad(with_header(b" a: c"), "fold-at-once"),
    bad(with_header(b": c"), "empty-name"),
    bad(with_header(b"a"), "no-colon"),
    bad(with_header(b"\xe4: c"), "obs-text-in-name"),
    bad(with_header(b"a(: c"), "parenthesis-in-name"),
    bad(with_header(b"a: b\x00c"), "nul"),
    bad(with_header(b"a: b\x01c"), "control-character"),
    bad(with_header(b"a: b\x7fc"), "delete"),
    bad(with_header(b"a: b\rc: d"), "bare-cr"),
    bad(with_header(b"a: b\r\n c"), "fold"),
    bad(OK.replace(b"\r", b"") + b"Content-Length: 2\n\nok", "bare-lf"),
    bad(with_header(b"a: b\nc: d"), "bare-lf-once"),
    bad(OK + b"Content-Length: 2\r\n\nok", "bare-lf-at-the-end"),
    bad(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", "unequal-lengths"),
    bad(with_header(b"Content-Length: 2"), "equal-lengths"),
    bad(OK + b"Content-Length: 2, 2\r\n\r\nok", "length-list"),
    bad(OK + b"Content-Length: +2\r\n\r\nok", "length-plus"),
    bad(OK + b"Content-Length: -2\r\n\r\nok", "length-minus"),
    bad(OK + b"Content-Length: 0x2\r\n\r\nok", "length-hex"),
    bad(OK + b"Content-Length: 2 2\r\n\r\nok", "length-two-words"),
    bad(OK + b"Content-Length: \xb2\r\n\r\nok", "length-superscript"),
    bad(OK + b"Content-Length:\r\n\r\nok", "length-empty"),
    bad(OK + b"Content-Length: %d\r\n\r\nok" % (1 << 64), "length-overflow"),
    bad(OK + b"Content-Length: 2\r\n" + TE + b"0\r\n\r\n", "length-and-chunked"),
    bad(OK + TE[:-2] + LENGTH, "chunked-and-length"),
    bad(OK + b"Transfer-Encoding: gzip\r\n\r\nok", "gzip"),
    bad(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "gzip-chunked"),
    bad(OK + TE[:-2] + TE + b"0\r\n\r\n", "chunked-twice"),
    bad(OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "xchunked"),
    bad(OK + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", "vertical-tab-chunked"),
    bad(b"HTTP/1.0 200 OK\r\n" + TE + b"0\r\n\r\n", "chunked-on-1.0"),
    bad(OK + TE + b"zz\r\n", "chunk-size", stage="body"),
    bad(OK + TE + b"-1\r\n", "chunk-size-negative", stage="body"),
    bad(OK + TE + b"+1\r\na\r\n0\r\n\r\n", "chunk-size-plus", stage="body"),
    bad(OK + TE + b"0x1\r\na\r\n0\r\n\r\n", "chunk-size-0x", stage="body"),
    bad(OK + TE + b"1" * 20 + b"\r\n", "chunk-size-overflow", stage="body"),
    bad(OK + TE + b"1\na\r\n0\r\n\r\n", "chunk-bare-lf", stage="body"),
    bad(OK + TE + b"1\r\nab\r\n0\r\n\r\n", "chunk-too-long", stage="body"),
    bad(OK + TE + b"1;\x00\r\na\r\n0\r\n\r\n", "chunk-extension-nul", stage="body"),
    bad(OK + TE + b"0\r\na b: c\r\n\r\n", "trailer-name", stage="body"),
    bad(OK + TE + b"0\r\na: b\x00\r\n\r\n", "trailer-nul", stage="body"),
    bad(OK.replace(b"OK", b"\x01") + b"\r\n", "head-request", method="HEAD"),
]


@pytest.mark.parametrize("drips", [pytest.param(False, id="burst"), pytest.param(True, id="drip")])
@pytest.mark.parametrize(("raw", "stage", "method"), BAD)
def test_what_is_no_response_is_refused(
    run: Run, raw: bytes, stage: str, method: str, drips: bool
) -> None:
    pieces = [raw[at : at + 1] for at in range(len(raw))] if drips else [raw]
    with pytest.raises(MalformedResponse, match=r"^backend 127\.0\.0\.1:\d+ sent a bad") as info:
        run(lambda: converse(pieces, method=method))  # Which sees to it that it is closed.
    assert info.value.stage == stage
    assert info.value.request_sent


SEEDS = [
    pytest.param(OK + b"X: a\r\nContent-Length: 2\r\n\r\nok", id="content-length"),
    pytest.param(
        OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: 1\r\n\r\n", id="chunked"
    ),
    pytest.param(b"HTTP/1.1 103 E\r\nA: b\r\n\r\nHTTP/1.1 204 N\r\nX: y\r\n\r\n", id="1xx"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_accepted_that_h11_refuses(seed: bytes) -> None:
    """Every one-byte accident a response can have."""
    accidents = {seed[:at] + seed[at + 1 :] for at in range(len(seed))}
    for byte in b"\x00\x01\r\n\t :;,x0+-\xff":
        accidents |= {seed[:at] + bytes([byte]) + seed[at:] for at in range(len(seed) + 1)}
        accidents |= {seed[:at] + bytes([byte]) + seed[at + 1 :] for at in range(len(seed))}

    async def main() -> list[tuple[bytes, object, object]]:
        lax: list[tuple[bytes, object, object]] = []
        async with listening() as peer:
            backend = Backend(f"http://127.0.0.1:{peer.port}")
            client = Http1Client(backend, timeouts=Timeouts(keep_alive=0))
            for raw in sorted(accidents):
                peer.links.clear()
                try:
                    ours = (await exchange(peer, client, [raw], closes=True))[:3]
                except ConnectionLost:
                    continue
                try:
                    status, headers, body = by_h11(raw)
                except h11.RemoteProtocolError as exc:
                    lax.append((raw, ours, exc))
                else:
                    theirs = (status, end_to_end(headers, status=status), body)
                    if ours != theirs:
                        lax.append((raw, ours, theirs))
            await client.aclose()
        return lax

    assert Run(asyncio.new_event_loop)(main) == []


# Endless ones


def endless(start: bytes, more: bytes, id: str, stage: str = "head") -> object:
    return pytest.param(start, more, stage, id=id)


@pytest.mark.parametrize("size", [pytest.param(7, id="drip"), pytest.param(1 << 19, id="burst")])
@pytest.mark.parametrize(
    ("start", "more", "stage"),
    [
        endless(b"HTTP/1.1 200 ", b"reason", "reason"),
        endless(OK + b"X: ", b"value", "value"),
        endless(OK + b"X", b"name", "name"),
        endless(OK, b"X: y\r\n", "fields"),
        endless(b"", b"HTTP/1.1 103 E\r\n\r\n", "1xx"),
        endless(OK + TE + b"1", b";x=y", "chunk-extension", "body"),
        endless(OK + TE + b"1", b";xyz", "chunk-extensions", "body"),
        endless(OK + TE, b"0", "chunk-size", "body"),
        endless(OK + TE + b"0\r\n", b"X: y\r\n", "trailers", "body"),
        endless(OK + TE + b"0\r\nX: ", b"value", "trailer", "body"),
    ],
)
def test_nothing_but_a_body_may_go_on_for_ever(
    run: Run, start: bytes, more: bytes, stage: str, size: int
) -> None:
    # A little over the 4096 bytes that `converse` allows, or very much at once.
    raw = start + more * (max(size, 4200) // len(more))
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    with pytest.raises(MalformedResponse, match=r"over 4096 bytes|overflow") as info:
        run(lambda: converse(pieces))
    assert info.value.stage == stage


@pytest.mark.parametrize(
    ("excess", "allowed"), [pytest.param(0, True, id="limit"), pytest.param(1, False, id="over")]
)
@pytest.mark.parametrize("step", [pytest.param(1 << 20, id="burst"), pytest.param(100, id="split")])
def test_a_head_may_be_as_long_as_max_head(run: Run, excess: int, allowed: bool, step: int) -> None:
    head = b"HTTP/1.1 103 E\r\n\r\n" + OK + b"Content-Length: 9000\r\nX: "
    head += b"y" * (4096 + excess - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == 4096 + excess
    raw = head + b"b" * 9000  # A body does not count.
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    if allowed:
        assert run(lambda: converse(pieces)).body == b"b" * 9000
    else:
        with pytest.raises(MalformedResponse, match="head over 4096 bytes"):
            run(lambda: converse(pieces))


# What comes behind a response


SHORT = [
    pytest.param(OK + b"Content-Length: 2\r\n\r\nok", b"ok", "GET", id="content-length"),
    pytest.param(OK + TE + b"2\r\nok\r\n0\r\n\r\n", b"ok", "GET", id="chunked"),
    pytest.param(OK + TE + b"0\r\nX: y\r\n\r\n", b"", "GET", id="trailers"),
    pytest.param(OK + b"Content-Length: 0\r\n\r\n", b"", "GET", id="empty"),
    pytest.param(b"HTTP/1.1 204 No\r\n\r\n", b"", "GET", id="204"),
    pytest.param(b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", b"", "GET", id="304"),
    pytest.param(OK + b"Content-Length: 9\r\n\r\n", b"", "HEAD", id="head"),
    pytest.param(OK + TE, b"", "HEAD", id="head-chunked"),
]
JUNK = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", id="response"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="1xx"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", id="half-a-response"),
    pytest.param(b"\r\n", id="line-break"),
    pytest.param(b"\n", id="lf"),
    pytest.param(b"0\r\n\r\n", id="last-chunk"),
    pytest.param(b"5", id="digit"),
    pytest.param(b"\x00", id="nul"),
]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("raw", "body", "method"), SHORT)
def test_junk_behind_a_response_spoils_the_connection_only(
    run: Run, raw: bytes, body: bytes, method: str, junk: bytes
) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            both = raw + junk
            for pieces in [[both], *([both[:at], both[at:]] for at in range(1, len(both)))]:
                first = await exchange(peer, client, pieces, method=method)
                assert first.body == body, pieces
                # If the junk came by itself, an idle connection got it.
                await until(lambda: client.idle == 0)
                await until(lambda: all(link.is_closed for link in peer.links))
                peer.links.clear()
                second = await exchange(peer, client, [OK + b"Content-Length: 4\r\n\r\nnext"])
                assert second.body == b"next"
            await client.aclose()

    run(main)


def test_bytes_nobody_asked_for_close_an_idle_connection(run: Run) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            await exchange(peer, client, [OK + LENGTH])
            assert client.idle == 1
            peer.links[0].write(OK + b"Content-Length: 4\r\n\r\nevil")
            await until(lambda: client.idle == 0)
            await until(lambda: peer.links[0].is_closed)
            assert (await exchange(peer, client, [OK + LENGTH])).body == b"ok"
            assert len(peer.links) == 2
            await client.aclose()

    run(main)


# Bodies cut off


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(OK + b"Content-Length: 5\r\n\r\nhel", b"hel", id="content-length"),
        pytest.param(OK + b"Content-Length: 5\r\n\r\n", b"", id="content-length-nothing"),
        pytest.param(OK + TE + b"5\r\nhel", b"hel", id="in-a-chunk"),
        pytest.param(OK + TE + b"3\r\nhel\r\n", b"hel", id="between-chunks"),
        pytest.param(OK + TE + b"3\r\nhel\r\n0\r\n", b"hel", id="before-the-last-line"),
    ],
)
def test_a_body_cut_off_is_an_error_after_what_came_of_it(
    run: Run, raw: bytes, body: bytes
) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            sending = asyncio.create_task(client.send(request()))
            await until(lambda: peer.links and peer.links[0].received)
            peer.links[0].write(raw)
            response = await sending
            peer.links[0].close()
            await until(lambda: client.busy == 0)
            assert "broken off" in repr(response)
            received = await response.read() if body else b""
            assert received == body
            for _ in range(2):
                with pytest.raises(ConnectionLost, match="in the middle of a response") as info:
                    await response.read()
                assert type(info.value) is ConnectionLost
                assert info.value.stage == "body"
            assert not response.at_end
            assert client.idle == 0
            await response.aclose()
            await client.aclose()

    run(main)


@pytest.mark.parametrize(
    "raw", [pytest.param(b"HTTP/1.1 2", id="line"), pytest.param(OK + b"X: y\r\n", id="fields")]
)
def test_a_head_cut_off_is_an_error(run: Run, raw: bytes) -> None:
    with pytest.raises(ConnectionLost, match="in the middle of a head") as info:
        run(lambda: converse([raw], closes=True))
    assert type(info.value) is ConnectionLost
    assert info.value.stage == "head"


# Requests


class Body:
    """A request body: at hand as a whole, or in pieces."""

    def __init__(self, *pieces: bytes, complete: bool = False) -> None:
        self.pieces = pieces
        self.complete = b"".join(pieces) if complete else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert self.complete is None, "what is complete needs no iterating"
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield piece


HOST = (b"host", b"shop")
LENGTH_5 = (b"content-length", b"5")
HEAD = b" /a%2F?b HTTP/1.1\r\nhost: shop\r\n"
COMPLETE = Body(b"hel", b"lo", complete=True)


@pytest.mark.parametrize(
    ("method", "headers", "body", "wire"),
    [
        pytest.param("GET", [], None, b"GET" + HEAD + b"\r\n", id="none"),
        pytest.param(
            "POST",
            [(b"content-length", b"0")],
            None,
            b"POST" + HEAD + b"content-length: 0\r\n\r\n",
            id="none-said-so",
        ),
        pytest.param(
            "POST",
            [LENGTH_5],
            Body(b"hel", b"", b"lo"),
            b"POST" + HEAD + b"content-length: 5\r\n\r\nhello",
            id="content-length",
        ),
        pytest.param(
            "POST",
            [LENGTH_5],
            COMPLETE,
            b"POST" + HEAD + b"content-length: 5\r\n\r\nhello",
            id="content-length-complete",
        ),
        pytest.param(
            "PUT",
            CHUNKED,
            Body(b"hel", b"", b"0123456789abcdef"),
            b"PUT" + HEAD + b"transfer-encoding: chunked\r\n\r\n"
            b"3\r\nhel\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
            id="chunked",
        ),
        pytest.param(
            "PUT",
            CHUNKED,
            COMPLETE,
            b"PUT" + HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            id="chunked-complete",
        ),
        pytest.param(
            "PUT",
            CHUNKED,
            Body(),
            b"PUT" + HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="chunked-empty",
        ),
        pytest.param(
            "PUT",
            CHUNKED,
            Body(complete=True),
            b"PUT" + HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="chunked-empty-complete",
        ),
        pytest.param(
            "GET",
            [(b"x", b"\xe4"), (b"x", b""), (b"cookie", b"a=b")],
            None,
            b"GET" + HEAD + b"x: \xe4\r\nx: \r\ncookie: a=b\r\n\r\n",
            id="headers-as-they-are",
        ),
    ],
)
def test_a_request_on_the_wire(
    run: Run, method: str, headers: RawHeaders, body: Body | None, wire: bytes
) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            asked = UpstreamRequest(method, b"/a%2F?b", [HOST, *headers], body)
            for _ in range(2):
                sending = asyncio.create_task(client.send(asked))
                await until(lambda: peer.links and len(peer.links[0].received) >= len(wire))
                await settle()
                assert peer.links[0].received == wire
                peer.links[0].received = b""
                peer.links[0].write(OK + LENGTH)
                assert await drain(await sending) == b"ok"
            assert len(peer.links) == 1
            await client.aclose()

    run(main)


@pytest.mark.parametrize(
    "headers", [pytest.param([LENGTH_5], id="content-length"), pytest.param(CHUNKED, id="chunked")]
)
def test_a_body_at_hand_takes_no_task_and_goes_with_the_head(run: Run, headers: RawHeaders) -> None:
    async def main() -> None:
        async with listening() as peer:
            client = Http1Client(Backend(f"http://127.0.0.1:{peer.port}"))
            await exchange(peer, client, [OK + LENGTH])
            peer.links[0].received = b""
            sending = asyncio.create_task(
                client.send(UpstreamRequest("POST", b"/", [HOST, *headers], COMPLETE))
            )
            tasks = asyncio.all_tasks()
            await asyncio.sleep(0)  # The request is being written in here.
            assert asyncio.all_tasks() == tasks
            await until(lambda: peer.links[0].received)
            assert b"hello" in peer.links[0].received
            peer.links[0].write(OK + LENGTH)
            await (await sending).aclose()
            await client.aclose()

    run(main)
