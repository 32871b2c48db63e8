"""A fake cluster with the article's Service, and a way to follow a source step by step."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

from sticky_asgi import DiscoveryError, Snapshot
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import (
    RunningKubernetes,
    endpoint,
    endpoint_slice,
    service,
)

from .kubernetes_objects import ARTICLE

V = TypeVar("V")

WATCHED = ("services", "endpointslices")


class Cluster:
    """The fake, where it is served, and what the tests do to it most.

    Attributes:
        fake: The API server.
        server: Where it runs.
    """

    def __init__(self, fake: FakeKubernetes, server: RunningKubernetes) -> None:
        self.fake = fake
        self.server = server

    def source(self, **options: Any) -> KubernetesService:
        return KubernetesService("web", namespace="shop", url=self.server.url, **options)

    def pods(self, *names: str, name: str = "web-1", **options: Any) -> None:
        """Have a slice hold these pods."""
        endpoints = [endpoint(f"127.0.1.{ord(pod[-1]) - 96}", pod=pod, **options) for pod in names]
        self.slice(endpoints, name=name)

    def slice(self, endpoints: Sequence[Any], name: str = "web-1") -> None:
        manifest = endpoint_slice(
            "web", endpoints, namespace="shop", ports={"http": 8080}, name=name
        )
        if self.fake.list("endpointslices", "shop", fields=f"metadata.name={name}"):
            self.fake.replace(manifest)
        else:
            self.fake.create(manifest)

    def annotate(self, **annotations: str | None) -> None:
        """Set annotations of Traefik's on the Service `web`; None takes one away."""
        patch = {
            f"traefik.ingress.kubernetes.io/{key.replace('_', '-')}": value
            for key, value in annotations.items()
        }
        self.annotate_service("web", patch)

    def annotate_service(self, name: str, annotations: dict[str, Any]) -> None:
        self.fake.patch("services", "shop", name, {"metadata": {"annotations": annotations}})

    def count(self) -> collections.Counter[tuple[str, str]]:
        """Requests by verb and resource, since the last `requests.clear()`."""
        return collections.Counter((one.verb, one.resource) for one in self.fake.requests)


@contextmanager
def cluster(**options: Any) -> Iterator[Cluster]:
    """A cluster with the Service `web`, which has the pods a and b."""
    fake = FakeKubernetes(**options)
    fake.create(service("web", namespace="shop", ports={"http": 80}, annotations=ARTICLE))
    with fake.running() as server:
        made = Cluster(fake, server)
        made.pods("a", "b")
        yield made


class Following(Generic[V]):
    """What a source tells, asked for step by step."""

    def __init__(self, values: AsyncIterator[V]) -> None:
        self._values = values
        self._next: asyncio.Task[V] | None = None

    async def next(self, seconds: float = 5) -> V:
        """The next value. Raises DiscoveryError if there is a failure instead."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._values))
        done, _ = await asyncio.wait([self._next], timeout=seconds)
        if not done:
            raise TimeoutError(f"nothing told within {seconds} s")
        task, self._next = self._next, None
        return task.result()

    async def fails(self) -> DiscoveryError:
        """The failure that is next."""
        try:
            value = await self.next()
        except DiscoveryError as exc:
            return exc
        raise AssertionError(f"told instead: {value}")

    async def is_silent(self, seconds: float = 0.1) -> bool:
        try:
            await self.next(seconds)
        except TimeoutError:
            return True
        return False

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        await self._values.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def following(values: AsyncIterator[V]) -> AsyncIterator[Following[V]]:
    made = Following(values)
    try:
        yield made
    finally:
        await made.aclose()


async def failure_of(values: AsyncIterator[Any]) -> DiscoveryError:
    """What a watch fails of before it tells anything."""
    async with following(values) as told:
        return await told.fails()


async def opened(cluster: Cluster, count: int = 2) -> None:
    """Wait until so many watches are open."""
    async with asyncio.timeout(5):
        while cluster.fake.watching() != count:
            await asyncio.sleep(0.002)


def pods_of(snapshot: Snapshot) -> list[str]:
    return [backend.id for backend in snapshot.backends]
