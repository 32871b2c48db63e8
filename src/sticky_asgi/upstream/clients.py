"""The clients of one event loop: one for each backend of each pool, made when first needed.

Nothing is made at import or at construction, so a gateway survives a fork and may be used from
several event loops, one after another or side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..backend import Backend
from ..closing import Closing
from ..pool import Pool
from .asgi import AsgiClient
from .client import UpstreamClient
from .connections import Http1Client
from .http1 import READ_SIZE
from .http1_reader import Heads, remembered_heads
from .httpx_client import HttpxClient, family_of

_NO_STATES: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


def check_transport(transport: Any) -> None:
    """Raises ValueError if a pool's transport is none."""
    if transport is not None:
        family_of(transport)


def open_client(
    pool: Pool,
    backend: Backend,
    app_states: Mapping[int, Mapping[str, Any]] = _NO_STATES,
    buffer: memoryview | None = None,
    heads: Heads | None = None,
) -> UpstreamClient:
    """The client for a backend, in the running event loop."""
    if backend.app is not None:
        state = app_states.get(id(backend.app), {})
        return AsgiClient(backend, state=state, websocket=pool.websocket)
    own = Http1Client(
        backend,
        timeouts=pool.timeouts,
        tls=pool.tls,
        websocket=pool.websocket,
        buffer=buffer,
        heads=heads,
    )
    if pool.transport is not None:
        return HttpxClient(backend, pool.transport, timeouts=pool.timeouts, own=own)
    return own


class _PoolClients:
    """The clients of one pool, in step with its snapshot."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.version = pool.version
        self.options = _options(pool)
        self.by_id: dict[str, tuple[Backend, UpstreamClient]] = {}

    def retire_stale(self) -> list[UpstreamClient]:
        """Forget the clients of backends that are gone, or are reached differently now."""
        options = _options(self.pool)
        retired = [
            key
            for key, (backend, _) in self.by_id.items()
            if key not in self.pool
            or options != self.options
            or not backend.reaches_same_place(self.pool[key].backend)
        ]
        self.version, self.options = self.pool.version, options
        return [self.by_id.pop(key)[1] for key in retired]


def _options(pool: Pool) -> tuple[object, ...]:
    return (pool.timeouts, pool.tls, pool.websocket, id(pool.transport))


class Clients:
    """Hands out the client for a backend; closes those of backends that are gone.

    Args:
        app_states: What the lifespans of in-process applications have left for their requests, by
            the `id()` of the application.
    """

    def __init__(self, app_states: Mapping[int, Mapping[str, Any]] = _NO_STATES) -> None:
        self._app_states = app_states
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._heads = remembered_heads()
        self._pools: dict[Pool, _PoolClients] = {}
        #: The only ones whose clients are held. None: nobody has said.
        self._kept: tuple[Pool, ...] | None = None
        self._closing = Closing()

    def get(self, pool: Pool, backend: Backend) -> UpstreamClient:
        """The client for a backend of a pool."""
        clients = self._pools.get(pool)
        if clients is None:
            if self._kept is not None and pool not in self._kept:
                return self._open_for_one(pool, backend)
            clients = self._pools[pool] = _PoolClients(pool)
        elif clients.version != pool.version:
            for client in clients.retire_stale():
                self._closing.begin(client.aclose())
        held = clients.by_id.get(backend.id)
        if held is not None:
            return held[1]
        client = self._open(pool, backend)
        clients.by_id[backend.id] = (backend, client)
        return client

    def _open(self, pool: Pool, backend: Backend) -> UpstreamClient:
        return open_client(pool, backend, self._app_states, self._buffer, self._heads)

    def _open_for_one(self, pool: Pool, backend: Backend) -> UpstreamClient:
        """A client for a request that goes on after its pool has left: nothing stays of it."""
        client = self._open(pool, backend)
        # One that is closed still sends what it is given, and keeps no connection.
        self._closing.begin(client.aclose())
        return client

    def keep_only(self, pools: tuple[Pool, ...]) -> None:
        """Close the clients of every other pool, from now on as soon as they are made."""
        self._kept = pools
        for pool in [pool for pool in self._pools if pool not in pools]:
            for _, client in self._pools.pop(pool).by_id.values():
                self._closing.begin(client.aclose())

    async def aclose(self) -> None:
        """Close idle connections now, and the others when their exchanges end."""
        self.keep_only(())
        await self._closing.wait()

    def __repr__(self) -> str:
        return f"<Clients of {len(self._pools)} pools>"
