"""One HTTP exchange between a client and a backend, both directions."""

from __future__ import annotations

import logging

from .exceptions import ClientDisconnected, GatewayError, StaleConnection
from .exchange import Exchange, Judge
from .request import RawHeaders
from .upstream import UpstreamClient, UpstreamRequest

logger = logging.getLogger("sticky_asgi")


class HttpExchange(Exchange):
    """A client waiting for the response to an HTTP request."""

    __slots__ = ()

    async def _receive_ahead(self) -> None:
        body = self.body
        surplus = 0
        while surplus < 2:
            try:
                message = await self.receive()
            except Exception:
                logger.exception("receive() raised an exception; taken for a client that left")
                break
            if message["type"] == "http.disconnect":
                break
            if body is None or body.is_over:
                # A server sends one empty message for no body. A wrapper that repeats its last
                # message for ever would keep us from ever giving way, and never tells of leaving.
                surplus += 1
                continue
            body.feed(message.get("body", b""), is_last=not message.get("more_body", False))
            if body.error is not None:
                self._break_off(body.error)
                return
            if body.is_over and self._waiting is not None:
                # What can still come is the client's leaving: that can wait.
                self._watcher = None
                self._watch.add(self)
                return
            await body.wait_for_room()
        if surplus < 2:
            self._break_off(ClientDisconnected("the client left"))

    async def forward(self, client: UpstreamClient, request: UpstreamRequest, judge: Judge) -> None:
        """See `Exchange`.

        If the backend fails after the response has started, the client's connection must be
        aborted: the exception, let through to the server, does that.
        """
        try:
            response = await client.send(request)
        except StaleConnection as exc:
            # RFC 9112 §9.3.1: a client may reopen a connection that was closed under it, and
            # repeat what is idempotent.
            if not judge.may_reopen(exc):
                raise
            response = await client.send(request, fresh=True)
        try:
            await self.start(response.status, judge.answered(response))
            is_last = False
            while not is_last:
                piece = await response.read()
                is_last = not piece or response.at_end
                await self.write(piece, is_last=is_last)
        finally:
            if self.response_started:
                self.state.streams -= 1
            await response.aclose()

    def end(self, error: GatewayError) -> None:
        """See `Exchange`. The client's connection is aborted, never ended cleanly."""
        if self.response_started:
            self._break_off(error)

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the head of the response."""
        self.response_started = True
        self.state.streams += 1
        self.status = status
        try:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
        except OSError as exc:
            # ASGI 2.4: a server may raise OSError for a client that has left.
            raise ClientDisconnected("the client left") from exc

    async def write(self, piece: bytes, *, is_last: bool) -> None:
        """Send a piece of the body; returns when the server has room for more."""
        self._is_finishing = is_last
        try:
            await self._send(
                {"type": "http.response.body", "body": piece, "more_body": not is_last}
            )
        except OSError as exc:
            raise ClientDisconnected("the client left") from exc
