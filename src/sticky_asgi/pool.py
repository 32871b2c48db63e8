"""A pool: which backend takes a request, and how many each of them has.

Everything here is synchronous: between choosing a backend and counting its request there is no
`await`, hence no race. The pool decides; `call.py` waits and acts.

Candidates only narrow: in the snapshot → not tried in this request → intent → health → capacity.
A balancer chooses among what is left and never checks health again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from .affinity import Affinity, AffinityStatus, AnnotatedCookie, Resolution
from .backend import Backend, BackendState, Health, Intent
from .balancers import Balancer, RoundRobin
from .checks import check_type, is_amount
from .events import BackendsReplaced, DiscoveryRecovered, HealthChanged, PoolEvent
from .exceptions import (
    BackendsBusy,
    NoBackendAvailable,
    QueueFull,
    UnwantedStatus,
    UpstreamError,
)
from .groups import Groups
from .health import (
    NOT_CHECKED,
    CheckResult,
    Ejection,
    HealthCheck,
    HealthKeeper,
    Schedule,
    take_drain_wish,
)
from .intents import IntentKeeper
from .lease import Lease
from .limits import Limits
from .observers import Observers
from .pool_affinity import PoolAffinity
from .pool_checks import check_backends_and_affinity, check_policies
from .request import RawHeaders, RequestInfo
from .retries import Retry
from .retry_budget import RetryBudget
from .snapshot import Discovery, Snapshot, WatchOptions, WatchStatus, is_same
from .timeouts import Timeouts
from .tls import TLS
from .waiting_queue import Waiter, WaitingQueue
from .websocket_options import WebSocketOptions

logger = logging.getLogger("sticky_asgi")

_NOTHING_TRIED: frozenset[str] = frozenset()


class Pool:
    """A named set of backends and the policies for them.

    Args:
        name: The pool's name: in logs, in the affinity cookie's default name and in its salt.
        backends: URLs or `Backend` objects, with distinct ids. The order matters to nobody.
        discovery: Where the backends come from instead, such as `KubernetesService("web")`. They
            are followed as long as the gateway's lifespan lasts.
        watch: How the source is followed. Default `WatchOptions()`.
        balancer: Chooses a backend for a new session. Default `RoundRobin()`. One object serves
            one pool.
        affinity: Remembers which backend a visitor belongs to, as `SignedCookie` does;
            `AnnotatedCookie` as the source of the backends says. Default None: every request is a
            new session.
        retry: When a failed attempt is repeated. Default `Retry()`; None: never.
        timeouts: Default `Timeouts()`.
        limits: Default `Limits()`.
        tls: For `https` backends. Default None: the system's authorities are trusted.
        websocket: Message size, pings and closing of WebSockets. Default `WebSocketOptions()`.
        health_check: How backends are asked whether they can be used. Default None: they are not.
            Checks are made as long as the gateway's lifespan lasts.
        ejection: When requests that fail take their backend out. Default `Ejection()`; None: never.
        slow_start: Seconds in which a backend that comes back gets its full share of new sessions
            again, from a tenth of its weight upwards. Default 10; None: at once. At the gateway's
            own start there is none.
        panic: What happens when nobody can be used: `"none"` (default) answers 503, `"all"` takes
            everybody for healthy.
        drain_header: Whether any response with `Sticky-Drain: 1` means that its backend wants no
            new sessions, until `Sticky-Drain: 0` or until a check passes without it. Visitors do
            not get to see it. Default False: only responses to checks are looked at.
        transport: An `httpx.AsyncBaseTransport` (httpx2's works too) that carries the requests
            instead of the gateway's own HTTP/1.1 transport. `timeouts` are handed to it as httpx
            does; `tls` and keep-alive are its own business. You close it. WebSockets pass it by:
            httpx has none, so the gateway's own transport carries them, with `tls`.
        host: `"pass"` (default) sends the visitor's Host to the backend, `"backend"` the
            backend's own.
        clock: Tells seconds that only go forward, for ejection, slow start and drains. Default
            `time.monotonic`; tests have others.

    Raises:
        ValueError: A bad name, neither backends nor discovery, or both, two backends of one id, an
            unknown `host` or `panic`, a `slow_start` that is no time, an `AnnotatedCookie`
            without discovery.
        TypeError: An argument that is not what it should be.
    """

    # CPython shares the keys of no more than 30 attributes between objects: beyond that each would
    # be looked up in a dictionary, many times a request.
    __slots__ = (
        "__weakref__",
        "_backends",
        "_departed",
        "_fault_statuses",
        "_grouping",
        "_groups",
        "_has_limits",
        "_has_panicked",
        "_intents",
        "_keeper",
        "_picking",
        "_queue",
        "_replacing",
        "_states",
        "balancer",
        "clock",
        "discovery",
        "drain_header",
        "ejection",
        "followers",
        "health_check",
        "host",
        "in_flight",
        "limits",
        "name",
        "noted_statuses",
        "observers",
        "panic",
        "policies_version",
        "retry",
        "retry_budget",
        "schedule",
        "slow_start",
        "timeouts",
        "tls",
        "transport",
        "version",
        "visitors",
        "watch",
        "watch_status",
        "websocket",
    )

    def __init__(
        self,
        name: str,
        backends: Iterable[str | Backend] | None = None,
        *,
        discovery: Discovery | None = None,
        watch: WatchOptions = WatchOptions(),
        balancer: Balancer | None = None,
        affinity: Affinity | AnnotatedCookie | None = None,
        retry: Retry | None = Retry(),
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        tls: TLS | None = None,
        websocket: WebSocketOptions = WebSocketOptions(),
        health_check: HealthCheck | None = None,
        ejection: Ejection | None = Ejection(),
        slow_start: float | None = 10.0,
        panic: Literal["all", "none"] = "none",
        drain_header: bool = False,
        transport: Any = None,
        host: Literal["pass", "backend"] = "pass",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_backends_and_affinity(name, backends, discovery, affinity)
        self.name = name
        self.balancer: Balancer = RoundRobin() if balancer is None else balancer
        self.retry = Retry(attempts=0) if retry is None else retry
        self.timeouts = timeouts
        self.limits = limits
        self.tls = tls
        self.websocket = websocket
        self.transport = transport
        self.discovery = discovery
        self.watch = watch
        self.watch_status = WatchStatus()
        self.host: Literal["pass", "backend"] = host
        self.clock = clock
        self.health_check = health_check
        self.ejection = ejection
        self.slow_start = slow_start
        self.panic: Literal["all", "none"] = panic
        self.drain_header = drain_header
        check_policies(self)
        self.retry_budget = RetryBudget(self.retry)
        #: When which backend is checked next, for whoever makes the checks.
        self.schedule = Schedule()
        #: Called when a check may be due earlier: other backends or policies, or one was ejected.
        self.followers: set[Callable[[], object]] = set()
        self._keeper = HealthKeeper(self._turn, self._changed, clock)
        self._intents = IntentKeeper(name, self._intents_changed, self.tell)
        self.in_flight = 0
        self.version = 0
        #: Rises whenever another pool's policies are adopted.
        self.policies_version = 0
        #: How they are bound to backends.
        self.visitors = PoolAffinity(self, affinity)
        #: Told of every change, for as long as they live.
        self.observers = Observers()
        self._states: dict[str, BackendState] = {}
        self._departed: dict[str, BackendState] = {}
        #: The loops of several threads may hear the source, or look for a backend, at one time.
        self._replacing = threading.Lock()
        # Reentrant: the garbage collector may end a request, and so serve the queue, meanwhile.
        self._grouping = threading.RLock()
        self._picking = threading.RLock()
        self._queue = WaitingQueue(self._lease_for)
        self._backends: tuple[Backend, ...] = ()
        self._groups: Groups | None = None
        self._has_limits = False
        self._has_panicked = False
        self._use_health_policies()
        self.replace(backends or ())

    # The set of backends.

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The current snapshot."""
        return self._backends

    @property
    def affinity(self) -> Affinity | None:
        """What remembers which backend a visitor belongs to, as it is in force."""
        return self.visitors.current

    @property
    def states(self) -> tuple[BackendState, ...]:
        """What is known of each backend of the snapshot, in its order."""
        # A pool that nobody asks for a backend does not see time pass.
        self._keeper.advance()
        return tuple(self._states.values())

    def __contains__(self, backend_id: object) -> bool:
        return backend_id in self._states

    def __getitem__(self, backend_id: str) -> BackendState:
        """What is known of one backend. Raises KeyError, naming the ids there are."""
        try:
            return self._states[backend_id]
        except KeyError:
            known = ", ".join(sorted(self._states)) or "none"
            raise KeyError(
                f"pool {self.name!r} has no backend {backend_id!r}; it has {known}"
            ) from None

    def replace(self, backends: Iterable[str | Backend]) -> None:
        """Put a new set of backends in force, at once and as a whole.

        State is kept by id: sessions, requests in flight, health and intent of a backend that
        stays are untouched, though its address or weight may change. Requests on a backend that
        goes are finished there.

        Raises:
            ValueError: Two backends of one id; then nothing has changed.
        """
        snapshot = _snapshot_of(backends)
        counts = Counter(backend.id for backend in snapshot)
        if len(counts) < len(snapshot):
            twice = next(key for key, count in counts.items() if count > 1)
            raise ValueError(f"pool {self.name!r} has two backends with the id {twice!r}")
        self._replace(snapshot, {})

    def follow(self, snapshot: Snapshot) -> None:
        """Put in force what the pool's source says, at once and as a whole.

        As `replace`, and what the source wishes for backends and for the cookie as well.

        Raises:
            ValueError: The cookie's settings do not go together with the pool's own; everything
                else is in force then, and the cookie is what it was.
        """
        with self._replacing:
            # Pods come and go less often than they are ready and not ready.
            is_other = not is_same(snapshot.backends, self._backends)
            swapped = self._swap(snapshot.backends, {}) if is_other else None
            before = self._intents.discover(self._states, snapshot.intents)
        self._tell_of_change(swapped, before)
        self.watch_status.has_snapshot = True
        if self.visitors.follow(snapshot.affinity):
            self.policies_version += 1

    def _replace(
        self,
        snapshot: tuple[Backend, ...],
        new_states: Mapping[str, BackendState],
        intents: Mapping[str, Intent] | None = None,
    ) -> None:
        with self._replacing:
            swapped = self._swap(snapshot, new_states)
            before = {} if intents is None else self._intents.discover(self._states, intents)
        self._tell_of_change(swapped, before)

    def _swap(
        self, snapshot: tuple[Backend, ...], new_states: Mapping[str, BackendState]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Have these backends instead. Returns who has come, and who has gone."""
        previous = self._states
        states = self._states_of(snapshot, new_states)
        added = tuple([key for key in states if key not in previous])
        removed = tuple([key for key in previous if key not in states])
        self._states, self._backends = states, snapshot
        self._has_limits = any(backend.max_requests is not None for backend in snapshot)
        for key in removed:
            state = previous[key]
            # Its requests are counted on, but what was wished for it went with it.
            self._intents.forget(state)
            state.health = Health.UNKNOWN
            state.faults = 0
            if state.in_flight:
                self._departed[key] = state
        self.version += 1
        return added, removed

    def _tell_of_change(
        self,
        swapped: tuple[tuple[str, ...], tuple[str, ...]] | None,
        before: Mapping[BackendState, Intent],
    ) -> None:
        """Act on what `_swap`, if it was called, and the keeper of intents have returned."""
        if swapped is not None:
            self._keeper.follow(self._states.values())
            self._changed()
        self._intents.tell_of_discovered(before)
        if swapped is not None:
            added, removed = swapped
            if added or removed:
                self.tell(BackendsReplaced(pool=self.name, added=added, removed=removed))
            self._tell_followers()

    def adopt(self, other: Pool) -> None:
        """Take over another pool's policies and backends, and keep this one's state.

        What a changed configuration does to a running pool: sessions, counters, health and intent
        stay with the backends of the same id; those of others are as the other pool has them. That
        must not be used afterwards.
        """
        if other.balancer != self.balancer:
            # An equal one would only have to learn again whose turn it is, and thousands of ids.
            self.balancer = other.balancer
        self.retry = other.retry
        self.retry_budget.retry = other.retry
        self.timeouts = other.timeouts
        self.limits = other.limits
        self.tls = other.tls
        self.websocket = other.websocket
        self.transport = other.transport
        self.host = other.host
        self.health_check = other.health_check
        self.ejection = other.ejection
        self.slow_start = other.slow_start
        self.panic = other.panic
        if self.drain_header and not other.drain_header:
            self._intents.forget_wishes(self._states.values(), "its header is not read any more")
        self.drain_header = other.drain_header
        self._adopt_discovery(other)
        self._adopt_affinity(other)
        self._use_health_policies()
        self.policies_version += 1
        if other.discovery is None:
            self._replace(other.backends, other._states, {})
        else:
            # Until the new source has spoken, what is known stays in force.
            self._replace(self.backends, {})

    def _adopt_discovery(self, other: Pool) -> None:
        self.watch = other.watch
        if other.discovery == self.discovery:
            return  # The watch goes on.
        self.discovery = other.discovery
        status, self.watch_status = self.watch_status, WatchStatus()
        # Stale backends are better than none, and no reason to be not ready.
        self.watch_status.has_snapshot = status.has_snapshot or bool(self._states)
        self.visitors.expect_another_source()

    def _adopt_affinity(self, other: Pool) -> None:
        fault, status = self.visitors.fault, self.watch_status
        try:
            self.visitors.declare(other.visitors.declared)
        except ValueError as exc:
            # The rest of the new configuration is as good as it was.
            status.fail(str(exc))
            logger.warning("pool %s: the affinity cookie stays what it was: %s", self.name, exc)
        else:
            # The source may say nothing for long, and what it has said is in force now.
            if fault is not None and (failures := status.withdraw(fault)):
                self.tell(DiscoveryRecovered(pool=self.name, failures=failures))

    def _use_health_policies(self) -> None:
        statuses = () if self.ejection is None else self.ejection.statuses
        self._fault_statuses = frozenset(statuses)
        #: Statuses of which more is to be made than passing them on.
        self.noted_statuses = self._fault_statuses.union(self.retry.on_status)
        self._keeper.use(self.health_check, self.ejection, self.slow_start)

    def _tell_followers(self) -> None:
        for follower in [*self.followers]:
            follower()

    def _states_of(
        self, snapshot: tuple[Backend, ...], new_states: Mapping[str, BackendState]
    ) -> dict[str, BackendState]:
        known, departed = self._states, self._departed
        states: dict[str, BackendState] = {}
        for backend in snapshot:
            key = backend.id
            state = known.get(key)
            if state is None:
                state = departed.pop(key, None) or new_states.get(key) or BackendState(backend)
            if state.backend is not backend:
                state.use(backend)
            states[key] = state
        return states

    def add(self, backend: str | Backend) -> Backend:
        """Add one backend. Raises ValueError if its id is taken.

        One in process gets no lifespan where the gateway has started: start it before.
        """
        (added,) = _snapshot_of([backend])
        self.replace((*self._backends, added))
        return added

    def remove(self, backend_id: str) -> None:
        """Remove one backend; what runs on it is finished. Raises KeyError if there is none."""
        self[backend_id]
        self.replace([backend for backend in self._backends if backend.id != backend_id])

    def drain(self, backend_id: str, *, deadline: float | None = None) -> None:
        """Keep the sessions a backend has and give it no new ones.

        How much is left on it `pool[backend_id]` tells: `in_flight` counts all, `streams` the
        responses that have begun, `websockets` the WebSockets.

        Args:
            backend_id: The backend.
            deadline: Seconds after which it is down, in a running gateway. Its visitors move with
                their next request; requests without an answer yet are still answered; responses
                that have begun are cut off, and WebSockets closed with 1012 (service restart), so
                that their clients connect again. Default None: sessions may stay for ever.

        Raises:
            KeyError: There is no such backend.
            ValueError: A deadline that is no number of seconds, or below 0.
        """
        if deadline is not None and not (is_amount(deadline) and deadline >= 0):
            raise ValueError(f"deadline must be a number of seconds or None, got {deadline!r}")
        self._intents.wish(
            self[backend_id],
            Intent.DRAINING,
            until=None if deadline is None else self.clock() + deadline,
        )

    def undrain(self, backend_id: str) -> None:
        """Give a backend new sessions again. Raises KeyError."""
        self.set_intent(backend_id, Intent.ACTIVE)

    def set_intent(self, backend_id: str, intent: Intent) -> None:
        """Say what is wished for a backend: active, draining or down. Raises KeyError."""
        check_type("intent", intent, Intent)
        self._intents.wish(self[backend_id], intent)

    def end_drain(self, state: BackendState) -> None:
        """The deadline of a drain has passed: take the backend out of service."""
        self._intents.end_drain(state)

    def _intents_changed(self) -> None:
        self._keeper.follow_intents(self._states.values())
        self._changed()

    def tell(self, event: PoolEvent) -> None:
        """Tell everyone who observes the pool."""
        for observer in self.observers:
            observer.observe(self, event)

    # Health: what was observed. The keeper makes up its mind; here it is put in force.

    def set_health(self, backend_id: str, health: Health, *, reason: str = "set by hand") -> None:
        """Say what has been observed of a backend. Raises KeyError.

        It holds until somebody observes something else: with active checks on, these do.

        Args:
            backend_id: Which one.
            health: What it is.
            reason: Why, for the log.
        """
        check_type("health", health, Health)
        self._keeper.observe_health(self[backend_id], health, reason)

    def begin_checks(self) -> None:
        """Somebody begins to make this pool's active checks; `end_checks` is to follow."""
        self._keeper.begin_checks()

    def end_checks(self) -> None:
        """Somebody makes no checks any more. With the last one, what checks said is void."""
        self._keeper.end_checks()
        if not self._keeper.is_checked:
            self.schedule.clear()
            self._intents.forget_wishes(self._states.values(), "no checks any more")

    def observe_check(self, state: BackendState, result: CheckResult) -> None:
        """An active check of a backend has ended."""
        if self._states.get(state.id) is not state:
            return
        if result.passed and result.drains is not None:
            self._intents.observe_wish(state, result.drains, result.reason)
        self._keeper.observe_check(state, result)

    def observe_failure(
        self,
        state: BackendState,
        error: UpstreamError,
        *,
        took: float = 0,
        is_counted: bool = False,
    ) -> None:
        """A request has failed, and its backend is to blame.

        Args:
            state: The backend.
            error: How.
            took: Seconds since it was sent there: one from before the backend came back says
                nothing of it any more.
            is_counted: Whether it counts already, for the status of its answer.
        """
        state.observe_failure()
        # A status is an answer: see `observe_answer`.
        if not is_counted and not isinstance(error, UnwantedStatus):
            self._observe_fault(state, str(error), took)

    def observe_answer(self, state: BackendState, status: int, *, took: float = 0) -> bool:
        """A backend has answered a request. To be told if it has `faults`, or of noted statuses.

        Args:
            state: The backend.
            status: Of the answer.
            took: Seconds since it was asked, as for `observe_failure`.

        Returns:
            Whether the request counts as failed, for its status.
        """
        if status in self._fault_statuses:
            self._observe_fault(state, f"status {status}", took)
            return True
        self._keeper.observe_answer(state, took=took)
        return False

    def _observe_fault(self, state: BackendState, reason: str, took: float = 0) -> None:
        before = state.health
        self._keeper.observe_fault(state, reason, took=took)
        if state.health is not before and self.health_check is not None:
            # The checks that are to bring it back need not wait for its turn.
            self.schedule.hasten(state, self.clock(), self.health_check)
            self._tell_followers()

    def observe_headers(self, state: BackendState, headers: RawHeaders) -> RawHeaders:
        """A backend has answered a request, and its header may say whether it is to be drained.

        Returns:
            What of the header is for the visitor.
        """
        wish, rest = take_drain_wish(headers)
        if wish is not None and self._states.get(state.id) is state:
            self._intents.observe_wish(state, wish, "a response")
        return rest

    def _turn(self, state: BackendState, health: Health, reason: str, is_news: bool) -> None:
        """Every change of health comes through here."""
        before = state.health
        if health is before:
            return
        state.health = health
        is_bad_news = health is Health.UNHEALTHY and reason != NOT_CHECKED
        level = logging.WARNING if is_bad_news else logging.INFO if is_news else logging.DEBUG
        logger.log(level, "pool %s: backend %s is %s, was %s (%s)",
                   self.name, state.id, health.value, before.value, reason)  # fmt: skip
        if Health.UNHEALTHY in (before, health):
            # Else it can be used as before.
            self._changed()
        self.tell(
            HealthChanged(
                pool=self.name, backend=state.id, before=before, after=health, reason=reason
            )
        )

    def advance(self) -> None:
        """Let those be used again whose time out is over. Whoever picks or looks does so, too."""
        self._keeper.advance()

    def _changed(self) -> None:
        """Who can be used has changed."""
        with self._grouping:
            self._groups = None
        if self._queue:
            self._queue.serve()

    def _form_groups(self) -> Groups:
        """Put down who may be chosen, until something changes."""
        with self._grouping:
            groups = self._groups = Groups(
                self._states.values(), panics=self.panic == "all", has_limits=self._has_limits
            )
            if groups.panics and not self._has_panicked:
                logger.warning("pool %s: nobody is healthy, everybody is tried", self.name)
            self._has_panicked = groups.panics
        return groups

    # Choosing.

    def pick(
        self,
        request: RequestInfo,
        *,
        resolution: Resolution | None = None,
        exclude: Collection[str] = _NOTHING_TRIED,
    ) -> BackendState:
        """Choose a backend for a request.

        Args:
            request: The request.
            resolution: What affinity knows of it. Its status becomes `MOVED` when the visitor's
                backend cannot take the request.
            exclude: Ids of the backends tried already.

        Raises:
            BackendsBusy: The visitor's backend, or every one that could do, is at `max_requests`.
            AffinityRejected: The visitor's backend cannot be had and `on_lost` says to reject.
            NoBackendAvailable: There is nobody to send it to.
        """
        if resolution is not None:
            pinned = self._pinned(resolution, exclude)
            if pinned is not None:
                if pinned.is_full:
                    raise BackendsBusy(f"backend {pinned.id!r} is at max_requests")
                pinned.charged = True
                return pinned
            self.visitors.check_move(request, resolution)
        candidates = self._candidates(exclude)
        with self._picking:
            return self.balancer.pick(candidates, request)

    def prepare(self) -> None:
        """Do beforehand what the first visitors would wait for: of thousands of backends, much."""
        self.visitors.prepare()
        prepare = getattr(self.balancer, "prepare", None)
        first = self._form_groups().first
        if prepare is not None and first:
            with self._picking:
                prepare(first)

    def _pinned(self, resolution: Resolution, exclude: Collection[str]) -> BackendState | None:
        if resolution.status is not AffinityStatus.KEPT or resolution.backend_id is None:
            return None
        state = self._states.get(resolution.backend_id)
        if state is None:
            resolution.status = AffinityStatus.LOST
        elif state.id in exclude or not (state.keeps_sessions or self._is_good_enough(state)):
            resolution.status = AffinityStatus.MOVED
        else:
            return state
        return None

    def _is_good_enough(self, state: BackendState) -> bool:
        """Whether a backend that seemed of no use to its visitors can be used after all."""
        if self._keeper.due is not None:
            self._keeper.advance()
        groups = self._groups or self._form_groups()
        return state.keeps_sessions or (groups.panics and state.intent is not Intent.DOWN)

    def _candidates(self, exclude: Collection[str]) -> Sequence[BackendState]:
        if self._keeper.due is not None:
            self._keeper.advance()
        groups = self._groups or self._form_groups()
        usable = groups.without(exclude) if exclude else groups.first
        if not usable:
            raise NoBackendAvailable(f"pool {self.name!r} has no backend for this request")
        if not groups.has_limits:
            return usable
        free = tuple(state for state in usable if not state.is_full)
        if not free:
            raise BackendsBusy(f"every backend of pool {self.name!r} is at max_requests")
        return usable if len(free) == len(usable) else free

    def has_another(self, resolution: Resolution, exclude: Collection[str]) -> bool:
        """Whether a visitor's request could go to a backend besides these, at once."""
        if not self.visitors.may_move(resolution):
            return False
        groups = self._groups or self._form_groups()
        return any(not state.is_full for state in groups.without(exclude))

    def lease(self, state: BackendState) -> Lease:
        """Count a request against a backend until the lease is released; a context manager."""
        return Lease(self, state)

    def _released(self, state: BackendState) -> None:
        """A request has ended on a backend."""
        if self._queue:
            self._queue.serve()
        if self._departed and not state.in_flight:
            self._departed.pop(state.id, None)

    # The queue.

    @property
    def queued(self) -> int:
        """Requests that wait for a backend."""
        return len(self._queue)

    def enqueue(
        self,
        request: RequestInfo,
        wake: Callable[[], object],
        *,
        resolution: Resolution | None = None,
        exclude: Collection[str] = _NOTHING_TRIED,
    ) -> Waiter:
        """Let a request wait for a backend: for the visitor's own, or for any.

        When `wake` is called, the waiter has a lease or an error. First come, first served among
        those who can be: a free backend is handed on and cannot be snatched by a newcomer.

        Raises:
            QueueFull: `Limits.queue` requests are waiting already.
        """
        if len(self._queue) >= self.limits.queue:
            raise QueueFull(f"{len(self._queue)} requests wait for pool {self.name!r} already")
        return self._queue.join(request, resolution, exclude, wake)

    def forget(self, waiter: Waiter) -> None:
        """Take a request out of the queue; if it has got a lease meanwhile, give that back."""
        self._queue.leave(waiter)

    def _lease_for(self, waiter: Waiter) -> Lease:
        state = self.pick(waiter.request, resolution=waiter.resolution, exclude=waiter.exclude)
        return Lease(self, state)

    def __repr__(self) -> str:
        counts = Counter(
            "unhealthy" if state.health is Health.UNHEALTHY else state.intent.value
            for state in self._states.values()
        )
        held = ", ".join(f"{n} {word}" for word, n in sorted(counts.items())) or "empty"
        waiting = f", {self.queued} queued" if self._queue else ""
        error = self.watch_status.error
        trouble = f" | discovery: {error}" if error is not None else ""
        return f"<Pool {self.name} [{held} | {self.in_flight} in flight{waiting}{trouble}]>"


def _snapshot_of(backends: Iterable[str | Backend]) -> tuple[Backend, ...]:
    if isinstance(backends, str | Backend) or not isinstance(backends, Iterable):
        raise TypeError(f"backends must be a list of URLs and Backend objects, got {backends!r}")
    snapshot = tuple(Backend(item) if isinstance(item, str) else item for item in backends)
    for backend in snapshot:
        check_type("a backend", backend, str, Backend)
    return snapshot
