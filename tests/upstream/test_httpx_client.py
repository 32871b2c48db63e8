"""The httpx seam: any transport of httpx or httpx2 carries the requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from sticky_asgi import Gateway, Pool
from sticky_asgi.backend import Backend
from sticky_asgi.exceptions import (
    BodyTooLarge,
    ClientDisconnected,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    GatewayError,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
)
from sticky_asgi.timeouts import Timeouts
from sticky_asgi.upstream import UpstreamRequest, check_transport
from sticky_asgi.upstream.httpx_client import HttpxClient, HttpxExchange, family_of

from .. import servers
from ..loops import run_and_collect as run

WAIT = 10.0
BACKEND = Backend("http://backend.test:8000", id="a")

families = pytest.mark.parametrize(
    "family", [pytest.param(httpx, id="httpx"), pytest.param(httpx2, id="httpx2")]
)


class Body:
    """A request body of some pieces, that may break off."""

    complete = None

    def __init__(self, *pieces: bytes, error: GatewayError | None = None) -> None:
        self.pieces = pieces
        self.error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.error is not None:
            raise self.error


def get(method: str = "GET", target: bytes = b"/", **options: Any) -> UpstreamRequest:
    return UpstreamRequest(method, target, [(b"host", b"test")], **options)


async def read_all(response: HttpxExchange) -> bytes:
    body = b""
    try:
        while piece := await response.read():
            body += piece
    finally:
        await response.aclose()
    return body


class Transport:
    """A transport of either family that does as its function says, and counts what it closes."""

    def __init__(
        self, family: ModuleType, pieces: Callable[[], AsyncIterator[bytes]], status: int = 200
    ) -> None:
        counts = self.counts = {"opened": 0, "iterated": 0, "closed": 0}
        self.requests: list[Any] = []
        requests = self.requests

        class Stream(family.AsyncByteStream):  # type: ignore[misc, name-defined]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                counts["iterated"] += 1
                async for piece in pieces():
                    yield piece

            async def aclose(self) -> None:
                # A close that takes a while must not be cut short.
                await asyncio.sleep(0)
                counts["closed"] += 1

        class Custom(family.AsyncBaseTransport):  # type: ignore[misc, name-defined]
            async def handle_async_request(self, request: Any) -> Any:
                requests.append(request)
                await request.aread()
                counts["opened"] += 1
                return family.Response(status, stream=Stream())

        self.transport = Custom()

    def client(self, **timeouts: Any) -> HttpxClient:
        return HttpxClient(BACKEND, self.transport, timeouts=Timeouts(**timeouts))


def raising(family: ModuleType, error: Exception, *, in_body: bool = False) -> HttpxClient:
    """A client whose transport fails, before the head or after a piece of the body."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise error

    class Failing(family.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            raise error

    transport = Transport(family, pieces).transport if in_body else Failing()
    return HttpxClient(BACKEND, transport, timeouts=Timeouts())


# Whose transport is it?


@families
def test_family(family: Any) -> None:
    class Custom(family.AsyncHTTPTransport):  # type: ignore[misc]
        pass

    for transport in (
        family.AsyncHTTPTransport(),
        family.MockTransport(lambda request: family.Response(200)),
        family.ASGITransport(app=lambda: None),
        Custom(),
    ):
        assert family_of(transport) is family
        check_transport(transport)


class AsyncBaseTransport:
    """Not httpx's."""


@pytest.mark.parametrize(
    "transport",
    [
        pytest.param(object(), id="object"),
        pytest.param("http://proxy", id="url"),
        pytest.param(httpx.AsyncHTTPTransport, id="class"),
        pytest.param(httpx.HTTPTransport(), id="sync"),
        pytest.param(AsyncBaseTransport(), id="namesake"),
        pytest.param(False, id="false"),
    ],
)
def test_no_transport(transport: object) -> None:
    pool = Pool("shop", ["http://a"], transport=transport)
    with pytest.raises(ValueError, match="transport must be an httpx") as caught:
        Gateway({"/": pool})
    assert repr(transport) in str(caught.value)


def test_no_transport_is_fine() -> None:
    check_transport(None)


# What goes in and out


@families
def test_nothing_is_added_and_nothing_is_changed(family: Any) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(request)
        headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"X-Raw", b"\xff")]
        return family.Response(404, headers=headers, stream=family.ByteStream(b"no"))

    async def main() -> None:
        client = HttpxClient(BACKEND, family.MockTransport(handler), timeouts=Timeouts())
        headers = [(b"host", b"shop.test"), (b"X-a", b"\xe4"), (b"x-A", b"2")]
        target = b"/a%2Fb/../%zz;p?x=%20&&"
        response = await client.send(UpstreamRequest("pUT", target, headers, Body(b"x", b"y")))
        assert response.status == 404
        assert response.headers == [
            (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-raw", b"\xff"),
        ]  # fmt: skip
        assert await read_all(response) == b"no"

    run(main)
    (request,) = seen
    assert request.method == "pUT"
    assert request.extensions["target"] == b"/a%2Fb/../%zz;p?x=%20&&"
    assert request.headers.raw == [(b"host", b"shop.test"), (b"X-a", b"\xe4"), (b"x-A", b"2")]
    assert str(request.url) == "http://backend.test:8000/"
    assert request.content == b"xy"


@families
def test_timeouts_are_handed_over(family: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async def main() -> None:
        double = Transport(family, pieces)
        response = await double.client(connect=1, response=2, idle=3).send(get())
        timeout = double.requests[0].extensions["timeout"]
        assert timeout == {"connect": 1, "pool": 1, "write": 2, "read": 3}, "in the body"
        await read_all(response)

        class Asks(family.AsyncBaseTransport):  # type: ignore[misc]
            async def handle_async_request(self, request: Any) -> Any:
                timeout = request.extensions["timeout"]
                assert timeout == {"connect": None, "pool": None, "write": 60, "read": 60}
                return family.Response(200)

        client = HttpxClient(BACKEND, Asks(), timeouts=Timeouts(connect=None))
        await read_all(await client.send(get()))

    run(main)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://a", "http://a/", id="default-port"),
        pytest.param("https://a", "https://a/", id="https"),
        pytest.param("https://a:8443", "https://a:8443/", id="https-port"),
        pytest.param("http://[::1]:81", "http://[::1]:81/", id="ipv6"),
    ],
)
@families
def test_address(family: Any, url: str, expected: str) -> None:
    transport = family.MockTransport(lambda request: family.Response(200))
    assert str(HttpxClient(Backend(url), transport, timeouts=Timeouts()).url) == expected


def test_a_socket_is_not_taken_for_localhost() -> None:
    async def main() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200))
        backend = Backend("http+unix:///run/app.sock")
        client = HttpxClient(backend, transport, timeouts=Timeouts())
        with pytest.raises(ConnectError, match=r"/run/app.sock is a socket.*give it uds="):
            await client.send(get())

    run(main)


@families
@pytest.mark.parametrize(
    ("method", "status"),
    [
        pytest.param("HEAD", 200, id="head"),
        pytest.param("GET", 204, id="204"),
        pytest.param("GET", 304, id="304"),
    ],
)
def test_responses_without_a_body(family: Any, method: str, status: int) -> None:
    async def main() -> None:
        transport = family.MockTransport(lambda request: family.Response(status, text="body"))
        client = HttpxClient(BACKEND, transport, timeouts=Timeouts())
        assert await read_all(await client.send(get(method))) == b""

    run(main)


@families
def test_pieces_come_one_by_one_and_the_reader_sets_the_pace(family: Any) -> None:
    produced = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(20):
            produced += 1
            yield b"x"

    async def main() -> None:
        double = Transport(family, pieces)
        response = await double.client().send(get())
        for _ in range(50):
            await asyncio.sleep(0)
        assert produced <= 2
        assert await response.read() == b"x"
        assert len(await read_all(response)) == 19
        assert double.counts == {"opened": 1, "iterated": 1, "closed": 1}
        assert response.at_end

    run(main)


# Errors


ERRORS = [
    pytest.param("ConnectError", ConnectError, "connect", id="ConnectError"),
    pytest.param("UnsupportedProtocol", ConnectError, "connect", id="UnsupportedProtocol"),
    pytest.param("ConnectTimeout", ConnectTimeout, "connect", id="ConnectTimeout"),
    pytest.param("PoolTimeout", ConnectTimeout, "connect", id="PoolTimeout"),
    pytest.param("ReadTimeout", ResponseTimeout, "head", id="ReadTimeout"),
    pytest.param("WriteTimeout", ResponseTimeout, "head", id="WriteTimeout"),
    pytest.param("ReadError", ConnectionLost, "head", id="ReadError"),
    pytest.param("WriteError", ConnectionLost, "head", id="WriteError"),
    pytest.param("CloseError", ConnectionLost, "head", id="CloseError"),
    pytest.param("NetworkError", ConnectionLost, "head", id="NetworkError"),
    pytest.param("ProxyError", ConnectionLost, "head", id="ProxyError"),
    pytest.param("ProtocolError", ConnectionLost, "head", id="ProtocolError"),
    pytest.param("LocalProtocolError", ConnectionLost, "head", id="LocalProtocolError"),
    pytest.param("RemoteProtocolError", MalformedResponse, "head", id="RemoteProtocolError"),
    pytest.param("TransportError", ConnectionLost, "head", id="TransportError"),
]


@families
@pytest.mark.parametrize(("name", "expected", "stage"), ERRORS)
def test_errors_before_the_head(
    family: Any, name: str, expected: type[GatewayError], stage: str
) -> None:
    async def main() -> None:
        client = raising(family, getattr(family, name)("broken"))
        with pytest.raises(GatewayError) as caught:
            await client.send(get())
        error = caught.value
        assert type(error) is expected
        assert error.stage == stage
        assert getattr(error, "request_sent") is (stage != "connect")  # noqa: B009
        assert str(error).startswith("backend a: ")
        assert isinstance(error.__cause__, getattr(family, name))

    run(main)


@families
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("ReadTimeout", IdleTimeout, id="ReadTimeout"),
        pytest.param("ReadError", ConnectionLost, id="ReadError"),
        pytest.param("RemoteProtocolError", MalformedResponse, id="RemoteProtocolError"),
    ],
)
def test_errors_in_the_body(family: Any, name: str, expected: type[GatewayError]) -> None:
    async def main() -> None:
        client = raising(family, getattr(family, name)("broken"), in_body=True)
        response = await client.send(get())
        assert await response.read() == b"half"
        assert not response.at_end
        with pytest.raises(GatewayError) as caught:
            await response.read()
        assert type(caught.value) is expected
        assert caught.value.stage == "body"

    run(main)


def test_the_table_of_errors_is_complete() -> None:
    for family in (httpx, httpx2):
        names = {
            name
            for name, cls in vars(family).items()
            if isinstance(cls, type)
            and issubclass(cls, family.TransportError)
            and cls is not family.TimeoutException
        }
        # Not a transport's: raised where a client reads events from a response.
        assert names - {"SSEError"} == {param.values[0] for param in ERRORS}


@families
@pytest.mark.parametrize("in_body", [False, True], ids=["before-head", "in-body"])
def test_bugs_stay_what_they_are(family: Any, in_body: bool) -> None:
    async def main() -> None:
        client = raising(family, ZeroDivisionError("a bug"), in_body=in_body)
        with pytest.raises(ZeroDivisionError):
            await read_all(await client.send(get()))

    run(main)


@families
@pytest.mark.parametrize("status", [101, 103, 600])
def test_statuses_that_cannot_be_passed_on(family: Any, status: int) -> None:
    async def main() -> None:
        transport = family.MockTransport(lambda request: family.Response(status))
        client = HttpxClient(BACKEND, transport, timeouts=Timeouts())
        with pytest.raises(MalformedResponse, match=f"backend a answered {status}"):
            await client.send(get())

    run(main)


@families
def test_a_response_that_is_refused_is_closed(family: Any) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("must not be read")
        yield b""

    async def main() -> None:
        double = Transport(family, never, status=101)
        with pytest.raises(MalformedResponse):
            await double.client().send(get())
        assert double.counts == {"opened": 1, "iterated": 0, "closed": 1}

    run(main)


@families
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(BodyTooLarge("x"), id="too-large"),
        pytest.param(ClientDisconnected("x"), id="left"),
    ],
)
def test_a_request_body_that_breaks_off(family: Any, error: GatewayError) -> None:
    async def main() -> None:
        transport = family.MockTransport(lambda request: family.Response(200))
        client = HttpxClient(BACKEND, transport, timeouts=Timeouts())
        with pytest.raises(type(error)):
            await client.send(get("POST", body=Body(b"a", error=error)))

    run(main)


@families
def test_a_transport_that_cancels_itself_does_not_hang_the_request(family: Any) -> None:
    class Cancelling(family.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            raise asyncio.CancelledError

    async def main() -> None:
        client = HttpxClient(BACKEND, Cancelling(), timeouts=Timeouts())
        with pytest.raises(ConnectionLost, match="backend a: the exchange was cancelled"):
            await client.send(get())

    run(main)


# Letting go


@families
def test_cancelled_while_the_body_is_read(family: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def main() -> None:
        double = Transport(family, endless)
        client = double.client()
        response = await client.send(get())
        assert await response.read() == b"x"
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await response.aclose()
        await asyncio.gather(*client.tasks)
        assert double.counts == {"opened": 1, "iterated": 1, "closed": 1}

    run(main)


@families
def test_let_go_before_the_body_is_read(family: Any) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def main() -> None:
        double = Transport(family, stalled)
        client = double.client()
        response = await client.send(get())
        await asyncio.gather(response.aclose(), response.aclose())
        await asyncio.gather(*client.tasks)
        assert double.counts["closed"] == 1

    run(main)


@families
def test_a_reader_that_leaves_lets_a_stuck_producer_go(family: Any) -> None:
    async def plenty() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x"

    async def main() -> None:
        double = Transport(family, plenty)
        client = double.client()
        response = await client.send(get())
        await response.read()
        await response.aclose()
        await asyncio.gather(*client.tasks)
        assert double.counts["closed"] == 1

    run(main)


@families
def test_cancelled_before_the_head(family: Any) -> None:
    how: list[str] = []

    async def main() -> None:
        arrived = asyncio.Event()

        class Stalling(family.AsyncBaseTransport):  # type: ignore[misc]
            async def handle_async_request(self, request: Any) -> Any:
                arrived.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    how.append("cancelled")
                    raise

        client = HttpxClient(BACKEND, Stalling(), timeouts=Timeouts())
        sending = asyncio.create_task(client.send(get()))
        await arrived.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.gather(*client.tasks)

    run(main)
    assert how == ["cancelled"]


@families
def test_cancelled_just_as_the_head_arrives(family: Any) -> None:
    async def empty() -> AsyncIterator[bytes]:
        yield b"x"

    async def main() -> None:
        for turns in range(12):
            double = Transport(family, empty)
            client = double.client()
            sending = asyncio.create_task(client.send(get()))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            for done in await asyncio.gather(sending, return_exceptions=True):
                if isinstance(done, HttpxExchange):
                    await done.aclose()
            while client.tasks:
                await asyncio.wait(client.tasks)
            assert double.counts["closed"] == double.counts["opened"], turns

    run(main)


# Over sockets


@families
def test_over_sockets(no_leaks: None, family: Any) -> None:
    async def main(url: str) -> None:
        async with family.AsyncHTTPTransport() as transport:
            client = HttpxClient(Backend(url), transport, timeouts=Timeouts())
            headers = [(b"Host", b"shop.test"), (b"Content-Length", b"4"), (b"X-a", b"\xff")]
            for _ in range(2):
                request = UpstreamRequest("POST", b"/a%2Fb?x", headers, Body(b"ab", b"cd"))
                await read_all(await client.send(request))

    with servers.RawBackend(servers.echo) as backend:
        run(lambda: main(backend.url))
        for request in backend.requests:
            assert (request.method, request.target, request.body) == ("POST", b"/a%2Fb?x", b"abcd")
            assert request.headers == [
                (b"Host", b"shop.test"), (b"Content-Length", b"4"), (b"X-a", b"\xff"),
            ]  # fmt: skip
        assert len(backend.connections) == 1, "kept alive"


@families
def test_a_refused_connection(family: Any) -> None:
    async def main(url: str) -> None:
        async with family.AsyncHTTPTransport() as transport:
            client = HttpxClient(Backend(url), transport, timeouts=Timeouts())
            with pytest.raises(ConnectError) as caught:
                await client.send(get())
            assert type(caught.value) is ConnectError

    with servers.refusing_port() as port:
        run(lambda: main(f"http://127.0.0.1:{port}"))


@families
def test_idle_timeout_over_sockets(family: Any) -> None:
    stop = threading.Event()

    def stalls(connection: servers.Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.wait(stop)

    async def main(url: str) -> None:
        async with family.AsyncHTTPTransport() as transport:
            client = HttpxClient(Backend(url), transport, timeouts=Timeouts(idle=0.05))
            response = await client.send(get())
            assert await response.read() == b"half"
            with pytest.raises(IdleTimeout):
                await response.read()

    with servers.RawBackend(stalls) as backend:
        run(lambda: main(backend.url))
        stop.set()


@families
def test_cancelled_requests_leak_no_connections(no_leaks: None, family: Any) -> None:
    """httpcore loses a connection for good when a task is cancelled in its pool's hands."""
    stop = threading.Event()

    def handler(connection: servers.Connection) -> None:
        while True:
            if connection.read_request().target == b"/stall":
                connection.wait(stop)
            connection.send(servers.response(200, b"ok"))

    async def main(url: str) -> None:
        limits = family.Limits(max_connections=2)
        async with family.AsyncHTTPTransport(limits=limits) as transport:
            client = HttpxClient(Backend(url), transport, timeouts=Timeouts(connect=WAIT))
            for round in range(20):
                sending = [
                    asyncio.create_task(client.send(get(target=b"/stall"))) for _ in range(5)
                ]
                # They are cancelled at every stage, most of them in the queue for a connection.
                for _ in range(round * 3):
                    await asyncio.sleep(0)
                for task in sending:
                    task.cancel()
                    await asyncio.sleep(0)
                await asyncio.gather(*sending, return_exceptions=True)
            while client.tasks:
                await asyncio.wait(client.tasks)
            for _ in range(4):
                assert await read_all(await client.send(get())) == b"ok"

    with servers.RawBackend(handler) as backend:
        run(lambda: main(backend.url))
        stop.set()


def test_repr() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    assert repr(HttpxClient(BACKEND, transport, timeouts=Timeouts())) == (
        "<HttpxClient a [0 busy]>"
    )
