"""One WebSocket between a client and a backend: its handshake, then messages both ways.

The backend is asked first; then the client is accepted with what the backend chose, or refused as
the backend did. What happens when that fails is up to `call.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.types import Message, Receive, Send

from .exceptions import BadRequest, ClientDisconnected, GatewayError
from .exchange import ClientWatch, Exchange, Judge
from .request import RawHeaders
from .upstream import (
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamWebSocket,
    WebSocketEnded,
)

logger = logging.getLogger("sticky_asgi")

#: Bytes, and seconds, that a refusal's body may take. Servers hold it until its end.
REFUSAL_SIZE = 65536
REFUSAL_TIME = 5.0

#: Seconds that a backend has to take what a client said before it left, and a client its close.
FAREWELL_TIME = 5.0

#: Messages that are passed on in a row before others get their turn.
IN_A_ROW = 32

#: Codes that stand for something else than what a close frame says (RFC 6455 §7.4.1).
NO_CODE, LOST = 1005, 1006

#: What a backend is told whose drain has ended (RFC 6455 §7.4.1), and what its client, who is to
#: connect again (IANA's registry of close codes).
GOING_AWAY, SERVICE_RESTART = 1001, 1012

_TOO_BIG = "message too big"

_Carrier = asyncio.Task[WebSocketEnded]


class WebSocketExchange(Exchange):
    """A client waiting for its handshake to be answered, and then a WebSocket.

    Args:
        receive: The server's receive.
        send: The server's send.
        watch: Says when to begin to watch.
        loop: The event loop that runs.
        can_refuse: Whether the server can send a response that is no acceptance (ASGI's extension
            `websocket.http.response`). Without it, every refusal is a 403.
        max_message: Bytes a message from the client may have, or None.

    Attributes:
        close_code: The code of whoever ended it first, after it was accepted; None before.
    """

    __slots__ = (
        "_can_refuse",
        "_carriers",
        "_farewell",
        "_is_cut_off",
        "_max_message",
        "close_code",
    )

    def __init__(
        self,
        receive: Receive,
        send: Send,
        watch: ClientWatch,
        loop: asyncio.AbstractEventLoop,
        *,
        can_refuse: bool,
        max_message: int | None,
    ) -> None:
        super().__init__(receive, send, watch, loop)
        self.close_code = None
        self._can_refuse = can_refuse
        self._max_message = max_message
        #: What carries the client's messages, and the backend's.
        self._carriers: tuple[_Carrier, ...] = ()
        self._is_cut_off = False
        self._farewell: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        # Once it is answered, whoever reads its messages notices.
        if not self._is_finishing:
            super().watch()

    async def _receive_ahead(self) -> Message:
        try:
            message = await self.receive()
        except Exception:
            logger.exception("receive() raised an exception; taken for a client that left")
            message = {"type": "websocket.disconnect", "code": LOST}
        if message["type"] == "websocket.disconnect":
            self._break_off(ClientDisconnected("the client left"))
        else:
            # RFC 6455 §4.1: it must wait. Nobody would notice any more that it leaves.
            self._break_off(BadRequest("a message before the WebSocket was accepted"))
        return message

    async def forward(self, client: UpstreamClient, request: UpstreamRequest, judge: Judge) -> None:
        """See `Exchange`. Returns when one side has ended it and the other has been told."""
        self._is_cut_off = False
        answer = await client.open_websocket(request)
        try:
            headers = judge.answered(answer)
            if isinstance(answer, UpstreamWebSocket):
                await self.accept(answer.subprotocol, headers)
                await self._relay(answer)
            else:
                await self.refuse(answer.status, headers, await _body_of(answer))
        finally:
            if self.status == 101:
                self.state.websockets -= 1
            await answer.aclose()

    async def _relay(self, backend: UpstreamWebSocket) -> None:
        """Carry messages both ways until one side ends, and end the other."""
        if self._is_cut_off:
            await self._cut_off(backend)
            return
        inward, outward = await self._carry_both_ways(backend)
        if not outward.cancelled():
            await self._end_client(outward.result())
        elif not inward.cancelled():
            await self._end_backend(backend, inward.result())
        elif self._is_cut_off:
            await self._cut_off(backend)
        else:
            # The client has left, and the backend did not take in time what it had said.
            await self._end_backend(backend, WebSocketEnded(LOST))

    async def _carry_both_ways(self, backend: UpstreamWebSocket) -> tuple[_Carrier, _Carrier]:
        """Returns the client's messages' carrier and the backend's; one at least has its result."""
        inward = asyncio.create_task(_carry(self.read, backend.send))
        outward = asyncio.create_task(_carry(backend.receive, self.write))
        self._carriers = (inward, outward)
        try:
            await asyncio.wait(self._carriers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            inward.cancel()
            outward.cancel()
            self._carriers = ()
            if self._farewell is not None:
                self._farewell.cancel()
            await asyncio.wait((inward, outward))
        return inward, outward

    async def _end_client(self, ended: WebSocketEnded) -> None:
        self.close_code = ended.code
        # ASGI knows no close without a code.
        fallback = 1000 if ended.code == NO_CODE else 1011
        await self.close(ended.code if may_be_sent(ended.code) else fallback, ended.reason)
        if ended.error is not None:
            raise ended.error

    async def _end_backend(self, backend: UpstreamWebSocket, ended: WebSocketEnded) -> None:
        self.close_code = ended.code
        # Else it loses its client as we did.
        if ended.code == NO_CODE or may_be_sent(ended.code):
            await backend.close(ended.code, ended.reason)

    def end(self, error: GatewayError) -> None:
        """See `Exchange`. The client is told to come back, and the backend that it is left; during
        the handshake, when the backend has accepted.
        """
        self._is_cut_off = True
        for carrier in self._carriers:
            carrier.cancel()

    async def _cut_off(self, backend: UpstreamWebSocket) -> None:
        self.close_code = SERVICE_RESTART
        await self.close(SERVICE_RESTART, "")
        await backend.close(GOING_AWAY)

    async def accept(self, subprotocol: str | None, headers: RawHeaders) -> None:
        """Complete the handshake."""
        self._answer(101)
        self.state.websockets += 1
        await self._tell(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers}
        )

    async def refuse(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Answer the handshake with a response, if the server can, else with a bare 403."""
        if not self._can_refuse:
            self._answer(403)
            await self._tell({"type": "websocket.close", "code": 1000})
            return
        self._answer(status)
        headers = [field for field in headers if field[0] != b"content-length"]
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
        # Some servers send what has come of the body as soon as they get to run.
        await self._tell(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await self._tell({"type": "websocket.http.response.body", "body": body})

    def _answer(self, status: int) -> None:
        self._is_finishing = self.response_started = True
        self.status = status

    async def _tell(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as exc:
            raise ClientDisconnected("the client left") from exc

    async def read(self) -> str | bytes:
        """The next message from the client. Raises WebSocketEnded."""
        watcher, self._watcher = self._watcher, None
        message = (None if watcher is None else await watcher) or await self.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketEnded(message.get("code") or NO_CODE, message.get("reason") or "")
        text: str | None = message.get("text")
        content = message["bytes"] if text is None else text
        if self._is_too_big(content):
            await self.close(1009, _TOO_BIG)
            raise WebSocketEnded(1009, _TOO_BIG)
        return content

    def _is_too_big(self, content: str | bytes) -> bool:
        most = self._max_message
        # A character has four bytes at most.
        if most is None or len(content) * 4 <= most:
            return False
        return len(content.encode() if isinstance(content, str) else content) > most

    async def write(self, message: str | bytes) -> None:
        """Send a message to the client; returns when there is room for more."""
        kind = "text" if isinstance(message, str) else "bytes"
        try:
            await self._send({"type": "websocket.send", kind: message})
        except (OSError, RuntimeError) as exc:
            # uvicorn raises RuntimeError when it was the one who closed it, as it does for a
            # message that is too big.
            if self._carriers and self._farewell is None:
                # What the client said before may still be delivered, but not for ever: a backend
                # that talks and does not listen would never learn that it talks to nobody.
                self._farewell = self._loop.call_later(FAREWELL_TIME, self._carriers[0].cancel)
            raise WebSocketEnded(LOST) from exc

    async def close(self, code: int, reason: str) -> None:
        """Close it; without effect when the client has left, or takes nothing any more."""
        with suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(FAREWELL_TIME):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})


def may_be_sent(code: int) -> bool:
    """Whether a close frame may have this code (RFC 6455 §7.4)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, NO_CODE, LOST))


async def _body_of(refusal: UpstreamResponse) -> bytes:
    """The body of a refusal, or none if it is not worth the wait."""
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_TIME):
            while len(body) <= REFUSAL_SIZE:
                piece = await refusal.read()
                if not piece:
                    return body
                body += piece
    return b""


async def _carry(
    read: Callable[[], Awaitable[str | bytes]], write: Callable[[str | bytes], Awaitable[None]]
) -> WebSocketEnded:
    """Pass messages on, one at a time, until there is none any more."""
    in_a_row = 0
    while True:
        try:
            message = await read()
        except WebSocketEnded as ended:
            return ended
        try:
            await write(message)
        except WebSocketEnded:
            # Who takes no message any more may still have some to deliver. Those come first.
            pass
        in_a_row += 1
        if in_a_row == IN_A_ROW:
            # As long as neither side has to wait nobody else would get to run.
            in_a_row = 0
            await asyncio.sleep(0)
