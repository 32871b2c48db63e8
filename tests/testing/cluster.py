"""The fake on a socket, and a client that reads a watch line by line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests.servers import WAIT

SERVICES = "/api/v1/namespaces/shop/services"
WEB = f"{SERVICES}/web"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
NAME = {"metadata": {"name": "web"}}


@dataclass(frozen=True)
class Cluster:
    """A fake that is served, and a client of it."""

    fake: FakeKubernetes
    http: httpx.Client

    @contextlib.contextmanager
    def watch(self, path: str = SERVICES, **query: str) -> Iterator[Stream]:
        """Watch. By the time the head is here, the fake has the stream."""
        with self.http.stream("GET", path, params={"watch": "true", **query}) as response:
            assert response.status_code == 200, response.read()
            yield Stream(response)

    def create(self, *names: str, **options: Any) -> None:
        for name in names:
            self.fake.create(service(name, namespace="shop", **options))

    def label(self, name: str, **labels: str | None) -> dict[str, Any]:
        return self.fake.patch("services", "shop", name, {"metadata": {"labels": labels}})

    def verbs(self) -> list[str]:
        return [request.verb for request in self.fake.requests]


class Stream:
    """The lines of a watch.

    Attributes:
        received: What has come and is not read, such as half a line.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._pieces = response.iter_raw()
        self.received = b""

    def line(self) -> bytes:
        """The next line without its newline; StopIteration at the stream's end."""
        while b"\n" not in self.received:
            self.received += next(self._pieces)
        line, _, self.received = self.received.partition(b"\n")
        return line

    def event(self) -> tuple[str, dict[str, Any]]:
        """The next event's type and object."""
        event = json.loads(self.line())
        return event["type"], event["object"]

    def named(self) -> tuple[str, str]:
        """The next event's type and its object's name."""
        kind, obj = self.event()
        return kind, obj["metadata"]["name"]

    def rest(self) -> bytes:
        """What else comes until the end."""
        rest = self.received + b"".join(self._pieces)
        self.received = b""
        return rest


@contextlib.contextmanager
def serving(fake: FakeKubernetes) -> Iterator[Cluster]:
    with (
        fake.running() as server,
        httpx.Client(base_url=server.url, timeout=WAIT, trust_env=False) as http,
    ):
        yield Cluster(fake, http)


def web_slice(*addresses: str, name: str = "web-1", **options: Any) -> dict[str, Any]:
    endpoints = [endpoint(address, pod=f"web-{address}") for address in addresses]
    return endpoint_slice("web", endpoints, name=name, namespace="shop", **options)
