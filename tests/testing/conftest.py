"""A fake cluster for a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sticky_asgi.testing import FakeKubernetes

from .cluster import Cluster, serving


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A fake with the namespaces `default` and `shop`, on a socket."""
    with serving(FakeKubernetes(namespaces=("default", "shop"))) as served:
        yield served
