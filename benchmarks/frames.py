"""As much of RFC 6455 as the benchmark speaks: handshakes, and short binary frames."""

from __future__ import annotations

import base64
import hashlib
import secrets

from websockets.utils import apply_mask

from .visitors import Visitor, headers_of

#: What a message may have at most: the length of a longer one is written in another way.
SHORT = 125
END_OF_HEAD = b"\r\n\r\n"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
#: FIN, and the opcode.
_BINARY, _CLOSE, PING, _PONG = 0x82, 0x88, 0x89, 0x8A
_IS_MASKED = 0x80


def fields_of(head: bytes) -> dict[bytes, bytes]:
    """The header fields of a request or a response, names in lower case."""
    lines = head.partition(END_OF_HEAD)[0].split(b"\r\n")[1:]
    return {
        name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
    }


def accept_of(key: bytes) -> bytes:
    """What a server answers to a handshake's key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Handshake:
    """A visitor's opening handshake."""

    def __init__(self, visitor: Visitor) -> None:
        self._origin = visitor.origin.encode()
        self._key = base64.b64encode(secrets.token_bytes(16))
        lines = ["GET /echo HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade"]
        lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {self._key.decode()}"]
        lines += [f"{name}: {value}" for name, value in headers_of(visitor).items()]
        self.request = "\r\n".join([*lines, "", ""]).encode()

    def problem(self, head: bytes) -> str | None:
        """What is wrong with the answer: that it is no acceptance, or another origin's."""
        fields = fields_of(head)
        if not head.startswith(b"HTTP/1.1 101 "):
            return f"a handshake was answered {head[:200]!r}"
        if fields.get(b"sec-websocket-accept") != accept_of(self._key):
            return "a handshake's answer has a wrong Sec-WebSocket-Accept"
        if b"sec-websocket-extensions" in fields:
            return "an extension was chosen that was not offered"
        if self._origin and fields.get(b"x-origin") != self._origin:
            return f"{self._origin!r} was wanted, {fields.get(b'x-origin')!r} answered"
        return None


def _masked(first: int, data: bytes) -> bytes:
    mask = secrets.token_bytes(4)
    return bytes([first, _IS_MASKED | len(data)]) + mask + apply_mask(data, mask)


def asked(message: bytes) -> bytes:
    """The frame in which a client sends a message."""
    return _masked(_BINARY, message)


def answered(message: bytes) -> bytes:
    """The frame in which a server sends a message."""
    return bytes([_BINARY, len(message)]) + message


def pong(data: bytes) -> bytes:
    """A client's answer to a ping."""
    return _masked(_PONG, data)


def farewell() -> bytes:
    """A client's close, with 1000."""
    return _masked(_CLOSE, b"\x03\xe8")


def echo(data: bytes) -> tuple[bytes, int, bool]:
    """What a server that echoes has to say to a client's frames.

    Returns the answer, how many bytes it answers, and whether the client has closed. Raises
    ValueError if the client sends anything else than short messages, pings and a close.
    """
    answer, position, end = b"", 0, len(data)
    while end - position >= 2:
        first, size = data[position], data[position + 1] - _IS_MASKED
        begin = position + 6
        if not 0 <= size <= SHORT:
            raise ValueError(f"no short and masked frame: {data[position : position + 8]!r}")
        if end < begin + size:
            break
        body = apply_mask(data[begin : begin + size], data[begin - 4 : begin])
        if first not in (_BINARY, _CLOSE, PING, _PONG):
            raise ValueError(f"an unexpected frame: {data[position : position + 8]!r}")
        position = begin + size
        if first != _PONG:
            answer += bytes([_PONG if first == PING else first, size]) + body
        if first == _CLOSE:
            return answer, position, True
    return answer, position, False
