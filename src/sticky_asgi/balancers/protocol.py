"""What every balancer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..backend import BackendState
from ..request import RequestInfo


class Balancer(Protocol):
    """Picks one of the candidates for a visitor who belongs to none of them yet.

    One object serves one pool: what it remembers is about that pool's backends. It holds nothing
    that belongs to an event loop, as the loops of several threads may share the pool. The pool lets
    one of them pick, or prepare, at a time.

    A balancer may also have `prepare(candidates: Sequence[BackendState]) -> None`: do what the
    first visitors would wait for. Called before a gateway that starts serves anybody, and before
    a pool that it finds later is in service, if there are candidates. A configuration that is read
    again replaces a balancer unless the new one equals it (`==`).
    """

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick a backend; synchronous, so nothing happens between the pick and its count.

        Args:
            candidates: The backends that may be used now, in the order of the snapshot; never
                empty. The pool passes the same tuple object again until a backend, a weight or
                what is usable has changed, so work done for a tuple may be kept as long as
                `candidates is` that tuple. A candidate of weight 0 is to be picked only when
                all have weight 0: then all count alike.
            request: The request that needs a backend.

        Returns:
            One of the candidates.
        """
        ...
