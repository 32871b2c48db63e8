"""A gateway between a raw client and a scripted backend, all of it over real sockets.

`gateway_before(handler)` is what nearly every test of a rule needs: what went in, what the backend
got, and what came back. `LANES` are the ways in which a gateway reaches its backends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sticky_asgi import Gateway, Pool, Route
from tests import servers

#: `http1` is the gateway's own transport, `httpx` is httpx's.
Lane = Literal["http1", "httpx"]
LANES: tuple[Lane, ...] = ("http1", "httpx")


def transport_of(lane: Lane) -> httpx.AsyncHTTPTransport | None:
    """A pool's `transport` for a lane. Whoever asks for it closes it; see `closing`."""
    return None if lane == "http1" else httpx.AsyncHTTPTransport()


def closing(app: ASGIApp, transport: httpx.AsyncBaseTransport | None) -> ASGIApp:
    """The app; when its lifespan ends, the transport is closed in the same event loop."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_after_closing(message: Message) -> None:
            # Once a server has been told, it lets the event loop go.
            if message["type"] == "lifespan.shutdown.complete" and transport is not None:
                await transport.aclose()
            await send(message)

        is_lifespan = scope["type"] == "lifespan"
        await app(scope, receive, send_after_closing if is_lifespan else send)

    return wrapped


def untouched(app: ASGIApp) -> ASGIApp:
    return app


def obey(connection: servers.Connection) -> None:
    """A handler that answers each request with the bytes in its body. It closes the connection
    after an answer that only this can end, and then alone: one that is closed while it is idle may
    be in use again."""
    is_framed = True
    while is_framed:
        answer = connection.read_request().body
        connection.send(answer)
        head = answer.partition(b"\r\n\r\n")[0].lower()
        is_framed = b"content-length" in head or b"transfer-encoding" in head


@dataclass(frozen=True)
class Front:
    """A gateway that is being served, and what is behind it.

    Attributes:
        server: The uvicorn that serves it.
        backend: The backend, or the first of them.
        gateway: The gateway.
        pool: Its pool, named `shop`.
        http: uvicorn's HTTP implementation.
        lane: How the gateway reaches its backends.
    """

    server: servers.RunningServer
    backend: servers.RawBackend
    gateway: Gateway
    pool: Pool
    http: servers.HttpImplementation
    lane: Lane

    @property
    def port(self) -> int:
        return self.server.port

    def request(
        self,
        method: str = "GET",
        target: bytes = b"/",
        headers: servers.Headers = (),
        body: bytes | Iterable[bytes] | None = None,
        version: str = "1.1",
    ) -> servers.RawResponse:
        """One request on a connection of its own."""
        return servers.request(self.port, method, target, headers, body, version)

    def received(
        self,
        method: str = "GET",
        target: bytes = b"/",
        headers: servers.Headers = (),
        body: bytes | Iterable[bytes] | None = None,
        version: str = "1.1",
    ) -> servers.RawRequest:
        """What the backend gets of a request, which must be answered with 200."""
        seen = len(self.backend.requests)
        answer = self.request(method, target, headers, body, version)
        assert answer.status == 200, answer.raw
        (request,) = self.backend.requests[seen:]
        return request

    def assert_refused(self, data: bytes, *statuses: int) -> servers.RawResponse:
        """Assert that these bytes are answered with one of the statuses and the connection closed,
        and that the backend has never heard of them."""
        connections, requests = len(self.backend.connections), len(self.backend.requests)
        with servers.RawClient(self.port) as client:
            client.send(data)
            answer = client.read_response()
            assert answer.status in statuses, answer.raw
            assert answer.complete
            client.wait_closed()
        assert len(self.backend.connections) == connections
        assert len(self.backend.requests) == requests
        return answer


@contextlib.contextmanager
def gateway_before(
    handler: servers.Handler = servers.echo,
    *,
    http: servers.HttpImplementation = "h11",
    lane: Lane = "http1",
    others: Sequence[str] = (),
    route: Callable[[Pool], Sequence[Route]] = lambda pool: [Route(pool)],
    wrap: Callable[[Gateway], ASGIApp] = untouched,
    gateway: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **pool: Any,
) -> Iterator[Front]:
    """Serve a gateway before a `RawBackend`.

    Args:
        handler: What the backend does. Default: it answers with what it got.
        http: uvicorn's HTTP implementation.
        lane: How the gateway reaches the backend.
        others: URLs of more backends in the pool.
        route: Makes the routes. Default: everything goes to the pool.
        wrap: Puts the gateway into another app.
        gateway: Options of the `Gateway`.
        server: Options of `tests.servers.serve`.
        pool: Options of the `Pool`.
    """
    transport = transport_of(lane)
    with servers.RawBackend(handler) as backend:
        shop = Pool("shop", [backend.url, *others], transport=transport, **pool)
        inside = Gateway(route(shop), **(gateway or {}))
        with servers.serve(
            closing(wrap(inside), transport), http=http, **(server or {})
        ) as running:
            yield Front(running, backend, inside, shop, http, lane)
