"""What a proxy for WebSockets gets right: rules 31 to 37, over real sockets and with each of
uvicorn's WebSocket implementations."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from websockets.exceptions import InvalidStatus

from sticky_asgi import Gateway, Pool, Route, SignedCookie, WebSocketOptions
from tests.servers import (
    Connection,
    HttpImplementation,
    RawBackend,
    RawClient,
    eventually,
    response,
    serve,
)
from tests.websocket_peers import (
    BINARY,
    CLOSE,
    DEFAULT,
    TEXT,
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

SECRET = "0123456789abcdef"


# 31: the backend is asked first


def test_rule_31_the_client_is_accepted_when_the_backend_has_accepted(ws: str) -> None:
    may_answer = threading.Event()

    def handler(connection: Connection) -> None:
        connection.wait(may_answer)
        upgrade(connection)
        until_closed(connection)

    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            backend.connection()
            client.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv()
            client.socket.settimeout(5)
            may_answer.set()
            assert client.read_head().status == 101


def test_rule_31_subprotocols_are_offered_whole_and_in_order(
    ws: str, http: HttpImplementation
) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection, [(b"Sec-WebSocket-Protocol", b"v1.x")])
        until_closed(connection)

    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, http=http) as front:
            with connect(front.port, subprotocols=["v2.x", "v1.x", "v0.x"]) as client:
                assert client.subprotocol == "v1.x"
    offered = backend.requests[0].get_all(b"sec-websocket-protocol")
    assert b",".join(offered).replace(b" ", b"") == b"v2.x,v1.x,v0.x"


def test_rule_31_nothing_is_offered_for_a_client_that_offers_nothing(ws: str) -> None:
    with talking(ws=ws) as (front, talker):
        with connect(front.port) as client:
            assert client.subprotocol is None
    assert b"sec-websocket-protocol" not in dict(talker.scopes[0]["headers"])


# 11 and 1 to 8: a handshake is a request


def test_rule_11_a_handshake_has_the_target_and_headers_of_a_request(
    ws: str, http: HttpImplementation
) -> None:
    """What a request would have, and nothing of the client's connection."""
    headers = [
        (b"X-Hop", b"1"),
        (b"Cookie", b"a=1; b=2"),
        (b"Origin", b"http://shop.example"),
        (b"X-Forwarded-For", b"6.6.6.6"),
        (b"Sticky-Session", b"kept"),
        (b"X-Twice", b"1"),
        (b"X-Twice", b"2"),
    ]

    def handler(connection: Connection) -> None:
        upgrade(connection)
        until_closed(connection)

    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, http=http) as front:
            with RawClient(front.port) as client:
                client.send(handshake(b"/a%2Fb/../c;d?x=%20&y", headers, also=b"X-Hop"))
                assert client.read_head().status == 101
    request = backend.requests[0]
    assert request.target == b"/a%2Fb/../c;d?x=%20&y"
    assert request.method == "GET"
    assert request.get(b"host") == b"test"
    assert request.get(b"cookie") == b"a=1; b=2"
    assert request.get(b"origin") == b"http://shop.example"
    assert request.get(b"x-forwarded-for") == b"127.0.0.1"
    assert request.get(b"x-forwarded-proto") == b"http"
    assert request.get_all(b"x-twice") == [b"1", b"2"]
    assert request.get(b"sticky-session") is None
    assert request.get(b"x-hop") is None
    assert request.get(b"connection") == b"Upgrade"
    assert request.get(b"upgrade") == b"websocket"


def test_a_prefix_is_stripped_from_a_handshake_too(ws: str) -> None:
    talker = Talker()
    with serve(talker, ws=DEFAULT) as backend:
        gateway = Gateway([Route(Pool("shop", [backend.url]), path="/shop", strip_prefix=True)])
        with serve(gateway, ws=ws) as server, connect(server.port, "/shop/x?y=1"):
            eventually(lambda: talker.scopes)
    assert (talker.scopes[0]["raw_path"], talker.scopes[0]["query_string"]) == (b"/x", b"y=1")
    assert (b"x-forwarded-prefix", b"/shop") in talker.scopes[0]["headers"]


# 32: what concerns one connection


def test_rule_32_the_handshake_fields_are_those_of_each_connection(
    ws: str, http: HttpImplementation
) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.send(frame(TEXT, b"hello"))
        until_closed(connection)

    offer = (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")
    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, http=http) as front:
            with RawClient(front.port) as client:
                client.send(handshake(headers=[offer]))
                answer = client.read_head()
    assert answer.status == 101
    # The RFC's example of an answer to this key.
    assert answer.get(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    request = backend.requests[0]
    key = request.get(b"sec-websocket-key")
    assert key is not None
    assert key != b"dGhlIHNhbXBsZSBub25jZQ=="
    assert request.get(b"sec-websocket-version") == b"13"
    assert request.get(b"sec-websocket-extensions") is None


@pytest.mark.parametrize("deflate", [True, False])
def test_rule_32_compression_is_between_the_client_and_the_server(ws: str, deflate: bool) -> None:
    options = {"ws_per_message_deflate": deflate}
    with talking(ws=ws, server=options) as (front, _), connect(front.port) as client:
        assert client.response is not None
        assert ("Sec-WebSocket-Extensions" in client.response.headers) == deflate
        message = "compress me, " * 10_000
        client.send(message)
        assert client.recv() == message


# 33: Set-Cookie


def test_rule_33_cookies_come_with_the_acceptance_and_bind_the_visitor(ws: str) -> None:
    own = [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2"), (b"x-own", b"1")]
    a, b = Talker("a", own), Talker("b", own)
    with serve(a, ws=DEFAULT) as first, serve(b, ws=DEFAULT) as second:
        urls = [first.url, second.url]
        with websockets_before(urls, ws=ws, affinity=SignedCookie(SECRET)) as front:
            with connect(front.port) as client:
                assert client.response is not None
                cookies = client.response.headers.get_all("Set-Cookie")
                assert client.response.headers["X-Own"] == "1"
                client.send("name")
                name = client.recv()
            assert cookies[:2] == ["a=1; Path=/", "b=2"]
            (affinity,) = cookies[2:]
            assert affinity.startswith("sticky_shop=")
            cookie = {"Cookie": "x=y; " + affinity.partition(";")[0]}
            for _ in range(3):
                with connect(front.port, additional_headers=cookie) as client:
                    client.send("name")
                    assert client.recv() == name
                    assert client.response is not None
                    assert client.response.headers.get_all("Set-Cookie") == cookies[:2]
    home = {"a": a, "b": b}[str(name)]
    assert dict(home.scopes[-1]["headers"])[b"cookie"] == b"x=y", "and the backend does not see it"


def test_rule_33_a_backend_may_say_the_date_to_a_server_that_does(ws: str) -> None:
    backend = Talker(headers=[(b"date", b"Wed, 21 Oct 2015 07:28:00 GMT")])
    with serve(backend, ws=DEFAULT) as server:
        urls, options = [server.url], {"date_header": True}
        with (
            websockets_before(urls, ws=ws, server=options) as front,
            connect(front.port) as client,
        ):
            assert client.response is not None
            assert len(client.response.headers.get_all("Date")) == 1
            client.send("hello")
            assert client.recv() == "hello"


# 34: a refusal


def test_rule_34_a_refusal_keeps_status_headers_and_body(ws: str) -> None:
    with talking(ws=ws, affinity=SignedCookie(SECRET)) as (front, _):
        with pytest.raises(InvalidStatus) as caught, connect(front.port, "/refuse"):
            pass
        answer = caught.value.response
        assert answer.status_code == 401
        assert answer.headers["Content-Type"] == "text/x-reason"
        assert answer.headers["WWW-Authenticate"] == "Some x=1"
        assert answer.headers["Set-Cookie"].startswith("sticky_shop="), "as on any answer"
        assert answer.headers.get_all("Content-Length") == ["12"]
        assert answer.body == b"who are you?"
        event = front.events.next()
        assert (event.status, event.close_code, event.error) == (401, None, None)


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        pytest.param(response(404, chunks=[b"no", b"thing"]), 404, b"nothing", id="chunked"),
        pytest.param(response(200, b"no WebSocket here"), 200, b"no WebSocket here", id="200"),
        pytest.param(response(503, b""), 503, b"", id="empty"),
        pytest.param(response(302, b"", [(b"Location", b"/login")]), 302, b"", id="redirect"),
        pytest.param(b"HTTP/1.1 403 No\r\n\r\nto the end", 403, b"to the end", id="to the end"),
        pytest.param(response(200, bytes(1_000_000)), 200, b"", id="too large"),
    ],
)
def test_rule_34_any_answer_but_101_is_a_refusal(
    ws: str, data: bytes, status: int, body: bytes
) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.send(data)

    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            answer = client.read_response()
    assert (answer.status, answer.body) == (status, body)
    assert answer.complete
    if status == 302:
        assert answer.get(b"location") == b"/login"


# 35: codes and reasons


ENDS = [
    (1000, ""),
    (1001, "tab closed"),
    (1012, ""),
    (3000, "gr\u00fc\u00df dich"),
    (4999, "x" * 123),
]


def test_rule_35_code_and_reason_travel_both_ways(ws: str) -> None:
    with talking(ws=ws) as (front, talker):
        for code, reason in ENDS:
            with connect(front.port) as client:
                client.send(f"close {code} {reason}")
                assert end_of(client) == (code, reason)
            assert front.events.next().close_code == code
            with connect(front.port) as client:
                client.close(code, reason)
            event = front.events.next()
            assert (event.status, event.close_code, event.error) == (101, code, None)
    assert talker.ended == ENDS


def test_rule_35_a_close_without_a_code(ws: str) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        if connection.index == 0:
            connection.send(frame(CLOSE))
        closes.append(until_closed(connection)[0])

    closes: list[int | None] = []
    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with connect(front.port) as client:
            assert end_of(client) == (1000, ""), "ASGI knows no close without a code"
        assert front.events.next().close_code == 1005
        with RawClient(front.port) as raw:
            raw.send(handshake())
            raw.read_head()
            raw.send(frame(CLOSE, mask=True))
            raw.wait_closed()
        assert front.events.next().close_code == 1005
    assert closes == [None, None]


def drops(connection: Connection) -> None:
    connection.close()


def resets(connection: Connection) -> None:
    connection.reset()


def breaks_the_protocol(connection: Connection) -> None:
    connection.send(b"\xff\xff\xff\xff")
    connection.wait_closed()


@pytest.mark.parametrize("end", [drops, resets, breaks_the_protocol])
def test_rule_35_1006_is_never_sent(ws: str, end: Callable[[Connection], None]) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        end(connection)

    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with connect(front.port) as client:
            assert end_of(client) == (1011, "")
        event = front.events.next()
        assert (event.status, event.close_code) == (101, 1006)
        assert event.error is not None
        assert event.error.side == "backend"
        assert front.pool.states[0].failures == 1


# 36: messages


MESSAGES: list[str | bytes] = [
    "",
    b"",
    "gr\u00fc\u00df dich \U0001f600",
    bytes(range(256)),
    "x" * 300_000,
    bytes(300_000),
]


def test_rule_36_a_message_is_text_or_bytes_and_may_be_empty(ws: str) -> None:
    with talking(ws=ws) as (front, _), connect(front.port) as client:
        for message in MESSAGES:
            client.send(message)
        for message in MESSAGES:
            assert client.recv() == message


def test_rule_36_fragments_are_joined(ws: str) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        received.append(read_frame(connection))
        connection.send(frame(BINARY, b"ab", fin=False) + frame(0, fin=False) + frame(0, b"c"))
        until_closed(connection)

    received: list[tuple[int, bytes]] = []
    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with connect(front.port) as client:
            client.send(["a", "b", "", "c"])
            assert client.recv() == b"abc"
    assert received == [(TEXT, b"abc")]


LIMIT = 1000


@pytest.mark.parametrize("servers_own", [LIMIT, 16 * LIMIT], ids=["server's", "gateway's"])
@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_rule_36_a_client_that_sends_too_much_is_told(ws: str, servers_own: int, kind: str) -> None:
    """By the server, or by the gateway if the server lets more through."""
    letter: str | bytes = "\u00e4" if kind == "text" else b"ab"
    fits, too_much = letter * (LIMIT // 2), letter * (LIMIT // 2 + 1)
    options = WebSocketOptions(max_message=LIMIT)
    with talking(ws=ws, websocket=options, server={"ws_max_size": servers_own}) as (front, talker):
        with connect(front.port) as client:
            client.send(fits)
            assert client.recv() == fits
            client.send(too_much)
            assert end_of(client)[0] == 1009
        eventually(lambda: talker.ended)
        event = front.events.next()
        if (ws, servers_own) == ("websockets", LIMIT):
            # It tells the client, and its application only that the client is lost.
            assert event.close_code == 1006
        else:
            assert (event.close_code, talker.ended[0][0]) == (1009, 1009)
        assert event.error is None
        assert front.pool.states[0].failures == 0


def test_rule_36_a_backend_that_sends_too_much_is_told(ws: str) -> None:
    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.send(frame(BINARY, bytes(LIMIT)) + frame(BINARY, bytes(LIMIT + 1)))
        codes.append(until_closed(connection)[0])

    codes: list[int | None] = []
    options = WebSocketOptions(max_message=LIMIT)
    with RawBackend(handler) as backend:
        with websockets_before([backend.url], ws=ws, websocket=options) as front:
            with connect(front.port) as client:
                assert client.recv() == bytes(LIMIT)
                assert end_of(client)[0] == 1011
            assert front.events.next().close_code == 1006
    assert codes == [1009]


# 37: one side's end, and its pace


def test_rule_37_what_a_backend_sent_before_its_end_arrives(ws: str) -> None:
    """Also while the client goes on sending to a backend that takes nothing any more."""

    def handler(connection: Connection) -> None:
        upgrade(connection)
        data = b"".join(frame(TEXT, b"%d" % n) for n in range(100))
        connection.send(data + frame(CLOSE, struct.pack("!H", 4000) + b"done"))
        connection.wait_closed()

    with RawBackend(handler) as backend, websockets_before([backend.url], ws=ws) as front:
        with RawClient(front.port) as client:
            client.send(handshake())
            client.read_head()
            client.send(frame(TEXT, b"whatever", mask=True))
            for n in range(100):
                assert read_frame(client) == (TEXT, b"%d" % n)
            assert read_frame(client) == (CLOSE, struct.pack("!H", 4000) + b"done")
            with suppress(OSError):  # The server may have closed the connection already.
                client.send(frame(CLOSE, mask=True))


def test_rule_37_a_slow_client_slows_the_backend(ws: str) -> None:
    with talking(ws=ws) as (front, talker):
        with RawClient(front.port, receive_buffer=4096) as client:
            client.send(handshake())
            client.read_head()
            client.send(frame(TEXT, b"flood 65536 400", mask=True))
            level = settled(lambda: talker.sent)
            assert 0 < level < 300, "some megabytes are in the sockets' buffers"
            for _ in range(400):
                assert len(client_read(client)) == 65536
        eventually(lambda: talker.ended)


def test_rule_37_a_slow_backend_slows_the_client(ws: str) -> None:
    may_read = threading.Event()
    received: list[int] = []

    def handler(connection: Connection) -> None:
        upgrade(connection)
        connection.wait(may_read)
        received.extend(len(read_frame(connection)[1]) for _ in range(400))
        until_closed(connection)

    sent: list[int] = []
    with RawBackend(handler, receive_buffer=4096) as backend:
        with websockets_before([backend.url], ws=ws) as front:
            with connect(front.port, compression=None) as client:

                def pour() -> None:
                    for _ in range(400):
                        client.send(bytes(65536))
                        sent.append(1)

                thread = threading.Thread(target=pour)
                thread.start()
                level = settled(lambda: len(sent))
                assert 0 < level < 300
                may_read.set()
                thread.join(20)
                assert not thread.is_alive()
    assert received == [65536] * 400


def settled(count: Callable[[], int]) -> int:
    """What a count has come to when it has not changed for a while."""
    seen = [-1]

    def has_settled() -> bool:
        seen.append(count())
        return seen[-1] > 0 and len(seen) > 60 and len(set(seen[-60:])) == 1

    eventually(has_settled, 10)
    return seen[-1]


def client_read(client: RawClient) -> bytes:
    """The data of the next frame that is neither a ping nor a pong."""
    while True:
        opcode, data = read_frame(client)
        if opcode == BINARY:
            return data
