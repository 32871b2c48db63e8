"""The timer that is set for every request: it goes off when it should, and asks for little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from sticky_asgi.upstream.timer import LazyTimer


class Loop:
    """An event loop's clock and calendar, turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[Call] = []
        self.asked = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Call:
        self.asked += 1
        call = Call(self, when, callback)
        self.calls.append(call)
        return call

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [call for call in self.calls if call.when() <= end]:
            first = min(due, key=Call.when)
            self.calls.remove(first)
            self.now = max(self.now, first.when())
            first.callback()
        self.now = end


class Call:
    def __init__(self, loop: Loop, when: float, callback: Callable[[], None]) -> None:
        self.loop = loop
        self.at = when
        self.callback = callback

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.loop.calls.remove(self)


class Bench:
    """A timer, and when it went off."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.rang: list[float] = []
        self.timer = LazyTimer(cast(Any, self.loop))

    def start(self, seconds: float | None) -> None:
        self.timer.start(seconds, lambda: self.rang.append(self.loop.now))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_goes_off_once_and_on_time(bench: Bench) -> None:
    bench.start(5)
    bench.loop.advance(4.9)
    assert bench.rang == []
    bench.loop.advance(100)
    assert bench.rang == [105.0]
    assert bench.loop.calls == []


def test_a_stopped_one_does_not_go_off(bench: Bench) -> None:
    bench.start(5)
    bench.timer.stop()
    bench.loop.advance(100)
    assert bench.rang == []
    assert bench.loop.calls == []


@pytest.mark.parametrize(
    ("second", "expected"),
    [pytest.param(5, 108.0, id="later"), pytest.param(1, 104.0, id="earlier")],
)
def test_the_last_setting_holds(bench: Bench, second: float, expected: float) -> None:
    bench.start(5)
    bench.loop.advance(3)
    bench.start(second)
    bench.loop.advance(100)
    assert bench.rang == [expected]


def test_set_to_none_it_never_goes_off(bench: Bench) -> None:
    bench.start(5)
    bench.start(None)
    bench.loop.advance(100)
    assert bench.rang == []


def test_it_can_be_set_again_from_its_own_callback(bench: Bench) -> None:
    def again() -> None:
        bench.rang.append(bench.loop.now)
        if len(bench.rang) < 3:
            bench.timer.start(2, again)

    bench.timer.start(2, again)
    bench.loop.advance(100)
    assert bench.rang == [102.0, 104.0, 106.0]


def test_a_thousand_settings_ask_the_event_loop_a_few_times(bench: Bench) -> None:
    for _ in range(1000):
        bench.start(60)
        bench.loop.advance(0.1)
        bench.timer.stop()
        bench.loop.advance(0.1)
    assert bench.loop.asked <= 5
    assert bench.rang == []


def test_closed_it_leaves_nothing_behind(bench: Bench) -> None:
    bench.start(5)
    bench.timer.close()
    assert bench.loop.calls == []
    bench.timer.close()


def test_a_clock_that_is_a_little_early_does_no_harm() -> None:
    """Event loops round: a call may come a fraction of a millisecond before its time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        rang = asyncio.Event()
        timer = LazyTimer(loop)
        timer.start(0.01, rang.set)
        timer._look()
        assert not rang.is_set()
        async with asyncio.timeout(5):
            await rang.wait()
        timer.close()

    asyncio.run(main())
