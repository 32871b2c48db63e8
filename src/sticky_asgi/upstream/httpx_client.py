"""The httpx seam: any transport made for httpx, or for httpx2, carries the requests.

Only the transport is used. What `httpx.Client` adds (redirects, cookies, default headers, proxies
from the environment, .netrc, decoding) never comes into play.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import anyio

from ..backend import Backend
from ..exceptions import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    GatewayError,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
)
from ..timeouts import Timeouts
from .client import RequestBody, UpstreamRequest, UpstreamResponse
from .connections import Http1Client
from .task_exchange import TaskExchange
from .websocket import UpstreamWebSocket

#: Where httpcore has taken a connection in hand and opened nothing yet.
_BEFORE_CONNECTING = ("connection.connect_tcp.started", "connection.connect_unix_socket.started")


def family_of(transport: object) -> ModuleType:
    """The package, httpx or httpx2, that a transport is made for.

    Raises:
        ValueError: The object is no asynchronous transport of either.
    """
    for cls in type(transport).__mro__:
        package = sys.modules.get(cls.__module__.partition(".")[0])
        if package is not None and getattr(package, "AsyncBaseTransport", None) is cls:
            return package
    raise ValueError(
        f"transport must be an httpx.AsyncBaseTransport or an httpx2 one, got {transport!r}"
    )


class HttpxClient:
    """Sends requests to one backend through a transport.

    Args:
        backend: A backend with a URL.
        transport: The transport.
        timeouts: See `Timeouts`.
        own: Opens the WebSockets, which no transport can carry. Default None: one with the
            defaults.
    """

    def __init__(
        self,
        backend: Backend,
        transport: Any,
        *,
        timeouts: Timeouts,
        own: Http1Client | None = None,
    ) -> None:
        self.backend = backend
        self.transport = transport
        self.timeouts = timeouts
        self.family = family_of(transport)
        self.has_pool = isinstance(transport, self.family.AsyncHTTPTransport)
        self.url = self.family.URL(f"{backend.scheme}://{backend.authority}/")
        self.own = own or Http1Client(backend, timeouts=timeouts)
        self.tasks: set[asyncio.Task[None]] = set()

    async def send(self, request: UpstreamRequest, *, fresh: bool = False) -> HttpxExchange:
        """Send a request. `fresh` has no meaning here: the connections are the transport's."""
        if self.backend.uds is not None:
            # Its URL would name localhost, and whoever listens there is somebody else.
            raise ConnectError(
                f"backend {self.backend.id} is a socket, which a transport for httpx reaches only "
                "by its own option: give it uds= and the backend an http:// URL"
            )
        exchange = HttpxExchange(self, request)
        await exchange.open(self.tasks)
        return exchange

    async def open_websocket(
        self, request: UpstreamRequest
    ) -> UpstreamWebSocket | UpstreamResponse:
        """Open a WebSocket, past the transport. See `UpstreamClient`."""
        return await self.own.open_websocket(request)

    async def reach(self) -> None:
        """Open a connection and close it, past the transport. See `UpstreamClient`."""
        await self.own.reach()

    async def aclose(self) -> None:
        """The transport belongs to whoever made it; exchanges under way end on their own."""
        await self.own.aclose()

    def __repr__(self) -> str:
        return f"<HttpxClient {self.backend.id} [{len(self.tasks)} busy]>"


class HttpxExchange(TaskExchange):
    """One exchange through a transport.

    httpcore 1.0.9 and httpcore2 2.0.0 leak a connection for good when the request it has just been
    given to is cancelled before it takes it, and anyio 4.10 leaks a socket that is cancelled as it
    connects. So the exchange has a task of its own, which is cancelled by a scope inside it, and
    not before the connection stands: that ends by itself, at the latest after `Timeouts.connect`.
    """

    def __init__(self, client: HttpxClient, request: UpstreamRequest) -> None:
        super().__init__(client.backend.id, request.method)
        self._client = client
        self._request = request
        self._is_connecting = client.has_pool
        self._is_abandoned = False
        timeouts = client.timeouts
        self._timeout = {
            "connect": timeouts.connect,
            "read": timeouts.response,
            "write": timeouts.response,
            "pool": timeouts.connect,
        }

    async def produce(self) -> None:
        try:
            response = await self._client.transport.handle_async_request(self._build())
            try:
                # Transports look it up when the body is read: from here on it means the pauses.
                self._timeout["read"] = self._client.timeouts.idle
                self.start(response.status_code, list(response.headers.raw))
                async for piece in response.stream:
                    await self.deliver(piece)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except (GatewayError, anyio.BrokenResourceError):
            raise
        except Exception as exc:
            raise self._mapped(exc) from exc

    async def abandon(self) -> None:
        self._is_abandoned = True
        if not self._is_connecting:
            self._scope.cancel()

    async def _trace(self, event: str, info: object) -> None:
        """Told by httpcore what it is about to do, or has done.

        Ends an abandoned exchange where there is no connection yet, or one that is looked after.
        """
        if self._is_connecting:
            self._is_connecting = event.startswith("connection.")
            is_between = not self._is_connecting or event in _BEFORE_CONNECTING
            if self._is_abandoned and is_between:
                raise anyio.BrokenResourceError

    def _build(self) -> Any:
        request, family = self._request, self._client.family
        extensions: dict[str, Any] = {"timeout": self._timeout, "target": request.target}
        if self._is_connecting:
            extensions["trace"] = self._trace
        built = family.Request(
            request.method,
            self._client.url,
            headers=request.headers,
            stream=_stream_class(family)(request.body),
            extensions=extensions,
        )
        # It was put into upper case, but methods are case-sensitive (RFC 9110 §9.1).
        built.method = request.method
        return built

    def _mapped(self, exc: Exception) -> Exception:
        """An httpx exception as ours. Other exceptions are bugs, and stay what they are."""
        family, where = self._client.family, f"{self._who}: {exc!r}"
        if isinstance(exc, family.ConnectTimeout | family.PoolTimeout):
            return ConnectTimeout(where)
        if isinstance(exc, family.ConnectError | family.UnsupportedProtocol):
            return ConnectError(where)
        if isinstance(exc, family.TimeoutException):
            return IdleTimeout(where) if self.stage == "body" else ResponseTimeout(where)
        if isinstance(exc, family.RemoteProtocolError):
            # httpx has one name for nonsense and for an early end; the former is the safer
            # reading, as both are repeated under the same conditions.
            return MalformedResponse(where, stage=self.stage)
        if isinstance(exc, family.TransportError):
            return ConnectionLost(where, stage=self.stage)
        return exc


async def _pieces(body: RequestBody | None) -> AsyncIterator[bytes]:
    if body is not None:
        async for piece in body:
            yield piece


def _stream_class(family: ModuleType) -> Any:
    """An `AsyncByteStream` of the right family: transports check for their own."""
    try:
        return _STREAMS[family.__name__]
    except KeyError:
        pass

    class BodyStream(family.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, body: RequestBody | None) -> None:
            self._body = body

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _pieces(self._body)

        async def aclose(self) -> None:
            pass

    _STREAMS[family.__name__] = BodyStream
    return BodyStream


_STREAMS: dict[str, Any] = {}
