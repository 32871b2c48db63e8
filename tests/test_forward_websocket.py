"""The client's side of a WebSocket, in the hands of the test: what servers differ in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from sticky_asgi import (
    Backend,
    BackendState,
    BadRequest,
    ClientDisconnected,
    Gateway,
    Pool,
    SignedCookie,
    StaleConnection,
)
from sticky_asgi.exchange import ClientWatch
from sticky_asgi.forward_websocket import IN_A_ROW, WebSocketExchange, may_be_sent
from sticky_asgi.request import RawHeaders
from sticky_asgi.upstream import UpstreamRequest, WebSocketEnded

from .loops import run, turn
from .websocket_peers import Events, Talker


class Server:
    """The server's side of an exchange."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self.error: Exception | None = None

    async def send(self, message: Message) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    def exchange(
        self, *, can_refuse: bool = True, max_message: int | None = None
    ) -> WebSocketExchange:
        exchange = WebSocketExchange(
            self.inbox.get,
            self.send,
            ClientWatch(),
            asyncio.get_running_loop(),
            can_refuse=can_refuse,
            max_message=max_message,
        )
        exchange.state = BackendState(Backend("http://127.0.0.1:1"))
        return exchange

    def says(self, **message: Any) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", **message})

    def ends(self, **message: Any) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect", **message})


def test_a_server_that_can_say_nothing_else_refuses_with_403() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange(can_refuse=False)
        await exchange.refuse(401, [(b"x", b"y")], b"who are you?")
        assert server.sent == [{"type": "websocket.close", "code": 1000}]
        assert (exchange.status, exchange.response_started) == (403, True)

    run(main)


def test_a_refusal_has_one_length() -> None:
    async def main() -> None:
        server = Server()
        headers = [(b"content-length", b"999"), (b"x", b"y")]
        await server.exchange().refuse(404, headers, b"nothing")
        start, body = server.sent
        assert start["headers"] == [(b"x", b"y"), (b"content-length", b"7")]
        assert body["body"] == b"nothing"

    run(main)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        pytest.param({"text": "", "bytes": None}, "", id="empty text, both keys"),
        pytest.param({"text": None, "bytes": b""}, b"", id="empty bytes, both keys"),
        pytest.param({"text": "a"}, "a", id="text"),
        pytest.param({"bytes": b"a"}, b"a", id="bytes"),
    ],
)
def test_a_message_is_what_is_not_none(said: dict[str, Any], read: str | bytes) -> None:
    async def main() -> None:
        server = Server()
        server.says(**said)
        assert await server.exchange().read() == read

    run(main)


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        pytest.param({"bytes": bytes(8)}, True, id="bytes"),
        pytest.param({"bytes": bytes(9)}, False, id="too many bytes"),
        pytest.param({"text": "\u20ac\u20acab"}, True, id="text"),
        pytest.param({"text": "\u20ac\u20acabc"}, False, id="too much text"),
        pytest.param({"text": "12345678"}, True, id="ascii"),
        pytest.param({"text": "123456789"}, False, id="too much ascii"),
    ],
)
def test_a_limit_counts_bytes(said: dict[str, Any], fits: bool) -> None:
    async def main() -> None:
        server = Server()
        server.says(**said)
        exchange = server.exchange(max_message=8)
        if fits:
            assert await exchange.read() in said.values()
            assert server.sent == []
            return
        with pytest.raises(WebSocketEnded) as caught:
            await exchange.read()
        assert caught.value.code == 1009
        (close,) = server.sent
        assert (close["type"], close["code"]) == ("websocket.close", 1009)

    run(main)


@pytest.mark.parametrize(
    ("said", "end"),
    [
        pytest.param({"code": 1001, "reason": "away"}, (1001, "away"), id="both"),
        pytest.param({"code": 1001, "reason": None}, (1001, ""), id="no reason"),
        pytest.param({"code": None}, (1005, ""), id="none"),
        pytest.param({}, (1005, ""), id="nothing"),
    ],
)
def test_the_end(said: dict[str, Any], end: tuple[int, str]) -> None:
    async def main() -> None:
        server = Server()
        server.ends(**said)
        with pytest.raises(WebSocketEnded) as caught:
            await server.exchange().read()
        assert (caught.value.code, caught.value.reason) == end

    run(main)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(), id="gone"),
        pytest.param(RuntimeError("after sending 'websocket.close'"), id="closed by the server"),
    ],
)
def test_a_server_that_takes_nothing_more(error: Exception) -> None:
    async def main() -> None:
        server = Server()
        server.error = error
        exchange = server.exchange()
        with pytest.raises(WebSocketEnded):
            await exchange.write("x")
        await exchange.close(1000, "")

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda exchange: exchange.accept(None, []), id="accept"),
        pytest.param(lambda exchange: exchange.refuse(404, [], b""), id="refuse"),
    ],
)
def test_a_client_that_is_gone_when_it_is_answered(answer: Callable[..., Any]) -> None:
    async def main() -> None:
        server = Server()
        server.error = OSError()
        with pytest.raises(ClientDisconnected):
            await answer(server.exchange())

    run(main)


def test_what_the_watcher_read_is_the_first_message() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        with exchange:
            exchange.watch()
            await asyncio.sleep(0)
            await exchange.accept(None, [])
            server.says(text="first")
            server.says(text="second")
            await asyncio.sleep(0)
            exchange.watch()
            assert [await exchange.read(), await exchange.read()] == ["first", "second"]

    run(main)


async def wait_watched(exchange: WebSocketExchange) -> None:
    with exchange:
        exchange.watch()
        await asyncio.Event().wait()


def test_a_client_that_sends_before_it_is_accepted() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        server.says(text="too early")
        with pytest.raises(BadRequest):
            await wait_watched(exchange)

    run(main)


def test_a_receive_that_raises_is_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        raise ValueError("a bug in a middleware")

    async def main() -> None:
        exchange = Server().exchange()
        exchange.receive = receive
        with pytest.raises(ClientDisconnected):
            await wait_watched(exchange)

    run(main)
    assert "a bug in a middleware" in caplog.text


def test_a_watcher_that_reads_still_goes_on_as_the_reader() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        with exchange:
            exchange.watch()
            await asyncio.sleep(0)
            await exchange.accept(None, [])
            reading = asyncio.create_task(exchange.read())
            await asyncio.sleep(0)
            server.ends(code=1001)
            with pytest.raises(WebSocketEnded):
                await reading
        await asyncio.sleep(0)

    run(main)


class Sink:
    """A backend that takes everything at once and says nothing."""

    status = 101
    headers: RawHeaders = []
    subprotocol = None

    def __init__(self) -> None:
        self.taken = 0

    async def open_websocket(self, request: UpstreamRequest) -> Sink:
        return self

    async def send(self, message: str | bytes) -> None:
        self.taken += 1

    async def receive(self) -> str | bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        pass

    async def aclose(self) -> None:
        pass


def test_a_flood_lets_others_have_their_turn() -> None:
    async def main() -> None:
        server, sink = Server(), Sink()
        for _ in range(1000):
            server.says(text="x")
        server.ends(code=1000)
        client: Any = sink
        exchange = server.exchange()
        forward = exchange.forward(client, UpstreamRequest("GET", b"/", []), Approval())
        flood = asyncio.create_task(forward)
        most = before = 0
        while not flood.done():
            await asyncio.sleep(0)
            most, before = max(most, sink.taken - before), sink.taken
        assert (sink.taken, most) == (1000, IN_A_ROW)

    run(main)


def test_in_process() -> None:
    """No socket is needed to test a gateway, nor `websockets`."""
    talkers = [Talker("a", [(b"x-own", b"1")]), Talker("b", [(b"x-own", b"1")])]
    backends = [Backend(app=talker, id=talker.name) for talker in talkers]
    events = Events()
    pool = Pool("shop", backends, affinity=SignedCookie("0123456789abcdef"))
    with TestClient(Gateway({"/": pool}, listeners=[events])) as client:
        names = {client.get("/").text}
        for _ in range(3):
            with client.websocket_connect("/x", subprotocols=["v1", "v2"]) as socket:
                assert socket.accepted_subprotocol == "v1"
                assert (b"x-own", b"1") in (socket.extra_headers or [])
                socket.send_text("name")
                names.add(socket.receive_text())
                socket.send_bytes(b"")
                assert socket.receive_bytes() == b""
        assert len(names) == 1, "requests and WebSockets share a cookie"
        with client.websocket_connect("/") as socket:
            socket.send_text("close 4001 why")
            with pytest.raises(WebSocketDisconnect) as caught:
                socket.receive_text()
        assert (caught.value.code, caught.value.reason) == (4001, "why")
    assert (len(events), events[-1].close_code) == (5, 4001)
    assert pool.in_flight == 0


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    assert may_be_sent(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_codes_that_must_not_be_sent(code: int) -> None:
    assert not may_be_sent(code)


class EndedBackend:
    """It has closed and takes nothing any more, but what it has sent before is still to come."""

    status = 101
    headers: RawHeaders = []
    subprotocol = None

    def __init__(self, *left: str | bytes) -> None:
        self.left = [*left]
        self.refused = asyncio.Event()

    async def open_websocket(self, request: UpstreamRequest) -> EndedBackend:
        return self

    async def send(self, message: str | bytes) -> None:
        self.refused.set()
        raise WebSocketEnded(4000, "done")

    async def receive(self) -> str | bytes:
        await self.refused.wait()
        await turn()
        if not self.left:
            raise WebSocketEnded(4000, "done")
        return self.left.pop(0)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        raise AssertionError("it is closed already")

    async def aclose(self) -> None:
        pass


class Approval:
    """Lets every answer pass."""

    def answered(self, response: object) -> RawHeaders:
        return []

    def may_reopen(self, error: StaleConnection) -> bool:
        raise AssertionError


def test_what_an_ended_backend_has_sent_before_arrives() -> None:
    async def main() -> None:
        server, backend = Server(), EndedBackend("late", b"later")
        server.says(text="too late")
        exchange = server.exchange()
        client: Any = backend
        await exchange.forward(client, UpstreamRequest("GET", b"/", []), Approval())
        accept, *rest = server.sent
        assert accept["type"] == "websocket.accept"
        assert rest == [
            {"type": "websocket.send", "text": "late"},
            {"type": "websocket.send", "bytes": b"later"},
            {"type": "websocket.close", "code": 4000, "reason": "done"},
        ]

    run(main)
