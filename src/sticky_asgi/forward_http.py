"""One HTTP exchange between a client and a backend, both directions.

`HttpExchange` is the client's side: its request body, its leaving, and what it has been sent.
`forward` carries the exchange to one backend. Neither chooses a backend nor repeats anything:
`gateway.py` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from starlette.types import Message, Receive, Send

from .exceptions import BadRequest, BodyTooLarge, ClientDisconnected, ClientError
from .headers import downstream_headers
from .request import RawHeader, RawHeaders
from .upstream import UpstreamClient, UpstreamRequest, UpstreamResponse

logger = logging.getLogger("sticky_asgi")

#: Bytes of a request body that are read ahead of the backend.
READ_AHEAD = 65536


class ClientBody:
    """A request body, read from the server ahead of need and kept for repetition.

    Pieces are kept until `keep` bytes have come; from then on they are let go as they are sent,
    and the body can no longer be repeated.

    Args:
        keep: Bytes to hold for a repetition.
        max_body: Bytes allowed in all, or None.
        length: The declared length, or None.
    """

    def __init__(self, *, keep: int, max_body: int | None, length: int | None) -> None:
        self._keep = keep
        self._max_body = max_body
        self._length = length
        self._pieces: deque[bytes] = deque()
        self._dropped = 0
        self._received = 0
        self._sent = 0
        self._is_over = False
        self._error: ClientError | None = None
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    @property
    def complete(self) -> bytes | None:
        """The whole body if it is at hand already, else None."""
        if not self._is_over or self._dropped or self._error is not None:
            return None
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    @property
    def is_over(self) -> bool:
        """Whether the last piece has arrived."""
        return self._is_over

    @property
    def error(self) -> ClientError | None:
        """What was wrong with the body, if anything."""
        return self._error

    @property
    def is_replayable(self) -> bool:
        """Whether the body can be sent again from its beginning."""
        return self._dropped == 0

    def feed(self, piece: bytes, *, is_last: bool) -> None:
        """A piece has arrived from the client."""
        self._received += len(piece)
        if self._max_body is not None and self._received > self._max_body:
            return self.fail(BodyTooLarge(f"request body over {self._max_body} bytes"))
        if self._length is not None and (
            self._received > self._length or (is_last and self._received != self._length)
        ):
            return self.fail(BadRequest("request body does not have its declared length"))
        if piece:
            self._pieces.append(piece)
        self._is_over = is_last
        self._arrived.set()
        return None

    def fail(self, error: ClientError) -> None:
        """The body will not arrive whole."""
        if not self._is_over and self._error is None:
            self._error = error
            self._arrived.set()
            self._taken.set()

    async def wait_for_room(self) -> None:
        """Wait until reading further ahead makes sense."""
        # After the last piece only the client's leaving can still be read: no reason to wait.
        while (
            self._received - self._sent > READ_AHEAD and not self._is_over and self._error is None
        ):
            self._taken.clear()
            await self._taken.wait()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        index = sent = 0
        while True:
            while index < len(self._pieces) + self._dropped:
                piece = self._pieces[index - self._dropped]
                index += 1
                sent += len(piece)
                yield piece
                self._mark_sent(index, sent)
            if self._error is not None:
                raise self._error
            if self._is_over:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def _mark_sent(self, index: int, sent: int) -> None:
        if sent > self._keep:
            while self._dropped < index:
                self._pieces.popleft()
                self._dropped += 1
        self._sent = max(self._sent, sent)
        self._taken.set()


class HttpExchange:
    """A client waiting for its response. An asynchronous context manager for its duration.

    Inside the block the client is watched: when it leaves, or sends a body that must be refused,
    whatever the block awaits is cancelled and the `ClientError` is raised at its end. A
    cancellation from elsewhere passes through.

    Args:
        receive: The server's receive.
        send: The server's send.

    Attributes:
        body: The request's body; None, as at first, for a request without one.
        response_started: Whether the client has been sent the head of a response.
        status: The status it has been sent, or None.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self._send = send
        self.body: ClientBody | None = None
        self.response_started = False
        self.status: int | None = None
        self._is_finishing = False
        self._verdict: ClientError | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._watcher: asyncio.Task[None] | None = None

    @property
    def is_replayable(self) -> bool:
        """Whether the request can be sent once more."""
        return self.body is None or self.body.is_replayable

    async def __aenter__(self) -> HttpExchange:
        self._waiting = task = asyncio.current_task()
        self._cancelling = 0 if task is None else task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        if self._verdict is None or self._waiting is None:
            return
        # The cancellation was ours: take it back, unless somebody else cancelled as well.
        if self._waiting.uncancel() <= self._cancelling and (
            exc is None or isinstance(exc, asyncio.CancelledError | ClientError)
        ):
            raise self._verdict from None

    async def take_first_piece(self) -> None:
        """Let the watcher have a look: what came with the head can go out with the head."""
        if self.body is not None:
            await asyncio.sleep(0)

    async def _watch(self) -> None:
        """Read whatever the client sends, until it leaves."""
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
            await body.wait_for_room()
        if surplus < 2:
            self._break_off(ClientDisconnected("the client left"))

    def _break_off(self, verdict: ClientError) -> None:
        if self._is_finishing or self._waiting is None:
            # The server says "disconnect" after every complete response, too.
            return
        self._verdict = verdict
        if self.body is not None:
            self.body.fail(verdict)
        self._waiting.cancel(str(verdict))

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the head of the response."""
        self.response_started = True
        self.status = status
        await self._say({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes, *, is_last: bool) -> None:
        """Send a piece of the body; returns when the server has room for more."""
        self._is_finishing = is_last
        await self._say({"type": "http.response.body", "body": piece, "more_body": not is_last})

    async def _say(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as exc:
            # ASGI 2.4: a server may raise OSError for a client that has left.
            raise ClientDisconnected("the client left") from exc


async def forward(
    exchange: HttpExchange,
    client: UpstreamClient,
    request: UpstreamRequest,
    *,
    on_head: Callable[[UpstreamResponse, RawHeaders], Sequence[RawHeader]],
    fresh: bool = False,
) -> None:
    """Carry an exchange to one backend, and its response back.

    Args:
        exchange: The client's side.
        client: The backend's side.
        request: What to send.
        on_head: Called with a response that may be passed on and its headers; returns headers to
            add, or raises an `UpstreamError` to have the response discarded.
        fresh: Whether to insist on a new connection.

    Raises:
        UpstreamError: The backend failed. If the response has started, the client's connection
            must be aborted: this exception, let through to the server, does that.
        ClientError: The request broke off, or the client left.
    """
    response = await client.send(request, fresh=fresh)
    try:
        headers = downstream_headers(response.headers, status=response.status)
        headers.extend(on_head(response, headers))
        await _relay(exchange, response, headers)
    finally:
        await response.aclose()


async def _relay(exchange: HttpExchange, response: UpstreamResponse, headers: RawHeaders) -> None:
    await exchange.start(response.status, headers)
    is_last = False
    while not is_last:
        piece = b"" if response.at_end else await response.read()
        is_last = not piece or response.at_end
        await exchange.write(piece, is_last=is_last)
