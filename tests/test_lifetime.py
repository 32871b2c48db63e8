"""How long things live: streams, connections, counters, tasks, applications, and event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi import (
    Backend,
    Gateway,
    GatewayMiddleware,
    Limits,
    Pool,
    Retry,
    Timeouts,
)
from tests.apps import StreamApp, hello
from tests.gateways import Lane, closing, transport_of
from tests.servers import (
    LAST_CHUNK,
    OPTION_OF,
    Connection,
    Handler,
    HttpImplementation,
    ProcessBackend,
    RawBackend,
    RawClient,
    chunk,
    encode_request,
    eventually,
    refusing_port,
    request,
    responding,
    response,
    serve,
)
from tests.watching import First, Watched, kept_servers, watched

OK = responding(response(200, b"fine"))
MEBI = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


@contextlib.contextmanager
def before(
    handler: Handler,
    http: HttpImplementation = "h11",
    lane: Lane = "http1",
    *,
    server: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[tuple[Watched, RawBackend]]:
    """A gateway before one backend."""
    with RawBackend(handler) as backend:
        pool = Pool("shop", [backend.url], transport=transport_of(lane), **options)
        with watched(pool, http, server=server) as front:
            yield front, backend


# Streaming


def test_each_piece_of_a_response_comes_at_once(http: HttpImplementation, lane: Lane) -> None:
    app = StreamApp()
    with serve(app) as backend:
        pool = Pool("shop", [backend.url], transport=transport_of(lane))
        with watched(pool, http) as front, RawClient(front.port) as client:
            client.send(encode_request())
            assert app.started.wait(10)
            answer = client.read_head()
            for n in range(5):
                event = b"data: %d\n\n" % n
                app.push(event)
                assert client.read_piece(answer) == event
            app.end()
            assert client.read_body(answer).complete


def test_each_piece_of_a_request_goes_on_at_once(http: HttpImplementation, lane: Lane) -> None:
    got: list[bytes] = []

    def handler(connection: Connection) -> None:
        connection.read_head()
        while not got or not got[-1].endswith(LAST_CHUNK):
            got.append(connection.recv())
        connection.send(response(200, b"fine"))

    with before(handler, http, lane) as (front, _), RawClient(front.port) as client:
        client.send(encode_request("POST", headers=[(b"Transfer-Encoding", b"chunked")]))
        for n in range(5):
            client.send(chunk(b"piece %d" % n))
            eventually(lambda n=n: b"piece %d" % n in b"".join(got))  # type: ignore[misc]
        client.send(LAST_CHUNK)
        assert client.read_response().body == b"fine"


def test_both_directions_stream_at_one_time(http: HttpImplementation) -> None:
    """httpx sends a whole request before it reads; the gateway's own transport does not."""

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in request._body_pieces(connection._reader, to_the_end=False):
            connection.send(chunk(b"echo " + piece))
        connection.send(LAST_CHUNK)

    with before(handler, http) as (front, _), RawClient(front.port) as client:
        client.send(encode_request("POST", headers=[(b"Transfer-Encoding", b"chunked")]))
        answer = client.read_head()
        for n in range(5):
            client.send(chunk(b"%d" % n))
            assert client.read_piece(answer) == b"echo %d" % n
        client.send(LAST_CHUNK)
        assert client.read_body(answer).complete


def test_an_early_answer_ends_the_upload(http: HttpImplementation) -> None:
    """The rest of the body is not pumped for ever: the backend's connection is closed."""

    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(response(413, b"too large"))
        connection.wait_closed()

    with before(handler, http) as (front, backend), RawClient(front.port) as client:
        client.send(encode_request("POST", headers=[(b"Content-Length", b"1000000")]) + b"x" * 1000)
        answer = client.read_response()
        assert (answer.status, answer.body) == (413, b"too large")
        assert backend.connection().done.wait(10)


def test_a_stream_may_pause_longer_than_an_answer(http: HttpImplementation, lane: Lane) -> None:
    """After the head there is no timeout by default: while a request that nobody answers runs into
    the response timeout, a stream that began before it lives on."""
    more = threading.Event()

    def handler(connection: Connection) -> None:
        if connection.read_request().target == b"/stream":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"a"))
            connection.wait(more)
            connection.send(chunk(b"b") + LAST_CHUNK)
        else:
            connection.wait_closed()

    timeouts = Timeouts(response=0.3)
    with (
        before(handler, http, lane, timeouts=timeouts) as (front, _),
        RawClient(front.port) as client,
    ):
        client.send(encode_request("GET", b"/stream"))
        answer = client.read_head()
        assert client.read_piece(answer) == b"a"
        assert front.request("POST", b"/never").status == 504
        more.set()
        assert client.read_body(answer).body == b"ab"
        assert answer.complete


# Backpressure: the gateway is a process of its own, so that its memory can be told


def create_gateway() -> ASGIApp:
    """The gateway that the tests below start as a process."""
    lane: Lane = "httpx" if os.environ["GATEWAY_LANE"] == "httpx" else "http1"
    transport = transport_of(lane)
    pool = Pool("shop", [os.environ["GATEWAY_BACKEND"]], transport=transport)
    return closing(Gateway({"/": pool}), transport)


def peak_memory(pid: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


class Flood:
    """A backend that gives and takes large bodies, and notices when it is held up."""

    def __init__(self) -> None:
        self.sent = self.taken = 0
        self.held_up = threading.Event()
        self.may_take = threading.Event()

    def handler(self, connection: Connection) -> None:
        while True:
            request = connection.read_head()
            self.sent = self.taken = 0
            size = int(request.target[1:])
            if request.method == "GET":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                self.sent = pour(connection, size, self.held_up)
            else:
                connection.wait(self.may_take)
                while self.taken < size:
                    self.taken += len(connection.recv())
                connection.send(response(200, b"%d" % self.taken))


def pour(peer: Connection | RawClient, size: int, held_up: threading.Event) -> int:
    """Send so many bytes; set the event whenever the peer takes nothing for half a second."""
    block = memoryview(bytes(MEBI))
    sent = 0
    while sent < size:
        if not select.select([], [peer.socket], [], 0.5)[1]:
            held_up.set()
            select.select([], [peer.socket], [], 10)
        sent += peer.socket.send(block[: size - sent])
    return sent


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_slow_peer_costs_no_memory(http: HttpImplementation, lane: Lane, direction: str) -> None:
    """100 MB for somebody who does not read them: the sender waits, and the gateway stays small."""
    size = 100 * MEBI
    flood = Flood()
    with RawBackend(flood.handler) as backend:
        env = {"GATEWAY_BACKEND": backend.url, "GATEWAY_LANE": lane}
        options = ("--factory", "--http", OPTION_OF[http])
        with ProcessBackend(
            "tests.test_lifetime:create_gateway", env=env, options=options
        ) as process:
            if direction == "down":
                grown = slow_download(process, flood, size)
            else:
                grown = slow_upload(process, flood, size)
    # httpcore and the C library's allocator hold some more than the gateway's own transport does.
    assert grown < (4 if lane == "http1" else 8) * MEBI


def slow_download(process: ProcessBackend, flood: Flood, size: int) -> int:
    """By how much the gateway has grown in the end."""
    with RawClient(process.port) as client:
        client.send(encode_request("GET", b"/%d" % (8 * MEBI)))
        client.drain(client.read_head())
    before = peak_memory(process.pid)
    flood.held_up.clear()
    with RawClient(process.port, receive_buffer=65536) as client:
        client.send(encode_request("GET", b"/%d" % size))
        answer = client.read_head()
        assert flood.held_up.wait(30), "the backend could send all of it"
        grown = peak_memory(process.pid) - before
        assert client.drain(answer) == size
        assert answer.complete
    return grown


def slow_upload(process: ProcessBackend, flood: Flood, size: int) -> int:
    """By how much the gateway has grown in the end."""
    flood.may_take.set()
    request(process.port, "POST", b"/%d" % (8 * MEBI), body=bytes(8 * MEBI))
    flood.may_take.clear()
    before = peak_memory(process.pid)
    with RawClient(process.port) as client:
        head = [(b"Content-Length", b"%d" % size)]
        client.send(encode_request("POST", b"/%d" % size, head))
        held_up = threading.Event()
        pouring = threading.Thread(target=pour, args=(client, size, held_up))
        pouring.start()
        assert held_up.wait(30), "the client could send all of it"
        grown = peak_memory(process.pid) - before
        flood.may_take.set()
        pouring.join(30)
        assert client.read_response().body == b"%d" % size
    return grown


# Whatever happens, nothing stays behind


def broken_off(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


def silent(connection: Connection) -> None:
    connection.read_request()
    connection.wait_closed()


def leave(front: Watched, backend: RawBackend) -> None:
    client = RawClient(front.port)
    client.send(encode_request())
    eventually(lambda: front.pool.in_flight == 1 and front.exchanges == 1)
    backend.wait_request()
    client.reset()


def ask(front: Watched, backend: RawBackend) -> None:
    front.request()


def post_too_much(front: Watched, backend: RawBackend) -> None:
    front.request("POST", body=[b"x" * 20])


@pytest.mark.parametrize(
    ("handler", "act", "options"),
    [
        pytest.param(OK, ask, {}, id="all well"),
        pytest.param(broken_off, ask, {}, id="cut off"),
        pytest.param(lambda connection: connection.read_head(), ask, {}, id="no answer"),
        pytest.param(silent, ask, {"timeouts": Timeouts(response=0.1)}, id="timeout"),
        pytest.param(silent, leave, {}, id="the client left"),
        pytest.param(OK, post_too_much, {"limits": Limits(max_body=10)}, id="too large"),
    ],
)
def test_every_counter_returns_to_0(
    http: HttpImplementation,
    lane: Lane,
    handler: Handler,
    act: Callable[[Watched, RawBackend], None],
    options: dict[str, Any],
) -> None:
    with before(handler, http, lane, **options) as (front, backend):
        tasks = front.tasks
        act(front, backend)
        front.event()
        eventually(lambda: front.traces() == {}, message=f"{front.traces()}")
        eventually(lambda: front.tasks == tasks)
        if handler is not OK:
            eventually(lambda: backend.open_connections == 0)
        assert front.pool[backend.id].in_flight == 0


def test_a_policy_that_raises_leaves_nothing_behind(http: HttpImplementation, lane: Lane) -> None:
    class Broken(First):
        def pick(self, candidates: Any, request: Any) -> Any:
            raise ZeroDivisionError

    with before(OK, http, lane, balancer=Broken()) as (front, _):
        assert front.request().status == 500
        assert front.traces() == {}


class CountedStream(httpx.AsyncByteStream):
    def __init__(self, pieces: int, fails: bool) -> None:
        self.closed = 0
        self._pieces = pieces
        self._fails = fails

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._pieces):
            yield b"x" * 1000
        if self._fails:
            raise httpx.ReadError("lost")

    async def aclose(self) -> None:
        await asyncio.sleep(0)  # Where a cancellation would strike.
        self.closed += 1


class CountedTransport(httpx.AsyncBaseTransport):
    """Counts how often its responses are closed."""

    def __init__(self, status: int = 200, pieces: int = 3, fails: bool = False) -> None:
        self.streams: list[CountedStream] = []
        self._status, self._pieces, self._fails = status, pieces, fails

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.streams.append(CountedStream(self._pieces, self._fails))
        return httpx.Response(self._status, stream=self.streams[-1])


FOR_EVER = 10**9


@pytest.mark.parametrize(
    ("options", "leaves", "streams"),
    [
        pytest.param({}, False, 1, id="read to its end"),
        pytest.param({"fails": True}, False, 1, id="lost"),
        pytest.param({"pieces": FOR_EVER}, True, 1, id="the client left"),
        pytest.param({"status": 503}, False, 2, id="given up for its status"),
        pytest.param({"status": 99}, False, 2, id="refused"),
    ],
)
def test_an_upstream_response_is_closed_exactly_once(
    http: HttpImplementation, options: dict[str, Any], leaves: bool, streams: int
) -> None:
    transport = CountedTransport(**options)
    backends = [Backend("http://127.0.0.1:1", id="a"), Backend("http://127.0.0.1:1", id="b")]
    retry = Retry(on_status={503})
    with watched(Pool("shop", backends, transport=transport, retry=retry), http) as front:
        with RawClient(front.port) as client:
            client.send(encode_request())
            answer = client.read_head()
            if leaves:
                client.read_piece(answer)
            else:
                client.read_body(answer)
        front.event()
        eventually(lambda: front.traces() == {})
        assert [stream.closed for stream in transport.streams] == [1] * streams


@pytest.mark.parametrize("has_head", [False, True], ids=["before the head", "in the body"])
def test_the_servers_shutdown_closes_what_is_under_way(
    http: HttpImplementation, lane: Lane, has_head: bool
) -> None:
    """After its grace uvicorn cancels the tasks of requests; the backends' connections go too."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        if has_head:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        connection.wait_closed()

    transport = transport_of(lane)
    with RawBackend(handler) as backend:
        pool = Pool("shop", [backend.url], transport=transport)
        app = closing(Gateway({"/": pool}), transport)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(serve(app, http=http, timeout_graceful_shutdown=0))
            client = stack.enter_context(RawClient(server.port))
            client.send(encode_request())
            backend.wait_request()
            if has_head:
                answer = client.read_head()
                assert client.read_piece(answer) == b"abc"
            server.server.should_exit = True
            assert backend.connection().done.wait(10)
            if has_head:
                assert not client.read_body(answer).complete
            eventually(lambda: pool.in_flight == 0)
        assert len(backend.connections) == 1
        assert pool.states[0].in_flight == 0


# Lifespan


class Recording:
    """An app that writes down its lifespan."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.name, self.log, self.fails = name, log, fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await hello(self.name)(scope, receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            self.log.append(f"{self.name} {stage}")
            if self.fails == stage:
                await send({"type": f"lifespan.{stage}.failed", "message": "no luck"})
                return
            await send({"type": f"lifespan.{stage}.complete"})


def test_the_apps_lifespan_runs_inside_the_gateways(http: HttpImplementation) -> None:
    """What the gateway holds is there before the app starts and until it has stopped."""
    log: list[str] = []
    pool = Pool("shop", [Backend(app=Recording("backend", log), id="a")])
    app = GatewayMiddleware(Recording("app", log), {"/shop": pool})
    with serve(app, http=http) as server:
        assert log == ["backend startup", "app startup"]
        assert request(server.port, "GET", b"/shop").body == b"backend"
        assert request(server.port, "GET", b"/").body == b"app"
    assert log[2:] == ["app shutdown", "backend shutdown"]


def test_starlettes_lifespan_and_its_state(http: HttpImplementation) -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        log.append("startup")
        yield {"word": "hello"}
        log.append("shutdown")

    async def say(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.word)

    with RawBackend(OK) as backend:
        pools = {"/shop": Pool("shop", [backend.url])}
        app = Starlette(
            routes=[StarletteRoute("/", say)],
            lifespan=lifespan,
            middleware=[Middleware(GatewayMiddleware, pools=pools)],
        )
        with serve(app, http=http) as server:
            assert log == ["startup"]
            assert request(server.port).body == b"hello"
            assert request(server.port, "GET", b"/shop").body == b"fine"
        assert log == ["startup", "shutdown"]


@pytest.mark.parametrize("who", ["backend", "app"])
def test_a_failure_to_start_keeps_the_server_from_starting(
    http: HttpImplementation, who: str
) -> None:
    log: list[str] = []
    backend = Recording("backend", log, "startup" if who == "backend" else "")
    inner = Recording("app", log, "startup" if who == "app" else "")
    pool = Pool("shop", [Backend(app=backend, id="a")])
    server = serve(GatewayMiddleware(inner, {"/shop": pool}), http=http)
    with pytest.raises(RuntimeError, match="no luck"):
        server.__enter__()
    if who == "backend":
        assert log == ["backend startup"], "the app has not even been asked"
    else:
        assert log == ["backend startup", "app startup", "backend shutdown"]


def test_a_starlette_app_that_raises_at_start_keeps_the_server_from_starting() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise ZeroDivisionError
        yield

    pool = Pool("shop", ["http://127.0.0.1:1"])
    app = Starlette(
        lifespan=lifespan, middleware=[Middleware(GatewayMiddleware, pools={"/": pool})]
    )
    with pytest.raises(RuntimeError, match="did not start"):
        serve(app).__enter__()


def test_an_app_without_lifespan_is_served(http: HttpImplementation) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("what is a lifespan?")
        await hello("app")(scope, receive, send)

    with RawBackend(OK) as backend:
        pool = Pool("shop", [backend.url])
        with serve(GatewayMiddleware(app, {"/shop": pool}), http=http) as server:
            assert request(server.port).body == b"app"
            assert request(server.port, "GET", b"/shop").body == b"fine"
            assert server.errors == []


def test_idle_connections_are_closed_at_shutdown(http: HttpImplementation) -> None:
    with RawBackend(OK) as backend:
        with serve(Gateway({"/": Pool("shop", [backend.url])}), http=http) as server:
            request(server.port)
            assert backend.open_connections == 1
        assert backend.connection().done.wait(10)


# Event loops


def test_a_gateway_outlives_its_event_loop(http: HttpImplementation) -> None:
    """Nothing is bound to a loop before one runs, nor to the first one that did."""
    with RawBackend(OK) as backend, refusing_port() as port:
        urls = [f"http://127.0.0.1:{port}", backend.url]
        pool = Pool("shop", urls, balancer=First())
        gateway = Gateway({"/": pool})
        for lifespan in ("on", "on", "off", "off"):
            with serve(gateway, http=http, lifespan=lifespan) as server:
                for _ in range(2):
                    assert request(server.port).body == b"fine"
                assert server.errors == []
            assert pool.in_flight == 0
            eventually(lambda: backend.open_connections == 0)
        assert len(backend.connections) == 4, "one for each loop, kept alive in it"


def test_a_gateway_serves_two_event_loops_at_one_time(http: HttpImplementation) -> None:
    with RawBackend(OK) as backend:
        gateway = Gateway({"/": Pool("shop", [backend.url])})
        with serve(gateway, http=http) as first:
            with serve(gateway, http=http) as second:
                for _ in range(3):
                    assert request(first.port).body == b"fine"
                    assert request(second.port).body == b"fine"
            assert request(first.port).body == b"fine"
            assert (first.errors, second.errors) == ([], [])
        assert len(backend.connections) == 2
