"""Backends in process, seen from the gateway's side of the seam."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sticky_asgi.backend import Backend
from sticky_asgi.exceptions import (
    BodyTooLarge,
    ClientDisconnected,
    ConnectionLost,
    GatewayError,
    MalformedResponse,
)
from sticky_asgi.upstream import UpstreamRequest
from sticky_asgi.upstream.asgi import AsgiClient, AsgiExchange
from tests.loops import run_and_collect as run
from tests.loops import run_virtually


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


def client(app: ASGIApp, **options: Any) -> AsgiClient:
    return AsgiClient(Backend(app=app, id="a"), **options)


async def read_all(response: AsgiExchange) -> list[bytes]:
    pieces = []
    while not response.at_end and (piece := await response.read()):
        pieces.append(piece)
    await response.aclose()
    return pieces


async def settled(one: AsgiClient) -> None:
    """Wait until no call is running."""
    while one.tasks:
        await asyncio.wait(one.tasks)


async def start(send: Send, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send: Send, piece: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": more})


async def say_hello(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[(b"content-length", b"5"), [b"x-a", b"\xff"], (b"x-a", b"2")])
    await body(send, b"hello")


def test_a_whole_response() -> None:
    async def main() -> None:
        one = client(say_hello)
        response = await one.send(get())
        assert response.status == 200
        assert response.headers == [
            (b"content-length", b"5"), (b"x-a", b"\xff"), (b"x-a", b"2"),
        ]  # fmt: skip
        assert await read_all(response) == [b"hello"]
        assert await response.read() == b""
        await settled(one)

    run(main)


def test_what_the_app_is_told() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        scope["state"]["mine"] = True
        await say_hello(scope, receive, send)

    async def main() -> None:
        one = client(app, state={"db": "connection"})
        headers = [
            (b"host", b"shop.test"),
            (b"transfer-encoding", b"chunked"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
        ]
        request = UpstreamRequest(
            "POST", b"/a%2Fb/%C3%A4?x=%20&y", headers, scheme="https", client=("192.0.2.1", 5)
        )
        await read_all(await one.send(request))
        await read_all(await one.send(get("OPTIONS", b"*")))

    run(main)
    scope = seen[0]
    assert (scope["type"], scope["method"], scope["scheme"]) == ("http", "POST", "https")
    assert (scope["path"], scope["raw_path"]) == ("/a/b/ä", b"/a%2Fb/%C3%A4")
    assert (scope["query_string"], scope["root_path"]) == (b"x=%20&y", "")
    assert scope["headers"] == [(b"host", b"shop.test"), (b"x-a", b"1"), (b"x-a", b"2")]
    assert (scope["client"], scope["http_version"]) == (("192.0.2.1", 5), "1.1")
    assert scope["state"] == {"db": "connection", "mine": True}
    assert (seen[1]["path"], seen[1]["raw_path"]) == ("*", b"*")
    assert seen[1]["state"] == {"db": "connection", "mine": True}, "a copy for every request"
    assert seen[0]["state"] is not seen[1]["state"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(None, [(b"", False)], id="none"),
        pytest.param(Body(), [(b"", False)], id="empty"),
        pytest.param(Body(b"a", b"b"), [(b"a", True), (b"b", True), (b"", False)], id="pieces"),
    ],
)
def test_the_request_body(sent: Body | None, expected: list[tuple[bytes, bool]]) -> None:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not received or received[-1]["more_body"]:
            received.append(await receive())
        await say_hello(scope, receive, send)
        received.append(await receive())

    async def main() -> None:
        one = client(app)
        await read_all(await one.send(get("POST", body=sent)))
        await settled(one)

    run(main)
    assert received.pop() == {"type": "http.disconnect"}, "after the response is complete"
    assert [(message["body"], message["more_body"]) for message in received] == expected


def test_the_app_may_end_before_its_response_is_read() -> None:
    """As with a server, whose buffers hold what the client has not taken yet."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await say_hello(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    async def main() -> None:
        one = client(app)
        response = await one.send(get())
        await settled(one)
        assert await read_all(response) == [b"hello"]

    run(main)


def test_pieces_come_one_by_one() -> None:
    async def main() -> None:
        may_go_on = asyncio.Semaphore(0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            for number in range(3):
                await may_go_on.acquire()
                await body(send, b"%d" % number, more=True)
            await may_go_on.acquire()
            await body(send)

        one = client(app)
        response = await one.send(get())
        assert response.status == 200, "the head came before any piece of the body"
        for number in range(3):
            may_go_on.release()
            assert await response.read() == b"%d" % number
            assert not response.at_end
        may_go_on.release()
        assert await response.read() == b""
        assert response.at_end
        await response.aclose()

    run(main)


def test_a_slow_reader_slows_the_app() -> None:
    sent = 0

    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await start(send)
            for _ in range(100):
                await body(send, b"x" * 1000, more=True)
                sent += 1
            await body(send)

        one = client(app)
        response = await one.send(get())
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent <= 2
        for _ in range(10):
            await response.read()
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent <= 13
        assert len(await read_all(response)) == 90

    run(main)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        pytest.param("HEAD", 200, id="head"),
        pytest.param("GET", 204, id="204"),
        pytest.param("GET", 304, id="304"),
    ],
)
def test_responses_without_a_body(method: str, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, status, [(b"content-length", b"5")])
        await body(send, b"hel", more=True)
        await body(send, b"lo")

    async def main() -> None:
        response = await client(app).send(get(method))
        headers = [(b"content-length", b"5")] if method == "HEAD" else []
        assert (response.status, response.headers) == (status, headers)
        assert await read_all(response) == []

    run(main)


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret")


async def starts_and_returns(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)


async def starts_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    raise RuntimeError("secret")


async def sends_a_piece_and_returns(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"half", more=True)


async def sends_a_piece_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"half", more=True)
    raise RuntimeError("secret")


async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


async def starts_and_cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    raise asyncio.CancelledError


async def sends_a_body_first(scope: Scope, receive: Receive, send: Send) -> None:
    await body(send, b"x")


async def starts_twice(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await start(send)


async def sends_something_else(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


async def has_text_headers(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[("content-type", "text/plain")])


def answers(status: Any) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, status)
        await body(send)

    return app


@pytest.mark.parametrize(
    ("app", "error", "stage"),
    [
        pytest.param(returns, ConnectionLost, "head", id="returns"),
        pytest.param(raises, ConnectionLost, "head", id="raises"),
        pytest.param(starts_and_returns, ConnectionLost, "body", id="returns-after-head"),
        pytest.param(starts_and_raises, ConnectionLost, "body", id="raises-after-head"),
        pytest.param(sends_a_piece_and_returns, ConnectionLost, "body", id="returns-midway"),
        pytest.param(sends_a_piece_and_raises, ConnectionLost, "body", id="raises-midway"),
        pytest.param(cancels_itself, ConnectionLost, "head", id="cancelled"),
        pytest.param(starts_and_cancels_itself, ConnectionLost, "body", id="cancelled-midway"),
        pytest.param(sends_a_body_first, ConnectionLost, "head", id="body-first"),
        pytest.param(starts_twice, ConnectionLost, "body", id="two-heads"),
        pytest.param(sends_something_else, ConnectionLost, "head", id="foreign-message"),
        pytest.param(has_text_headers, ConnectionLost, "head", id="text-headers"),
        pytest.param(answers("200"), ConnectionLost, "head", id="text-status"),
        pytest.param(answers(101), MalformedResponse, "head", id="101"),
        pytest.param(answers(99), MalformedResponse, "head", id="99"),
        pytest.param(answers(600), MalformedResponse, "head", id="600"),
    ],
)
def test_an_app_that_fails_is_a_backend_that_failed(
    app: ASGIApp, error: type[Exception], stage: str
) -> None:
    async def main() -> None:
        one = client(app)
        with pytest.raises(ConnectionLost) as caught:
            await read_all(await one.send(get()))
        assert type(caught.value) is error
        assert caught.value.stage == stage
        assert caught.value.request_sent
        assert "backend a" in str(caught.value)
        assert "secret" not in str(caught.value)
        await settled(one)

    run(main)


def test_an_app_that_raises_no_exception_but_something_else_failed_too() -> None:
    """As `pytest.fail()` does."""

    class Odd(BaseException):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Odd("secret")

    async def main() -> None:
        one = client(app)
        with pytest.raises(ConnectionLost, match="backend a raised Odd"):
            await one.send(get())
        await settled(one)

    run(main)


def test_the_pieces_before_a_failure_are_delivered() -> None:
    async def main() -> None:
        response = await client(sends_a_piece_and_raises).send(get())
        assert await response.read() == b"half"
        with pytest.raises(ConnectionLost):
            await response.read()

    run(main)


def test_an_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionLost):
            await client(raises).send(get())

    run(main)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("sticky_asgi.upstream", logging.ERROR)
    assert record.message == "backend a raised an exception"
    assert record.exc_info


def test_what_comes_after_the_response_concerns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say_hello(scope, receive, send)
        await asyncio.sleep(0)
        done.append("background task")
        raise RuntimeError("too late")

    async def main() -> None:
        one = client(app)
        assert await read_all(await one.send(get())) == [b"hello"]
        await settled(one)

    run(main)
    assert done == ["background task"]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_message_too_many_is_an_error_of_the_app() -> None:
    errors: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say_hello(scope, receive, send)
        try:
            await body(send, b"more")
        except RuntimeError as exc:
            errors.append(str(exc))

    async def main() -> None:
        one = client(app)
        assert await read_all(await one.send(get())) == [b"hello"]
        await settled(one)

    run(main)
    assert errors == ["http.response.body sent after the response was complete"]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(BodyTooLarge("x"), id="too-large"),
        pytest.param(ClientDisconnected("x"), id="left"),
    ],
)
@pytest.mark.parametrize("reaction", ["returns", "answers", "raises"])
def test_a_request_body_that_breaks_off(error: GatewayError, reaction: str) -> None:
    """The client's error is what counts, whatever the app makes of the disconnect."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])
        if reaction == "answers":
            await say_hello(scope, receive, send)
        if reaction == "raises":
            raise RuntimeError("the client left")

    async def main() -> None:
        one = client(app)
        with pytest.raises(type(error)):
            await one.send(get("POST", body=Body(b"a", error=error)))

    run(main)
    assert seen == ["http.request", "http.disconnect"]


def leaver(app: Callable[[Receive, Send], Awaitable[None]]) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app(receive, send)

    return call


@pytest.mark.parametrize("head_first", [True, False], ids=["after-head", "before-head"])
def test_a_reader_that_leaves_is_a_disconnect(head_first: bool) -> None:
    async def main() -> None:
        arrived, ended = asyncio.Event(), asyncio.Event()

        async def app(receive: Receive, send: Send) -> None:
            if head_first:
                await start(send)
            arrived.set()
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            await body(send, b"into the void", more=True)
            ended.set()

        one = client(leaver(app))
        sending = asyncio.create_task(one.send(get()))
        await arrived.wait()
        if head_first:
            response = await sending
            await response.aclose()
            await response.aclose()
        else:
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        await ended.wait()
        await settled(one)

    run(main)


def test_an_app_stuck_in_send_is_let_go() -> None:
    async def main() -> None:
        async def app(receive: Receive, send: Send) -> None:
            await start(send)
            for _ in range(10):
                await body(send, b"x", more=True)
            await receive()
            assert (await receive())["type"] == "http.disconnect"

        one = client(leaver(app))
        response = await one.send(get())
        assert await response.read() == b"x"
        await response.aclose()
        await settled(one)

    run(main)


def test_an_app_that_does_not_notice_is_cancelled() -> None:
    how: list[str] = []

    async def main() -> None:
        async def app(receive: Receive, send: Send) -> None:
            await start(send)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                how.append("cancelled")
                raise

        one = client(leaver(app))
        await (await one.send(get())).aclose()
        await settled(one)

    run_virtually(main)
    assert how == ["cancelled"]


def test_a_loop_that_ends_leaves_nothing_open() -> None:
    """Warnings are errors: a stream that was not closed would speak up."""

    async def main() -> None:
        async def app(receive: Receive, send: Send) -> None:
            await start(send)
            await asyncio.Event().wait()

        one = client(leaver(app))
        arrived = asyncio.Event()

        async def hold() -> None:
            response = await one.send(get())
            arrived.set()
            try:
                await response.read()
            finally:
                await response.aclose()

        holding = asyncio.create_task(hold())
        await arrived.wait()
        # This call has not begun to run when the loop ends.
        late = asyncio.create_task(hold())
        await asyncio.sleep(0)
        assert len(one.tasks) == 2
        assert not holding.done()
        assert not late.done()

    run(main)


def test_many_calls_at_once() -> None:
    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            await asyncio.sleep(0)
            await body(send, scope["raw_path"])

        one = client(app)

        async def ask(number: int) -> None:
            response = await one.send(get(target=b"/%d" % number))
            assert await read_all(response) == [b"/%d" % number]

        await asyncio.gather(*(ask(number) for number in range(50)))
        await settled(one)
        await one.aclose()
        assert repr(one) == "<AsgiClient a [0 busy]>"

    run(main)


def test_only_for_backends_in_process() -> None:
    with pytest.raises(ValueError, match="'b:80' is not in process"):
        AsgiClient(Backend("http://b"))
