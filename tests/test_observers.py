"""Who is told what becomes of a pool."""

from __future__ import annotations

import gc
import threading

from sticky_asgi import Pool
from sticky_asgi.events import PoolEvent
from sticky_asgi.observers import Observers


class Observer:
    def observe(self, pool: Pool, event: PoolEvent) -> None: ...


def test_each_once_for_as_long_as_it_lives() -> None:
    stays, goes, observers = Observer(), Observer(), Observers()
    for observer in (goes, stays, goes):
        observers.add(observer)
    assert [*observers] == [goes, stays]
    del observer, goes
    gc.collect()
    assert [*observers] == [stays]
    assert repr(observers) == "<Observers [1]>"
    observers.add(stays)
    assert [*observers] == [stays]


def test_some_may_come_in_one_thread_while_another_tells(hasty: None) -> None:
    """As when a gateway is made for a pool that another one serves."""
    crowd: list[Observer] = []
    observers, is_over = Observers(), threading.Event()
    failures: list[BaseException] = []

    def tell() -> None:
        try:
            while not is_over.is_set():
                [*observers]
        except RuntimeError as exc:
            failures.append(exc)

    telling = threading.Thread(target=tell)
    telling.start()
    for _ in range(2000):
        crowd.append(Observer())
        observers.add(crowd[-1])
        if failures:
            break
    is_over.set()
    telling.join(10)
    assert failures == []
    assert len([*observers]) == 2000
