"""What the reader of a response is given at a time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sticky_asgi.upstream.http1_response import HIGH_WATER, Http1Response


class Connection:
    """What a response knows of its connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.resumed = 0

    def resume_reading(self) -> None:
        self.resumed += 1


async def read_all(pieces: list[bytes]) -> tuple[list[bytes], Connection]:
    connection = Connection()
    response = Http1Response(cast(Any, connection), "GET")
    response.begin(200, [])
    for piece in pieces:
        response.feed(piece)
    read: list[bytes] = []
    while len(b"".join(read)) < len(b"".join(pieces)):
        read.append(await response.read())
    return read, connection


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([10], [10], id="one"),
        pytest.param([10, 20, 30], [60], id="small-ones-are-joined"),
        pytest.param([HIGH_WATER, HIGH_WATER], [HIGH_WATER, HIGH_WATER], id="large-ones-are-not"),
        pytest.param([HIGH_WATER + 1, 10], [HIGH_WATER + 1, 10], id="nor-with-small-ones"),
        pytest.param([10, HIGH_WATER], [10, HIGH_WATER], id="the-other-way-round"),
        pytest.param([10] * 10000, [65530, 34470], id="many-small-ones"),
    ],
)
def test_small_pieces_are_joined_and_large_ones_are_not(
    sizes: list[int], expected: list[int]
) -> None:
    pieces = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    read, _ = asyncio.run(read_all(pieces))
    assert [len(piece) for piece in read] == expected
    assert b"".join(read) == b"".join(pieces)


def test_reading_goes_on_when_less_than_the_mark_is_left() -> None:
    _, connection = asyncio.run(read_all([b"x" * HIGH_WATER] * 3))
    # Two left, one left, none left: the last two are within bounds.
    assert connection.resumed == 2
