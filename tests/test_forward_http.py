"""The request's body between client and backend, and the client who may leave at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from starlette.types import Message

from sticky_asgi import BadRequest, BodyTooLarge, ClientDisconnected
from sticky_asgi.forward_http import READ_AHEAD, ClientBody, HttpExchange

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in an event loop of its own, for 10 seconds at most."""

    async def bounded() -> T:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def new_body(keep: int = 100, max_body: int | None = None, length: int | None = None) -> ClientBody:
    return ClientBody(keep=keep, max_body=max_body, length=length)


async def read(body: ClientBody) -> list[bytes]:
    return [piece async for piece in body]


async def turn() -> None:
    """Let every other task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


# ClientBody


def test_pieces_come_through_in_order() -> None:
    async def main() -> None:
        body = new_body()
        reader = asyncio.create_task(read(body))
        for piece in (b"a", b"bc", b""):
            await turn()
            assert not reader.done()
            body.feed(piece, is_last=piece == b"")
        assert await reader == [b"a", b"bc"]

    run(main)


def test_a_piece_is_handed_on_before_the_next_one_arrives() -> None:
    async def main() -> None:
        body = new_body()
        pieces = aiter(body)
        for piece in (b"a", b"b", b"c"):
            body.feed(piece, is_last=False)
            assert await anext(pieces) == piece

    run(main)


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        pytest.param([b""], b"", id="empty"),
        pytest.param([b"abc"], b"abc", id="one"),
        pytest.param([b"a", b"", b"bc"], b"abc", id="three"),
    ],
)
def test_complete_once_the_last_piece_is_there(pieces: list[bytes], whole: bytes) -> None:
    async def main() -> None:
        body = new_body()
        for piece in pieces[:-1]:
            body.feed(piece, is_last=False)
            assert body.complete is None
        body.feed(pieces[-1], is_last=True)
        assert body.complete == whole
        assert b"".join(await read(body)) == whole

    run(main)


@pytest.mark.parametrize(
    ("size", "is_replayable"),
    [pytest.param(100, True, id="at the limit"), pytest.param(101, False, id="over it")],
)
def test_what_is_kept_can_be_read_again(size: int, is_replayable: bool) -> None:
    async def main() -> None:
        body = new_body(keep=100)
        body.feed(b"x" * 60, is_last=False)
        body.feed(b"y" * (size - 60), is_last=True)
        assert body.is_replayable
        first = await read(body)
        assert b"".join(first) == b"x" * 60 + b"y" * (size - 60)
        assert body.is_replayable is is_replayable
        assert (body.complete is not None) is is_replayable
        if is_replayable:
            assert await read(body) == first

    run(main)


def test_a_body_of_which_nothing_was_read_can_be_sent_whatever_its_size() -> None:
    async def main() -> None:
        body = new_body(keep=1)
        body.feed(b"x" * 1000, is_last=False)
        body.feed(b"y" * 1000, is_last=True)
        assert body.is_replayable
        assert await read(body) == [b"x" * 1000, b"y" * 1000]

    run(main)


def test_a_pass_that_was_given_up_can_be_followed_by_another() -> None:
    async def main() -> None:
        body = new_body(keep=100)
        body.feed(b"ab", is_last=False)
        body.feed(b"cd", is_last=False)
        async for piece in body:
            assert piece == b"ab"
            break
        body.feed(b"ef", is_last=True)
        assert await read(body) == [b"ab", b"cd", b"ef"]

    run(main)


def test_the_limit_is_counted_over_all_pieces() -> None:
    async def main() -> None:
        body = new_body(max_body=5)
        body.feed(b"abc", is_last=False)
        body.feed(b"de", is_last=False)
        pieces = aiter(body)
        assert [await anext(pieces), await anext(pieces)] == [b"abc", b"de"]
        body.feed(b"f", is_last=True)
        with pytest.raises(BodyTooLarge):
            await anext(pieces)
        assert body.complete is None

    run(main)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"ab"], id="too short"),
        pytest.param([b"ab", b""], id="too short, in two"),
        pytest.param([b"abcd"], id="too long"),
        pytest.param([b"abc", b"d"], id="too long, in two"),
    ],
)
def test_a_body_must_have_its_declared_length(pieces: list[bytes]) -> None:
    async def main() -> None:
        body = new_body(length=3)
        for piece in pieces[:-1]:
            body.feed(piece, is_last=False)
        body.feed(pieces[-1], is_last=True)
        assert body.complete is None
        with pytest.raises(BadRequest):
            await read(body)

    run(main)


def test_a_failure_wakes_reader_and_watcher() -> None:
    async def main() -> None:
        body = new_body()
        body.feed(b"x" * (READ_AHEAD + 1), is_last=False)
        watcher = asyncio.create_task(body.wait_for_room())
        idle = new_body()
        reader = asyncio.create_task(read(idle))
        await turn()
        assert not watcher.done()
        body.fail(ClientDisconnected("left"))
        idle.fail(ClientDisconnected("left"))
        await watcher
        with pytest.raises(ClientDisconnected):
            await reader

    run(main)


def test_the_first_failure_counts() -> None:
    async def main() -> None:
        body = new_body(max_body=1)
        body.feed(b"ab", is_last=False)
        body.fail(ClientDisconnected("left"))
        with pytest.raises(BodyTooLarge):
            await read(body)

    run(main)


def test_a_whole_body_cannot_fail_any_more() -> None:
    async def main() -> None:
        body = new_body()
        body.feed(b"abc", is_last=True)
        body.fail(ClientDisconnected("left"))
        assert body.complete == b"abc"

    run(main)


def test_reading_ahead_is_bounded() -> None:
    async def main() -> None:
        body = new_body(keep=0)
        body.feed(b"x" * READ_AHEAD, is_last=False)
        await body.wait_for_room()
        body.feed(b"y", is_last=False)
        waiting = asyncio.create_task(body.wait_for_room())
        await turn()
        assert not waiting.done()
        pieces = aiter(body)
        await anext(pieces)
        await anext(pieces)  # Only now the first has been taken.
        await waiting

    run(main)


def test_after_the_last_piece_there_is_always_room() -> None:
    """The client's leaving is still to be read, however slowly the backend takes the body."""

    async def main() -> None:
        body = new_body()
        body.feed(b"x" * (2 * READ_AHEAD), is_last=True)
        await body.wait_for_room()

    run(main)


# HttpExchange


class Server:
    """The server's side of an exchange, in the test's hands."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def exchange(self) -> HttpExchange:
        return HttpExchange(self.inbox.get, self.send)

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})


async def wait_in(exchange: HttpExchange, begin: Callable[[], None] = lambda: None) -> None:
    """Wait for ever inside the exchange."""
    async with exchange:
        begin()
        await asyncio.Event().wait()


def test_a_client_that_leaves_cancels_what_is_awaited() -> None:
    async def main() -> None:
        server = Server()
        with pytest.raises(ClientDisconnected):
            await wait_in(server.exchange(), server.leave)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "the task may go on, to write its log"
        await turn()

    run(main)


def test_a_cancellation_from_elsewhere_passes_through() -> None:
    async def main() -> None:
        server = Server()
        task = asyncio.create_task(wait_in(server.exchange()))
        await turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_a_cancellation_from_elsewhere_is_not_lost_when_the_client_leaves_too() -> None:
    async def main() -> None:
        server = Server()
        task = asyncio.create_task(wait_in(server.exchange()))
        await turn()
        server.leave()
        task.cancel()
        await asyncio.wait([task])
        # Whichever came first: a task that was told to end must not report success.
        with pytest.raises((asyncio.CancelledError, ClientDisconnected)):
            task.result()

    run(main)


def test_leaving_after_the_last_piece_is_no_failure() -> None:
    async def main() -> None:
        server = Server()
        async with server.exchange() as exchange:
            await exchange.start(200, [])
            await exchange.write(b"abc", is_last=True)
            server.leave()
            await turn()
        assert [message["type"] for message in server.sent] == [
            "http.response.start",
            "http.response.body",
        ]

    run(main)


def test_the_watcher_ends_with_the_exchange() -> None:
    async def main() -> None:
        server = Server()
        async with server.exchange():
            assert len(asyncio.all_tasks()) == 2
        await turn()
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_body_is_fed_as_the_server_receives_it() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        exchange.body = new_body()
        async with exchange:
            server.inbox.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
            server.inbox.put_nowait({"type": "http.request", "body": b"b"})
            assert await read(exchange.body) == [b"a", b"b"]
            assert exchange.is_replayable

    run(main)


def test_a_client_that_leaves_breaks_its_body_off() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        exchange.body = new_body()
        server.inbox.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        with pytest.raises(ClientDisconnected):
            await wait_in(exchange, server.leave)
        with pytest.raises(ClientDisconnected):
            await read(exchange.body)

    run(main)


def test_a_server_that_raises_os_error_says_that_the_client_left() -> None:
    async def send(message: Message) -> None:
        raise BrokenPipeError

    async def main() -> None:
        exchange = HttpExchange(Server().inbox.get, send)
        with pytest.raises(ClientDisconnected):
            async with exchange:
                await exchange.start(200, [])
        assert exchange.response_started

    run(main)


def test_a_server_that_repeats_itself_is_not_listened_to_for_ever() -> None:
    """Middleware that replays a body often does so again and again, without ever waiting."""

    async def main() -> None:
        asked = 0

        async def receive() -> Message:
            nonlocal asked
            asked += 1
            return {"type": "http.request", "body": b"abc", "more_body": False}

        exchange = HttpExchange(receive, Server().send)
        exchange.body = new_body()
        async with exchange:
            await exchange.take_first_piece()
            assert exchange.body.complete == b"abc"
            await turn()
        assert asked <= 3

    run(main)


def test_a_receive_that_raises_is_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def receive() -> Message:
            raise RuntimeError("a bug in front of the gateway")

        with pytest.raises(ClientDisconnected):
            await wait_in(HttpExchange(receive, Server().send))

    run(main)
    assert "receive() raised an exception" in caplog.text


def test_a_body_over_the_limit_ends_the_exchange_though_nobody_reads_it() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        exchange.body = new_body(max_body=3)
        server.inbox.put_nowait({"type": "http.request", "body": b"abcd", "more_body": True})
        with pytest.raises(BodyTooLarge):
            await wait_in(exchange)

    run(main)


def test_an_older_cancellation_is_not_taken_for_ours() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        server = Server()
        with pytest.raises(ClientDisconnected):
            await wait_in(server.exchange(), server.leave)
        assert task.cancelling() == 1
        task.uncancel()

    run(main)
