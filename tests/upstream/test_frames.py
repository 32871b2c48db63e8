"""`upstream/frames.py`: with it and without, the same comes out, however the bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.utils import apply_mask

from sticky_asgi import WebSocketOptions
from sticky_asgi.upstream.frames import FrameReader, MaskedFrames, frame_of
from sticky_asgi.upstream.http1_websocket import Http1WebSocket
from tests.upstream.test_http1_websocket import Wire
from tests.websocket_streams import (
    BINARY,
    CONTINUATION,
    FIN,
    MOST,
    PING,
    TEXT,
    corpus,
    every_cut,
    frame,
    pieces,
    streams,
)


class Unread(FrameReader):
    """Leaves everything to the core."""

    __slots__ = ()

    def read(self, data: bytes) -> tuple[list[str | bytes], bytes]:
        return [], data


def unmasked(data: bytes) -> list[tuple[int, bytes]]:
    """The short frames that a client has written: first byte and data."""
    frames, start = [], 0
    while start < len(data):
        first, second = data[start], data[start + 1]
        assert 0x80 <= second < 0x80 + 126
        body = start + 6
        start = body + second - 0x80
        frames.append((first, apply_mask(data[body:start], data[body - 4 : body])))
    return frames


async def outcome(reader: Callable[..., FrameReader], chunks: Sequence[bytes]) -> dict[str, Any]:
    """What a WebSocket to a backend makes of what arrives."""
    buffer, options = memoryview(bytearray(65536)), WebSocketOptions(max_message=MOST)
    websocket = Http1WebSocket("backend a", options=options, buffer=buffer, registry=set())
    websocket._frames = reader(is_masked=False, max_message=MOST)
    wire = Wire()
    websocket.take_over(wire, b"")
    for chunk in chunks:
        buffer[: len(chunk)] = chunk
        websocket.buffer_updated(len(chunk))
    code, reason, error = websocket._end or (None, None, None)
    result = {
        "messages": list(websocket._messages),
        "held": websocket._held,
        "end": (code, reason, repr(error)),
        "written": unmasked(wire.written),
        "state": websocket._protocol.state,
        "fragments": websocket._fragments,
    }
    websocket.connection_lost(None)
    return result


@pytest.mark.parametrize("name", corpus(is_masked=False))
def test_cut_anywhere(name: str) -> None:
    data = corpus(is_masked=False)[name]

    async def main() -> None:
        expected = await outcome(Unread, [data])
        assert expected["messages"][:2] == ["one", b"\x02"]
        for chunks in every_cut(data):
            assert await outcome(FrameReader, chunks) == expected

    asyncio.run(main())


@given(data=streams(is_masked=False), cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_anything_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    async def main() -> None:
        chunks = pieces(data, cuts)
        assert await outcome(FrameReader, chunks) == await outcome(Unread, chunks)

    asyncio.run(main())


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, MOST])
def test_the_usual_is_read_here(is_masked: bool, size: int) -> None:
    reader = FrameReader(is_masked=is_masked, max_message=MOST)
    stream = frame(FIN | BINARY, b"x" * size, is_masked=is_masked)
    assert reader.read(stream + stream) == ([b"x" * size] * 2, b"")
    assert reader.is_between


@pytest.mark.parametrize("is_masked", [False, True])
def test_too_much_is_left_to_the_core(is_masked: bool) -> None:
    reader = FrameReader(is_masked=is_masked, max_message=MOST)
    stream = frame(FIN | BINARY, bytes(MOST + 1), is_masked=is_masked)
    assert reader.read(stream) == ([], stream)


@pytest.mark.parametrize("size", [65535, 65536])
def test_without_a_limit(size: int) -> None:
    reader = FrameReader(is_masked=False, max_message=None)
    stream = frame(FIN | BINARY, bytes(size), is_masked=False)
    messages, rest = reader.read(stream)
    assert (len(messages), len(rest)) == ((1, 0) if size < 65536 else (0, len(stream)))
    assert reader.is_between


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("length", [0, 2, 8])
def test_the_core_reads_a_frame_to_its_end(is_masked: bool, length: int) -> None:
    """And what comes after it is read here again."""
    usual = frame(FIN | TEXT, b"usual", is_masked=is_masked)
    ping = frame(FIN | PING, b"?", is_masked=is_masked, length=length)
    for cut in range(1, len(ping)):
        reader = FrameReader(is_masked=is_masked, max_message=MOST)
        assert reader.read(usual + ping[:cut]) == (["usual"], ping[:cut])
        assert not reader.is_between
        assert reader.read(ping[cut:]) == ([], ping[cut:])
        assert reader.is_between
        assert reader.read(usual) == (["usual"], b"")


def test_the_core_reads_a_message_to_its_end() -> None:
    usual = frame(FIN | TEXT, b"usual", is_masked=False)
    first = frame(TEXT, b"a", is_masked=False)
    ping = frame(FIN | PING, b"?", is_masked=False)
    last = frame(FIN | CONTINUATION, b"b", is_masked=False)
    reader = FrameReader(is_masked=False, max_message=MOST)
    for part in (first, ping, ping, last):
        assert reader.is_between is (part is first)
        assert reader.read(part) == ([], part)
    assert reader.read(usual) == (["usual"], b"")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_what_is_written_is_what_the_library_writes(size: int) -> None:
    for message, opcode in (("x" * size, Opcode.TEXT), (b"\xff" * size, Opcode.BINARY)):
        data = message.encode() if isinstance(message, str) else message
        expected = Frame(opcode, data).serialize(mask=False)
        assert frame_of(message) == expected
        masked = MaskedFrames().frame_of(message)
        head = len(expected) - size
        assert masked[0] == expected[0]
        assert masked[1] == expected[1] | 0x80
        assert masked[2:head] == expected[2:head]
        assert apply_mask(masked[head + 4 :], masked[head : head + 4]) == data


def test_no_two_masks_are_alike() -> None:
    frames = MaskedFrames()
    masks = [frames.frame_of(b"")[2:] for _ in range(200)]
    assert {len(mask) for mask in masks} == {4}
    assert len({*masks, MaskedFrames().frame_of(b"")[2:]}) == 201
