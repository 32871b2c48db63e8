"""The command, but for one thing: on SIGUSR1 it writes how many asyncio tasks it has.

How many there are shows nowhere outside of a process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from sticky_asgi.__main__ import main


def _write_tasks(number: int, frame: object) -> None:
    file = Path(os.environ["CHAOS_TASKS"])
    new = file.with_suffix(".new")
    new.write_text(str(len(asyncio.all_tasks())))
    # Whoever reads it meanwhile gets a whole one.
    new.replace(file)


signal.signal(signal.SIGUSR1, _write_tasks)

if __name__ == "__main__":
    main()
