"""What becomes of a WebSocket when something fails, leaves or ends, and what is left of it."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import Scope
from websockets.sync.client import ClientConnection

from sticky_asgi import (
    AffinityStatus,
    Backend,
    BadRequest,
    ClientDisconnected,
    ConnectionLost,
    GatewayError,
    Limits,
    NoBackendAvailable,
    Retry,
    SignedCookie,
    Timeouts,
    WebSocketOptions,
)
from tests.servers import (
    Connection,
    RawBackend,
    RawClient,
    RawResponse,
    eventually,
    refusing_port,
    response,
    serve,
)
from tests.websocket_peers import (
    BINARY,
    CLOSE,
    DEFAULT,
    IMPLEMENTATIONS,
    TEXT,
    Front,
    Talker,
    connect,
    end_of,
    frame,
    handshake,
    read_frame,
    talking,
    until_closed,
    upgrade,
    websockets_before,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Implementations that take messages for a client that has left, and never say so.
IS_OLD = tuple(map(int, uvicorn.__version__.split(".")[:2])) < (0, 54)
SILENT = ("wsproto",) if IS_OLD else ()
SECRET = "0123456789abcdef"


def ask(front: Front, headers: Any = ()) -> RawResponse:
    """The response to a handshake."""
    with RawClient(front.port) as client:
        client.send(handshake(headers=headers))
        answer = client.read_head()
        if answer.status != 101:
            client.read_body(answer)
            # Older servers fail to end between the last byte and the end of the connection.
            client.wait_closed()
        return answer


def talk(client: ClientConnection) -> str | bytes:
    """The name of the backend that the client has come to."""
    client.send("name")
    return client.recv()


# Before the client is accepted: another backend, or a response


def test_a_refused_connection_is_tried_elsewhere(ws: str) -> None:
    with refusing_port() as port, serve(Talker(), ws=DEFAULT) as alive:
        urls = [f"http://127.0.0.1:{port}", alive.url]
        with websockets_before(urls, ws=ws) as front:
            for _ in range(2):
                with connect(front.port) as client:
                    assert talk(client) == "talker"
            assert sorted(front.events.next().attempts for _ in range(2)) == [1, 2]


def test_a_visitor_whose_backend_is_dead_is_moved_and_told_so_by_the_cookie(ws: str) -> None:
    with serve(Talker("b"), ws=DEFAULT) as alive:
        affinity = SignedCookie(SECRET)
        with serve(Talker("a"), ws=DEFAULT) as mortal:
            a, b = Backend(mortal.url, id="a"), Backend(alive.url, id="b", weight=0)
            with websockets_before([a, b], ws=ws, affinity=affinity) as front:
                with connect(front.port) as client:
                    assert talk(client) == "a"
                    assert client.response is not None
                    cookie = client.response.headers["Set-Cookie"].partition(";")[0]
                assert front.events.next().affinity is AffinityStatus.NEW
                mortal.stop()
                for status in (AffinityStatus.MOVED, AffinityStatus.KEPT):
                    with connect(front.port, additional_headers={"Cookie": cookie}) as client:
                        assert talk(client) == "b"
                        assert client.response is not None
                        issued = client.response.headers.get("Set-Cookie", cookie)
                    assert (issued != cookie) == (status is AffinityStatus.MOVED)
                    cookie = issued.partition(";")[0]
                    assert front.events.next().affinity is status


def silent(connection: Connection) -> None:
    connection.read_head()
    connection.wait_closed()


def no_http(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"SSH-2.0-OpenSSH\r\n\r\n")


def wrong_key(connection: Connection) -> None:
    connection.read_head()
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    connection.wait_closed()


def breaks_off(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nhalf")


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        pytest.param(silent, 504, id="no answer"),
        pytest.param(no_http, 502, id="no http"),
        pytest.param(wrong_key, 502, id="wrong key"),
        pytest.param(breaks_off, 502, id="half a refusal"),
    ],
)
def test_a_handshake_that_fails_is_answered_with_a_status(
    ws: str, handler: Callable[[Connection], None], status: int
) -> None:
    options: dict[str, Any] = {"timeouts": Timeouts(response=0.2), "affinity": SignedCookie(SECRET)}
    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, retry=None, **options) as front:
            answer = ask(front)
            assert (answer.status, answer.complete) == (status, True)
            assert answer.body.startswith(b"%d " % status)
            assert answer.get(b"set-cookie") is None
            event = front.events.next()
            assert (event.status, event.close_code) == (status, None)
            assert front.pool.states[0].failures == 1


def test_a_response_without_an_end_is_refused_without_its_body(
    ws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        connection.wait_closed()

    monkeypatch.setattr("sticky_asgi.forward_websocket.REFUSAL_TIME", 0.1)
    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        answer = ask(front)
        assert (answer.status, answer.body, answer.complete) == (200, b"", True)
        assert backend.connection().done.wait(5)


def test_no_backend_is_503_with_retry_after(ws: str) -> None:
    with websockets_before([], ws=ws) as front:
        answer = ask(front)
        assert (answer.status, answer.get(b"retry-after")) == (503, b"1")
        assert answer.body == b"503 Service Unavailable\n"


def test_an_error_response_of_ones_own(ws: str) -> None:
    def sorry(error: GatewayError, scope: Scope) -> JSONResponse:
        assert isinstance(error, NoBackendAvailable)
        return JSONResponse({"sorry": scope["type"]}, error.status_code, {"x-own": "1"})

    with websockets_before([], ws=ws, gateway={"error_response": sorry}) as front:
        answer = ask(front)
        assert (answer.status, answer.get(b"x-own")) == (503, b"1")
        assert json.loads(answer.body) == {"sorry": "websocket"}


def test_an_unwanted_status_is_asked_elsewhere(ws: str) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(response(503, b"busy"))

    with RawBackend(handler) as busy, serve(Talker(), ws=DEFAULT) as free:
        urls = [busy.url, free.url]
        with websockets_before(urls, ws=ws, retry=Retry(on_status=[503])) as front:
            for _ in range(2):
                with connect(front.port) as client:
                    assert talk(client) == "talker"


# The client leaves


def test_a_client_that_leaves_before_it_is_accepted_cancels_the_handshake(ws: str) -> None:
    with RawBackend(silent) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            backend.wait_request()
            assert front.pool.states[0].in_flight == 1
        assert backend.connection().done.wait(5), "its connection is closed"
        event = front.events.next()
        assert isinstance(event.error, ClientDisconnected)
        assert (event.status, event.close_code) == (499, None)
        assert front.pool.states[0].failures == 0


def test_a_client_that_leaves_while_it_waits_for_its_turn(ws: str) -> None:
    talker = Talker()
    with serve(talker, ws=DEFAULT) as backend:
        one = Backend(backend.url, max_requests=1)
        with websockets_before([one], ws=ws, limits=Limits(queue_timeout=10)) as front:
            with connect(front.port) as client:
                assert talk(client) == "talker"
                with RawClient(front.port) as other:
                    other.send(handshake())
                    eventually(lambda: front.pool.queued == 1)
                eventually(lambda: front.pool.queued == 0)
                assert isinstance(front.events.next().error, ClientDisconnected)
                assert talk(client) == "talker"


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_is_lost_ends_the_backends_side(ws: str, leave: str) -> None:
    with talking(ws=ws) as (front, talker):
        client = RawClient(front.port)
        client.send(handshake())
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"hello", mask=True))
        getattr(client, leave)()
        eventually(lambda: talker.ended)
        event = front.events.next()
        assert (event.status, event.error) == (101, None), "and nobody is to blame"
        assert event.close_code in (1005, 1006), "uvicorn does not always know"
        assert front.pool.states[0].failures == 0


@pytest.mark.parametrize("code", [999, 1005, 1006, 1015, 2500, 5000])
def test_a_client_that_closes_with_a_code_that_it_must_not_send(code: int) -> None:
    """Some servers take it, others break off."""
    for ws in IMPLEMENTATIONS:
        with talking(ws=ws) as (front, talker):
            with RawClient(front.port) as client:
                client.send(handshake())
                assert client.read_head().status == 101
                client.send(frame(CLOSE, struct.pack("!H", code), mask=True))
                client.wait_closed()
            eventually(lambda talker=talker: talker.ended)  # type: ignore[misc]
            assert front.events.next().error is None
            assert [line for line in front.server.errors if "ASGI" in line] == []


def test_a_client_that_sends_before_it_is_accepted_and_leaves(ws: str) -> None:
    """It must not (RFC 6455 §4.1): who hears of it refuses it."""
    with RawBackend(silent) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            backend.wait_request()
            client.send(frame(TEXT, b"too early", mask=True))
            if ws == "websockets-sansio":
                assert client.read_response().status == 400
            client.reset()
            assert backend.connection().done.wait(5), "its connection is closed"
        event = front.events.next()
        assert isinstance(event.error, BadRequest | ClientDisconnected)
        assert front.pool.states[0].failures == 0


def test_a_client_that_sends_as_soon_as_it_is_accepted(ws: str) -> None:
    """Whoever watched it until then has read its first message."""
    may_answer = threading.Event()

    def handler(connection: Connection) -> None:
        connection.wait(may_answer)
        upgrade(connection)
        received.append(read_frame(connection))
        received.append(until_closed(connection))

    received: list[Any] = []
    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            backend.connection()
            # The client is watched by now.
            threading.Event().wait(0.1)
            may_answer.set()
            assert client.read_head().status == 101
            client.send(frame(TEXT, b"x", mask=True) + frame(CLOSE, b"\x0f\xa0", mask=True))
            client.wait_closed()
    assert received == [(TEXT, b"x"), (4000, b"")]


def test_a_client_that_reads_nothing_and_is_lost_ends_the_backends_side(ws: str) -> None:
    with talking(ws=ws) as (front, talker):
        with RawClient(front.port, receive_buffer=4096) as client:
            client.send(handshake())
            assert client.read_head().status == 101
            client.send(frame(TEXT, b"flood 65536 400", mask=True))
            eventually(lambda: talker.sent > 10)
            client.reset()
        event = front.events.next()
        assert (event.status, event.error) == (101, None)
        assert front.pool.in_flight == 0


@pytest.mark.parametrize("ws", [name for name in IMPLEMENTATIONS if name not in SILENT])
def test_a_client_that_leaves_while_the_backend_does_not_listen(
    ws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it has left stands behind what it said, which the backend never takes."""

    def handler(connection: Connection) -> None:
        upgrade(connection)
        pause = threading.Event()
        while not connection.backend.stopping:
            connection.send(frame(TEXT, b"tick"))
            pause.wait(0.02)

    monkeypatch.setattr("sticky_asgi.forward_websocket.FAREWELL_TIME", 0.1)
    options = WebSocketOptions(ping_interval=None)
    with RawBackend(handler, receive_buffer=4096) as backend:
        with websockets_before([backend.url], ws=ws, websocket=options) as front:
            client = RawClient(front.port)
            client.send(handshake())
            assert client.read_head().status == 101
            client.socket.settimeout(0.5)
            with suppress(TimeoutError):
                while True:
                    client.send(frame(BINARY, bytes(65536), mask=True))
            client.reset()
            event = front.events.next()
            assert (event.status, event.close_code, event.error) == (101, 1006, None)
            assert front.pool.states[0].failures == 0
            assert backend.connection().done.wait(5), "its connection is closed"


# While it is open


def test_a_websocket_counts_for_as_long_as_it_is_open(ws: str) -> None:
    a, b = Talker("a"), Talker("b")
    with serve(a, ws=DEFAULT) as first, serve(b, ws=DEFAULT) as second:
        backends = [Backend(url, max_requests=1) for url in (first.url, second.url)]
        with websockets_before(backends, ws=ws, limits=Limits(queue=0)) as front:
            with connect(front.port) as one, connect(front.port) as two:
                assert {talk(one), talk(two)} == {"a", "b"}
                assert [state.in_flight for state in front.pool.states] == [1, 1]
                assert ask(front).status == 503
                two.close()
                eventually(lambda: front.pool.in_flight == 1)
                with connect(front.port) as three:
                    assert talk(three) != talk(one)
            eventually(lambda: front.pool.in_flight == 0)


def test_a_backend_that_raises_is_a_backend_that_failed(ws: str) -> None:
    with talking(ws=ws) as (front, _):
        with connect(front.port) as client:
            client.send("die")
            assert end_of(client) == (1011, "")
        event = front.events.next()
        assert (event.status, event.close_code) == (101, 1006)
        assert isinstance(event.error, ConnectionLost)
        assert event.error.stage == "body"
        assert front.pool.states[0].failures == 1
        assert front.server.errors == [], "the application is not to blame"


def test_a_backend_that_answers_no_ping_is_given_up(ws: str) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait_closed()

    options = WebSocketOptions(ping_interval=0.1, ping_timeout=0.1)
    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, websocket=options) as front:
            with connect(front.port) as client:
                assert end_of(client) == (1011, "")
            event = front.events.next()
            assert event.error is not None
            assert (event.close_code, event.error.side) == (1006, "backend")
            assert front.pool.states[0].failures == 1


def test_a_backend_that_agrees_to_no_close_is_dropped(ws: str) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait_closed()

    options = WebSocketOptions(close_timeout=0.2)
    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, websocket=options) as front:
            with connect(front.port) as client:
                client.close(1000, "bye")
            event = front.events.next()
            assert (event.close_code, event.error) == (1000, None)
            assert backend.connection().done.wait(5)


# The end of the server


def test_the_servers_shutdown_ends_both_sides(ws: str) -> None:
    talker = Talker()
    with serve(talker, ws=DEFAULT) as backend:
        with websockets_before([backend.url], ws=ws) as front:
            idle = RawClient(front.port)
            idle.send(handshake())
            idle.read_head()
            client = RawClient(front.port)
            client.send(handshake())
            client.read_head()
            eventually(lambda: front.pool.in_flight == 2)
        eventually(lambda: len(talker.ended) == 2)
        assert front.server.errors == []
        for peer in (idle, client):
            assert peer.wait_closed()
            peer.close()
    assert [code for code, _ in talker.ended] == [1012, 1012]


def test_the_servers_shutdown_ends_a_handshake(ws: str) -> None:
    with RawBackend(silent) as backend:
        with websockets_before(
            [backend.url], ws=ws, server={"timeout_graceful_shutdown": 1}
        ) as front:
            client = RawClient(front.port)
            client.send(handshake())
            backend.wait_request()
        assert backend.connection().done.wait(5)
        client.close()
        assert front.pool.in_flight == 0


def test_a_timeout_for_the_answer_is_none_for_what_follows(ws: str) -> None:
    with talking(ws=ws, timeouts=Timeouts(response=0.1, idle=0.1)) as (front, _):
        with connect(front.port) as client:
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.4)
            assert talk(client) == "talker"
