"""A gateway whose every trace is looked for at the end: what a request leaves behind is a failure.

`watched(pool)` serves a gateway over sockets, records the events of its requests, and asserts when
it is left that nothing is in flight, queued, busy or still running.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from starlette.types import ASGIApp

from sticky_asgi import BackendState, Gateway, Pool, RequestFinished, RequestInfo
from sticky_asgi.upstream.connections import Http1Client
from tests import servers
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
            "exchanges": self.exchanges,
        }
        for state in pool.states:
            counts[f"{state.id} in flight"] = state.in_flight
        return {name: count for name, count in counts.items() if count}


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
        server: Options of `tests.servers.serve`.
        options: Options of the `Gateway`.
    """
    events: list[RequestFinished] = []

    class Recorder:
        def on_request(self, event: RequestFinished) -> None:
            events.append(event)

    gateway = Gateway({"/": pool}, listeners=[Recorder()], **options)
    front = Watched(gateway, pool, events)
    app = closing(wrap(gateway), pool.transport)
    with servers.serve(app, http=http, **(server or {})) as running:
        front.server = running
        tasks = front.tasks
        yield front
        servers.eventually(lambda: not front.traces(), message=f"no traces: {front.traces()}")
        servers.eventually(lambda: front.tasks <= tasks, message=f"back to {tasks} tasks")
