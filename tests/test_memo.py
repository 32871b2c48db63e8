"""`Memo`: what comes again is remembered, and never more than so much."""

from __future__ import annotations

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
    assert len(memo._met) <= 32


def test_a_full_one_begins_anew() -> None:
    memo: Memo[int, int] = Memo(4)
    for key in range(100):
        memo.offer(key, key)
        memo.offer(key, key)
        assert 1 <= len(memo) <= 4
        assert memo.get(key) == key


def test_a_key_that_cannot_be_hashed_is_an_error_of_the_caller() -> None:
    memo: Memo[object, int] = Memo(4)
    with pytest.raises(TypeError, match="unhashable"):
        memo.get([])
