"""One client for each backend of each pool, in step with the pools."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sticky_asgi import TLS, Backend, Pool, Timeouts, WebSocketOptions
from sticky_asgi.upstream import Clients, UpstreamClient, UpstreamRequest
from sticky_asgi.upstream.asgi import AsgiClient
from sticky_asgi.upstream.clients import open_client
from sticky_asgi.upstream.connections import Http1Client
from sticky_asgi.upstream.httpx_client import HttpxClient

from .. import servers
from ..apps import hello
from ..loops import run

APP = hello()
OTHER_APP = hello()
MOCK = httpx.MockTransport(lambda request: httpx.Response(200))


def client_of(clients: Clients, pool: Pool, id: str) -> UpstreamClient:
    return clients.get(pool, pool[id].backend)


async def ask(client: UpstreamClient, target: bytes = b"/") -> bytes:
    response = await client.send(UpstreamRequest("GET", target, [(b"host", b"test")]))
    try:
        return await response.read()
    finally:
        await response.aclose()


@pytest.mark.parametrize(
    ("backend", "transport", "expected"),
    [
        pytest.param(Backend("http://a"), None, Http1Client, id="url"),
        pytest.param(Backend("http://a"), MOCK, HttpxClient, id="transport"),
        pytest.param(Backend(app=APP, id="a"), None, AsgiClient, id="app"),
        pytest.param(Backend(app=APP, id="a"), MOCK, AsgiClient, id="app-beside-transport"),
    ],
)
def test_who_carries_what(backend: Backend, transport: Any, expected: type) -> None:
    timeouts, options = Timeouts(connect=1), WebSocketOptions(close_timeout=1)
    pool = Pool("p", [backend], transport=transport, timeouts=timeouts, websocket=options)
    made = open_client(pool, backend)
    assert type(made) is expected
    assert getattr(made, "timeouts", timeouts) is timeouts
    # httpx has no WebSockets: the gateway's own transport carries them.
    own = made.own if isinstance(made, HttpxClient) else made
    assert isinstance(own, Http1Client | AsgiClient)
    assert own.websocket is options


def test_one_for_each_backend_of_each_pool() -> None:
    async def main() -> None:
        clients = Clients()
        one, two = (Pool(name, ["http://a", "http://b"]) for name in ("one", "two"))
        made = [client_of(clients, pool, id) for pool in (one, two) for id in ("a:80", "b:80")]
        assert len(set(map(id, made))) == 4
        assert client_of(clients, one, "a:80") is made[0]
        assert repr(clients) == "<Clients of 2 pools>"
        await clients.aclose()
        assert repr(clients) == "<Clients of 0 pools>"

    run(main)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        pytest.param(lambda pool: pool.add("http://c"), True, id="another-added"),
        pytest.param(lambda pool: pool.remove("b"), True, id="another-removed"),
        pytest.param(lambda pool: pool.drain("a"), True, id="drained"),
        pytest.param(
            lambda pool: pool.replace([Backend("http://a", id="a", weight=5)]), True, id="weight"
        ),
        pytest.param(lambda pool: pool.replace([Backend("http://z", id="a")]), False, id="address"),
        pytest.param(
            lambda pool: pool.replace([Backend("https://a:80", id="a")]), False, id="scheme"
        ),
        pytest.param(lambda pool: pool.replace([Backend(app=APP, id="a")]), False, id="app"),
        pytest.param(
            lambda pool: pool.adopt(Pool("p", [Backend("http://a", id="a")])), True, id="adopt-same"
        ),
        pytest.param(
            lambda pool: pool.adopt(
                Pool("p", [Backend("http://a", id="a")], timeouts=Timeouts(connect=1))
            ),
            False,
            id="adopt-timeouts",
        ),
        pytest.param(
            lambda pool: pool.adopt(
                Pool("p", [Backend("http://a", id="a")], tls=TLS(verify=False))
            ),
            False,
            id="adopt-tls",
        ),
        pytest.param(
            lambda pool: pool.adopt(
                Pool(
                    "p",
                    [Backend("http://a", id="a")],
                    websocket=WebSocketOptions(max_message=1),
                )
            ),
            False,
            id="adopt-websocket",
        ),
        pytest.param(
            lambda pool: pool.adopt(Pool("p", [Backend("http://a", id="a")], transport=MOCK)),
            False,
            id="adopt-transport",
        ),
    ],
)
def test_a_client_is_kept_while_it_leads_to_the_same_place(
    change: Callable[[Pool], object], kept: bool
) -> None:
    async def main() -> None:
        clients = Clients()
        pool = Pool("p", [Backend("http://a", id="a"), Backend("http://b", id="b")])
        before = client_of(clients, pool, "a")
        change(pool)
        after = client_of(clients, pool, "a")
        assert (after is before) is kept
        assert client_of(clients, pool, "a") is after
        await clients.aclose()

    run(main)


def test_another_app_of_the_same_id_gets_another_client() -> None:
    async def main() -> None:
        clients = Clients({id(OTHER_APP): {"db": 1}})
        pool = Pool("p", [Backend(app=APP, id="a")])
        first = client_of(clients, pool, "a")
        pool.replace([Backend(app=OTHER_APP, id="a")])
        second = client_of(clients, pool, "a")
        assert isinstance(first, AsgiClient)
        assert isinstance(second, AsgiClient)
        assert (first.app, first.state) == (APP, {})
        assert (second.app, second.state) == (OTHER_APP, {"db": 1})
        await clients.aclose()

    run(main)


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda clients, pool: pool.remove("a"), id="removed"),
        pytest.param(
            lambda clients, pool: pool.adopt(Pool("p", pool.backends, timeouts=Timeouts(idle=9))),
            id="options",
        ),
        pytest.param(lambda clients, pool: clients.keep_only(()), id="pool-gone"),
    ],
)
def test_a_retired_client_closes_its_idle_connections(
    no_leaks: None, leave: Callable[[Clients, Pool], object]
) -> None:
    with servers.RawBackend(servers.responding(servers.response(200, b"ok"))) as backend:

        async def main() -> None:
            clients = Clients()
            pool = Pool("p", [Backend(backend.url, id="a"), "http://b"])
            client = client_of(clients, pool, "a")
            assert isinstance(client, Http1Client)
            assert await ask(client) == b"ok"
            assert client.idle == 1
            leave(clients, pool)
            # The pool's next request is when a change is noticed.
            client_of(clients, pool, "b:80")
            while client.idle:
                await asyncio.sleep(0)
            await asyncio.to_thread(backend.connection().done.wait, 5)
            assert backend.open_connections == 0
            await clients.aclose()

        run(main)


def test_a_retired_client_finishes_what_it_has_begun(no_leaks: None) -> None:
    go_on = threading.Event()

    def slow(connection: servers.Connection) -> None:
        connection.read_request()
        connection.wait(go_on)
        connection.send(servers.response(200, b"late"))
        assert connection.wait_closed()

    with servers.RawBackend(slow) as backend:

        async def main() -> None:
            clients = Clients()
            pool = Pool("p", [Backend(backend.url, id="a"), "http://b"])
            asking = asyncio.create_task(ask(client_of(clients, pool, "a")))
            await asyncio.to_thread(backend.wait_request)
            pool.remove("a")
            client_of(clients, pool, "b:80")
            await clients.aclose()
            go_on.set()
            assert await asking == b"late"
            await asyncio.to_thread(backend.connection().done.wait, 5)
            assert backend.open_connections == 0

        run(main)


def test_only_the_pools_of_the_routes_are_kept() -> None:
    async def main() -> None:
        clients = Clients()
        stays, goes = (Pool(name, ["http://a"]) for name in ("stays", "goes"))
        kept, dropped = (client_of(clients, pool, "a:80") for pool in (stays, goes))
        clients.keep_only((stays,))
        assert client_of(clients, stays, "a:80") is kept
        assert client_of(clients, goes, "a:80") is not dropped
        assert repr(clients) == "<Clients of 1 pools>"
        clients.keep_only((stays, goes))
        assert client_of(clients, goes, "a:80") is client_of(clients, goes, "a:80")
        await clients.aclose()

    run(main)


def test_a_request_that_outlives_its_pool_leaves_no_connection(no_leaks: None) -> None:
    """Such as a repeat, made when its pool has left the configuration."""
    with servers.RawBackend(servers.responding(servers.response(200, b"ok"))) as backend:

        async def main() -> None:
            clients = Clients()
            clients.keep_only(())
            client = client_of(clients, Pool("p", [Backend(backend.url, id="a")]), "a")
            assert isinstance(client, Http1Client)
            assert await ask(client) == b"ok"
            assert client.idle == 0
            await asyncio.to_thread(backend.connection().done.wait, 5)
            assert backend.open_connections == 0
            await clients.aclose()

        run(main)
