"""`Memo`: what comes again is remembered, and never more than so much."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sticky_asgi.memo import Memo


def test_a_result_is_remembered_from_the_second_time_on() -> None:
    memo: Memo[bytes, int] = Memo(4)
    memo.offer(b"a", 1)
    assert memo.get(b"a") is None
    memo.offer(b"a", 2)
    assert memo.get(b"a") == 2
    assert len(memo) == 1


def test_keys_that_come_once_push_nobody_out() -> None:
    memo: Memo[int, str] = Memo(4)
    memo.offer(-5, "kept")
    memo.offer(-5, "kept")
    for key in range(1000):
        memo.offer(key, "once")
    assert memo.get(-5) == "kept"
    assert len(memo) == 1


def test_in_a_full_one_the_oldest_makes_room() -> None:
    memo: Memo[int, int] = Memo(4)
    for key in range(100):
        memo.offer(key, key)
        memo.offer(key, key)
        oldest = max(0, key - 3)
        assert [memo.get(one) for one in range(oldest, key + 1)] == [*range(oldest, key + 1)]
        assert len(memo) == key + 1 - oldest


def test_no_key_takes_memory_that_came_once() -> None:
    memo: Memo[int, str] = Memo(4)
    before = sys.getsizeof(memo._met)
    for key in range(1000):
        memo.offer(key, "once")
    assert len(memo) == 0
    assert sys.getsizeof(memo._met) == before


def test_threads_may_share_one() -> None:
    memo: Memo[int, int] = Memo(4)

    def fill(first: int) -> None:
        for key in range(first, first + 5000):
            memo.offer(key, key)
            memo.offer(key, key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for filled in [pool.submit(fill, n * 5000) for n in range(4)]:
                filled.result()
    finally:
        sys.setswitchinterval(interval)
    # Each may put one in between another one's look and its own.
    assert 1 <= len(memo) <= 4 + 3


def test_a_key_that_cannot_be_hashed_is_an_error_of_the_caller() -> None:
    memo: Memo[object, int] = Memo(4)
    with pytest.raises(TypeError, match="unhashable"):
        memo.get([])
