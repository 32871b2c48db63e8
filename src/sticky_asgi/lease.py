"""A request's claim on a backend."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from .backend import BackendState

if TYPE_CHECKING:
    from .pool import Pool


class Lease:
    """One request's claim on a backend: counted while it is held, given back exactly once."""

    __slots__ = ("_pool", "state")

    def __init__(self, pool: Pool, state: BackendState) -> None:
        self._pool: Pool | None = pool
        self.state = state
        state.in_flight += 1
        state.requests += 1
        pool.in_flight += 1

    def release(self) -> None:
        """Give the claim back. Again: no effect."""
        pool, self._pool = self._pool, None
        if pool is not None:
            state = self.state
            state.finish_request()
            pool.in_flight -= 1
            pool._released(state)

    def __enter__(self) -> BackendState:
        return self.state

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
