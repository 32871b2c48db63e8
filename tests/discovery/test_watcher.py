"""A pool follows its source: what it says, how fast, and what holds while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest

from sticky_asgi import (
    AnnotatedCookie,
    BackendsReplaced,
    CookieSettings,
    DiscoveryError,
    DiscoveryFailed,
    DiscoveryRecovered,
    Pool,
    Snapshot,
    WatchOptions,
)
from sticky_asgi.discovery.watcher import Watcher, Watchers
from sticky_asgi.events import PoolEvent
from tests.discovery.sources import Scripted, snapshot
from tests.logs import warnings_in
from tests.loops import run_virtually, turn


class Recorder:
    """Notes what a pool says."""

    def __init__(self, pool: Pool) -> None:
        self.events: list[PoolEvent] = []
        pool.observers.add(self)

    def observe(self, pool: Pool, event: PoolEvent) -> None:
        self.events.append(event)


@contextlib.asynccontextmanager
async def watching(pool: Pool, chance: float = 1.0) -> AsyncIterator[Watcher]:
    watcher = Watcher(pool, rng=lambda: chance)
    try:
        yield watcher
    finally:
        await watcher.aclose()


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Have a coroutine function run as a test, in virtual time."""

    def test() -> None:
        run_virtually(main)

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


def ids(pool: Pool) -> list[str]:
    return [backend.id for backend in pool.backends]


@virtually
async def test_the_first_word_is_in_force_at_once() -> None:
    source = Scripted(snapshot("ab"))
    pool = Pool("shop", discovery=source)
    assert not pool.watch_status.has_snapshot
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
        assert asyncio.get_running_loop().time() == 0
        assert ids(pool) == ["a", "b"]
        assert pool.watch_status.has_snapshot
    assert source.ended == 1


class Begun:
    """A coroutine that has taken its first step, and is to take the others where it is awaited."""

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._steps = coro.__await__()
        self._waits_for = next(self._steps, None)

    def __await__(self) -> Generator[Any, Any, Any]:
        yield self._waits_for
        return (yield from self._steps)


def begin_at_once(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Stands in for `asyncio.eager_task_factory`, which is there from Python 3.12 on."""

    async def go_on(begun: Begun) -> Any:
        return await begun

    begun = go_on(Begun(coro)) if loop.is_running() else coro
    return asyncio.Task(begun, loop=loop, **options)


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(None, id="usual"),
        pytest.param(begin_at_once, id="at once"),
        pytest.param(getattr(asyncio, "eager_task_factory", begin_at_once), id="eager"),
    ],
)
def test_a_task_may_begin_at_once(factory: Any) -> None:
    class Ready:
        """A source that has its words ready."""

        async def watch(self) -> AsyncIterator[Snapshot]:
            yield snapshot("a")
            yield snapshot("ab")
            await asyncio.sleep(60)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        pool = Pool("shop", discovery=Ready())
        async with watching(pool) as watcher:
            await watcher.wait_for_start()
            await asyncio.sleep(0.1)
            assert ids(pool) == ["a", "b"]

    run_virtually(main)


@virtually
async def test_what_comes_together_is_put_in_force_together() -> None:
    source = Scripted(snapshot("a"))
    pool = Pool("shop", discovery=source)
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
        version = pool.version
        for word in ("ab", "abc", "abcd"):
            source.say(snapshot(word))
            await asyncio.sleep(0.003)
        assert ids(pool) == ["a"]
        await asyncio.sleep(0.002)
        assert ids(pool) == ["a", "b", "c", "d"]
        assert pool.version == version + 1
        # A steady stream puts nothing off: the time runs from the first word on.
        for number in range(20):
            source.say(snapshot([f"n{number}"]))
            await asyncio.sleep(0.004)
        assert pool.version >= version + 7


@virtually
async def test_pauses_grow_and_what_was_known_is_kept() -> None:
    source = Scripted(snapshot("ab"), *[DiscoveryError("away")] * 8)
    pool = Pool("shop", discovery=source, watch=WatchOptions(max_backoff=10))
    heard = Recorder(pool)
    async with watching(pool):
        await asyncio.sleep(60)
        assert source.began == pytest.approx([0, 0.8, 2.4, 5.6, 12, 22, 32, 42, 52]), (
            "doubled, up to the longest"
        )
        assert ids(pool) == ["a", "b"]
        assert pool.watch_status.failures == pool.watch_status.failures_total == 8
        assert repr(pool) == "<Pool shop [2 active | 0 in flight | discovery: away]>"
        assert heard.events[1] == DiscoveryFailed(pool="shop", reason="away", failures=1, pause=0.8)
        source.say(snapshot("ac"))
        await asyncio.sleep(0.1)
        assert ids(pool) == ["a", "c"]
        assert heard.events[-2:] == [
            BackendsReplaced(pool="shop", added=("c",), removed=("b",)),
            DiscoveryRecovered(pool="shop", failures=8),
        ]
        assert pool.watch_status.error is None
        assert pool.watch_status.failures_total == 8


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.4), (0.5, 0.6), (1.0, 0.8)])
def test_pauses_are_drawn_at_random(chance: float, pause: float) -> None:
    async def main() -> None:
        source = Scripted(DiscoveryError("away"))
        async with watching(Pool("shop", discovery=source), chance):
            await asyncio.sleep(2)
        assert source.began == pytest.approx([0, pause])

    run_virtually(main)


@virtually
async def test_a_source_may_ask_for_a_longer_pause() -> None:
    source = Scripted(DiscoveryError("busy", retry_after=7))
    async with watching(Pool("shop", discovery=source)):
        await asyncio.sleep(9)
    assert source.began == pytest.approx([0, 7])


@virtually
async def test_a_source_that_soon_fails_each_time_is_asked_ever_more_rarely() -> None:
    """Though it says something each time."""
    words = [word for _ in range(4) for word in (snapshot("a"), DiscoveryError("away"))]
    source = Scripted(*words)
    async with watching(Pool("shop", discovery=source)):
        await asyncio.sleep(20)
    assert source.began == pytest.approx([0, 0.8, 2.4, 5.6, 12])


@virtually
async def test_the_last_word_before_a_failure_does_not_hide_it() -> None:
    source = Scripted(snapshot("a"))
    pool = Pool("shop", discovery=source)
    heard = Recorder(pool)
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
        source.say(snapshot("ab"))
        source.say(DiscoveryError("away"))
        await asyncio.sleep(0.1)
        assert ids(pool) == ["a", "b"]
        assert pool.watch_status.error == "away"
        assert heard.events[-1] == DiscoveryFailed(
            pool="shop", reason="away", failures=1, pause=0.8
        )


@virtually
async def test_a_source_that_has_held_begins_with_short_pauses_again() -> None:
    source = Scripted(*[DiscoveryError("away")] * 3)
    async with watching(Pool("shop", discovery=source)):
        await asyncio.sleep(40)
        source.say(DiscoveryError("away"))
        await asyncio.sleep(1)
    assert source.began == pytest.approx([0, 0.8, 2.4, 5.6, 40.8])


def test_the_log_has_each_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = Scripted(
            DiscoveryError("away"),
            DiscoveryError("away"),
            DiscoveryError("forbidden"),
            snapshot("a"),
        )
        async with watching(Pool("shop", discovery=source)):
            await asyncio.sleep(20)
            source.say(DiscoveryError("away"))
            await asyncio.sleep(1)

    caplog.set_level(logging.INFO)
    run_virtually(main)
    assert [record.getMessage() for record in caplog.records] == [
        "pool shop: discovery fails: away (its backends are not known yet)",
        "pool shop: discovery fails: forbidden (its backends are not known yet)",
        "pool shop: discovery is back",
        "pool shop: discovery fails: away (its backends are kept)",
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        pytest.param(KeyError("web"), "KeyError: 'web'", id="bug"),
        pytest.param(asyncio.CancelledError(), "CancelledError: ", id="cancelled within"),
    ],
)
def test_a_faulty_source_is_no_end(
    word: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = Scripted(snapshot("a"), word)
        pool = Pool("shop", discovery=source)
        async with watching(pool):
            await asyncio.sleep(0.5)
            assert pool.watch_status.error == reason
            source.say(snapshot("b"))
            await asyncio.sleep(1)
            assert ids(pool) == ["b"]

    run_virtually(main)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is not None


def test_a_source_that_yields_something_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = Scripted("a")  # type: ignore[arg-type]
        pool = Pool("shop", discovery=source, watch=WatchOptions(start_timeout=1))
        recorder = Recorder(pool)
        reason = "a source of backends must yield Snapshots, got 'a'"
        async with watching(pool) as watcher:
            with pytest.raises(DiscoveryError, match=reason):
                await watcher.wait_for_start()
            source.say(snapshot("b"))
            await watcher.wait_for_start()
            assert ids(pool) == ["b"]
        assert [event for event in recorder.events if not isinstance(event, BackendsReplaced)] == [
            DiscoveryFailed(pool="shop", reason=reason, failures=1, pause=0.0),
            DiscoveryRecovered(pool="shop", failures=1),
        ]

    run_virtually(main)
    assert warnings_in(caplog) == [
        "pool shop: discovery says what cannot be: "
        "a source of backends must yield Snapshots, got 'a'"
    ]


class Ends:
    """A source without an end's worth of words, as an iterator that cannot be closed."""

    def watch(self) -> Ends:
        return self

    def __aiter__(self) -> Ends:
        return self

    async def __anext__(self) -> Snapshot:
        raise StopAsyncIteration


@virtually
async def test_a_source_that_ends_has_failed() -> None:
    pool = Pool("shop", discovery=Ends())
    async with watching(pool):
        await turn()
        assert pool.watch_status.error == "the source has ended"


@virtually
async def test_the_start_waits_and_then_says_why() -> None:
    source = Scripted(DiscoveryError("services is forbidden"))
    async with watching(Pool("shop", discovery=source)) as watcher:
        with pytest.raises(DiscoveryError) as caught:
            await watcher.wait_for_start()
    assert asyncio.get_running_loop().time() == pytest.approx(30)
    assert str(caught.value) == (
        "pool shop: <Scripted> named no backends within 30 seconds: services is forbidden"
    )


@pytest.mark.parametrize("is_removed", [True, False], ids=["no such pool", "no discovery"])
def test_the_start_does_not_wait_for_what_a_reload_has_taken_away(is_removed: bool) -> None:
    async def main() -> None:
        pool = Pool("shop", discovery=Scripted())
        watchers = Watchers()
        watchers.follow([pool])
        waiting = asyncio.ensure_future(watchers.wait_for_start())
        await turn()
        if is_removed:
            watchers.follow([])
        else:
            pool.adopt(Pool("shop", ["http://a"]))
        await waiting
        assert asyncio.get_running_loop().time() < 1
        await watchers.aclose()

    run_virtually(main)


@virtually
async def test_the_start_may_begin_with_nothing() -> None:
    pool = Pool("shop", discovery=Scripted(), watch=WatchOptions(start="empty"))
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
    assert asyncio.get_running_loop().time() == 0
    assert not pool.watch_status.has_snapshot


@virtually
async def test_of_two_that_follow_the_last_one_ends_the_failure() -> None:
    """As the loops of two threads do, of which one may be cut off."""
    one, other = Scripted(snapshot("a"), DiscoveryError("away")), Scripted(snapshot("a"))
    in_turn = itertools.chain([one, other], itertools.repeat(one))

    class Both:
        def watch(self) -> AsyncIterator[Snapshot]:
            return next(in_turn).tell()

    pool = Pool("shop", discovery=Both())
    heard = Recorder(pool)
    async with watching(pool), watching(pool):
        await turn()
        other.say(snapshot("ab"))
        await asyncio.sleep(0.1)
        assert ids(pool) == ["a", "b"]
        assert (pool.watch_status.error, pool.watch_status.failures) == ("away", 1)
        assert not any(isinstance(event, DiscoveryRecovered) for event in heard.events)
        one.say(snapshot("abc"))
        await asyncio.sleep(1)
        assert (pool.watch_status.error, pool.watch_status.failures) == (None, 0)
        assert heard.events[-1] == DiscoveryRecovered(pool="shop", failures=1)


def test_two_that_fail_of_other_reasons_are_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        sources = [Scripted(*[DiscoveryError(reason)] * 3) for reason in ("away", "forbidden")]
        in_turn = itertools.cycle(sources)

        class Both:
            def watch(self) -> AsyncIterator[Snapshot]:
                return next(in_turn).tell()

        async with watching(Pool("shop", discovery=Both())) as watcher:
            async with watching(watcher.pool):
                await asyncio.sleep(5)
        assert [len(source.began) for source in sources] == [3, 3]

    run_virtually(main)
    assert len(warnings_in(caplog)) == 2


@virtually
async def test_one_that_follows_no_more_leaves_its_failure_to_the_others() -> None:
    one, other = Scripted(DiscoveryError("away")), Scripted(snapshot("a"))
    in_turn = iter([one, other])

    class Both:
        def watch(self) -> AsyncIterator[Snapshot]:
            return next(in_turn).tell()

    pool = Pool("shop", discovery=Both())
    async with watching(pool) as failing, watching(pool):
        await turn()
        assert pool.watch_status.error == "away"
        await failing.aclose()
        assert pool.watch_status.error is None, "the other one need not speak"
        assert pool.watch_status.failures == 0


@virtually
async def test_a_word_is_not_put_in_force_after_one_that_was_heard_later() -> None:
    """Each loop waits a little for more, and another one may have heard the next word by then."""
    slow, quick = Scripted(snapshot("a")), Scripted(snapshot("abc"))
    in_turn = iter([slow, quick])

    class Both:
        def watch(self) -> AsyncIterator[Snapshot]:
            return next(in_turn).tell()

    pool = Pool("shop", discovery=Both())
    async with watching(pool):
        await turn()
        slow.say(snapshot("ab"))
        await asyncio.sleep(0.005)
        assert ids(pool) == ["a"]
        async with watching(pool):
            await turn()
            assert ids(pool) == ["a", "b", "c"]
            await asyncio.sleep(0.1)
            assert ids(pool) == ["a", "b", "c"]
            slow.say(snapshot("abcd"))
            await asyncio.sleep(0.1)
            assert ids(pool) == ["a", "b", "c", "d"]


@virtually
async def test_another_source_takes_over() -> None:
    """What the first one has said holds until the second one speaks."""
    first, second = Scripted(snapshot("ab")), Scripted()
    pool = Pool("shop", discovery=first)
    async with watching(pool):
        await turn()
        pool.adopt(Pool("shop", discovery=second))
        await turn()
        assert (first.ended, len(second.began)) == (1, 1)
        assert ids(pool) == ["a", "b"]
        assert pool.watch_status.has_snapshot
        first.say(snapshot("x"))
        second.say(snapshot("bc"))
        await asyncio.sleep(0.1)
        assert ids(pool) == ["b", "c"]
        pool.adopt(Pool("shop", ["http://z"]))
        await turn()
        assert (second.ended, ids(pool)) == (1, ["z:80"])
        pool.adopt(Pool("shop", discovery=first))
        await asyncio.sleep(0.1)
        assert ids(pool) == ["x"]


class Equal(Scripted):
    """A source that is the same one as all of its kind."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None  # type: ignore[assignment]


@virtually
async def test_an_equal_source_leaves_the_watch_alone() -> None:
    first = Equal(snapshot("ab"))
    pool = Pool("shop", discovery=first)
    async with watching(pool):
        await turn()
        pool.adopt(Pool("shop", discovery=Equal(), slow_start=None))
        await turn()
        assert (first.ended, ids(pool), pool.slow_start) == (0, ["a", "b"], None)


class Stubborn:
    """A source that does not end when it is told to."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()

    async def watch(self) -> AsyncIterator[Snapshot]:
        yield snapshot("a")
        while not self.ends.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.ends.wait()


def test_a_source_that_does_not_end_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = Stubborn()
        async with watching(Pool("shop", discovery=source)):
            await turn()
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        source.ends.set()
        await turn()

    run_virtually(main)
    assert warnings_in(caplog) == ["pool shop: its discovery does not end"]


@virtually
async def test_watchers_follow_the_pools_there_are() -> None:
    sources = Scripted(snapshot("a")), Scripted(snapshot("b"))
    pools = [Pool(f"p{number}", discovery=source) for number, source in enumerate(sources)]
    watchers = Watchers()
    watchers.follow([*pools, Pool("fixed", ["http://x"])])
    await watchers.wait_for_start()
    assert [ids(pool) for pool in pools] == [["a"], ["b"]]
    watchers.follow(pools[1:])
    await turn()
    assert [source.ended for source in sources] == [1, 0]
    assert repr(watchers) == "<Watchers of 1 pools>"
    await watchers.aclose()
    assert [source.ended for source in sources] == [1, 1]
    assert not any(pool.followers for pool in pools)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"start": "later"}, "start must be 'wait' or 'empty', got 'later'", id="start"
        ),
        pytest.param({"start_timeout": 0}, "start_timeout must be .* got 0", id="timeout"),
        pytest.param({"debounce": -1}, "debounce must be .* got -1", id="debounce"),
        pytest.param({"min_backoff": "1s"}, "min_backoff must be .* got '1s'", id="text"),
        pytest.param(
            {"max_backoff": 0.5},
            r"max_backoff must be at least min_backoff \(0.8\), got 0.5",
            id="order",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WatchOptions(**options)


# When it ends, and when the pool is changed by another thread


@virtually
async def test_a_change_as_it_ends_begins_nothing() -> None:
    source = Scripted(snapshot("a"))
    pool = Pool("shop", discovery=source)
    watchers = Watchers()
    watchers.follow([pool])
    await watchers.wait_for_start()
    watchers.follow([])
    pool.adopt(Pool("shop", discovery=Scripted(snapshot("b"))))
    await turn()
    await watchers.aclose()
    await asyncio.sleep(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert ids(pool) == ["a"]
    assert not pool.followers


@virtually
async def test_nothing_is_put_in_force_once_the_pool_is_left() -> None:
    source = Scripted(snapshot("a"))
    pool = Pool("shop", discovery=source)
    watchers = Watchers()
    watchers.follow([pool])
    await watchers.wait_for_start()
    source.say(snapshot("b"))
    await turn()
    watchers.follow([])
    assert asyncio.get_running_loop().time() == 0
    await asyncio.sleep(1)
    await watchers.aclose()
    assert ids(pool) == ["a"]


@pytest.mark.parametrize("has_source", [False, True], ids=["fixed", "discovery"])
def test_the_source_before_has_no_say_any_more(has_source: bool) -> None:
    """Though its word was on its way when another thread gave the pool other backends."""

    async def main() -> None:
        source = Scripted(snapshot("a"))
        pool = Pool("shop", discovery=source)
        other = (
            Pool("shop", discovery=Scripted()) if has_source else Pool("shop", ["http://127.0.0.1"])
        )
        async with watching(pool) as watcher:
            await watcher.wait_for_start()
            source.say(snapshot("xyz"))
            await turn()
            # The word that calls the watcher, from the thread that adopts, comes late.
            pool.followers.clear()
            pool.adopt(other)
            before = ids(pool)
            await asyncio.sleep(0.1)
            assert ids(pool) == before

    run_virtually(main)


@virtually
async def test_a_source_that_does_not_heed_its_end_is_not_heard() -> None:
    class Stubborn:
        async def watch(self) -> AsyncIterator[Snapshot]:
            yield snapshot("a")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            yield snapshot("xyz")

    pool = Pool("shop", discovery=Stubborn())
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
        pool.adopt(Pool("shop", discovery=Scripted()))
        await asyncio.sleep(1)
        assert ids(pool) == ["a"]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_fault_of_a_policy_is_told_and_the_next_word_heard(
    is_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Pool):
        is_faulty = is_first

        def follow(self, snapshot: Snapshot) -> None:
            if self.is_faulty:
                raise KeyError("oh")
            super().follow(snapshot)

    async def main() -> None:
        source = Scripted(snapshot("a"))
        pool = Faulty("shop", discovery=source)
        heard = Recorder(pool)
        async with watching(pool):
            await asyncio.sleep(0.1)
            pool.is_faulty = True
            if not is_first:
                source.say(snapshot("b"))
                source.say(snapshot("ab"))
            await asyncio.sleep(0.1)
            assert pool.watch_status.error == "KeyError: 'oh'"
            assert heard.events[-1] == DiscoveryFailed(
                pool="shop", reason="KeyError: 'oh'", failures=1, pause=0
            )
            (record,) = caplog.records
            assert record.exc_info
            pool.is_faulty = False
            source.say(snapshot("abc"))
            await asyncio.sleep(0.1)
            assert ids(pool) == ["a", "b", "c"]
            assert pool.watch_status.error is None
            assert len(source.began) == 1

    run_virtually(main)


@virtually
async def test_a_reload_that_puts_the_cookie_right_ends_the_failure() -> None:
    """The source need not say again what was right."""
    source = Scripted(snapshot("a", affinity=CookieSettings(same_site="none")))
    secret = "a secret of some length"

    def made(**options: Any) -> Pool:
        return Pool("shop", discovery=source, affinity=AnnotatedCookie(secret, **options))

    pool = made(secure=False)
    heard = Recorder(pool)
    async with watching(pool) as watcher:
        await watcher.wait_for_start()
        assert pool.watch_status.error is not None
        pool.adopt(made())
        assert pool.affinity is not None
        assert pool.watch_status.error is None
        assert heard.events[-1] == DiscoveryRecovered(pool="shop", failures=1)
        for is_away_first in (False, True):
            told = len(heard.events)
            if is_away_first:
                source.say(DiscoveryError("away"))
                await asyncio.sleep(0.1)
            pool.adopt(made(secure=False))
            if not is_away_first:
                source.say(DiscoveryError("away"))
                await asyncio.sleep(0.1)
            pool.adopt(made())
            assert pool.watch_status.error == "away", "that is no affair of the cookie"
            assert DiscoveryRecovered not in map(type, heard.events[told:])
            source.say(snapshot("a", affinity=CookieSettings(same_site="none")))
            await asyncio.sleep(60)
            assert pool.watch_status.error is None
