"""The lifespan protocol, spoken to by a server written out by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sticky_asgi import DiscoveryError
from sticky_asgi.lifespan import LifespanFailed, run_lifespan, serve_lifespan
from tests.loops import run, run_virtually
from tests.starts import failure_of


class Log(list[str]):
    """What happened, in order; also the resources that are held."""

    def __init__(self, *, fail_opening: bool = False, fail_closing: bool = False) -> None:
        self.fail_opening = fail_opening
        self.fail_closing = fail_closing

    @asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        if self.fail_opening:
            raise OSError("cannot open")
        self.append("open")
        try:
            yield
        finally:
            self.append("close")
        if self.fail_closing:
            raise OSError("cannot close")

    def app(self, **answers: str) -> ASGIApp:
        """An app that says what it is told, and answers `complete` unless `answers` differ."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            for stage in ("startup", "shutdown"):
                message = await receive()
                assert message == {"type": f"lifespan.{stage}"}
                self.append(f"app {stage}")
                answer = answers.get(stage, "complete")
                if answer == "raise":
                    raise ZeroDivisionError(f"bug at {stage}")
                if answer == "return":
                    return
                reply: Message = {"type": f"lifespan.{stage}.{answer}"}
                if answer == "failed":
                    reply["message"] = "no database"
                await send(reply)
                if answer == "failed":
                    return
            self.append("app returned")

        return call


class Server:
    """A server's lifespan: start, serve, stop."""

    def __init__(self, log: Log, app: ASGIApp | None = None, scope: Scope | None = None) -> None:
        self.log = log
        self.app = app
        self.scope: Scope = {"type": "lifespan", "state": {}} if scope is None else scope
        self.sent: list[Message] = []
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.started = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.log.append(message["type"].removeprefix("lifespan."))
        self.sent.append(message)
        self.started.set()

    async def serve(self) -> None:
        call = asyncio.create_task(
            serve_lifespan(self.log.resources(), self.scope, self.inbox.get, self.send, self.app)
        )
        self.inbox.put_nowait({"type": "lifespan.startup"})
        await self.started.wait()
        if self.sent[-1]["type"] == "lifespan.startup.complete":
            self.log.append("serving")
            self.inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({call})
        # What is said to have failed is raised as well, and nothing else is.
        last, exc = self.sent[-1], call.exception()
        assert last["type"].endswith(".complete" if exc is None else ".failed")
        assert exc is None or str(exc) in last["message"]


def history(log: Log, app: ASGIApp | None = None) -> list[Message]:
    """Run a server's whole life and return what it was sent."""
    sent: list[Message] = []

    async def main() -> None:
        server = Server(log, app)
        await server.serve()
        sent.extend(server.sent)

    run_virtually(main)
    return sent


def test_order() -> None:
    log = Log()
    assert history(log, log.app()) == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]
    assert log == [
        "open",
        "app startup",
        "startup.complete",
        "serving",
        "app shutdown",
        "app returned",
        "close",
        "shutdown.complete",
    ]


def test_without_an_app_inside() -> None:
    log = Log()
    history(log)
    assert log == ["open", "startup.complete", "serving", "close", "shutdown.complete"]


def test_resources_that_do_not_open() -> None:
    log = Log(fail_opening=True)
    assert history(log, log.app()) == [
        {"type": "lifespan.startup.failed", "message": "OSError: cannot open"}
    ]
    assert log == ["startup.failed"], "the app was never started"


def test_resources_that_do_not_close() -> None:
    log = Log(fail_closing=True)
    sent = history(log, log.app())
    assert sent[-1] == {"type": "lifespan.shutdown.failed", "message": "OSError: cannot close"}
    assert log[-2:] == ["close", "shutdown.failed"]


def test_an_app_that_says_its_startup_failed() -> None:
    log = Log()
    (message,) = history(log, log.app(startup="failed"))
    assert message["type"] == "lifespan.startup.failed"
    assert message["message"] == "no database"
    assert log == ["open", "app startup", "close", "startup.failed"]


def test_an_app_that_says_its_shutdown_failed() -> None:
    log = Log()
    sent = history(log, log.app(shutdown="failed"))
    assert sent[-1] == {
        "type": "lifespan.shutdown.failed",
        "message": "no database",
    }
    assert log[-2:] == ["close", "shutdown.failed"], "resources are closed all the same"


def test_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(fail_opening=True)
    history(log)
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.name == "sticky_asgi.lifespan"
    assert record.message == "lifespan startup failed"
    assert record.exc_info


def test_a_start_without_backends_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(Log):
        @asynccontextmanager
        async def resources(self) -> AsyncIterator[None]:
            raise DiscoveryError("pool shop: nobody answers")
            yield

    history(Away())
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.message == "lifespan startup failed: pool shop: nobody answers"
    assert not record.exc_info


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({"startup": "raise"}, id="raises"),
        pytest.param({"startup": "return"}, id="returns"),
    ],
)
def test_an_app_without_lifespan_is_served(answers: dict[str, str]) -> None:
    log = Log()
    sent = history(log, log.app(**answers))
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert log[-3:] == ["serving", "close", "shutdown.complete"], "and not told of the shutdown"


def test_an_app_that_refuses_the_scope_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    log = Log()
    assert history(log, app)[-1] == {"type": "lifespan.shutdown.complete"}


def test_an_app_that_takes_every_call_for_a_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise AssertionError("must not get here")

    log = Log()
    sent = history(log, app)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize("how", ["raise", "return"])
def test_an_app_that_ends_without_an_answer_at_shutdown(how: str) -> None:
    log = Log()
    sent = history(log, log.app(shutdown=how))
    assert sent[-1] == {"type": "lifespan.shutdown.complete"}
    assert log[-3:] == ["app shutdown", "close", "shutdown.complete"]


def test_an_app_that_ends_while_it_is_served() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    log = Log()
    assert history(log, app)[-1] == {"type": "lifespan.shutdown.complete"}


def test_an_app_that_lingers_is_cancelled() -> None:
    log = Log()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("app cancelled")
            raise

    assert history(log, app)[-1] == {"type": "lifespan.shutdown.complete"}
    assert log[-3:] == ["app cancelled", "close", "shutdown.complete"]


def test_an_app_that_takes_its_time_to_return() -> None:
    """The last answer is not the end: what follows it runs before the resources close."""
    log = Log()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await log.app()(scope, receive, send)
        for _ in range(10):
            await asyncio.sleep(0)
        log.append("app's last words")

    history(log, app)
    assert log[-3:] == ["app's last words", "close", "shutdown.complete"]


def test_a_server_that_cancels_the_call_gets_no_answer() -> None:
    log = Log()

    async def main() -> None:
        server = Server(log, log.app(shutdown="complete"))
        serving = asyncio.create_task(
            serve_lifespan(log.resources(), server.scope, server.inbox.get, server.send, server.app)
        )
        server.inbox.put_nowait({"type": "lifespan.startup"})
        await server.started.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main)
    assert log == [
        "open", "app startup", "startup.complete", "app shutdown", "app returned", "close",
    ]  # fmt: skip


def test_state_is_the_servers_own_dict() -> None:
    @asynccontextmanager
    async def starlette_lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"db": "connection"}

    async def main() -> None:
        server = Server(Log(), Starlette(lifespan=starlette_lifespan))
        state = server.scope["state"]
        await server.serve()
        assert state == {"db": "connection"}

    run(main)


def test_starlettes_failure_is_said_in_so_many_words() -> None:
    @asynccontextmanager
    async def starlette_lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    log = Log()
    (message,) = history(log, Starlette(lifespan=starlette_lifespan))
    assert message["type"] == "lifespan.startup.failed"
    assert "RuntimeError: no database" in message["message"]
    assert log == ["open", "close", "startup.failed"]


# Playing the server


def test_running_an_app() -> None:
    log = Log()

    async def main() -> None:
        async with run_lifespan(log.app()) as state:
            assert state == {}
            log.append("block")

    run(main)
    assert log == ["app startup", "block", "app shutdown", "app returned"]


def test_running_no_app() -> None:
    async def main() -> None:
        async with run_lifespan(None) as state:
            assert state == {}

    run(main)


def test_running_an_app_gives_its_state() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["db"] = "connection"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        async with run_lifespan(app) as state:
            assert state == {"db": "connection"}

    run(main)


def test_running_an_app_stops_it_after_an_exception() -> None:
    log = Log()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with run_lifespan(log.app()):
                raise ZeroDivisionError

    run(main)
    assert log == ["app startup", "app shutdown", "app returned"]


def test_running_an_app_that_fails_to_start() -> None:
    log = Log()

    async def main() -> None:
        with pytest.raises(LifespanFailed, match="no database"):
            async with run_lifespan(log.app(startup="failed")):
                raise AssertionError("must not get here")

    run(main)


def test_a_failure_without_a_message() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    async def main() -> None:
        with pytest.raises(LifespanFailed, match="application startup failed"):
            async with run_lifespan(app):
                raise AssertionError("must not get here")

    run(main)


def test_a_test_client_learns_of_a_failure() -> None:
    """It would wait for ever at its end for an application that only says so."""

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        raise OSError("cannot open")
        yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await serve_lifespan(resources(), scope, receive, send)

    assert failure_of(app) == "OSError: cannot open"
