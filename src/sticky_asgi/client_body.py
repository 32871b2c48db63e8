"""The body of a request on its way from the client: read ahead, bounded, kept for repetition."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from .exceptions import BadRequest, BodyTooLarge, ClientError

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
