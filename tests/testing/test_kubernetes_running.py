"""The fake as a server of its own: threads, ports, TLS, and the death of it."""

from __future__ import annotations

import asyncio
import builtins
import logging
import threading
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import service
from tests.conftest import Authority
from tests.servers import HttpImplementation, eventually, no_leaks, serve

from .cluster import SERVICES, serving


def get(url: str, path: str = SERVICES, **options: Any) -> httpx.Response:
    return httpx.get(url + path, trust_env=False, timeout=5, **options)


def test_it_is_there_for_as_long_as_the_block_lasts() -> None:
    fake = FakeKubernetes()
    with no_leaks():
        with fake.running() as server:
            assert server.url == f"http://127.0.0.1:{server.port}"
            assert get(server.url).status_code == 200
            assert repr(server) == f"<RunningKubernetes {server.url}>"
        assert repr(server) == f"<RunningKubernetes {server.url}, stopped>"
        with pytest.raises(httpx.ConnectError):
            get(server.url)


def test_it_runs_beside_an_event_loop() -> None:
    async def main() -> list[int]:
        fake = FakeKubernetes()
        with fake.running() as server:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
                answers = await asyncio.gather(*(client.get(SERVICES) for _ in range(3)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200] * 3


def test_it_dies_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    fake = FakeKubernetes()
    fake.create(service("web", namespace="shop"))
    fake.hang("list")
    cut: list[BaseException] = []

    def hang(url: str) -> None:
        try:
            get(url)
        except httpx.RemoteProtocolError as exc:
            cut.append(exc)

    with fake.running() as server, no_leaks():
        hanging = threading.Thread(target=hang, args=(server.url,))
        hanging.start()
        eventually(lambda: fake.requests)
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            with http.stream("GET", SERVICES, params={"watch": "1"}) as response:
                server.stop()
                server.stop()
                hanging.join()
                assert len(cut) == 1
                with pytest.raises(httpx.RemoteProtocolError):
                    response.read()
            with pytest.raises(httpx.ConnectError):
                http.get(SERVICES)
            port = server.port
            server.start()
            server.start()
            assert server.port == port
            assert len(http.get(SERVICES).json()["items"]) == 1
        server.stop()
    assert fake.watching() == 0
    assert caplog.text == ""


def test_two_servers_may_have_one_store() -> None:
    fake = FakeKubernetes()
    with fake.running() as first:
        with fake.running() as second:
            assert get(second.url).status_code == 200
        assert get(first.url).status_code == 200


def test_it_serves_https(authority: Authority) -> None:
    fake = FakeKubernetes()
    with fake.running(certfile=authority.cert_file, keyfile=authority.key_file) as server:
        assert server.url.startswith("https://")
        assert get(server.url, verify=authority.client_context()).status_code == 200


def test_a_port_that_is_taken() -> None:
    with serving(FakeKubernetes()) as cluster:
        port = cluster.http.base_url.port
        assert port is not None
        with pytest.raises(OSError), FakeKubernetes().running(port=port):
            pass


def test_a_file_that_is_missing() -> None:
    with no_leaks(), pytest.raises(OSError), FakeKubernetes().running(certfile="/nowhere"):
        pass


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_uvicorn(name: str, *args: Any, **options: Any) -> Any:
        if name == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_uvicorn)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sticky-asgi\[cli\]'"):
        with FakeKubernetes().running():
            pass


def test_any_server_of_asgi_will_do(http: HttpImplementation) -> None:
    fake = FakeKubernetes()
    with serve(fake, http=http) as server:
        with httpx.stream(
            "GET", server.url + SERVICES, params={"watch": "1"}, trust_env=False, timeout=5
        ) as response:
            # The head is here before there is anything to tell.
            assert fake.watching() == 1
            fake.create(service("web", namespace="shop"))
            assert next(response.iter_raw()).startswith(b'{"type":"ADDED","object":{')
        eventually(lambda: fake.watching() == 0)
    assert server.errors == []


def test_the_head_of_a_watch_waits_for_no_event() -> None:
    """ASGI has servers keep the head until there is a piece of the body."""
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received: asyncio.Queue[Message] = asyncio.Queue()
    scope = {
        "type": "http",
        "method": "GET",
        "path": SERVICES,
        "query_string": b"watch=1",
        "headers": [],
    }

    async def main() -> list[Message]:
        received.put_nowait({"type": "http.request", "body": b""})
        serving = asyncio.create_task(FakeKubernetes()(scope, received.get, sent.put))
        messages = [await asyncio.wait_for(sent.get(), 5) for _ in range(2)]
        received.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(serving, 5)
        return messages

    start, piece = asyncio.run(main())
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert piece == {"type": "http.response.body", "body": b"", "more_body": True}


def test_a_test_client_will_do_for_what_does_not_last() -> None:
    fake = FakeKubernetes()
    fake.create(service("web"))
    with TestClient(fake) as client:
        assert len(client.get("/api/v1/services").json()["items"]) == 1
