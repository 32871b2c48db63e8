"""Requests that wait for a backend: first come, first served among those who can be."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection

from .affinity import AffinityStatus, Resolution
from .exceptions import BackendsBusy, QueueTimeout
from .lease import Lease
from .request import RequestInfo


class Waiter:
    """A request in a pool's queue. `wake` is called once, when `lease` or `error` is set."""

    __slots__ = ("error", "exclude", "lease", "request", "resolution", "wake")

    def __init__(
        self,
        request: RequestInfo,
        resolution: Resolution | None,
        exclude: Collection[str],
        wake: Callable[[], object],
    ) -> None:
        self.request = request
        self.resolution = resolution
        self.exclude = exclude
        self.wake = wake
        self.lease: Lease | None = None
        self.error: Exception | None = None

    @property
    def takes_anybody(self) -> bool:
        """Whether it waits for no backend in particular, and has tried none."""
        resolution = self.resolution
        return not self.exclude and (
            resolution is None or resolution.status is not AffinityStatus.KEPT
        )

    def outcome(self) -> Lease:
        """What the wait has come to. Raises the error, if that is what it is."""
        if self.lease is None:
            raise self.error or QueueTimeout("still waiting")
        return self.lease


class WaitingQueue:
    """The queue of one pool.

    Args:
        lease_for: Gives a request that waits its backend. Raises BackendsBusy while there is none,
            and what else must end the wait.
    """

    def __init__(self, lease_for: Callable[[Waiter], Lease]) -> None:
        self._lease_for = lease_for
        self._waiters: deque[Waiter] = deque()
        #: Room may be made in any thread, and while it is given away.
        self._lock = threading.RLock()
        self._is_serving = False
        self._is_due = False

    def __len__(self) -> int:
        return len(self._waiters)

    def join(
        self,
        request: RequestInfo,
        resolution: Resolution | None,
        exclude: Collection[str],
        wake: Callable[[], object],
    ) -> Waiter:
        """Let a request wait."""
        waiter = Waiter(request, resolution, exclude, wake)
        with self._lock:
            self._waiters.append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Let it wait no more; if it has got a lease meanwhile, give that back."""
        with self._lock:
            lease = waiter.lease
            if lease is None and waiter.error is None:
                self._waiters.remove(waiter)
        if lease is not None:
            lease.release()

    def serve(self) -> None:
        """Wake those whose wait is over. A free backend is handed on: no newcomer snatches it.

        To look for a backend may bring one back, which calls this again: then it looks once more.
        """
        with self._lock:
            self._is_due = True
            if self._is_serving:
                return
            self._is_serving = True
            try:
                while self._is_due:
                    self._is_due = False
                    self._serve_once()
            finally:
                self._is_serving = False

    def _serve_once(self) -> None:
        nobody_is_free = False
        for waiter in tuple(self._waiters):
            if nobody_is_free and waiter.takes_anybody:
                continue
            try:
                waiter.lease = self._lease_for(waiter)
            except BackendsBusy:
                nobody_is_free = nobody_is_free or waiter.takes_anybody
                continue
            except Exception as exc:
                # A user's policy that fails is for its own request to report.
                waiter.error = exc
            self._waiters.remove(waiter)
            try:
                waiter.wake()
            except RuntimeError:
                # Its event loop is closed: nobody will ever ask what has come of it.
                if waiter.lease is not None:
                    waiter.lease.release()

    def __repr__(self) -> str:
        return f"<WaitingQueue [{len(self)}]>"
