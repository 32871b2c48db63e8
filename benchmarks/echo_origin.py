"""The origin for WebSockets: one process that echoes, on several ports, each a backend.

nginx cannot do that. To requests it answers as the other origin does to small ones, so that
visitors can make their first request.

    python -m benchmarks.echo_origin origin-1=20001 origin-2=20002
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

from .frames import END_OF_HEAD, accept_of, echo, fields_of
from .origin import Origin
from .payloads import SMALL
from .processes import Launch, free_port, running
from .visitors import is_answering

_ANSWER = b"HTTP/1.1 200 OK\r\nX-Origin: %s\r\nContent-Length: %d\r\n\r\n%s"
_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: %s\r\nX-Origin: %s\r\n\r\n"
)


class _Echo(asyncio.Protocol):
    """A connection: requests, and then perhaps a WebSocket."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._received = b""
        self._is_websocket = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none, but do what those do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        if not self._is_websocket:
            self._answer_requests(self._transport)
        if self._is_websocket:
            answer, read, has_ended = echo(self._received)
            self._received = self._received[read:]
            self._transport.write(answer)
            if has_ended:
                self._transport.close()

    def _answer_requests(self, transport: asyncio.Transport) -> None:
        while END_OF_HEAD in self._received and not self._is_websocket:
            head, _, self._received = self._received.partition(END_OF_HEAD)
            key = fields_of(head).get(b"sec-websocket-key")
            if key is None:
                body = b"x" * SMALL.received
                transport.write(_ANSWER % (self._name, len(body), body))
            else:
                transport.write(_ACCEPT % (accept_of(key), self._name))
                self._is_websocket = True


async def _serve(origins: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    for origin in origins:
        name, _, port = origin.partition("=")
        factory = partial(_Echo, name.encode())
        await loop.create_server(factory, "127.0.0.1", int(port), backlog=4096)
    await asyncio.Event().wait()


@contextlib.contextmanager
def running_echo_origins(folder: Path, count: int, *, core: int) -> Iterator[list[Origin]]:
    """Run the origin for the time of a `with` block."""
    folder.mkdir(parents=True, exist_ok=True)
    origins = [Origin(f"origin-{number}", free_port()) for number in range(1, count + 1)]
    command = [sys.executable, "-m", "benchmarks.echo_origin"]
    command += [f"{origin.name}={origin.port}" for origin in origins]
    path = os.pathsep.join(path for path in sys.path if path)
    launch = Launch(command, {"PYTHONPATH": path})
    with running("echo origin", launch, core=core, log=folder / "log") as server:
        server.wait_until(lambda: all(is_answering(origin.port) for origin in origins))
        yield origins


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1:]))
