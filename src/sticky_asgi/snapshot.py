"""What a source of backends tells, and how its word is waited for.

A source is anything with `watch()`. It decides nothing: what has changed, when it is put in force,
and what happens while the source is away is the affair of `discovery/watcher.py` and of the pool.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .affinity.settings import CookieSettings
from .backend import Backend, Intent
from .checks import check_type, is_amount

_ID = operator.attrgetter("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a source knows of a pool at one moment.

    Args:
        backends: Every backend there is, with distinct ids; in an order that stays the same
            where nothing changes. Where the source says so, `metadata["zone"]` is where it runs.
        intents: What the source wishes for backends, by id; those not named are active. What an
            operator wishes stands beside it, and the stricter of the two is in force.
        affinity: The settings of the pool's cookie; None: its visitors belong to nobody. Only a
            pool with `AnnotatedCookie` looks at it.

    Raises:
        TypeError: Something else than backends and intents.
        ValueError: Two backends of one id, or an intent for none of them.
    """

    backends: tuple[Backend, ...]
    intents: Mapping[str, Intent] = field(default_factory=dict)
    affinity: CookieSettings | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "backends", _checked(self.backends))
        ids = set(map(_ID, self.backends))
        if len(ids) < len(self.backends):
            seen: set[str] = set()
            for backend in self.backends:
                if backend.id in seen:
                    raise ValueError(f"backends must have distinct ids, got {backend.id!r} twice")
                seen.add(backend.id)
        for backend_id, intent in self.intents.items():
            check_type("an intent", intent, Intent)
            if backend_id not in ids:
                raise ValueError(f"intents must be of backends, got one for {backend_id!r}")
        check_type("affinity", self.affinity, CookieSettings, None)


def _checked(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    made = tuple(backends)
    # A source with thousands of backends speaks often: what is plainly right takes no time.
    if not set(map(type, made)) <= {Backend}:
        for backend in made:
            check_type("a backend", backend, Backend)
    return made


def is_same(before: tuple[Backend, ...], now: tuple[Backend, ...]) -> bool:
    """Whether these are the very same objects, in the same order.

    Sources keep the `Backend` objects of which nothing has changed, so this says at once whether
    there is anything to be done about thousands of them.
    """
    return len(before) == len(now) and all(map(operator.is_, before, now))


class Discovery(Protocol):
    """Where a pool's backends come from.

    `watch` yields a snapshot at once and another whenever something has changed; every one is the
    full set. It goes on for ever. To fail, it raises `DiscoveryError`, or whatever its libraries
    do: the last good snapshot stays in force, and after a pause `watch` is called again. A source
    may remember where it was. It may be watched several times at once, from several event loops.

    A backend in process (`Backend(app=...)`) is served from its snapshot on, and gets no lifespan:
    that would have to be over before the first request, and backends come while others serve. Its
    source starts it before it names it, if it needs that, and stops it when it is done with it.

    Two sources that are equal (`==`) are taken for the same one: a changed configuration then
    leaves the watch alone.
    """

    def watch(self) -> AsyncIterator[Snapshot]:
        """Tell what backends there are, now and from now on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """How a pool follows its source.

    Args:
        start: What happens at the start of the gateway until the first snapshot is there:
            `"wait"` (default) waits `start_timeout` for it, and then fails with the reason;
            `"empty"` begins at once, with no backends and not ready.
        start_timeout: Seconds. Default 30; None: for ever.
        debounce: Seconds in which snapshots that follow one another count as one; a pool for
            which each change is much work waits longer. Default 0.01.
        min_backoff: Seconds of the first pause after a failure, doubled with each further one;
            each is drawn at random from its upper half. Default 0.8.
        max_backoff: The longest. Default 30. A source may ask for a longer one, as an API server
            with Retry-After does.

    Raises:
        ValueError: A value that is no such thing, naming it.

    Source: the intervals are those of client-go's reflector.
    """

    start: Literal["wait", "empty"] = "wait"
    start_timeout: float | None = 30.0
    debounce: float = 0.01
    min_backoff: float = 0.8
    max_backoff: float = 30.0

    def __post_init__(self) -> None:
        if self.start not in ("wait", "empty"):
            raise ValueError(f"start must be 'wait' or 'empty', got {self.start!r}")
        for name in ("start_timeout", "debounce", "min_backoff", "max_backoff"):
            value = getattr(self, name)
            if name == "start_timeout" and value is None:
                continue
            if not is_amount(value) or (value == 0 and name != "debounce"):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        if self.max_backoff < self.min_backoff:
            raise ValueError(
                f"max_backoff must be at least min_backoff ({self.min_backoff:g}), "
                f"got {self.max_backoff!r}"
            )


class WatchStatus:
    """How a pool gets on with its source.

    Several may follow it at once, from the event loops of several threads: what is wrong is so
    until none of them fails any more.

    Attributes:
        has_snapshot: Whether there was a snapshot. What is in force may be older than the source's
            present word, but it is the source's.
        error: What is wrong now, as was said last; None: nothing.
        failures: Failures in a row.
        failures_total: Failures since the pool was made.
    """

    __slots__ = (
        "_applying",
        "_heard",
        "_lock",
        "_reasons",
        "error",
        "failures",
        "failures_total",
        "has_snapshot",
    )

    def __init__(self) -> None:
        self.has_snapshot = False
        self.error: str | None = None
        self.failures = 0
        self.failures_total = 0
        self._lock = threading.Lock()
        #: What is wrong, by whom it is wrong for; what was said last comes last.
        self._reasons: dict[object, str] = {}
        # What it is held for may have listeners, and they may have the source say something.
        self._applying = threading.RLock()
        #: When what is in force was heard.
        self._heard = -math.inf

    def fail(self, reason: str, who: object = None) -> bool:
        """Count a failure of one that follows; None: of the pool itself.

        Returns:
            Whether it is news: nobody fails for this reason.
        """
        with self._lock:
            is_news = reason not in self._reasons.values()
            self._reasons.pop(who, None)
            self._reasons[who] = self.error = reason
            self.failures += 1
            self.failures_total += 1
        return is_news

    def recover(self, who: object) -> int:
        """All is well for one that follows, and so what it has said holds for the pool itself.

        Returns:
            After how many failures in a row; 0 while another one fails.
        """
        return self._take_out(lambda one, reason: one is who or one is None)

    def withdraw(self, reason: str) -> int:
        """Nobody fails for this reason any more. Returns what `recover` does."""
        return self._take_out(lambda one, said: said == reason)

    def forget(self, who: object) -> None:
        """One follows no more: whether all is well is for the others to say."""
        self._take_out(lambda one, reason: one is who)

    def _take_out(self, is_meant: Callable[[object, str], bool]) -> int:
        with self._lock:
            self._reasons = {
                who: reason for who, reason in self._reasons.items() if not is_meant(who, reason)
            }
            if self._reasons:
                self.error = [*self._reasons.values()][-1]
                return 0
            failures, self.failures, self.error = self.failures, 0, None
            return failures

    def put_in_force(self, heard: float, apply: Callable[[], object]) -> None:
        """Put a word in force, unless another one was heard later and is in force already.

        Each loop that follows the source puts in force a little later what it has heard. They do
        so one at a time, and none goes back behind another one.

        Args:
            heard: When it was heard, in seconds of a clock that all threads share.
            apply: Puts it in force. What it raises is raised.
        """
        with self._applying:
            if heard >= self._heard:
                self._heard = heard
                apply()

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<WatchStatus failing: {self.error}>"
        return f"<WatchStatus {'following' if self.has_snapshot else 'waiting'}>"
