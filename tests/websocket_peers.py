"""Peers that speak WebSocket, for tests of a gateway that carries it.

- `Talker`: a backend application that does what its visitor's messages say.
- `upgrade(connection)`: the backend's half of a handshake, on a raw connection; `frame()` and
  `read_frame()` for what follows.
- `websockets_before(...)`: a gateway before a `Talker` or a `RawBackend`.
- `connect(port)`: the `websockets` package's client.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn.config
from starlette.types import Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_client
from websockets.utils import apply_mask

from sticky_asgi import Gateway, Pool, RequestFinished
from tests import servers
from tests.apps import lifespan, respond

with warnings.catch_warnings():
    # It is deprecated, and says so when it is imported.
    warnings.simplefilter("ignore")
    import uvicorn.protocols.websockets.websockets_impl

#: uvicorn's WebSocket implementations. Old versions have two.
IMPLEMENTATIONS: list[str] = [
    name
    for name in ("websockets-sansio", "wsproto", "websockets")
    if name in uvicorn.config.WS_PROTOCOLS
]
#: Ours, made of uvicorn's first.
if "websockets-sansio" in IMPLEMENTATIONS:
    IMPLEMENTATIONS.append("sticky_asgi.uvicorn_websocket:WebSocketsSansIOProtocol")
#: The one it takes by itself.
DEFAULT = IMPLEMENTATIONS[0]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Talker:
    """A backend that accepts with the first subprotocol that is offered, and sends each message
    back, but for those that begin with a word it knows:

    `close 4001 why` closes with that, `die` raises, `flood 1000 5` sends 5 messages of that size,
    `name` answers with its name. On the path `/refuse` it answers with a status of its own.

    Attributes:
        scopes: Of every handshake.
        ended: Code and reason of every WebSocket that the other side has ended.
        sent: How many messages of floods the server has taken.
    """

    def __init__(self, name: str = "talker", headers: servers.Headers = ()) -> None:
        self.name = name
        self.headers = headers
        self.scopes: list[Scope] = []
        self.ended: list[tuple[int, str]] = []
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        if scope["type"] == "http":
            return await respond(send, 200, [], self.name.encode())
        self.scopes.append(scope)
        await receive()
        if scope["path"] == "/refuse":
            headers = [(b"content-type", b"text/x-reason"), (b"www-authenticate", b"Some x=1")]
            await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"who are you?"})
            return None
        subprotocol = next(iter(scope["subprotocols"]), None)
        headers = [*self.headers]
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        while (message := await receive())["type"] != "websocket.disconnect":
            try:
                if await self._answer(message, send):
                    return None
            except OSError:
                # The client has left meanwhile; what comes next says how.
                pass
        self.ended.append((message.get("code", 1005), message.get("reason") or ""))
        return None

    async def _answer(self, message: Message, send: Send) -> bool:
        """Answer a message, and say whether it was the last one."""
        text = message.get("text") or ""
        word, *rest = text.split(" ", 2)
        if word == "close":
            code, reason = int(rest[0]), " ".join(rest[1:])
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return True
        if word == "die":
            raise RuntimeError("as it was told")
        if word == "flood":
            for _ in range(int(rest[1])):
                await send({"type": "websocket.send", "bytes": bytes(int(rest[0]))})
                self.sent += 1
        elif word == "name":
            await send({"type": "websocket.send", "text": self.name})
        else:
            await send({**message, "type": "websocket.send"})
        return False


# A raw backend's half


def upgrade(connection: servers.Connection, headers: servers.Headers = ()) -> servers.RawRequest:
    """Read a handshake and accept it with these headers besides those that it takes."""
    request = connection.read_head()
    connection.send(accepting(request, headers))
    return request


def accepting(request: servers.RawRequest, headers: servers.Headers = ()) -> bytes:
    """The response that accepts a handshake."""
    key = request.get(b"sec-websocket-key")
    assert key is not None
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest),
        *(b"%s: %s" % field for field in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = False) -> bytes:
    """A frame (RFC 6455 §5.2); a mask of zeros leaves the data as it is."""
    size = len(data)
    bit = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    return head + (bytes(4) if mask else b"") + data


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def read_frame(peer: servers.Connection | servers.RawClient) -> tuple[int, bytes]:
    """The opcode and the data of the next frame; ConnectionError at the end."""
    first, second = _exactly(peer, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", _exactly(peer, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", _exactly(peer, 8))
    mask = _exactly(peer, 4) if second & 0x80 else bytes(4)
    return first & 0x0F, apply_mask(_exactly(peer, size), mask)


def _exactly(peer: servers.Connection | servers.RawClient, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"ended after {len(data)} of {size} bytes")
        data += piece
    return bytes(data)


def until_closed(connection: servers.Connection) -> tuple[int | None, bytes]:
    """Read until the other side closes, agree to it, and return code and reason."""
    while (answer := read_frame(connection))[0] != CLOSE:
        pass
    connection.send(frame(CLOSE, answer[1]))
    return (struct.unpack("!H", answer[1][:2])[0], answer[1][2:]) if answer[1] else (None, b"")


# A client


def connect(port: int, path: str = "/", **options: Any) -> ClientConnection:
    """Open a WebSocket; to be entered as a context manager."""
    client: ClientConnection = open_client(f"ws://127.0.0.1:{port}{path}", **options)
    return client


def end_of(client: ClientConnection) -> tuple[int, str]:
    """Read until it is closed, and return the code and the reason that were received."""
    try:
        while True:
            client.recv(timeout=servers.WAIT)
    except ConnectionClosed as exc:
        return (1006, "") if exc.rcvd is None else (int(exc.rcvd.code), exc.rcvd.reason)


#: A handshake as bytes; the key is the RFC's example.
def handshake(path: bytes = b"/", headers: servers.Headers = (), also: bytes = b"") -> bytes:
    """The bytes of a client's handshake; `also` is one more option of its connection."""
    fields = [
        (b"Connection", b"Upgrade" + (b", " + also if also else b"")),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        *headers,
    ]
    return servers.encode_request("GET", path, fields)


# The gateway between them


class Events(list[RequestFinished]):
    """A listener that keeps what it is told."""

    def on_request(self, event: RequestFinished) -> None:
        self.append(event)

    def next(self) -> RequestFinished:
        """The first event, waiting for it."""
        servers.eventually(lambda: len(self) > 0)
        return self.pop(0)


@dataclass(frozen=True)
class Front:
    """A gateway that is being served.

    Attributes:
        server: The uvicorn that serves it.
        pool: Its pool, named `shop`.
        events: What its listener was told.
    """

    server: servers.RunningServer
    pool: Pool
    events: Events

    @property
    def port(self) -> int:
        return self.server.port


@contextlib.contextmanager
def websockets_before(
    backends: Sequence[Any],
    *,
    ws: str = DEFAULT,
    http: servers.HttpImplementation = "httptools",
    gateway: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    **pool: Any,
) -> Iterator[Front]:
    """Serve a gateway before these backends, and check that it leaves nothing behind.

    Args:
        backends: What `Pool` takes.
        ws: uvicorn's WebSocket implementation.
        http: Its HTTP implementation.
        gateway: Options of the `Gateway`.
        server: Options of `tests.servers.serve`.
        pool: Options of the `Pool`.
    """
    shop = Pool("shop", backends, **pool)
    events = Events()
    inside = Gateway({"/": shop}, listeners=[events], **(gateway or {}))
    with servers.serve(inside, ws=ws, http=http, **(server or {})) as running:
        yield Front(running, shop, events)
    assert shop.in_flight == 0


@contextlib.contextmanager
def talking(talker: Talker | None = None, **options: Any) -> Iterator[tuple[Front, Talker]]:
    """A gateway before one `Talker`."""
    talker = talker or Talker()
    with servers.serve(talker, ws=DEFAULT) as backend:
        with websockets_before([backend.url], **options) as front:
            yield front, talker
