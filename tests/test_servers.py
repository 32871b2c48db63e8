"""The test harness itself: what the other tests rely on it to see."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests import apps, servers
from tests.conftest import Authority
from tests.servers import (
    Connection,
    HttpImplementation,
    ProcessBackend,
    RawBackend,
    RawClient,
    request,
    responding,
    response,
    serve,
)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """Announces ten bytes, sends five, and fails."""
    if scope["type"] == "lifespan":
        await apps.lifespan(receive, send)
        return
    headers = [(b"content-length", b"10")] if scope["path"] == "/length" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    raise RuntimeError("half way")


async def cannot_start(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


# uvicorn


def test_echo_sees_the_target_and_the_headers_byte_for_byte(
    no_leaks: None, http: HttpImplementation
) -> None:
    with serve(apps.echo, http=http) as server:
        answer = request(
            server.port,
            "POST",
            b"/a%2Fb/../c;x?q=%e4&",
            [(b"X-Same", b"1"), (b"x-same", b"\xe4")],
            b"body",
        )
        assert answer.complete
        assert answer.status == 200
        assert answer.json() == {
            "method": "POST",
            "target": "/a%2Fb/../c;x?q=%e4&",
            "path": "/a/b/../c;x",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": [
                ["host", "test"],
                ["x-same", "1"],
                ["x-same", "ä"],
                ["content-length", "4"],
            ],
            "body_length": 4,
            "body_sha256": hashlib.sha256(b"body").hexdigest(),
        }
        assert {name.lower() for name, _ in answer.headers} == {b"content-type", b"content-length"}
    assert server.errors == []


def test_keep_alive_head_and_a_chunked_request(http: HttpImplementation) -> None:
    with serve(apps.echo, http=http) as server, RawClient(server.port) as client:
        assert client.request("POST", body=[b"ab", b"c"]).json()["body_length"] == 3
        head = client.request("HEAD")
        assert head.complete
        assert head.body == b""
        assert int(head.get(b"content-length") or 0) > 0
        assert client.request().json()["method"] == "GET"
        servers.eventually(lambda: server.connections == 1)


@pytest.mark.parametrize("path", [b"/length", b"/chunked"])
def test_a_truncated_response_is_not_complete(http: HttpImplementation, path: bytes) -> None:
    with serve(broken, http=http) as server:
        answer = request(server.port, target=path)
    assert (answer.status, answer.body, answer.complete) == (200, b"12345", False)
    assert len(server.errors) == 1
    assert "Exception in ASGI application" in server.errors[0]
    assert "half way" in server.errors[0]


def test_pieces_of_a_stream_arrive_when_they_are_pushed(http: HttpImplementation) -> None:
    app = apps.StreamApp()
    with serve(app, http=http) as server, RawClient(server.port) as client:
        client.send(servers.encode_request())
        answer = client.read_head()
        assert answer.get(b"content-type") == b"text/event-stream"
        for piece in (b"data: 1\n\n", b"data: 2\n\n"):
            app.push(piece)
            assert client.read_piece(answer) == piece
        app.end()
        assert client.read_piece(answer) == b""
        assert answer.complete
        assert app.finished.wait(servers.WAIT)
        assert not app.disconnected.is_set()
    assert server.errors == []


def test_an_app_sees_that_its_client_left(http: HttpImplementation) -> None:
    app = apps.StreamApp()
    with serve(app, http=http) as server:
        with RawClient(server.port) as client:
            client.send(servers.encode_request())
            client.read_head()
        assert app.disconnected.wait(servers.WAIT)
        assert app.finished.wait(servers.WAIT)


def test_a_failed_startup_is_raised(no_leaks: None, http: HttpImplementation) -> None:
    with pytest.raises(RuntimeError, match="no database"), serve(cannot_start, http=http):
        pass


def test_uvicorn_on_a_unix_socket_and_uvloop(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with serve(apps.hello("unix"), unix=path, loop="uvloop") as server:
        assert server.url == f"http+unix://{path}"
        assert request(0, unix=path).body == b"unix"
        assert "uvloop" in server.call(lambda: type(server.server.loop).__module__)


def test_uvicorn_with_tls(authority: Authority) -> None:
    with serve(
        apps.hello("tls"), ssl_certfile=authority.cert_file, ssl_keyfile=authority.key_file
    ) as server:
        assert server.url.startswith("https://")
        assert request(server.port, ssl_context=authority.client_context()).body == b"tls"


# Raw peers


def test_raw_backend_keeps_what_it_received(no_leaks: None) -> None:
    sent = servers.encode_request("PUT", b"/%2F?", [(b"X-Case", b"v")], [b"ab", b"cde"])
    with RawBackend(responding(response(201, b"one"), response(200, b"more"))) as backend:
        with RawClient(backend.port) as client:
            client.send(sent)
            assert client.read_response().status == 201
            assert client.request().body == b"more"
            assert client.request().body == b"more"
        first = backend.requests[0]
        assert first.raw == sent
        assert sent.startswith(first.head)
        assert (first.method, first.target, first.version) == ("PUT", b"/%2F?", "1.1")
        assert first.headers[1] == (b"X-Case", b"v")
        assert (first.body, first.complete) == (b"abcde", True)
        assert len(backend.requests) == 3
        assert len(backend.connections) == 1


def test_echo_handler() -> None:
    with RawBackend(servers.echo) as backend:
        answer = request(backend.port, "POST", b"/x", body=b"\xff")
        assert answer.json() == {
            "method": "POST",
            "target": "/x",
            "version": "1.1",
            "headers": [["Host", "test"], ["Content-Length", "1"]],
            "body": "ÿ",
        }


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "body", "complete"),
    [
        pytest.param(HEAD + b"Content-Length: 3\r\n\r\nabc", b"abc", True, id="length"),
        pytest.param(HEAD + b"Content-Length: 3\r\n\r\nab", b"ab", False, id="length-cut"),
        pytest.param(HEAD + b"\r\nabc", b"abc", True, id="until-closed"),
        pytest.param(response(chunks=[b"ab", b"c"]), b"abc", True, id="chunked"),
        pytest.param(response(chunks=[b"abc"])[:-5], b"abc", False, id="chunked-without-end"),
        pytest.param(response(chunks=[b"abc"])[:-2], b"abc", False, id="chunked-cut-at-end"),
        pytest.param(response(chunks=[b"abc"])[:-8], b"ab", False, id="chunk-cut"),
        pytest.param(HEAD[:10], b"", False, id="head-cut"),
        pytest.param(b"", b"", False, id="nothing"),
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True, id="304"
        ),
    ],
)
def test_responses_and_their_ends(sent: bytes, body: bytes, complete: bool) -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(sent)

    with RawBackend(handler) as backend:
        answer = request(backend.port)
    assert (answer.body, answer.complete, answer.reset) == (body, complete, False)
    assert answer.raw == sent
    assert (answer.status == 0) == (len(sent) <= 10)


def test_informational_responses_and_trailers() -> None:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        connection.send(response(chunks=[b"a"])[:-2] + b"X-Sum: 1\r\n\r\n")

    with RawBackend(handler) as backend:
        answer = request(backend.port)
    assert answer.informational == [(103, [(b"Link", b"</a>")])]
    assert answer.trailers == [(b"X-Sum", b"1")]
    assert answer.complete


def test_a_message_with_two_framings_is_refused() -> None:
    answer = response(chunks=[b"a"], headers=[(b"Content-Length", b"1")])
    with RawBackend(responding(answer)) as backend, pytest.raises(servers.MalformedMessage):
        request(backend.port)


def test_a_reset_by_the_backend_is_told_from_its_end() -> None:
    read = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + b"\r\nabc")
        connection.wait(read)
        connection.reset()

    with RawBackend(handler) as backend, RawClient(backend.port) as client:
        client.send(servers.encode_request())
        answer = client.read_head()
        assert client.read_piece(answer) == b"abc"
        read.set()
        assert client.read_piece(answer) == b""
    assert (answer.reset, answer.complete) == (True, False)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_backend_sees_its_client_leave(no_leaks: None, how: str) -> None:
    with RawBackend(lambda connection: connection.wait_closed()) as backend:
        client = RawClient(backend.port)
        connection = backend.connection(0)
        assert not connection.done.is_set()
        getattr(client, how)()
        assert connection.done.wait(servers.WAIT)
        assert backend.open_connections == 0


def test_waiting_for_a_close_that_does_not_come_fails() -> None:
    with RawBackend(lambda connection: connection.wait_closed()) as backend:
        with RawClient(backend.port) as client, pytest.raises(TimeoutError):
            client.wait_closed(0.05)


def test_a_stalled_backend_is_stopped(no_leaks: None) -> None:
    with RawBackend(lambda connection: connection.wait(threading.Event())) as backend:
        with RawClient(backend.port):
            backend.connection(0)


def test_a_failing_handler_is_raised() -> None:
    def handler(connection: Connection) -> None:
        raise LookupError("wrong script")

    with pytest.raises(RuntimeError, match="wrong script"), RawBackend(handler) as backend:
        assert request(backend.port).status == 0


def test_raw_backend_with_tls(no_leaks: None, authority: Authority) -> None:
    handler = responding(response(body=b"tls"))
    with RawBackend(handler, ssl_context=authority.server_context()) as backend:
        assert backend.url.startswith("https://")
        assert request(backend.port, ssl_context=authority.client_context()).body == b"tls"
        with RawClient(backend.port) as plain:
            plain.send(b"GET / HTTP/1.1\r\n\r\n")
            plain.wait_closed()
        servers.eventually(lambda: len(backend.handshake_errors) == 1)


def test_raw_backend_on_a_unix_socket(no_leaks: None, tmp_path: Path) -> None:
    path = tmp_path / "raw.sock"
    with RawBackend(responding(response(body=b"unix")), unix=path) as backend:
        assert backend.url == f"http+unix://{path}"
        assert request(0, unix=path).body == b"unix"


def test_a_large_body_can_be_drained() -> None:
    with RawBackend(responding(response(body=bytes(3_000_000)))) as backend:
        with RawClient(backend.port) as client:
            client.send(servers.encode_request())
            answer = client.read_head()
            assert client.drain(answer) == 3_000_000
            assert answer.complete
            assert answer.body == b""


def test_ports_that_refuse_and_that_never_answer(no_leaks: None) -> None:
    with servers.refusing_port() as port, pytest.raises(ConnectionRefusedError):
        RawClient(port)
    with servers.unanswered_port() as port, pytest.raises(TimeoutError):
        RawClient(port, timeout=0.1)


# Processes and helpers


def test_a_process_is_killed_and_comes_back(no_leaks: None) -> None:
    with ProcessBackend(name="a", options=["--http", "httptools"]) as backend:
        with RawClient(backend.port) as client:
            assert client.request().json() == {"backend": "a", "count": 1}
            assert client.request().json() == {"backend": "a", "count": 2}
            backend.kill()
            client.wait_closed()
        assert not backend.is_running
        with pytest.raises(ConnectionRefusedError):
            request(backend.port)
        backend.start()
        assert request(backend.port).json() == {"backend": "a", "count": 1}


def test_a_process_that_does_not_start_says_why(no_leaks: None) -> None:
    with pytest.raises(RuntimeError, match="no_such_app"), ProcessBackend("tests.no_such_app:x"):
        pass


def test_eventually_and_no_leaks_fail_loudly() -> None:
    with pytest.raises(AssertionError, match="a miracle"):
        servers.eventually(lambda: False, 0.01, "a miracle")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    with pytest.raises(AssertionError, match="forgotten"), servers.no_leaks(0.01):
        thread.start()
    stop.set()
    thread.join()
