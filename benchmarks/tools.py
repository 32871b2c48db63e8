"""Programs that a run needs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .processes import BenchmarkError

#: Beside the interpreter is what pip installs; servers are often where only root looks.
_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
)


def find_tool(name: str) -> str:
    """Where a program is. Raises BenchmarkError if it is nowhere."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise BenchmarkError(f"{name} not found; `make bench` installs what is needed")
    return path
