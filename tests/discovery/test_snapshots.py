"""What a snapshot changes in a pool: backends, intents, the cookie; and what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sticky_asgi import (
    AnnotatedCookie,
    Backend,
    BackendState,
    CookieSettings,
    DiscoveryError,
    Gateway,
    Intent,
    IntentChanged,
    Pool,
    RoundRobin,
    SignedCookie,
    Snapshot,
    WatchOptions,
)
from sticky_asgi.affinity import PoolView
from sticky_asgi.events import PoolEvent
from sticky_asgi.exceptions import ConnectError
from tests.discovery.sources import Scripted, snapshot
from tests.logs import warnings_in
from tests.starts import failure_of

ACTIVE, DRAINING, DOWN = Intent.ACTIVE, Intent.DRAINING, Intent.DOWN
SECRET = "a secret of some length"


def pool(**options: Any) -> Pool:
    return Pool("shop", discovery=Scripted(), **options)


@pytest.mark.parametrize(
    ("discovered", "wished", "expected"),
    [
        pytest.param(ACTIVE, ACTIVE, ACTIVE, id="both active"),
        pytest.param(DRAINING, ACTIVE, DRAINING, id="terminating"),
        pytest.param(DOWN, ACTIVE, DOWN, id="not ready"),
        pytest.param(ACTIVE, DRAINING, DRAINING, id="drained by hand"),
        pytest.param(DOWN, DRAINING, DOWN, id="drained and not ready"),
        pytest.param(DRAINING, DOWN, DOWN, id="down by hand and terminating"),
    ],
)
def test_the_stricter_wish_is_in_force(
    discovered: Intent, wished: Intent, expected: Intent
) -> None:
    """Whoever speaks first, and whatever the other takes back."""

    def source_says(made: Pool) -> None:
        made.follow(snapshot("ab", {"a": discovered}))

    def operator_says(made: Pool) -> None:
        made.set_intent("a", wished)

    for first, second in ((source_says, operator_says), (operator_says, source_says)):
        made = pool()
        made.follow(snapshot("ab"))
        first(made)
        second(made)
        assert made["a"].intent is expected
        assert made["b"].intent is ACTIVE
        made.follow(snapshot("ab"))
        assert made["a"].intent is wished
        source_says(made)
        made.set_intent("a", ACTIVE)
        assert made["a"].intent is discovered


def test_a_new_backend_is_never_active_before_its_intent_is_known() -> None:
    made = pool()
    made.follow(snapshot("a"))
    heard: list[PoolEvent] = []

    class Observer:
        def observe(self, pool: Pool, event: PoolEvent) -> None:
            heard.append(event)
            assert pool["b"].intent is DOWN

    observer = Observer()
    made.observers.add(observer)
    made.follow(snapshot("ab", {"b": DOWN, "a": DRAINING}))
    (changed,) = [
        event for event in heard if isinstance(event, IntentChanged) and event.backend == "a"
    ]
    assert (changed.before, changed.after, changed.reason) == (ACTIVE, DRAINING, "discovery")


def test_a_backend_that_comes_back_brings_no_wish_with_it() -> None:
    made = pool()
    made.follow(snapshot("ab", {"a": DOWN}))
    with made.lease(made["a"]):
        made.follow(snapshot("b"))
        made.follow(snapshot("ab"))
        assert made["a"].intent is ACTIVE
        assert made["a"].in_flight == 1


@pytest.mark.parametrize("others", [pytest.param("", id="as it was"), pytest.param("c", id="more")])
def test_a_wish_that_is_not_repeated_is_over(others: str) -> None:
    """Even if the source goes on using the mapping in which it has said so."""
    made, wishes = pool(), {"a": DOWN}
    backends = snapshot("ab").backends
    made.follow(Snapshot(backends=backends, intents=wishes))
    assert made["a"].intent is DOWN
    wishes.clear()
    wishes["b"] = DRAINING
    more = snapshot(others).backends
    made.follow(Snapshot(backends=backends + more, intents=wishes))
    assert [state.intent for state in made.states[:2]] == [ACTIVE, DRAINING]


def test_backends_that_stay_the_same_objects_are_not_replaced() -> None:
    """So nobody goes through thousands of them since one is not ready."""
    made = pool()
    first = snapshot("ab")
    made.follow(first)
    version = made.version
    made.follow(Snapshot(backends=(*first.backends,), intents={"a": DOWN}))
    assert made.version == version
    assert made["a"].intent is DOWN
    made.follow(snapshot("ab", {"a": DOWN}))
    assert made.version > version
    assert made["a"].intent is DOWN


def test_the_drain_of_one_that_is_not_ready_ends_all_the_same() -> None:
    made = pool()
    made.follow(snapshot("ab"))
    made.drain("a", deadline=10)
    made.follow(snapshot("ab", {"a": DOWN}))
    made.end_drain(made["a"])
    made.follow(snapshot("ab"))
    assert made["a"].intent is DOWN


COOKIE = CookieSettings(name="traefik-cookie", http_only=True)


@pytest.fixture
def apps() -> list[Backend]:
    def app(name: str) -> Starlette:
        async def answer(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{name} {request.headers.get('cookie', '')}")

        return Starlette(routes=[Route("/", answer)])

    return [Backend(app=app(name), id=name) for name in "ab"]


def test_the_cookie_follows_the_source(
    apps: list[Backend], caplog: pytest.LogCaptureFixture
) -> None:
    made = pool(affinity=AnnotatedCookie(SECRET), watch=WatchOptions(start="empty"))

    def says(affinity: CookieSettings | None) -> None:
        made.follow(Snapshot(backends=tuple(apps), affinity=affinity))

    with TestClient(Gateway({"/": made})) as client:
        says(None)
        assert made.affinity is None
        assert "set-cookie" not in client.get("/").headers

        says(COOKIE)
        first = client.get("/")
        assert list(client.cookies) == ["traefik-cookie"]
        assert {client.get("/").text for _ in range(6)} == {first.text}

        before = made.affinity
        says(CookieSettings(name="traefik-cookie", http_only=True))
        assert made.affinity is before, "the same once more"

        says(CookieSettings(name="traefik-cookie", http_only=False))
        assert {client.get("/").text for _ in range(6)} == {first.text}, "sessions last"

        caplog.clear()
        says(CookieSettings(name="other"))
        assert warnings_in(caplog) == [
            "pool shop: sessions of the cookie traefik-cookie are dropped"
        ]
        client.get("/")
        assert set(client.cookies) == {"traefik-cookie", "other"}
        assert "other=" not in client.get("/").text, "it is kept from the backends"
        assert "traefik-cookie=" in client.get("/").text, "which is not ours any more"

        says(None)
        assert len({client.get("/").text[:1] for _ in range(6)}) == 2
        says(COOKIE)
        assert {client.get("/").text[:1] for _ in range(6)} == {first.text[:1]}


def test_those_who_are_out_stay_out_while_others_come_for_those_who_go() -> None:
    made = pool()
    made.follow(snapshot("abc"))
    for _ in range(5):
        made.observe_failure(made["a"], ConnectError("refused"))
    assert not made["a"].keeps_sessions
    # A third of those who serve, before and afterwards.
    made.follow(snapshot("abcde", {"b": DOWN, "c": DOWN}))
    assert not made["a"].keeps_sessions
    made.follow(snapshot("abc"))
    assert not made["a"].keeps_sessions
    made.follow(snapshot("abc", {"b": DOWN, "c": DOWN}))
    assert made["a"].keeps_sessions, "the only one left"


def test_the_program_has_the_last_word() -> None:
    made = pool(affinity=AnnotatedCookie(SECRET, name="mine", on_lost="reject"))
    made.follow(snapshot("a", affinity=CookieSettings(name="theirs", path="/a")))
    cookie = made.affinity
    assert isinstance(cookie, SignedCookie)
    assert cookie.cookie_name(made) == "mine"
    assert cookie.on_lost == "reject"
    assert cookie._attributes[False].startswith(b"; Path=/a")


def test_settings_that_do_not_go_together_leave_the_cookie_alone() -> None:
    made = pool(affinity=AnnotatedCookie(SECRET, secure=False))
    made.follow(snapshot("a", affinity=COOKIE))
    before = made.affinity
    with pytest.raises(ValueError, match="secure"):
        made.follow(snapshot("ab", affinity=CookieSettings(same_site="none")))
    assert made.affinity is before
    assert len(made.backends) == 2


def test_reloads_keep_the_cookie_until_another_source_has_spoken() -> None:
    made = Pool("shop", ["http://a"], affinity=SignedCookie(SECRET))
    before = made.affinity
    source = Scripted()
    for _ in range(2):
        made.adopt(Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET)))
        assert made.affinity is before
    made.follow(snapshot("a", affinity=COOKIE))
    cookie = made.affinity
    assert isinstance(cookie, SignedCookie)
    assert cookie.cookie_name(made) == "traefik-cookie"
    made.follow(snapshot("a"))
    assert made.affinity is None


def test_a_reload_keeps_a_cookie_with_what_it_remembers_if_nothing_is_said_anew() -> None:
    made = Pool("shop", ["http://a"], affinity=SignedCookie(SECRET, name="own"))
    before = made.affinity
    made.adopt(Pool("shop", ["http://a"], affinity=SignedCookie(SECRET, name="own")))
    assert made.affinity is before
    other = SignedCookie([SECRET, SECRET[::-1]], name="own")
    made.adopt(Pool("shop", ["http://a"], affinity=other))
    assert made.affinity is other
    made.adopt(Pool("shop", ["http://a"]))
    assert made.affinity is None


def test_a_reload_keeps_an_annotated_cookie_with_what_it_remembers() -> None:
    source = Scripted()
    made = Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET))
    made.follow(snapshot("a", affinity=COOKIE))
    before = made.affinity
    made.adopt(Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET)))
    assert made.affinity is before
    made.adopt(Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET, announce=True)))
    assert made.affinity is not before
    assert made.visitors.announces


def test_a_reload_keeps_what_the_source_has_said() -> None:
    source = Scripted()
    made = Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET))
    made.follow(snapshot("ab", {"a": DRAINING}, COOKIE))
    made.adopt(Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET, announce=True)))
    assert made["a"].intent is DRAINING
    cookie = made.affinity
    assert isinstance(cookie, SignedCookie)
    assert (cookie.cookie_name(made), cookie.announce) == ("traefik-cookie", True)
    assert made.visitors.announces
    made.adopt(Pool("shop", ["http://a"]))
    assert made.affinity is None
    assert made["a:80"].intent is ACTIVE


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(lambda: Pool("shop"), ValueError, "either backends or discovery", id="none"),
        pytest.param(
            lambda: Pool("shop", [], discovery=Scripted()),
            ValueError,
            "pool 'shop' takes either backends or discovery",
            id="both",
        ),
        pytest.param(
            lambda: Pool("shop", discovery=["http://a"]),  # type: ignore[arg-type]
            TypeError,
            r"discovery must .*watch.* got \['http://a'\]",
            id="a list",
        ),
        pytest.param(
            lambda: Pool("shop", ["http://a"], affinity=AnnotatedCookie(SECRET)),
            ValueError,
            "must be a SignedCookie without discovery",
            id="nobody annotates",
        ),
        pytest.param(
            lambda: AnnotatedCookie("short"), ValueError, "at least 16 bytes", id="short secret"
        ),
        pytest.param(
            lambda: AnnotatedCookie(SECRET, nmae="x"), TypeError, "nmae", id="unknown option"
        ),
        pytest.param(lambda: snapshot("aa"), ValueError, "distinct ids, got 'a' twice", id="twice"),
        pytest.param(
            lambda: snapshot("a", {"b": DOWN}),
            ValueError,
            "must be of backends, got one for 'b'",
            id="a stray intent",
        ),
        pytest.param(
            lambda: Snapshot(backends=("http://a",)),  # type: ignore[arg-type]
            TypeError,
            "a backend must be Backend, got 'http://a'",
            id="a url",
        ),
        pytest.param(
            lambda: CookieSettings(name="a b"), ValueError, "name must .* got 'a b'", id="name"
        ),
        pytest.param(
            lambda: CookieSettings(same_site="none", secure=False),
            ValueError,
            "secure",
            id="combination",
        ),
    ],
)
def test_mistakes_are_named(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_gateway_is_ready_when_it_knows_its_backends() -> None:
    first, second = (
        Pool(name, discovery=Scripted(), watch=WatchOptions(start="empty")) for name in "ab"
    )
    gateway = Gateway({"/a": first, "/b": second, "/c": Pool("c", ["http://c"])})
    assert not gateway.is_ready
    first.follow(snapshot(""))
    assert not gateway.is_ready
    second.follow(snapshot("x"))
    assert gateway.is_ready
    gateway.replace_routes({"/": Pool("new", discovery=Scripted())})
    assert gateway.is_ready, "one that serves is not taken out for a pool that is new"


def test_a_gateway_starts_with_its_first_snapshot(apps: list[Backend]) -> None:
    source = Scripted(Snapshot(backends=tuple(apps)))
    with TestClient(Gateway({"/": Pool("shop", discovery=source)})) as client:
        assert client.get("/").status_code == 200
    assert source.ended == 1


def test_what_visitors_would_wait_for_is_done_at_the_start(apps: list[Backend]) -> None:
    seen: list[int] = []

    class Thoughtful(SignedCookie):
        def prepare(self, pool: PoolView) -> None:
            seen.append(len(pool.backends))
            super().prepare(pool)

    class Ready(RoundRobin):
        def prepare(self, candidates: Sequence[BackendState]) -> None:
            seen.append(-len(candidates))

    source = Scripted(Snapshot(backends=tuple(apps)))
    followed = Pool("shop", discovery=source, affinity=Thoughtful(SECRET), balancer=Ready())
    empty = Pool("empty", [], balancer=Ready())
    with TestClient(Gateway({"/shop": followed, "/": Pool("free", apps), "/none": empty})):
        assert seen == [len(apps), -len(apps)]


def test_a_gateway_that_cannot_start_says_why() -> None:
    source = Scripted(DiscoveryError("services is forbidden"))
    made = Pool("shop", discovery=source, watch=WatchOptions(start_timeout=0.05))
    said = failure_of(Gateway({"/": made}))
    assert said.startswith("DiscoveryError: pool shop: ")
    assert said.endswith("within 0.05 seconds: services is forbidden")
    assert source.ended == 1


def test_a_set_that_is_replaced_while_it_is_put_in_force() -> None:
    """By a listener, or in the loop of another thread."""

    class Replacing:
        def observe(self, pool: Pool, event: PoolEvent) -> None:
            if isinstance(event, IntentChanged) and event.after is Intent.DRAINING:
                pool.follow(snapshot("bc"))

    pool = Pool("shop", discovery=Scripted())
    pool.follow(snapshot("ab"))
    observer = Replacing()
    pool.observers.add(observer)
    pool.follow(snapshot("abd", {"a": Intent.DRAINING}))
    assert [backend.id for backend in pool.backends] == ["b", "c"]
    assert [state.id for state in pool.states] == ["b", "c"]
