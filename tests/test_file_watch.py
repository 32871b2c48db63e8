"""Files that are watched, with the system's own word of changes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from sticky_asgi.file_watch import watch_file
from tests.loops import run

#: So long that nothing is found by looking: what is found was told.
NEVER = 1000.0


def test_what_changes_after_the_first_look_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")

    async def main() -> None:
        async with aclosing(watch_file(file, NEVER)) as looks:
            await anext(looks)
            # Without a pause in which a watch could be set up.
            file.write_text("b")
            await anext(looks)

    run(main)


def test_a_linked_file_is_watched_where_it_is(tmp_path: Path) -> None:
    for name in ("a", "b", "links"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "file").write_text("")
    link = tmp_path / "links" / "file"

    def lead_to(name: str) -> None:
        new = link.with_name("new")
        new.symlink_to(tmp_path / name / "file")
        new.replace(link)

    async def main() -> None:
        lead_to("a")
        async with aclosing(watch_file(link, NEVER)) as looks:
            await anext(looks)
            (tmp_path / "a" / "file").write_text("in place")
            await anext(looks)
            lead_to("b")
            await anext(looks)
            (tmp_path / "b" / "file").write_text("in place")
            await anext(looks)

    run(main)


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    async def main() -> None:
        async with aclosing(watch_file(file, 0.05)) as looks:
            await anext(looks)
            await anext(looks)
            file.parent.mkdir()
            while not file.exists():
                file.write_text("")
                await anext(looks)

    run(main)


def test_what_keeps_it_from_watching_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "folder" / "file"

    async def main() -> None:
        async with aclosing(watch_file(file, 0.01)) as looks:
            for _ in range(5):
                await anext(looks)

    run(main)
    (message,) = caplog.messages
    assert message.startswith(f"{file} cannot be watched now: ")


def test_links_in_a_circle(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.symlink_to(file)

    async def main() -> None:
        async with aclosing(watch_file(file, NEVER)) as looks:
            await anext(looks)
            file.unlink()
            await anext(looks)

    run(main)


def test_it_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    async def follow() -> None:
        async for _ in watch_file(tmp_path / "file", NEVER):
            pass

    async def main() -> None:
        task = asyncio.create_task(follow())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    run(main)
