"""Backends at `max_requests`: who waits, who goes elsewhere, who is sent away, and who is next."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sticky_asgi import (
    AffinityStatus,
    Backend,
    ConnectError,
    Ejection,
    Health,
    Intent,
    Limits,
    Pool,
    Retry,
    SignedCookie,
)
from sticky_asgi.affinity import OnLost
from sticky_asgi.request import RequestInfo
from sticky_asgi.testing import VirtualClock
from tests.gateways import Lane, transport_of
from tests.servers import (
    Connection,
    Headers,
    HttpImplementation,
    RawBackend,
    RawClient,
    RawResponse,
    encode_request,
    eventually,
    refusing_port,
    response,
)
from tests.watching import SECRET, First, Watched, kept_servers, watched

BRIEF = Limits(queue_timeout=0.2)
PATIENT = Limits(queue_timeout=30)


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


class Gated:
    """A backend that answers each target with its own name once the test lets that target go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gates: defaultdict[bytes, threading.Event] = defaultdict(threading.Event)
        self.lock = threading.Lock()
        self.served: list[bytes] = []
        self.now = self.most = 0

    def handler(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            with self.lock:
                self.served.append(request.target)
                self.now += 1
                self.most = max(self.most, self.now)
            connection.wait(self.gates[request.target])
            with self.lock:
                self.now -= 1
            connection.send(response(200, self.name.encode()))

    def release(self, *targets: bytes) -> None:
        for target in targets:
            self.gates[target].set()


class Crowd:
    """A gateway before two gated backends, `a` and `b`, and clients that wait in threads."""

    def __init__(self, front: Watched, a: Gated, b: Gated, threads: ThreadPoolExecutor) -> None:
        self.front, self.pool = front, front.pool
        self.a, self.b = a, b
        self._threads = threads

    def go(self, target: bytes, headers: Headers = ()) -> Future[RawResponse]:
        """Send a request and do not wait for its answer."""
        return self._threads.submit(self.front.request, "GET", target, headers)

    def hold(self, backend: Gated, target: bytes, headers: Headers = ()) -> Future[RawResponse]:
        """A request that stays with a backend until that lets it go."""
        future = self.go(target, headers)
        eventually(lambda: target in backend.served)
        return future

    def queue(self, target: bytes, headers: Headers = ()) -> Future[RawResponse]:
        """A request that must have to wait."""
        before = self.pool.queued
        future = self.go(target, headers)
        eventually(lambda: self.pool.queued > before, message=f"{target!r} is queued")
        return future

    def pin(self, backend: Gated) -> Headers:
        """The cookie of a visitor of a backend."""
        other = self.b if backend is self.a else self.a
        self.front.do(self.pool.set_intent, other.name, Intent.DOWN)
        backend.release(b"/pin")
        answer = self.front.request("GET", b"/pin")
        self.front.do(self.pool.set_intent, other.name, Intent.ACTIVE)
        assert answer.body == backend.name.encode()
        return [(b"Cookie", answer.get_all(b"set-cookie")[0].partition(b";")[0])]


@contextlib.contextmanager
def crowd(
    http: HttpImplementation = "h11",
    lane: Lane = "http1",
    *,
    limits: Limits = PATIENT,
    max_requests: int = 1,
    on_lost: OnLost = "rebalance",
) -> Iterator[Crowd]:
    a, b = Gated("a"), Gated("b")
    with RawBackend(a.handler) as first, RawBackend(b.handler) as second:
        pool = Pool(
            "shop",
            [
                Backend(first.url, id="a", max_requests=max_requests),
                Backend(second.url, id="b", max_requests=max_requests),
            ],
            balancer=First(),
            affinity=SignedCookie(SECRET, on_lost=on_lost),
            limits=limits,
            transport=transport_of(lane),
        )
        with ThreadPoolExecutor(24) as threads, watched(pool, http) as front:
            yield Crowd(front, a, b, threads)


def assert_sent_away(answer: RawResponse) -> None:
    assert answer.status == 503
    assert int(answer.get(b"retry-after") or b"") > 0
    assert answer.get_all(b"set-cookie") == []


def test_a_pinned_visitor_waits_and_the_others_go_elsewhere(
    http: HttpImplementation, lane: Lane
) -> None:
    with crowd(http, lane) as c:
        cookie = c.pin(c.a)
        held = c.hold(c.a, b"/held")
        pinned = c.queue(b"/pinned", cookie)
        c.b.release(b"/free")
        assert c.front.request("GET", b"/free").body == b"b"
        assert c.pool.queued == 1
        c.a.release(b"/held", b"/pinned")
        assert held.result(10).body == b"a"
        assert pinned.result(10).body == b"a"
        assert pinned.result().get_all(b"set-cookie") == []
        assert c.a.served == [b"/pin", b"/held", b"/pinned"]


def test_who_came_first_is_served_first(http: HttpImplementation, lane: Lane) -> None:
    targets = [b"/%d" % n for n in range(5)]
    with crowd(http, lane) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        waiting = [c.queue(target) for target in targets]
        assert c.pool.queued == 5
        c.a.release(b"/a")
        for n, target in enumerate(targets):
            eventually(lambda n=n: len(c.a.served) == n + 2)  # type: ignore[misc]
            assert c.a.served[1:] == targets[: n + 1]
            assert c.pool.queued == 4 - n
            c.a.release(target)
        c.b.release(b"/b")
        assert {future.result(10).status for future in (*held, *waiting)} == {200}
        assert c.b.served == [b"/b"]


def test_a_newcomer_does_not_snatch_the_place(http: HttpImplementation) -> None:
    with crowd(http) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        first, second = c.queue(b"/first"), c.queue(b"/second")
        c.b.release(b"/b", b"/first", b"/second")
        assert first.result(10).body == second.result(10).body == b"b"
        assert c.b.served == [b"/b", b"/first", b"/second"]
        c.a.release(b"/a")
        assert {future.result(10).status for future in held} == {200}


def test_visitors_of_one_backend_do_not_hold_up_the_others(http: HttpImplementation) -> None:
    """First come, first served, among those who can be: `a` being full is nothing to `/any`."""
    with crowd(http) as c:
        cookie = c.pin(c.a)
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        pinned = c.queue(b"/pinned", cookie)
        anyone = c.queue(b"/any")
        c.b.release(b"/b", b"/any")
        assert anyone.result(10).body == b"b"
        assert c.pool.queued == 1
        c.a.release(b"/a", b"/pinned")
        assert pinned.result(10).body == b"a"
        assert {future.result(10).status for future in held} == {200}


def test_a_full_queue_is_503_with_retry_after(http: HttpImplementation, lane: Lane) -> None:
    with crowd(http, lane, limits=Limits(queue=1, queue_timeout=30)) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        waiting = c.queue(b"/waits")
        assert_sent_away(c.front.request("GET", b"/too-late"))
        event = c.front.event()
        assert (event.status, event.attempts, event.backend) == (503, 0, None)
        c.a.release(b"/a", b"/waits")
        c.b.release(b"/b", b"/waits")
        assert {future.result(10).status for future in (*held, waiting)} == {200}
        assert b"/too-late" not in c.a.served + c.b.served


def test_without_a_queue_nobody_waits(http: HttpImplementation) -> None:
    with crowd(http, limits=Limits(queue=0)) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        assert_sent_away(c.front.request())
        c.a.release(b"/a")
        c.b.release(b"/b")
        assert {future.result(10).status for future in held} == {200}


def test_who_waited_too_long_is_sent_away(http: HttpImplementation, lane: Lane) -> None:
    with crowd(http, lane, limits=BRIEF) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        assert_sent_away(c.front.request("GET", b"/waits"))
        assert c.pool.queued == 0
        c.a.release(b"/a")
        c.b.release(b"/b")
        assert {future.result(10).status for future in held} == {200}
        assert b"/waits" not in c.a.served + c.b.served


def test_a_pinned_visitor_who_waited_too_long_moves(http: HttpImplementation, lane: Lane) -> None:
    with crowd(http, lane, limits=BRIEF) as c:
        cookie = c.pin(c.a)
        held = c.hold(c.a, b"/a")
        c.b.release(b"/pinned")
        answer = c.front.request("GET", b"/pinned", cookie)
        assert answer.body == b"b"
        assert len(answer.get_all(b"set-cookie")) == 1
        assert c.front.event(of=2).affinity is AffinityStatus.MOVED
        c.a.release(b"/a")
        assert held.result(10).status == 200


def test_a_pinned_visitor_who_waited_too_long_may_be_rejected(http: HttpImplementation) -> None:
    with crowd(http, limits=BRIEF, on_lost="reject") as c:
        cookie = c.pin(c.a)
        held = c.hold(c.a, b"/a")
        assert_sent_away(c.front.request("GET", b"/pinned", cookie))
        assert c.b.served == []
        c.a.release(b"/a", b"/again")
        assert held.result(10).status == 200
        assert c.front.request("GET", b"/again", cookie).body == b"a", "nothing was rewritten"


def test_a_callable_decides_for_who_waited_too_long(http: HttpImplementation) -> None:
    asked: list[tuple[AffinityStatus, str]] = []

    def decide(status: AffinityStatus, request: RequestInfo) -> Any:
        asked.append((status, request.path))
        return "reject" if request.path == "/stay" else "rebalance"

    with crowd(http, limits=BRIEF, on_lost=decide) as c:
        cookie = c.pin(c.a)
        held = c.hold(c.a, b"/a")
        c.b.release(b"/go")
        assert_sent_away(c.front.request("GET", b"/stay", cookie))
        assert c.front.request("GET", b"/go", cookie).body == b"b"
        c.a.release(b"/a")
        assert held.result(10).status == 200
    assert asked == [(AffinityStatus.MOVED, "/stay"), (AffinityStatus.MOVED, "/go")]


def test_a_pinned_visitor_is_sent_away_when_the_others_are_full_too(
    http: HttpImplementation,
) -> None:
    with crowd(http, limits=BRIEF) as c:
        cookie = c.pin(c.a)
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        assert_sent_away(c.front.request("GET", b"/pinned", cookie))
        c.a.release(b"/a")
        c.b.release(b"/b")
        assert {future.result(10).status for future in held} == {200}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_waiting_client_that_leaves_frees_its_place(
    http: HttpImplementation, lane: Lane, is_reset: bool
) -> None:
    with crowd(http, lane, limits=Limits(queue=1, queue_timeout=30)) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        client = RawClient(c.front.port)
        client.send(encode_request("POST", b"/left", body=b"abc"))
        eventually(lambda: c.pool.queued == 1)
        client.reset() if is_reset else client.close()
        eventually(lambda: c.pool.queued == 0)
        event = c.front.event()
        assert (event.status, event.attempts) == (499, 0)
        waiting = c.queue(b"/waits")
        c.a.release(b"/a", b"/waits")
        c.b.release(b"/b", b"/waits")
        assert {future.result(10).status for future in (*held, waiting)} == {200}
        assert b"/left" not in c.a.served + c.b.served


def test_a_client_that_leaves_while_it_is_served_makes_room(
    http: HttpImplementation, lane: Lane
) -> None:
    with crowd(http, lane) as c:
        client = RawClient(c.front.port)
        client.send(encode_request("GET", b"/left"))
        eventually(lambda: c.a.served == [b"/left"])
        held = c.hold(c.b, b"/b")
        waiting = c.queue(b"/waits")
        client.close()
        eventually(lambda: b"/waits" in c.a.served)
        c.a.release(b"/left", b"/waits")
        c.b.release(b"/b")
        assert waiting.result(10).body == b"a"
        assert held.result(10).status == 200


def test_a_new_backend_serves_those_who_wait(http: HttpImplementation, lane: Lane) -> None:
    new = Gated("c")
    new.release(b"/waits")
    with RawBackend(new.handler) as third, crowd(http, lane) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        waiting = c.queue(b"/waits")
        c.front.do(c.pool.add, Backend(third.url, id="c"))
        assert waiting.result(10).body == b"c"
        c.a.release(b"/a")
        c.b.release(b"/b")
        assert {future.result(10).status for future in held} == {200}


def test_changes_of_intent_health_and_limit_serve_those_who_wait(http: HttpImplementation) -> None:
    with crowd(http) as c:
        c.b.release(b"/undrained", b"/recovered")
        held = c.hold(c.a, b"/a")

        c.front.do(c.pool.drain, "b")
        waiting = c.queue(b"/undrained")
        c.front.do(c.pool.undrain, "b")
        assert waiting.result(10).body == b"b"

        c.front.do(c.pool.set_health, "b", Health.UNHEALTHY)
        waiting = c.queue(b"/recovered")
        c.front.do(c.pool.set_health, "b", Health.HEALTHY)
        assert waiting.result(10).body == b"b"

        c.front.do(c.pool.set_intent, "b", Intent.DOWN)
        waiting = c.queue(b"/raised")
        a = c.pool["a"].backend
        c.a.release(b"/raised")
        c.front.do(c.pool.replace, [Backend(a.url, id="a", max_requests=2)])
        assert waiting.result(10).body == b"a"
        c.a.release(b"/a")
        assert held.result(10).status == 200


@pytest.mark.parametrize(
    ("on_lost", "status"),
    [pytest.param("rebalance", 200, id="rebalance"), pytest.param("reject", 503, id="reject")],
)
@pytest.mark.parametrize("is_removed", [False, True], ids=["down", "removed"])
def test_a_pinned_visitor_whose_backend_goes_does_not_wait_any_longer(
    http: HttpImplementation, on_lost: OnLost, status: int, is_removed: bool
) -> None:
    with crowd(http, on_lost=on_lost) as c:
        cookie = c.pin(c.a)
        held = c.hold(c.a, b"/a")
        waiting = c.queue(b"/pinned", cookie)
        c.b.release(b"/pinned")
        if is_removed:
            c.front.do(c.pool.remove, "a")
        else:
            c.front.do(c.pool.set_intent, "a", Intent.DOWN)
        assert waiting.result(10).status == status
        outcome = AffinityStatus.LOST if is_removed else AffinityStatus.MOVED
        assert c.front.event(of=2).affinity is outcome
        c.a.release(b"/a")
        assert held.result(10).status == 200, "what runs on it is finished"


def test_when_everybody_goes_those_who_wait_are_sent_away(http: HttpImplementation) -> None:
    with crowd(http) as c:
        held = [c.hold(c.a, b"/a"), c.hold(c.b, b"/b")]
        waiting = [c.queue(b"/1"), c.queue(b"/2")]
        c.front.do(c.pool.replace, [])
        for future in waiting:
            assert_sent_away(future.result(10))
        c.a.release(b"/a")
        c.b.release(b"/b")
        assert {future.result(10).status for future in held} == {200}


def test_a_repeated_request_waits_for_a_full_backend(http: HttpImplementation, lane: Lane) -> None:
    gated = Gated("a")
    gated.release(b"/again")
    with refusing_port() as port, RawBackend(gated.handler) as backend:
        pool = Pool(
            "shop",
            [
                Backend(f"http://127.0.0.1:{port}", id="refusing"),
                Backend(backend.url, id="a", max_requests=1),
            ],
            balancer=First(),
            transport=transport_of(lane),
        )
        with ThreadPoolExecutor(2) as threads, watched(pool, http) as front:
            held = threads.submit(front.request, "GET", b"/a")
            eventually(lambda: gated.served == [b"/a"])
            waiting = threads.submit(front.request, "POST", b"/again", (), b"abc")
            eventually(lambda: pool.queued == 1)
            assert pool["refusing"].in_flight == 0, "a failed attempt holds nothing while it waits"
            gated.release(b"/a")
            assert waiting.result(10).body == held.result(10).body == b"a"
            assert backend.requests[-1].body == b"abc"


def test_a_repeat_waits_no_longer_than_it_may_be_made() -> None:
    gated = Gated("a")
    with refusing_port() as port, RawBackend(gated.handler) as backend:
        pool = Pool(
            "shop",
            [f"http://127.0.0.1:{port}", Backend(backend.url, max_requests=1)],
            balancer=First(),
            limits=PATIENT,
            retry=Retry(total_timeout=0.2),
        )
        with ThreadPoolExecutor(1) as threads, watched(pool) as front:
            held = threads.submit(front.request, "GET", b"/held")
            eventually(lambda: gated.served == [b"/held"])
            assert front.request("POST", b"/again").status == 502
            event = front.event()
            error = event.error
            assert (event.attempts, type(error)) == (1, ConnectError)
            assert error is not None
            assert isinstance(error.__cause__, ConnectionRefusedError)
            gated.release(b"/held")
            assert held.result(10).body == b"a"
            assert gated.served == [b"/held"]


def test_who_is_no_repeat_waits_as_long_as_anybody() -> None:
    gated = Gated("a")
    with RawBackend(gated.handler) as backend:
        pool = Pool(
            "shop",
            [Backend(backend.url, max_requests=1)],
            limits=PATIENT,
            retry=Retry(total_timeout=0.000001),
        )
        with ThreadPoolExecutor(2) as threads, watched(pool) as front:
            held = threads.submit(front.request, "GET", b"/held")
            eventually(lambda: gated.served == [b"/held"])
            waiting = threads.submit(front.request, "GET", b"/first")
            eventually(lambda: pool.queued == 1)
            gated.release(b"/held", b"/first")
            assert held.result(10).status == waiting.result(10).status == 200


def test_who_waits_for_a_backend_that_goes_asks_the_one_that_has_refused() -> None:
    """Nobody else is left, as if there had never been another."""
    busy, back = Gated("busy"), Gated("back")
    back.release(b"/again")
    with RawBackend(back.handler) as refusing:
        pass
    with RawBackend(busy.handler) as backend:
        pool = Pool(
            "shop",
            [Backend(refusing.url, id="back"), Backend(backend.url, id="busy", max_requests=1)],
            balancer=First(),
            limits=PATIENT,
            retry=Retry(attempts=100, backoff=0.01),
        )
        with ThreadPoolExecutor(2) as threads, watched(pool) as front:
            held = threads.submit(front.request, "GET", b"/held")
            eventually(lambda: busy.served == [b"/held"])
            waiting = threads.submit(front.request, "POST", b"/again")
            eventually(lambda: pool.queued == 1)
            with RawBackend(back.handler, port=refusing.port):
                front.do(pool.set_intent, "busy", Intent.DOWN)
                assert waiting.result(10).body == b"back"
            busy.release(b"/held")
            assert held.result(10).body == b"busy"


def test_a_backend_never_has_more_than_it_may(http: HttpImplementation, lane: Lane) -> None:
    targets = [b"/%d" % n for n in range(24)]
    with crowd(http, lane, max_requests=3) as c:
        waiting = [c.go(target) for target in targets]
        eventually(lambda: c.pool.queued == 18)
        assert (c.pool["a"].in_flight, c.pool["b"].in_flight) == (3, 3)
        eventually(lambda: (c.a.now, c.b.now) == (3, 3))
        c.a.release(*targets)
        c.b.release(*targets)
        assert [future.result(10).status for future in waiting] == [200] * 24
        assert (c.a.most, c.b.most) == (3, 3)
        assert sorted(c.a.served + c.b.served) == sorted(targets)


def test_who_waits_gets_a_backend_whose_ejection_is_over() -> None:
    """Nobody else comes who would notice."""
    clock, busy = VirtualClock(), Gated("busy")
    with RawBackend(busy.handler) as one, RawBackend(Gated("back").handler) as two:
        backends = [Backend(one.url, id="a", max_requests=1), Backend(two.url, id="b")]
        pool = Pool("shop", backends, limits=PATIENT, clock=clock, ejection=Ejection(failures=1))
        pool.observe_failure(pool["b"], ConnectError("refused"))
        with watched(pool) as front, RawClient(front.port) as first, RawClient(front.port) as late:
            first.send(encode_request())
            eventually(lambda: len(busy.served) == 1)
            late.send(encode_request())
            eventually(lambda: pool.queued == 1)
            clock.advance(31)
            eventually(lambda: pool.queued == 0)
            assert pool["b"].in_flight == 1
