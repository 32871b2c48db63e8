"""When a file may have changed: what reloads the configuration, and what follows lists of backends.

Whether it has changed, is for the caller to find out by reading it. Imported only when it is
needed: watchfiles is optional.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from watchfiles import awatch

logger = logging.getLogger("sticky_asgi")

#: Seconds after which the file is looked at even if nothing was heard of it.
LOOK_EVERY = 5.0

#: Milliseconds for which changes are gathered at most, and that must pass without any.
_DEBOUNCE = 200
_STEP = 50


async def watch_file(file: Path, look_every: float = LOOK_EVERY) -> AsyncGenerator[None, None]:
    """Yield whenever a file may have changed, and at the start. It goes on for ever.

    Folders are watched, not the file: what is renamed into its place is seen, and so is the link
    that Kubernetes puts in the place of another. Nothing is missed between two looks.

    Args:
        file: The file. Neither it nor its folder needs to be there.
        look_every: Seconds after which it yields even if the system has told nothing, as of
            network drives, or where the folder cannot be watched. Default 5.
    """
    told = ""
    while True:
        folders = _folders_of(file)
        looks = 0
        try:
            async with aclosing(_changes_in(folders, look_every)) as changes:
                async for _ in changes:
                    looks += 1
                    yield
                    if _folders_of(file) != folders:
                        break
        except (OSError, RuntimeError) as exc:
            # The second is what watchfiles has for a system that has no watches left to give.
            if looks > 1 or str(exc) != told:
                logger.warning("%s cannot be watched now: %s", file, exc)
                told = str(exc)
            await asyncio.sleep(look_every)


async def _changes_in(folders: set[Path], look_every: float) -> AsyncGenerator[None, None]:
    """Yield once the folders are watched, and whenever something in them has changed."""
    ended = asyncio.Event()
    changes = awatch(
        *folders,
        watch_filter=None,
        recursive=False,
        stop_event=ended,
        debounce=_DEBOUNCE,
        step=_STEP,
        rust_timeout=int(look_every * 1000),
        yield_on_timeout=True,
    )

    async def wait() -> None:
        await anext(changes, None)

    first = asyncio.create_task(wait())
    try:
        # In its first step it sets up the watch. A look before that could come too early.
        await asyncio.sleep(0)
        yield
        await first
        yield
        async for _ in changes:
            yield
    finally:
        ended.set()
        await asyncio.gather(first, return_exceptions=True)
        await changes.aclose()


def _folders_of(file: Path) -> set[Path]:
    """Where changes show. Kubernetes links the file into a folder that it replaces."""
    # Unlike Path.resolve, it takes links that lead in a circle.
    return {file.absolute().parent, Path(os.path.realpath(file)).parent}
