"""A gateway finds its pools: they appear and vanish, and their routes with them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sticky_asgi import (
    AnnotatedCookie,
    BackendState,
    CookieSettings,
    Discovery,
    DiscoveryError,
    DiscoveryFailed,
    DiscoveryRecovered,
    Gateway,
    Pool,
    RoundRobin,
    Route,
    Snapshot,
    Timeouts,
    WatchOptions,
)
from sticky_asgi.discovery import DiscoveredPool, PoolDiscovery, RouteHint
from sticky_asgi.events import Event
from tests.discovery.sources import ScriptedPools, found, snapshot
from tests.loops import run, run_virtually, turn

SECRET = "0123456789abcdef0123456789abcdef"


def plain(name: str, discovery: Discovery) -> Pool:
    return Pool(name, discovery=discovery)


def sticky(name: str, discovery: Discovery) -> Pool:
    return Pool(name, discovery=discovery, affinity=AnnotatedCookie(SECRET, secure=False))


def finding(*words: Sequence[DiscoveredPool] | BaseException, **options: Any) -> PoolDiscovery:
    return PoolDiscovery(ScriptedPools(*words), options.pop("make_pool", plain), **options)


def say(discovery: PoolDiscovery, *pools: DiscoveredPool) -> None:
    source = discovery.source
    assert isinstance(source, ScriptedPools)
    source.say(pools)


def routes(gateway: Gateway) -> list[str]:
    """`host/path pool` of each route."""
    return [
        f"{route.host or ''}{route.path} {route.pool.name if route.pool else 'app'}"
        for route in gateway.routes
    ]


def pool_named(gateway: Gateway, name: str) -> Pool:
    (pool,) = [pool for pool in gateway.pools if pool.name == name]
    return pool


def ids(pool: Pool) -> list[str]:
    return [backend.id for backend in pool.backends]


async def settled() -> None:
    """Wait, in virtual time, until what was said is in force: in the gateway, and in its pools."""
    await asyncio.sleep(0.2)


class Heard:
    """Notes events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


# They come and go


def test_pools_appear_and_vanish_with_their_routes() -> None:
    async def main() -> None:
        discovery = finding([found("web", "ab")])
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["/web web"]
            web = pool_named(gateway, "web")
            assert ids(web) == ["a", "b"]
            say(discovery, found("api", "c", path="/api/v1"), found("web", "ab"))
            await settled()
            assert routes(gateway) == ["/api/v1 api", "/web web"]
            assert pool_named(gateway, "web") is web
            say(discovery, found("api", "cd", path="/api/v1"))
            await settled()
            assert routes(gateway) == ["/api/v1 api"]
            assert ids(pool_named(gateway, "api")) == ["c", "d"]
            say(discovery)
            await settled()
            assert routes(gateway) == []
            assert gateway.is_ready

    run_virtually(main)


def test_a_pool_follows_its_part_of_what_is_said() -> None:
    async def main() -> None:
        api, web = found("api", "x"), found("web", "ab")
        discovery = finding([api, web])
        async with Gateway([], discovery=discovery) as gateway:
            await settled()
            pools = {pool.name: pool for pool in gateway.pools}
            before = pools["api"].version
            say(discovery, api, found("web", "abc"))
            await settled()
            assert ids(pools["web"]) == ["a", "b", "c"]
            assert pools["api"].version == before, "nobody has spoken of it"

    run_virtually(main)


def test_a_pool_that_comes_back_is_a_new_one_and_serves_at_once() -> None:
    async def main() -> None:
        discovery = finding([found("web")])
        async with Gateway([], discovery=discovery) as gateway:
            first = pool_named(gateway, "web")
            say(discovery)
            await settled()
            say(discovery, found("web", "b"))
            await asyncio.sleep(0.011)
            again = pool_named(gateway, "web")
            assert again is not first
            assert ids(again) == ["b"]
            say(discovery, found("web", "bc"))
            await settled()
            assert ids(again) == ["b", "c"]
            assert ids(first) == ["a"]

    run_virtually(main)


def test_what_visitors_would_wait_for_is_done_before_a_pool_is_in_service() -> None:
    seen: list[list[str]] = []

    class Preparing(RoundRobin):
        def prepare(self, candidates: Sequence[BackendState]) -> None:
            seen.append([state.id for state in candidates])

    def make(name: str, discovery: Discovery) -> Pool:
        return Pool(name, discovery=discovery, balancer=Preparing())

    async def main() -> None:
        discovery = finding([], make_pool=make)
        async with Gateway([], discovery=discovery):
            say(discovery, found("web", "ab"))
            await settled()
            assert seen == [["a", "b"]]
            say(discovery, found("web", "abc"))
            await settled()
            assert seen == [["a", "b"]], "it is in service, and does what is left by and by"

    run_virtually(main)


def test_what_a_pool_wants_is_in_its_routes() -> None:
    hints = [
        RouteHint(path="/a", host="one.example", strip_prefix=True),
        RouteHint(path="/b", host="*.example.com"),
    ]

    async def main() -> None:
        discovery = finding([found("web", routes=hints)])
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["one.example/a web", "*.example.com/b web"]
            assert [route.strip_prefix for route in gateway.routes] == [True, False]
            # The same path, but no longer stripped.
            say(discovery, found("web", path="/a"))
            await settled()
            assert [(route.path, route.strip_prefix) for route in gateway.routes] == [("/a", False)]

    run_virtually(main)


def test_the_host_that_is_asked_for_holds_as_long_as_it_is() -> None:
    async def main() -> None:
        discovery = finding([found("web", host="backend"), found("api")])
        async with Gateway([], discovery=discovery) as gateway:
            web, api = pool_named(gateway, "web"), pool_named(gateway, "api")
            assert (web.host, api.host) == ("backend", "pass")
            before = web.policies_version
            say(discovery, found("web"), found("api", host="backend"))
            await settled()
            assert (web.host, api.host) == ("pass", "backend")
            assert web.policies_version == before + 1, "what is known of requests is void"

    run_virtually(main)


# Conflicts and bad words


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_of_two_that_are_alike_the_first_by_name_wins(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one, two = found("one", path="/x"), found("two", path="/x")
        discovery = finding([two, one])
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["/x one"]
            say(discovery, one, two)
            await settled()
            say(discovery, two, one, found("three"))
            await settled()
            assert routes(gateway) == ["/three three", "/x one"]
            assert messages(caplog) == [
                "discovery: <Route /x → two> that was found is left out: another has its place"
            ]
            say(discovery, two)
            await settled()
            assert routes(gateway) == ["/x two"]

    run_virtually(main)


def test_routes_and_names_of_the_program_come_first(caplog: pytest.LogCaptureFixture) -> None:
    shop = Pool("shop", ["http://127.0.0.1:1"])

    async def main() -> None:
        discovery = finding([found("shop"), found("web", path="/"), found("api")])
        async with Gateway({"/": shop}, discovery=discovery) as gateway:
            assert routes(gateway) == ["/api api", "/ shop"]
            assert pool_named(gateway, "shop") is shop
            assert messages(caplog) == [
                "discovery: <Route / → web> that was found is left out: another has its place",
                "discovery: the pool 'shop' that was found has the name of another",
            ]
            # They get their places when the program has no use for them any more.
            gateway.replace_routes([])
            assert routes(gateway) == ["/shop shop", "/api api", "/ web"]
            assert pool_named(gateway, "shop") is not shop
            # And lose them when it has.
            gateway.replace_routes({"/": shop})
            assert routes(gateway) == ["/api api", "/ shop"]

    run_virtually(main)


def test_two_of_one_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        discovery = finding([found("web", "a"), found("web", "b", path="/other")])
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["/web web"]
            gateway.replace_routes([])
            assert messages(caplog) == [
                "discovery: the pool 'web' that was found has the name of another"
            ]

    run_virtually(main)


def test_a_route_that_cannot_be_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hints = [RouteHint(path="no"), RouteHint(path="/web")]
        discovery = finding([found("web", routes=hints), found("api", path="/a?b")])
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["/web web"]
            say(discovery, found("web", "ab", routes=hints))
            await settled()
            assert ids(pool_named(gateway, "web")) == ["a", "b"]
            assert [line.split(": ")[1] for line in messages(caplog)] == [
                "a route to 'api' that was found is left out",
                "a route to 'web' that was found is left out",
            ]

    run_virtually(main)


def raising(name: str, discovery: Discovery) -> Pool:
    raise KeyError(name)


def misnamed(name: str, discovery: Discovery) -> Pool:
    return Pool("always", discovery=discovery)


def forgetful(name: str, discovery: Discovery) -> Pool:
    return Pool(name, ["http://127.0.0.1:1"])


def untransported(name: str, discovery: Discovery) -> Pool:
    return Pool(name, discovery=discovery, transport=object())


class Faulty(Pool):
    def follow(self, snapshot: Snapshot) -> None:
        raise KeyError("follow")


def faulty(name: str, discovery: Discovery) -> Pool:
    return Faulty(name, discovery=discovery)


def absent(name: str, discovery: Discovery) -> Pool:
    return None  # type: ignore[return-value]


BAD = [
    pytest.param(raising, "KeyError: 'bad'", id="raises"),
    pytest.param(absent, "TypeError: the pool must be Pool, got None", id="nothing"),
    pytest.param(faulty, "KeyError: 'follow'", id="first-word"),
    pytest.param(misnamed, "ValueError: make_pool must use the name", id="other-name"),
    pytest.param(forgetful, "ValueError: make_pool must use the name", id="other-backends"),
    pytest.param(untransported, "ValueError: ", id="transport"),
]


@pytest.mark.parametrize(("make", "reason"), BAD)
def test_a_pool_that_cannot_be_made_stops_no_other(
    make: Callable[[str, Discovery], Pool], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def some_bad(name: str, discovery: Discovery) -> Pool:
        return (make if name == "bad" else plain)(name, discovery)

    async def main() -> None:
        discovery = finding([found("bad"), found("web")], make_pool=some_bad)
        async with Gateway([], discovery=discovery) as gateway:
            for word in ("ab", "abc", "abcd"):
                say(discovery, found("bad", word), found("web", word))
                await settled()
            assert routes(gateway) == ["/web web"]
            assert ids(pool_named(gateway, "web")) == ["a", "b", "c", "d"]
            (record,) = caplog.records
            assert record.getMessage() == "discovery: the pool 'bad' could not be made"
            assert record.exc_info is not None
            assert reason in "".join(traceback.format_exception(record.exc_info[1]))
            # Its fault is void when it is gone, and news when it is back.
            say(discovery, found("web"))
            await settled()
            say(discovery, found("bad"), found("web"))
            await settled()
            assert len(caplog.records) == 2

    run_virtually(main)


def test_a_cookie_that_cannot_be_leaves_the_pool_in_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = CookieSettings(name="__Host-web")  # Which must be secure.

    async def main() -> None:
        discovery = finding([found("web", "ab", affinity=settings)], make_pool=sticky)
        async with Gateway([], discovery=discovery) as gateway:
            assert routes(gateway) == ["/web web"]
            web = pool_named(gateway, "web")
            assert ids(web) == ["a", "b"]
            assert web.affinity is None
            assert web.watch_status.error is not None
            (line,) = messages(caplog)
            assert line.startswith("pool web: discovery says what cannot be: ")
            say(discovery, found("web", "abc", affinity=CookieSettings(name="w")))
            await settled()
            assert web.affinity is not None
            assert web.watch_status.error is None

    run_virtually(main)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        pytest.param(None, "must yield lists of DiscoveredPool, got None", id="nothing"),
        pytest.param([snapshot("a")], "must yield DiscoveredPool objects, got Snapshot", id="item"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_word_that_is_none_is_refused(word: Any, reason: str, is_first: bool) -> None:
    async def main() -> None:
        words = [word] if is_first else [[found("web")], word]
        discovery, heard = finding(*words, watch=WatchOptions(start="empty")), Heard()
        async with Gateway([], discovery=discovery, listeners=[heard]) as gateway:
            await settled()
            assert gateway.is_ready is not is_first
            assert reason in str(discovery.status.error)
            (event,) = [event for event in heard.events if isinstance(event, DiscoveryFailed)]
            assert (event.pool, event.failures, event.pause) == ("", 1, 0)
            assert reason in event.reason
            say(discovery, found("api"))
            await settled()
            assert routes(gateway) == ["/api api"]
            assert heard.events[-1] == DiscoveryRecovered(pool="", failures=1)

    run_virtually(main)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"name": 1}, "name must be str", id="name"),
        pytest.param({"snapshot": ()}, "snapshot must be Snapshot", id="snapshot"),
        pytest.param({"routes": ("/",)}, "a route must be RouteHint", id="route"),
        pytest.param({"host": "mine"}, "host must be 'pass', 'backend' or None", id="host"),
    ],
)
def test_what_no_pool_can_be(arguments: dict[str, Any], reason: str) -> None:
    whole: dict[str, Any] = {"name": "web", "snapshot": snapshot("a"), "routes": ()}
    with pytest.raises((TypeError, ValueError), match=reason):
        DiscoveredPool(**{**whole, **arguments})


# Start, failures, readiness


def test_the_start_waits_for_the_first_word() -> None:
    async def main() -> None:
        discovery = finding()
        gateway = Gateway([], discovery=discovery)
        loop = asyncio.get_running_loop()
        loop.call_later(3, say, discovery, found("web"))
        assert not gateway.is_ready
        async with gateway:
            assert loop.time() == 3
            assert gateway.is_ready
            assert routes(gateway) == ["/web web"]

    run_virtually(main)


def test_the_start_fails_with_the_reason() -> None:
    async def main() -> None:
        discovery = finding(DiscoveryError("forbidden"))
        gateway = Gateway([], discovery=discovery)
        with pytest.raises(DiscoveryError, match=r"within 30 seconds: forbidden"):
            async with gateway:
                pass
        source = discovery.source
        assert isinstance(source, ScriptedPools)
        assert source.ended == len(source.began)

    run_virtually(main)


def test_the_start_may_be_empty_and_not_ready() -> None:
    async def main() -> None:
        discovery = finding(watch=WatchOptions(start="empty"))
        async with Gateway([], discovery=discovery) as gateway:
            assert asyncio.get_running_loop().time() == 0
            assert not gateway.is_ready
            say(discovery)
            await settled()
            assert gateway.is_ready, "no pools are an answer"

    run_virtually(main)


def test_the_start_waits_for_the_source_that_a_reload_has_put_in_place() -> None:
    async def main() -> None:
        gateway = Gateway([], discovery=finding())
        other = finding()
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(gateway.__aenter__())
            await turn()
            gateway.replace_routes([], discovery=other)
            await asyncio.sleep(5)
            assert not starting.done()
            say(other, found("web"))
        assert asyncio.get_running_loop().time() < 6
        assert routes(gateway) == ["/web web"]
        await gateway.__aexit__(None, None, None)

    run_virtually(main)


def test_the_start_does_not_wait_for_a_source_that_a_reload_has_taken_away() -> None:
    async def main() -> None:
        gateway = Gateway([], discovery=finding())
        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.__aenter__())
            await turn()
            gateway.replace_routes([Route(Pool("web", ["http://a"]))], discovery=None)
        assert asyncio.get_running_loop().time() < 1
        await gateway.__aexit__(None, None, None)

    run_virtually(main)


def test_what_was_found_stays_while_the_source_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        discovery = finding([found("web")], *[DiscoveryError("away")] * 3)
        heard = Heard()
        async with Gateway([], discovery=discovery, listeners=[heard]) as gateway:
            await asyncio.sleep(30)
            assert routes(gateway) == ["/web web"]
            assert gateway.is_ready
            assert discovery.status.failures == 3
            assert "away" in repr(discovery.status)
            say(discovery, found("web"))
            await settled()
        failures = [event for event in heard.events if isinstance(event, DiscoveryFailed)]
        assert [(event.pool, event.reason, event.failures) for event in failures] == [
            ("", "away", number) for number in (1, 2, 3)
        ]
        assert heard.events[-1] == DiscoveryRecovered(pool="", failures=3)
        assert len(caplog.records) == 1

    run_virtually(main)


def test_without_a_lifespan_the_log_says_why_nothing_is_found(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        gateway = Gateway([], discovery=finding([found("web")]))
        scope = {"type": "http", "method": "GET", "path": "/web", "headers": []}
        for _ in range(2):
            assert gateway.match(scope) is None
        (line,) = messages(caplog)
        assert "not started by a lifespan" in line
        caplog.clear()
        async with Gateway([], discovery=finding([found("web")])) as started:
            assert started.match({**scope, "path": "/"}) is None
            assert messages(caplog) == []

    run_virtually(main)


# Other routes, another source


def test_another_source_takes_over_when_it_speaks() -> None:
    async def main() -> None:
        discovery, other = finding([found("web"), found("api")]), finding()
        async with Gateway([], discovery=discovery) as gateway:
            web, first = pool_named(gateway, "web"), discovery.source
            gateway.replace_routes([], discovery=other)
            assert gateway.discovery is discovery
            await settled()
            assert routes(gateway) == ["/api api", "/web web"]
            assert isinstance(first, ScriptedPools)
            assert first.ended == 1
            assert gateway.is_ready
            say(other, found("web", "bc"))
            await settled()
            assert routes(gateway) == ["/web web"]
            assert pool_named(gateway, "web") is web
            assert ids(web) == ["b", "c"]

    run_virtually(main)


def test_the_faults_of_the_source_before_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        heard = Heard()
        discovery = finding([found("web")], DiscoveryError("away"))
        other = finding(DiscoveryError("away"), watch=WatchOptions(min_backoff=5, max_backoff=5))
        async with Gateway([], discovery=discovery, listeners=[heard]) as gateway:
            await settled()
            gateway.replace_routes([], discovery=other)
            assert gateway.discovery is not None
            assert gateway.discovery.status.error is None
            await settled()
            first, second = [e for e in heard.events if isinstance(e, DiscoveryFailed)]
            assert (first.failures, second.failures) == (1, 1)
            assert second.pause >= 2.5, "its options hold"
            assert len(caplog.records) == 2

    run_virtually(main)


def test_no_source_any_more_and_then_one_again() -> None:
    async def main() -> None:
        discovery = finding([found("web")])
        source = discovery.source
        assert isinstance(source, ScriptedPools)
        shop = Pool("shop", ["http://127.0.0.1:1"])
        async with Gateway({"/": shop}, discovery=discovery) as gateway:
            with pytest.raises(ValueError, match="at least one route"):
                gateway.replace_routes([], discovery=None)
            assert routes(gateway) == ["/web web", "/ shop"]
            gateway.replace_routes({"/": shop}, discovery=None)
            await settled()
            assert (routes(gateway), source.ended) == (["/ shop"], 1)
            # In one breath: the same source, but of another.
            again = PoolDiscovery(source, plain)
            gateway.replace_routes({"/": shop}, discovery=again)
            await settled()
            gateway.replace_routes({"/": shop}, discovery=None)
            once_more = PoolDiscovery(source, plain)
            gateway.replace_routes({"/": shop}, discovery=once_more)
            await settled()
            say(once_more, found("api"))
            await settled()
            assert routes(gateway) == ["/api api", "/ shop"]

    run_virtually(main)


def test_other_policies_for_pools_that_are_there(caplog: pytest.LogCaptureFixture) -> None:
    def other_policies(name: str, discovery: Discovery) -> Pool:
        if name == "bad":
            raise KeyError(name)
        return Pool(name, discovery=discovery, timeouts=Timeouts(connect=7), host="backend")

    async def main() -> None:
        pools = [found("bad"), found("web"), found("api", host="pass")]
        discovery = finding(pools)
        async with Gateway([], discovery=discovery) as gateway:
            web, api = pool_named(gateway, "web"), pool_named(gateway, "api")
            gateway.replace_routes([], discovery=PoolDiscovery(discovery.source, other_policies))
            assert (web.timeouts.connect, api.timeouts.connect) == (7, 7)
            assert (web.host, api.host) == ("backend", "pass")
            assert pool_named(gateway, "bad").timeouts == Timeouts()
            assert messages(caplog) == ["discovery: the pool bad keeps its policies"]
            await settled()
            say(discovery, found("web", "abc"), found("api"))
            await settled()
            assert ids(web) == ["a", "b", "c"]
            assert (web.host, api.host) == ("backend", "backend")
            source = discovery.source
            assert isinstance(source, ScriptedPools)
            assert len(source.began) == 1

    run_virtually(main)


def test_a_pool_that_the_program_takes_over_keeps_the_programs_policies() -> None:
    """As a configuration does that names a pool which was found."""

    async def main() -> None:
        discovery = finding([found("web")])
        async with Gateway([], discovery=discovery) as gateway:
            web = pool_named(gateway, "web")
            web.adopt(Pool("web", ["http://127.0.0.1:1"], timeouts=Timeouts(connect=3)))
            gateway.replace_routes({"/": web}, discovery=PoolDiscovery(discovery.source, plain))
            await settled()
            assert web.timeouts.connect == 3
            assert web.discovery is None
            assert [backend.url for backend in web.backends] == ["http://127.0.0.1:1"]
            say(discovery, found("web", "xyz"))
            await settled()
            assert routes(gateway) == ["/ web"]
            assert [backend.url for backend in web.backends] == ["http://127.0.0.1:1"]

    run_virtually(main)


# What is left


def test_nothing_is_left_of_a_pool_that_vanished() -> None:
    async def main() -> None:
        discovery = finding([found("web"), found("api")])
        async with Gateway([], discovery=discovery) as gateway:
            await settled()
            tasks = len(asyncio.all_tasks())
            gone = [weakref.ref(pool_named(gateway, "web"))]
            for _ in range(5):
                say(discovery, found("api"))
                await settled()
                say(discovery, found("web"), found("api"))
                await settled()
                gone.append(weakref.ref(pool_named(gateway, "web")))
            gone.pop()
            await turn()
            gc.collect()
            assert [ref() for ref in gone] == [None] * 5
            assert len(asyncio.all_tasks()) == tasks

    run_virtually(main)


def test_when_the_gateway_ends_so_does_everything() -> None:
    async def main() -> None:
        discovery = finding([found("web"), found("api")])
        source = discovery.source
        assert isinstance(source, ScriptedPools)
        for number in (1, 2):
            async with Gateway([], discovery=discovery) as gateway:
                say(discovery, found("web", "xy"), found("api"))
                if number == 2:
                    await settled()
            await turn()
            assert source.ended == number
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert all(not pool.followers for pool in gateway.pools)
            say(discovery, found("web"), found("api"))

    run_virtually(main)


# Several event loops


class Shared:
    """A source that any thread may tell what to say, and any loop may watch."""

    def __init__(self, pools: Sequence[DiscoveredPool]) -> None:
        self.pools = pools
        self.watches = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def say(self, *pools: DiscoveredPool) -> None:
        self.pools = pools
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)

    async def watch_pools(self) -> AsyncIterator[Sequence[DiscoveredPool]]:
        event = asyncio.Event()
        waiting = (asyncio.get_running_loop(), event)
        self._waiting.append(waiting)
        self.watches += 1
        try:
            while True:
                event.clear()
                yield self.pools
                await event.wait()
        finally:
            self._waiting.remove(waiting)


def test_several_event_loops_follow_one_source() -> None:
    source = Shared([found("web")])
    made: list[Pool] = []

    def make(name: str, discovery: Discovery) -> Pool:
        made.append(pool := Pool(name, discovery=discovery))
        return pool

    gateway = Gateway([], discovery=PoolDiscovery(source, make))
    barrier, ended = threading.Barrier(4), threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with gateway:
            barrier.wait(10)
            while not ended.is_set():
                await asyncio.sleep(0.005)

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for one in threads:
        one.start()

    async def changes() -> None:
        barrier.wait(10)
        for number in range(1, 30):
            source.say(found("web", "ab"), *[found(f"n{k}") for k in range(number % 7)])
            await asyncio.sleep(0.004)
        source.say(found("web", "abc"), found("last", "xyz"))
        async with asyncio.timeout(5):
            while (
                routes(gateway) != ["/last last", "/web web"]
                or ids(pool_named(gateway, "web")) != ["a", "b", "c"]
                or ids(pool_named(gateway, "last")) != ["x", "y", "z"]
            ):
                await asyncio.sleep(0.005)

    try:
        run(changes)
    finally:
        ended.set()
        for one in threads:
            one.join(10)
    assert failures == []
    assert source.watches == 3
    assert [pool.name for pool in made].count("web") == 1
    assert [pool.name for pool in made].count("last") == 1


def in_threads(*calls: Callable[[], object]) -> None:
    """Call each of them in a thread of its own, and raise what one of them raises."""
    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(call) for call in calls]:
            done.result(10)


def test_two_loops_that_hear_of_a_pool_at_once_make_it_once() -> None:
    both = threading.Barrier(2)
    made = []

    def make(name: str, discovery: Discovery) -> Pool:
        made.append(name)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.1)  # Nobody else comes, as one has to wait for the other.
        return Pool(name, discovery=discovery)

    gateway = Gateway([], discovery=PoolDiscovery(Shared([]), make))
    in_threads(*[lambda: gateway._follow_pools([found("web")])] * 2)
    assert made == ["web"]
    assert routes(gateway) == ["/web web"]


def test_routes_may_be_replaced_by_another_thread_while_pools_are_found() -> None:
    began, replaced = threading.Event(), threading.Event()

    def make(name: str, discovery: Discovery) -> Pool:
        began.set()
        replaced.wait(0.1)  # It is not, as it has to wait.
        return Pool(name, discovery=discovery)

    gateway = Gateway([], discovery=PoolDiscovery(Shared([]), make))
    web = Pool("web", ["http://127.0.0.1:1"])

    def replace() -> None:
        assert began.wait(10)
        gateway.replace_routes({"/": web})
        replaced.set()

    in_threads(lambda: gateway._follow_pools([found("web")]), replace)
    assert routes(gateway) == ["/ web"]
    assert gateway.pools == (web,)
