"""What goes wrong, and what the client, the next backend and the blamed one get to know of it.

Every row of the table in the design's chapter on failure, and the rules for repeating a request.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient
from starlette.types import Scope

from sticky_asgi import (
    TLS,
    AffinityStatus,
    Backend,
    Gateway,
    GatewayError,
    Intent,
    Limits,
    Pool,
    Retry,
    SignedCookie,
    Timeouts,
)
from tests.conftest import Authority
from tests.gateways import Lane, transport_of
from tests.servers import (
    LAST_CHUNK,
    Connection,
    Handler,
    HttpImplementation,
    ProcessBackend,
    RawBackend,
    RawClient,
    RawResponse,
    chunk,
    encode_request,
    eventually,
    refusing_port,
    responding,
    response,
    unanswered_port,
)
from tests.watching import SECRET, First, Watched, kept_servers, watched

OK = responding(response(200, b"fine"))
#: What may be repeated although the backend may have seen it (RFC 9110 §9.2.2).
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
LARGE = bytes(range(256)) * 1200  # about 300 kB: more than is read ahead


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


@contextlib.contextmanager
def failing(
    *handlers: Handler | str,
    http: HttpImplementation = "h11",
    lane: Lane = "http1",
    affinity: bool = False,
    **options: Any,
) -> Iterator[tuple[Watched, list[RawBackend]]]:
    """A gateway before backends that are asked in their order: handlers, or URLs as they are.

    Args:
        handlers: What the backends do, or the URL of one that is somebody else's.
        http: uvicorn's HTTP implementation.
        lane: How the gateway reaches them.
        affinity: Whether visitors get a cookie, named `shop`.
        options: More options of the `Pool`.
    """
    with contextlib.ExitStack() as stack:
        backends = []
        urls = []
        for handler in handlers:
            if isinstance(handler, str):
                urls.append(handler)
            else:
                backends.append(stack.enter_context(RawBackend(handler)))
                urls.append(backends[-1].url)
        pool = Pool(
            "shop",
            urls,
            balancer=First(),
            affinity=SignedCookie(SECRET, name="shop") if affinity else None,
            transport=transport_of(lane),
            **options,
        )
        yield stack.enter_context(watched(pool, http)), backends


@contextlib.contextmanager
def refusing(count: int) -> Iterator[list[str]]:
    """URLs where nobody listens."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(refusing_port()) for _ in range(count)]
        yield [f"http://127.0.0.1:{port}" for port in ports]


def assert_error(answer: RawResponse, status: int) -> None:
    """Assert that a response is one of the gateway's own: short, and it tells nothing."""
    assert answer.status == status
    assert answer.complete
    assert answer.get(b"content-type") == b"text/plain; charset=utf-8"
    assert answer.body.startswith(b"%d " % status)
    assert len(answer.body) < 50
    for secret in (b"127.0.0.1", b"Error:", b"Errno", b"backend", b"Traceback"):
        assert secret not in answer.body
    assert answer.get_all(b"set-cookie") == []
    assert (answer.get(b"retry-after") is not None) == (status == 503)


def answers_with(data: bytes) -> Handler:
    """A handler that reads a request, sends these bytes and closes."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)

    return handler


def closes(connection: Connection) -> None:
    """Read a request and close without a word."""
    connection.read_request()


def resets(connection: Connection) -> None:
    """Read a request and reset."""
    connection.read_request()
    connection.reset()


def stalls(connection: Connection) -> None:
    """Read a request, and never answer it."""
    connection.read_request()
    connection.wait_closed()


# No backend, and none that can be reached


@pytest.mark.parametrize(
    "intent", [pytest.param(None, id="empty pool"), pytest.param(Intent.DOWN, id="down")]
)
def test_no_backend_is_503_with_retry_after(
    http: HttpImplementation, lane: Lane, intent: Intent | None
) -> None:
    with failing(*([] if intent is None else [OK]), http=http, lane=lane) as (front, backends):
        if intent is not None:
            front.do(front.pool.set_intent, backends[0].id, intent)
        answer = front.request()
        assert_error(answer, 503)
        assert int(answer.get(b"retry-after") or b"") > 0
        assert all(not backend.connections for backend in backends)
        event = front.event()
    assert (event.attempts, event.backend, event.status) == (0, None, 503)
    assert event.error is not None
    assert event.error.side == "gateway"


@pytest.mark.parametrize(
    ("method", "body"),
    [
        pytest.param("GET", None, id="GET"),
        pytest.param("POST", b"abc", id="POST"),
        pytest.param("POST", LARGE, id="POST over the replay limit"),
        pytest.param("POST", [LARGE, b"end"], id="chunked POST over the replay limit"),
    ],
)
def test_a_refused_connection_is_tried_elsewhere_whatever_the_method(
    http: HttpImplementation, lane: Lane, method: str, body: bytes | list[bytes] | None
) -> None:
    """Nothing of the request was written, so nothing of it can have been read for good."""
    whole = b"".join(body) if isinstance(body, list) else body or b""
    with (
        refusing(1) as urls,
        failing(*urls, OK, http=http, lane=lane, affinity=True, retry=Retry(replay_limit=1000)) as (
            front,
            [backend],
        ),
    ):
        answer = front.request(method, body=body)
        assert answer.status == 200
        assert answer.body == b"fine"
        assert [request.body for request in backend.requests] == [whole]
        assert len(answer.get_all(b"set-cookie")) == 1
        event = front.event()
    assert (event.attempts, event.backend, event.error) == (2, backend.id, None)


def test_all_refused_is_503_when_nobody_is_left(http: HttpImplementation, lane: Lane) -> None:
    with refusing(2) as urls, failing(*urls, http=http, lane=lane, affinity=True) as (front, _):
        assert_error(front.request(), 503)
        assert front.event().attempts == 3, "one of them was asked again"


def test_nobody_is_asked_twice_without_backoff() -> None:
    with refusing(2) as urls, failing(*urls, retry=Retry(backoff=None)) as (front, _):
        assert_error(front.request(), 503)
        assert front.event().attempts == 2


def test_a_backend_that_is_back_in_a_moment_gets_the_request_once_more() -> None:
    """The only backend is restarted while a visitor of its own asks for something."""
    backend = RawBackend(OK).start()
    retry = Retry(attempts=100, backoff=0.01)
    with failing(backend.url, affinity=True, retry=retry) as (front, _):
        cookie = front.request().get(b"set-cookie")
        backend.stop()
        assert cookie is not None
        with RawClient(front.port) as client:
            headers = [(b"cookie", cookie.partition(b";")[0])]
            client.send(encode_request("POST", b"/", headers, b"order"))
            eventually(lambda: front.pool.states[0].failures > 0)
            with RawBackend(OK, port=backend.port) as again:
                answer = client.read_response()
        assert (answer.body, [request.body for request in again.requests]) == (b"fine", [b"order"])
        event = front.event(of=2)
    assert (event.status, event.affinity) == (200, AffinityStatus.KEPT)
    assert event.attempts > 1


def test_a_try_that_can_be_repeated_has_less_time(lane: Lane) -> None:
    with failing(stalls, OK, lane=lane, retry=Retry(attempt_timeout=0.05)) as (front, _):
        assert front.request().body == b"fine"
        event = front.event()
        assert (event.attempts, event.error) == (2, None)
        assert front.pool.states[0].failures == 1


def test_a_try_that_cannot_be_repeated_has_all_the_time() -> None:
    gate = threading.Event()

    def late(connection: Connection) -> None:
        connection.read_request()
        connection.wait(gate)
        connection.send(response(200, b"late"))

    with failing(late, OK, retry=Retry(attempt_timeout=0.05)) as (front, backends):
        with RawClient(front.port) as client:
            client.send(encode_request("POST", body=b"order"))
            backends[0].wait_request()
            assert front.request().body == b"fine", "which comes after that time"
            gate.set()
            assert client.read_response().body == b"late"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_timeout_of_somebody_elses_is_what_it_is(method: str) -> None:
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise TimeoutError("the transport's own")

    pool = Pool("shop", ["http://a"], transport=Broken(), retry=Retry(attempt_timeout=60))
    with TestClient(Gateway({"/": pool})) as client:
        with pytest.raises(TimeoutError, match="the transport's own"):
            client.request(method, "/")
    assert pool["a:80"].failures == 0


def test_no_backend_is_blamed_for_a_client_that_sends_slowly() -> None:
    retry = Retry(attempt_timeout=0.05)
    with failing(OK, OK, retry=retry) as (front, backends), RawClient(front.port) as client:
        client.send(encode_request("PUT", headers=[(b"content-length", b"2")], body=b"") + b"a")
        backends[0].wait_request()
        # Another request's try is over, so this one's would be.
        backends[0].handler = stalls
        assert front.request().body == b"fine"
        client.send(b"b")
        assert client.read_response().body == b"fine"
        assert front.event(of=2).attempts == 1


def test_only_who_has_refused_is_asked_again() -> None:
    with refusing(1) as urls, failing(closes, *urls) as (front, [backend]):
        assert front.request().status in (502, 503)
        assert front.event().attempts == 3
        assert len(backend.requests) == 1, "who has failed over it may do so again"


def test_an_answer_that_comes_too_late_for_a_repeat_is_passed_on() -> None:
    busy = responding(response(503, b"busy"))
    retry = Retry(on_status={503}, total_timeout=0.000001)
    with failing(busy, OK, retry=retry) as (front, _):
        answer = front.request()
        assert (answer.status, answer.body) == (503, b"busy")


def test_a_body_may_take_longer_than_a_try() -> None:
    gate = threading.Event()

    def slow(connection: Connection) -> None:
        if connection.read_request().target == b"/stall":
            stalls(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        connection.wait(gate)
        connection.send(b"cd")

    with failing(slow, OK, retry=Retry(attempt_timeout=0.05)) as (front, _):
        with RawClient(front.port) as client:
            client.send(encode_request())
            answer = client.read_head()
            assert front.request(target=b"/stall").body == b"fine", "which comes after that time"
            gate.set()
            assert client.read_body(answer).body == b"abcd"


def test_nothing_is_repeated_after_the_total_time() -> None:
    retry = Retry(attempt_timeout=0.05, total_timeout=0.01)
    with failing(stalls, OK, retry=retry) as (front, _):
        assert_error(front.request(), 504)
        assert front.event().attempts == 1


def test_nobody_pauses_for_longer_than_the_total_time() -> None:
    retry = Retry(backoff=100_000, total_timeout=0.05)
    with refusing(1) as urls, failing(*urls, retry=retry) as (front, _):
        assert_error(front.request(), 502)
        assert front.event().attempts == 1


def test_all_refused_is_502_when_the_attempts_are_used_up(
    http: HttpImplementation, lane: Lane
) -> None:
    with refusing(4) as urls, failing(*urls, http=http, lane=lane, affinity=True) as (front, _):
        assert_error(front.request(), 502)
        event = front.event()
    assert event.attempts == 3
    assert event.error is not None
    assert event.error.side == "backend"


def closes_in_the_handshake(connection: Connection) -> None:
    connection.recv()


def answers_plainly(connection: Connection) -> None:
    connection.recv()
    connection.send(response(200, b"not TLS"))


@pytest.mark.parametrize("is_alone", [False, True], ids=["with another", "alone"])
@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(None, id="untrusted"),
        pytest.param(closes_in_the_handshake, id="closed in the handshake"),
        pytest.param(answers_plainly, id="not TLS"),
    ],
)
def test_a_tls_failure_is_a_failure_to_connect(
    lane: Lane, authority: Authority, handler: Handler | None, is_alone: bool
) -> None:
    context = authority.server_context() if handler is None else None
    with RawBackend(handler or OK, ssl_context=context) as broken:
        url = f"https://127.0.0.1:{broken.port}"
        others: list[Handler] = [] if is_alone else [OK]
        with failing(url, *others, lane=lane) as (front, _):
            answer = front.request("POST", body=b"abc")
            if is_alone:
                assert_error(answer, 503)
            else:
                assert answer.status == 200
    assert broken.requests == []


def test_tls_works_when_the_authority_is_trusted(authority: Authority) -> None:
    """The test above would prove nothing if no TLS backend could be reached."""
    with RawBackend(OK, ssl_context=authority.server_context()) as backend:
        pool = Pool("shop", [backend.url], tls=TLS(ca_file=authority.ca_file))
        with watched(pool) as front:
            assert front.request().status == 200


# Connections that turn out to be stale


def closing_at_reuse(how: Callable[[Connection], object]) -> Handler:
    """Answers the first request of a connection; at the second one, it is closed unanswered."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(response(200, b"%d" % connection.index))
        connection.read_head()
        how(connection)

    return handler


CLOSINGS = [
    pytest.param(lambda connection: connection.close(), id="closed"),
    pytest.param(lambda connection: connection.reset(), id="reset"),
]


@pytest.mark.parametrize("how", CLOSINGS)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_stale_connection_is_replaced_for_an_idempotent_request(
    http: HttpImplementation, method: str, how: Callable[[Connection], object]
) -> None:
    """Not a retry: none are allowed here, and the event tells of a single attempt."""
    with failing(closing_at_reuse(how), http=http, retry=Retry(attempts=0)) as (front, [backend]):
        assert front.request().body == b"0"
        assert front.request(method).body == b"1"
        assert len(backend.connections) == 2
        assert [request.method for request in backend.requests] == ["GET", method, method]
        assert front.event(of=2).attempts == 1


@pytest.mark.parametrize("how", CLOSINGS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="no body"),
        pytest.param(b"abc", id="body"),
        pytest.param([b"a"], id="chunked"),
    ],
)
def test_a_post_on_a_stale_connection_is_not_sent_twice(
    http: HttpImplementation, how: Callable[[Connection], object], body: bytes | list[bytes] | None
) -> None:
    with failing(closing_at_reuse(how), OK, http=http, affinity=True) as (front, backends):
        assert front.request().status == 200
        assert_error(front.request("POST", body=body), 502)
        sent = [request.method for backend in backends for request in backend.requests]
        assert sent == ["GET", "POST"]
        error = front.event(of=2).error
    assert error is not None
    assert error.side == "gateway", "the race is nobody's fault"


def test_a_stale_connection_whose_replacement_fails_is_an_ordinary_failure() -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        if connection.index == 0:
            connection.send(response(200, b"first"))
            connection.read_request()

    with failing(handler, OK) as (front, [first, second]):
        assert front.request().body == b"first"
        assert front.request().body == b"fine"
        assert (len(first.requests), len(second.requests)) == (3, 1)
        assert front.event(of=2).attempts == 2


def test_an_idle_connection_that_was_closed_is_not_used(
    http: HttpImplementation, lane: Lane
) -> None:
    """Then a POST, too, goes through: nothing of it was written to the old connection."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(response(200, b"%d" % connection.index))

    with failing(handler, http=http, lane=lane) as (front, [backend]):
        assert front.request().body == b"0"
        assert backend.connection(0).done.wait(10)
        front.settle()
        assert front.request("POST", body=b"abc").body == b"1"


# Answers that are none

MALFORMED = [
    pytest.param(b"HELLO WORLD\r\n\r\n", id="no status line"),
    pytest.param(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n", id="no status"),
    pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="no header"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="bad length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"
    ),
    pytest.param(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", id="a null byte"),
    pytest.param(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
        id="101",
    ),
    pytest.param(b"", id="nothing"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_a_malformed_response_is_502(http: HttpImplementation, lane: Lane, data: bytes) -> None:
    with failing(answers_with(data), OK, http=http, lane=lane, affinity=True) as (
        front,
        [bad, good],
    ):
        assert_error(front.request("POST", body=b"abc"), 502)
        assert (len(bad.requests), len(good.requests)) == (1, 0)
        error = front.event().error
        assert error is not None
        assert error.side == "backend"
        assert front.request("GET").body == b"fine"
        assert front.event(of=2).attempts == 2


# Timeouts


def test_a_connect_timeout_is_504(http: HttpImplementation, lane: Lane) -> None:
    with (
        unanswered_port() as port,
        failing(
            f"http://127.0.0.1:{port}", http=http, lane=lane, timeouts=Timeouts(connect=0.2)
        ) as (front, _),
    ):
        assert_error(front.request("POST", body=b"abc"), 504)
        error = front.event().error
        assert error is not None
        assert (error.side, error.stage) == ("backend", "connect")


def test_a_connect_timeout_is_tried_elsewhere(lane: Lane) -> None:
    with (
        unanswered_port() as port,
        failing(f"http://127.0.0.1:{port}", OK, lane=lane, timeouts=Timeouts(connect=0.2)) as (
            front,
            [backend],
        ),
    ):
        assert front.request("POST", body=b"abc").status == 200
        assert backend.requests[0].body == b"abc"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_response_timeout_is_504(http: HttpImplementation, lane: Lane, method: str) -> None:
    with failing(stalls, http=http, lane=lane, timeouts=Timeouts(response=0.2)) as (
        front,
        [backend],
    ):
        assert_error(front.request(method), 504)
        assert backend.connection().done.wait(10)
        assert len(backend.requests) == 1
        error = front.event().error
    assert error is not None
    assert (error.side, error.stage) == ("backend", "head")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 10\r\n\r\nabc", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc"), id="chunked"),
        pytest.param(b"\r\nabc", id="until closed"),
    ],
)
def test_an_idle_timeout_cuts_the_response_off(
    http: HttpImplementation, lane: Lane, head: bytes
) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n" + head)
        connection.wait_closed()

    with failing(handler, OK, http=http, lane=lane, timeouts=Timeouts(idle=0.2)) as (
        front,
        [_, other],
    ):
        answer = front.request()
        assert (answer.status, answer.body, answer.complete) == (200, b"abc", False)
        error = front.event().error
        assert other.requests == []
    assert error is not None
    assert (error.side, error.stage, error.status_code) == ("backend", "body", 504)


# Backends that die while they answer

CUT_OFF = [
    pytest.param(b"Content-Length: 10\r\n\r\nabc", id="length"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc"), id="between chunks"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc", id="in a chunk"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + b"0\r\n", id="at the end"),
    pytest.param(
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + b"xyz\r\n", id="bad chunk size"
    ),
]


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("head", CUT_OFF)
def test_a_backend_that_dies_in_the_body_is_never_a_clean_end(
    http: HttpImplementation, lane: Lane, head: bytes, is_reset: bool
) -> None:
    passed_on = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n" + head)
        connection.wait(passed_on)
        if is_reset:
            connection.reset()

    with (
        failing(handler, OK, http=http, lane=lane) as (front, [_, other]),
        RawClient(front.port) as client,
    ):
        client.send(encode_request())
        answer = client.read_head()
        while b"xyz" not in head and answer.body != b"abc" and client.read_piece(answer):
            pass
        passed_on.set()
        client.read_body(answer)
        assert (answer.status, answer.complete) == (200, False)
        assert b"abc".startswith(answer.body)
        assert not answer.raw.endswith(LAST_CHUNK)
        error = front.event().error
        assert error is not None
        assert (error.side, error.stage) == ("backend", "body")
        assert other.requests == [], "the first byte had gone to the client"


def test_a_body_that_ends_with_its_connection_is_complete(
    http: HttpImplementation, lane: Lane
) -> None:
    handler = answers_with(b"HTTP/1.1 200 OK\r\n\r\nabc")
    with failing(handler, http=http, lane=lane) as (front, _):
        answer = front.request()
        assert (answer.body, answer.complete) == (b"abc", True)
        assert front.event().error is None


def test_a_reset_does_not_end_such_a_body(http: HttpImplementation, lane: Lane) -> None:
    passed_on = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        connection.wait(passed_on)
        connection.reset()

    with (
        failing(handler, http=http, lane=lane) as (front, _),
        RawClient(front.port) as client,
    ):
        client.send(encode_request())
        answer = client.read_head()
        client.read_piece(answer)
        passed_on.set()
        assert not client.read_body(answer).complete


# Clients that leave


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("method", "body"),
    [
        pytest.param("GET", None, id="GET"),
        pytest.param("POST", b"abc", id="POST"),
        pytest.param("POST", LARGE[:200_000], id="large POST"),
    ],
)
def test_a_client_that_leaves_before_the_head(
    http: HttpImplementation, lane: Lane, method: str, body: bytes | None, is_reset: bool
) -> None:
    with failing(stalls, OK, http=http, lane=lane) as (front, [backend, other]):
        client = RawClient(front.port)
        client.send(encode_request(method, body=body))
        eventually(lambda: backend.requests and (not body or backend.requests[0].complete))
        client.reset() if is_reset else client.close()
        assert backend.connection().done.wait(10), "closed at once"
        event = front.event()
        assert other.requests == []
    assert (event.status, event.attempts) == (499, 1)
    assert event.error is not None
    assert event.error.side == "client", "the backend is not to blame"


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_leaves_after_the_head(
    http: HttpImplementation, lane: Lane, is_reset: bool
) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        connection.wait_closed()

    with failing(handler, http=http, lane=lane) as (front, [backend]):
        client = RawClient(front.port)
        client.send(encode_request())
        assert client.read_piece(client.read_head()) == b"abc"
        client.reset() if is_reset else client.close()
        assert backend.connection().done.wait(10)
        event = front.event()
        assert front.server.errors == []
    assert event.status == 200
    assert event.error is not None
    assert event.error.side == "client"


@pytest.mark.parametrize(
    ("head", "part"),
    [
        pytest.param((b"Content-Length", b"100"), b"abc", id="length"),
        pytest.param((b"Transfer-Encoding", b"chunked"), chunk(b"abc"), id="chunked"),
    ],
)
def test_a_client_that_leaves_in_its_own_request(
    http: HttpImplementation, lane: Lane, head: tuple[bytes, bytes], part: bytes
) -> None:
    seen = threading.Event()

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        seen.set()
        connection.read_body(request)

    with failing(handler, OK, http=http, lane=lane) as (front, [backend, other]):
        client = RawClient(front.port)
        client.send(encode_request("PUT", headers=[head]) + part)
        assert seen.wait(10)
        client.close()
        assert backend.connection().done.wait(10)
        assert not backend.requests[0].complete, "the backend must not take it for whole"
        event = front.event()
        assert other.requests == []
    assert event.error is not None
    assert event.error.side == "client"


# Requests that are refused


def test_a_declared_body_over_the_limit_is_413(http: HttpImplementation, lane: Lane) -> None:
    with failing(OK, http=http, lane=lane, affinity=True, limits=Limits(max_body=10)) as (
        front,
        [backend],
    ):
        assert_error(front.request("POST", body=b"x" * 11), 413)
        assert backend.connections == []
        assert front.request("POST", body=b"x" * 10).status == 200


def test_a_chunked_body_over_the_limit_is_413(http: HttpImplementation, lane: Lane) -> None:
    def handler(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(response(200, b"fine"))

    with failing(handler, http=http, lane=lane, affinity=True, limits=Limits(max_body=10)) as (
        front,
        [backend],
    ):
        with RawClient(front.port) as client:
            client.send(encode_request("PUT", headers=[(b"Transfer-Encoding", b"chunked")]))
            client.send(chunk(b"x" * 6))
            backend.wait_request()
            client.send(chunk(b"x" * 5))
            assert_error(client.read_response(), 413)
            client.wait_closed()
        assert backend.connection().done.wait(10)
        assert not backend.requests[0].complete
        assert len(backend.requests) == 1, "the client's fault is not tried again"
        error = front.event().error
        assert error is not None
        assert error.side == "client"
        assert front.request("POST", body=[b"x" * 6, b"x" * 4]).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", id="both"),
        pytest.param(b"Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", id="two lengths"),
        pytest.param(b"Host: a\r\nHost: b\r\nContent-Length: 5\r\n", id="two hosts"),
        pytest.param(b"Content-Length: 5\r\n", id="no host"),
        pytest.param(b"Host: a\r\nTransfer-Encoding: gzip\r\n", id="unknown coding"),
    ],
)
def test_malformed_framing_is_400(http: HttpImplementation, headers: bytes) -> None:
    with failing(OK, http=http) as (front, [backend]), RawClient(front.port) as client:
        client.send(b"POST / HTTP/1.1\r\n" + headers + b"\r\n0\r\n\r\n")
        assert client.read_response().status == 400
        client.wait_closed()
        assert backend.connections == []


def test_a_malformed_chunk_ends_the_upstream_request(http: HttpImplementation, lane: Lane) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()

    with (
        failing(handler, OK, http=http, lane=lane) as (front, [backend, other]),
        RawClient(front.port) as client,
    ):
        client.send(encode_request("PUT", headers=[(b"Transfer-Encoding", b"chunked")]))
        client.send(chunk(b"abc"))
        backend.wait_request()
        client.send(b"xyz\r\n")
        assert client.read_response().status in (0, 400)
        assert backend.connection().done.wait(10)
        assert not backend.requests[0].complete
        assert other.requests == []
        error = front.event().error
    assert error is not None
    assert error.side == "client"


def test_an_error_response_of_ones_own(http: HttpImplementation, lane: Lane) -> None:
    seen: list[tuple[GatewayError, str]] = []

    def tell(error: GatewayError, scope: Scope) -> Response:
        seen.append((error, scope["path"]))
        return JSONResponse({"code": error.status_code}, error.status_code, {"X-Mine": "yes"})

    pool = Pool(
        "shop", [], affinity=SignedCookie(SECRET, name="shop"), transport=transport_of(lane)
    )
    with watched(pool, http, error_response=tell) as front:
        answer = front.request("GET", b"/where?x")
        assert (answer.status, answer.json()) == (503, {"code": 503})
        assert answer.get(b"x-mine") == b"yes"
        assert answer.get(b"retry-after") is not None
        assert answer.get_all(b"set-cookie") == []
    assert [(error.status_code, path) for error, path in seen] == [(503, "/where")]


# Repeating


@pytest.mark.parametrize("method", ["POST", "PATCH", "get"])
@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(closes, id="closed"),
        pytest.param(resets, id="reset"),
        pytest.param(answers_with(b"garbage\r\n\r\n"), id="malformed"),
        pytest.param(stalls, id="timeout"),
    ],
)
def test_what_may_have_been_received_is_not_sent_twice(
    lane: Lane, handler: Handler, method: str
) -> None:
    """Methods are case-sensitive: `get` is one nobody knows, so it may be anything."""
    with failing(handler, OK, lane=lane, timeouts=Timeouts(response=0.3)) as (
        front,
        [bad, good],
    ):
        assert_error(front.request(method, body=b"abc"), 504 if handler is stalls else 502)
        assert (len(bad.requests), len(good.requests)) == (1, 0)
        assert bad.requests[0].method == method


def closes_after_the_head(connection: Connection) -> None:
    connection.read_head()


def test_a_post_whose_head_alone_was_read_is_not_sent_twice(
    http: HttpImplementation, lane: Lane
) -> None:
    with failing(closes_after_the_head, OK, http=http, lane=lane) as (front, [bad, good]):
        assert_error(front.request("POST", body=LARGE), 502)
        assert (len(bad.requests), len(good.requests)) == (1, 0)


@pytest.mark.parametrize("handler", [closes, resets])
@pytest.mark.parametrize("method", IDEMPOTENT)
def test_an_idempotent_request_is_repeated(lane: Lane, method: str, handler: Handler) -> None:
    body = b"abc" if method == "PUT" else None
    answer = response(200, b"" if method == "HEAD" else b"fine")
    with failing(handler, responding(answer), lane=lane, affinity=True) as (front, backends):
        assert front.request(method, body=body).status == 200
        sent = [request for backend in backends for request in backend.requests]
        assert [request.method for request in sent] == [method, method]
        assert [request.body for request in sent] == [body or b""] * 2
        assert len({backend.id for backend in backends if backend.requests}) == 2


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("replay_limit", "status"),
    [pytest.param(1000, 502, id="over"), pytest.param(1 << 20, 200, id="under")],
)
def test_a_body_that_was_let_go_is_not_repeated(
    http: HttpImplementation, lane: Lane, is_chunked: bool, replay_limit: int, status: int
) -> None:
    def handler(connection: Connection) -> None:
        connection.read_head()
        got = 0
        while got < 100_000:
            got += len(connection.recv())

    body: bytes | list[bytes] = [LARGE, b"end"] if is_chunked else LARGE
    with failing(handler, OK, http=http, lane=lane, retry=Retry(replay_limit=replay_limit)) as (
        front,
        [bad, good],
    ):
        assert front.request("PUT", body=body).status == status
        assert len(bad.requests) == 1
        whole = LARGE + b"end" if is_chunked else LARGE
        assert [request.body for request in good.requests] == [whole] * (status == 200)


def test_attempts_are_repeats_and_each_asks_another_backend(lane: Lane) -> None:
    with failing(closes, closes, closes, closes, OK, lane=lane, affinity=True) as (
        front,
        backends,
    ):
        assert_error(front.request(), 502)
        assert [len(backend.requests) for backend in backends] == [1, 1, 1, 0, 0]
        assert front.event().attempts == 3


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_as_many_attempts_as_allowed(attempts: int) -> None:
    with failing(*[closes] * 5, retry=Retry(attempts=attempts)) as (front, backends):
        assert front.request().status == 502
        assert sum(len(backend.requests) for backend in backends) == attempts + 1


def test_a_pool_without_retry_repeats_nothing() -> None:
    with refusing(1) as urls, RawBackend(OK) as backend:
        pool = Pool("shop", [*urls, backend.url], balancer=First(), retry=None)
        with watched(pool) as front:
            assert front.request().status == 502
            assert backend.requests == []


@contextlib.contextmanager
def _slow_and_dead(
    **options: Any,
) -> Iterator[tuple[Watched, RawBackend, threading.Event]]:
    """A first backend that closes every connection, and a second that answers on a sign."""
    release = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.wait(release)
        connection.send(response(200, b"fine", [(b"Connection", b"close")]))

    with failing(closes, handler, ejection=None, **options) as (front, [_, second]):
        try:
            yield front, second, release
        finally:
            release.set()


def test_the_budget_bounds_repeats(http: HttpImplementation, lane: Lane) -> None:
    """Three repeats may be under way whatever the share says; the others wait for their turn."""
    with (
        _slow_and_dead(http=http, lane=lane) as (front, second, release),
        ThreadPoolExecutor(9) as threads,
    ):
        answers = [threads.submit(front.request) for _ in range(9)]
        budget = front.pool.retry_budget
        eventually(lambda: (budget.in_flight, budget.waiting) == (3, 6))
        eventually(lambda: len(second.requests) == 3)
        release.set()
        assert [answer.result(10).status for answer in answers] == [200] * 9
        eventually(lambda: front.traces() == {})


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"limits": Limits(queue=0)}, id="nobody-may-wait"),
        pytest.param({"limits": Limits(queue_timeout=0.05)}, id="not-for-long"),
        pytest.param(
            {"limits": Limits(queue_timeout=60), "retry": Retry(total_timeout=0.3)},
            id="too-late-for-a-repeat",
        ),
    ],
)
def test_who_cannot_wait_for_a_repeat_gets_the_failure(options: dict[str, Any]) -> None:
    with (
        _slow_and_dead(**options) as (front, second, release),
        ThreadPoolExecutor(3) as threads,
    ):
        repeats = [threads.submit(front.request) for _ in range(3)]
        eventually(lambda: len(second.requests) == 3)
        assert_error(front.request(), 502)
        assert len(second.requests) == 3
        release.set()
        assert [repeat.result(10).status for repeat in repeats] == [200, 200, 200]
        eventually(lambda: front.traces() == {})
        assert front.request().status == 200, "there is room again"


def test_who_leaves_while_waiting_for_a_repeat_leaves_nothing() -> None:
    with (
        _slow_and_dead() as (front, _, release),
        ThreadPoolExecutor(3) as threads,
    ):
        repeats = [threads.submit(front.request) for _ in range(3)]
        budget = front.pool.retry_budget
        eventually(lambda: budget.in_flight == 3)
        with RawClient(front.port) as client:
            client.send(encode_request("GET", b"/", [], None))
            eventually(lambda: budget.waiting == 1)
        eventually(lambda: budget.waiting == 0)
        release.set()
        assert [repeat.result(10).status for repeat in repeats] == [200, 200, 200]
        eventually(lambda: front.traces() == {})


def test_a_status_may_be_repeated(http: HttpImplementation, lane: Lane) -> None:
    leak = [(b"Set-Cookie", b"leak=1"), (b"X-Leak", b"1")]
    with failing(
        responding(response(503, b"shutting down", leak)),
        responding(response(200, b"fine", [(b"Set-Cookie", b"own=1")])),
        http=http,
        lane=lane,
        affinity=True,
        retry=Retry(on_status={503}),
    ) as (front, [bad, good]):
        answer = front.request()
        assert (answer.status, answer.body) == (200, b"fine")
        own, cookie = answer.get_all(b"set-cookie")
        assert own == b"own=1"
        assert answer.get(b"x-leak") is None
        assert len(bad.requests) == 1
        # The cookie names who answered in the end.
        kept = front.request(headers=[(b"Cookie", cookie.partition(b";")[0])])
        assert kept.get_all(b"set-cookie") == [b"own=1"]
        assert (len(bad.requests), len(good.requests)) == (1, 2)
        refused = front.request("POST", body=b"abc")
        assert (refused.status, refused.body) == (503, b"shutting down")


def test_the_last_answer_is_passed_on_when_nobody_is_left(
    http: HttpImplementation, lane: Lane
) -> None:
    with failing(
        *(responding(response(503, b"%d" % n, [(b"Set-Cookie", b"n=%d" % n)])) for n in range(2)),
        http=http,
        lane=lane,
        affinity=True,
        retry=Retry(on_status={503}),
    ) as (front, backends):
        answer = front.request()
        assert (answer.status, answer.body) == (503, b"1")
        assert answer.get_all(b"set-cookie")[0] == b"n=1"
        assert len(answer.get_all(b"set-cookie")) == 2
        assert [len(backend.requests) for backend in backends] == [1, 1]


@pytest.mark.parametrize("handler", [closes, stalls, answers_with(b"garbage\r\n\r\n")])
def test_one_cookie_for_the_backend_that_answered(lane: Lane, handler: Handler) -> None:
    def second(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(response(200, b"fine", [(b"Set-Cookie", b"own=1")]))

    with failing(handler, second, lane=lane, affinity=True, timeouts=Timeouts(response=0.3)) as (
        front,
        [bad, good],
    ):
        answer = front.request()
        own, cookie = answer.get_all(b"set-cookie")
        assert own == b"own=1"
        assert cookie.startswith(b"shop=")
        front.request("POST", headers=[(b"Cookie", cookie.partition(b";")[0])])
        assert (len(bad.requests), len(good.requests)) == (1, 2)


# A backend that is killed


def test_a_killed_backend_loses_its_visitors_once(http: HttpImplementation, lane: Lane) -> None:
    """They go on elsewhere with one new cookie, and stay there when it has come back."""
    with ProcessBackend(name="a") as first, ProcessBackend(name="b") as second:
        by_name = {"a": first, "b": second}
        pool = Pool(
            "shop",
            [Backend(backend.url, id=name) for name, backend in by_name.items()],
            affinity=SignedCookie(SECRET, name="shop"),
            transport=transport_of(lane),
        )
        with watched(pool, http) as front:
            answer = front.request()
            cookie = answer.get(b"set-cookie") or b""
            pinned = answer.json()["backend"]
            pair = [(b"Cookie", cookie.partition(b";")[0])]
            assert front.request(headers=pair).json() == {"backend": pinned, "count": 2}

            by_name[pinned].kill()
            moved = front.request(headers=pair)
            assert moved.status == 200
            other = moved.json()["backend"]
            assert other != pinned
            assert len(moved.get_all(b"set-cookie")) == 1
            pair = [(b"Cookie", moved.get_all(b"set-cookie")[0].partition(b";")[0])]

            by_name[pinned].start()
            for count in (2, 3, 4):
                kept = front.request(headers=pair)
                assert kept.json() == {"backend": other, "count": count}
                assert kept.get_all(b"set-cookie") == []
