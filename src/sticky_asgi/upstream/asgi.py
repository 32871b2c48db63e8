"""A backend in process: an ASGI application instead of an address.

It behaves as a server would: the response streams, a reader that goes away is an
`http.disconnect`, and an application that raises is a backend that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import anyio
from starlette.types import ASGIApp, Message

from ..backend import Backend
from ..exceptions import ClientError, ConnectionLost, MalformedResponse
from ..websocket_options import WebSocketOptions
from .asgi_scope import scope_of
from .asgi_websocket import AsgiHandshake
from .client import UpstreamRequest, UpstreamResponse
from .task_exchange import TaskExchange
from .websocket import UpstreamWebSocket

logger = logging.getLogger("sticky_asgi.upstream")

#: Seconds an application gets to notice `http.disconnect` before its task is cancelled.
DISCONNECT_GRACE = 1.0

_NO_STATE: Mapping[str, Any] = MappingProxyType({})


class AsgiClient:
    """Sends requests to an application in the running event loop.

    Args:
        backend: A backend with an `app`.
        state: What the application's lifespan put into its state. Every request gets a copy.
        websocket: Of it only `close_timeout` means anything here.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        state: Mapping[str, Any] = _NO_STATE,
        websocket: WebSocketOptions = WebSocketOptions(),
    ) -> None:
        if backend.app is None:
            raise ValueError(f"backend {backend.id!r} is not in process")
        self.backend = backend
        self.app: ASGIApp = backend.app
        self.state = state
        self.websocket = websocket
        self.tasks: set[asyncio.Task[None]] = set()

    async def send(self, request: UpstreamRequest, *, fresh: bool = False) -> AsgiExchange:
        """Call the application. `fresh` has no meaning here."""
        exchange = AsgiExchange(self.app, self.backend, request, self.state)
        await exchange.open(self.tasks)
        return exchange

    async def open_websocket(
        self, request: UpstreamRequest
    ) -> UpstreamWebSocket | UpstreamResponse:
        """Call the application. See `UpstreamClient`."""
        handshake = AsgiHandshake(
            self.app,
            self.backend,
            request,
            self.state,
            close_timeout=self.websocket.close_timeout,
        )
        await handshake.open(self.tasks)
        return handshake.websocket or handshake

    async def reach(self) -> None:
        """It is always there."""

    async def aclose(self) -> None:
        """Nothing is idle here; running calls end on their own."""

    def __repr__(self) -> str:
        return f"<AsgiClient {self.backend.id} [{len(self.tasks)} busy]>"


class AsgiExchange(TaskExchange):
    """One call of an application."""

    def __init__(
        self, app: ASGIApp, backend: Backend, request: UpstreamRequest, state: Mapping[str, Any]
    ) -> None:
        super().__init__(backend.id, request.method)
        self._app = app
        self._backend = backend
        self._request = request
        self._state = state
        self._body = None if request.body is None else aiter(request.body)
        self._is_body_read = False
        self._disconnected = asyncio.Event()
        self._body_error: ClientError | None = None

    async def produce(self) -> None:
        method = self._request.method
        scope = scope_of(self._request, self._backend, self._state, type="http", method=method)
        try:
            await self._app(scope, self._receive_for_app, self._send_for_app)
        except Exception as exc:
            if self._body_error is not None:
                raise self._body_error from None
            if isinstance(exc, MalformedResponse):
                raise
            if self._is_last or self._disconnected.is_set():
                logger.info("%s raised after the response: %r", self._who, exc)
                return
            logger.error("%s raised an exception", self._who, exc_info=exc)
            raise self._lost("raised an exception") from exc
        if self._body_error is not None:
            raise self._body_error
        if not self._is_last and not self._disconnected.is_set():
            raise self._lost("returned before its response was complete")

    def _lost(self, what: str) -> ConnectionLost:
        return ConnectionLost(f"{self._who} {what}", stage=self.stage)

    async def _receive_for_app(self) -> Message:
        if self._body is not None and not self._is_body_read:
            try:
                piece = await anext(self._body)
            except StopAsyncIteration:
                pass
            except ClientError as exc:
                self._body_error = exc
                self._disconnected.set()
                return {"type": "http.disconnect"}
            else:
                return {"type": "http.request", "body": piece, "more_body": True}
        if not self._is_body_read:
            self._is_body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send_for_app(self, message: Message) -> None:
        if self._is_last:
            raise RuntimeError(f"{message['type']} sent after the response was complete")
        if self._disconnected.is_set():
            return
        if message["type"] == "http.response.start" and not self.status:
            headers: list[Any] = list(message.get("headers", ()))
            fields = [(bytes(name), bytes(value)) for name, value in headers]
            self.start(message["status"], fields)
        elif message["type"] == "http.response.body" and self.status:
            await self._pass_on(message)
        else:
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")

    async def _pass_on(self, message: Message) -> None:
        is_last = not message.get("more_body", False)
        try:
            await self.deliver(message.get("body", b""), is_last=is_last)
        except anyio.BrokenResourceError:
            self._disconnected.set()
        if is_last:
            self._disconnected.set()
            self._sink.close()

    async def abandon(self) -> None:
        self._disconnected.set()
        if not self._is_last:
            asyncio.get_running_loop().call_later(DISCONNECT_GRACE, self._scope.cancel)
