"""The request's body between client and backend."""

from __future__ import annotations

import asyncio

import pytest

from sticky_asgi import BadRequest, BodyTooLarge, ClientDisconnected
from sticky_asgi.client_body import READ_AHEAD, ClientBody

from .loops import run, turn


def new_body(keep: int = 100, max_body: int | None = None, length: int | None = None) -> ClientBody:
    return ClientBody(keep=keep, max_body=max_body, length=length)


async def read(body: ClientBody) -> list[bytes]:
    return [piece async for piece in body]


def test_pieces_come_through_in_order() -> None:
    async def main() -> None:
        body = new_body()
        reader = asyncio.create_task(read(body))
        for piece in (b"a", b"bc", b""):
            await turn()
            assert not reader.done()
            body.feed(piece, is_last=piece == b"")
        assert await reader == [b"a", b"bc"]

    run(main)


def test_a_piece_is_handed_on_before_the_next_one_arrives() -> None:
    async def main() -> None:
        body = new_body()
        pieces = aiter(body)
        for piece in (b"a", b"b", b"c"):
            body.feed(piece, is_last=False)
            assert await anext(pieces) == piece

    run(main)


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        pytest.param([b""], b"", id="empty"),
        pytest.param([b"abc"], b"abc", id="one"),
        pytest.param([b"a", b"", b"bc"], b"abc", id="three"),
    ],
)
def test_complete_once_the_last_piece_is_there(pieces: list[bytes], whole: bytes) -> None:
    async def main() -> None:
        body = new_body()
        for piece in pieces[:-1]:
            body.feed(piece, is_last=False)
            assert body.complete is None
        body.feed(pieces[-1], is_last=True)
        assert body.complete == whole
        assert b"".join(await read(body)) == whole

    run(main)


@pytest.mark.parametrize(
    ("size", "is_replayable"),
    [pytest.param(100, True, id="at the limit"), pytest.param(101, False, id="over it")],
)
def test_what_is_kept_can_be_read_again(size: int, is_replayable: bool) -> None:
    async def main() -> None:
        body = new_body(keep=100)
        body.feed(b"x" * 60, is_last=False)
        body.feed(b"y" * (size - 60), is_last=True)
        assert body.is_replayable
        first = await read(body)
        assert b"".join(first) == b"x" * 60 + b"y" * (size - 60)
        assert body.is_replayable is is_replayable
        assert (body.complete is not None) is is_replayable
        if is_replayable:
            assert await read(body) == first

    run(main)


def test_a_body_of_which_nothing_was_read_can_be_sent_whatever_its_size() -> None:
    async def main() -> None:
        body = new_body(keep=1)
        body.feed(b"x" * 1000, is_last=False)
        body.feed(b"y" * 1000, is_last=True)
        assert body.is_replayable
        assert await read(body) == [b"x" * 1000, b"y" * 1000]

    run(main)


def test_a_pass_that_was_given_up_can_be_followed_by_another() -> None:
    async def main() -> None:
        body = new_body(keep=100)
        body.feed(b"ab", is_last=False)
        body.feed(b"cd", is_last=False)
        async for piece in body:
            assert piece == b"ab"
            break
        body.feed(b"ef", is_last=True)
        assert await read(body) == [b"ab", b"cd", b"ef"]

    run(main)


def test_the_limit_is_counted_over_all_pieces() -> None:
    async def main() -> None:
        body = new_body(max_body=5)
        body.feed(b"abc", is_last=False)
        body.feed(b"de", is_last=False)
        pieces = aiter(body)
        assert [await anext(pieces), await anext(pieces)] == [b"abc", b"de"]
        body.feed(b"f", is_last=True)
        with pytest.raises(BodyTooLarge):
            await anext(pieces)
        assert body.complete is None

    run(main)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"ab"], id="too short"),
        pytest.param([b"ab", b""], id="too short, in two"),
        pytest.param([b"abcd"], id="too long"),
        pytest.param([b"abc", b"d"], id="too long, in two"),
    ],
)
def test_a_body_must_have_its_declared_length(pieces: list[bytes]) -> None:
    async def main() -> None:
        body = new_body(length=3)
        for piece in pieces[:-1]:
            body.feed(piece, is_last=False)
        body.feed(pieces[-1], is_last=True)
        assert body.complete is None
        with pytest.raises(BadRequest):
            await read(body)

    run(main)


def test_a_failure_wakes_reader_and_watcher() -> None:
    async def main() -> None:
        body = new_body()
        body.feed(b"x" * (READ_AHEAD + 1), is_last=False)
        watcher = asyncio.create_task(body.wait_for_room())
        idle = new_body()
        reader = asyncio.create_task(read(idle))
        await turn()
        assert not watcher.done()
        body.fail(ClientDisconnected("left"))
        idle.fail(ClientDisconnected("left"))
        await watcher
        with pytest.raises(ClientDisconnected):
            await reader

    run(main)


def test_the_first_failure_counts() -> None:
    async def main() -> None:
        body = new_body(max_body=1)
        body.feed(b"ab", is_last=False)
        body.fail(ClientDisconnected("left"))
        with pytest.raises(BodyTooLarge):
            await read(body)

    run(main)


def test_a_whole_body_cannot_fail_any_more() -> None:
    async def main() -> None:
        body = new_body()
        body.feed(b"abc", is_last=True)
        body.fail(ClientDisconnected("left"))
        assert body.complete == b"abc"

    run(main)


def test_reading_ahead_is_bounded() -> None:
    async def main() -> None:
        body = new_body(keep=0)
        body.feed(b"x" * READ_AHEAD, is_last=False)
        await body.wait_for_room()
        body.feed(b"y", is_last=False)
        waiting = asyncio.create_task(body.wait_for_room())
        await turn()
        assert not waiting.done()
        pieces = aiter(body)
        await anext(pieces)
        await anext(pieces)  # Only now the first has been taken.
        await waiting

    run(main)


def test_after_the_last_piece_there_is_always_room() -> None:
    """The client's leaving is still to be read, however slowly the backend takes the body."""

    async def main() -> None:
        body = new_body()
        body.feed(b"x" * (2 * READ_AHEAD), is_last=True)
        await body.wait_for_room()

    run(main)
