"""Which backend takes a request, how many each has, and who waits."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sticky_asgi.affinity import AffinityStatus, Resolution
from sticky_asgi.backend import Backend, BackendState, Health, Intent
from sticky_asgi.balancers import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Random,
    RoundRobin,
    TwoChoices,
)
from sticky_asgi.exceptions import (
    AffinityRejected,
    BackendsBusy,
    ConnectError,
    NoBackendAvailable,
    QueueFull,
    QueueTimeout,
)
from sticky_asgi.health import Ejection
from sticky_asgi.lease import Lease
from sticky_asgi.limits import Limits
from sticky_asgi.pool import Pool
from sticky_asgi.request import RequestInfo
from sticky_asgi.retries import Retry
from sticky_asgi.testing import VirtualClock
from sticky_asgi.timeouts import Timeouts
from sticky_asgi.waiting_queue import Waiter
from sticky_asgi.websocket_options import WebSocketOptions

from .contracts import check_balancer

REQUEST = RequestInfo(client="192.0.2.1")


def backend(id: str, **options: Any) -> Backend:
    return Backend(f"http://{id}.test:80", id=id, **options)


def pool(ids: str = "abc", *, max_requests: int | None = None, **options: Any) -> Pool:
    return Pool("shop", [backend(id, max_requests=max_requests) for id in ids], **options)


def picks(made: Pool, count: int = 30, **options: Any) -> set[str]:
    return {made.pick(REQUEST, **options).id for _ in range(count)}


def belongs_to(id: str) -> Resolution:
    return Resolution(AffinityStatus.KEPT, id)


def lease(made: Pool, **options: Any) -> Lease:
    return made.lease(made.pick(REQUEST, **options))


class Wake:
    """Counts how often a waiter was woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class Pinning:
    """An affinity that remembers one backend."""

    def __init__(self, on_lost: Any = "rebalance") -> None:
        self.on_lost = on_lost

    def resolve(self, request: RequestInfo, pool: Any) -> Resolution:
        return belongs_to("a")

    def issue(self, resolution: Resolution, backend: Backend, now: float) -> Sequence[Any]:
        return [(b"x-issued", f"{backend.id} {now:.0f}".encode())]


# Narrowing


def test_candidates_only_narrow() -> None:
    made = pool("abcdef", max_requests=1)
    assert picks(made) == set("abcdef")
    made.remove("a")
    assert picks(made) == set("bcdef")
    assert picks(made, exclude={"b"}) == set("cdef")
    made.drain("c")
    assert picks(made, exclude={"b"}) == set("def")
    made.set_health("d", Health.UNHEALTHY)
    assert picks(made, exclude={"b"}) == set("ef")
    held = made.lease(made["e"])
    assert picks(made, exclude={"b"}) == {"f"}
    held.release()
    assert picks(made, exclude={"b"}) == set("ef")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(lambda made: made.replace([]), NoBackendAvailable, id="empty"),
        pytest.param(lambda made: made.set_intent("a", Intent.DOWN), NoBackendAvailable, id="down"),
        pytest.param(
            lambda made: made.set_health("a", Health.UNHEALTHY), NoBackendAvailable, id="unhealthy"
        ),
        pytest.param(lambda made: made.lease(made["a"]), BackendsBusy, id="full"),
    ],
)
def test_nobody_left(spoil: Callable[[Pool], object], error: type[Exception]) -> None:
    made = pool("a", max_requests=1)
    spoil(made)
    with pytest.raises(error) as caught:
        made.pick(REQUEST)
    assert type(caught.value) is error
    assert "'shop'" in str(caught.value)


def test_everybody_tried() -> None:
    with pytest.raises(NoBackendAvailable, match="no backend for this request"):
        pool("ab").pick(REQUEST, exclude={"a", "b"})


def test_only_the_full_ones_are_left() -> None:
    """Busy, not unavailable: the request may wait for them."""
    made = pool("ab", max_requests=1)
    made.lease(made["b"])
    with pytest.raises(BackendsBusy):
        made.pick(REQUEST, exclude={"a"})


@pytest.mark.parametrize(
    "spare",
    [
        pytest.param(lambda made: made.drain("a"), id="draining"),
        pytest.param(
            lambda made: made.replace([backend("a", weight=0), backend("b")]), id="weight-0"
        ),
    ],
)
def test_draining_serves_new_sessions_only_when_nobody_else_can(
    spare: Callable[[Pool], None],
) -> None:
    made = pool("ab")
    spare(made)
    assert picks(made) == {"b"}
    assert picks(made, resolution=belongs_to("a")) == {"a"}
    assert picks(made, exclude={"b"}) == {"a"}
    made.set_health("b", Health.UNHEALTHY)
    assert picks(made) == {"a"}
    made.set_health("b", Health.HEALTHY)
    assert picks(made) == {"b"}


def test_a_full_pool_does_not_fall_back_on_draining() -> None:
    made = pool("ab", max_requests=1)
    made.drain("a")
    made.lease(made["b"])
    with pytest.raises(BackendsBusy):
        made.pick(REQUEST)


def test_undrain() -> None:
    made = pool("ab")
    made.drain("a")
    made.undrain("a")
    assert picks(made) == {"a", "b"}


def test_candidates_are_the_same_object_while_nothing_changes() -> None:
    seen: list[Sequence[BackendState]] = []

    class Watching:
        def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
            seen.append(candidates)
            return candidates[0]

    made = pool("ba", balancer=Watching(), max_requests=5)
    for _ in range(2):
        lease(made)
    assert seen[0] is seen[1]
    assert isinstance(seen[0], tuple)
    assert [state.id for state in seen[0]] == ["b", "a"]
    made.drain("b")
    made.pick(REQUEST)
    assert [state.id for state in seen[2]] == ["a"]


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        pytest.param(set(), True, id="nobody-tried"),
        pytest.param({"a"}, True, id="draining-one-left"),
        pytest.param({"a", "b"}, False, id="down-one-left"),
    ],
)
def test_has_another(exclude: set[str], expected: bool) -> None:
    made = pool("abc")
    made.drain("b")
    made.set_intent("c", Intent.DOWN)
    assert made.has_another(Resolution(AffinityStatus.NEW), exclude) is expected


@pytest.mark.parametrize(
    ("on_lost", "resolution", "expected"),
    [
        pytest.param("rebalance", belongs_to("a"), True, id="may-move"),
        pytest.param("reject", belongs_to("a"), False, id="must-not-move"),
        pytest.param("reject", Resolution(AffinityStatus.NEW), True, id="new"),
    ],
)
def test_has_another_for_a_visitor(on_lost: Any, resolution: Resolution, expected: bool) -> None:
    made = pool("ab", affinity=Pinning(on_lost))
    assert made.has_another(resolution, {"a"}) is expected


def test_has_another_counts_only_who_has_room() -> None:
    made = pool("ab", max_requests=1)
    made.lease(made["b"])
    assert not made.has_another(Resolution(AffinityStatus.NEW), {"a"})


def test_a_wish_goes_with_its_backend() -> None:
    made = pool("ab")
    made.drain("b")
    held = made.lease(made["b"])
    made.remove("b")
    made.add(backend("b"))
    assert (made["b"].intent, made["b"].in_flight) == (Intent.ACTIVE, 1)
    held.release()


# Pinned requests


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        pytest.param(lambda made: None, AffinityStatus.KEPT, id="well"),
        pytest.param(lambda made: made.drain("a"), AffinityStatus.KEPT, id="draining"),
        pytest.param(
            lambda made: made.set_intent("a", Intent.DOWN), AffinityStatus.MOVED, id="down"
        ),
        pytest.param(
            lambda made: made.set_health("a", Health.UNHEALTHY), AffinityStatus.MOVED, id="ill"
        ),
        pytest.param(lambda made: made.remove("a"), AffinityStatus.LOST, id="gone"),
    ],
)
def test_a_pinned_request(spoil: Callable[[Pool], None], status: AffinityStatus) -> None:
    made = pool("ab")
    spoil(made)
    resolution = belongs_to("a")
    kept = status is AffinityStatus.KEPT
    assert made.pick(REQUEST, resolution=resolution).id == ("a" if kept else "b")
    assert resolution.status is status


def test_a_pinned_request_whose_backend_was_tried_moves() -> None:
    resolution = belongs_to("a")
    assert pool("ab").pick(REQUEST, resolution=resolution, exclude={"a"}).id == "b"
    assert resolution.status is AffinityStatus.MOVED


def test_a_pinned_request_waits_for_its_own_full_backend() -> None:
    made = pool("ab", max_requests=1)
    made.lease(made["a"])
    resolution = belongs_to("a")
    with pytest.raises(BackendsBusy, match="backend 'a' is at max_requests"):
        made.pick(REQUEST, resolution=resolution)
    assert resolution.status is AffinityStatus.KEPT


def test_pinned_traffic_is_charged_to_round_robin_as_one_turn() -> None:
    made = pool("ab")
    for _ in range(50):
        made.pick(REQUEST, resolution=belongs_to("a"))
    assert [made.pick(REQUEST).id for _ in range(4)] == ["b", "a", "b", "a"]


def test_a_backend_that_its_visitors_fill_now_and_then_gets_new_ones_too() -> None:
    made = pool("abcde", max_requests=1)
    counted: Counter[str] = Counter()
    for _ in range(180):
        made.pick(REQUEST, resolution=belongs_to("a"))
        counted[made.pick(REQUEST).id] += 1
        with made.lease(made.pick(REQUEST, resolution=belongs_to("a"))):
            made.pick(REQUEST)
    assert counted["a"] == 20, "every other turn of those in which it could be picked"


@pytest.mark.usefixtures("hasty")
def test_threads_that_pick_at_the_same_time_take_turns() -> None:
    """The loops of several threads may share a pool."""
    made = pool("abcde")

    def pick() -> list[str]:
        return [made.pick(REQUEST).id for _ in range(10_000)]

    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(pick) for _ in range(3)]
    assert Counter(chain.from_iterable(run.result() for run in runs)) == dict.fromkeys(
        "abcde", 6_000
    )


def test_nobody_picks_while_a_balancer_prepares() -> None:
    class Preparing(RoundRobin):
        def prepare(self, candidates: Sequence[BackendState]) -> None:
            visitor.start()
            visitor.join(0.02)
            assert visitor.is_alive(), "it waits"

    made = pool(balancer=Preparing())
    visitor = threading.Thread(target=made.pick, args=(REQUEST,))
    made.prepare()
    visitor.join()


@pytest.mark.parametrize(
    "status", [AffinityStatus.MOVED, AffinityStatus.LOST], ids=lambda status: status.value
)
def test_on_lost_reject(status: AffinityStatus) -> None:
    made = pool("ab", affinity=Pinning("reject"))
    if status is AffinityStatus.MOVED:
        made.set_intent("a", Intent.DOWN)
    else:
        made.remove("a")
    with pytest.raises(AffinityRejected, match=f"the visitor's backend is {status.value}"):
        made.pick(REQUEST, resolution=made.visitors.resolve(REQUEST))


@pytest.mark.parametrize(
    "status",
    [AffinityStatus.NEW, AffinityStatus.EXPIRED, AffinityStatus.INVALID, AffinityStatus.BYPASSED],
    ids=lambda status: status.value,
)
def test_on_lost_is_not_asked_about_visitors_who_have_no_backend(status: AffinityStatus) -> None:
    made = pool("ab", affinity=Pinning("reject"))
    resolution = Resolution(status)
    assert picks(made, resolution=resolution) == {"a", "b"}
    assert resolution.status is status


def test_on_lost_can_decide_by_request() -> None:
    asked: list[tuple[AffinityStatus, RequestInfo]] = []

    def decide(status: AffinityStatus, request: RequestInfo) -> str:
        asked.append((status, request))
        return "reject" if request.method == "POST" else "rebalance"

    made = pool("ab", affinity=Pinning(decide))
    made.remove("a")
    assert made.pick(REQUEST, resolution=belongs_to("a")).id == "b"
    with pytest.raises(AffinityRejected):
        made.pick(RequestInfo(method="POST"), resolution=belongs_to("a"))
    assert asked[0] == (AffinityStatus.LOST, REQUEST)


@pytest.mark.parametrize(
    "answer",
    [pytest.param("move", id="word"), pytest.param(None, id="none"), pytest.param(True, id="bool")],
)
def test_on_lost_must_answer_properly(answer: object) -> None:
    made = pool("ab", affinity=Pinning(lambda status, request: answer))
    made.remove("a")
    with pytest.raises(ValueError, match=f"'rebalance' or 'reject', got {answer!r}"):
        made.pick(REQUEST, resolution=belongs_to("a"))


def test_affinity_is_optional() -> None:
    made = pool()
    assert made.visitors.resolve(REQUEST).status is AffinityStatus.BYPASSED
    assert list(made.visitors.issue(made.visitors.resolve(REQUEST), made.backends[0])) == []
    headers = [(b"cookie", b"a=b")]
    assert made.visitors.strip(headers) is headers
    assert (made.visitors.announces, made.visitors.makes_private) == (False, False)


def test_a_small_affinity_is_enough() -> None:
    class Full(Pinning):
        announce = True
        private = True

        def clock(self) -> float:
            return 42.0

        def strip(self, headers: Any, pool: Any) -> Any:
            return [*headers, (b"stripped-for", pool.name.encode())]

    made = pool(affinity=Full())
    assert made.visitors.issue(made.visitors.resolve(REQUEST), made.backends[0]) == [
        (b"x-issued", b"a 42")
    ]
    assert made.visitors.strip([]) == [(b"stripped-for", b"shop")]
    assert (made.visitors.announces, made.visitors.makes_private) == (True, True)
    assert list(pool(affinity=Pinning()).visitors.strip([])) == []


# Leases


def test_a_lease_counts_until_it_is_given_back() -> None:
    made = pool("ab")
    with made.lease(made["a"]) as state:
        assert state is made["a"]
        assert (state.in_flight, state.requests, made.in_flight) == (1, 1, 1)
    assert (state.in_flight, state.requests, made.in_flight) == (0, 1, 0)


def test_a_lease_is_given_back_whatever_happens() -> None:
    made = pool("a")
    with pytest.raises(KeyboardInterrupt), made.lease(made["a"]):
        raise KeyboardInterrupt
    assert made.in_flight == 0


def test_a_lease_is_given_back_once() -> None:
    made = pool("a")
    other, twice = made.lease(made["a"]), made.lease(made["a"])
    twice.release()
    twice.release()
    assert (made["a"].in_flight, made.in_flight) == (1, 1)
    other.release()
    assert made.in_flight == 0


# The set of backends


def test_state_is_kept_by_id() -> None:
    made = pool("ab")
    state = made["a"]
    held = made.lease(state)
    made.drain("a")
    made.set_health("a", Health.HEALTHY)
    state.observe_latency(0.5)
    version = made.version
    moved = Backend("http://elsewhere.test:81", id="a", weight=3)
    made.replace([backend("c"), moved])
    assert made.version > version
    assert made["a"] is state
    assert state.backend is moved
    assert (state.intent, state.health) == (Intent.DRAINING, Health.HEALTHY)
    assert (state.in_flight, state.latency) == (1, 0.5)
    assert [b.id for b in made.backends] == [s.id for s in made.states] == ["c", "a"]
    held.release()
    assert (state.in_flight, made.in_flight) == (0, 0)


def test_a_departed_backend_finishes_what_it_has() -> None:
    made = pool("ab")
    held = made.lease(made["a"])
    made.remove("a")
    assert "a" not in made
    assert made.in_flight == 1
    held.release()
    assert made.in_flight == 0


def test_a_departed_backend_that_returns_is_the_same() -> None:
    made = pool("ab", max_requests=1)
    state, held = made["a"], made.lease(made["a"])
    made.remove("a")
    made.add(backend("a", max_requests=1))
    assert made["a"] is state
    assert picks(made) == {"b"}, "the request of its former life still counts"
    held.release()
    assert picks(made) == {"a", "b"}


def test_a_departed_backend_is_forgotten_with_its_last_request() -> None:
    made = pool("ab")
    made.drain("a")
    state, held = made["a"], [made.lease(made["a"]) for _ in range(2)]
    made.remove("a")
    held[0].release()
    made.add("http://elsewhere.test")
    assert made.in_flight == 1
    held[1].release()
    made.add(backend("a"))
    assert made["a"] is not state
    assert made["a"].intent is Intent.ACTIVE


def test_an_idle_backend_is_forgotten_at_once() -> None:
    made = pool("ab")
    made.drain("a")
    made.remove("a")
    made.add(backend("a"))
    assert made["a"].intent is Intent.ACTIVE


def test_two_of_one_id_change_nothing() -> None:
    made = pool("ab")
    before = (made.backends, made.states, made.version)
    for change in (
        lambda: made.replace(["http://x:1", backend("c"), "http://x:1"]),
        lambda: made.add(backend("a")),
    ):
        with pytest.raises(ValueError, match=r"pool 'shop' has two backends with the id '(x:1|a)'"):
            change()
        assert (made.backends, made.states, made.version) == before
    with pytest.raises(ValueError, match="must begin with http"):
        made.replace(["http://x:1", "nonsense"])
    assert (made.backends, made.states, made.version) == before


def test_add_takes_urls_and_returns_the_backend() -> None:
    made = pool("a")
    assert made.add("http://10.0.0.1:8000").id == "10.0.0.1:8000"
    given = backend("z")
    assert made.add(given) is given
    assert [b.id for b in made.backends] == ["a", "10.0.0.1:8000", "z"]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda made: made["x"], id="getitem"),
        pytest.param(lambda made: made.remove("x"), id="remove"),
        pytest.param(lambda made: made.drain("x"), id="drain"),
        pytest.param(lambda made: made.undrain("x"), id="undrain"),
        pytest.param(lambda made: made.set_intent("x", Intent.DOWN), id="set_intent"),
        pytest.param(lambda made: made.set_health("x", Health.HEALTHY), id="set_health"),
    ],
)
def test_unknown_ids(call: Callable[[Pool], object]) -> None:
    with pytest.raises(KeyError) as caught:
        call(pool("ba"))
    assert caught.value.args == ("pool 'shop' has no backend 'x'; it has a, b",)
    with pytest.raises(KeyError) as caught:
        call(Pool("empty", []))
    assert caught.value.args == ("pool 'empty' has no backend 'x'; it has none",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"name": ""}, "name must be .* got ''", id="no-name"),
        pytest.param({"name": "a\n"}, "name must be .* got", id="control"),
        pytest.param({"host": "keep"}, "host must be 'pass' or 'backend', got 'keep'", id="host"),
        pytest.param({"backends": ["http://a", "http://a"]}, "two backends", id="twice"),
    ],
)
def test_bad_pools(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pool(**({"name": "shop", "backends": []} | options))


def test_no_retry_means_no_repeats() -> None:
    assert pool(retry=None).retry.attempts == 0
    assert pool().retry == Retry()


def test_adopt_takes_policies_and_keeps_state() -> None:
    made = pool("ab", balancer=RoundRobin())
    state, held = made["a"], made.lease(made["a"])
    made.drain("a")
    budget = made.retry_budget
    assert budget.start(1)
    affinity, transport = Pinning(), object()
    options: dict[str, Any] = {
        "balancer": LeastRequests(),
        "retry": Retry(budget_min=7),
        "timeouts": Timeouts(connect=1),
        "limits": Limits(queue=1),
        "websocket": WebSocketOptions(max_message=1),
        "transport": transport,
        "host": "backend",
    }
    made.adopt(Pool("shop", [backend("a"), backend("c")], affinity=affinity, **options))
    for name, value in (options | {"affinity": affinity}).items():
        assert getattr(made, name) is value or getattr(made, name) == value
    assert made["a"] is state
    assert state.intent is Intent.DRAINING
    assert [b.id for b in made.backends] == ["a", "c"]
    assert made.retry_budget is budget
    assert budget.in_flight == 1, "repeats under way still count"
    assert budget.retry.budget_min == 7
    held.release()
    assert made.in_flight == 0


def test_adopt_keeps_a_balancer_with_what_it_knows_if_the_other_is_alike() -> None:
    running, picked = pool("abc"), ""
    for _ in range(6):
        picked += running.pick(REQUEST).id
        running.adopt(pool("abc"))
    assert picked == "abcabc"
    for other in (ConsistentHash(), LeastRequests(), RoundRobin()):
        running.adopt(pool("abc", balancer=other))
        assert running.balancer is other


def test_adopt_serves_the_queue_by_the_new_limits() -> None:
    made = pool("a", max_requests=1)
    held, wake = lease(made), Wake()
    waiter = made.enqueue(REQUEST, wake)
    made.adopt(pool("a", max_requests=2))
    assert wake.count == 1
    waiter.outcome().release()
    held.release()
    assert made.in_flight == 0


# The queue


def test_a_freed_backend_is_handed_on() -> None:
    made = pool("a", max_requests=1)
    held, wake = lease(made), Wake()
    waiter = made.enqueue(REQUEST, wake)
    assert (made.queued, wake.count) == (1, 0)
    with pytest.raises(QueueTimeout, match="still waiting"):
        waiter.outcome()
    held.release()
    assert (made.queued, wake.count) == (0, 1)
    assert made["a"].in_flight == 1
    with pytest.raises(BackendsBusy):
        made.pick(REQUEST)
    with waiter.outcome() as state:
        assert state is made["a"]
    assert made.in_flight == 0


def test_first_come_first_served() -> None:
    made = pool("a", max_requests=1)
    held = lease(made)
    waiters = [made.enqueue(REQUEST, Wake()) for _ in range(5)]
    for number, waiter in enumerate(waiters):
        held.release()
        assert [w.lease is not None for w in waiters] == [n <= number for n in range(5)]
        held = waiter.outcome()


def test_who_cannot_be_served_does_not_hold_up_the_others() -> None:
    made = pool("ab", max_requests=1)
    held = {id: made.lease(made[id]) for id in "ab"}
    pinned = made.enqueue(REQUEST, Wake(), resolution=belongs_to("a"))
    tried = made.enqueue(REQUEST, Wake(), exclude={"b"})
    anybody = made.enqueue(REQUEST, Wake())
    last = made.enqueue(REQUEST, Wake(), resolution=belongs_to("b"))
    held["b"].release()
    assert [w.lease is not None for w in (pinned, tried, anybody, last)] == [0, 0, 1, 0]
    anybody.outcome().release()
    assert last.outcome().state.id == "b"
    held["a"].release()
    assert pinned.outcome().state.id == "a"
    assert tried.lease is None
    pinned.outcome().release()
    assert tried.outcome().state.id == "a"


def test_a_pinned_waiter_is_served_by_a_draining_backend_that_newcomers_may_not_have() -> None:
    made = pool("ab", max_requests=1)
    held = [made.lease(made[id]) for id in "ab"]
    made.drain("b")
    anybody = made.enqueue(REQUEST, Wake())
    pinned = made.enqueue(REQUEST, Wake(), resolution=belongs_to("b"))
    held[1].release()
    assert anybody.lease is None
    assert pinned.outcome().state.id == "b"


@pytest.mark.parametrize(
    ("spoil", "make_room"),
    [
        pytest.param(
            lambda made: made.set_intent("b", Intent.DOWN),
            lambda made: made.undrain("b"),
            id="intent",
        ),
        pytest.param(
            lambda made: made.set_health("b", Health.UNHEALTHY),
            lambda made: made.set_health("b", Health.HEALTHY),
            id="recovery",
        ),
        pytest.param(
            lambda made: made.remove("b"), lambda made: made.add("http://c"), id="addition"
        ),
        pytest.param(
            lambda made: made.remove("b"),
            lambda made: made.replace([backend("a", max_requests=2)]),
            id="higher-limit",
        ),
    ],
)
def test_whatever_makes_room_serves_the_queue(
    spoil: Callable[[Pool], None], make_room: Callable[[Pool], object]
) -> None:
    made = pool("ab", max_requests=1)
    spoil(made)
    lease(made)
    wake = Wake()
    waiter = made.enqueue(REQUEST, wake)
    make_room(made)
    assert (made.queued, wake.count) == (0, 1)
    assert waiter.outcome()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(lambda made: made.remove("a"), NoBackendAvailable, id="gone"),
        pytest.param(
            lambda made: made.set_health("a", Health.UNHEALTHY), NoBackendAvailable, id="unhealthy"
        ),
    ],
)
def test_waiting_ends_when_there_is_nothing_to_wait_for(
    spoil: Callable[[Pool], None], error: type[Exception]
) -> None:
    made = pool("a", max_requests=1)
    held, wake = lease(made), Wake()
    waiter = made.enqueue(REQUEST, wake)
    spoil(made)
    assert (made.queued, wake.count) == (0, 1)
    with pytest.raises(error):
        waiter.outcome()
    made.forget(waiter)
    held.release()
    assert made.in_flight == 0


def test_a_backend_that_is_back_just_when_the_queue_is_served() -> None:
    """To look for one ends the other's ejection, which makes room as well."""
    clock = VirtualClock()
    made = pool("ab", max_requests=1, ejection=Ejection(failures=1), slow_start=None, clock=clock)
    made.observe_failure(made["b"], ConnectError("refused"))
    held, wake = lease(made), Wake()
    waiters = [made.enqueue(REQUEST, wake) for _ in range(2)]
    clock.advance(31)
    held.release()
    assert (made.queued, wake.count) == (0, 2)
    for waiter in waiters:
        waiter.outcome().release()
    assert [state.in_flight for state in made.states] == [0, 0]


def test_a_waiter_may_change_the_pool_when_it_is_woken() -> None:
    made = pool("ab", max_requests=1)
    for _ in made.states:
        lease(made)
    woken: list[str] = []

    def wake() -> None:
        woken.append("first")
        made.add(backend("d"))

    waiters = [made.enqueue(REQUEST, wake), made.enqueue(REQUEST, lambda: woken.append("second"))]
    made.add(backend("c", max_requests=1))
    assert woken == ["first", "second"]
    assert [waiter.outcome().state.id for waiter in waiters] == ["c", "d"]


def test_a_queue_is_served_in_any_thread() -> None:
    """An operator's thread drains and undrains, while requests come and go."""
    made, is_over = pool("abc", max_requests=1, limits=Limits(queue=1000)), threading.Event()

    def toggle() -> None:
        while not is_over.is_set():
            for key in "abc":
                made.set_health(key, Health.UNHEALTHY)
                made.set_health(key, Health.HEALTHY)

    operator = threading.Thread(target=toggle)
    operator.start()
    try:
        for _ in range(300):
            waiters = [made.enqueue(REQUEST, Wake()) for _ in range(4)]
            made._queue.serve()
            for waiter in waiters:
                made.forget(waiter)
    finally:
        is_over.set()
        operator.join()
    assert made.queued == 0
    assert (made.in_flight, [state.in_flight for state in made.states]) == (0, [0, 0, 0])


def test_a_backend_that_goes_and_returns_begins_anew() -> None:
    made = pool("ab")
    gone = made["a"]
    made.drain("a", deadline=0)
    made.remove("a")
    made.add(backend("a"))
    made.end_drain(gone)
    assert made["a"].takes_sessions


def test_a_backend_that_is_adopted_keeps_what_was_wished_for_it() -> None:
    made, other = pool("a"), pool("ab")
    other.drain("a")
    other.drain("b")
    made.adopt(other)
    assert made["a"].intent is Intent.ACTIVE, "this one's state stays"
    assert made["b"].intent is Intent.DRAINING


def test_a_pinned_waiter_whose_backend_goes_is_moved_or_rejected() -> None:
    for on_lost, expected in (("rebalance", "b"), ("reject", None)):
        made = pool("ab", max_requests=1, affinity=Pinning(on_lost))
        made.lease(made["a"])
        resolution = belongs_to("a")
        waiter = made.enqueue(REQUEST, Wake(), resolution=resolution)
        made.remove("a")
        assert resolution.status is AffinityStatus.LOST
        if expected is None:
            with pytest.raises(AffinityRejected):
                waiter.outcome()
        else:
            assert waiter.outcome().state.id == expected


def test_one_waiters_policy_that_fails_hurts_nobody_else() -> None:
    """A release happens in another request: that one must not get the exception."""

    def fail(status: AffinityStatus, request: RequestInfo) -> str:
        raise ZeroDivisionError("a bug in on_lost")

    made = pool("ab", max_requests=1, affinity=Pinning(fail))
    held = [made.lease(made[id]) for id in "ab"]
    broken = made.enqueue(REQUEST, Wake(), resolution=belongs_to("a"))
    sound = made.enqueue(REQUEST, Wake())
    made.remove("a")
    held[1].release()
    assert sound.outcome().state.id == "b"
    with pytest.raises(ZeroDivisionError):
        broken.outcome()


def test_the_queue_is_bounded() -> None:
    made = pool("a", max_requests=1, limits=Limits(queue=2))
    lease(made)
    waiters = [made.enqueue(REQUEST, Wake()) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests wait for pool 'shop' already"):
        made.enqueue(REQUEST, Wake())
    made.forget(waiters[0])
    made.enqueue(REQUEST, Wake())


def test_nobody_waits_where_the_queue_is_zero() -> None:
    made = pool("a", max_requests=1, limits=Limits(queue=0))
    lease(made)
    with pytest.raises(QueueFull):
        made.enqueue(REQUEST, Wake())


def test_a_forgotten_waiter_is_not_served() -> None:
    made = pool("a", max_requests=1)
    held = lease(made)
    wakes = [Wake(), Wake()]
    gone, stays = (made.enqueue(REQUEST, wake) for wake in wakes)
    made.forget(gone)
    assert made.queued == 1
    held.release()
    assert [wake.count for wake in wakes] == [0, 1]
    stays.outcome().release()
    assert made.in_flight == 0


def test_a_waiter_forgotten_after_its_grant_passes_it_on() -> None:
    made = pool("a", max_requests=1)
    held = lease(made)
    gone, stays = (made.enqueue(REQUEST, Wake()) for _ in range(2))
    held.release()
    assert gone.lease is not None
    made.forget(gone)
    assert stays.outcome().state.id == "a"
    assert made.in_flight == 1
    stays.outcome().release()
    assert made.in_flight == 0


def test_repr() -> None:
    made = pool("abcd", max_requests=1)
    assert repr(made) == "<Pool shop [4 active | 0 in flight]>"
    made.drain("a")
    made.set_intent("b", Intent.DOWN)
    made.set_health("c", Health.UNHEALTHY)
    lease(made)
    made.enqueue(REQUEST, Wake())
    assert repr(made) == (
        "<Pool shop [1 active, 1 down, 1 draining, 1 unhealthy | 1 in flight, 1 queued]>"
    )
    assert repr(Pool("shop", [])) == "<Pool shop [empty | 0 in flight]>"


# Balancers in a real pool


class InPool:
    """A balancer that works through a pool, to run the balancers' contract against."""

    def __init__(self, balancer: Balancer) -> None:
        self.pool = Pool("shop", [], balancer=balancer)
        self.states: Sequence[BackendState] = ()

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        if [*candidates] != [*self.states]:
            self.states = [*candidates]
            self.pool.replace([state.backend for state in candidates])
        for state in candidates:
            mine = self.pool[state.id]
            mine.in_flight, mine.latency = state.in_flight, state.latency
        picked = self.pool.pick(request)
        return next(state for state in candidates if state.id == picked.id)


BALANCERS = [
    pytest.param(RoundRobin, id="round-robin"),
    pytest.param(lambda: Random(rng=random.Random(1)), id="random"),
    pytest.param(LeastRequests, id="least-requests"),
    pytest.param(lambda: TwoChoices(rng=random.Random(2)), id="two-choices"),
    pytest.param(LeastTime, id="least-time"),
    pytest.param(ConsistentHash, id="consistent-hash"),
]


@pytest.mark.parametrize("make", BALANCERS)
def test_balancers_hold_their_contract_in_a_pool(make: Callable[[], Balancer]) -> None:
    check_balancer(lambda: InPool(make()))


@pytest.mark.parametrize("make", BALANCERS)
def test_balancers_respect_limits_and_intent(make: Callable[[], Balancer]) -> None:
    made = pool("abcd", max_requests=3, balancer=make())
    made.drain("d")
    held = [lease(made) for _ in range(9)]
    with pytest.raises(BackendsBusy):
        made.pick(REQUEST)
    counts = Counter(one.state.id for one in held)
    assert counts == {"a": 3, "b": 3, "c": 3}
    made.set_intent("a", Intent.DOWN)
    for one in held:
        one.release()
    assert picks(made) <= {"b", "c"}
    assert picks(made, exclude={"b"}) == {"c"}


# Anything, in any order

IDS = st.sampled_from("abcd")


class PoolMachine(RuleBasedStateMachine):
    """Requests come, wait, give up and end, while the pool changes under them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool("abc", max_requests=2, limits=Limits(queue=6))
        self.held: list[Lease] = []
        self.waiting: list[tuple[Waiter, Wake]] = []

    def ask(self, pinned: str | None, exclude: set[str]) -> None:
        resolution = None if pinned is None else belongs_to(pinned)
        try:
            state = self.pool.pick(REQUEST, resolution=resolution, exclude=exclude)
        except BackendsBusy:
            wake = Wake()
            try:
                waiter = self.pool.enqueue(REQUEST, wake, resolution=resolution, exclude=exclude)
            except QueueFull:
                assert self.pool.queued == 6
            else:
                self.waiting.append((waiter, wake))
        except NoBackendAvailable:
            usable = {s.id for s in self.pool.states if s.keeps_sessions} - exclude
            assert usable == set()
        else:
            assert state.id in self.pool
            assert state.id not in exclude
            assert state.keeps_sessions
            assert not state.is_full
            self.held.append(self.pool.lease(state))
        self.collect()

    def collect(self) -> None:
        """What waiters were granted is held from now on."""
        for waiter, wake in [*self.waiting]:
            if wake.count:
                assert wake.count == 1
                self.waiting.remove((waiter, wake))
                if waiter.lease is not None:
                    self.held.append(waiter.outcome())
                else:
                    assert waiter.error is not None

    @rule(pinned=st.none() | IDS, exclude=st.sets(IDS, max_size=2))
    def request(self, pinned: str | None, exclude: set[str]) -> None:
        self.ask(pinned, exclude)

    @rule(data=st.data(), again=st.booleans())
    def finish(self, data: st.DataObject, again: bool) -> None:
        if self.held:
            ended = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            ended.release()
            if again:
                ended.release()
            self.collect()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.waiting:
            waiter, wake = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            self.pool.forget(waiter)
            assert wake.count == 0
            self.collect()

    @rule(data=st.data())
    def give_up_as_the_grant_comes(self, data: st.DataObject) -> None:
        """The grant and the timeout may cross."""
        if self.held:
            self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).release()
            for waiter, wake in [*self.waiting]:
                if wake.count:
                    self.waiting.remove((waiter, wake))
                    self.pool.forget(waiter)
            self.collect()

    @rule(id=IDS, intent=st.sampled_from(Intent))
    def set_intent(self, id: str, intent: Intent) -> None:
        if id in self.pool:
            self.pool.set_intent(id, intent)
            self.collect()

    @rule(id=IDS, health=st.sampled_from(Health))
    def set_health(self, id: str, health: Health) -> None:
        if id in self.pool:
            self.pool.set_health(id, health)
            self.collect()

    @rule(
        ids=st.lists(IDS, unique=True),
        limit=st.none() | st.integers(1, 3),
        weight=st.integers(0, 2),
    )
    def replace(self, ids: list[str], limit: int | None, weight: int) -> None:
        made = [backend(id, max_requests=limit, weight=weight) for id in ids]
        self.pool.replace(made)
        assert [b.id for b in self.pool.backends] == ids
        self.collect()

    @invariant()
    def counts_add_up(self) -> None:
        counts = Counter(one.state.id for one in self.held)
        assert self.pool.in_flight == len(self.held)
        for state in self.pool.states:
            assert state.in_flight == counts[state.id]
        departed = self.pool._departed
        assert {**departed} == {
            one.state.id: one.state for one in self.held if one.state.id not in self.pool
        }

    @invariant()
    def one_state_for_one_id(self) -> None:
        assert len({(one.state.id, id(one.state)) for one in self.held}) == len(
            {one.state.id for one in self.held}
        )

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        assert self.pool.queued == len(self.waiting)
        for waiter, _ in self.waiting:
            with pytest.raises(BackendsBusy):
                self.pool.pick(waiter.request, resolution=waiter.resolution, exclude=waiter.exclude)

    def teardown(self) -> None:
        for waiter, _ in self.waiting:
            self.pool.forget(waiter)
        for one in self.held:
            one.release()
        assert self.pool.in_flight == 0
        assert all(state.in_flight == 0 for state in self.pool.states)
        assert self.pool._departed == {}


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
