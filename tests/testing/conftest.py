"""A fake cluster for a test."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import RunningKubernetes
from tests.servers import WAIT

from .cluster import Cluster


class Switch:
    """Serves one fake after the other, since starting a server takes longer than a test."""

    fake: FakeKubernetes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.fake(scope, receive, send)


@pytest.fixture(scope="module")
def switched() -> Iterator[tuple[Switch, httpx.Client]]:
    """A socket behind which the fakes of a module's tests are."""
    switch = Switch()
    server = RunningKubernetes(
        switch, port=0, certfile=None, keyfile=None, hang_up=lambda is_down: None
    )
    server.start()
    try:
        with httpx.Client(base_url=server.url, timeout=WAIT, trust_env=False) as http:
            yield switch, http
    finally:
        server.stop()


@pytest.fixture
def cluster(switched: tuple[Switch, httpx.Client]) -> Cluster:
    """A fake of its own with the namespaces `default` and `shop`, on a socket."""
    switch, http = switched
    switch.fake = FakeKubernetes(namespaces=("default", "shop"))
    return Cluster(switch.fake, http)
