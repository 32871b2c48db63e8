"""What a gateway holds in each event loop, and when it lets go of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from sticky_asgi import Backend, HealthCheck, Pool
from sticky_asgi.lifespan import LifespanFailed
from sticky_asgi.runtime import Runtimes
from sticky_asgi.upstream import Clients, UpstreamRequest
from sticky_asgi.upstream.asgi import AsgiClient
from sticky_asgi.upstream.connections import Http1Client

from . import servers
from .apps import hello
from .loops import run


class App:
    """An app that counts its lifespan."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.log: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for stage in ("startup", "shutdown"):
            await receive()
            self.log.append(stage)
            how = "failed" if self.fails else "complete"
            await send({"type": f"lifespan.{stage}.{how}"})
            if self.fails:
                return


def in_process(**apps: Any) -> Pool:
    return Pool("+".join(apps), [Backend(app=app, id=id) for id, app in apps.items()])


async def ask(clients: Clients, pool: Pool) -> Http1Client:
    client = clients.get(pool, pool.backends[0])
    assert isinstance(client, Http1Client)
    response = await client.send(UpstreamRequest("GET", b"/", [(b"host", b"test")]))
    assert await response.read() == b"ok"
    await response.aclose()
    return client


async def clients_of(runtimes: Runtimes) -> Clients:
    """What a request is served with."""
    loop = asyncio.get_running_loop()
    return (runtimes.get(loop) or await runtimes.start(loop)).clients


@pytest.fixture
def backend(no_leaks: None) -> Any:
    with servers.RawBackend(servers.responding(servers.response(200, b"ok"))) as backend:
        yield backend
        servers.eventually(lambda: not backend.open_connections)


def test_lazily_once_per_loop(backend: servers.RawBackend) -> None:
    """Idle connections are closed when the loop ends, and the loop is let go."""
    pool = Pool("shop", [backend.url])
    runtimes = Runtimes(lambda: (pool,))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        clients = await clients_of(runtimes)
        assert await clients_of(runtimes) is clients
        client = await ask(clients, pool)
        assert client.idle == 1

    for number in range(3):
        run(main)
        servers.eventually(lambda: not backend.open_connections)
        assert len(backend.connections) == number + 1
    gc.collect()
    assert [ref() for ref in loops] == [None] * 3


def test_several_loops_side_by_side(backend: servers.RawBackend) -> None:
    pool = Pool("shop", [backend.url])
    runtimes = Runtimes(lambda: (pool,))
    barrier = threading.Barrier(3)
    seen: list[Clients] = []

    async def main() -> None:
        clients = await clients_of(runtimes)
        seen.append(clients)
        await ask(clients, pool)
        await asyncio.to_thread(barrier.wait, 10)

    threads = [threading.Thread(target=run, args=(main,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(map(id, seen))) == 3


def test_the_log_says_once_that_there_was_no_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    runtimes = Runtimes(lambda: ())

    async def main() -> None:
        for _ in range(3):
            await clients_of(runtimes)

    for _ in range(3):
        run(main)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("sticky_asgi", logging.WARNING)
    assert "was not started by a lifespan" in record.message


def test_the_log_says_nothing_with_a_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    runtimes = Runtimes(lambda: ())

    async def main() -> None:
        async with runtimes.running():
            await clients_of(runtimes)

    run(main)
    assert caplog.records == []


def test_connections_are_closed_with_the_block(backend: servers.RawBackend) -> None:
    pool = Pool("shop", [backend.url])
    runtimes = Runtimes(lambda: (pool,))

    async def main() -> None:
        async with runtimes.running():
            clients = await clients_of(runtimes)
            client = await ask(clients, pool)
            assert client.idle == 1
        assert client.idle == 0
        assert await clients_of(runtimes) is not clients, "from now on, lazily"

    run(main)


def test_a_lazy_start_is_taken_over_by_a_lifespan(backend: servers.RawBackend) -> None:
    pool = Pool("shop", [backend.url])
    runtimes = Runtimes(lambda: (pool,))

    async def main() -> None:
        client = await ask(await clients_of(runtimes), pool)
        async with runtimes.running():
            assert client.idle == 0, "what the lazy start had opened is closed"
            managed = await ask(await clients_of(runtimes), pool)
            assert managed is not client
        assert managed.idle == 0

    run(main)


def test_a_request_during_the_change_finds_the_lifespans_clients() -> None:
    runtimes = Runtimes(lambda: ())

    async def main() -> None:
        lazy = await clients_of(runtimes)

        async def ask_meanwhile() -> object:
            return await clients_of(runtimes)

        asking = asyncio.ensure_future(ask_meanwhile())
        async with runtimes.running():
            managed = await clients_of(runtimes)
            assert managed is not lazy
            assert await asking in (lazy, managed)
            gc.collect()
            assert await clients_of(runtimes) is managed

    run(main)


def test_entered_by_two_at_once() -> None:
    runtimes = Runtimes(lambda: (in_process(a=App()),))

    async def enter() -> None:
        async with runtimes.running():
            await clients_of(runtimes)

    async def main() -> None:
        await asyncio.gather(enter(), enter())

    run(main)


def test_entered_more_than_once() -> None:
    app = App()
    runtimes = Runtimes(lambda: (in_process(a=app),))

    async def main() -> None:
        async with runtimes.running():
            clients = await clients_of(runtimes)
            async with runtimes.running():
                assert await clients_of(runtimes) is clients
            assert await clients_of(runtimes) is clients
        assert app.log == ["startup", "shutdown"]
        async with runtimes.running():
            pass
        assert app.log == ["startup", "shutdown"] * 2

    run(main)


def test_lifespans_of_in_process_backends_run_once_each() -> None:
    one, two = App(), App()
    pools = (in_process(a=one, b=two, c=one), in_process(d=two), Pool("url", ["http://x"]))
    runtimes = Runtimes(lambda: pools)

    async def main() -> None:
        async with runtimes.running():
            assert (one.log, two.log) == (["startup"], ["startup"])
        assert (one.log, two.log) == (["startup", "shutdown"],) * 2

    run(main)


def test_one_that_fails_to_start_stops_the_others() -> None:
    sound, broken = App(), App(fails=True)
    runtimes = Runtimes(lambda: (in_process(a=sound, b=broken),))

    async def main() -> None:
        with pytest.raises(LifespanFailed):
            async with runtimes.running():
                raise AssertionError("must not get here")

    run(main)
    assert sound.log == ["startup", "shutdown"]


def test_in_process_backends_find_the_state_of_their_lifespan() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"db": "connection"}

    app = Starlette(
        lifespan=lifespan,
        routes=[StarletteRoute("/", lambda request: PlainTextResponse(request.state.db))],
    )
    pool = in_process(a=app)
    runtimes = Runtimes(lambda: (pool,))

    async def main() -> None:
        async with runtimes.running():
            client = (await clients_of(runtimes)).get(pool, pool.backends[0])
            assert isinstance(client, AsgiClient)
            response = await client.send(UpstreamRequest("GET", b"/", [(b"host", b"test")]))
            assert await response.read() == b"connection"
            await response.aclose()

    run(main)


def test_pools_no_route_leads_to_are_closed(backend: servers.RawBackend) -> None:
    stays, goes = Pool("stays", [backend.url]), Pool("goes", [backend.url])
    pools = [stays, goes]
    runtimes = Runtimes(lambda: tuple(pools))

    async def main() -> None:
        async with runtimes.running():
            clients = await clients_of(runtimes)
            kept, dropped = [await ask(clients, pool) for pool in pools]
            pools.remove(goes)
            runtimes.follow_routes()
            while dropped.idle:
                await asyncio.sleep(0)
            assert kept.idle == 1

    run(main)


def test_every_loop_follows_the_routes(backend: servers.RawBackend) -> None:
    """In whatever thread they change; and a loop that has ended is no obstacle."""
    stays, goes = Pool("stays", [backend.url]), Pool("goes", [backend.url])
    new = Pool("new", [backend.url], health_check=HealthCheck())
    pools = [stays, goes]
    runtimes = Runtimes(lambda: tuple(pools))
    barrier = threading.Barrier(3)
    followed: list[bool] = []

    async def main() -> None:
        async with runtimes.running():
            clients = await clients_of(runtimes)
            kept, dropped = [await ask(clients, pool) for pool in (stays, goes)]
            await asyncio.to_thread(barrier.wait, 10)
            while dropped.idle or len(new.followers) < 2:
                await asyncio.sleep(0.001)
            followed.append(kept.idle == 1)
            await asyncio.to_thread(barrier.wait, 10)

    ended = asyncio.new_event_loop()
    ended.run_until_complete(runtimes.start(ended))
    ended.close()
    threads = [threading.Thread(target=run, args=(main,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait(10)
    pools[:] = [stays, new]
    runtimes.follow_routes()
    barrier.wait(10)
    for thread in threads:
        thread.join(10)
    assert followed == [True, True]
    assert not new.followers


def test_loops_may_start_while_another_thread_changes_the_routes(hasty: None) -> None:
    class Elsewhere:
        """Stands for a loop that is run by another thread."""

        def call_soon_threadsafe(self, *call: object) -> None: ...

    runtimes = Runtimes(lambda: ())
    loops: list[Any] = [Elsewhere() for _ in range(400)]
    has_some, is_over = threading.Event(), threading.Event()

    async def main() -> None:
        for number, loop in enumerate(loops):
            await runtimes.start(loop)
            if number == 100:
                has_some.set()

    def starting() -> None:
        try:
            run(main)
        finally:
            has_some.set()
            is_over.set()

    thread = threading.Thread(target=starting)
    thread.start()
    has_some.wait(10)
    while not is_over.is_set():
        runtimes.follow_routes()
    thread.join(10)


def test_forgetting_pools_before_any_loop_runs() -> None:
    Runtimes(lambda: ()).follow_routes()

    async def main() -> None:
        Runtimes(lambda: (in_process(a=hello()),)).follow_routes()

    run(main)
