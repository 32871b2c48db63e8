"""Draining by a deadline: what is left on a backend, and what becomes of it."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from sticky_asgi import (
    AffinityStatus,
    Backend,
    DrainEnded,
    Gateway,
    Health,
    Intent,
    Pool,
    SignedCookie,
)
from tests.gateways import gateway_before
from tests.servers import (
    Connection,
    HttpImplementation,
    RawBackend,
    RawClient,
    chunk,
    encode_request,
    eventually,
    request,
    responding,
    response,
    serve,
)
from tests.websocket_peers import (
    CLOSE,
    DEFAULT,
    TEXT,
    Events,
    Talker,
    accepting,
    connect,
    end_of,
    frame,
    handshake,
    read_frame,
    talking,
    until_closed,
    websockets_before,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

SECRET = "0123456789abcdef"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#: Seconds that no test waits for.
LATER = 3600.0


def stay(connection: Connection) -> None:
    """Begin a response that goes on until the gateway leaves."""
    connection.read_request()
    connection.send(STREAM + chunk(b"one"))
    connection.wait_closed()


# The pool


@pytest.mark.parametrize("deadline", [-1, float("nan"), float("inf"), True, "30s"])
def test_a_deadline_that_is_none(deadline: Any) -> None:
    pool = Pool("shop", ["http://a"])
    with pytest.raises(ValueError, match=f"deadline must be a number of seconds.*{deadline!r}"):
        pool.drain("a:80", deadline=deadline)
    assert pool["a:80"].intent is Intent.ACTIVE


@pytest.mark.parametrize(
    ("change", "intent"),
    [
        pytest.param(lambda pool: pool.undrain("a:80"), Intent.ACTIVE, id="undrained"),
        pytest.param(lambda pool: pool.drain("a:80"), Intent.DRAINING, id="without one now"),
        pytest.param(
            lambda pool: pool.set_intent("a:80", Intent.DOWN), Intent.DOWN, id="down at once"
        ),
    ],
)
def test_a_later_wish_takes_the_deadline_back(
    change: Callable[[Pool], None], intent: Intent
) -> None:
    pool = Pool("shop", ["http://a"])
    pool.drain("a:80", deadline=0)
    assert pool["a:80"].drain_until is not None
    change(pool)
    assert pool["a:80"].intent is intent
    assert pool["a:80"].drain_until is None


def test_a_backend_that_goes_and_returns_has_no_deadline() -> None:
    pool = Pool("shop", ["http://a", "http://b"])
    with pool.lease(pool["a:80"]):
        pool.drain("a:80", deadline=0)
        pool.remove("a:80")
        pool.add("http://a")
        assert pool["a:80"].intent is Intent.ACTIVE
        assert pool["a:80"].drain_until is None


# Requests


def test_the_next_request_of_a_visitor_moves() -> None:
    with serve(Talker("b")) as other, serve(Talker("a")) as first:
        backends = [Backend(first.url, id="a"), Backend(other.url, id="b", weight=0)]
        with websockets_before(backends, affinity=SignedCookie(SECRET)) as front:
            answer = request(front.port)
            assert answer.body == b"a"
            assert front.events.next().affinity is AffinityStatus.NEW
            cookie = answer.get(b"set-cookie")
            assert cookie is not None
            headers = [(b"cookie", cookie.partition(b";")[0])]
            front.pool.drain("a", deadline=LATER)
            assert request(front.port, headers=headers).body == b"a"
            assert front.events.next().affinity is AffinityStatus.KEPT
            front.pool.drain("a", deadline=0)
            eventually(lambda: front.pool["a"].intent is Intent.DOWN)
            answer = request(front.port, headers=headers)
            assert answer.body == b"b"
            assert len(answer.get_all(b"set-cookie")) == 1
            assert front.events.next().affinity is AffinityStatus.MOVED


def test_a_response_under_way_is_cut_off_and_never_ended_cleanly(
    http: HttpImplementation,
) -> None:
    with gateway_before(stay, http=http) as front, RawClient(front.port) as client:
        state = front.pool.states[0]
        client.send(encode_request("GET", b"/events", []))
        answer = client.read_head()
        assert client.read_piece(answer) == b"one"
        assert (state.in_flight, state.streams, state.websockets) == (1, 1, 0)
        front.pool.drain(state.id, deadline=0)
        assert client.read_piece(answer) == b""
        assert not answer.complete
        eventually(lambda: (state.in_flight, state.streams) == (0, 0))
        eventually(lambda: front.backend.open_connections == 0)
        assert state.intent is Intent.DOWN
        assert (state.failures, state.health) == (0, Health.UNKNOWN)


def test_a_request_without_an_answer_yet_is_answered(http: HttpImplementation) -> None:
    gate = threading.Event()

    def late(connection: Connection) -> None:
        connection.read_request()
        connection.wait(gate)
        connection.send(response(200, b"late"))

    with gateway_before(late, http=http) as front, RawClient(front.port) as client:
        state = front.pool.states[0]
        client.send(encode_request("POST", b"/", [], b"order"))
        front.backend.wait_request()
        assert (state.in_flight, state.streams) == (1, 0)
        front.pool.drain(state.id, deadline=0)
        eventually(lambda: state.intent is Intent.DOWN)
        gate.set()
        assert client.read_response().body == b"late"


def test_what_is_on_another_backend_goes_on() -> None:
    with (
        RawBackend(stay) as other,
        gateway_before(stay, others=[other.url]) as front,
        RawClient(front.port) as leaving,
        RawClient(front.port) as staying,
    ):
        for client in (leaving, staying):
            client.send(encode_request("GET", b"/", []))
        heads = [client.read_head() for client in (leaving, staying)]
        for client, head in zip((leaving, staying), heads, strict=True):
            assert client.read_piece(head) == b"one"
        # Both have one each: whichever has the first backend's is cut off.
        first, second = front.pool.states
        front.pool.drain(first.id, deadline=0)
        eventually(lambda: first.in_flight == 0)
        assert second.in_flight == second.streams == 1


def test_an_end_of_the_response_leaves_no_stream() -> None:
    with gateway_before(responding(response(200, b"x" * 300_000))) as front:
        assert len(front.request().body) == 300_000
        state = front.pool.states[0]
        eventually(lambda: state.in_flight == 0)
        assert state.streams == 0


# WebSockets


def test_a_websocket_is_told_to_come_back_and_its_backend_that_it_goes_away(ws: str) -> None:
    with talking(ws=ws) as (front, talker), connect(front.port) as client:
        client.send("hello")
        assert client.recv() == "hello"
        state = front.pool.states[0]
        assert (state.in_flight, state.streams, state.websockets) == (1, 0, 1)
        front.pool.drain(state.id, deadline=0)
        assert end_of(client) == (1012, "")
        event = front.events.next()
        assert (event.status, event.close_code, event.error) == (101, 1012, None)
        eventually(lambda: talker.ended == [(1001, "")])
        assert (state.in_flight, state.websockets, state.failures) == (0, 0, 0)


def test_in_process_a_websocket_is_ended_as_well(ws: str) -> None:
    talker = Talker()
    with websockets_before([Backend(app=talker, id="a")], ws=ws) as front:
        with connect(front.port) as client:
            client.send("hello")
            assert client.recv() == "hello"
            front.pool.drain("a", deadline=0)
            assert end_of(client) == (1012, "")
        eventually(lambda: talker.ended == [(1001, "")])


def test_a_websocket_that_ends_by_itself_has_its_own_code(ws: str) -> None:
    with talking(ws=ws) as (front, _):
        state = front.pool.states[0]
        with connect(front.port) as client:
            client.send("close 4001 done")
            assert end_of(client) == (4001, "done")
        assert front.events.next().close_code == 4001
        front.pool.drain(state.id, deadline=0)
        eventually(lambda: state.intent is Intent.DOWN)
        assert (state.in_flight, state.websockets) == (0, 0)


def test_a_client_that_reads_nothing_holds_up_no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sticky_asgi.forward_websocket.FAREWELL_TIME", 0.1)
    with talking() as (front, talker), RawClient(front.port) as client:
        client.send(handshake())
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"flood 1000000 100", mask=True))
        state = front.pool.states[0]
        eventually(lambda: talker.sent > 1)
        front.pool.drain(state.id, deadline=0)
        eventually(lambda: (state.in_flight, state.websockets) == (0, 0))


def test_a_handshake_that_a_drain_meets_ends_when_it_is_over(ws: str) -> None:
    gate = threading.Event()

    def late(connection: Connection) -> None:
        request = connection.read_head()
        connection.wait(gate)
        connection.send(accepting(request))
        assert until_closed(connection) == (1001, b"")

    with RawBackend(late) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            backend.wait_request()
            state = front.pool.states[0]
            front.pool.drain(state.id, deadline=0)
            eventually(lambda: state.intent is Intent.DOWN)
            gate.set()
            assert client.read_head().status == 101
            assert read_frame(client) == (CLOSE, struct.pack("!H", 1012))
        eventually(lambda: state.in_flight == 0)


def test_a_refused_handshake_counts_as_no_websocket(ws: str) -> None:
    with talking(ws=ws) as (front, _), RawClient(front.port) as client:
        client.send(handshake(b"/refuse"))
        assert client.read_head().status == 401
        event = front.events.next()
        assert event.status == 401
        assert front.pool.states[0].websockets == 0


# When


def test_deadlines_keep_their_order_and_an_undrained_backend_stays() -> None:
    with serve(Talker("x"), ws=DEFAULT) as backend:
        backends = [Backend(backend.url, id=name) for name in "abc"]
        with websockets_before(backends) as front, contextlib.ExitStack() as stack:
            clients: dict[str, ClientConnection] = {}
            for _ in backends:
                client = stack.enter_context(connect(front.port))
                client.send("name")
                client.recv()
                newest = [s.id for s in front.pool.states if s.websockets and s.id not in clients]
                clients[newest[0]] = client
            front.pool.drain("a", deadline=0.02)
            front.pool.drain("b", deadline=LATER)
            front.pool.drain("c", deadline=0.04)
            front.pool.undrain("a")
            assert end_of(clients["c"])[0] == 1012
            intents = [state.intent for state in front.pool.states]
            assert intents == [Intent.ACTIVE, Intent.DRAINING, Intent.DOWN]
            # Put forward, it ends earlier.
            front.pool.drain("b", deadline=0)
            assert end_of(clients["b"])[0] == 1012
            clients["a"].send("still there")
            assert clients["a"].recv() == "still there"


def test_a_drain_that_began_before_the_gateway_ends_when_that_runs() -> None:
    with RawBackend(responding(response(200))) as backend:
        pool = Pool("shop", [backend.url])
        gateway = Gateway({"/": pool})
        pool.drain(pool.states[0].id, deadline=0)
        assert pool.states[0].intent is Intent.DRAINING
        with serve(gateway):
            eventually(lambda: pool.states[0].intent is Intent.DOWN)


def test_a_drain_ends_without_lifespan_too() -> None:
    with RawBackend(responding(response(200))) as backend:
        pool = Pool("shop", [backend.url])
        with serve(Gateway({"/": pool}), lifespan="off") as server:
            assert request(server.port).status == 200
            pool.drain(pool.states[0].id, deadline=0)
            eventually(lambda: pool.states[0].intent is Intent.DOWN)


def test_pools_of_new_routes_are_drained_as_well() -> None:
    with RawBackend(responding(response(200))) as backend:
        early, late = Pool("early", [backend.url]), Pool("late", [backend.url])
        gateway = Gateway({"/": early})
        late.drain(late.states[0].id, deadline=0)
        with serve(gateway) as server:
            server.call(gateway.replace_routes, {"/": late})
            eventually(lambda: late.states[0].intent is Intent.DOWN)


def test_gateways_of_two_loops_end_their_own() -> None:
    with serve(Talker(), ws=DEFAULT) as backend:
        pool = Pool("shop", [backend.url])
        events = Events()
        gateway = Gateway({"/": pool}, listeners=[events])
        with serve(gateway, ws=DEFAULT) as one, serve(gateway, ws=DEFAULT) as two:
            with connect(one.port) as here, connect(two.port) as there:
                for client in (here, there):
                    client.send("hello")
                    assert client.recv() == "hello"
                assert pool.states[0].websockets == 2
                pool.drain(pool.states[0].id, deadline=0)
                assert end_of(here) == end_of(there) == (1012, "")
            eventually(lambda: len(events) == 2)


def test_an_end_is_no_fault_of_the_backend() -> None:
    error = DrainEnded("the drain has ended")
    assert (error.side, error.stage, error.status_code) == ("gateway", "body", 503)
