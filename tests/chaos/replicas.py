"""The replicas behind the gateway, each a uvicorn of its own, and what is done to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.servers import ProcessBackend
from tests.websocket_peers import DEFAULT

from .answers import Connection
from .tally import Event


class Replicas:
    """So many of `tests.chaos.app`, called a, b, c."""

    def __init__(self, count: int) -> None:
        self.names: Sequence[str] = [chr(ord("a") + n) for n in range(count)]
        # Event streams have no end that could be waited for.
        options = (f"--ws={DEFAULT}", "--timeout-graceful-shutdown=1")
        self._processes = {
            name: ProcessBackend("tests.chaos.app:app", name=name, options=options)
            for name in self.names
        }
        self._paused: set[str] = set()
        #: Who died when.
        self.deaths: list[Event] = []

    def backends(self, **changed: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Their entries in a configuration file; more keys for some of them by name."""
        return [
            {"id": name, "url": process.url, **changed.get(name, {})}
            for name, process in self._processes.items()
        ]

    async def start(self, *names: str) -> None:
        """Start some, and wait until they accept connections."""
        await asyncio.gather(*(asyncio.to_thread(self._processes[name].start) for name in names))

    async def kill(self, name: str) -> None:
        """SIGKILL: its connections are cut off, its sessions are lost."""
        self.deaths.append(Event(name, time.monotonic()))
        await asyncio.to_thread(self._processes[name].kill)

    async def stop(self, name: str) -> None:
        """SIGTERM: it ends what it has begun."""
        self.deaths.append(Event(name, time.monotonic()))
        await asyncio.to_thread(self._processes[name].stop)

    def pause(self, name: str) -> None:
        """SIGSTOP: its connections stay, and it does not say a word."""
        self._paused.add(name)
        os.kill(self._processes[name].pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._paused.discard(name)
        os.kill(self._processes[name].pid, signal.SIGCONT)

    async def arrived(self) -> set[int]:
        """The numbers of the requests that have come as far as a replica that still runs."""
        numbers: set[int] = set()
        for process in self._processes.values():
            connection = Connection(process.port)
            numbers.update(json.loads((await connection.ask("GET", "/numbers", {})).body))
            connection.close()
        return numbers

    def end(self) -> None:
        """End all of them."""
        for name in tuple(self._paused):
            self.resume(name)
        for process in self._processes.values():
            process.kill()
