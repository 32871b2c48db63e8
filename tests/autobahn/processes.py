"""Servers in processes of their own, and what goes wrong with them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.servers import ROOT, eventually


class RunError(Exception):
    """The run cannot be made, or not be trusted: the message says why."""


def tail(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, *, env: Mapping[str, str], log: Path
) -> Iterator[int]:
    """Run a server for the time of a `with` block, and yield its port.

    Raises RunError if it ends before it has come up.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def has_started() -> bool:
        if process.poll() is not None:
            raise RunError(f"{command} ended at once:\n{tail(log)}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(has_started, 30, f"{command} accepts connections")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
