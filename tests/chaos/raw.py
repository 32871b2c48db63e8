"""A backend that is anything but honest: it answers half, or nothing, or slowly, or nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any

from tests.servers import free_port

from .answers import Answer
from .faults import Door, Trick
from .visitors import Visitor

#: Seconds that a late or a refused connection lasts.
AT_THE_DOOR = 0.3


def body_of(number: int) -> bytes:
    """What an honest backend answers to a request: nobody else has the same."""
    return f"{number} {random.Random(number).randbytes(700).hex()}".encode()


class Sceptic(Visitor):
    """A visitor who knows what the answer has to be."""

    def judge(self, answer: Answer, method: str, number: int, began: float) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        if answer.status != 200:
            return f"status {answer.status}"
        return None if answer.body == body_of(number) else "wrong answer: another body"


class RawBackend:
    """Listens on a port, and does to each request what comes next. An async context manager.

    Args:
        tricks: What it does to the requests.
        doors: What it does to the connections.
    """

    def __init__(self, tricks: Iterator[Trick], doors: Iterator[Door]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        #: What it has done.
        self.done: Counter[str] = Counter()
        self._tricks = tricks
        self._doors = doors
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RawBackend:
        self._keep(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        while True:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setblocking(False)
                listener.bind(("127.0.0.1", self.port))
                listener.listen(2)
                await self._accept(listener)
            await asyncio.sleep(AT_THE_DOOR)

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections until they are to be refused."""
        loop = asyncio.get_running_loop()
        for door in self._doors:
            self.done[door] += 1
            if door == "refused":
                return
            if door == "late":
                await asyncio.sleep(AT_THE_DOOR)
            accepted, _ = await loop.sock_accept(listener)
            self._keep(self._serve(accepted))

    async def _serve(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        try:
            with contextlib.suppress(OSError, EOFError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do the next trick; whether the connection is of any use after it."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" /healthz " in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return True
        trick = next(self._tricks)
        self.done[trick] += 1
        number = int(head.partition(b"number=")[2].partition(b" ")[0])
        return await play(trick, body_of(number), writer)


async def play(trick: Trick, body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Answer with a body, or do what a trick is about; whether the connection stays open."""
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = len(body) // 2
    first, second = (b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    match trick:
        case "honest":
            writer.write(sized + body)
            return True
        case "honest chunked":
            writer.write(chunked + first + second + b"0\r\n\r\n")
            return True
        case "one byte at a time":
            for byte in sized + body[:half]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.0002)
            writer.write(body[half:])
            return True
        case "two answers":
            writer.write((sized + body) + (sized + body[::-1]))
            return True
        case "503":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
            return True
        case "no answer":
            await asyncio.sleep(10)
        case "reset":
            _reset(writer)
        case "reset in head":
            await _write_and_wait(writer, sized[:20])
            _reset(writer)
        case "end in head":
            writer.write(sized[:-2])
        case "no http":
            writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
        case "two lengths":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + sized[17:] + body)
        case "huge head":
            writer.write(sized[:-2] + b"X-Huge: " + b"h" * 200_000 + b"\r\n\r\n" + body)
        case "reset in body":
            await _write_and_wait(writer, sized + body[:half])
            _reset(writer)
        case "end in body":
            writer.write(sized + body[:half])
        case "end in chunks":
            writer.write(chunked + first)
        case "bad chunk":
            writer.write(chunked + first + b"zz\r\n")
    return False


async def _write_and_wait(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write what is to be read before the reset: a reset overtakes it."""
    writer.write(data)
    await asyncio.sleep(0.05)


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
