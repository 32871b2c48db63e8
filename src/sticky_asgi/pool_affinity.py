"""How a pool binds its visitors: the affinity in force, and what may become of those it binds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from .affinity import (
    Affinity,
    AffinityStatus,
    AnnotatedCookie,
    CookieSettings,
    OnLost,
    PoolView,
    Resolution,
    SignedCookie,
)
from .backend import Backend
from .exceptions import AffinityRejected
from .request import RawHeader, RawHeaders, RequestInfo

logger = logging.getLogger("sticky_asgi")

_AFFINE = (AffinityStatus.KEPT, AffinityStatus.MOVED, AffinityStatus.LOST)


class PoolAffinity:
    """The affinity of one pool.

    Args:
        pool: The pool.
        declared: What the program, or the file, says of it.

    Attributes:
        declared: The same.
        current: What is in force; None: every request is a new session.
        announces: Whether backends are told the status.
        makes_private: Whether cacheable responses that bind a visitor are marked private.
        fault: Why the source's word of it is not in force; None: it is, or there is none.
    """

    __slots__ = (
        "_clock",
        "_is_heard",
        "_on_lost",
        "_pool",
        "_settings",
        "_strip",
        "announces",
        "current",
        "declared",
        "fault",
        "makes_private",
    )

    def __init__(self, pool: PoolView, declared: Affinity | AnnotatedCookie | None) -> None:
        self._pool = pool
        #: What the source has said, and whether all of that is in force, or of no concern.
        self._settings: CookieSettings | None = None
        self._is_heard = False
        self.fault: str | None = None
        self.current: Affinity | None = None
        self._put_in_force(None)
        self.declared: Affinity | AnnotatedCookie | None = None
        self.declare(declared)

    def declare(self, declared: Affinity | AnnotatedCookie | None) -> None:
        """Put in force what the program says; until a new source has spoken, what is known stays.

        Raises:
            ValueError: What the source has said contradicts it; then the cookie is what it was.
        """
        before, self.declared = self.declared, declared
        self.fault = None
        if not isinstance(declared, AnnotatedCookie):
            self._use(declared)
            return
        had_own_word = before is not None and not isinstance(before, AnnotatedCookie)
        if not self._is_heard and (had_own_word or self._settings is None):
            self._settings = None  # If something was said, it was another source's word.
            return
        try:
            self._use(declared.make(self._settings))
        except ValueError as exc:
            self._is_heard, self.fault = False, str(exc)
            raise

    def expect_another_source(self) -> None:
        """What was said is another source's word: it holds until the new one has spoken."""
        self._is_heard = False

    def follow(self, settings: CookieSettings | None) -> bool:
        """Put in force what the pool's source says, if it has a say. Returns whether that is new.

        Raises:
            ValueError: It does not go together with what the program says; then nothing changes.
        """
        if self._is_heard and settings == self._settings:
            return False
        self._settings, self._is_heard = settings, False
        self.fault = None
        if not isinstance(self.declared, AnnotatedCookie):
            self._is_heard = True
            return False
        try:
            cookie = self.declared.make(settings)
        except ValueError as exc:
            self.fault = str(exc)
            raise
        self._is_heard = True
        before = self._cookie_name()
        self._use(cookie)
        after = self._cookie_name()
        logger.info("pool %s: affinity cookie: %s", self._pool.name, after or "none")
        if before is not None and before != after:
            logger.warning(
                "pool %s: sessions of the cookie %s are dropped", self._pool.name, before
            )
        return True

    def _use(self, affinity: Affinity | None) -> None:
        # An equal one would have to make the tokens of all backends again.
        if affinity != self.current:
            self._put_in_force(affinity)

    def _put_in_force(self, affinity: Affinity | None) -> None:
        self.current = affinity
        self.announces: bool = getattr(affinity, "announce", False)
        self.makes_private: bool = getattr(affinity, "private", False)
        self._on_lost: OnLost = getattr(affinity, "on_lost", "rebalance")
        self._clock: Callable[[], float] = getattr(affinity, "clock", time.time)
        self._strip: Callable[[RawHeaders, PoolView], RawHeaders] | None = getattr(
            affinity, "strip", None
        )

    def _cookie_name(self) -> str | None:
        cookie = self.current
        return cookie.cookie_name(self._pool) if isinstance(cookie, SignedCookie) else None

    def prepare(self) -> None:
        """Do beforehand what the first visitors would wait for, if the affinity can."""
        prepare = getattr(self.current, "prepare", None)
        if prepare is not None:
            prepare(self._pool)

    def resolve(self, request: RequestInfo) -> Resolution:
        """Which backend the visitor belongs to, whether or not it can be used now."""
        if self.current is None:
            return Resolution(AffinityStatus.BYPASSED)
        return self.current.resolve(request, self._pool)

    def strip(self, headers: RawHeaders) -> RawHeaders:
        """A request's headers without what affinity keeps from the backends."""
        return headers if self._strip is None else self._strip(headers, self._pool)

    def issue(self, resolution: Resolution, backend: Backend) -> Sequence[RawHeader]:
        """What a response must carry to bind the visitor to the backend that answered."""
        if self.current is None:
            return ()
        return self.current.issue(resolution, backend, self._clock())

    def may_move(self, resolution: Resolution) -> bool:
        """Whether the visitor's request may go to another backend without asking."""
        return self._on_lost == "rebalance" or resolution.status not in _AFFINE

    def check_move(self, request: RequestInfo, resolution: Resolution) -> None:
        """Ask whether the request may go to another backend than the visitor's.

        Raises:
            AffinityRejected: `on_lost` says that it must not.
            ValueError: `on_lost` says something that it cannot say.
        """
        status = resolution.status
        if status is not AffinityStatus.MOVED and status is not AffinityStatus.LOST:
            return
        action = self._on_lost(status, request) if callable(self._on_lost) else self._on_lost
        if action == "reject":
            raise AffinityRejected(f"the visitor's backend is {status.value} and must not change")
        if action != "rebalance":
            raise ValueError(f"on_lost must return 'rebalance' or 'reject', got {action!r}")

    def __repr__(self) -> str:
        return f"<PoolAffinity {self.current!r}>"
