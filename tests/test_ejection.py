"""What failing backends come to in a gateway, over sockets: who is taken out, and who is not."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from sticky_asgi import (
    Backend,
    Ejection,
    Gateway,
    Health,
    Intent,
    Pool,
    Retry,
    SignedCookie,
    Timeouts,
)
from sticky_asgi.testing import VirtualClock
from tests.gateways import Lane, transport_of
from tests.servers import (
    WAIT,
    Connection,
    Handler,
    RawBackend,
    RawClient,
    encode_request,
    eventually,
    refusing_port,
    responding,
    response,
    unanswered_port,
)
from tests.watching import SECRET, First, Watched, kept_servers, watched

UNKNOWN, UNHEALTHY = Health.UNKNOWN, Health.UNHEALTHY
OK = responding(response(200, b"fine"))
TWO = Ejection(failures=2)


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


@contextlib.contextmanager
def serving(
    *handlers: Handler | str, lane: Lane = "http1", **options: Any
) -> Iterator[tuple[Watched, list[str]]]:
    """A gateway before backends that are asked in their order; and their ids."""
    defaults: dict[str, Any] = {"balancer": First(), "ejection": TWO, "clock": VirtualClock()}
    options = defaults | options
    with contextlib.ExitStack() as stack:
        urls = [
            handler if isinstance(handler, str) else stack.enter_context(RawBackend(handler)).url
            for handler in handlers
        ]
        pool = Pool("shop", urls, transport=transport_of(lane), **options)
        yield stack.enter_context(watched(pool)), [backend.id for backend in pool.backends]


def closes(connection: Connection) -> None:
    connection.read_request()


def stalls(connection: Connection) -> None:
    connection.read_request()
    connection.wait_closed()


def breaks_off(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def nonsense(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"nonsense\r\n\r\n")


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        pytest.param(closes, {}, id="lost"),
        pytest.param(nonsense, {}, id="malformed"),
        pytest.param(stalls, {"timeouts": Timeouts(response=0.05)}, id="response timeout"),
        pytest.param(
            breaks_off, {"ejection": Ejection(min_requests=2)}, id="broken off in the body"
        ),
        pytest.param(
            responding(response(503)), {"ejection": Ejection(failures=2, statuses=[503])}, id="503"
        ),
        pytest.param(
            responding(response(503)),
            {
                "ejection": Ejection(failures=2, statuses=[503]),
                "retry": Retry(on_status=[503]),
            },
            id="503 repeated",
        ),
    ],
)
def test_two_failures_take_a_backend_out(
    lane: Lane, handler: Handler, options: dict[str, Any]
) -> None:
    with serving(handler, OK, lane=lane, **options) as (front, [bad, good]):
        for _ in range(2):
            front.request()
        eventually(lambda: front.pool[bad].health is UNHEALTHY)
        assert front.pool[good].health is UNKNOWN
        assert [front.request().body for _ in range(3)] == [b"fine"] * 3
        assert front.event(of=5).attempts == 1, "nobody finds it any more"


@pytest.mark.parametrize("how", ["refused", "no answer"])
def test_no_connection_takes_a_backend_out(lane: Lane, how: str) -> None:
    port = refusing_port() if how == "refused" else unanswered_port()
    with port as number:
        url = f"http://127.0.0.1:{number}"
        timeouts = Timeouts(connect=0.05)
        with serving(url, OK, lane=lane, timeouts=timeouts) as (front, [bad, _]):
            for _ in range(2):
                assert front.request("POST", body=b"x").status == 200
            assert front.pool[bad].health is UNHEALTHY


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        pytest.param(responding(response(404)), {}, id="404"),
        pytest.param(responding(response(500)), {}, id="500"),
        pytest.param(responding(response(503)), {"retry": Retry(on_status=[503])}, id="repeated"),
        pytest.param(responding(response(429)), {"retry": Retry(on_status=[429])}, id="429"),
    ],
)
def test_answers_take_nobody_out(handler: Handler, options: dict[str, Any]) -> None:
    with serving(handler, OK, **options) as (front, [first, _]):
        for _ in range(6):
            front.request()
        assert front.pool[first].health is UNKNOWN
        assert front.pool[first].faults == 0


def test_a_bad_status_with_a_broken_body_is_one_failure(lane: Lane) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nhalf")

    rules = Ejection(failures=4, failure_share=None, statuses=[503])
    with serving(handler, OK, lane=lane, ejection=rules) as (front, [bad, _]):
        for number in range(1, 4):
            front.request()
            front.event(of=number)
            assert front.pool[bad].faults == number


def test_late_answers_do_not_end_the_probation() -> None:
    """A request that was sent before its backend was taken out, and answered when it is back."""
    clock, is_late = VirtualClock(), threading.Event()

    def handler(connection: Connection) -> None:
        if connection.read_request().target == b"/late":
            assert is_late.wait(WAIT)
            connection.send(response(200, b"late"))

    with serving(handler, OK, clock=clock) as (front, [bad, _]), RawClient(front.port) as client:
        client.send(encode_request("GET", b"/late"))
        eventually(lambda: front.pool[bad].in_flight)
        for _ in range(2):
            assert front.request().body == b"fine"
        assert front.pool[bad].health is UNHEALTHY
        clock.advance(30)
        assert front.pool.states[0].health is UNKNOWN
        is_late.set()
        assert client.read_response().body == b"late"
        assert front.pool[bad].faults == 1, "on probation"
        clock.advance(1)
        assert front.request().body == b"fine"
        assert front.pool[bad].health is UNHEALTHY


def test_failures_with_answers_between_them_take_nobody_out() -> None:
    turns = iter("+-" * 8)

    def handler(connection: Connection) -> None:
        connection.read_request()
        if next(turns) == "+":
            connection.send(response(200, b"fine", [(b"Connection", b"close")]))

    with serving(handler, OK, retry=None) as (front, [first, _]):
        statuses = Counter(front.request().status for _ in range(12))
        assert statuses == {200: 6, 502: 6}
        assert front.pool[first].health is UNKNOWN


def test_clients_who_leave_take_nobody_out(lane: Lane) -> None:
    with serving(stalls, OK, lane=lane) as (front, [first, _]):
        for number in range(4):
            with RawClient(front.port) as client:
                client.send(encode_request("GET"))
                eventually(lambda: front.pool[first].in_flight)
            front.event(of=number + 1)
        assert (front.pool[first].health, front.pool[first].faults) == (UNKNOWN, 0)


def test_malformed_requests_take_nobody_out() -> None:
    with serving(OK, OK) as (front, [first, _]):
        for _ in range(4):
            assert front.request(headers=[(b"Host", b"a"), (b"Host", b"b")]).status == 400
        assert front.pool[first].faults == 0


def test_a_half_may_be_out_at_most() -> None:
    with serving(closes, closes, closes, closes, retry=None) as (front, ids):
        for _ in range(20):
            assert front.request().status == 502
        healths = Counter(front.pool[id].health for id in ids)
        assert healths == {UNHEALTHY: 2, UNKNOWN: 2}


def test_one_alone_stays() -> None:
    with serving(closes) as (front, [only]):
        for _ in range(6):
            front.request()
        assert front.pool[only].health is UNKNOWN


def test_out_for_a_while_and_back_slowly() -> None:
    clock = VirtualClock()
    refuses = True

    def handler(connection: Connection) -> None:
        while True:
            connection.read_request()
            if refuses:
                return
            connection.send(response(200, b"back"))

    with serving(handler, OK, balancer=None, clock=clock) as (front, [bad, _]):
        while front.pool[bad].health is UNKNOWN:
            assert front.request().body == b"fine"
        refuses = False
        clock.advance(29)
        assert {front.request().body for _ in range(4)} == {b"fine"}
        clock.advance(1)
        bodies = Counter(front.request().body for _ in range(22))
        assert bodies == {b"fine": 20, b"back": 2}
        assert front.pool[bad].health is UNKNOWN
        clock.advance(10)
        assert Counter(front.request().body for _ in range(8)) == {b"fine": 4, b"back": 4}


def test_visitors_leave_an_ejected_backend_and_those_of_others_stay() -> None:
    affinity = SignedCookie(SECRET, name="shop")
    is_broken = False

    def handler(connection: Connection) -> None:
        while True:
            connection.read_request()
            if is_broken:
                return
            connection.send(response(200, b"first"))

    with serving(handler, OK, affinity=affinity, balancer=None) as (front, [first, _]):
        visitors = []
        for _ in range(6):
            answer = front.request()
            cookie = (answer.get(b"set-cookie") or b"").partition(b";")[0]
            visitors.append((cookie, answer.body))
        assert Counter(body for _, body in visitors) == {b"first": 3, b"fine": 3}
        is_broken = True
        for cookie, before in visitors:
            answer = front.request(headers=[(b"Cookie", cookie)])
            assert answer.body == b"fine"
            assert bool(answer.get(b"set-cookie")) is (before == b"first")
        assert front.pool[first].health is UNHEALTHY
        front.event(of=12)
        attempts = [event.attempts for event in front.events[6:]]
        assert sorted(attempts) == [1, 1, 1, 1, 2, 2], "the third was spared the try"


@pytest.mark.parametrize("panic", ["none", "all"])
def test_nobody_left(panic: str) -> None:
    with serving(OK, OK, panic=panic) as (front, ids):
        for id in ids:
            front.do(front.pool.set_health, id, UNHEALTHY)
        answer = front.request()
        assert answer.status == (503 if panic == "none" else 200)
        assert (answer.get(b"retry-after") is None) is (panic == "all")


def test_backups() -> None:
    """Visitors who came to a backup stay there."""
    with RawBackend(OK) as main, RawBackend(responding(response(200, b"sorry"))) as backup:
        pool = Pool(
            "shop",
            [Backend(main.url, id="main"), Backend(backup.url, id="backup", priority=1)],
            affinity=SignedCookie(SECRET, name="shop"),
        )
        with watched(pool) as front:
            assert {front.request().body for _ in range(4)} == {b"fine"}
            front.do(pool.set_intent, "main", Intent.DOWN)
            answer = front.request()
            assert answer.body == b"sorry"
            cookie = (answer.get(b"set-cookie") or b"").partition(b";")[0]
            front.do(pool.set_intent, "main", Intent.ACTIVE)
            assert front.request().body == b"fine"
            assert front.request(headers=[(b"Cookie", cookie)]).body == b"sorry"


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_a_response_that_drains_its_backend(lane: Lane, is_on: bool) -> None:
    leaving = responding(
        response(200, b"leaving", [(b"Sticky-Drain", b"1")]),
        response(200, b"still here"),
        response(200, b"back", [(b"Sticky-Drain", b"0")]),
    )
    affinity = SignedCookie(SECRET, name="shop")
    with serving(leaving, OK, lane=lane, drain_header=is_on, affinity=affinity) as (front, ids):
        answer = front.request()
        assert (answer.body, answer.get(b"sticky-drain")) == (b"leaving", None if is_on else b"1")
        cookie = (answer.get(b"set-cookie") or b"").partition(b";")[0]
        if not is_on:
            assert front.request().body == b"still here"
            return
        assert front.pool[ids[0]].intent is Intent.DRAINING
        assert front.request().body == b"fine"
        for body in (b"still here", b"back"):
            answer = front.request(headers=[(b"Cookie", cookie)])
            assert (answer.body, answer.get(b"sticky-drain")) == (body, None)
        assert front.pool[ids[0]].intent is Intent.ACTIVE


def test_the_drain_header_is_for_the_gateway_whatever_it_says(lane: Lane) -> None:
    """Also in heads that are remembered: these come again and again."""
    words = [(b"Sticky-Drain", b"0"), (b"X-App", b"1"), (b"Sticky-Drain", b"perhaps")]
    with serving(responding(response(200, b"fine", words)), lane=lane, drain_header=True) as (
        front,
        [only],
    ):
        for _ in range(4):
            answer = front.request()
            assert (answer.get(b"sticky-drain"), answer.get(b"x-app")) == (None, b"1")
        front.pool.drain_header = False
        answer = front.request()
        values = [value for name, value in answer.headers if name.lower() == b"sticky-drain"]
        assert values == [b"0", b"perhaps"]
        assert front.pool[only].intent is Intent.ACTIVE


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_application_in_process_drains_itself(kind: str) -> None:
    words = [(b"sticky-drain", b"1"), (b"x-app", b"1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "headers": words})
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": words})
            await send({"type": "http.response.body", "body": b"leaving"})

    pool = Pool("shop", [Backend(app=app, id="a")], drain_header=True)
    client = TestClient(Gateway({"/": pool}))
    if kind == "http":
        assert dict(client.get("/").headers) == {"x-app": "1"}
    else:
        with client.websocket_connect("/") as websocket:
            assert websocket.extra_headers == [(b"x-app", b"1")]
    assert pool["a"].intent is Intent.DRAINING


def test_an_answer_that_is_turned_down_drains_its_backend() -> None:
    leaving = responding(response(503, b"leaving", [(b"Sticky-Drain", b"1")]))
    options: dict[str, Any] = {"drain_header": True, "retry": Retry(on_status=[503])}
    with serving(leaving, OK, **options) as (front, [first, _]):
        assert front.request().body == b"fine"
        assert front.pool[first].intent is Intent.DRAINING
