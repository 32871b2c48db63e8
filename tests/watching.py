"""A gateway whose every trace is looked for at the end: what a request leaves behind is a failure.

`watched(pool)` serves a gateway over sockets, records the events of its requests, and asserts when
it is left that nothing is in flight, queued, busy or still running.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi import BackendState, Gateway, Pool, RequestFinished, RequestInfo
from sticky_asgi.lifespan import run_lifespan
from sticky_asgi.upstream.connections import Http1Client
from tests import servers
from tests.apps import hello
from tests.gateways import closing, untouched

SECRET = "a secret of some length"


class First:
    """A balancer that takes the first candidate, so that a test knows who is next."""

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        return candidates[0]


class Watched:
    """A gateway that is being served.

    Attributes:
        server: The uvicorn that serves it.
        gateway: The gateway.
        pool: Its pool.
        events: What it has told its listeners.
    """

    def __init__(self, gateway: Gateway, pool: Pool, events: list[RequestFinished]) -> None:
        self.gateway = gateway
        self.pool = pool
        self.events = events
        self.server: servers.RunningServer

    @property
    def port(self) -> int:
        return self.server.port

    def request(
        self,
        method: str = "GET",
        target: bytes = b"/",
        headers: servers.Headers = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> servers.RawResponse:
        """One request on a connection of its own."""
        return servers.request(self.port, method, target, headers, body)

    def do(self, function: Callable[..., object], *args: object) -> None:
        """Call something, such as `pool.drain`, in the gateway's event loop."""
        self.server.call(function, *args)

    def settle(self) -> None:
        """Have the gateway take in what has come over its sockets so far."""
        for _ in range(3):
            self.do(int)

    def event(self, index: int = -1, *, of: int = 1) -> RequestFinished:
        """One of the events, waiting until there are at least `of`."""
        servers.eventually(lambda: len(self.events) >= of, message=f"{of} events")
        return self.events[index]

    @property
    def exchanges(self) -> int:
        """Exchanges with backends that are under way."""
        return self.server.call(self._exchanges)

    def _exchanges(self) -> int:
        count = 0
        for runtime in self.gateway._runtimes._by_loop.values():
            for clients in runtime.clients._pools.values():
                for _, client in clients.by_id.values():
                    if isinstance(client, Http1Client):
                        count += client.busy
                    else:
                        count += len(getattr(client, "tasks", ()))
        return count

    @property
    def tasks(self) -> int:
        """Tasks of the gateway's event loop."""
        return self.server.call(lambda: len(asyncio.all_tasks()))

    def traces(self) -> dict[str, int]:
        """What requests have left behind: nothing, if all of them are over."""
        pool = self.pool
        counts = {
            "pool in flight": pool.in_flight,
            "queued": pool.queued,
            "repeats": pool.retry_budget.in_flight,
            "waiting to repeat": pool.retry_budget.waiting,
            "exchanges": self.exchanges,
        }
        for state in pool.states:
            counts[f"{state.id} in flight"] = state.in_flight
        return {name: count for name, count in counts.items() if count}


class _Kept:
    """A uvicorn that serves one gateway after another."""

    def __init__(self) -> None:
        self.app: ASGIApp = unlit
        self.running: servers.RunningServer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (unlit if scope["type"] == "lifespan" else self.app)(scope, receive, send)

    @contextlib.contextmanager
    def showing(self, app: ASGIApp) -> Iterator[servers.RunningServer]:
        """Serve an app, between its start-up and its shutdown, in the server's event loop."""
        loop = self.running.server.loop
        assert loop is not None
        ready, done = threading.Event(), asyncio.Event()

        async def hold() -> None:
            try:
                async with run_lifespan(app):
                    ready.set()
                    await done.wait()
            finally:
                ready.set()

        held = asyncio.run_coroutine_threadsafe(hold(), loop)
        assert ready.wait(servers.WAIT)
        self.app = app
        self.running.errors.clear()
        try:
            yield self.running
        finally:
            self.app = unlit
            loop.call_soon_threadsafe(done.set)
            held.result(servers.WAIT)


_kept: dict[servers.HttpImplementation, _Kept] = {}
unlit = hello("no gateway")


@contextlib.contextmanager
def kept_servers() -> Iterator[None]:
    """Have `watched` use one uvicorn of each kind inside, as stopping one takes 0.2 s."""
    kinds: tuple[servers.HttpImplementation, ...] = ("h11", "httptools", "joined")
    with contextlib.ExitStack() as stack:
        stack.callback(_kept.clear)
        for http in kinds:
            _kept[http] = _Kept()
            _kept[http].running = stack.enter_context(servers.serve(_kept[http], http=http))
        yield


def _serving(
    app: ASGIApp, http: servers.HttpImplementation, options: dict[str, Any] | None
) -> contextlib.AbstractContextManager[servers.RunningServer]:
    if options is None and http in _kept:
        return _kept[http].showing(app)
    return servers.serve(app, http=http, **(options or {}))


@contextlib.contextmanager
def watched(
    pool: Pool,
    http: servers.HttpImplementation = "h11",
    *,
    wrap: Callable[[Gateway], ASGIApp] = untouched,
    server: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Watched]:
    """Serve a gateway with this pool on every path; close the pool's transport in the end.

    Args:
        pool: The pool.
        http: uvicorn's HTTP implementation.
        wrap: Puts the gateway into another app.
        server: Options of `tests.servers.serve`. With any, the server is one of its own.
        options: Options of the `Gateway`.
    """
    events: list[RequestFinished] = []

    class Recorder:
        def on_request(self, event: RequestFinished) -> None:
            events.append(event)

    gateway = Gateway({"/": pool}, listeners=[Recorder()], **options)
    front = Watched(gateway, pool, events)
    app = closing(wrap(gateway), pool.transport)
    with _serving(app, http, server) as running:
        front.server = running
        tasks = front.tasks
        yield front
        servers.eventually(lambda: not front.traces(), message=f"no traces: {front.traces()}")
        servers.eventually(lambda: front.tasks <= tasks, message=f"back to {tasks} tasks")
