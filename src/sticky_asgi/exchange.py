"""The client's side of one exchange: its request body, its leaving, and what it has been sent.

An exchange can be carried to one backend, and neither chooses that nor repeats anything:
`call.py` does. `forward_http.py` and `forward_websocket.py` say how it is carried.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from starlette.types import Message, Receive, Send

from .backend import BackendState
from .client_body import ClientBody
from .exceptions import ClientError, GatewayError, StaleConnection
from .request import RawHeaders
from .upstream import UpstreamClient, UpstreamRequest, UpstreamResponse, UpstreamWebSocket

#: Seconds between two looks at who is still waiting.
LOOK_EVERY = 0.02


class ClientWatch:
    """The exchanges under way in one event loop; has those clients watched whose response is late.

    To notice that a client leaves takes a task that receives from it. Most responses are complete
    before that would pay: an exchange gets its watcher when it is still there at the second look.
    """

    def __init__(self) -> None:
        # No reference to the loop: whoever holds this would keep the loop alive.
        self._is_looking = False
        self._new: set[Exchange] = set()
        self._seen: set[Exchange] = set()
        self._watched: set[Exchange] = set()

    def __iter__(self) -> Iterator[Exchange]:
        return iter((*self._new, *self._seen, *self._watched))

    def on(self, state: BackendState) -> list[Exchange]:
        """The exchanges with one backend."""
        return [exchange for exchange in self if getattr(exchange, "state", None) is state]

    def add(self, exchange: Exchange) -> None:
        """An exchange is to be watched if it takes long."""
        self._watched.discard(exchange)
        self._new.add(exchange)
        if not self._is_looking:
            self._look_later()

    def add_watched(self, exchange: Exchange) -> None:
        """An exchange is watched from its beginning."""
        self._watched.add(exchange)

    def discard(self, exchange: Exchange) -> None:
        """It has ended."""
        self._new.discard(exchange)
        self._seen.discard(exchange)
        self._watched.discard(exchange)

    def _look_later(self) -> None:
        self._is_looking = True
        asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        for exchange in self._seen:
            exchange.watch()
        self._watched |= self._seen
        self._seen, self._new = self._new, set()
        self._is_looking = False
        if self._seen:
            self._look_later()

    def __repr__(self) -> str:
        unwatched = len(self._new) + len(self._seen)
        return f"<ClientWatch [{unwatched} unwatched, {len(self._watched)} watched]>"


class Judge(Protocol):
    """Says what becomes of a backend's answer, or of its silence."""

    def answered(self, response: UpstreamResponse | UpstreamWebSocket) -> RawHeaders:
        """A response has come that may be passed on.

        Returns the header section for the client, a list of its own, or raises an `UpstreamError`
        to have the response discarded.
        """
        ...

    def may_reopen(self, error: StaleConnection) -> bool:
        """Whether a request that met a stale connection may be sent on a new one."""
        ...


class Exchange(ABC):
    """A client waiting for its response. A context manager for its duration.

    Inside the block the client is watched, from the beginning if it sends a body, else once its
    response is late: when it leaves, or sends a body that must be refused, whatever the block
    awaits is cancelled and the `ClientError` is raised at its end. A cancellation from elsewhere
    passes through.

    Args:
        receive: The server's receive.
        send: The server's send.
        watch: Says when to begin to watch.
        loop: The event loop that runs.

    Attributes:
        body: The request's body; None, as at first, for a request without one.
        state: The backend that it is carried to. Not set before there is one.
        response_started: Whether the client has been sent the head of a response.
        status: The status it has been sent, or None.
        close_code: The code that ended a WebSocket, or None.
    """

    close_code: int | None = None
    state: BackendState

    __slots__ = (
        "_cancelling",
        "_is_finishing",
        "_loop",
        "_send",
        "_verdict",
        "_waiting",
        "_watch",
        "_watcher",
        "body",
        "receive",
        "response_started",
        "state",
        "status",
    )

    def __init__(
        self, receive: Receive, send: Send, watch: ClientWatch, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.receive = receive
        self._send = send
        self._watch = watch
        self._loop = loop
        self.body: ClientBody | None = None
        self.response_started = False
        self.status: int | None = None
        self._is_finishing = False
        self._verdict: GatewayError | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._watcher: asyncio.Task[Message | None] | None = None

    @property
    def is_replayable(self) -> bool:
        """Whether the request can be sent once more."""
        return self.body is None or self.body.is_replayable

    def __enter__(self) -> Self:
        self._waiting = task = asyncio.current_task(self._loop)
        self._cancelling = 0 if task is None else task.cancelling()
        if self.body is None:
            self._watch.add(self)
        else:
            self._watch.add_watched(self)
            self.watch()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watch.discard(self)
        if self._watcher is not None:
            self._watcher.cancel()
            # What it is cancelled by holds its frames, and they this: no circle.
            self._watcher = None
        waiting, self._waiting = self._waiting, None
        if self._verdict is None or waiting is None:
            return
        # The cancellation was ours: take it back, unless somebody else cancelled as well.
        if waiting.uncancel() <= self._cancelling and (
            exc is None or isinstance(exc, asyncio.CancelledError | ClientError)
        ):
            raise self._verdict from None

    async def take_first_piece(self) -> None:
        """Let the watcher have a look: what came with the head can go out with the head."""
        await asyncio.sleep(0)

    @abstractmethod
    async def forward(self, client: UpstreamClient, request: UpstreamRequest, judge: Judge) -> None:
        """Carry the exchange to one backend, that of `state`, and what it answers back.

        Args:
            client: The backend's side.
            request: What to send.
            judge: Told of the answer before the client is.

        Raises:
            UpstreamError: The backend failed.
            ClientError: The request broke off, or the client left.
        """

    def watch(self) -> None:
        """Begin to watch the client."""
        self._watcher = self._loop.create_task(self._receive_ahead())

    @abstractmethod
    async def _receive_ahead(self) -> Message | None:
        """Read what the client sends while it waits; if it leaves, break off."""

    @abstractmethod
    def end(self, error: GatewayError) -> None:
        """Break off what may go on for ever: a response or a WebSocket that has begun."""

    def _break_off(self, verdict: GatewayError) -> None:
        if self._is_finishing or self._verdict is not None or self._waiting is None:
            # The server says "disconnect" after every complete response, too.
            return
        self._verdict = verdict
        if self.body is not None and isinstance(verdict, ClientError):
            self.body.fail(verdict)
        self._waiting.cancel(str(verdict))
