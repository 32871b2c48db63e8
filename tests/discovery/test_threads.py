"""A pool that the loops of several threads follow and use at one time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from sticky_asgi import Intent, Pool, RequestInfo, intents
from sticky_asgi.groups import Groups
from sticky_asgi.intents import IntentKeeper
from tests.discovery.sources import Scripted, snapshot

T = TypeVar("T")


class Interrupted:
    """A function that another thread gets ahead of, once, when it is about to return.

    Args:
        function: The function.
        other: What the other thread does, unless it has to wait till this one is through.
    """

    def __init__(self, function: Callable[..., T], other: Callable[[], object]) -> None:
        self.function = function
        self.thread = threading.Thread(target=other)
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.function(*args, **options)
        self.calls += 1
        if self.calls == 1:
            self.thread.start()
            self.thread.join(0.1)
        return result


def test_two_words_at_one_time_leave_nobody_draining(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool("shop", discovery=Scripted())
    pool.follow(snapshot("ab"))
    ahead = Interrupted(intents._strictest, lambda: pool.follow(snapshot("ab")))
    monkeypatch.setattr(intents, "_strictest", ahead)
    pool.follow(snapshot("ab", {"a": Intent.DRAINING}))
    ahead.thread.join(5)
    assert ahead.calls == 2
    assert [state.intent for state in pool.states] == [Intent.ACTIVE, Intent.ACTIVE]


def test_backends_and_wishes_are_of_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool("shop", discovery=Scripted())
    pool.follow(snapshot("ab"))
    other = snapshot("xyz", {"x": Intent.DRAINING})
    ahead = Interrupted(lambda: None, lambda: pool.follow(other))

    def discover(keeper: IntentKeeper, *args: Any) -> Any:
        ahead()
        return discover_really(keeper, *args)

    discover_really = IntentKeeper.discover
    monkeypatch.setattr(IntentKeeper, "discover", discover)
    pool.follow(snapshot("abc", {"b": Intent.DOWN}))
    ahead.thread.join(5)
    assert ahead.calls == 2
    assert [state.id for state in pool.states if state.intent is Intent.DRAINING] == ["x"]
    pool.follow(snapshot("xyz"))
    assert {state.id: state.intent for state in pool.states} == dict.fromkeys("xyz", Intent.ACTIVE)


def test_who_has_gone_meanwhile_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool("shop", discovery=Scripted())
    pool.follow(snapshot("abcd"))
    ahead = Interrupted(Groups, lambda: pool.follow(snapshot("ab")))
    monkeypatch.setattr("sticky_asgi.pool.Groups", ahead)
    pool.pick(RequestInfo())
    ahead.thread.join(5)
    assert {pool.pick(RequestInfo()).id for _ in range(8)} == {"a", "b"}
