"""The copy of objects that a reflector keeps, apart from what is made of it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sticky_asgi.discovery.kubernetes.api import ApiClient, ApiServer, refusal
from sticky_asgi.discovery.kubernetes.garbage import uncollected
from sticky_asgi.discovery.kubernetes.reflector import Reflector, Resource
from sticky_asgi.testing import FakeKubernetes, VirtualClock
from sticky_asgi.testing.kubernetes import service
from tests.loops import run

MINUTE = 60


class Names:
    """A reflector that keeps the names of Services, and what it has done.

    Attributes:
        read: Names that were read, in order.
        changes: What was kept before and after, each time it changed.
    """

    def __init__(self, url: str, page: int = 100) -> None:
        self.read: list[str] = []
        self.changes: list[tuple[str | None, str | None]] = []
        self.clock = VirtualClock()
        self.reflector = Reflector(
            Resource(group="api/v1", name="services", namespace="shop", page=page),
            self._read,
            lambda before, now: self.changes.append((before, now)),
            clock=self.clock,
        )
        self._server = ApiServer(url=url)

    def _read(self, item: Mapping[str, Any], before: str | None) -> str:
        name: str = item["metadata"]["name"]
        self.read.append(name)
        return name

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[ApiClient]:
        async with self._server.connect() as client:
            yield client


def lists(fake: FakeKubernetes) -> int:
    return sum(request.verb == "list" for request in fake.requests)


def test_everything_is_listed_again_every_half_hour() -> None:
    async def main() -> None:
        async with names.connected() as client:
            for _ in range(3):
                await names.reflector.sync(client)
            assert lists(fake) == 1
            names.clock.advance(26 * MINUTE)
            await names.reflector.sync(client)
            assert lists(fake) == 1
            fake.create(service("b", namespace="shop"))
            fake.delete("services", "shop", "a")
            names.clock.advance(8 * MINUTE)
            await names.reflector.sync(client)
            assert lists(fake) == 2
            assert names.changes == [(None, "a"), (None, "c"), ("a", None), (None, "b")]
            assert names.read == ["a", "c", "b"]  # What is as it was is not read again.
            assert sorted(names.reflector.objects) == ["b", "c"]

    fake = FakeKubernetes()
    for name in "ac":
        fake.create(service(name, namespace="shop"))
    with fake.running() as server:
        names = Names(server.url)
        run(main)


def test_a_list_in_pages_is_one_list() -> None:
    async def main() -> None:
        async with names.connected() as client:
            await names.reflector.sync(client)
            assert sorted(names.reflector.objects) == list("abcde")
            assert [one.query.get("limit") for one in fake.requests] == ["2", "2", "2"]
            assert names.reflector.version == fake.version

    fake = FakeKubernetes()
    for name in "abcde":
        fake.create(service(name, namespace="shop"))
    with fake.running() as server:
        names = Names(server.url, page=2)
        run(main)


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        ({}, None, None),
        ({}, "5", 5.0),
        ({}, "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ({}, "-1", None),
        ({}, "0", None),
        ({}, "9" * 5000, 300.0),
        ({"details": {"retryAfterSeconds": 5}}, None, 5.0),
        ({"details": {"retryAfterSeconds": 5}}, "7", 7.0),
        ({"details": {"retryAfterSeconds": True}}, None, None),
        ({"details": {"retryAfterSeconds": "x"}}, None, None),
        ({"details": []}, None, None),
    ],
)
def test_retry_after(status: dict[str, Any], header: str | None, expected: float | None) -> None:
    assert refusal({"code": 429} | status, "x", retry_after=header).retry_after == expected


def test_a_refusal_is_one_short_line() -> None:
    status = {"code": 403, "reason": "Forbidden", "message": "a\nb\x1b" * 999}
    error = str(refusal(status, "list x"))
    assert error.startswith("list x: 403 Forbidden: a b a b")
    assert error.isprintable()
    assert len(error) < 400


def test_the_collector_waits() -> None:
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            with uncollected():
                pass
            assert not gc.isenabled()
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()
