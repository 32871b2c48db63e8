"""What is being closed while the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Closing:
    """What is being closed in one event loop, on behalf of somebody who does not wait for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, close: Coroutine[Any, Any, None]) -> None:
        """Have something closed soon."""
        task = asyncio.get_running_loop().create_task(close)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until all of it is closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def __repr__(self) -> str:
        return f"<Closing [{len(self._tasks)}]>"
