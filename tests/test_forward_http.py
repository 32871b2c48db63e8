"""The client who waits for a response, and may leave at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Send

from sticky_asgi import Backend, BackendState, BodyTooLarge, ClientDisconnected, DrainEnded
from sticky_asgi.client_body import ClientBody
from sticky_asgi.exchange import LOOK_EVERY, ClientWatch
from sticky_asgi.forward_http import HttpExchange

from .loops import run, turn


def new_body(keep: int = 100, max_body: int | None = None, length: int | None = None) -> ClientBody:
    return ClientBody(keep=keep, max_body=max_body, length=length)


async def read(body: ClientBody) -> list[bytes]:
    return [piece async for piece in body]


def exchange_of(receive: Receive, send: Send) -> HttpExchange:
    exchange = HttpExchange(receive, send, ClientWatch(), asyncio.get_running_loop())
    exchange.state = BackendState(Backend("http://127.0.0.1:1"))
    return exchange


class Server:
    """The server's side of an exchange, in the test's hands."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def exchange(self) -> HttpExchange:
        return exchange_of(self.inbox.get, self.send)

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})


async def wait_in(exchange: HttpExchange, begin: Callable[[], None] = lambda: None) -> None:
    """Wait for ever inside the exchange."""
    with exchange:
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
        with server.exchange() as exchange:
            await exchange.start(200, [])
            await exchange.write(b"abc", is_last=True)
            server.leave()
            await turn()
        assert [message["type"] for message in server.sent] == [
            "http.response.start",
            "http.response.body",
        ]

    run(main)


def test_who_is_answered_at_once_costs_no_task() -> None:
    async def main() -> None:
        server = Server()
        with server.exchange() as exchange:
            await exchange.start(200, [])
            await exchange.write(b"", is_last=True)
            assert len(asyncio.all_tasks()) == 1

    run(main)


def test_who_sends_a_body_is_watched_from_the_beginning() -> None:
    async def main() -> None:
        exchange = Server().exchange()
        exchange.body = new_body()
        with exchange:
            assert len(asyncio.all_tasks()) == 2

    run(main)


def test_the_watch_begins_at_the_second_look_and_ends_when_nobody_waits() -> None:
    async def main() -> None:
        watch = ClientWatch()
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        late = HttpExchange(inbox.get, Server().send, watch, asyncio.get_running_loop())
        with late:
            assert repr(watch) == "<ClientWatch [1 unwatched, 0 watched]>"
            while len(asyncio.all_tasks()) == 1:
                await asyncio.sleep(LOOK_EVERY / 4)
                if len(asyncio.all_tasks()) == 1:
                    # One that comes and goes in between is never watched.
                    with HttpExchange(inbox.get, Server().send, watch, asyncio.get_running_loop()):
                        pass
            assert repr(watch) == "<ClientWatch [0 unwatched, 1 watched]>"
        assert repr(watch) == "<ClientWatch [0 unwatched, 0 watched]>"
        await turn()
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_the_watcher_ends_with_the_exchange() -> None:
    async def main() -> None:
        server = Server()
        with server.exchange() as exchange:
            exchange.watch()
            assert len(asyncio.all_tasks()) == 2
        await turn()
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_body_is_fed_as_the_server_receives_it() -> None:
    async def main() -> None:
        server = Server()
        exchange = server.exchange()
        exchange.body = new_body()
        with exchange:
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
        exchange = exchange_of(Server().inbox.get, send)
        with pytest.raises(ClientDisconnected):
            with exchange:
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

        exchange = exchange_of(receive, Server().send)
        exchange.body = new_body()
        with exchange:
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
            await wait_in(exchange_of(receive, Server().send))

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


def test_who_leaves_when_a_drain_ends_has_left() -> None:
    """Both in one turn of the loop: one cancellation, and one reason."""

    async def main() -> None:
        server = Server()
        exchange = server.exchange()

        def begin() -> None:
            exchange.response_started = True
            exchange._break_off(ClientDisconnected("the client left"))
            exchange.end(DrainEnded("the drain has ended"))

        with pytest.raises(ClientDisconnected):
            await wait_in(exchange, begin)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main)
