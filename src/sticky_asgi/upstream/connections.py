"""The connections to one backend: which is used for a request, and how long an idle one is kept."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backend import Backend
from ..exceptions import ConnectError, ConnectTimeout
from ..timeouts import Timeouts
from ..tls import TLS
from ..websocket_options import WebSocketOptions
from .client import UpstreamRequest
from .http1 import READ_SIZE, Http1Connection, Owner
from .http1_reader import Heads, remembered_heads
from .http1_response import Http1Response
from .websocket import Handshake, UpstreamWebSocket, handshake_headers

if TYPE_CHECKING:
    from .http1_websocket import Http1WebSocket

_DEFAULT_TLS = TLS()
_CLOSE = (b"connection", b"close")

#: What this process, or its host, has run out of: files, ports, memory. No backend is to blame.
_OUR_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)


#: Seconds of silence until the system asks a backend's host for a sign of life, seconds between
#: two such questions, and how many may stay unanswered: what Go's dialer, hence Traefik, asks for.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 9))


def _notice_silence(sock: socket.socket) -> None:
    """Have the system notice that a host has gone: a stream may be silent for ever otherwise."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        # Not every system has them all.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address_in(place: tuple[Any, ...]) -> str:
    """The address in what a lookup has found; a link-local one of IPv6 has a scope (RFC 4007)."""
    address, scope = place[0], place[3] if len(place) > 3 else 0
    return f"{address}%{scope}" if scope else str(address)


class _Once:
    """Owns a connection for a single exchange, on behalf of a client."""

    def __init__(self, client: Http1Client) -> None:
        self._client = client

    def keep(self, connection: Http1Connection) -> None:
        # RFC 9112 §9.6: no request after one that says "close", whether or not it is closed.
        connection.abort()

    def forget(self, connection: Http1Connection) -> None:
        self._client.forget(connection)


class Http1Client:
    """Sends requests to one backend over HTTP/1.1, from the event loop that runs.

    Args:
        backend: A backend with a URL.
        timeouts: See `Timeouts`.
        tls: For an https URL. Default None: `TLS()`.
        websocket: See `WebSocketOptions`.
        max_head: Bytes a response head may have. Default 65536.
        buffer: Where its connections read into. Default None: one of its own; clients of one
            event loop may share one.
        heads: What is known of response heads. Default None: nothing yet; to be shared likewise.
    """

    __slots__ = (
        "_buffer",
        "_connections",
        "_context",
        "_heads",
        "_idle",
        "_is_closed",
        "_max_head",
        "_sweeper",
        "_tls",
        "backend",
        "timeouts",
        "websocket",
        "websockets",
    )

    def __init__(
        self,
        backend: Backend,
        *,
        timeouts: Timeouts = Timeouts(),
        tls: TLS | None = None,
        websocket: WebSocketOptions = WebSocketOptions(),
        max_head: int = 65536,
        buffer: memoryview | None = None,
        heads: Heads | None = None,
    ) -> None:
        self.backend = backend
        self.timeouts = timeouts
        self.websocket = websocket
        #: Those whose connection still stands.
        self.websockets: set[Http1WebSocket] = set()
        self._tls = tls or _DEFAULT_TLS
        self._context: ssl.SSLContext | None = None
        self._max_head = max_head
        self._buffer = memoryview(bytearray(READ_SIZE)) if buffer is None else buffer
        self._heads = remembered_heads() if heads is None else heads
        self._idle: dict[Http1Connection, None] = {}
        self._connections: set[Http1Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def idle(self) -> int:
        """Connections kept for reuse."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections with an exchange under way."""
        return len(self._connections) - len(self._idle)

    async def send(self, request: UpstreamRequest, *, fresh: bool = False) -> Http1Response:
        """Send a request and wait for the head of the response. See `UpstreamClient`."""
        connection = None if fresh else self._pop_idle()
        if connection is None:
            is_last = fresh and _CLOSE in request.headers
            connection = await self._connect(_Once(self) if is_last else self)
        response = connection.start(request)
        try:
            await response.head
        except BaseException:
            connection.give_up(response)
            raise
        return response

    async def open_websocket(self, request: UpstreamRequest) -> UpstreamWebSocket | Http1Response:
        """Open a WebSocket on a connection of its own. See `UpstreamClient`."""
        try:
            from .http1_websocket import Http1WebSocket
        except ImportError as exc:
            raise RuntimeError(
                "WebSockets to a backend by URL take an extra: pip install 'sticky-asgi[websocket]'"
            ) from exc
        connection = await self._connect()
        handshake = Handshake(request)
        websocket = Http1WebSocket(
            connection.name,
            options=self.websocket,
            buffer=self._buffer,
            registry=self.websockets,
        )
        response = connection.start(handshake.request, successor=websocket)
        try:
            await response.head
            if response.status != 101:
                return response
            websocket.subprotocol = handshake.check(connection.name, response.headers)
        except BaseException:
            connection.give_up(response)
            await websocket.aclose()
            raise
        websocket.headers = handshake_headers(response.headers)
        return websocket

    async def reach(self) -> None:
        """Open a connection and close it. See `UpstreamClient`."""
        connection = await self._connect()
        connection.abort()

    async def aclose(self) -> None:
        """Close idle connections now, and the others when their exchanges end."""
        self._is_closed = True
        while self._idle:
            self._idle.popitem()[0].abort()
        for websocket in [*self.websockets]:
            if websocket.is_over:  # It only waits for the backend to close the connection.
                websocket.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _connect(self, owner: Owner | None = None) -> Http1Connection:
        backend = self.backend
        try:
            async with asyncio.timeout(self.timeouts.connect):
                if backend.uds is not None:
                    connection = await self._connect_unix(backend.uds, owner or self)
                else:
                    connection = await self._connect_tcp(owner or self)
        except TimeoutError:
            raise ConnectTimeout(f"backend {backend.id}: no connection in time") from None
        except (OSError, ValueError) as exc:
            # ValueError: a host or server name that no resolver and no certificate can hold.
            error = ConnectError(f"backend {backend.id}: {str(exc) or repr(exc)}")
            if isinstance(exc, OSError) and exc.errno in _OUR_SHORTAGES:
                error.side = "gateway"
            raise error from exc
        if connection.is_usable:  # Else it is gone already, and will not say so again.
            self._connections.add(connection)
        return connection

    async def _connect_tcp(self, owner: Owner) -> Http1Connection:
        """Connect to the first of the host's addresses that answers."""
        *addresses, last = await self._addresses()
        for address in addresses:
            try:
                return await self._connect_to(address, owner)
            except ssl.SSLError:
                raise
            except OSError:
                continue
        return await self._connect_to(last, owner)

    async def _addresses(self) -> list[str]:
        """The backend's host, looked up if it is a name.

        `create_connection` would do that as well, but uvloop's then leaves a lookup alone that it
        has no time to wait for, and has the log say that nobody asks for its error.
        """
        host, port = self.backend.host, self.backend.port
        if _is_address(host):
            return [host]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [_address_in(place) for *_, place in found]

    async def _connect_to(self, address: str, owner: Owner) -> Http1Connection:
        backend = self.backend
        is_tls = backend.scheme == "https"
        transport, connection = await asyncio.get_running_loop().create_connection(
            partial(self._new_connection, owner),
            address,
            backend.port,
            ssl=self._ssl_context() if is_tls else None,
            server_hostname=(self._tls.server_name or backend.host) if is_tls else None,
        )
        _notice_silence(transport.get_extra_info("socket"))
        return connection

    async def _connect_unix(self, path: str, owner: Owner) -> Http1Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(
            partial(self._new_connection, owner), path
        )
        return connection

    def _ssl_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = self._tls.create_context()
            except OSError as exc:
                # OpenSSL does not say which of the files it was.
                raise ConnectError(f"backend {self.backend.id}: {self._tls}: {exc}") from exc
        return self._context

    def _new_connection(self, owner: Owner) -> Http1Connection:
        return Http1Connection(
            owner,
            f"backend {self.backend.id}",
            timeouts=self.timeouts,
            max_head=self._max_head,
            buffer=self._buffer,
            heads=self._heads,
        )

    # Idle connections: the newest is used first, the oldest comes first in the dict.

    def _pop_idle(self) -> Http1Connection | None:
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.is_usable and connection.expires > connection.loop.time():
                return connection
            connection.abort()
        return None

    def keep(self, connection: Http1Connection) -> None:
        """See `Owner`."""
        if self._is_closed or not self.timeouts.keep_alive:
            connection.abort()
            return
        connection.expires = connection.loop.time() + self.timeouts.keep_alive
        self._idle[connection] = None
        if self._sweeper is None:
            self._sweep_later(connection)

    def forget(self, connection: Http1Connection) -> None:
        """See `Owner`."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def _sweep_later(self, oldest: Http1Connection) -> None:
        self._sweeper = oldest.loop.call_at(oldest.expires, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in [*self._idle]:
            if connection.expires > now:
                self._sweep_later(connection)
                break
            connection.abort()

    def __repr__(self) -> str:
        return f"<Http1Client {self.backend.id} [{self.idle} idle, {self.busy} busy]>"
