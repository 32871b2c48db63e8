"""A WebSocket to an ASGI application in process.

The application is called as a server calls it. One that does not accept has refused: with 403 if
it closes, else with the response it sends (ASGI's extension `websocket.http.response`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
from starlette.types import ASGIApp, Message

from ..backend import Backend
from ..exceptions import ConnectionLost, MalformedResponse, UpstreamError
from ..headers import downstream_headers
from ..request import RawHeaders
from .asgi_scope import scope_of
from .client import UpstreamRequest
from .task_exchange import TaskExchange
from .websocket import (
    WebSocketEnded,
    chosen_subprotocol,
    handshake_headers,
    offered_subprotocols,
)

logger = logging.getLogger("sticky_asgi.upstream")

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class AsgiHandshake(TaskExchange):
    """One call of an application, which accepts or refuses. As a response it is the refusal.

    Args:
        app: The application.
        backend: Its backend.
        request: See `UpstreamClient.open_websocket`.
        state: What the application's lifespan put into its state.
        close_timeout: Seconds the application has to return once the WebSocket is over.

    Attributes:
        websocket: The WebSocket, if the application has accepted.
    """

    def __init__(
        self,
        app: ASGIApp,
        backend: Backend,
        request: UpstreamRequest,
        state: Mapping[str, Any],
        *,
        close_timeout: float,
    ) -> None:
        super().__init__(backend.id, request.method)
        self.websocket: AsgiWebSocket | None = None
        self._app = app
        self._close_timeout = close_timeout
        self._subprotocols = offered_subprotocols(request.headers)
        self._scope_for_app = scope_of(
            request,
            backend,
            state,
            type="websocket",
            scheme="wss" if request.scheme == "https" else "ws",
            subprotocols=self._subprotocols,
            extensions={"websocket.http.response": {}},
        )
        self._is_connected = False
        self._answered = asyncio.Event()

    async def produce(self) -> None:
        try:
            await self._app(self._scope_for_app, self._receive_for_app, self._send_for_app)
        except Exception as exc:
            if isinstance(exc, MalformedResponse):
                raise
            if self._is_over:
                logger.info("%s raised after the WebSocket: %r", self._who, exc)
                return
            logger.error("%s raised an exception", self._who, exc_info=exc)
            raise self._lost("raised an exception") from exc
        if self.websocket is None and not self._is_over:
            raise self._lost("returned before it had answered")

    @property
    def _is_over(self) -> bool:
        if self.websocket is not None:
            return self.websocket.is_over
        return self._is_last or self._answered.is_set()

    def _lost(self, what: str) -> ConnectionLost:
        return ConnectionLost(f"{self._who} {what}", stage=self.stage)

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        if self.websocket is None:
            return
        if isinstance(self._error, UpstreamError):
            self.websocket.end(1006, error=self._error)
        else:
            self.websocket.end(1000)

    async def aclose(self) -> None:
        # Here, for whoever waited for the answer may have left in the tick in which it came.
        if self.websocket is not None:
            self.websocket.leave(1006)
        await super().aclose()

    async def abandon(self) -> None:
        self._answered.set()
        if not self._is_last:
            asyncio.get_running_loop().call_later(self._close_timeout, self._scope.cancel)

    async def join(self) -> None:
        """Wait for the application to return, until its time is over."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=self._close_timeout)
        self._scope.cancel()

    # ASGI

    async def _receive_for_app(self) -> Message:
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        await self._answered.wait()
        if self.websocket is None:
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        return await self.websocket.receive_for_app()

    async def _send_for_app(self, message: Message) -> None:
        kind = message["type"]
        if self.websocket is not None:
            self._is_last = await self.websocket.send_for_app(message)
        elif self._is_last:
            raise RuntimeError(f"{kind} sent after the handshake was refused")
        elif self._answered.is_set():
            raise OSError("the client has left")
        elif kind == "websocket.http.response.body" and self.status:
            await self._pass_on(message)
        elif self.status:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self.start(403, [])
            await self._pass_on({})
        elif kind == "websocket.http.response.start":
            self.start(message["status"], _fields(message))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _accept(self, message: Message) -> None:
        headers = handshake_headers(downstream_headers(_fields(message), status=101))
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            subprotocol = chosen_subprotocol(self._who, subprotocol, self._subprotocols)
        self.websocket = AsgiWebSocket(self, subprotocol, headers)
        self._answered.set()
        self.begin(101, headers)

    async def _pass_on(self, message: Message) -> None:
        is_last = not message.get("more_body", False)
        with suppress(anyio.BrokenResourceError):
            await self.deliver(message.get("body", b""), is_last=is_last)
        if is_last:
            self._answered.set()
            self._sink.close()


class AsgiWebSocket:
    """See `UpstreamWebSocket`. At most one message waits in each direction."""

    status = 101

    def __init__(
        self, handshake: AsgiHandshake, subprotocol: str | None, headers: RawHeaders
    ) -> None:
        self.subprotocol = subprotocol
        self.headers = headers
        self._handshake = handshake
        self._end: tuple[int, str, UpstreamError | None] | None = None
        self._to_app, self._for_app = anyio.create_memory_object_stream[str | bytes](1)
        self._to_gateway, self._for_gateway = anyio.create_memory_object_stream[str | bytes](1)

    @property
    def is_over(self) -> bool:
        """Whether one of the sides has ended it."""
        return self._end is not None

    def end(self, code: int, reason: str = "", error: UpstreamError | None = None) -> None:
        """The application has ended it: it takes no message any more, and sends none."""
        self._end = self._end or (code, reason, error)
        for stream in (self._to_app, self._for_app, self._to_gateway):
            stream.close()

    def leave(self, code: int, reason: str = "") -> None:
        """The gateway has ended it. What it has sent before is still delivered."""
        self._end = self._end or (code, reason, None)
        self._to_app.close()
        self._for_gateway.close()

    def _ended(self) -> WebSocketEnded:
        return WebSocketEnded(*(self._end or (1006, "", None)))

    # For the gateway.

    async def receive(self) -> str | bytes:
        """The next message."""
        try:
            return await self._for_gateway.receive()
        except _GONE:
            raise self._ended() from None

    async def send(self, message: str | bytes) -> None:
        """Send a message; returns when there is room for another."""
        try:
            await self._to_app.send(message)
        except _GONE:
            raise self._ended() from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, and wait for the application to return, for `close_timeout` at most."""
        if self._end is None:
            self.leave(code, reason)
            await self._handshake.join()

    async def aclose(self) -> None:
        """Let go of it. Without a close before, the application is told 1006."""
        await self._handshake.aclose()

    # For the application.

    async def receive_for_app(self) -> Message:
        """What its `receive()` returns."""
        try:
            message = await self._for_app.receive()
        except _GONE:
            ended = self._ended()
            return {"type": "websocket.disconnect", "code": ended.code, "reason": ended.reason}
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", kind: message}

    async def send_for_app(self, message: Message) -> bool:
        """What its `send()` does. Whether it has closed the WebSocket with it."""
        if message["type"] == "websocket.close":
            self.end(message.get("code", 1000), message.get("reason") or "")
            return True
        if message["type"] != "websocket.send":
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")
        text = message.get("text")
        try:
            await self._to_gateway.send(bytes(message["bytes"]) if text is None else text)
        except _GONE:
            raise OSError("the WebSocket is closed") from None
        return False


def _fields(message: Message) -> RawHeaders:
    return [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
