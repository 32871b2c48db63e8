"""The gateway by itself: driven by hand, with its backends in process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sticky_asgi import (
    AffinityStatus,
    Backend,
    BodyTooLarge,
    ClientDisconnected,
    ConnectError,
    ConnectionLost,
    Gateway,
    GatewayError,
    Limits,
    NoBackendAvailable,
    Pool,
    QueueFull,
    QueueTimeout,
    RequestFinished,
    Retry,
    Route,
    SignedCookie,
)

from .apps import CounterApp, hello, lifespan
from .loops import run
from .servers import refusing_port

SECRET = "a secret of sixteen bytes"


class Visit:
    """One request to an application, whose client reads, writes and leaves when it is told to."""

    def __init__(self, app: ASGIApp, method: str = "GET", path: str = "/", **scope: Any) -> None:
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"test")],
            "client": ("192.0.2.1", 1234),
            "server": ("test", 80),
        } | scope
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self.task = asyncio.ensure_future(app(self.scope, self._said.get, self._heard.put))
        if self.scope["method"] in ("GET", "HEAD"):
            self.say()

    def say(self, body: bytes = b"", *, more: bool = False) -> None:
        self._said.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self._said.put_nowait({"type": "http.disconnect"})

    async def hear(self) -> Message:
        """The next message; the application's exception if it ends without one."""
        hearing = asyncio.ensure_future(self._heard.get())
        await asyncio.wait({hearing, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not hearing.done():
            hearing.cancel()
            self.task.result()
            raise AssertionError("the application returned without another message")
        return hearing.result()

    async def response(self) -> tuple[int, dict[bytes, bytes], bytes]:
        head, body, more = await self.hear(), b"", True
        while more:
            message = await self.hear()
            body, more = body + message["body"], message.get("more_body", False)
        await self.task
        return head["status"], dict(head["headers"]), body


class Listening:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[RequestFinished] = []

    def on_request(self, event: RequestFinished) -> None:
        self.events.append(event)


class Held:
    """An in-process backend whose responses end when the test lets them."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)
        self.disconnected = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        self.arrived.release()
        leaving = asyncio.ensure_future(self._watch(receive))
        going = asyncio.ensure_future(self.go_on.acquire())
        await asyncio.wait({leaving, going}, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, going):
            task.cancel()
        if not self.disconnected.is_set():
            await hello("held")(scope, receive, send)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()


def pool(**apps: ASGIApp) -> Pool:
    return Pool("shop", [Backend(app=app, id=id) for id, app in apps.items()])


def held_pool(app: ASGIApp, **limits: Any) -> Pool:
    backend = Backend(app=app, id="a", max_requests=1)
    return Pool("shop", [backend], limits=Limits(**limits))


# Streams and their ends


def test_pieces_pass_one_by_one() -> None:
    async def main() -> None:
        go_on = asyncio.Semaphore(0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"one", b"two"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await go_on.acquire()
            await send({"type": "http.response.body", "body": b""})

        shop = pool(a=app)
        async with Gateway({"/": shop}) as gateway:
            visit = Visit(gateway)
            assert (await visit.hear())["status"] == 200
            for piece in (b"one", b"two"):
                message = await visit.hear()
                assert (message["body"], message["more_body"]) == (piece, True)
                assert shop.in_flight == 1
                go_on.release()
            message = await visit.hear()
            assert (message["body"], message["more_body"]) == (b"", False)
            await visit.task
            assert shop.in_flight == 0

    run(main)


def test_a_request_body_passes_piece_by_piece() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        arrived = asyncio.Semaphore(0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            more = True
            while more:
                message = await receive()
                seen.append(message["body"])
                more = message["more_body"]
                arrived.release()
            await hello()(scope, receive, send)

        async with Gateway({"/": pool(a=app)}) as gateway:
            headers = [(b"host", b"test"), (b"transfer-encoding", b"chunked")]
            visit = Visit(gateway, "POST", headers=headers)
            for piece in (b"one", b"two"):
                visit.say(piece, more=True)
                await arrived.acquire()
                assert seen[-1] == piece
            visit.say(b"")
            assert (await visit.response())[0] == 200

    run(main)


@pytest.mark.parametrize("head_first", [True, False], ids=["after-head", "before-head"])
def test_a_client_that_leaves_is_a_disconnect_for_the_backend(head_first: bool) -> None:
    async def main() -> None:
        arrived, disconnected = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            if head_first:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            arrived.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected.set()

        shop, listening = pool(a=app, b=app), Listening()
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            visit = Visit(gateway)
            if head_first:
                await visit.hear()
            await arrived.wait()
            visit.leave()
            await visit.task
            await disconnected.wait()
            assert shop.in_flight == 0
            assert visit._heard.empty()
        (event,) = listening.events
        assert isinstance(event.error, ClientDisconnected)
        assert event.status == (200 if head_first else 499)
        assert event.attempts == 1

    run(main)


def test_a_slow_client_slows_the_backend() -> None:
    async def main() -> None:
        sent = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                sent += 1
            await send({"type": "http.response.body", "body": b""})

        async with Gateway({"/": pool(a=app)}) as gateway:
            takes = asyncio.Semaphore(0)
            received = 0

            async def send(message: Message) -> None:
                nonlocal received
                await takes.acquire()
                received += len(message.get("body", b""))

            visit = Visit(lambda scope, receive, _: gateway(scope, receive, send))
            for allowed in (1, 10):
                for _ in range(allowed):
                    takes.release()
                for _ in range(100):
                    await asyncio.sleep(0)
                assert sent <= received / 1000 + 4
            for _ in range(200):
                takes.release()
            await visit.task
            assert received == 100_000

    run(main)


def failing(*, head_first: bool) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if head_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("secret at 10.0.0.1")

    return app


def test_a_backend_that_fails_before_the_head_is_502() -> None:
    async def main() -> None:
        shop, listening = pool(a=failing(head_first=False)), Listening()
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            status, headers, body = await Visit(gateway, "POST").response()
        assert (status, body) == (502, b"502 Bad Gateway\n")
        assert headers[b"content-type"] == b"text/plain; charset=utf-8"
        assert isinstance(listening.events[0].error, ConnectionLost)

    run(main)


def test_a_backend_that_fails_before_the_head_is_replaced_by_another() -> None:
    async def main() -> None:
        shop, listening = pool(a=failing(head_first=False), b=hello("b")), Listening()
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            for _ in range(2):
                assert (await Visit(gateway).response())[::2] == (200, b"b")
        assert sum(event.attempts for event in listening.events) >= 3
        assert {event.backend for event in listening.events} == {"b"}
        assert {event.error for event in listening.events} == {None}
        assert shop.retry_budget.in_flight == 0

    run(main)


def test_failures_are_counted_until_the_next_answer() -> None:
    async def main() -> None:
        made = Pool("shop", [Backend(app=failing(head_first=False), id="a")])
        gateway = Gateway({"/": made})
        async with gateway:
            for _ in range(2):
                await Visit(gateway).response()
        assert made["a"].failures == 2
        made["a"].observe_latency(0.1)
        assert made["a"].failures == 0

    run(main)


def test_a_backend_that_fails_after_the_head_is_an_abort() -> None:
    async def main() -> None:
        shop = pool(a=failing(head_first=True), b=hello("b"))
        shop.drain("b")
        async with Gateway({"/": shop}) as gateway:
            visit = Visit(gateway)
            assert (await visit.hear())["status"] == 200
            assert (await visit.hear())["body"] == b"half"
            with pytest.raises(ConnectionLost):
                await visit.hear()
        assert shop.in_flight == 0

    run(main)


def test_cancelling_the_call_cancels_the_exchange() -> None:
    async def main() -> None:
        app = Held()
        shop = pool(a=app)
        async with Gateway({"/": shop}) as gateway:
            visit = Visit(gateway)
            await app.arrived.acquire()
            visit.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await visit.task
            await app.disconnected.wait()
            assert shop.in_flight == 0

    run(main)


def test_head_has_no_body() -> None:
    async def main() -> None:
        async with Gateway({"/": pool(a=hello("hello"))}) as gateway:
            status, headers, body = await Visit(gateway, "HEAD").response()
        assert (status, headers[b"content-length"], body) == (200, b"5", b"")

    run(main)


# The queue


def test_a_request_waits_for_a_full_backend() -> None:
    async def main() -> None:
        app = Held()
        shop = held_pool(app)
        async with Gateway({"/": shop}) as gateway:
            first, second, third = (Visit(gateway) for _ in range(3))
            await app.arrived.acquire()
            while shop.queued < 2:
                await asyncio.sleep(0)
            assert shop.in_flight == 1
            for visit in (first, second, third):
                app.go_on.release()
                assert (await visit.response())[::2] == (200, b"held")
            assert (shop.in_flight, shop.queued) == (0, 0)

    run(main)


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
def test_a_client_that_gives_up_waiting_leaves_the_queue(how: str) -> None:
    async def main() -> None:
        app, listening = Held(), Listening()
        shop = held_pool(app)
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            first = Visit(gateway)
            await app.arrived.acquire()
            second = Visit(gateway)
            while not shop.queued:
                await asyncio.sleep(0)
            if how == "leaves":
                second.leave()
            else:
                second.task.cancel()
            await asyncio.wait({second.task})
            assert shop.queued == 0
            app.go_on.release()
            await first.response()
            assert shop.in_flight == 0
        if how == "leaves":
            assert listening.events[0].status == 499
            assert (listening.events[0].backend, listening.events[0].attempts) == (None, 0)

    run(main)


def test_a_queue_that_is_full_or_takes_too_long_is_503() -> None:
    async def main() -> None:
        app, listening = Held(), Listening()
        shop = held_pool(app, queue=1, queue_timeout=0.05)
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            first = Visit(gateway)
            await app.arrived.acquire()
            second, third = Visit(gateway), Visit(gateway)
            for visit in (third, second):
                status, headers, _ = await visit.response()
                assert (status, headers[b"retry-after"]) == (503, b"1")
            app.go_on.release()
            await first.response()
        errors = [type(event.error) for event in listening.events]
        assert errors == [QueueFull, QueueTimeout, type(None)]

    run(main)


def test_a_visitor_who_waited_too_long_moves() -> None:
    async def main() -> None:
        app, listening = Held(), Listening()
        backends = [Backend(app=app, id="a", max_requests=1), Backend(app=hello("b"), id="b")]
        shop = Pool(
            "shop", backends, affinity=SignedCookie(SECRET), limits=Limits(queue_timeout=0.05)
        )
        shop.drain("b")
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            first = Visit(gateway)
            await app.arrived.acquire()
            app.go_on.release()
            _, headers, _ = await first.response()
            cookie = headers[b"set-cookie"].partition(b";")[0]
            shop.undrain("b")
            known = [(b"host", b"test"), (b"cookie", cookie)]
            second = Visit(gateway, headers=known)
            await app.arrived.acquire()
            third = Visit(gateway, headers=known)
            status, headers, body = await third.response()
            assert (status, body) == (200, b"b")
            assert b"set-cookie" in headers
            app.go_on.release()
            await second.response()
        assert [event.affinity for event in listening.events] == [
            AffinityStatus.NEW, AffinityStatus.MOVED, AffinityStatus.KEPT,
        ]  # fmt: skip

    run(main)


# What a client is told


@pytest.mark.parametrize(
    "pools",
    [
        pytest.param({"/api": pool(a=hello())}, id="no-route"),
        pytest.param({"/": None}, id="none"),
    ],
)
def test_no_route_is_404(pools: dict[str, Pool | None]) -> None:
    async def main() -> None:
        status, headers, body = await Visit(Gateway(pools)).response()
        assert (status, body) == (404, b"404 Not Found\n")
        assert b"connection" not in headers

    run(main)


@pytest.mark.parametrize(
    ("version", "connection"),
    [pytest.param("1.1", b"close", id="1.1"), pytest.param("2", None, id="2")],
)
def test_after_a_clients_error_the_connection_is_done(
    version: str, connection: bytes | None
) -> None:
    async def main() -> None:
        shop = Pool("shop", [Backend(app=hello(), id="a")], limits=Limits(max_body=3))
        async with Gateway({"/": shop}) as gateway:
            headers = [(b"host", b"test"), (b"content-length", b"4")]
            visit = Visit(gateway, "POST", headers=headers, http_version=version)
            status, answered, _ = await visit.response()
        assert (status, answered.get(b"connection")) == (413, connection)

    run(main)


def test_an_error_response_of_ones_own() -> None:
    seen: list[tuple[GatewayError, str]] = []

    def respond(error: GatewayError, scope: Scope) -> JSONResponse:
        seen.append((error, scope["path"]))
        return JSONResponse({"sorry": True}, error.status_code, {"retry-after": "9"})

    async def main() -> None:
        async with Gateway({"/": Pool("shop", [])}, error_response=respond) as gateway:
            status, headers, body = await Visit(gateway, path="/x").response()
        assert (status, json.loads(body)) == (503, {"sorry": True})
        assert headers[b"retry-after"] == b"9", "its own word counts"

    run(main)
    ((error, path),) = seen
    assert isinstance(error, NoBackendAvailable)
    assert path == "/x"


def test_what_led_to_an_error_is_its_cause() -> None:
    seen: list[GatewayError] = []

    def respond(error: GatewayError, scope: Scope) -> JSONResponse:
        seen.append(error)
        return JSONResponse({}, error.status_code)

    async def main() -> None:
        with refusing_port() as port, refusing_port() as other:
            pool = Pool("shop", [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"])
            async with Gateway({"/": pool}, error_response=respond) as gateway:
                status, _, _ = await Visit(gateway).response()
        assert status == 503

    run(main)
    (error,) = seen
    assert isinstance(error, NoBackendAvailable)
    assert isinstance(error.__cause__, ConnectError)
    assert isinstance(error.__cause__.__cause__, ConnectionRefusedError)


def handshake(gateway: Gateway, *headers: tuple[bytes, bytes], **scope: Any) -> Visit:
    """A WebSocket's handshake, from a server that can refuse it with a response."""
    visit = Visit(
        gateway,
        type="websocket",
        headers=[(b"host", b"test"), *headers],
        **{"extensions": {"websocket.http.response": {}}, **scope},
    )
    del visit.scope["method"]
    return visit


def test_a_web_socket_without_a_route_is_refused() -> None:
    async def main() -> None:
        gateway = Gateway(
            {"/shop": pool(a=hello())},
            error_response=lambda error, scope: PlainTextResponse(scope["method"], 418),
        )
        visit = handshake(gateway)
        assert (await visit.hear())["status"] == 418
        assert (await visit.hear())["body"] == b"GET"
        visit = handshake(gateway, extensions=None)
        assert await visit.hear() == {"type": "websocket.close", "code": 1000}
        await visit.task

    run(main)


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param((b"content-length", b"5"), id="length"),
        pytest.param((b"transfer-encoding", b"chunked"), id="chunked"),
    ],
)
def test_a_handshake_with_a_body_is_refused(framing: tuple[bytes, bytes]) -> None:
    """Who does not read a body takes it for messages."""

    async def main() -> None:
        visit = handshake(Gateway({"/": pool(a=hello())}), framing)
        assert (await visit.hear())["status"] == 400
        assert (await visit.hear())["type"] == "websocket.http.response.body"
        await visit.task

    run(main)


# Events


def test_an_event_tells_how_it_went() -> None:
    async def main() -> None:
        listening = Listening()
        async with Gateway({"/": pool(a=hello())}, listeners=[listening]) as gateway:
            await Visit(gateway, path="/x", raw_path=b"/%78").response()
        (event,) = listening.events
        assert (event.method, event.path, event.client) == ("GET", "/%78", "192.0.2.1")
        assert (event.pool, event.backend, event.status) == ("shop", "a", 200)
        assert (event.affinity, event.attempts, event.error) == (AffinityStatus.BYPASSED, 1, None)
        assert event.time_to_first_byte is not None
        assert 0 <= event.time_to_first_byte <= event.duration

    run(main)


def test_an_event_of_a_request_that_never_got_anywhere() -> None:
    async def main() -> None:
        listening = Listening()
        shop = Pool("shop", [Backend(app=hello(), id="a")], limits=Limits(max_body=0))
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            headers = [(b"host", b"test"), (b"content-length", b"4")]
            await Visit(gateway, "POST", headers=headers).response()
        (event,) = listening.events
        assert isinstance(event.error, BodyTooLarge)
        assert (event.status, event.backend, event.attempts) == (413, None, 0)
        assert (event.affinity, event.time_to_first_byte) == (None, None)

    run(main)


# Routes and pools


def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def on_request(self, event: RequestFinished) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        listening = Listening()
        gateway = Gateway({"/": pool(a=hello("a"))}, listeners=[Broken(), listening])
        async with gateway:
            assert (await Visit(gateway).response())[0] == 200
        assert len(listening.events) == 1

    run(main)
    assert "raised an exception" in caplog.text


def test_an_event_tells_the_status_that_was_really_sent() -> None:
    async def main() -> None:
        listening = Listening()
        gateway = Gateway(
            {"/": Pool("p", [])},
            error_response=lambda error, scope: PlainTextResponse("tea", 418),
            listeners=[listening],
        )
        async with gateway:
            assert (await Visit(gateway).response())[0] == 418
        assert [event.status for event in listening.events] == [418]

    run(main)


def test_a_policy_that_raises_is_told_as_500() -> None:
    class Broken:
        def pick(self, candidates: Any, request: Any) -> Any:
            raise ZeroDivisionError

    async def main() -> None:
        listening = Listening()
        backends = [Backend(app=hello("a"), id="a")]
        gateway = Gateway({"/": Pool("p", backends, balancer=Broken())}, listeners=[listening])
        async with gateway:
            with pytest.raises(ZeroDivisionError):
                await Visit(gateway).response()
        assert [event.status for event in listening.events] == [500]

    run(main)


def test_a_pinned_visitor_goes_elsewhere_when_nobody_may_wait() -> None:
    async def main() -> None:
        backends = [Backend(app=hello(id), id=id, max_requests=1) for id in "ab"]
        made = Pool("p", backends, affinity=SignedCookie("s" * 16), limits=Limits(queue=0))
        gateway = Gateway({"/": made})
        async with gateway:
            _, headers, body = await Visit(gateway).response()
            cookie = headers[b"set-cookie"].partition(b";")[0]
            mine = body.decode()[-1]
            with made.lease(made[mine]):
                fields = [(b"host", b"test"), (b"cookie", cookie)]
                status, headers, other = await Visit(gateway, headers=fields).response()
            assert status == 200
            assert other != body
            assert b"set-cookie" in headers

    run(main)


def test_routes_can_be_replaced() -> None:
    one, two = pool(a=hello("one")), Pool("two", [Backend(app=hello("two"), id="b")])
    gateway = Gateway({"/": one})
    gateway.replace_routes({"/": one, "/two": two})
    assert gateway.pools == (two, one)

    async def main() -> None:
        async with gateway:
            assert (await Visit(gateway, path="/two").response())[2] == b"two"
            gateway.replace_routes([Route(two)])
            assert (await Visit(gateway).response())[2] == b"two"
            with pytest.raises(ValueError, match="at least one route"):
                gateway.replace_routes({})
            assert [route.pool for route in gateway.routes] == [two]

    run(main)


def test_a_transport_is_checked_at_once() -> None:
    for build in (Gateway, Gateway({"/": None}).replace_routes):
        with pytest.raises(ValueError, match="transport must be"):
            build({"/": Pool("shop", [], transport=httpx.AsyncClient)})


def test_retry_none_repeats_nothing() -> None:
    async def main() -> None:
        backends = [Backend(app=failing(head_first=False), id=id) for id in "ab"]
        listening = Listening()
        shop = Pool("shop", backends, retry=None)
        async with Gateway({"/": shop}, listeners=[listening]) as gateway:
            assert (await Visit(gateway).response())[0] == 502
        assert listening.events[0].attempts == 1
        assert shop.retry == Retry(attempts=0)

    run(main)


# Loops


def test_loops_enter_and_leave_in_any_order() -> None:
    """Each leaves what it has entered, not what another one did last."""
    shop = pool(a=hello("a"))
    gateway = Gateway({"/": shop})
    entered, leave = ([threading.Event(), threading.Event()] for _ in range(2))
    answers: list[bytes] = []

    def serve(number: int) -> None:
        async def main() -> None:
            async with gateway:
                entered[number].set()
                await asyncio.to_thread(leave[number].wait, 10)
                answers.append((await Visit(gateway).response())[2])

        run(main)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        assert entered[number].wait(10)
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join(10)
        assert not thread.is_alive()
    assert answers == [b"a", b"a"]


def test_one_event_loop_after_another() -> None:
    gateway = Gateway({"/": pool(a=CounterApp("a"))})
    for number in range(1, 4):
        with TestClient(gateway) as client:
            assert client.get("/").json() == {"backend": "a", "count": number}


def test_an_exception_leaves_the_block_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Gateway({"/": pool(a=hello())}):
                raise ZeroDivisionError

    run(main)


def test_repr() -> None:
    gateway = Gateway({"/": pool(a=hello()), "/local": None})
    assert repr(gateway) == "<Gateway <Route /local → app>, <Route / → shop>>"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: Gateway({}), "at least one route", id="no-route"),
        pytest.param(
            lambda: Gateway({"/": pool(a=hello())}, trusted_proxies=["nowhere"]),
            "nowhere",
            id="network",
        ),
    ],
)
def test_bad_gateways(build: Callable[[], Gateway], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
