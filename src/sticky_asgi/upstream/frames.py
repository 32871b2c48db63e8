"""WebSocket messages of one frame, read and written without the library.

Nearly all messages are one frame of less than 64 KiB (RFC 6455 §5.2), and take a tenth of the time
when they are not parsed step by step. Only those are read here: what may be more, less or wrong is
left to `websockets`' core, a frame from its first byte to its last. No I/O, no rules of closing.
"""

from __future__ import annotations

import os
import struct

from websockets.protocol import OPEN, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:
    # Where it could not be compiled.
    from websockets.utils import apply_mask

# With the bit FIN, and none that is reserved.
_TEXT, _BINARY = 0x81, 0x82
_IS_FINAL = 0x80
_OPCODE = 0x0F
_CONTINUATION, _FIRST_CONTROL = 0x00, 0x08
_IS_MASKED = 0x80
_SIZE = 0x7F
#: Sizes that stand for a longer field with the size in it.
_IN_TWO_BYTES, _IN_EIGHT_BYTES = 126, 127
_LONGEST_HEAD = 14
#: Bytes of masking keys that are got at a time; every connection keeps its own.
_STOCK = 256


class FrameReader:
    """Tells the usual messages in a stream of frames from what is left to the core.

    Give it every byte after the handshake as long as the connection is open, and the core what it
    returns. It keeps no data, only where in the stream it is.

    Args:
        is_masked: Whether the peer has to mask its frames, as clients do.
        max_message: Bytes a message may have; longer ones are left to the core. None: no limit.

    Attributes:
        is_between: Whether the next byte begins a message, or a control frame between two.
    """

    __slots__ = ("_head", "_is_in_message", "_left", "_mask_bit", "_max_message", "is_between")

    def __init__(self, *, is_masked: bool, max_message: int | None) -> None:
        self._mask_bit = _IS_MASKED if is_masked else 0
        self._max_message = 0xFFFF if max_message is None else max_message
        #: Of the frame that the core is reading: its head, as long as that is not complete, and
        #: after that how many bytes are to come.
        self._head = b""
        self._left = 0
        self._is_in_message = False
        self.is_between = True

    def read(self, data: bytes) -> tuple[list[str | bytes], bytes]:
        """The messages at the beginning of what has arrived, and the rest, for the core."""
        messages: list[str | bytes] = []
        if not self.is_between:
            self.skip(data)
            return messages, data
        mask_bit = self._mask_bit
        begin, end = 0, len(data)
        while end - begin >= 2:
            first = data[begin]
            # Too small or too large, if the mask bit is wrong.
            size = data[begin + 1] - mask_bit
            body = begin + 2
            if size == _IN_TWO_BYTES and end - begin >= 4:
                size = data[body] << 8 | data[body + 1]
                body += 2
                if size < _IN_TWO_BYTES:
                    break
            elif not 0 <= size < _IN_TWO_BYTES:
                break
            if mask_bit:
                body += 4
            stop = body + size
            if stop > end or size > self._max_message or not _TEXT <= first <= _BINARY:
                break
            payload = data[body:stop]
            if mask_bit:
                payload = apply_mask(payload, data[body - 4 : body])
            if first == _BINARY:
                messages.append(payload)
            else:
                try:
                    messages.append(payload.decode())
                except UnicodeDecodeError:
                    break
            begin = stop
        if begin == end:
            return messages, b""
        rest = data[begin:]
        self.skip(rest)
        return messages, rest

    def skip(self, data: bytes) -> None:
        """Follow the frames in what is given to the core without having been read."""
        if self._head:
            data, self._head = self._head + data, b""
        position, end = self._left, len(data)
        while position < end:
            size = _size_of(data[position : position + _LONGEST_HEAD])
            if size is None:
                self._head = data[position:]
                position = end
            else:
                self._follow(data[position])
                position += size
        self._left = position - end
        self.is_between = not (self._left or self._head or self._is_in_message)

    def _follow(self, first: int) -> None:
        """Note what a frame's first byte says about the message that it belongs to."""
        if first & _OPCODE < _FIRST_CONTROL:
            self._is_in_message = not first & _IS_FINAL


def _size_of(head: bytes) -> int | None:
    """The bytes of a frame that begins like this, or None if that cannot be said yet."""
    if len(head) < 2:
        return None
    size = head[1] & _SIZE
    if size < _IN_TWO_BYTES:
        length = 2
    elif size == _IN_TWO_BYTES:
        length = 4
    else:
        length = 10
    if len(head) < length:
        return None
    if length > 2:
        size = int.from_bytes(head[2:length])
    return length + (4 if head[1] & _IS_MASKED else 0) + size


def is_plain(core: Protocol) -> bool:
    """Whether messages are frames as they are: it is open, and no extension was agreed on."""
    return core.state is OPEN and not core.extensions


def frame_of(message: str | bytes) -> bytes:
    """The frame in which a server sends a message."""
    head, data = _head_and_data(message, 0)
    return head + data


class MaskedFrames:
    """The frames in which a client sends messages, each masked with a random key of its own (§5.3).

    Keys are asked for in stock: one at a time, they take as long as all the rest.
    """

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys = b""

    def frame_of(self, message: str | bytes) -> bytes:
        """The frame of a message."""
        head, data = _head_and_data(message, _IS_MASKED)
        keys = self._keys or os.urandom(_STOCK)
        key, self._keys = keys[:4], keys[4:]
        return head + key + apply_mask(data, key)


def _head_and_data(message: str | bytes, mask_bit: int) -> tuple[bytes, bytes]:
    if isinstance(message, str):
        first, data = _TEXT, message.encode()
    else:
        first, data = _BINARY, message
    size = len(data)
    if size < _IN_TWO_BYTES:
        return bytes((first, mask_bit | size)), data
    if size < 0x10000:
        return struct.pack("!BBH", first, mask_bit | _IN_TWO_BYTES, size), data
    return struct.pack("!BBQ", first, mask_bit | _IN_EIGHT_BYTES, size), data
