"""What a request leaves behind is gone when it is over, without the garbage collector.

A failure holds its traceback, that holds frames, and these hold what the failure is kept in: such
a circle keeps bodies in memory for as long as the collector has not come by.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sticky_asgi import Backend, Gateway, Health, HealthCheck, Pool
from sticky_asgi.exceptions import GatewayError
from sticky_asgi.uvicorn_http import H11Protocol, HttpToolsProtocol
from tests import servers
from tests.apps import hello
from tests.loops import run
from tests.servers import Handler, RawBackend, RawClient, chunk, eventually, response
from tests.websocket_peers import IMPLEMENTATIONS, handshake


@pytest.fixture
def no_collector() -> Iterator[None]:
    logging.disable()  # What pytest keeps of the log holds on to the errors in it.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _module_of(one: object) -> str:
    # Not isinstance(): it asks, and that of which some are proxies has gone.
    if type(one) is FrameType:
        return str(one.f_globals["__name__"])
    return type(one).__module__


def circles() -> list[object]:
    """What of this package only the collector finds: objects, and frames of functions."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [one for one in gc.garbage if _module_of(one).startswith("sticky_asgi")]
    gc.garbage.clear()
    return found


def post(path: str = "/") -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "headers": [(b"host", b"test"), (b"content-length", b"5")],
    }


class Client:
    """Sends a body; leaves when it has been sent so many messages."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.left = asyncio.Event()
        self._leaves_after = leaves_after
        self._sent = 0
        self._has_body = True
        self._look()

    def _look(self) -> None:
        if self._leaves_after is not None and self._sent >= self._leaves_after:
            self.left.set()

    async def receive(self) -> Message:
        if self._has_body:
            self._has_body = False
            return {"type": "http.request", "body": b"hello", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self._sent += 1
        self._look()


async def asks(gateway: ASGIApp, client: Client) -> None:
    with suppress(GatewayError):
        await gateway(post(), client.receive, client.send)


def answers(connection: servers.Connection) -> None:
    connection.read_request()
    connection.send(response(200, b"ok"))


def dies(connection: servers.Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    connection.close()


def streams(connection: servers.Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    connection.wait_closed()


def streams_in_chunks(connection: servers.Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"event"))
    connection.wait_closed()


def dies_in_head(connection: servers.Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-")
    connection.close()


def never(connection: servers.Connection) -> None:
    connection.read_request()
    connection.wait_closed()


def left_behind(pool: Pool, leaves_after: int | None = None) -> list[object]:
    """The circles that a few requests have left."""

    async def main() -> list[object]:
        async with Gateway({"/": pool}) as gateway:
            for _ in range(3):
                await asks(gateway, Client(leaves_after=leaves_after))
            await asyncio.sleep(0.01)
            return circles()

    return asyncio.run(main())


def test_answered(no_collector: None) -> None:
    with RawBackend(answers) as backend:
        assert left_behind(Pool("shop", [backend.url])) == []


def test_refused(no_collector: None) -> None:
    with servers.refusing_port() as port:
        assert left_behind(Pool("shop", [f"http://127.0.0.1:{port}"])) == []


def test_refused_and_tried_elsewhere(no_collector: None) -> None:
    with servers.refusing_port() as port, RawBackend(answers) as backend:
        assert left_behind(Pool("shop", [f"http://127.0.0.1:{port}", backend.url])) == []


@pytest.mark.parametrize(
    ("handler", "leaves_after"),
    [
        pytest.param(dies, None, id="backend dies in the body"),
        pytest.param(never, 0, id="client leaves before the head"),
        pytest.param(streams, 2, id="client leaves in the body"),
        pytest.param(streams_in_chunks, 2, id="client leaves in a body of chunks"),
    ],
)
def test_broken_off(no_collector: None, handler: Any, leaves_after: int | None) -> None:
    with RawBackend(handler) as backend:
        assert left_behind(Pool("shop", [backend.url]), leaves_after) == []


def test_in_process(no_collector: None) -> None:
    assert left_behind(Pool("shop", [Backend(app=hello("a"), id="a")])) == []


def left_behind_by_checks(url: str, **options: Any) -> list[object]:
    """The circles that some checks have left, each of which has failed."""
    check = HealthCheck(**{"interval": 0.01, "down_interval": 0.01, **options})
    pool = Pool("shop", [url], health_check=check)
    (state,) = pool.states

    async def main() -> list[object]:
        async with Gateway({"/": pool}):
            while state.health is not Health.UNHEALTHY:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return circles()

    return run(main)


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        pytest.param(lambda connection: None, {}, id="closes"),
        pytest.param(lambda connection: connection.reset(), {}, id="resets"),
        pytest.param(dies, {}, id="dies in the body"),
        pytest.param(dies_in_head, {}, id="dies in the head"),
        pytest.param(never, {"timeout": 0.02}, id="hangs"),
        pytest.param(streams_in_chunks, {"timeout": 0.02}, id="hangs in the body"),
    ],
)
def test_checked(no_collector: None, handler: Handler, options: dict[str, Any]) -> None:
    with RawBackend(handler) as backend:
        assert left_behind_by_checks(backend.url, **options) == []


@pytest.mark.parametrize(
    "options", [pytest.param({}, id="http"), pytest.param({"tcp": True}, id="tcp")]
)
def test_refused_when_checked(no_collector: None, options: dict[str, Any]) -> None:
    with servers.refusing_port() as port:
        assert left_behind_by_checks(f"http://127.0.0.1:{port}", **options) == []


@pytest.mark.parametrize("ws", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "http", [pytest.param(H11Protocol, id="h11"), pytest.param(HttpToolsProtocol, id="httptools")]
)
def test_a_websocket_was_opened(no_collector: None, http: type[asyncio.Protocol], ws: str) -> None:
    """The protocol that has read its handshake is told nothing when it ends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    with servers.serve(app, http=http, ws=ws, lifespan="off") as server:
        for _ in range(3):
            with RawClient(server.port) as client:
                client.send(handshake())
                assert client.read_head().status == 101
        eventually(lambda: server.connections == 0)
        assert circles() == []
