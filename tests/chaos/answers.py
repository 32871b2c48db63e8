"""A client that tells a whole answer from one that was cut off, and why there was none."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

#: Seconds an answer may take: nothing here needs half of it.
PATIENCE = 10.0

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) .*")

Problem: TypeAlias = Literal["refused", "no answer", "cut off", "too late", "malformed"]


class NoAnswer(Exception):
    """There was no whole answer; `problem` says how that came.

    `"refused"`: no connection. `"no answer"`: it ended before the first byte. `"cut off"`: it ended
    after that. `"too late"`: it did not end. `"malformed"`: this is no HTTP/1.1.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its framing says that nothing is missing."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: Mapping[str, str] = field(default_factory=dict)


class Connection:
    """One connection to a port of this machine; it is opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Send a request and read the answer. Raises NoAnswer; the next opens a new connection."""
        lines = [f"{method} {target} HTTP/1.1", "Host: chaos.test"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await self._open()
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                answer = await _read_answer(reader)
        except TimeoutError:
            self.close()
            raise NoAnswer("too late") from None
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                raise NoAnswer("refused") from None
        return self._streams

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        first = await reader.readexactly(1)
    except (asyncio.IncompleteReadError, OSError):
        raise NoAnswer("no answer") from None
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(status_line)
        if found is None:
            raise NoAnswer("malformed")
        headers, cookies = _fields(lines)
        body = await _read_body(reader, headers)
    except (asyncio.IncompleteReadError, OSError):
        raise NoAnswer("cut off") from None
    except (ValueError, asyncio.LimitOverrunError):
        raise NoAnswer("malformed") from None
    return Answer(int(found[1]), headers, body, cookies)


def _fields(lines: list[bytes]) -> tuple[dict[str, str], dict[str, str]]:
    headers: dict[str, str] = {}
    cookies: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise ValueError("no field line")
        if name.lower() == "set-cookie":
            key, _, content = value.partition(";")[0].strip().partition("=")
            cookies[key] = content
        else:
            if name.lower() in headers and name.lower() == "content-length":
                raise ValueError("two lengths")
            headers[name.lower()] = value.strip()
    return headers, cookies


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk is longer than its size")
        await reader.readuntil(b"\r\n")
        return body
    # Nothing here answers without a length: what ends with the connection may have been cut off.
    return await reader.readexactly(int(headers.get("content-length", "")))
