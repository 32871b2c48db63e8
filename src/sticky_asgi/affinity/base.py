"""The `Affinity` protocol: which backend a visitor belongs to.

An affinity resolves a visitor to a backend id and says what the visitor must be told afterwards.
It never decides whether the backend can be used: the pool does.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from ..backend import Backend
from ..request import RawHeader, RequestInfo


class AffinityStatus(enum.Enum):
    """The outcome of affinity for one request; the vocabulary of logs, metrics and events.

    HAProxy logs the same outcomes as two-letter codes (`NI`, `VN`, `DI`, `EI`, `II` …).
    """

    #: The visitor brought nothing and was assigned a backend.
    NEW = "new"
    #: The visitor went back to the backend that holds the session.
    KEPT = "kept"
    #: The visitor's backend is known but could not take the request; another one did.
    MOVED = "moved"
    #: The visitor's backend is no longer part of the pool; another one took over.
    LOST = "lost"
    #: What the visitor brought was too old: treated as new.
    EXPIRED = "expired"
    #: What the visitor brought was forged, damaged or made for another pool: treated as new.
    INVALID = "invalid"
    #: Affinity took no part in the choice.
    BYPASSED = "bypassed"


#: Where a visitor goes whose backend cannot take the request: to another one, or nowhere (503).
LostAction: TypeAlias = Literal["rebalance", "reject"]
#: Decides it per request: gets the status (`MOVED` or `LOST`) and the request.
OnLost: TypeAlias = LostAction | Callable[[AffinityStatus, RequestInfo], LostAction]


class Resolution:
    """What an affinity found out about one request.

    Args:
        status: `KEPT` when `backend_id` is set, else why there is none. The pool turns `KEPT`
            into `MOVED` when the backend cannot take the request.
        backend_id: The backend the visitor belongs to, or None.
    """

    __slots__ = ("backend_id", "status")

    def __init__(self, status: AffinityStatus, backend_id: str | None = None) -> None:
        self.status = status
        self.backend_id = backend_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status.value} backend_id={self.backend_id!r}>"


class PoolView(Protocol):
    """What an affinity may know of its pool."""

    @property
    def name(self) -> str:
        """The pool's name."""
        ...

    @property
    def version(self) -> int:
        """Rises whenever the set of backends changes: a key for caches."""
        ...

    @property
    def backends(self) -> Sequence[Backend]:
        """The current snapshot."""
        ...

    def __contains__(self, backend_id: object) -> bool:
        """Whether the snapshot holds a backend of this id."""
        ...


class Affinity(Protocol):
    """Remembers which backend a visitor belongs to.

    Both methods are synchronous and do no I/O. One object may serve several pools and event
    loops. An affinity may also have, each with the default a pool assumes without it:

    - `on_lost: OnLost = "rebalance"`: what to do for a visitor whose backend is lost or cannot
      take the request;
    - `announce: bool = False`: whether the backend is told the status, as request header
      `Sticky-Session`;
    - `private: bool = False`: whether a cacheable response that carries affinity headers and no
      Cache-Control is marked private;
    - `strip(headers: RawHeaders, pool: PoolView) -> RawHeaders`: the request's headers without
      what is not meant for the backend. It must depend on the headers alone, because the answer
      is remembered for requests that read alike;
    - `prepare(pool: PoolView) -> None`: do what the first visitors would wait for. Called
      before a gateway that starts serves anybody, and before a pool that it finds later is in
      service. A configuration that is read again replaces an affinity unless the new one equals
      it (`==`).
    """

    def resolve(self, request: RequestInfo, pool: PoolView) -> Resolution:
        """Find the backend that a request belongs to."""
        ...

    def issue(self, resolution: Resolution, backend: Backend, now: float) -> Sequence[RawHeader]:
        """Response headers that bind the visitor to the backend that answered.

        Args:
            resolution: As `resolve` returned it, its status as the pool left it.
            backend: The backend that answered in the end.
            now: Wall-clock time in seconds since the epoch.
        """
        ...
