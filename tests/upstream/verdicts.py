"""Two readings of one raw response: the gateway's own transport's, over real sockets, and h11's.

`by_h11(raw)` feeds h11's client side. An `Arena` has transports ask a server in the same event
loop, which answers with given pieces, each of which arrives alone. A verdict says what was read
and whether the connection may be used again, or that the response was refused; nothing here
decides which of two verdicts is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import h11
from hypothesis import HealthCheck, Phase, settings

from sticky_asgi.backend import Backend
from sticky_asgi.exceptions import Stage, UpstreamError
from sticky_asgi.request import RawHeaders
from sticky_asgi.timeouts import Timeouts
from sticky_asgi.upstream.client import UpstreamRequest
from sticky_asgi.upstream.connections import Http1Client

T = TypeVar("T")

#: For what is generated: a busy machine is no reason to fail.
FUZZ = settings(print_blob=True, suppress_health_check=[HealthCheck.too_slow])
#: Where a failure is likely to be a wait that has to time out: not made smaller, which takes long.
SLOW_TO_FAIL = settings(FUZZ, phases=[Phase.explicit, Phase.reuse, Phase.generate])

#: Bytes that a head may have, in both readings.
MAX_HEAD = 8192

#: How the server ends the connection when it has sent everything.
End = Literal["close", "reset"]


@dataclass(frozen=True)
class Accepted:
    """A response that was read to its end.

    Attributes:
        status: Status code.
        headers: Names in lower case, without those of one hop.
        body: The whole body.
        is_reusable: Whether another request may follow on the connection.
        has_surplus: Whether bytes came after its end. Only h11 can tell.
    """

    status: int
    headers: RawHeaders
    body: bytes
    is_reusable: bool
    has_surplus: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Refused:
    """A response that was not read to its end. All of them are equal.

    Attributes:
        why: What the parser said.
        body: What had been handed out of the body before.
    """

    why: str = field(default="", compare=False)
    body: bytes = field(default=b"", compare=False)


Verdict = Accepted | Refused


#: RFC 9110 §7.6.1.
OF_ONE_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
    *(b"transfer-encoding", b"proxy-authenticate", b"proxy-authorization"),
}


def end_to_end(headers: RawHeaders, status: int) -> RawHeaders:
    """What of a header section goes on to the client, in our own words.

    Content-Length is no option of a connection, but neither 204 nor 304 needs one.
    """
    options = b",".join(value for name, value in headers if name == b"connection").split(b",")
    gone = OF_ONE_HOP | {option.strip(b" \t").lower() for option in options} - {b"content-length"}
    if status in (204, 304):
        gone |= {b"content-length"}
    return [field for field in headers if field[0] not in gone]


def by_h11(raw: bytes, method: str = "GET", *, end: End = "close") -> Verdict:
    """What h11 reads when these bytes come and then the end of the connection.

    A reset never is the end of a body: there h11, which knows none, is not asked.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "shop")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    status, headers, body, has_ended = 0, [], b"", False
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA and not has_ended and end == "close":
                has_ended = True
                connection.receive_data(b"")
            elif isinstance(event, h11.Response):
                status, headers = (
                    event.status_code,
                    [(bytes(n), bytes(v)) for n, v in event.headers],
                )
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                is_done = connection.their_state is connection.our_state is h11.DONE
                has_surplus = bool(connection.trailing_data[0])
                is_reusable = is_done and not has_ended and not has_surplus
                headers = end_to_end(headers, status)
                return Accepted(status, headers, body, is_reusable, has_surplus)
            elif not isinstance(event, h11.InformationalResponse):
                return Refused(str(event), body)
    except h11.RemoteProtocolError as exc:
        return Refused(str(exc), body)


class Job(NamedTuple):
    """One response to read.

    Attributes:
        pieces: What the server writes.
        method: The request's method.
        end: How the connection ends after it.
        like: The verdict that is expected. Nothing but how long is waited depends on it.
    """

    pieces: Sequence[bytes]
    method: str = "GET"
    end: End = "close"
    like: Verdict = Refused()


class Arena:
    """An event loop with a server in it, and transports that ask it. See `opened`."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.peer = Peer()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(main)

    def verdict(
        self,
        pieces: Sequence[bytes],
        method: str = "GET",
        *,
        end: End = "close",
        like: Verdict = Refused(),
    ) -> Verdict:
        """What the transport reads, on a connection of its own."""
        return self.verdicts([Job(pieces, method, end, like)])[0]

    def verdicts(self, jobs: Iterable[Job]) -> list[Verdict]:
        """What the transport reads of each: some at a time, each on a connection of its own."""

        async def main() -> list[Verdict]:
            done: list[Verdict] = []
            left = iter(jobs)
            while some := list(itertools.islice(left, 16)):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self.peer.verdict(job)) for job in some]
                done += [task.result() for task in tasks]
            return done

        return self.run(main())


@contextlib.contextmanager
def opened(
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    unix: Path | None = None,
) -> Iterator[Arena]:
    """An arena on a port of its own, or on a unix socket."""
    with asyncio.Runner(loop_factory=factory) as runner:
        arena = Arena(runner)
        listening = arena.peer.listening(unix)
        runner.run(listening.__aenter__())
        try:
            yield arena
        finally:
            runner.run(listening.__aexit__(None, None, None))


def in_pieces(raw: bytes, ends: set[int]) -> list[bytes]:
    """These bytes, cut at some of these places."""
    at = sorted(end % len(raw) for end in ends) if raw else []
    return [raw[start:end] for start, end in itertools.pairwise([0, *at, len(raw)]) if start < end]


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0)


async def patiently(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so, or for so long that it will not be."""
    with contextlib.suppress(TimeoutError):
        await until(condition, 1)


async def settle() -> None:
    """Let what was written arrive: the loop looks at its sockets after the first round."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Link(asyncio.Protocol):
    """The server's end of a connection: it tells the peer which request has come."""

    transport: asyncio.Transport

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.received = b""
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.peer.links.add(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            number = int(self.received.split(b" ")[1][1:])
            self.received = b""
            self.peer.asked.pop(number).set_result(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self.peer.links.discard(self)

    async def write(self, piece: bytes) -> None:
        self.transport.write(piece)
        await settle()
        await until(lambda: self.is_closed or not self.transport.get_write_buffer_size())

    def end(self, end: End) -> None:
        if end == "reset" and not self.is_closed:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


class Peer:
    """The server of an arena."""

    def __init__(self) -> None:
        self.backend = Backend("http://127.0.0.1:1")
        self.links: set[Link] = set()
        self.asked: dict[int, asyncio.Future[Link]] = {}
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def listening(self, unix: Path | None) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if unix is None:
            server = await loop.create_server(lambda: Link(self), "127.0.0.1", 0)
            self.backend = Backend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        else:
            server = await loop.create_unix_server(lambda: Link(self), unix)
            self.backend = Backend(f"http+unix://{unix}")
        try:
            yield
        finally:
            server.close()
            for link in list(self.links):
                link.transport.abort()
            await until(lambda: not self.links)

    async def ask(self, client: Http1Client, method: str) -> tuple[asyncio.Task[Verdict], Link]:
        """Have a client send a request, and wait until it has arrived."""
        number = next(self._numbers)
        asked = self.asked[number] = asyncio.get_running_loop().create_future()
        request = UpstreamRequest(method, b"/%d" % number, [(b"host", b"shop")])
        reading = asyncio.create_task(_read(client, request))
        await until(lambda: asked.done() or reading.done())
        return reading, asked.result()

    async def verdict(self, job: Job) -> Verdict:
        client = Http1Client(self.backend, timeouts=Timeouts(keep_alive=60), max_head=MAX_HEAD)
        reading, link = await self.ask(client, job.method)
        for piece in job.pieces:
            if link.is_closed:
                break
            await link.write(piece)
        like = job.like
        if isinstance(like, Accepted) and (like.is_reusable or job.end == "reset"):
            await patiently(reading.done)
        is_reusable = client.idle == 1
        if is_reusable and isinstance(like, Accepted) and like.has_surplus:
            # It may still be on its way.
            await patiently(lambda: client.idle == 0)
            is_reusable = client.idle == 1
        if is_reusable:
            await until(reading.done)
            await self._reuse(client, link)
        link.end(job.end)
        verdict = await asyncio.wait_for(reading, 10)
        assert client.busy == 0
        await until(lambda: link.is_closed and client.idle == 0)
        await client.aclose()
        if isinstance(verdict, Accepted):
            return replace(verdict, is_reusable=is_reusable)
        assert not is_reusable
        return verdict

    async def _reuse(self, client: Http1Client, link: Link) -> None:
        """Nothing of one response may show in the next."""
        reading, again = await self.ask(client, "GET")
        assert again is link
        await link.write(b"HTTP/1.1 203 Next\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n")
        await link.write(b"1\r\nn\r\n3\r\next\r\n0\r\n\r\n")
        verdict = await asyncio.wait_for(reading, 10)
        assert verdict == Accepted(203, [(b"a", b"b")], b"next", False), verdict
        assert (client.idle, client.busy) == (1, 0)


async def _read(client: Http1Client, request: UpstreamRequest) -> Verdict:
    """Read a response to its end. Nothing but an UpstreamError may come of a bad one."""
    body = b""
    try:
        response = await client.send(request)
    except UpstreamError as exc:
        return _refused(exc, "head")
    try:
        while not response.at_end:
            piece = await response.read()
            assert piece or response.at_end
            body += piece
        assert await response.read() == b""
    except UpstreamError as exc:
        assert not response.at_end
        return _refused(exc, "body", body)
    finally:
        await response.aclose()
    return Accepted(response.status, response.headers, body, False)


def _refused(error: UpstreamError, stage: Stage, body: bytes = b"") -> Refused:
    assert error.stage == stage, error
    return Refused(f"{type(error).__name__}: {error}", body)
