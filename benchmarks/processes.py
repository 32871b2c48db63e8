"""Child processes that stay on one core, and are ended by their ids."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from . import proc


class BenchmarkError(Exception):
    """The run cannot be trusted, or not be made: the message says why."""


#: A gateway with 10,000 backends has a connection to each, and the origin as many.
_OPEN_FILES = 16_384


def allow_open_files() -> None:
    """Let this process and its children open as many files as is allowed at all.

    Raises BenchmarkError if that is too few.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _OPEN_FILES:
        raise BenchmarkError(f"{_OPEN_FILES} open files are needed, `ulimit -Hn` is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Cores(NamedTuple):
    """The core of what is measured, and the core of everything else."""

    subject: int
    load: int


def choose_cores() -> Cores:
    """Two of the cores this process may use. Raises BenchmarkError if there is only one."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise BenchmarkError("two cores are needed: one to be measured, one for the load")
    return Cores(subject=available[0], load=available[1])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let this process, and the children it starts meanwhile, run on one core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port nobody listens on, below the range that the kernel gives to outgoing connections."""
    for _ in range(100):
        port = random.randint(20000, 31999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchmarkError("no free port found")


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A running server with all its processes, on one core."""

    def __init__(self, name: str, launch: Launch, *, core: int, log: Path) -> None:
        self.name = name
        self._core = core
        self._log = log
        with on_core(core), log.open("wb") as output:
            self._process = subprocess.Popen(
                launch.command,
                env={**os.environ, **launch.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pids(self) -> list[int]:
        """Its processes, as they are now."""
        return proc.tree(self._process.pid)

    def wait_until(self, is_ready: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait for the server to come up. Raises BenchmarkError, with its log, if it does not."""
        deadline = time.monotonic() + timeout
        while not is_ready():
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended at once:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} did not come up:\n{self.log_tail()}")
            time.sleep(0.05)
        self.check_core()

    def check_core(self) -> None:
        """Raises BenchmarkError unless every thread of it is held on its core."""
        cores = proc.cores_of(self.pids)
        if cores != {self._core}:
            raise BenchmarkError(f"{self.name} is not on core {self._core} alone but on {cores}")

    def log_tail(self) -> str:
        """The last lines it has written."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        """End it and its children."""
        pids = self.pids
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def running(name: str, launch: Launch, *, core: int, log: Path) -> Iterator[Server]:
    """Run a server for the time of a `with` block."""
    server = Server(name, launch, core=core, log=log)
    try:
        yield server
    finally:
        server.stop()
