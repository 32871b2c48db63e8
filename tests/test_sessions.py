"""Affinity from one end to the other: what visitors, their backends and the operators see of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from sticky_asgi import AffinityStatus, Backend, Gateway, Health, Intent, Pool, Route, SignedCookie
from sticky_asgi.affinity import OnLost
from sticky_asgi.request import RequestInfo
from sticky_asgi.testing import VirtualClock
from tests.gateways import Lane, closing, transport_of
from tests.servers import (
    Connection,
    Handler,
    Headers,
    HttpImplementation,
    RawBackend,
    RawResponse,
    request,
    response,
    serve,
)
from tests.watching import SECRET, First, Watched, kept_servers, watched

OTHER_SECRET = "another secret of some length"


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


def named(name: str, *headers: tuple[bytes, bytes]) -> Handler:
    """A handler that answers with its name."""

    def handler(connection: Connection) -> None:
        while True:
            asked = connection.read_request()
            answer = response(200, name.encode(), headers)
            connection.send(answer[: -len(name)] if asked.method == "HEAD" else answer)

    return handler


class Visitor:
    """A browser, as far as cookies go. Its visits are noted in `history`."""

    def __init__(
        self,
        port: int,
        cookies: dict[bytes, bytes] | None = None,
        history: list[bytes] | None = None,
    ) -> None:
        self.port = port
        self.cookies = dict(cookies or {})
        self.last: RawResponse
        self._history = [] if history is None else history

    def visit(self, target: bytes = b"/", method: str = "GET", headers: Headers = ()) -> str:
        """Ask for something; who answered."""
        pairs = [b"%s=%s" % pair for pair in self.cookies.items()]
        cookie = [(b"Cookie", b"; ".join(pairs))] if pairs else []
        self._history.append(target)
        self.last = request(self.port, method, target, [*headers, *cookie])
        for value in self.last.get_all(b"set-cookie"):
            name, _, rest = value.partition(b"=")
            self.cookies[name] = rest.partition(b";")[0]
        return self.last.body.decode()

    @property
    def issued(self) -> list[bytes]:
        """The Set-Cookie headers of the last answer."""
        return self.last.get_all(b"set-cookie")


class Town:
    """A gateway before named backends."""

    def __init__(self, front: Watched, backends: dict[str, RawBackend]) -> None:
        self.front, self.pool = front, front.pool
        self.backends = backends
        self._history: list[bytes] = []

    def visitor(self, cookies: dict[bytes, bytes] | None = None) -> Visitor:
        return Visitor(self.front.port, cookies, self._history)

    def pinned(self, name: str) -> Visitor:
        """A visitor of one backend."""
        for other in self.pool.states:
            intent = Intent.ACTIVE if other.id == name else Intent.DOWN
            self.front.do(self.pool.set_intent, other.id, intent)
        visitor = self.visitor()
        assert visitor.visit() == name
        for other in self.pool.states:
            self.front.do(self.pool.set_intent, other.id, Intent.ACTIVE)
        return visitor

    def status(self) -> AffinityStatus | None:
        """What affinity came to at the last visit."""
        return self.front.event(of=len(self._history)).affinity

    def received(self, name: str, header: bytes) -> list[bytes]:
        """A header's values in the last request that a backend got."""
        return self.backends[name].requests[-1].get_all(header)


@contextlib.contextmanager
def town(
    http: HttpImplementation = "h11",
    lane: Lane = "http1",
    *,
    names: str = "ab",
    handlers: dict[str, Handler] | None = None,
    gateway: dict[str, Any] | None = None,
    secrets: str | list[str] = SECRET,
    name: str = "shop",
    **affinity: Any,
) -> Iterator[Town]:
    """Serve a gateway before backends of these names; the first that can takes new visitors."""
    with contextlib.ExitStack() as stack:
        backends = {
            key: stack.enter_context(RawBackend((handlers or {}).get(key) or named(key)))
            for key in names
        }
        pool = Pool(
            name,
            [Backend(backend.url, id=key) for key, backend in backends.items()],
            balancer=First(),
            affinity=SignedCookie(secrets, **affinity),
            transport=transport_of(lane),
        )
        front = stack.enter_context(watched(pool, http, **(gateway or {})))
        yield Town(front, backends)


# Statuses


def test_a_new_visitor_is_kept(http: HttpImplementation, lane: Lane) -> None:
    with town(http, lane, announce=True) as t:
        visitor = t.visitor()
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.NEW
        assert t.received("a", b"sticky-session") == [b"new"]
        (cookie,) = visitor.issued
        assert cookie.startswith(b"sticky_shop=")
        assert b"; Path=/" in cookie
        assert b"; HttpOnly" in cookie
        assert b"; SameSite=Lax" in cookie
        assert b"Secure" not in cookie
        assert b"127.0.0.1" not in cookie
        t.front.do(t.pool.drain, "a")  # Were it not kept, it would go to b.
        for _ in range(3):
            assert visitor.visit() == "a"
            assert t.status() is AffinityStatus.KEPT
            assert visitor.issued == [], "so caches keep working"
            assert t.received("a", b"sticky-session") == [b"kept"]


@pytest.mark.parametrize("how", ["down", "unhealthy"])
def test_a_visitor_whose_backend_cannot_be_used_moves_for_good(
    http: HttpImplementation, lane: Lane, how: str
) -> None:
    with town(http, lane, announce=True) as t:
        visitor = t.pinned("a")
        if how == "down":
            t.front.do(t.pool.set_intent, "a", Intent.DOWN)
        else:
            t.front.do(t.pool.set_health, "a", Health.UNHEALTHY)
        assert visitor.visit() == "b"
        assert t.status() is AffinityStatus.MOVED
        assert t.received("b", b"sticky-session") == [b"moved"]
        assert len(visitor.issued) == 1
        t.front.do(t.pool.set_intent, "a", Intent.ACTIVE)
        t.front.do(t.pool.set_health, "a", Health.HEALTHY)
        assert visitor.visit() == "b"
        assert t.status() is AffinityStatus.KEPT
        assert visitor.issued == []


def test_a_visitor_whose_backend_is_gone_is_lost(http: HttpImplementation, lane: Lane) -> None:
    with town(http, lane, announce=True) as t:
        visitor = t.pinned("a")
        t.front.do(t.pool.remove, "a")
        assert visitor.visit() == "b"
        assert t.status() is AffinityStatus.LOST
        assert t.received("b", b"sticky-session") == [b"lost"]
        assert len(visitor.issued) == 1
        assert visitor.visit() == "b"
        assert t.status() is AffinityStatus.KEPT


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"idle_timeout": 60}, id="idle"),
        pytest.param({"absolute_timeout": 60}, id="absolute"),
    ],
)
def test_a_session_expires(http: HttpImplementation, options: dict[str, Any]) -> None:
    clock = VirtualClock()
    with town(http, announce=True, clock=clock, **options) as t:
        visitor = t.pinned("b")
        clock.advance(60)
        assert visitor.visit() == "b"
        clock.advance(62)
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.EXPIRED
        assert t.received("a", b"sticky-session") == [b"new"]
        assert len(visitor.issued) == 1
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.KEPT


def test_an_idle_timeout_renews_the_cookie_now_and_then(http: HttpImplementation) -> None:
    clock = VirtualClock()
    with town(http, clock=clock, idle_timeout=100) as t:
        visitor = t.pinned("b")
        issued = []
        for _ in range(30):
            clock.advance(5)
            assert visitor.visit() == "b"
            issued.append(len(visitor.issued))
    assert issued == [0, 1] * 15, "whenever a tenth has passed"


FORGED = [
    pytest.param(lambda value: b"forged", id="rubbish"),
    pytest.param(lambda value: b"", id="empty"),
    pytest.param(lambda value: value[:-1], id="shortened"),
    pytest.param(lambda value: value[:-2] + bytes([value[-2] ^ 1]) + value[-1:], id="one bit"),
    pytest.param(lambda value: b"x" + value, id="another token"),
    pytest.param(lambda value: value.replace(b".", b"", 1), id="a part less"),
    pytest.param(lambda value: value + b".x", id="a part more"),
    pytest.param(lambda value: b"\xff\xe4" + value, id="not ASCII"),
    pytest.param(lambda value: b"x" * 8000, id="very long"),
    pytest.param(lambda value: b"." * 300, id="dots"),
]


@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_cookie_makes_a_new_visitor(http: HttpImplementation, forge: Any) -> None:
    with town(http, announce=True) as t:
        genuine = t.pinned("b").cookies[b"sticky_shop"]
        visitor = t.visitor({b"sticky_shop": forge(genuine)})
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.INVALID
        assert visitor.last.status == 200
        assert t.received("a", b"sticky-session") == [b"new"]
        assert t.received("a", b"cookie") == []
        assert len(visitor.issued) == 1
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.KEPT


def test_a_forged_cookie_does_not_hide_a_genuine_one(http: HttpImplementation) -> None:
    with town(http) as t:
        genuine = t.pinned("b").cookies[b"sticky_shop"]
        cookie = b"sticky_shop=forged; sticky_shop=" + genuine
        assert t.visitor().visit(headers=[(b"Cookie", cookie)]) == "b"
        assert t.status() is AffinityStatus.KEPT


def test_another_pools_cookie_means_nothing(http: HttpImplementation) -> None:
    with town(http, name="books") as books:
        stolen = books.pinned("b").cookies[b"sticky_books"]
    with town(http) as t:
        visitor = t.visitor({b"sticky_shop": stolen})
        assert visitor.visit() == "a"
        assert t.status() is AffinityStatus.INVALID


def test_a_pool_without_affinity_sets_no_cookie(http: HttpImplementation) -> None:
    with RawBackend(named("a")) as backend, watched(Pool("shop", [backend.url]), http) as front:
        assert front.request().get_all(b"set-cookie") == []
        assert front.event().affinity is AffinityStatus.BYPASSED
        assert backend.requests[0].get(b"sticky-session") is None


# What happens to those whose backend cannot be had


@pytest.mark.parametrize("is_lost", [False, True], ids=["moved", "lost"])
def test_reject_keeps_the_session_for_later(
    http: HttpImplementation, lane: Lane, is_lost: bool
) -> None:
    with town(http, lane, on_lost="reject") as t:
        visitor = t.pinned("a")
        gone = t.pool["a"].backend
        if is_lost:
            t.front.do(t.pool.remove, "a")
        else:
            t.front.do(t.pool.set_intent, "a", Intent.DOWN)
        visitor.visit()
        assert visitor.last.status == 503
        assert visitor.last.get(b"retry-after") is not None
        assert visitor.issued == []
        assert t.backends["b"].requests == []
        assert t.visitor().visit() == "b", "a new visitor is none of that"
        if is_lost:
            t.front.do(t.pool.add, gone)
        else:
            t.front.do(t.pool.set_intent, "a", Intent.ACTIVE)
        assert visitor.visit() == "a"
        assert visitor.issued == []


def test_reject_holds_when_the_backend_fails(http: HttpImplementation) -> None:
    """A retry is a move like any other."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        if connection.index == 0:
            connection.send(response(200, b"a", [(b"Connection", b"close")]))

    with town(http, handlers={"a": handler}, on_lost="reject") as t:
        visitor = t.visitor()
        assert visitor.visit() == "a"
        visitor.visit()
        assert visitor.last.status in (502, 503)
        assert visitor.issued == []
        assert t.backends["b"].requests == []


def test_a_callable_decides(http: HttpImplementation, lane: Lane) -> None:
    asked: list[tuple[AffinityStatus, str]] = []

    def decide(status: AffinityStatus, asking: RequestInfo) -> Any:
        asked.append((status, asking.path))
        return "reject" if asking.path == "/cart" else "rebalance"

    on_lost: OnLost = decide
    with town(http, lane, on_lost=on_lost) as t:
        visitor = t.pinned("a")
        t.front.do(t.pool.set_intent, "a", Intent.DOWN)
        visitor.visit(b"/cart")
        assert visitor.last.status == 503
        assert visitor.visit(b"/read") == "b"
        assert visitor.visit(b"/cart") == "b"
        lost = t.visitor(visitor.cookies)
        t.front.do(t.pool.set_intent, "a", Intent.ACTIVE)
        t.front.do(t.pool.remove, "b")
        assert lost.visit() == "a"
    assert asked == [
        (AffinityStatus.MOVED, "/cart"),
        (AffinityStatus.MOVED, "/read"),
        (AffinityStatus.LOST, "/"),
    ]


# Operators at work


def test_draining_keeps_its_sessions_and_gets_no_new_ones(
    http: HttpImplementation, lane: Lane
) -> None:
    with town(http, lane) as t:
        visitor = t.pinned("a")
        t.front.do(t.pool.drain, "a")
        assert [t.visitor().visit() for _ in range(3)] == ["b"] * 3
        assert visitor.visit() == "a"
        assert visitor.issued == []
        t.front.do(t.pool.undrain, "a")
        assert t.visitor().visit() == "a"


def test_weight_0_is_draining(http: HttpImplementation) -> None:
    with town(http) as t:
        visitor = t.pinned("a")
        a, b = t.pool.backends
        t.front.do(t.pool.replace, [Backend(a.url, id="a", weight=0), b])
        assert [t.visitor().visit() for _ in range(3)] == ["b"] * 3
        assert visitor.visit() == "a"


@pytest.mark.parametrize("how", ["drained", "weight 0"])
def test_when_all_are_draining_they_serve(http: HttpImplementation, how: str) -> None:
    with town(http) as t:
        if how == "drained":
            for name in "ab":
                t.front.do(t.pool.drain, name)
        else:
            t.front.do(
                t.pool.replace,
                [Backend(backend.url, id=backend.id, weight=0) for backend in t.pool.backends],
            )
        visitor = t.visitor()
        answered = visitor.visit()
        assert visitor.last.status == 200
        assert visitor.visit() == answered
        assert t.status() is AffinityStatus.KEPT


def test_a_draining_backend_that_is_down_for_others_moves(http: HttpImplementation) -> None:
    with town(http) as t:
        visitor = t.pinned("a")
        t.front.do(t.pool.drain, "a")
        t.front.do(t.pool.set_health, "a", Health.UNHEALTHY)
        assert visitor.visit() == "b"
        assert t.status() is AffinityStatus.MOVED


def test_sessions_follow_the_id_to_another_address(http: HttpImplementation, lane: Lane) -> None:
    with RawBackend(named("a, elsewhere")) as moved, town(http, lane) as t:
        visitor, other = t.pinned("a"), t.pinned("b")
        t.front.do(t.pool.replace, [Backend(moved.url, id="a"), t.pool["b"].backend])
        assert visitor.visit() == "a, elsewhere"
        assert visitor.issued == []
        assert other.visit() == "b"


def test_backends_come_and_go(http: HttpImplementation, lane: Lane) -> None:
    with RawBackend(named("c")) as third, town(http, lane) as t:
        visitors = {name: t.pinned(name) for name in "ab"}
        t.front.do(t.pool.add, Backend(third.url, id="c"))
        visitors["c"] = t.pinned("c")
        for name, visitor in visitors.items():
            assert visitor.visit() == name
            assert visitor.issued == []
        _, b, c = t.pool.backends
        t.front.do(t.pool.replace, [c, b])
        assert visitors["a"].visit() == "c"
        assert visitors["b"].visit() == "b"
        # One who was away meanwhile comes back to what has come back.
        absent = t.visitor(visitors["b"].cookies)
        t.front.do(t.pool.remove, "b")
        t.front.do(t.pool.add, b)
        assert absent.visit() == "b"
        assert absent.issued == []


# The cookie on its way


def test_the_backend_gets_every_cookie_but_this_one(http: HttpImplementation, lane: Lane) -> None:
    with town(http, lane) as t:
        ours = b"sticky_shop=" + t.pinned("a").cookies[b"sticky_shop"]
        for sent, received in [
            (ours, []),
            (b"a=1; " + ours + b"; b=\xe4; c", [b"a=1; b=\xe4; c"]),
            (b"a=1;" + ours + b";b=2", [b"a=1;b=2"]),
            (
                b'q="x; y=\\"";  odd ;; =; xsticky_shop=1',
                [b'q="x; y=\\"";  odd ;; =; xsticky_shop=1'],
            ),
        ]:
            assert t.visitor().visit(headers=[(b"Cookie", sent)]) == "a"
            assert t.received("a", b"cookie") == received
        t.visitor().visit(headers=[(b"Cookie", b"a=1"), (b"Cookie", ours), (b"Cookie", b"b=2")])
        assert t.received("a", b"cookie") == [b"a=1", b"b=2"]


def test_the_backend_gets_the_cookie_if_it_shall(http: HttpImplementation, lane: Lane) -> None:
    with town(http, lane, forward=True) as t:
        sent = b"a=1; sticky_shop=" + t.pinned("b").cookies[b"sticky_shop"] + b"; b=2"
        assert t.visitor().visit(headers=[(b"Cookie", sent)]) == "b"
        assert t.received("b", b"cookie") == [sent]


@pytest.mark.parametrize("announce", [False, True])
def test_nobody_but_the_gateway_announces(http: HttpImplementation, announce: bool) -> None:
    with town(http, announce=announce) as t:
        claim = [(b"Sticky-Session", b"kept"), (b"sticky-session", b"lost")]
        assert t.visitor().visit(headers=claim) == "a"
        assert t.received("a", b"sticky-session") == ([b"new"] if announce else [])


def test_the_backends_own_cookies_come_first_and_stay(http: HttpImplementation, lane: Lane) -> None:
    own = [
        (b"Set-Cookie", b"sid=1; Path=/x"),
        (b"set-cookie", b"sid=2"),
        (b"Set-Cookie", b"t=\xe4"),
    ]
    with town(http, lane, handlers={"a": named("a", *own)}) as t:
        visitor = t.visitor()
        assert visitor.visit() == "a"
        assert visitor.issued[:3] == [value for _, value in own]
        assert len(visitor.issued) == 4
        assert visitor.visit() == "a"
        assert visitor.issued == [value for _, value in own]


@pytest.mark.parametrize(
    ("own", "private", "expected"),
    [
        pytest.param(None, True, b"private", id="added"),
        pytest.param(b"public, max-age=9", True, b"public, max-age=9", id="the backend's stays"),
        pytest.param(None, False, None, id="switched off"),
    ],
)
def test_a_response_that_sets_the_cookie_is_private(
    http: HttpImplementation, own: bytes | None, private: bool, expected: bytes | None
) -> None:
    headers = [] if own is None else [(b"Cache-Control", own)]
    with town(http, handlers={"a": named("a", *headers)}, private=private) as t:
        visitor = t.visitor()
        visitor.visit()
        assert visitor.last.get(b"cache-control") == expected
        visitor.visit()
        assert visitor.issued == []
        assert visitor.last.get(b"cache-control") == own, "only where it sets the cookie"
        posted = t.visitor()
        posted.visit(method="POST")
        assert posted.last.get(b"cache-control") == own, "no cache keeps that"


@pytest.mark.parametrize(
    ("trusted", "forwarded", "is_secure"),
    [
        pytest.param(["127.0.0.1"], [b"https"], True, id="https from a trusted proxy"),
        pytest.param(["127.0.0.1"], [b"http"], False, id="http from a trusted proxy"),
        pytest.param(["127.0.0.1"], [], False, id="nothing from a trusted proxy"),
        pytest.param([], [b"https"], False, id="https from anybody"),
    ],
)
def test_secure_follows_the_visitors_scheme(
    http: HttpImplementation, trusted: list[str], forwarded: list[bytes], is_secure: bool
) -> None:
    with town(http, gateway={"trusted_proxies": trusted}) as t:
        visitor = t.visitor()
        visitor.visit(headers=[(b"X-Forwarded-Proto", value) for value in forwarded])
        assert (b"; Secure" in visitor.issued[0]) is is_secure


# More than one


def test_gateways_of_the_same_secrets_keep_each_others_sessions(
    http: HttpImplementation, lane: Lane
) -> None:
    with town(http, lane) as t:
        backends = t.pool.backends[::-1]  # The order is nobody's business.
        pool = Pool(
            "shop",
            backends,
            balancer=First(),
            affinity=SignedCookie(SECRET),
            transport=transport_of(lane),
        )
        with watched(pool, http, server={}) as second:
            for name in "ab":
                visitor = t.pinned(name)
                there = Visitor(second.port, visitor.cookies)
                assert there.visit() == name
                assert there.issued == []
            fresh = Visitor(second.port)
            name = fresh.visit()
            here = t.visitor(fresh.cookies)
            assert here.visit() == name
            assert here.issued == []


def test_secrets_are_rotated_without_a_logout(http: HttpImplementation) -> None:
    with town(http, secrets=SECRET) as t:
        visitor = t.pinned("b")
    with town(http, secrets=[SECRET, OTHER_SECRET]) as t:
        rotated = t.visitor(visitor.cookies)
        assert rotated.visit() == "b"
        assert t.status() is AffinityStatus.KEPT
        assert len(rotated.issued) == 1
        assert rotated.visit() == "b"
        assert rotated.issued == []
    with town(http, secrets=OTHER_SECRET) as t:
        assert t.visitor(rotated.cookies).visit() == "b"
        assert t.status() is AffinityStatus.KEPT
        assert t.visitor(visitor.cookies).visit() == "a"
        assert t.status() is AffinityStatus.INVALID


def test_two_pools_side_by_side(http: HttpImplementation, lane: Lane) -> None:
    with contextlib.ExitStack() as stack:
        transport = transport_of(lane)
        affinity = SignedCookie(SECRET)
        pools = {
            name: Pool(
                name,
                [
                    Backend(stack.enter_context(RawBackend(named(f"{name} {key}"))).url, id=key)
                    for key in "ab"
                ],
                affinity=affinity,
                transport=transport,
            )
            for name in ("shop", "books")
        }
        routes = [Route(pool, path=f"/{name}") for name, pool in pools.items()]
        app = closing(Gateway(routes), transport)
        server = stack.enter_context(serve(app, http=http))
        visitor = Visitor(server.port)
        first = {name: visitor.visit(b"/%s/x" % name.encode()) for name in pools}
        assert visitor.cookies.keys() == {b"sticky_shop", b"sticky_books"}
        for _ in range(3):
            for name, who in first.items():
                assert visitor.visit(b"/%s/y" % name.encode()) == who
                assert visitor.issued == []


def test_visitors_are_spread_and_then_stay(http: HttpImplementation) -> None:
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(RawBackend(named(name))) for name in "abc"]
        pool = Pool("shop", [b.url for b in backends], affinity=SignedCookie(SECRET))
        front = stack.enter_context(watched(pool, http))
        visitors = [Visitor(front.port) for _ in range(9)]
        first = [visitor.visit() for visitor in visitors]
        assert sorted(first) == list("aaabbbccc")
        for _ in range(2):
            assert [visitor.visit() for visitor in visitors] == first
