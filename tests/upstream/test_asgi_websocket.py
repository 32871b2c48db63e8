"""WebSockets to applications in process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from sticky_asgi import Backend, ConnectionLost, MalformedResponse, WebSocketOptions
from sticky_asgi.upstream import (
    UpstreamRequest,
    UpstreamResponse,
    UpstreamWebSocket,
    WebSocketEnded,
)
from sticky_asgi.upstream.asgi import AsgiClient
from tests.loops import run_and_collect as run
from tests.upstream.test_asgi import settled

App = Callable[[Scope, Receive, Send], Awaitable[None]]


def client(app: App, **options: Any) -> AsgiClient:
    return AsgiClient(Backend(app=app, id="a"), websocket=WebSocketOptions(**options))


def handshake(*offered: str, scheme: str = "http") -> UpstreamRequest:
    headers = [(b"host", b"shop.test"), (b"cookie", b"a=1")]
    if offered:
        headers.append((b"sec-websocket-protocol", ", ".join(offered).encode()))
    return UpstreamRequest(
        "GET", b"/ch%20at?x=%2F", headers, scheme=scheme, client=("192.0.2.1", 5)
    )


async def opened(one: AsgiClient, *offered: str) -> UpstreamWebSocket:
    answer = await one.open_websocket(handshake(*offered))
    assert isinstance(answer, UpstreamWebSocket)
    return answer


async def refused(one: AsgiClient) -> UpstreamResponse:
    answer = await one.open_websocket(handshake())
    assert not isinstance(answer, UpstreamWebSocket)
    return answer


async def end_of(websocket: UpstreamWebSocket) -> WebSocketEnded:
    try:
        while True:
            await websocket.receive()
    except WebSocketEnded as ended:
        return ended


async def accept(receive: Receive, send: Send, **options: Any) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **options})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})  # type: ignore[operator]


async def wait_for_ever(receive: Receive, gone: list[Message]) -> None:
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    gone.append(message)


# The handshake


@pytest.mark.parametrize(("scheme", "expected"), [("http", "ws"), ("https", "wss")])
def test_what_the_app_is_told(scheme: str, expected: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await accept(receive, send)

    async def main() -> None:
        one = AsgiClient(Backend(app=app, id="a"), state={"db": "connection"})
        answer = await one.open_websocket(handshake("b", "a", scheme=scheme))
        await answer.aclose()
        await settled(one)
        assert seen == [
            {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "scheme": expected,
                "path": "/ch at",
                "raw_path": b"/ch%20at",
                "query_string": b"x=%2F",
                "root_path": "",
                "headers": [
                    (b"host", b"shop.test"),
                    (b"cookie", b"a=1"),
                    (b"sec-websocket-protocol", b"b, a"),
                ],
                "client": ("192.0.2.1", 5),
                "server": ("localhost", 80),
                "subprotocols": ["b", "a"],
                "extensions": {"websocket.http.response": {}},
                "state": {"db": "connection"},
            }
        ]

    run(main)


def test_what_the_app_answers() -> None:
    headers = [[b"Set-Cookie", b"a=1"], (b"set-cookie", b"b=2"), (b"connection", b"x-a")]
    headers += [(b"x-a", b"1"), (b"content-length", b"0"), (b"sec-websocket-accept", b"x")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send, subprotocol="a", headers=headers)
        await receive()

    async def main() -> None:
        one = client(app)
        websocket = await opened(one, "b", "a")
        assert websocket.status == 101
        assert websocket.subprotocol == "a"
        assert websocket.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await websocket.close(1000, "")
        await websocket.aclose()
        await settled(one)

    run(main)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"subprotocol": "c"}, id="subprotocol"),
        pytest.param({"headers": [(b"x", b"a\nb")]}, id="header"),
    ],
)
def test_a_bad_acceptance(options: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send, **options)

    async def main() -> None:
        one = client(app)
        with pytest.raises(MalformedResponse):
            await one.open_websocket(handshake("a"))
        await settled(one)

    run(main)


def test_refused_by_a_close() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        with pytest.raises(RuntimeError, match="after the handshake was refused"):
            await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"

    async def main() -> None:
        one = client(app)
        answer = await refused(one)
        assert (answer.status, answer.headers) == (403, [])
        assert await answer.read() == b""
        await settled(one)
        await answer.aclose()

    run(main)


def test_refused_by_a_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"WWW-Authenticate", b"Some x=1")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        for piece in (b"who ", b"are "):
            body = {"type": "websocket.http.response.body", "body": piece, "more_body": True}
            await send(body)
        with pytest.raises(RuntimeError, match="unexpected ASGI message"):
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.http.response.body", "body": b"you?"})

    async def main() -> None:
        one = client(app)
        answer = await refused(one)
        assert answer.status == 401
        assert answer.headers == [(b"www-authenticate", b"Some x=1")]
        body = b""
        while piece := await answer.read():
            body += piece
        assert body == b"who are you?"
        assert answer.at_end
        await answer.aclose()
        await settled(one)

    run(main)


def test_a_refusal_that_nobody_reads() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        for _ in range(10):
            body = {"type": "websocket.http.response.body", "body": b"x", "more_body": True}
            await send(body)
        await send({"type": "websocket.http.response.body"})

    async def main() -> None:
        one = client(app, close_timeout=0.05)
        answer = await refused(one)
        await answer.aclose()
        await settled(one)

    run(main)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_an_app_that_does_not_answer(
    raises: bool, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if begun:
            await send({"type": "websocket.http.response.start", "status": 500})
        if raises:
            raise ValueError("oops")

    async def main() -> None:
        one = client(app)
        if begun:
            answer = await refused(one)
            with pytest.raises(ConnectionLost) as caught:
                await answer.read()
            await answer.aclose()
        else:
            with pytest.raises(ConnectionLost) as caught:
                await one.open_websocket(handshake())
        assert caught.value.stage == ("body" if begun else "head")
        await settled(one)

    run(main)
    assert ("raised an exception" in caplog.text) is raises


def test_nobody_waits_for_the_answer_any_more(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await wait_for_ever(receive, gone)
        await send({"type": "websocket.accept"})

    async def main() -> None:
        one = client(app)
        task = asyncio.create_task(one.open_websocket(handshake()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(one)
        assert gone == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]

    with caplog.at_level(logging.INFO):
        run(main)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "the client has left" in caplog.text


def test_nobody_waits_any_more_as_the_app_accepts() -> None:
    """Between the acceptance and whoever waits for it."""
    gone: list[Message] = []

    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            task.cancel()
            await accept(receive, send)
            await wait_for_ever(receive, gone)

        one = client(app)
        task = asyncio.create_task(one.open_websocket(handshake()))
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(one)
        assert gone == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]

    run(main)


@pytest.mark.parametrize("message", ["websocket.send", "http.response.start"])
@pytest.mark.parametrize("accepted", [False, True])
def test_messages_out_of_order(message: str, accepted: bool) -> None:
    errors: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if accepted:
            await accept(receive, send)
            message_sent = "websocket.accept"
        else:
            await receive()
            message_sent = message
        try:
            await send({"type": message_sent})
        except RuntimeError as exc:
            errors.append(str(exc))
        if not accepted:
            await send({"type": "websocket.close"})

    async def main() -> None:
        one = client(app)
        answer = await one.open_websocket(handshake())
        await answer.aclose()
        await settled(one)
        assert len(errors) == 1
        assert errors[0].startswith("unexpected ASGI message")

    run(main)


# Messages


def test_both_ways() -> None:
    async def main() -> None:
        one = client(echo)
        websocket = await opened(one)
        for message in ("", b"", "grüße", b"\xff", "x" * 1_000_000):
            await websocket.send(message)
            assert await websocket.receive() == message
        await websocket.close(4001, "so long")
        await websocket.aclose()
        assert not one.tasks

    run(main)


def test_a_message_may_carry_the_other_kind_as_none() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": None, "bytes": b""})
        await send({"type": "websocket.send", "text": "", "bytes": None})

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        assert await websocket.receive() == b""
        assert await websocket.receive() == ""
        assert (await end_of(websocket)).code == 1000
        await websocket.aclose()
        await settled(one)

    run(main)


def test_a_slow_reader_slows_the_app() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await accept(receive, send)
        for index in range(20):
            await send({"type": "websocket.send", "text": str(index)})
            sent += 1

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await asyncio.sleep(0.01)
        assert sent == 1
        assert [await websocket.receive() for _ in range(20)] == [str(i) for i in range(20)]
        await websocket.aclose()
        await settled(one)

    run(main)


def test_a_slow_app_slows_the_sender() -> None:
    go = asyncio.Event()
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message)
        got.append(message)

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await websocket.send("one")
        sending = asyncio.create_task(websocket.send("two"))
        await asyncio.sleep(0.01)
        assert not sending.done()
        go.set()
        await sending
        await websocket.send(b"three")
        # What was sent before is delivered before the end.
        await websocket.close(1001, "enough")
        assert got == [
            {"type": "websocket.receive", "text": "one"},
            {"type": "websocket.receive", "text": "two"},
            {"type": "websocket.receive", "bytes": b"three"},
            {"type": "websocket.disconnect", "code": 1001, "reason": "enough"},
        ]
        await websocket.aclose()
        await settled(one)

    run(main)


# The end


def test_the_app_closes() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "bye"})
        await send({"type": "websocket.close", "code": 4001, "reason": "so long"})
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "more"})
        got.append(await receive())

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await asyncio.sleep(0.01)
        assert await websocket.receive() == "bye"
        for _ in range(2):
            ended = await end_of(websocket)
            assert (ended.code, ended.reason, ended.error) == (4001, "so long", None)
        with pytest.raises(WebSocketEnded):
            await websocket.send("more")
        await websocket.close(1000)
        await websocket.aclose()
        await settled(one)
        assert got == [{"type": "websocket.disconnect", "code": 4001, "reason": "so long"}]

    run(main)


def test_the_app_dies(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "one"})
        await receive()
        raise ValueError("oops")

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await websocket.send("die")
        assert await websocket.receive() == "one"
        ended = await end_of(websocket)
        assert ended.code == 1006
        assert isinstance(ended.error, ConnectionLost)
        assert ended.error.stage == "body"
        with pytest.raises(WebSocketEnded):
            await websocket.send("more")
        await websocket.aclose()
        await settled(one)

    run(main)
    assert "oops" in caplog.text


def test_whoever_waits_learns_of_the_end() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        await send({"type": "websocket.close", "code": 4000})

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await websocket.send("fills the room there is")
        receiving = asyncio.create_task(end_of(websocket))
        sending = asyncio.create_task(websocket.send("waits"))
        await asyncio.sleep(0.01)
        go.set()
        assert (await receiving).code == 4000
        with pytest.raises(WebSocketEnded):
            await sending
        await websocket.aclose()
        await settled(one)

    run(main)


def test_an_app_that_sends_after_the_gateway_has_left(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0)

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        assert await websocket.receive() == "tick"
        await websocket.close(1000)
        assert not one.tasks, "the error from send() has ended it"
        assert (await end_of(websocket)).code == 1000
        await websocket.aclose()

    with caplog.at_level(logging.ERROR):
        run(main)
    assert not caplog.records


@pytest.mark.parametrize("closes", [False, True], ids=["let-go", "closed"])
def test_an_app_that_does_not_notice_is_cancelled(closes: bool) -> None:
    cancelled: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        one = client(app, close_timeout=0.05)
        websocket = await opened(one)
        await (websocket.close(1000) if closes else websocket.aclose())
        await settled(one)
        await websocket.aclose()
        assert cancelled == [True]

    run(main)


def test_an_app_that_has_closed_may_go_on() -> None:
    finished: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})
        await asyncio.sleep(0.1)
        finished.append(True)

    async def main() -> None:
        one = client(app, close_timeout=0.01)
        websocket = await opened(one)
        await end_of(websocket)
        await websocket.aclose()
        await settled(one)
        assert finished

    run(main)


def test_let_go_without_a_close() -> None:
    gone: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await wait_for_ever(receive, gone)

    async def main() -> None:
        one = client(app)
        websocket = await opened(one)
        await websocket.aclose()
        await websocket.aclose()
        await settled(one)
        assert gone == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
        assert (await end_of(websocket)).code == 1006
        with pytest.raises(WebSocketEnded):
            await websocket.send("more")

    run(main)
