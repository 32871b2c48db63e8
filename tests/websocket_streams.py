"""Streams of WebSocket frames, right and wrong ones, for tests that compare who reads them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

from hypothesis import strategies as st
from websockets.utils import apply_mask

#: What a message may have at most where these are read.
MOST = 300
MASK = b"\x8f\x01\xfe\x5a"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x00, 0x01, 0x02, 0x08, 0x09, 0x0A
FIN = 0x80


def frame(first: int, data: bytes, *, is_masked: bool, length: int = 0) -> bytes:
    """A frame with this first byte, and a length of at least so many bytes besides the second."""
    size, bit = len(data), 0x80 if is_masked else 0
    if size < 126 and not length:
        head = bytes((first, bit | size))
    elif size < 65536 and length <= 2:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (MASK + apply_mask(data, MASK) if is_masked else data)


def corpus(*, is_masked: bool) -> dict[str, bytes]:
    """A stream of every kind, each with usual messages before and after what is special."""

    def of(first: int, data: bytes = b"", length: int = 0) -> bytes:
        return frame(first, data, is_masked=is_masked, length=length)

    looks_like_a_frame = of(FIN | TEXT, b"inner")
    special = {
        "nothing": b"",
        "empty": of(FIN | TEXT) + of(FIN | BINARY),
        "not ascii": of(FIN | TEXT, "grüße \U0001f36a".encode()),
        "125": of(FIN | BINARY, bytes(125)),
        "126": of(FIN | BINARY, bytes(126)),
        "most": of(FIN | TEXT, b"x" * MOST),
        "too much": of(FIN | TEXT, b"x" * (MOST + 1)),
        "too much announced": b"\x82" + (b"\xff" if is_masked else b"\x7f") + b"\x7f" * 8,
        "frame in a frame": of(
            FIN | BINARY,
            apply_mask(looks_like_a_frame, MASK) if is_masked else looks_like_a_frame,
        ),
        "length of two": of(FIN | TEXT, b"hello", 2),
        "length of eight": of(FIN | TEXT, b"hello", 8),
        "fragments": of(TEXT, b"a") + of(CONTINUATION) + of(FIN | CONTINUATION, b"b"),
        "ping in fragments": of(BINARY, b"a") + of(FIN | PING, b"?") + of(FIN | CONTINUATION, b"b"),
        "unfinished": of(TEXT, b"a") + of(FIN | TEXT, b"b"),
        "unfinished, after a ping": of(TEXT, b"a") + of(FIN | PING) + of(FIN | TEXT, b"b"),
        "continuation": of(FIN | CONTINUATION, b"a"),
        "fragments of too much": of(TEXT, bytes(MOST)) + of(FIN | CONTINUATION, b"b"),
        "ping": of(FIN | PING) + of(FIN | PING, b"x" * 125) + of(FIN | PONG, b"!"),
        "long ping": of(FIN | PING, b"x" * 126),
        "fragmented ping": of(PING, b"x"),
        "not utf-8": of(FIN | TEXT, b"\xff"),
        "utf-8 cut short": of(FIN | TEXT, b"\xc3"),
        "reserved bit": of(0x40 | FIN | TEXT, b"a"),
        "opcode": of(FIN | 3, b"a"),
        "control opcode": of(FIN | 11, b"a"),
        "masked wrongly": frame(FIN | TEXT, b"hello", is_masked=not is_masked),
        "masked wrongly, long": frame(FIN | BINARY, bytes(200), is_masked=not is_masked),
        "close": of(FIN | CLOSE, struct.pack("!H", 4001) + b"bye"),
        "close without a code": of(FIN | CLOSE),
        "close with a wrong one": of(FIN | CLOSE, struct.pack("!H", 1005)),
        "close of one byte": of(FIN | CLOSE, b"x"),
    }
    usual = of(FIN | TEXT, b"one") + of(FIN | BINARY, b"\x02")
    return {name: usual + data + usual for name, data in special.items()}


def streams(*, is_masked: bool) -> st.SearchStrategy[bytes]:
    """Streams of mostly usual frames."""
    data = st.one_of(
        st.text(max_size=130).map(str.encode),
        st.binary(max_size=130),
        st.sampled_from([bytes(125), bytes(126), bytes(MOST), bytes(MOST + 1)]),
    )
    usual = st.sampled_from([FIN | TEXT, FIN | BINARY])
    lawful = st.sampled_from([TEXT, BINARY, CONTINUATION, FIN, FIN | PING, FIN | PONG, FIN | CLOSE])
    frames = st.builds(
        lambda first, data, length, wrong: frame(
            first, data, is_masked=is_masked is not wrong, length=length
        ),
        st.one_of(usual, usual, usual, lawful, st.integers(0, 255)),
        data,
        st.sampled_from([0, 0, 0, 0, 2, 8]),
        st.sampled_from([False] * 19 + [True]),
    )
    return st.lists(frames, max_size=12).map(b"".join)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The stream cut at these places."""
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends) if start < end]


def every_cut(data: bytes) -> list[list[bytes]]:
    """The stream whole, cut once at every place, and in single bytes."""
    ways = [pieces(data, [cut]) for cut in range(len(data) + 1)]
    return [*ways, [bytes([byte]) for byte in data]]
