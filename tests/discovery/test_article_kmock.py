"""The article's Service on an API server that is not ours: kmock, from PyPI.

It sends every object of the namespace, whatever selectors say, and knows neither versions nor
bookmarks nor 410: a watch begins with all there is. What of a watch rests on these is tested with
`FakeKubernetes` alone. Its pytest plugin, which takes libraries that it does not bring, is switched
off in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import httpx
import kmock

from tests.servers import WAIT

from .article import Manifest, play

PATHS = {
    "Service": "/api/v1/namespaces/shop/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
}


@contextlib.contextmanager
def running_kmock() -> Iterator[str]:
    """kmock on a socket, in a thread with an event loop of its own. Yields its address."""
    loop = asyncio.new_event_loop()
    url: list[str] = []
    ready = threading.Event()
    done = asyncio.Event()

    async def serve() -> None:
        emulator = kmock.KubernetesEmulator()
        emulator.resources["v1/services"] = kmock.ResourceInfo()
        emulator.resources["discovery.k8s.io/v1/endpointslices"] = kmock.ResourceInfo()
        async with emulator, kmock.Server(emulator) as server:
            url.append(str(server.url).rstrip("/"))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="kmock")
    thread.start()
    try:
        assert ready.wait(WAIT)
        yield url[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(WAIT)
        loop.close()


class Client:
    """Does it with plain HTTP requests."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url = url
        self._http = http

    def create(self, manifest: Manifest) -> None:
        self._http.post(PATHS[manifest["kind"]], json=manifest).raise_for_status()

    def replace(self, manifest: Manifest) -> None:
        self._patch(manifest["kind"], manifest["metadata"]["name"], manifest)

    def annotate(self, key: str, value: str) -> None:
        self._patch("Service", "web", {"metadata": {"annotations": {key: value}}})

    def _patch(self, kind: str, name: str, patch: Manifest) -> None:
        path = f"{PATHS[kind]}/{name}"
        headers = {"content-type": "application/merge-patch+json"}
        self._http.patch(path, json=patch, headers=headers).raise_for_status()


def test_the_article() -> None:
    with running_kmock() as url, httpx.Client(base_url=url, timeout=WAIT, trust_env=False) as http:
        play(Client(url, http))
