"""Every annotated Service of a namespace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from sticky_asgi import Intent
from sticky_asgi.discovery import DiscoveredPool, KubernetesNamespace
from sticky_asgi.discovery.kubernetes import RouteHint, copy
from sticky_asgi.discovery.kubernetes.source import Memory
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests.loops import run

from .kubernetes_cluster import Cluster, cluster, following, opened, pods_of
from .kubernetes_objects import ARTICLE, a_service, a_slice, backends_of
from .test_kubernetes_service import lines_of, messages, said

Pools = Mapping[str, DiscoveredPool]


def add(k8s: Cluster, name: str, address: str = "127.0.2.1", **options: Any) -> None:
    """Have the cluster hold a Service with one pod."""
    options = {"ports": {"http": 80}, "annotations": ARTICLE, **options}
    k8s.fake.create(service(name, namespace="shop", **options))
    pod = endpoint(address, pod=f"{name}-0")
    ports = dict.fromkeys(options["ports"], 8080)
    k8s.fake.create(endpoint_slice(name, [pod], namespace="shop", ports=ports))


def source(k8s: Cluster, **options: Any) -> KubernetesNamespace:
    return KubernetesNamespace("shop", url=k8s.server.url, **options)


def by_name(pools: tuple[DiscoveredPool, ...]) -> Pools:
    return {pool.name: pool for pool in pools}


def test_pools_come_and_go() -> None:
    async def main() -> None:
        async with following(source(k8s).watch_pools()) as told:
            (web,) = await told.next()
            assert web.name == "web"
            assert web.routes == (RouteHint(path="/web"),)
            assert pods_of(web.snapshot) == ["a", "b"]
            assert web.snapshot.affinity is not None

            add(k8s, "api", annotations={"sticky-asgi/affinity": "false"})
            pools = by_name(await told.next())
            if not pools["api"].snapshot.backends:  # Its slice comes a moment later.
                pools = by_name(await told.next())
            assert pools["web"] is web
            assert pods_of(pools["api"].snapshot) == ["api-0"]
            assert pools["api"].snapshot.affinity is None

            k8s.fake.patch("services", "shop", "web", {"metadata": {"labels": {"a": "b"}}})
            assert await told.is_silent()

            k8s.pods("a", ready=False)
            changed = by_name(await told.next())
            assert changed["api"] is pools["api"]
            assert changed["web"].snapshot.intents == {"a": Intent.DOWN}

            k8s.fake.delete("services", "shop", "web")
            assert list(by_name(await told.next())) == ["api"]
            assert k8s.count() == Counter(
                {(verb, what): 1 for verb in ("list", "watch") for what in RESOURCES}
            )

    with cluster() as k8s:
        run(main)


RESOURCES = ("services", "endpointslices")


def test_a_service_without_annotations_is_no_pool() -> None:
    async def main() -> None:
        async with following(source(k8s).watch_pools()) as told:
            assert [pool.name for pool in await told.next()] == ["web"]
            await opened(k8s)
            patch = {
                "metadata": {"annotations": {"nginx.ingress.kubernetes.io/affinity": "cookie"}}
            }
            k8s.fake.patch("services", "shop", "plain", patch)
            assert [pool.name for pool in await told.next()] == ["plain", "web"]
            k8s.annotate_service("plain", {"nginx.ingress.kubernetes.io/affinity": None})
            assert [pool.name for pool in await told.next()] == ["web"]

    with cluster() as k8s:
        add(k8s, "plain", annotations={"example.com/team": "shop"})
        run(main)


def test_an_empty_namespace(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with following(source(k8s, selector="!tier").watch_pools()) as told:
            assert await told.next() == ()
            assert messages(caplog) == [
                "kubernetes: services in namespace shop, selector '!tier': "
                "none has an annotation that is known here"
            ]
            k8s.fake.create(service("web", namespace="shop", annotations=ARTICLE))
            assert [pool.name for pool in await told.next()] == ["web"]

    with cluster() as k8s:
        k8s.fake.delete("services", "shop", "web")
        run(main)


def test_a_service_that_leaves_the_selector() -> None:
    async def main() -> None:
        async with following(source(k8s, selector="tier=front").watch_pools()) as told:
            assert [pool.name for pool in await told.next()] == ["api"]
            await opened(k8s)
            k8s.fake.patch("services", "shop", "web", {"metadata": {"labels": {"tier": "front"}}})
            assert [pool.name for pool in await told.next()] == ["api", "web"]
            k8s.fake.patch("services", "shop", "api", {"metadata": {"labels": {"tier": "back"}}})
            assert [pool.name for pool in await told.next()] == ["web"]

    with cluster() as k8s:
        add(k8s, "api", labels={"tier": "front"})
        run(main)


def test_routes_by_annotation() -> None:
    async def main() -> None:
        async with following(source(k8s).watch_pools()) as told:
            assert by_name(await told.next())["api"].routes == (
                RouteHint(path="/v1", host="api.example.com", strip_prefix=True),
            )
            await opened(k8s)
            k8s.annotate_service("api", {"sticky-asgi/path": "/v2"})
            assert by_name(await told.next())["api"].routes[0].path == "/v2"

    with cluster() as k8s:
        annotations = {
            "sticky-asgi/path": "/v1",
            "sticky-asgi/host": "api.example.com",
            "sticky-asgi/strip-prefix": "true",
        }
        add(k8s, "api", annotations=annotations)
        run(main)


def test_a_host_that_cannot_be_read_never_makes_a_route_for_every_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with following(source(k8s).watch_pools()) as told:
            pools = by_name(await told.next())
            assert list(pools) == ["web"]
            await opened(k8s)
            k8s.annotate_service("api", {"note": "x"})
            assert await told.is_silent()
            bad, reason = lines_of(caplog, "shop/api")
            assert "sticky-asgi/host='a b': ignored: host must be" in bad
            assert reason.endswith("there is no route to it until its path and host can be read")
            k8s.annotate_service("api", {"sticky-asgi/host": "api.example.com"})
            pools = by_name(await told.next())
            assert pools["api"].routes == (RouteHint(path="/", host="api.example.com"),)
            # Where there was a route it stays, whoever has said so, and all else goes on.
            k8s.annotate_service("web", {"sticky-asgi/host": "a b", "sticky-asgi/path": "/"})
            assert await told.is_silent()
            k8s.pods("a")
            pools = by_name(await told.next())
            assert pods_of(pools["web"].snapshot) == ["a"]
            assert pools["web"].routes == (RouteHint(path="/web"),)

    with cluster() as k8s:
        add(k8s, "api", annotations={"sticky-asgi/host": "a b", "sticky-asgi/path": "/"})
        run(main)


def test_a_service_that_cannot_be_used_is_named_once_and_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with following(source(k8s, port="http").watch_pools()) as told:
            pools = by_name(await told.next())
            assert list(pools) == ["named", "web"]
            (line,) = lines_of(caplog, "shop/odd")
            assert "'http' among its ports: 1 (x), 2 (y)" in line
            await opened(k8s)
            # What was known of a Service stays.
            ports = [{"name": "x", "port": 1}, {"name": "y", "port": 2}]
            k8s.fake.patch("services", "shop", "web", {"spec": {"ports": ports}})
            assert await told.is_silent()
            k8s.pods("a")
            assert await told.is_silent()
            assert len(await said(caplog, "shop/web")) == 1
            ports = [{"name": "http", "port": 1}, {"name": "y", "port": 2}]
            k8s.fake.patch("services", "shop", "web", {"spec": {"ports": ports}})
            assert pods_of(by_name(await told.next())["web"].snapshot) == ["a"]
            assert len(messages(caplog)) == 2
            # One that is made anew is named again.
            k8s.fake.delete("services", "shop", "odd")
            assert await told.is_silent()
            k8s.fake.create(
                service("odd", namespace="shop", ports={"x": 1, "y": 2}, annotations=ARTICLE)
            )
            assert await told.is_silent()
            assert len(await said(caplog, "shop/odd", 2)) == 2

    with cluster() as k8s:
        add(k8s, "odd", ports={"x": 1, "y": 2})
        add(k8s, "named", ports={"other": 1})
        run(main)


def test_an_external_name_and_a_headless_service(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for allowed in (False, True):
            found = source(k8s, external_name=allowed, port=81)
            async with following(found.watch_pools()) as told:
                pools = by_name(await told.next())
                assert ("db" in pools) is allowed
                assert pools["bare"].snapshot.backends[0].url == "http://127.0.2.1:81"
        assert pods_of(pools["db"].snapshot) == ["db.example.com:81"]
        assert "local" not in pools
        assert len(lines_of(caplog, "refused")) == 1

    with cluster() as k8s:
        add(k8s, "bare", cluster_ip=None, ports={})
        for name, to in (("db", "db.example.com"), ("local", "localhost")):
            k8s.fake.create(
                service(name, namespace="shop", external_name=to, annotations=ARTICLE, ports=None)
            )
        run(main)


def test_many_services_and_slices_come_in_pages() -> None:
    async def main() -> None:
        async with following(source(k8s).watch_pools()) as told:
            pools = await told.next()
            assert len(pools) == 13
            assert all(pool.snapshot.backends for pool in pools)
            assert k8s.count()["list", "services"] == -(-13 // 5)
            assert k8s.count()["list", "endpointslices"] == -(-13 // copy.SLICES_PAGE)

    with pytest.MonkeyPatch.context() as patch, cluster() as k8s:
        patch.setattr(copy, "SERVICES_PAGE", 5)
        for number in range(12):
            add(k8s, f"s{number}", f"127.0.3.{number + 1}")
        run(main)


def test_sources_are_equal_if_they_say_the_same() -> None:
    def make(**options: Any) -> KubernetesNamespace:
        return KubernetesNamespace("shop", **{"url": "http://a.test", **options})

    assert make() == make()
    for options in ({"selector": "a=b"}, {"port": 80}, {"url": "http://b.test"}, {"zone": "z"}):
        assert make(**options) != make()
    assert repr(make(selector="a=b")) == "<KubernetesNamespace shop a=b>"
    assert repr(KubernetesNamespace()) == "<KubernetesNamespace own namespace>"
    with pytest.raises(TypeError, match="selector"):
        KubernetesNamespace("shop", selector=7, url="http://a.test")  # type: ignore[arg-type]


def test_a_service_that_goes_while_its_slices_are_worked_through() -> None:
    async def main() -> None:
        found = Memory[tuple[DiscoveredPool, ...]](copy.Copy("shop", namespace.choice))
        view = backends_of(
            a_slice(endpoint("10.0.0.1", pod="a")), service=a_service(annotations=ARTICLE)
        )
        found.copy.views["web"] = view
        found.copy.changed.add("web")
        look = asyncio.ensure_future(namespace._look(found))
        await asyncio.sleep(0)
        view.service = None
        assert await look == ()

    namespace = KubernetesNamespace("shop", url="http://127.0.0.1:1")
    run(main)
