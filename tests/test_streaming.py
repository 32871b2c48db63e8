"""Server-sent events and long polls, from visitors to replicas.

Each piece at once, both ways, and slow peers are in test_lifetime.py; streams that break off and
visitors who leave in test_failure.py. Here is what these mean for sessions, limits and timeouts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from sticky_asgi import (
    AffinityStatus,
    Backend,
    Health,
    Intent,
    Limits,
    Pool,
    Route,
    SignedCookie,
    Timeouts,
)
from sticky_asgi.testing import VirtualClock
from tests.apps import StreamApp
from tests.gateways import Lane, gateway_before, transport_of
from tests.servers import (
    LAST_CHUNK,
    Connection,
    Headers,
    HttpImplementation,
    RawBackend,
    RawClient,
    RawResponse,
    chunk,
    encode_request,
    eventually,
    response,
)
from tests.watching import SECRET, First, kept_servers, watched

STREAM_HEADERS: Headers = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
)
COUNT = b"id: 7\ndata: "


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


class Replica:
    """A backend whose pages are its name, and so is the first event of its streams. These go on,
    or break off, when they are told to."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.go_on = threading.Event()
        self.is_to_break_off = self.is_dead = False

    def handler(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            if self.is_dead:
                return
            if request.target == b"/events":
                self.stream(connection)
                return
            connection.send(response(200, self.name))

    def stream(self, connection: Connection) -> None:
        head = response(200, headers=STREAM_HEADERS, chunks=[])
        connection.send(head.removesuffix(LAST_CHUNK) + chunk(self.event))
        connection.wait(self.go_on)
        if not self.is_to_break_off:
            connection.send(chunk(b"data: more\n\n"))
            connection.wait_closed()

    @property
    def event(self) -> bytes:
        return COUNT + self.name + b"\n\n"


class Source:
    """A browser's EventSource: it connects again with the cookie and the last event's id."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.headers: list[tuple[bytes, bytes]] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[RawClient, RawResponse]]:
        """The stream, of which the first event has been read."""
        with RawClient(self.port) as client:
            client.send(encode_request("GET", b"/events", self.headers))
            answer = client.read_head()
            assert client.read_piece(answer).startswith(COUNT)
            for value in answer.get_all(b"set-cookie"):
                self.headers = [(b"Cookie", value.partition(b";")[0])]
            self.headers = [*self.headers[:1], (b"Last-Event-ID", b"7")]
            yield client, answer


# Sessions


@pytest.mark.parametrize("is_dead", [False, True], ids=["it is there", "it has died"])
def test_who_connects_again_finds_the_same_replica(
    http: HttpImplementation, lane: Lane, is_dead: bool
) -> None:
    """And another one if that has died; either is told what was seen last."""
    replicas = [Replica(b"a"), Replica(b"b")]
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(RawBackend(replica.handler)) for replica in replicas]
        urls = [backend.url for backend in backends]
        pool = Pool("shop", urls, affinity=SignedCookie(SECRET), transport=transport_of(lane))
        front = stack.enter_context(watched(pool, http))
        source = Source(front.port)
        with source.open() as (client, answer):
            assert answer.body == replicas[0].event
            for name, value in STREAM_HEADERS:
                assert answer.get(name) == value
            replicas[0].is_dead = is_dead
            replicas[0].is_to_break_off = True
            replicas[0].go_on.set()
            assert not client.read_body(answer).complete, "no clean end"
        front.event()
        replicas[0].go_on.clear()
        home = int(is_dead)
        with source.open() as (_, answer):
            assert answer.body == replicas[home].event
            assert backends[home].requests[-1].get(b"last-event-id") == b"7"
        event = front.event(of=2)
        assert event.affinity is (AffinityStatus.MOVED if is_dead else AffinityStatus.KEPT)


def test_a_stream_does_not_renew_a_session(http: HttpImplementation, lane: Lane) -> None:
    """A cookie goes with a head: a session is idle while a stream lasts."""
    clock, replica = VirtualClock(), Replica(b"a")
    affinity = SignedCookie(SECRET, idle_timeout=1800, clock=clock)
    with RawBackend(replica.handler) as backend:
        pool = Pool("shop", [backend.url], affinity=affinity, transport=transport_of(lane))
        with watched(pool, http) as front:
            source = Source(front.port)
            with source.open() as (client, answer):
                clock.advance(1801)
                replica.go_on.set()
                assert client.read_piece(answer) == b"data: more\n\n"
            assert front.event().affinity is AffinityStatus.NEW
            with source.open():
                pass
            assert front.event(of=2).affinity is AffinityStatus.EXPIRED


# What a stream holds


def test_a_stream_holds_its_place_while_it_lasts(http: HttpImplementation, lane: Lane) -> None:
    replica = Replica(b"a")
    with RawBackend(replica.handler) as backend:
        only = Backend(backend.url, max_requests=1)
        pool = Pool("shop", [only], limits=Limits(queue=0), transport=transport_of(lane))
        with watched(pool, http) as front:
            with Source(front.port).open():
                assert front.request().status == 503
                assert front.event().status == 503
                assert len(front.events) == 1, "the stream has not ended"
                assert pool.states[0].in_flight == 1
            eventually(lambda: pool.in_flight == 0)
            assert front.request().body == b"a"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda pool, name: pool.drain(name), id="drained"),
        pytest.param(lambda pool, name: pool.remove(name), id="removed"),
        pytest.param(lambda pool, name: pool.set_intent(name, Intent.DOWN), id="down"),
        pytest.param(lambda pool, name: pool.set_health(name, Health.UNHEALTHY), id="unhealthy"),
    ],
)
def test_streams_go_on_whatever_is_said_of_their_backend(
    http: HttpImplementation, lane: Lane, act: Callable[[Pool, str], object]
) -> None:
    replica = Replica(b"a")
    with RawBackend(replica.handler) as backend, RawBackend(Replica(b"b").handler) as other:
        pool = Pool(
            "shop", [backend.url, other.url], balancer=First(), transport=transport_of(lane)
        )
        with watched(pool, http) as front, Source(front.port).open() as (client, answer):
            front.do(act, pool, backend.id)
            # The next request finds it gone, and connections to it are closed if they are idle.
            assert front.request().body == b"b"
            replica.go_on.set()
            assert client.read_piece(answer) == b"data: more\n\n"


def test_backends_in_process_stream_and_see_who_leaves(http: HttpImplementation) -> None:
    app = StreamApp()
    with watched(Pool("shop", [Backend(app=app, id="a")]), http) as front:
        with RawClient(front.port) as client:
            client.send(encode_request())
            answer = client.read_head()
            for n in range(3):
                event = b"data: %d\n\n" % n
                app.push(event)
                assert client.read_piece(answer) == event
            assert not app.disconnected.is_set()
        assert app.disconnected.wait(10)
        assert app.finished.wait(10)


# Long polls


class Polled:
    """A backend that answers a poll when it is told to, and other requests never or at once."""

    def __init__(self, name: bytes, *, answers: bool) -> None:
        self.name, self.answers = name, answers
        self.news = threading.Event()

    def handler(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            if request.target == b"/poll":
                connection.wait(self.news)
            elif not self.answers:
                connection.wait_closed()
                return
            connection.send(response(200, self.name))


def test_a_poll_waits_for_ever_where_its_pool_says_so(http: HttpImplementation, lane: Lane) -> None:
    """While a later request, of another pool, runs into its timeout."""

    def routes(pool: Pool) -> list[Route]:
        timeouts = Timeouts(response=None)
        polls = Pool("polls", pool.backends, timeouts=timeouts, transport=pool.transport)
        return [Route(pool), Route(polls, path="/poll")]

    polled = Polled(b"news", answers=False)
    with (
        gateway_before(
            polled.handler, http=http, lane=lane, route=routes, timeouts=Timeouts(response=0.3)
        ) as front,
        RawClient(front.port) as client,
    ):
        client.send(encode_request("GET", b"/poll"))
        front.backend.wait_request()
        assert front.request("POST", b"/page").status == 504
        polled.news.set()
        assert client.read_response().body == b"news"


@pytest.mark.parametrize(
    ("method", "poll", "home"),
    [pytest.param("GET", b"b", b"b", id="GET"), pytest.param("POST", None, b"a", id="POST")],
)
def test_a_poll_that_takes_too_long_loses_its_session_if_it_may_be_repeated(
    http: HttpImplementation, lane: Lane, method: str, poll: bytes | None, home: bytes
) -> None:
    """A timeout is a failure: a GET is asked of another replica, and the visitor stays there."""
    replicas = [Polled(b"a", answers=True), Polled(b"b", answers=True)]
    replicas[1].news.set()
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(RawBackend(replica.handler)) for replica in replicas]
        pool = Pool(
            "shop",
            [backend.url for backend in backends],
            balancer=First(),
            affinity=SignedCookie(SECRET),
            timeouts=Timeouts(response=0.2),
            transport=transport_of(lane),
        )
        front = stack.enter_context(watched(pool, http))
        cookie = cookie_of(front.request())
        answer = front.request(method, b"/poll", [(b"Cookie", cookie)])
        assert (answer.status, answer.body) == (200, poll) if poll else answer.status == 504
        if answer.get_all(b"set-cookie"):
            cookie = cookie_of(answer)
        assert front.request("GET", b"/", [(b"Cookie", cookie)]).body == home
        assert front.event(of=3).affinity is AffinityStatus.KEPT


def cookie_of(answer: RawResponse) -> bytes:
    value = answer.get(b"set-cookie")
    assert value is not None
    return value.partition(b";")[0]
