"""The gateway that is tested: the real command, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import proc

from tests.servers import ROOT, eventually, free_port

#: Seconds until a gateway, or a worker of it, must have come up, or have ended.
WAIT = 30.0

INTERVAL, RESPONSE_TIMEOUT, FALL = 1.0, 2.0, 2

#: What the pools of all cases have in common.
POOL: Mapping[str, Any] = {
    "affinity": {"cookie": {}},
    "timeouts": {"connect": "1s", "response": f"{RESPONSE_TIMEOUT:g}s"},
    "health_check": {
        "path": "/healthz",
        "interval": f"{INTERVAL:g}s",
        "timeout": "1s",
        "rise": 1,
        "fall": FALL,
    },
    "ejection": {"failures": 5, "window": "10s", "duration": "5s", "max_share": 0.5},
    "slow_start": "2s",
}

_READY = re.compile(r"sticky_asgi\.serving: ready:")
_RELOADED = re.compile(r"sticky_asgi\.serving: reloaded ")
_FAULT = re.compile(
    r"never retrieved|^(?!sticky_asgi\.exceptions\.)[\w.]+(?:Error|Exception): ", re.M
)


def faults_in(log: str) -> Sequence[str]:
    """What only a bug writes into a log: other exceptions than the gateway's own, and lost ones."""
    return _FAULT.findall(log)


class ChaosError(Exception):
    """A case cannot be run, or not be trusted: the message says why."""


class Request(NamedTuple):
    """A line of the access log.

    Attributes:
        time: When the request ended, in seconds since the epoch.
        backend: Who was tried last.
        attempts: How many were tried.
        status: What the client was sent.
    """

    time: float
    backend: str | None
    attempts: int
    status: int


class Gateway:
    """`sticky-asgi run`, with a file that can be rewritten while it runs.

    Args:
        folder: Where its file and its logs are.
        name: What they are called.
        workers: How many processes serve.
        delay: Seconds it serves on after SIGTERM, saying that it is not ready.
        module: What is run: the command, or what stands in for it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        workers: int = 1,
        delay: int = 0,
        module: str = "sticky_asgi",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.workers = workers
        self._module = module
        self._delay = delay
        self._file = folder / f"{name}.yaml"
        self._access_log = folder / f"{name}.access.jsonl"
        self._log = folder / f"{name}.log"
        for earlier in (self._access_log, self._log):
            earlier.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, document: Mapping[str, Any]) -> None:
        """Replace its file in one step. JSON is YAML."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1))
        new.replace(self._file)

    def start(self) -> None:
        """Start it, and wait until all of its workers serve. Raises ChaosError."""
        ready = self._count(_READY)
        command = [sys.executable, "-m", self._module, "run", str(self._file)]
        command += [f"--port={self.port}", f"--workers={self.workers}", "--access-log=json"]
        command.append(f"--shutdown-delay={self._delay}")
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        with self._access_log.open("ab") as access_log, self._log.open("ab") as log:
            self._process = process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "CHAOS_TASKS": str(self.tasks_file)},
                stdin=subprocess.DEVNULL,
                stdout=access_log,
                stderr=log,
            )

        def serves() -> bool:
            if process.poll() is not None:
                raise ChaosError(f"the gateway ended at once: {self._last_lines()}")
            return self._count(_READY) >= ready + self.workers and self._accepts()

        eventually(serves, WAIT, "the gateway serves")

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def tasks_file(self) -> Path:
        """Where `tests.chaos.watched` writes how many tasks there are."""
        return self._log.with_suffix(".tasks")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for it to end, and return its exit code. Raises ChaosError if it does not."""
        assert self._process is not None
        try:
            return self._process.wait(WAIT)
        except subprocess.TimeoutExpired:
            raise ChaosError("the gateway does not end") from None

    def end(self) -> None:
        """End it and its workers, whatever they do."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        pids = self.pids
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            process.wait()

    @property
    def pids(self) -> list[int]:
        """Its processes, as they are now."""
        assert self._process is not None
        return proc.tree(self._process.pid)

    @property
    def reloads(self) -> int:
        """How often its workers have reloaded, all together."""
        return self._count(_RELOADED)

    async def has_reloaded(self, before: int) -> None:
        """Wait until each worker has reloaded once more than before. Raises ChaosError."""
        deadline = time.monotonic() + WAIT
        while self.reloads < before + self.workers:
            if time.monotonic() > deadline:
                raise ChaosError(f"the gateway has not reloaded: {self._last_lines()}")
            await asyncio.sleep(0.05)

    @property
    def faults(self) -> Sequence[str]:
        """What its log holds that only a bug writes there."""
        return faults_in(self._text())

    def requests(self, since: float = 0.0, until: float = float("inf")) -> Sequence[Request]:
        """The access log of a time."""
        found = []
        for line in self._access_log.read_text().splitlines():
            told = json.loads(line)
            moment = datetime.fromisoformat(told["time"]).timestamp()
            if since <= moment < until:
                found.append(Request(moment, told["backend"], told["attempts"], told["status"]))
        return found

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _count(self, pattern: re.Pattern[str]) -> int:
        return len(pattern.findall(self._text()))

    def _last_lines(self) -> str:
        return " ".join(self._text().splitlines()[-5:])
