"""The connections to one backend: kept, timed out, given up. What goes over one is in
`test_http1.py`.

The backends are threads, so whatever is left in the event loop after a test is the client's: each
`run` ends with a look for tasks, timers and exceptions that nobody retrieved.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sticky_asgi.backend import Backend
from sticky_asgi.exceptions import (
    BadRequest,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
    StaleConnection,
)
from sticky_asgi.request import RawHeaders
from sticky_asgi.timeouts import Timeouts
from sticky_asgi.tls import TLS
from sticky_asgi.upstream.client import RequestBody, UpstreamRequest
from sticky_asgi.upstream.connections import Http1Client, _address_in
from sticky_asgi.upstream.http1 import Http1Connection, Owner
from sticky_asgi.upstream.http1_response import Http1Response
from tests import servers
from tests.conftest import Authority
from tests.servers import Connection, RawBackend, refusing_port, responding, unanswered_port

OK = servers.response(200, b"ok")
CHUNKED = [(b"transfer-encoding", b"chunked")]
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\n"
PIECE = b"x" * 65536

Main = Callable[[], Awaitable[None]]


class Run:
    """Runs a coroutine function in an event loop of one kind, and looks at what it leaves."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.factory = factory

    def __call__(self, main: Main) -> None:
        complaints: list[dict[str, Any]] = []

        async def watched() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            # A clock that is put forward bounds nothing; there, every wait has its own bound.
            async with asyncio.timeout(None if isinstance(loop, VirtualLoop) else 30):
                await main()
            gc.collect()
            await settle()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left
            # uvloop does not tell its timers.
            timers = [t for t in getattr(loop, "_scheduled", ()) if not t.cancelled()]
            assert not timers, timers

        with asyncio.Runner(loop_factory=self.factory) as runner:
            runner.run(watched())
        gc.collect()
        assert not complaints, complaints


@pytest.fixture(
    params=[
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset


run_virtually = Run(VirtualLoop)


async def advance(seconds: float) -> None:
    """Put the clock forward and let what is due happen."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.offset += seconds
    await settle()


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def get(method: str = "GET") -> UpstreamRequest:
    return UpstreamRequest(method, b"/", [(b"host", b"shop")])


def post(body: RequestBody, headers: RawHeaders = CHUNKED) -> UpstreamRequest:
    return UpstreamRequest("POST", b"/", [(b"host", b"shop"), *headers], body)


def client_of(backend: RawBackend, timeouts: Timeouts | None = None, **options: Any) -> Http1Client:
    return Http1Client(
        Backend(backend.url), timeouts=timeouts or Timeouts(keep_alive=60), **options
    )


async def fetch(client: Http1Client, request: UpstreamRequest | None = None) -> bytes:
    response = await client.send(request or get())
    try:
        return await drain(response)
    finally:
        await response.aclose()


async def drain(response: Http1Response) -> bytes:
    pieces = []
    while not response.at_end:
        pieces.append(await response.read())
    return b"".join(pieces)


class Body:
    """A body in pieces, which waits for `more` before each but the first."""

    complete: bytes | None = None

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.more = asyncio.Semaphore(0)
        self.is_waiting = False
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for number, piece in enumerate(self.pieces):
                if number:
                    self.is_waiting = True
                    await self.more.acquire()
                yield piece
        finally:
            self.is_closed = True


class Endless:
    """A body that is always ready to go on."""

    complete: bytes | None = None

    def __init__(self) -> None:
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += len(PIECE)
            yield PIECE
            await asyncio.sleep(0)


class Whole:
    """A body at hand."""

    def __init__(self, complete: bytes) -> None:
        self.complete: bytes | None = complete

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("what is complete needs no iterating")


def numbered(connection: Connection) -> None:
    """Answers every request with the number of its connection."""
    while True:
        connection.read_request()
        connection.send(servers.response(200, b"%d" % connection.index))


def silent(connection: Connection) -> None:
    """Reads a request and never answers."""
    connection.read_head()
    connection.wait_closed()


# Reuse


def test_the_newest_idle_connection_is_used_first(run: Run) -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend)
            assert repr(client) == f"<Http1Client {backend.id} [0 idle, 0 busy]>"
            numbers = [await fetch_fresh(client) for _ in range(3)]
            assert client.idle == 3
            assert repr(client) == f"<Http1Client {backend.id} [3 idle, 0 busy]>"
            for _ in range(3):
                assert await fetch(client) == numbers[-1]
            await client.aclose()
            assert client.idle == 0
            await until(lambda: backend.open_connections == 0)

    run(main)


async def fetch_fresh(client: Http1Client) -> bytes:
    response = await client.send(get(), fresh=True)
    return await drain(response)


def test_a_connection_is_busy_until_its_response_has_come(run: Run) -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        connection.wait(finish)
        connection.send(b"lf")
        numbered(connection)

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            first = await client.send(get())
            second = await client.send(get())
            assert repr(client) == f"<Http1Client {backend.id} [0 idle, 2 busy]>"
            assert len(backend.connections) == 2
            finish.set()
            assert await drain(first) == await drain(second) == b"half"
            await until(lambda: client.idle == 2)
            await first.aclose()
            await second.aclose()
            assert (client.idle, client.busy) == (2, 0)
            await client.aclose()

    run(main)


def test_fresh_insists_on_a_new_connection(run: Run) -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend)
            assert [await fetch(client), await fetch(client)] == [b"0", b"0"]
            response = await client.send(get(), fresh=True)
            assert await drain(response) == b"1"
            assert client.idle == 2
            await client.aclose()

    run(main)


def test_without_keep_alive_nothing_is_reused(run: Run) -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend, Timeouts(keep_alive=0))
            assert [await fetch(client) for _ in range(3)] == [b"0", b"1", b"2"]
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_idle_connections_are_closed_when_their_time_is_over() -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend, Timeouts(keep_alive=4))
            await fetch_fresh(client)
            await advance(2)
            await fetch_fresh(client)
            await fetch_fresh(client)
            scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
            sweeps = [timer for timer in scheduled if "Http1Client" in repr(timer)]
            assert len(sweeps) == 1
            await advance(1.9)
            assert client.idle == 3
            await advance(0.2)
            assert client.idle == 2
            await until(lambda: backend.open_connections == 2)
            await advance(1.7)
            assert client.idle == 2
            await advance(0.3)
            assert client.idle == 0
            await until(lambda: backend.open_connections == 0)
            await advance(100)

    run_virtually(main)


def test_use_makes_an_idle_connection_young_again() -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend, Timeouts(keep_alive=4))
            for _ in range(5):
                assert await fetch(client) == b"0"
                await advance(3)
            await advance(1.1)
            assert client.idle == 0

    run_virtually(main)


def test_a_connection_past_its_time_is_not_used_even_if_the_sweep_is_late() -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend, Timeouts(keep_alive=4))
            await fetch_fresh(client)
            await fetch_fresh(client)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.offset += 5
            assert await fetch(client) == b"2"  # No time for the sweep in between.
            assert client.idle == 1
            await client.aclose()

    run_virtually(main)


@pytest.mark.parametrize("resets", [pytest.param(False, id="end"), pytest.param(True, id="reset")])
def test_a_peer_that_closes_an_idle_connection_is_noticed(run: Run, resets: bool) -> None:
    leave = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        connection.wait(leave)
        if resets:
            connection.reset()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            await fetch(client)
            assert client.idle == 1
            leave.set()
            await until(lambda: client.idle == 0)
            await client.aclose()

    run(main)


def test_closing_the_client_lets_exchanges_end(run: Run) -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        if connection.index == 0:
            connection.send(OK)
            connection.wait_closed()
            return
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        connection.wait(finish)
        connection.send(b"lf")
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            await fetch(client)
            response = await client.send(get(), fresh=True)
            await client.aclose()
            assert (client.idle, client.busy) == (0, 1)
            await until(lambda: backend.connections[0].done.is_set())
            assert not backend.connections[1].done.is_set()
            finish.set()
            assert await drain(response) == b"half"
            await response.aclose()
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)
            await client.aclose()

    run(main)


# Connections that fail under a request


def leaving(resets: bool, *, after: int, start: bytes = b"") -> servers.Handler:
    """Answers some requests; from the next it has the head, sends `start` and leaves."""

    def handler(connection: Connection) -> None:
        for _ in range(after):
            connection.read_request()
            connection.send(OK)
        connection.read_request()
        if start:
            connection.send(start)
        if resets:
            connection.reset()

    return handler


@pytest.mark.parametrize("resets", [pytest.param(False, id="end"), pytest.param(True, id="reset")])
def test_a_reused_connection_closed_unanswered_is_stale(run: Run, resets: bool) -> None:
    async def main() -> None:
        with RawBackend(leaving(resets, after=1)) as backend:
            client = client_of(backend)
            await fetch(client)
            with pytest.raises(StaleConnection, match=f"backend {backend.id}: reused") as info:
                await client.send(get())
            assert info.value.request_sent
            assert len(backend.connections) == 1
            assert (client.idle, client.busy) == (0, 0)
            await client.aclose()

    run(main)


@pytest.mark.parametrize("resets", [pytest.param(False, id="end"), pytest.param(True, id="reset")])
def test_a_new_connection_closed_unanswered_is_lost(run: Run, resets: bool) -> None:
    async def main() -> None:
        with RawBackend(leaving(resets, after=0)) as backend:
            client = client_of(backend)
            with pytest.raises(ConnectionLost, match="before a response") as info:
                await client.send(get())
            assert type(info.value) is ConnectionLost
            assert (info.value.stage, info.value.request_sent) == ("head", True)
            assert (client.idle, client.busy) == (0, 0)

    run(main)


def test_after_the_first_byte_a_reused_connection_is_lost(run: Run) -> None:
    start = b"HTTP/1.1 103 Early\r\n\r\n"

    async def main() -> None:
        with RawBackend(leaving(False, after=1, start=start)) as backend:
            client = client_of(backend)
            await fetch(client)
            with pytest.raises(ConnectionLost) as info:
                await client.send(get())
            assert info.value.stage == "head"
            await client.aclose()

    run(main)


class LateClient(Http1Client):
    """Looks at a new connection only when it has been closed already."""

    async def _connect(self, owner: Owner | None = None) -> Http1Connection:
        connection = await super()._connect(owner)
        await until(lambda: not connection.is_usable)
        assert "closed" in repr(connection)
        return connection


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(lambda connection: None, id="end"),
        pytest.param(lambda connection: connection.reset(), id="reset"),
        pytest.param(
            lambda connection: (connection.send(OK), connection.wait_closed()), id="speaks-first"
        ),
    ],
)
def test_a_connection_that_is_closed_at_once(run: Run, handler: servers.Handler) -> None:
    async def main() -> None:
        with RawBackend(handler) as backend:
            client = LateClient(Backend(backend.url))
            with pytest.raises(ConnectError) as info:
                await client.send(get())
            assert not info.value.request_sent
            assert (client.idle, client.busy) == (0, 0)

    run(main)


def test_a_reset_ends_no_body(run: Run) -> None:
    leave = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(UNTIL_CLOSED + b"half")
        connection.wait(leave)
        connection.reset()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            response = await client.send(get())
            assert await response.read() == b"half"
            leave.set()
            with pytest.raises(ConnectionLost, match=r"lost: .*reset") as info:
                await response.read()
            assert info.value.stage == "body"
            assert client.busy == 0
            await response.aclose()

    run(main)


# One exchange ends while the next has begun already on the same connection


async def take_over(client: Http1Client, first: asyncio.Task[Any] | None) -> Http1Response:
    """Send as soon as the connection is idle, before whoever used it last has woken up."""
    while not client.idle:
        await asyncio.sleep(0)
    if first is not None:
        first.cancel()
    return await client.send(get())


@pytest.mark.parametrize("waits_in", ["send", "read"])
def test_a_late_cancellation_does_not_hurt_the_next_exchange(run: Run, waits_in: str) -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        if waits_in == "read":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        connection.wait(finish)
        connection.send(b"ok" if waits_in == "read" else OK)
        connection.read_request()
        connection.send(servers.response(200, b"next"))

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            if waits_in == "read":
                response = await client.send(get())
                first: asyncio.Task[Any] = asyncio.create_task(response.read())
            else:
                first = asyncio.create_task(client.send(get()))
            await until(lambda: backend.requests)
            second = asyncio.create_task(take_over(client, first))
            finish.set()
            assert await drain(await second) == b"next"
            await asyncio.wait([first])  # Cancelled, or just done.
            assert len(backend.connections) == 1
            await client.aclose()

    run(main)


def test_cancelled_while_the_backend_fails(run: Run) -> None:
    """Neither error is reported as one that nobody has seen."""
    leave = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.wait(leave)

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            sending = asyncio.create_task(client.send(get()))
            await until(lambda: backend.requests)
            leave.set()
            while client.busy:
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled():
                assert isinstance(sending.exception(), ConnectionLost)

    run(main)


def test_a_reader_that_wakes_late_leaves_the_next_timeout_alone(run: Run) -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        connection.wait(finish)
        connection.send(b"ok")
        silent(connection)

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend, Timeouts(response=0.3, keep_alive=60))
            response = await client.send(get())
            reading = asyncio.create_task(response.read())
            second = asyncio.create_task(take_over(client, None))
            finish.set()
            assert await reading == b"ok"
            with pytest.raises(ResponseTimeout):
                await second
            await client.aclose()

    run(main)


# Reaching the backend


def test_through_a_unix_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with RawBackend(numbered, unix=tmp_path / "s") as backend:
            client = client_of(backend)
            assert [await fetch(client), await fetch(client)] == [b"0", b"0"]
            await client.aclose()
        with pytest.raises(ConnectError, match=r"No such file|Connection refused") as info:
            await client_of(backend).send(get())
        assert not info.value.request_sent

    run(main)


def test_a_refused_connection(run: Run) -> None:
    async def main() -> None:
        with refusing_port() as port:
            client = Http1Client(Backend(f"http://127.0.0.1:{port}"))
            with pytest.raises(
                ConnectError, match=rf"backend 127\.0\.0\.1:{port}: .*(refused|Errno 111)"
            ):
                await client.send(get())
            assert (client.idle, client.busy) == (0, 0)

    run(main)


def test_a_name_no_resolver_takes(run: Run) -> None:
    async def main() -> None:
        client = Http1Client(Backend(f"http://{'x' * 64}.test"))
        with pytest.raises(ConnectError, match="label"):
            await client.send(get())

    run(main)


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def main() -> None:
        client = Http1Client(Backend("http://nowhere.test:1"))
        with pytest.raises(ConnectError, match=r"nowhere\.test:1: .*not known") as info:
            await client.send(get())
        assert not isinstance(info.value, ConnectTimeout)

    Run(asyncio.new_event_loop)(main)


Resolve = Callable[[str], list[str]]


def run_with_names(base: Any, resolve: Resolve, main: Main) -> None:
    """Run in a loop whose names are looked up by a function, in a thread."""

    class Loop(base):  # type: ignore[misc]
        async def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
            found = await self.run_in_executor(None, resolve, host)
            kinds = {True: socket.AF_INET6, False: socket.AF_INET}
            return [
                (kinds[":" in address], socket.SOCK_STREAM, 6, "", (address, port))
                for address in found
            ]

    Run(Loop)(main)


LOOPS = [
    pytest.param(asyncio.SelectorEventLoop, id="asyncio"),
    pytest.param(uvloop.Loop, id="uvloop"),
]


@pytest.mark.parametrize("base", LOOPS)
def test_a_lookup_that_takes_too_long(base: Any) -> None:
    """Whatever it comes to then, nobody is told."""
    is_over = threading.Event()

    def resolve(host: str) -> list[str]:
        assert is_over.wait(servers.WAIT)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        client = Http1Client(Backend("http://nowhere.test:1"), timeouts=Timeouts(connect=0.05))
        with pytest.raises(ConnectTimeout):
            await client.send(get())
        is_over.set()
        await asyncio.get_running_loop().shutdown_default_executor()

    run_with_names(base, resolve, main)


@pytest.mark.parametrize("base", LOOPS)
def test_a_name_has_several_addresses(base: Any) -> None:
    """They are tried in their order; one that is no name is not looked up."""
    names: list[str] = []
    found = ["127.0.0.2", "127.0.0.1", "127.0.0.3"]

    def resolve(host: str) -> list[str]:
        names.append(host)
        return found

    async def main() -> None:
        with RawBackend(numbered) as backend:
            for host in ("shop.test", "127.0.0.1"):
                client = Http1Client(Backend(f"http://{host}:{backend.port}"))
                await fetch(client)
                await client.aclose()
            assert len(backend.connections) == 2
            found.remove("127.0.0.1")
            with pytest.raises(ConnectError, match=r"shop\.test:.*(refused|Errno 111|failed)"):
                await Http1Client(Backend(f"http://shop.test:{backend.port}")).send(get())

    run_with_names(base, resolve, main)
    assert names == ["shop.test"] * 2


@pytest.mark.parametrize("base", LOOPS)
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "not trusted"])
def test_tls_with_a_name_that_has_several_addresses(
    base: Any, is_trusted: bool, authority: Authority
) -> None:
    """The certificate is for the name, and what is wrong with it is wrong everywhere."""
    names: list[str | None] = []
    context = authority.server_context()
    context.sni_callback = lambda sock, name, _: names.append(name)

    async def main() -> None:
        with RawBackend(numbered, ssl_context=context) as backend:
            tls = TLS(ca_file=authority.ca_file) if is_trusted else TLS()
            client = Http1Client(Backend(f"https://localhost:{backend.port}"), tls=tls)
            if is_trusted:
                assert await fetch(client) == b"0"
            else:
                with pytest.raises(ConnectError, match="certificate"):
                    await client.send(get())
            await client.aclose()

    run_with_names(base, lambda host: ["127.0.0.1", "127.0.0.1"], main)
    assert names == ["localhost"]


@pytest.mark.parametrize(
    ("place", "address"),
    [
        pytest.param(("192.0.2.1", 80), "192.0.2.1", id="IPv4"),
        pytest.param(("2001:db8::1", 80, 0, 0), "2001:db8::1", id="IPv6"),
        pytest.param(("fe80::1", 80, 0, 2), "fe80::1%2", id="link-local"),
    ],
)
def test_what_a_lookup_finds(place: tuple[Any, ...], address: str) -> None:
    assert _address_in(place) == address


def test_a_connection_that_takes_too_long(run: Run) -> None:
    async def main() -> None:
        with unanswered_port() as port:
            client = Http1Client(
                Backend(f"http://127.0.0.1:{port}"), timeouts=Timeouts(connect=0.05)
            )
            with pytest.raises(ConnectTimeout) as info:
                await client.send(get())
            assert not info.value.request_sent
            assert client.busy == 0

    run(main)


def test_a_handshake_that_takes_too_long(run: Run) -> None:
    async def main() -> None:
        with RawBackend(lambda connection: connection.wait_closed()) as backend:
            client = Http1Client(
                Backend(f"https://127.0.0.1:{backend.port}"), timeouts=Timeouts(connect=0.05)
            )
            with pytest.raises(ConnectTimeout):
                await client.send(get())
            assert client.busy == 0
            await until(lambda: backend.open_connections == 0)

    run(main)


# TLS


def test_tls_with_a_name_of_its_own(run: Run, authority: Authority) -> None:
    names: list[str | None] = []
    context = authority.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = lambda sock, name, _: names.append(name)
    protocols = []

    def handler(connection: Connection) -> None:
        assert isinstance(connection.socket, ssl.SSLSocket)
        protocols.append(connection.socket.selected_alpn_protocol())
        numbered(connection)

    async def main() -> None:
        with RawBackend(handler, ssl_context=context) as backend:
            tls = TLS(ca_file=authority.ca_file, server_name="localhost")
            client = client_of(backend, tls=tls)
            assert [await fetch(client), await fetch(client)] == [b"0", b"0"]
            await client.aclose()
            await until(lambda: backend.open_connections == 0)
            by_address = client_of(backend, tls=TLS(ca_file=authority.ca_file))
            assert await fetch(by_address) == b"1"
            await by_address.aclose()

    run(main)
    assert names == ["localhost", None]  # RFC 6066 §3: no address is sent as a name.
    assert protocols == ["http/1.1", "http/1.1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "certificate verify failed", id="unknown-authority"),
        pytest.param(
            {"ca_file": True, "server_name": "other.test"}, "ostname mismatch", id="wrong-name"
        ),
        pytest.param({"ca_file": "/no/such/ca.pem"}, r"/no/such/ca\.pem.*No such", id="no-ca-file"),
        pytest.param(
            {"ca_file": True, "client_cert": "/no/cert.pem"},
            r"/no/cert\.pem.*No such",
            id="no-client-cert",
        ),
    ],
)
def test_tls_that_fails(
    run: Run, authority: Authority, options: dict[str, Any], message: str
) -> None:
    if options.get("ca_file") is True:
        options = options | {"ca_file": authority.ca_file}

    async def main() -> None:
        with RawBackend(numbered, ssl_context=authority.server_context()) as backend:
            client = client_of(backend, tls=TLS(**options))
            for _ in range(2):
                with pytest.raises(ConnectError, match=message) as info:
                    await client.send(get())
                assert not info.value.request_sent
                assert not isinstance(info.value, ConnectTimeout)
            assert (client.idle, client.busy) == (0, 0)
            assert not backend.requests
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_tls_where_none_is_spoken(run: Run) -> None:
    async def main() -> None:
        with RawBackend(lambda connection: connection.send(b"SSH-2.0\r\n")) as backend:
            client = Http1Client(Backend(f"https://127.0.0.1:{backend.port}"))
            with pytest.raises(ConnectError, match=r"backend 127\.0\.0\.1:\d+: ."):
                await client.send(get())

    run(main)


def test_tls_without_verification(run: Run, authority: Authority) -> None:
    async def main() -> None:
        with RawBackend(numbered, ssl_context=authority.server_context()) as backend:
            client = client_of(backend, tls=TLS(verify=False, server_name="other.test"))
            assert await fetch(client) == b"0"
            await client.aclose()

    run(main)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_demanded(
    run: Run, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.server_context()
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)

    def handler(connection: Connection) -> None:
        tls = context.wrap_socket(
            connection.socket, server_side=True, do_handshake_on_connect=False
        )
        connection.socket, connection._reader = tls, servers._Reader(tls)
        try:
            tls.do_handshake()
        except ssl.SSLError:
            # A close before everything has been read would reset the connection, and then the
            # client might not get to see the alert.
            connection.socket = socket.socket(fileno=tls.detach())
            connection.wait_closed()
        else:
            numbered(connection)

    async def main() -> None:
        with RawBackend(handler) as backend:
            backend.url = f"https://127.0.0.1:{backend.port}"
            without = client_of(backend, tls=TLS(ca_file=authority.ca_file))
            with pytest.raises(ConnectError) as info:
                await without.send(get())
            assert not info.value.request_sent
            assert without.busy == 0
            tls = TLS(
                ca_file=authority.ca_file,
                client_cert=authority.cert_file,
                client_key=authority.key_file,
            )
            client = client_of(backend, tls=tls)
            assert await fetch(client) == b"1"
            await client.aclose()

    run(main)


@pytest.mark.parametrize("announced", [True, False])
def test_under_tls_a_body_ends_with_a_word(run: Run, authority: Authority, announced: bool) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(UNTIL_CLOSED + b"body")
        tls = connection.socket
        assert isinstance(tls, ssl.SSLSocket)
        if announced:
            connection.socket = tls.unwrap()
        else:
            connection.socket = socket.socket(fileno=tls.detach())

    async def main() -> None:
        with RawBackend(handler, ssl_context=authority.server_context()) as backend:
            client = client_of(backend, tls=TLS(ca_file=authority.ca_file))
            response = await client.send(get())
            if announced:
                assert await drain(response) == b"body"
            else:
                assert await response.read() == b"body"
                # RFC 9112 §9.8
                with pytest.raises(ConnectionLost, match="closed in the middle"):
                    await response.read()
            assert (client.idle, client.busy) == (0, 0)
            await response.aclose()

    run(main)


# Timeouts


def test_no_answer_in_time(run: Run) -> None:
    async def main() -> None:
        with RawBackend(silent) as backend:
            client = client_of(backend, Timeouts(response=0.05))
            with pytest.raises(ResponseTimeout, match=r"did not answer for 0\.05 seconds") as info:
                await client.send(get())
            assert info.value.request_sent
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_the_response_timeout_ends_with_the_head() -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED_HEAD)
        connection.wait(finish)
        connection.send(servers.chunk(b"late") + servers.LAST_CHUNK)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend, Timeouts(response=60))
            sending = asyncio.create_task(client.send(get()))
            await until(lambda: backend.requests)
            await advance(59)
            response = await sending
            reading = asyncio.create_task(response.read())
            await advance(3600)
            assert not reading.done()
            finish.set()
            assert await reading == b"late"
            assert await drain(response) == b""
            await client.aclose()

    run_virtually(main)


def test_a_body_that_pauses_for_too_long(run: Run) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED_HEAD + servers.chunk(b"one"))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend, Timeouts(idle=0.05))
            response = await client.send(get())
            assert await response.read() == b"one"
            with pytest.raises(IdleTimeout, match=r"nothing of the body for 0\.05 seconds") as info:
                await response.read()
            assert info.value.stage == "body"
            assert client.busy == 0
            await until(lambda: backend.open_connections == 0)
            await response.aclose()

    run(main)


def test_the_idle_timeout_runs_only_while_somebody_reads() -> None:
    finish = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED_HEAD + servers.chunk(b"one"))
        connection.wait(finish)
        connection.send(servers.chunk(b"two") + servers.LAST_CHUNK)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend, Timeouts(idle=10))
            response = await client.send(get())
            await advance(3600)
            assert await response.read() == b"one"
            await advance(3600)
            reading = asyncio.create_task(response.read())
            await advance(9)
            finish.set()
            assert await reading == b"two"
            await client.aclose()
            assert await drain(response) == b""

    run_virtually(main)


# Bodies of requests


def test_a_slow_client_is_not_a_slow_backend() -> None:
    async def main() -> None:
        with RawBackend(servers.echo) as backend:
            client = client_of(backend, Timeouts(response=60))
            body = Body(b"one", b"two")
            sending = asyncio.create_task(client.send(post(body)))
            await until(lambda: backend.requests)
            await advance(3600)
            assert not sending.done()
            body.more.release()
            assert b'"body": "onetwo"' in await drain(await sending)
            assert body.is_closed
            assert client.idle == 1
            await client.aclose()

    run_virtually(main)


def test_a_slow_client_is_not_blamed_on_a_backend_that_was_slow_before() -> None:
    go_on = threading.Event()
    large = b"x" * (16 << 20)

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        connection.wait(go_on)
        assert connection.read_body(request) == large + b"two"
        connection.send(OK)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend, Timeouts(response=60))
            body = Body(large, b"two")
            sending = asyncio.create_task(client.send(post(body)))
            await until(lambda: backend.requests)
            go_on.set()
            await until(lambda: body.is_waiting)
            for _ in range(3):
                await advance(3600)
                assert not sending.done()
            body.more.release()
            assert await drain(await sending) == b"ok"
            await client.aclose()

    run_virtually(main)


def test_after_the_upload_it_is_the_backends_turn() -> None:
    async def main() -> None:
        with RawBackend(silent) as backend:
            client = client_of(backend, Timeouts(response=60))
            body = Body(b"one", b"two")
            sending = asyncio.create_task(client.send(post(body)))
            await until(lambda: backend.requests)
            await advance(3600)
            body.more.release()
            await settle()
            await advance(59)
            assert not sending.done()
            await advance(2)
            with pytest.raises(ResponseTimeout):
                await sending
            assert client.busy == 0

    run_virtually(main)


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_backend_that_takes_the_request_slowly_makes_progress(is_whole: bool) -> None:
    gates = [threading.Event() for _ in range(4)]
    stop = threading.Event()
    received = [0]

    def handler(connection: Connection) -> None:
        connection.read_head()
        for number, gate in enumerate(gates, 1):
            connection.wait(gate)
            while received[0] < number * (4 << 20):
                received[0] += len(connection.recv())
        connection.wait(stop)

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend, Timeouts(response=60))
            body = Whole(b"x" * (40 << 20)) if is_whole else Endless()
            sending = asyncio.create_task(client.send(post(body)))
            for number, gate in enumerate(gates, 1):
                await advance(40)
                assert not sending.done()
                gate.set()
                await taken(received, number * (4 << 20))
                if isinstance(body, Endless):
                    await stalls(body)
                    # Neither buffered here nor lost: the kernel's buffers hold a few megabytes.
                    assert body.taken < received[0] + (16 << 20)
            await advance(61)
            await advance(61)
            with pytest.raises(ResponseTimeout):
                await sending
            assert client.busy == 0
            stop.set()

    run_virtually(main)


async def taken(received: list[int], size: int) -> None:
    await until(lambda: received[0] >= size)
    await asyncio.sleep(0.05)  # The kernel's buffers fill again.


async def stalls(body: Endless) -> None:
    """Wait until nothing more is taken from the body."""
    taken = -1
    while taken != body.taken:
        taken = body.taken
        await asyncio.sleep(0.05)


def test_a_backend_that_does_not_take_the_request(run: Run) -> None:
    stop = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.wait(stop)

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend, Timeouts(response=0.3))
            body = Endless()
            with pytest.raises(ResponseTimeout):
                await client.send(post(body))
            assert body.taken < 16 << 20
            assert client.busy == 0
            stop.set()

    run(main)


class Broken:
    """A body that breaks off."""

    complete: bytes | None = None

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.breaks = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        await self.breaks.wait()
        raise self.error


@pytest.mark.parametrize("has_head", [False, True])
def test_what_a_body_raises_is_raised_unchanged(run: Run, has_head: bool) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        if has_head:
            connection.send(CHUNKED_HEAD)
        connection.wait_closed()

    async def main() -> None:
        error = BadRequest("the client's mistake")
        with RawBackend(handler) as backend:
            client = client_of(backend)
            body = Broken(error)
            sending = asyncio.create_task(client.send(post(body)))
            if has_head:
                response = await sending
                waiting: asyncio.Task[Any] = asyncio.create_task(response.read())
            else:
                waiting = sending
            await until(lambda: backend.requests)
            body.breaks.set()
            with pytest.raises(BadRequest) as info:
                await waiting
            assert info.value is error
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_a_response_may_begin_before_the_request_ends(run: Run) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(CHUNKED_HEAD)
        for _ in range(3):
            line = connection._reader.until(b"\r\n")
            data = connection._reader.until(b"\r\n")
            connection.send(line + data)
        assert connection._reader.until(b"\r\n\r\n") == servers.LAST_CHUNK
        connection.send(servers.LAST_CHUNK)
        numbered(connection)

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            body = Body(b"one", b"two", b"three")
            response = await client.send(post(body))
            for word in (b"one", b"two", b"three"):
                assert await response.read() == word
                body.more.release()
            assert await response.read() == b""
            # The request was over too, so the connection is good for another.
            assert await fetch(client) == b"0"
            await client.aclose()

    run(main)


@pytest.mark.parametrize("is_large", [False, True])
def test_an_early_answer_stops_the_upload(run: Run, is_large: bool) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        assert connection.recv()  # The body has begun.
        connection.send(servers.response(413, b"too large"))
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            body = Endless() if is_large else Body(b"one", b"two")
            response = await client.send(post(body))
            assert response.status == 413
            assert await drain(response) == b"too large"
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)
            if isinstance(body, Body):
                await until(lambda: body.is_closed)
            await response.aclose()

    run(main)


def test_a_request_that_was_not_taken_spoils_the_connection(run: Run) -> None:
    stop = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(servers.response(413, b"too large"))
        connection.wait(stop)

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend)
            body = Whole(b"x" * (16 << 20))
            response = await client.send(post(body, [(b"content-length", b"%d" % (16 << 20))]))
            assert await drain(response) == b"too large"
            assert (client.idle, client.busy) == (0, 0)
            stop.set()

    run(main)


# Backpressure


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_reader_that_stalls_holds_the_backend_up(run: Run, is_chunked: bool) -> None:
    megabyte, total = b"x" * (1 << 20), 64
    sent = itertools.count()
    progress = [0]

    def handler(connection: Connection) -> None:
        connection.read_request()
        length = b"Content-Length: %d\r\n\r\n" % (total << 20)
        connection.send(CHUNKED_HEAD if is_chunked else b"HTTP/1.1 200 OK\r\n" + length)
        for _ in range(total):
            connection.send(servers.chunk(megabyte) if is_chunked else megabyte)
            progress[0] = next(sent) + 1
        if is_chunked:
            connection.send(servers.LAST_CHUNK)
        connection.wait_closed()

    def buffered(response: Http1Response) -> int:
        return int(repr(response).split()[-2])

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            response = await client.send(get())
            received = most = 0
            for stop in (0, 30 << 20, total << 20):
                while received < stop:
                    most = max(most, buffered(response))
                    received += len(await response.read())
                before = -1
                while before != progress[0]:  # Until the backend is stuck.
                    before = progress[0]
                    await asyncio.sleep(0.05)
                most = max(most, buffered(response))
                # The rest is in the kernel's buffers.
                assert progress[0] << 20 < received + (24 << 20)
            assert received == total << 20
            assert 0 < most < 512 << 10
            assert await drain(response) == b""
            assert client.idle == 1
            await client.aclose()

    run(main)


# Giving up


def test_cancelled_while_connecting(run: Run) -> None:
    async def main() -> None:
        with unanswered_port() as port:
            client = Http1Client(Backend(f"http://127.0.0.1:{port}"))
            await give_up(asyncio.create_task(client.send(get())))
            assert client.busy == 0

    run(main)


def test_cancelled_during_the_handshake(run: Run) -> None:
    async def main() -> None:
        with RawBackend(lambda connection: connection.wait_closed()) as backend:
            client = Http1Client(Backend(f"https://127.0.0.1:{backend.port}"))
            sending = asyncio.create_task(client.send(get()))
            await until(lambda: backend.connections)
            await give_up(sending)
            assert client.busy == 0
            await until(lambda: backend.open_connections == 0)

    run(main)


async def give_up(task: asyncio.Task[Any]) -> None:
    await settle()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("during", ["head", "pause", "drain"])
def test_cancelled_while_sending(run: Run, during: str) -> None:
    stop = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_head()
        if during == "drain":
            connection.wait(stop)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler, receive_buffer=65536) as backend:
            client = client_of(backend)
            endless, paused = Endless(), Body(b"one", b"two")
            requests = {"head": get(), "pause": post(paused), "drain": post(endless)}
            sending = asyncio.create_task(client.send(requests[during]))
            await until(lambda: backend.requests)
            if during == "drain":
                await stalls(endless)
            assert client.busy == 1
            await give_up(sending)
            assert (client.idle, client.busy) == (0, 0)
            stop.set()
            await until(lambda: backend.open_connections == 0)
            if during == "pause":
                await until(lambda: paused.is_closed)

    run(main)


def half(connection: Connection) -> None:
    connection.read_request()
    connection.send(CHUNKED_HEAD + servers.chunk(b"half"))
    connection.wait_closed()


def test_cancelled_while_reading(run: Run) -> None:
    async def main() -> None:
        with RawBackend(half) as backend:
            client = client_of(backend, Timeouts(idle=60))
            response = await client.send(get())
            assert await response.read() == b"half"
            await give_up(asyncio.create_task(response.read()))
            assert (client.idle, client.busy) == (0, 0)
            await until(lambda: backend.open_connections == 0)
            with pytest.raises(RuntimeError, match="closed"):
                await response.read()
            await response.aclose()

    run(main)


class CountingClient(Http1Client):
    """Counts how often it is told that a connection is gone."""

    gone = 0

    def forget(self, connection: Http1Connection) -> None:
        self.gone += 1
        super().forget(connection)


@pytest.mark.parametrize("reads", [False, True])
def test_a_response_closed_before_its_end(run: Run, reads: bool) -> None:
    async def main() -> None:
        with RawBackend(half) as backend:
            client = CountingClient(Backend(backend.url))
            response = await client.send(get())
            if reads:
                assert await response.read() == b"half"
            await response.aclose()
            await response.aclose()
            assert (client.idle, client.busy, client.gone) == (0, 0, 1)
            assert not response.at_end
            with pytest.raises(RuntimeError, match="closed"):
                await response.read()
            await until(lambda: backend.open_connections == 0)
            assert client.gone == 1

    run(main)


def test_a_response_closed_under_its_reader(run: Run) -> None:
    async def main() -> None:
        with RawBackend(half) as backend:
            client = client_of(backend)
            response = await client.send(get())
            assert await response.read() == b"half"
            reading = asyncio.create_task(response.read())
            await settle()
            await response.aclose()
            with pytest.raises(RuntimeError, match="closed"):
                await reading
            assert client.busy == 0

    run(main)


def test_a_response_closed_after_its_end(run: Run) -> None:
    async def main() -> None:
        with RawBackend(responding(OK)) as backend:
            client = CountingClient(Backend(backend.url), timeouts=Timeouts(keep_alive=60))
            read = await client.send(get())
            assert await drain(read) == b"ok"
            await read.aclose()
            unread = await client.send(get())
            await until(lambda: unread.is_complete)
            await unread.aclose()
            await unread.aclose()
            assert (client.idle, client.busy, client.gone) == (1, 0, 0)
            assert len(backend.connections) == 1
            await client.aclose()
            assert client.gone == 1

    run(main)


def test_a_closed_response_stops_the_upload(run: Run) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(CHUNKED_HEAD)
        connection.wait_closed()

    async def main() -> None:
        with RawBackend(handler) as backend:
            client = client_of(backend)
            body = Body(b"one", b"two")
            response = await client.send(post(body))
            await response.aclose()
            assert client.busy == 0
            await until(lambda: body.is_closed)
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_a_request_that_cannot_be_written(run: Run) -> None:
    async def main() -> None:
        with RawBackend(lambda connection: connection.wait_closed()) as backend:
            client = client_of(backend)
            with pytest.raises(UnicodeEncodeError):
                await client.send(get("GÉT"))
            assert (client.idle, client.busy) == (0, 0)

    run(main)


def test_a_malformed_response_frees_the_connection(run: Run) -> None:
    async def main() -> None:
        with RawBackend(responding(b"HTTP/1.1 999 X\r\n\r\n")) as backend:
            client = CountingClient(Backend(backend.url))
            with pytest.raises(MalformedResponse):
                await client.send(get())
            assert (client.idle, client.busy, client.gone) == (0, 0, 1)
            await until(lambda: backend.open_connections == 0)

    run(main)


def test_what_a_connection_says_of_itself(run: Run) -> None:
    async def main() -> None:
        with RawBackend(numbered) as backend:
            client = client_of(backend)
            await fetch(client)
            await fetch(client)
            [connection] = client._idle
            name = f"backend {backend.id}"
            assert repr(connection) == f"<Http1Connection {name} idle, 2 exchanges>"
            sending = asyncio.create_task(client.send(get()))
            await asyncio.sleep(0)
            assert repr(connection) == f"<Http1Connection {name} busy, 3 exchanges>"
            await sending
            await client.aclose()
            assert repr(connection) == f"<Http1Connection {name} closed, 3 exchanges>"

    run(main)


def test_the_system_notices_a_host_that_has_gone(run: Run) -> None:
    async def main() -> None:
        with RawBackend(responding(OK)) as backend:
            client = Http1Client(Backend(backend.url))
            response = await client.send(UpstreamRequest("GET", b"/", []))
            (connection,) = client._connections
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            await response.aclose()
            await client.aclose()

    run(main)
