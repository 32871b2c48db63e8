"""Alive, ready, and the way out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from sticky_asgi import Backend, Gateway, Pool
from sticky_asgi.admin import StatusEndpoints
from sticky_asgi.stopping import Stopping, what_is_left


@pytest.mark.parametrize(
    ("method", "path", "is_ready", "status"),
    [
        pytest.param("GET", "/-/s/live", True, 200, id="live"),
        pytest.param("HEAD", "/-/s/live", True, 200, id="live, by HEAD"),
        pytest.param("GET", "/-/s/live", False, 200, id="live while stopping"),
        pytest.param("GET", "/-/s/ready", True, 200, id="ready"),
        pytest.param("GET", "/-/s/ready", False, 503, id="not ready"),
        pytest.param("POST", "/-/s/ready", True, 405, id="nothing to post"),
        pytest.param("GET", "/-/s/else", True, 404, id="nothing else"),
        pytest.param("GET", "/-/s", True, 404, id="no page"),
    ],
)
def test_endpoints(method: str, path: str, is_ready: bool, status: int) -> None:
    endpoints = StatusEndpoints("/-/s", lambda: None if is_ready else "stopping")
    response = TestClient(endpoints).request(method, path)
    assert response.status_code == status
    if status in (200, 503):
        assert response.headers["cache-control"] == "no-store"
    if status == 503:
        assert response.text == "stopping\n"
    if status == 405:
        assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        pytest.param("http", "/-/s/live", True, id="below"),
        pytest.param("http", "/-/s", True, id="itself"),
        pytest.param("http", "/-/sx", False, id="another name"),
        pytest.param("http", "/", False, id="elsewhere"),
        pytest.param("websocket", "/-/s/live", True, id="a websocket"),
        pytest.param("websocket", "/", False, id="a websocket elsewhere"),
    ],
)
def test_what_is_kept_from_the_routes(kind: str, path: str, expected: bool) -> None:
    endpoints = StatusEndpoints("/-/s", lambda: None)
    assert endpoints.handles({"type": kind, "path": path}) is expected


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        pytest.param({"websocket.http.response": {}}, 404, id="with a status"),
        pytest.param({}, 403, id="by a server that has no other"),
    ],
)
def test_a_websocket_is_refused(extensions: dict[str, Any], expected: int) -> None:
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        messages.append(message)

    endpoints = StatusEndpoints("/-/s", lambda: None)
    scope = {"type": "websocket", "path": "/-/s/live", "headers": [], "extensions": extensions}
    asyncio.run(endpoints(scope, receive, send))
    if expected == 404:
        assert [message["type"] for message in messages] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert messages[0]["status"] == 404
    else:
        # ASGI: a server answers 403 to a handshake that is closed without having been accepted.
        assert messages == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.parametrize("path", ["", "sticky", "/", "/sticky/"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(ValueError, match="path must begin with / and not end with it"):
        StatusEndpoints(path, lambda: None)


def test_what_is_left_is_counted() -> None:
    pool = Pool("shop", ["http://a", "http://b"])
    gateway = Gateway({"/": pool})
    assert what_is_left(gateway) == "0 requests under way, of these 0 streams and 0 WebSockets"
    with pool.lease(pool["a:80"]) as a, pool.lease(pool["b:80"]) as b, pool.lease(b):
        a.streams, b.websockets = 1, 2
        assert what_is_left(gateway) == "3 requests under way, of these 1 stream and 2 WebSockets"


def stop(delay: float, signals: int, caplog: pytest.LogCaptureFixture) -> list[int]:
    """What a server gets of signals that come within a second, before it is over."""
    got: list[int] = []
    gateway = Gateway({"/": Pool("shop", [Backend("http://a")])})

    def server(number: int, frame: object) -> None:
        got.append(number)

    before = signal.signal(signal.SIGTERM, server)

    async def main() -> None:
        stopping = Stopping(delay, gateway)
        stopping.has_started = True
        with caplog.at_level(logging.INFO, "sticky_asgi"):
            with stopping.on_signals(asyncio.get_running_loop()):
                assert not stopping.has_begun
                for _ in range(signals):
                    os.kill(os.getpid(), signal.SIGTERM)
                    assert stopping.has_begun
                for _ in range(3):
                    await asyncio.sleep(delay if delay < 1 else 0)

    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is server, "who has it back"
    finally:
        signal.signal(signal.SIGTERM, before)
    return got


@pytest.mark.parametrize(
    ("delay", "signals", "expected"),
    [
        pytest.param(0, 1, 1, id="at once"),
        pytest.param(0.01, 1, 1, id="later"),
        pytest.param(3600, 1, 0, id="much later"),
        pytest.param(3600, 2, 1, id="a second signal ends the wait"),
    ],
)
def test_the_server_is_told_after_the_delay(
    delay: float, signals: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert stop(delay, signals, caplog) == [signal.SIGTERM] * expected
    wait = f" in {delay:g} seconds" if delay else ""
    assert f"stopping{wait}: 0 requests under way" in caplog.text


def test_a_start_is_ended_at_once() -> None:
    """Whatever it waits for."""
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        with Stopping(3600, Gateway({"/": Pool("shop", [])})).on_signals(
            asyncio.get_running_loop()
        ):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(3600)

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_there_are_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    async def main() -> None:
        stopping = Stopping(1, Gateway({"/": Pool("shop", [])}))
        with stopping.on_signals(asyncio.get_running_loop()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    assert seen == [before]
