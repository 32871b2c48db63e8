"""Real servers and raw peers for the tests: everything here speaks over sockets.

- `serve(app)`: uvicorn in a thread, on a port of its own.
- `RawBackend(handler)`: a scripted TCP server that may answer half, stall, or reset.
- `RawClient(port)` and `request(port, ...)`: a client that sends bytes as they are and can tell a
  complete response from one that was cut off.
- `ProcessBackend("tests.apps:counter")`: uvicorn in a process of its own, to be killed.
- `eventually(condition)`, `no_leaks()`, `refusing_port()`, `unanswered_port()`: helpers.

Every wait is bounded, by `WAIT` seconds where nothing else is said, and raises when it is over.
Nothing here knows sticky_asgi.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import json
import logging
import os
import random
import re
import select
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, TypeVar

import uvicorn
from starlette.types import ASGIApp

from sticky_asgi.uvicorn_http import HttpToolsProtocol

ROOT = Path(__file__).resolve().parent.parent
WAIT = 10.0

Headers = Sequence[tuple[bytes, bytes]]
#: uvicorn's own two, and the one of `sticky_asgi.uvicorn_http` that `sticky-asgi run` has.
HttpImplementation = Literal["h11", "httptools", "joined"]
#: What uvicorn calls them.
OPTION_OF: dict[HttpImplementation, str] = {
    "h11": "h11",
    "httptools": "httptools",
    "joined": "sticky_asgi.uvicorn_http:HttpToolsProtocol",
}
T = TypeVar("T")


# Helpers


def eventually(condition: Callable[[], T], timeout: float = 5.0, message: str = "") -> T:
    """Poll `condition` until it is true and return its value; AssertionError after `timeout`."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {message or condition!r} ({value!r})")
        time.sleep(0.005)
    return value


def _open_sockets() -> set[int]:
    inodes = set()
    for fd in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(fd))
            if stat.S_ISSOCK(status.st_mode):
                inodes.add(status.st_ino)
    return inodes


@contextlib.contextmanager
def no_leaks(timeout: float = 5.0) -> Iterator[None]:
    """Assert that threads and sockets opened inside are gone, at the latest `timeout` s after."""
    gc.collect()
    threads, sockets = set(threading.enumerate()), _open_sockets()
    yield
    gc.collect()
    deadline = time.monotonic() + timeout
    while True:
        left_threads = set(threading.enumerate()) - threads
        left_sockets = _open_sockets() - sockets
        if not left_threads and not left_sockets:
            return
        if time.monotonic() > deadline:
            raise AssertionError(
                f"left behind: threads {left_threads}, {len(left_sockets)} open sockets"
            )
        time.sleep(0.005)


def free_port() -> int:
    """A TCP port nobody listens on, below the range the kernel gives to outgoing connections."""
    for _ in range(100):
        port = random.randint(20000, 31999)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no free port found")


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@contextlib.contextmanager
def unanswered_port() -> Iterator[int]:
    """A port where connecting never ends: its listener's queue is full (Linux drops the SYN)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            if not select.select([], [filler], [], 0.1)[1]:
                break
        else:
            raise RuntimeError("the kernel still accepts connections on a full queue")
        yield port


# uvicorn in a thread


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self.ready.set()


class _ErrorLog(logging.Handler):
    """Keeps what one server's thread logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self.thread: int | None = None
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.lines.append(self.format(record))


class RunningServer:
    """A uvicorn that runs in a thread; made by `serve()`.

    Attributes:
        port: TCP port it listens on; 0 for a unix socket.
        url: Its address, as a backend URL.
        server: The `uvicorn.Server`; its `server_state.connections` are the open connections.
        errors: What uvicorn and asyncio logged as errors, tracebacks included. "Exception in ASGI
            application" is among them.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, loop: str) -> None:
        self.server = _Server(config)
        self._listener = listener
        self._loop_name = loop
        self._log = _ErrorLog()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"uvicorn {config.app!r}")
        scheme = "https" if config.is_ssl else "http"
        if listener.family == socket.AF_UNIX:
            self.port = 0
            self.url = f"http+unix://{listener.getsockname()}"
        else:
            self.port = int(listener.getsockname()[1])
            self.url = f"{scheme}://127.0.0.1:{self.port}"

    @property
    def errors(self) -> list[str]:
        return self._log.lines

    @property
    def connections(self) -> int:
        """Client connections that are open now."""
        return len(self.server.server_state.connections)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a sync function in the server's event loop and return what it returns."""

        async def run() -> T:
            return function(*args)

        assert self.server.loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self.server.loop).result(WAIT)

    def _run(self) -> None:
        self._log.thread = threading.get_ident()
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self._loop_name == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        try:
            # Not Server.run(): old versions of uvicorn set a process-wide loop policy there.
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self.server.serve(sockets=[self._listener]))
        except BaseException as exc:
            self._failure = exc
        finally:
            self._listener.close()
            self.server.ready.set()

    def start(self) -> None:
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).addHandler(self._log)
        self._thread.start()
        ready = self.server.ready.wait(WAIT)
        if not ready or not self.server.started:
            self.stop()
            raise RuntimeError(
                f"uvicorn did not start within {WAIT} s: {self._failure!r}\n"
                + "\n".join(self.errors)
            ) from self._failure

    def stop(self) -> None:
        """Stop gracefully and join the thread; RuntimeError with its stack when it hangs."""
        self.server.should_exit = True
        self._thread.join(WAIT)
        hanging = self._thread.is_alive()
        stack = ""
        if hanging:
            frame = sys._current_frames().get(self._thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            self.server.force_exit = True
            self._thread.join(WAIT)
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).removeHandler(self._log)
        if hanging:
            raise RuntimeError(f"uvicorn did not stop within {WAIT} s; it was at\n{stack}")
        if self.server.started and self._failure is not None:
            raise RuntimeError("uvicorn failed while it ran") from self._failure


@contextlib.contextmanager
def serve(
    app: ASGIApp,
    *,
    http: HttpImplementation | type[asyncio.Protocol] = "h11",
    loop: Literal["asyncio", "uvloop"] = "asyncio",
    unix: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """Run `app` in uvicorn in a thread, on 127.0.0.1 and a port of its own.

    Args:
        app: The ASGI app. It runs in another thread than the test.
        http: The HTTP implementation, or a class that is one.
        loop: Event loop.
        unix: Path of a unix socket to listen on instead.
        options: Options of `uvicorn.Config`. Defaults: no Server, Date or proxy headers, lifespan
            on, no WebSockets, no access log, 2 s for a graceful shutdown.

    Raises:
        RuntimeError: The app failed to start, or the server did not stop in time.
    """
    settings: dict[str, Any] = {
        "http": HttpToolsProtocol if http == "joined" else http,
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "access_log": False,
        "log_config": None,
        "timeout_graceful_shutdown": 2,
    }
    config = uvicorn.Config(app, **(settings | options))
    if unix is None:
        # asyncio switches Nagle's algorithm off only where the protocol is named.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(unix))
    running = RunningServer(config, listener, loop)
    try:
        running.start()
        yield running
    finally:
        running.stop()


# Reading HTTP/1.1 from a socket, strictly


class MalformedMessage(ValueError):
    """The peer sent something that is no HTTP/1.1 message."""


class PeerClosed(ConnectionError):
    """The peer closed or reset the connection before the message was complete."""


class _Reader:
    """A buffered reader; what it hands out it also writes to `record`, unless that is None."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self.record: bytearray | None = None
        self.was_reset = False

    def fill(self) -> bool:
        """Read once from the socket; False at its end."""
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise TimeoutError(
                f"nothing received for {self._socket.gettimeout()} s; "
                f"unread so far: {bytes(self._buffer[:200])!r}"
            ) from None
        except ssl.SSLError:  # closed without close_notify: TLS's word for a truncation
            self.was_reset = True
            return False
        except ConnectionError:
            self.was_reset = True
            return False
        self._buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        if self.record is not None:
            self.record += data
        return data

    def until(self, separator: bytes, limit: int = 1 << 20) -> bytes:
        """Bytes up to and including `separator`; PeerClosed when it never comes."""
        while (at := self._buffer.find(separator)) < 0:
            if len(self._buffer) > limit:
                raise MalformedMessage(f"no {separator!r} in the first {limit} bytes")
            if not self.fill():
                partial = self.take(len(self._buffer))
                raise PeerClosed(f"ended before {separator!r}: {partial[:200]!r}")
        return self.take(at + len(separator))

    def some(self, size: int) -> bytes:
        """From 1 to `size` bytes; PeerClosed at the end."""
        if not self._buffer and not self.fill():
            raise PeerClosed("ended in the body")
        return self.take(size)

    def head(self) -> bytes:
        return self.until(b"\r\n\r\n")


def _parse_headers(lines: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
            raise MalformedMessage(f"no header line: {line!r}")
        headers.append((name, value.strip(b" \t")))
    return headers


def _exactly(reader: _Reader, size: int) -> Iterator[bytes]:
    while size:
        piece = reader.some(size)
        size -= len(piece)
        yield piece


def _chunked(reader: _Reader, trailers: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    while True:
        line = reader.until(b"\r\n")[:-2]
        digits = line.partition(b";")[0].strip(b" \t")
        if not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
            raise MalformedMessage(f"no chunk size: {line!r}")
        size = int(digits, 16)
        if not size:
            break
        yield from _exactly(reader, size)
        if reader.until(b"\r\n") != b"\r\n":
            raise MalformedMessage("a chunk is longer than its size")
    while line := reader.until(b"\r\n")[:-2]:
        trailers += _parse_headers([line])


def _until_closed(reader: _Reader) -> Iterator[bytes]:
    while True:
        try:
            piece = reader.some(65536)
        except PeerClosed:
            if reader.was_reset:
                raise
            return
        yield piece


@dataclass(repr=False)
class _RawMessage:
    headers: list[tuple[bytes, bytes]]
    head: bytes
    body: bytes = b""
    complete: bool = False
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    record: bytearray = field(default_factory=bytearray)

    @property
    def raw(self) -> bytes:
        """Head and body as they came, byte for byte."""
        return bytes(self.record)

    def get(self, name: bytes) -> bytes | None:
        """The header's value, None where it is absent; AssertionError where it comes twice."""
        values = self.get_all(name)
        assert len(values) <= 1, f"{name!r} is there {len(values)} times: {values}"
        return values[0] if values else None

    def get_all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)

    def _body_pieces(self, reader: _Reader, *, to_the_end: bool) -> Iterator[bytes]:
        codings = self.get_all(b"transfer-encoding")
        lengths = self.get_all(b"content-length")
        if codings and lengths:
            raise MalformedMessage(f"both Transfer-Encoding and Content-Length: {self.head!r}")
        if codings:
            if [coding.lower() for coding in codings] != [b"chunked"]:
                raise MalformedMessage(f"Transfer-Encoding {codings}")
            return _chunked(reader, self.trailers)
        if lengths:
            if len(lengths) > 1 or not lengths[0].isdigit():
                raise MalformedMessage(f"Content-Length {lengths}")
            return _exactly(reader, int(lengths[0]))
        return _until_closed(reader) if to_the_end else iter(())


@dataclass(repr=False)
class RawRequest(_RawMessage):
    """A request as it came over the wire.

    Attributes:
        head: Its head, byte for byte, the empty line included.
        method: `"GET"`.
        target: The request target, byte for byte.
        version: `"1.1"`.
        headers: Pairs of name and value in order; the case of names is kept.
        body: The decoded body.
        trailers: Trailer fields of a chunked body.
        complete: Whether the body has been read to its end.
    """

    method: str = ""
    target: bytes = b""
    version: str = ""

    def __repr__(self) -> str:
        return f"<RawRequest {self.method} {self.target!r} {self.headers} +{len(self.body)}>"


@dataclass(repr=False)
class RawResponse(_RawMessage):
    """A response as it came over the wire.

    Attributes:
        status: Status code; 0 when the connection ended before there was a head.
        reason: Reason phrase.
        version: `"1.1"`.
        headers: Pairs of name and value in order; the case of names is kept.
        body: The decoded body, or the part of it that came.
        trailers: Trailer fields of a chunked body.
        complete: False when the connection ended before the framing said so.
        reset: Whether it ended by a reset (or, under TLS, without a close_notify).
        informational: The 1xx responses that came before, as (status, headers).
    """

    status: int = 0
    reason: bytes = b""
    version: str = ""
    reset: bool = False
    informational: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def __repr__(self) -> str:
        end = "" if self.complete else " incomplete"
        return f"<RawResponse {self.status} {self.headers} +{len(self.body)}{end}>"


class _Socket:
    """What both ends of a raw connection can do."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader = _Reader(sock)

    def send(self, data: bytes) -> None:
        """Send all of it. Raises ConnectionError when the peer is gone, TimeoutError when it
        takes nothing more for `WAIT` seconds."""
        self.socket.sendall(data)

    def recv(self, size: int = 65536) -> bytes:
        """Up to `size` bytes as they come, unparsed and kept nowhere; b"" at the end, however it
        came."""
        self._reader.record = None
        try:
            return self._reader.some(size)
        except PeerClosed:
            return b""

    def finish(self) -> None:
        """Send the end of the stream (FIN) but go on reading."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close properly: the peer reads the end of the stream."""
        # Bytes left unread would turn the close into a reset.
        self.finish()
        with contextlib.suppress(OSError, ValueError):
            self.socket.setblocking(False)
            while self.socket.recv(65536):
                pass
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset (RST): what was not yet read by the peer may be lost to it."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def wait_closed(self, timeout: float = WAIT) -> bool:
        """Block until the peer closes or resets; what it sends meanwhile is thrown away.

        Returns True. Raises TimeoutError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        previous = self.socket.gettimeout()
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.socket.settimeout(left)
                try:
                    if not self.socket.recv(65536):
                        return True
                except TimeoutError:
                    break
                except OSError:
                    return True
            raise TimeoutError(f"the peer did not close within {timeout} s")
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(previous)


# A scripted backend


class Connection(_Socket):
    """One accepted connection of a `RawBackend`, handed to its handler.

    Attributes:
        index: 0 for the backend's first connection.
        requests: Requests read from this connection.
        done: Set when the handler has returned and the connection is closed.
    """

    def __init__(self, sock: socket.socket, backend: RawBackend, index: int) -> None:
        super().__init__(sock)
        self.backend = backend
        self.index = index
        self.requests: list[RawRequest] = []
        self.done = threading.Event()

    def read_head(self) -> RawRequest:
        """Read a request's head; PeerClosed when the client leaves instead."""
        record = self._reader.record = bytearray()
        head = self._reader.head()
        line, *lines = head[:-4].split(b"\r\n")
        match = re.fullmatch(rb"([!-~]+) ([^ ]+) HTTP/(1\.[01])", line)
        if match is None:
            raise MalformedMessage(f"no request line: {line!r}")
        request = RawRequest(
            headers=_parse_headers(lines),
            head=head,
            method=match[1].decode(),
            target=match[2],
            version=match[3].decode(),
            record=record,
        )
        self.requests.append(request)
        self.backend.requests.append(request)
        return request

    def read_body(self, request: RawRequest) -> bytes:
        """Read the body that belongs to a head; PeerClosed when it is cut off."""
        body = bytearray()
        try:
            for piece in request._body_pieces(self._reader, to_the_end=False):
                body += piece
            request.complete = True
        finally:
            request.body = bytes(body)
        return request.body

    def read_request(self) -> RawRequest:
        """Read one whole request; PeerClosed when the client leaves before its end."""
        request = self.read_head()
        self.read_body(request)
        return request

    def wait(self, event: threading.Event, timeout: float = WAIT) -> None:
        """Stall until the test sets `event`; TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not event.wait(0.005):
            if self.backend.stopping:
                raise PeerClosed("the backend was stopped")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the event was not set within {timeout} s")


Handler = Callable[[Connection], object]


class RawBackend:
    """A TCP server that does what its handler says, each connection in a thread of its own.

    A context manager. The connection is closed when the handler returns. A ConnectionError that
    leaves the handler means the client is gone and ends it quietly; any other exception is raised
    when the backend is left.

    Args:
        handler: Called with each accepted `Connection`.
        port: Port on 127.0.0.1; 0 takes a free one.
        unix: Path of a unix socket to listen on instead.
        ssl_context: Server-side context to speak TLS.
        receive_buffer: Size of the sockets' receive buffer, to make backpressure show early.

    Attributes:
        requests: All requests whose head was read, in order.
        connections: All connections accepted so far, in order; `len()` counts them.
        handshake_errors: TLS handshakes that failed.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        port: int = 0,
        unix: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.handler = handler
        self.requests: list[RawRequest] = []
        self.connections: list[Connection] = []
        self.handshake_errors: list[Exception] = []
        self.failures: list[BaseException] = []
        self.stopping = False
        self._ssl_context = ssl_context
        self._threads: list[threading.Thread] = []
        self._wake_read, self._wake_write = socket.socketpair()
        if unix is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self._listener.bind(("127.0.0.1", port) if unix is None else os.fspath(unix))
        except OSError:
            for sock in (self._listener, self._wake_read, self._wake_write):
                sock.close()
            raise
        self._listener.listen(128)
        # The client may be gone again between select and accept, which would then block.
        self._listener.setblocking(False)
        if unix is None:
            self.port = int(self._listener.getsockname()[1])
            scheme = "http" if ssl_context is None else "https"
            self.url = f"{scheme}://127.0.0.1:{self.port}"
            self.id = f"127.0.0.1:{self.port}"
        else:
            self.port = 0
            self.url = f"http+unix://{os.fspath(unix)}"
            self.id = os.fspath(unix)
        self._acceptor = threading.Thread(target=self._accept, name=f"RawBackend {self.id}")

    @property
    def open_connections(self) -> int:
        return sum(not connection.done.is_set() for connection in self.connections)

    def connection(self, index: int = 0, timeout: float = WAIT) -> Connection:
        """The connection of that index, waiting until it has been accepted."""
        eventually(lambda: len(self.connections) > index, timeout, f"connection {index}")
        return self.connections[index]

    def wait_request(self, index: int = 0, timeout: float = WAIT) -> RawRequest:
        """The request of that index, waiting until its head has been read."""
        eventually(lambda: len(self.requests) > index, timeout, f"request {index}")
        return self.requests[index]

    def start(self) -> Self:
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Stop listening, close every connection, join all threads, raise what a handler raised."""
        self.stopping = True
        self._wake_write.send(b"x")
        self._acceptor.join(WAIT)
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT)
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()
        hanging = [t.name for t in (self._acceptor, *self._threads) if t.is_alive()]
        if hanging:
            raise RuntimeError(f"did not stop within {WAIT} s: {hanging}")
        if self.failures:
            raise RuntimeError(f"a handler of the raw backend failed: {self.failures}") from (
                self.failures[0]
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            select.select([self._listener, self._wake_read], [], [])
            if self.stopping:
                self._listener.close()
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                continue
            sock.settimeout(WAIT)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            index = len(self.connections)
            connection = Connection(sock, self, index)
            self.connections.append(connection)
            name = f"RawBackend {self.id} connection {index}"
            thread = threading.Thread(target=self._serve, args=(connection,), name=name)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            if self._ssl_context is not None:
                try:
                    plain = connection.socket
                    wrapped = self._ssl_context.wrap_socket(plain, server_side=True)
                except OSError as exc:
                    self.handshake_errors.append(exc)
                    return
                connection.socket = wrapped
                connection._reader = _Reader(wrapped)
            self.handler(connection)
        except ConnectionError:
            pass
        except BaseException as exc:
            if not self.stopping:
                self.failures.append(exc)
        finally:
            connection.close()
            connection.done.set()


def response(
    status: int = 200,
    body: bytes = b"",
    headers: Headers = (),
    *,
    reason: bytes = b"Whatever",
    chunks: Sequence[bytes] | None = None,
) -> bytes:
    """The bytes of a response: with a Content-Length, or chunked if `chunks` are given."""
    lines = [b"HTTP/1.1 %d %s" % (status, reason), *(b"%s: %s" % pair for pair in headers)]
    if chunks is None:
        if not any(name.lower() == b"content-length" for name, _ in headers):
            lines.append(b"Content-Length: %d" % len(body))
    else:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"".join(chunk(piece) for piece in chunks) + LAST_CHUNK
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def responding(*responses: bytes) -> Handler:
    """A handler that answers whole requests with these bytes and keeps connections alive.

    The n-th request of the backend gets the n-th of them; the last one serves all that follow.
    """
    left = collections.deque(responses)
    lock = threading.Lock()

    def handler(connection: Connection) -> None:
        while True:
            connection.read_request()
            with lock:
                answer = left.popleft() if len(left) > 1 else left[0]
            connection.send(answer)

    return handler


def echo(connection: Connection) -> None:
    """A handler that answers each request with what was received, as JSON in latin-1.

    Keys: `method`, `target`, `version`, `headers` (list of pairs, in order), `body`.
    """
    while True:
        request = connection.read_request()
        content = {
            "method": request.method,
            "target": request.target.decode("latin-1"),
            "version": request.version,
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request.headers],
            "body": request.body.decode("latin-1"),
        }
        headers = [(b"Content-Type", b"application/json")]
        answer = response(200, json.dumps(content).encode(), headers)
        if request.method == "HEAD":
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        connection.send(answer)


# A raw client


class RawClient(_Socket):
    """A connection to a server that sends bytes as they are. A context manager.

    Args:
        port: Port on 127.0.0.1.
        unix: Path of a unix socket instead.
        ssl_context: Client-side context to speak TLS, with `server_hostname` as the name.
        timeout: How long any single wait may take, in seconds.
        receive_buffer: Size of the socket's receive buffer, to make backpressure show early.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        unix: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str = "localhost",
        timeout: float = WAIT,
        receive_buffer: int | None = None,
    ) -> None:
        sock = socket.socket(socket.AF_INET if unix is None else socket.AF_UNIX)
        try:
            sock.settimeout(timeout)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if unix is None:
                sock.connect(("127.0.0.1", port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                sock.connect(os.fspath(unix))
            if ssl_context is not None:
                sock = ssl_context.wrap_socket(sock, server_hostname=server_hostname)
        except BaseException:
            sock.close()
            raise
        super().__init__(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def request(
        self,
        method: str = "GET",
        target: bytes = b"/",
        headers: Headers = (),
        body: bytes | Iterable[bytes] | None = None,
        version: str = "1.1",
    ) -> RawResponse:
        """Send a request as `encode_request` makes it, and read the response."""
        self.send(encode_request(method, target, headers, body, version))
        return self.read_response(method)

    def read_head(self, method: str = "GET") -> RawResponse:
        """Read a response's head; status 0 when the connection ended before there was one.

        1xx responses before it are kept in `informational`; 101 is a response of its own.
        """
        record = self._reader.record = bytearray()
        informational: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        while True:
            try:
                head = self._reader.head()
            except PeerClosed:
                reset = self._reader.was_reset
                return RawResponse([], b"", record=record, reset=reset, informational=informational)
            line, *lines = head[:-4].split(b"\r\n")
            match = re.fullmatch(rb"HTTP/(1\.[01]) ([1-9][0-9]{2}) (.*)", line)
            if match is None:
                raise MalformedMessage(f"no status line: {line!r}")
            status, headers = int(match[2]), _parse_headers(lines)
            if status >= 200 or status == 101:
                break
            informational.append((status, headers))
        response = RawResponse(
            headers,
            head,
            status=status,
            reason=match[3],
            version=match[1].decode(),
            informational=informational,
            record=record,
        )
        if method != "HEAD" and status not in (101, 204, 304):
            response.pieces = response._body_pieces(self._reader, to_the_end=True)
        return response

    def read_piece(self, response: RawResponse) -> bytes:
        """The next piece of the decoded body as it comes; b"" at its end, complete or not."""
        try:
            piece = next(response.pieces, b"")
            response.complete = response.complete or not piece
        except PeerClosed:
            piece = b""
            response.reset = self._reader.was_reset
        response.body += piece
        return piece

    def read_body(self, response: RawResponse) -> RawResponse:
        """Read the rest of the body; `complete` then says whether all of it came."""
        if response.status:
            response.body += b"".join(self._rest(response))
        return response

    def drain(self, response: RawResponse) -> int:
        """Read the rest of a large body, keep none of it, and return how many bytes it was."""
        self._reader.record = None
        return sum(len(piece) for piece in self._rest(response))

    def _rest(self, response: RawResponse) -> Iterator[bytes]:
        try:
            yield from response.pieces
            response.complete = True
        except PeerClosed:
            response.reset = self._reader.was_reset

    def read_response(self, method: str = "GET") -> RawResponse:
        """Read one whole response; `method` is the request's, for HEAD has no body."""
        return self.read_body(self.read_head(method))


def encode_request(
    method: str = "GET",
    target: bytes = b"/",
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of a request. `target` and `headers` go out byte for byte.

    `Host: test` comes first unless a Host is given (or the version is 1.0). A body of bytes gets a
    Content-Length, an iterable is sent chunked, unless the headers frame it already.
    """
    names = {name.lower() for name, _ in headers}
    lines = [b"%s %s HTTP/%s" % (method.encode(), target, version.encode())]
    if b"host" not in names and version != "1.0":
        lines.append(b"Host: test")
    lines += [b"%s: %s" % pair for pair in headers]
    framed = bool(names & {b"content-length", b"transfer-encoding"})
    if body is None:
        payload = b""
    elif isinstance(body, bytes):
        payload = body
        if not framed:
            lines.append(b"Content-Length: %d" % len(body))
    else:
        payload = b"".join(chunk(piece) for piece in body) + LAST_CHUNK
        if not framed:
            lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n" + payload


def request(
    port: int,
    method: str = "GET",
    target: bytes = b"/",
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    version: str = "1.1",
    **options: Any,
) -> RawResponse:
    """One request on a connection of its own; `options` are those of `RawClient`."""
    with RawClient(port, **options) as client:
        return client.request(method, target, headers, body, version)


# A backend in a process of its own


class ProcessBackend:
    """uvicorn in a process of its own, so that it can be killed and started again. A context
    manager.

    Args:
        app: Import string of the app, relative to the repository.
        name: Passed on in the environment as `BACKEND_NAME`; `tests.apps:counter` answers with it.
        port: Port on 127.0.0.1; 0 takes a free one, which restarts then keep.
        env: More environment variables.
        options: More options of uvicorn's command line.
    """

    #: Seconds until it must accept connections.
    start_timeout = 3 * WAIT

    def __init__(
        self,
        app: str = "tests.apps:counter",
        *,
        name: str = "backend",
        port: int = 0,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.port = port or free_port()
        self.id = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.id}"
        self.name = name
        self._command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--no-access-log", "--ws", "none", *options]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        self._env = os.environ | {"BACKEND_NAME": name, "PYTHONPATH": path} | (env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._printed = ""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the backend is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        """What its processes have printed so far."""
        now = ""
        if self._output is not None:
            # pread leaves the position alone, which the process shares.
            size = os.fstat(self._output.fileno()).st_size
            now = os.pread(self._output.fileno(), size, 0).decode(errors="replace")
        return self._printed + now

    def start(self) -> Self:
        """Start it and wait until it accepts connections."""
        if self.is_running:
            raise RuntimeError("the backend is running already")
        self._forget()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(self._accepts, self.start_timeout, f"{self.id} accepts connections")
        except BaseException:
            self.kill()
            raise
        return self

    def _forget(self) -> None:
        self._process = None
        if self._output is not None:
            self._printed = self.output()
            self._output.close()
            self._output = None

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"exit code {self._process.returncode}:\n{self.output()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), WAIT).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL: connections are cut off. It may be started again afterwards."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(WAIT)
            self._forget()

    def stop(self) -> None:
        """SIGTERM and wait; RuntimeError, and SIGKILL, when it does not end in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.id} did not stop:\n{self.output()}") from None
        self._forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
