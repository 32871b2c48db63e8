"""A Service that is followed, with an API server on a real socket."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from sticky_asgi import DiscoveryError, Intent
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests.loops import run

from .kubernetes_cluster import cluster, failure_of, following, opened, pods_of

# What is told


def test_what_happens_to_a_service_is_told() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            first = await told.next()
            assert pods_of(first) == ["a", "b"]
            assert first.backends[0].url == "http://127.0.1.1:8080"
            assert first.affinity is not None
            assert first.affinity.name == "traefik-cookie"

            k8s.pods("a", "b", "c")
            scaled = await told.next()
            assert pods_of(scaled) == ["a", "b", "c"]
            assert scaled.backends[0] is first.backends[0]

            a, c = endpoint("127.0.1.1", pod="a"), endpoint("127.0.1.3", pod="c")
            k8s.slice([a, endpoint("127.0.1.2", pod="b", ready=False), c])
            assert (await told.next()).intents == {"b": Intent.DOWN}

            leaving = endpoint("127.0.1.2", pod="b", ready=False, serving=True, terminating=True)
            k8s.slice([a, leaving, c])
            assert (await told.next()).intents == {"b": Intent.DRAINING}

            k8s.slice([a, endpoint("127.0.1.2", pod="d"), c])
            again = await told.next()
            assert pods_of(again) == ["a", "d", "c"]
            assert again.intents == {}

            k8s.annotate(affinity="false")
            assert (await told.next()).affinity is None
            k8s.annotate(affinity="true", session_cookie_name="other")
            renamed = await told.next()
            assert renamed.affinity is not None
            assert renamed.affinity.name == "other"
            assert renamed.backends[0] is first.backends[0]

    with cluster() as k8s:
        run(main)


def test_several_slices_are_one_set() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            assert pods_of(await told.next()) == ["a", "b", "c"]
            # An endpoint moves: for a moment it is in both.
            k8s.pods("c", "b", name="web-2")
            assert await told.is_silent()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a", "c", "b"]
            k8s.fake.delete("endpointslices", "shop", "web-2")
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        k8s.pods("c", name="web-2")
        run(main)


def test_what_changes_nothing_is_not_told() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            k8s.fake.patch("services", "shop", "web", {"metadata": {"labels": {"a": "b"}}})
            k8s.fake.patch("endpointslices", "shop", "web-1", {"metadata": {"labels": {"a": "b"}}})
            k8s.fake.bookmark()
            assert await told.is_silent()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_a_slow_listener_hears_only_the_newest() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            for count in range(1, 6):
                k8s.pods(*"abcdef"[:count])
            k8s.fake.flood("services", "shop", "web", 100)
            await asyncio.sleep(0.3)
            assert pods_of(await told.next()) == ["a", "b", "c", "d", "e"]
            assert await told.is_silent()

    with cluster() as k8s:
        run(main)


def test_an_annotation_with_a_line_end_of_unicode() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            k8s.annotate(note="a\u0085b\u2028c", session_cookie_name="other")
            renamed = await told.next()
            assert renamed.affinity is not None
            assert renamed.affinity.name == "other"
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_a_service_that_does_not_exist_has_no_backends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = KubernetesService("late", namespace="shop", url=k8s.server.url)
        async with following(source.watch()) as told:
            assert (await told.next()).backends == ()
            for _ in range(2):
                k8s.fake.create(endpoint_slice("late", [], namespace="shop"))
                k8s.fake.delete("endpointslices", "shop", "late-1")
            assert await told.is_silent()
            assert messages(caplog) == ["kubernetes: service shop/late: does not exist"]
            # A Service that is not ours: not all servers know selectors.
            k8s.annotate(affinity="false")
            k8s.fake.create(
                service("late", namespace="shop", annotations={"sticky-asgi/affinity": "true"})
            )
            assert (await told.next()).affinity is not None
            k8s.fake.delete("services", "shop", "late")
            assert (await told.next()).affinity is None
            assert len(messages(caplog)) == 2

    with cluster() as k8s:
        run(main)


@pytest.mark.parametrize("name", ["host-header", "host"])
def test_what_only_counts_in_a_namespace_is_said_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            assert messages(caplog) == []
            k8s.annotate_service("web", {f"sticky-asgi/{name}": "backend"})
            for number in range(2):
                k8s.annotate(session_cookie_name=f"c{number}")
                await told.next()
            (said,) = messages(caplog)
            assert "annotations say of routes and of the Host header" in said

    with cluster() as k8s:
        run(main)


def test_a_service_that_is_deleted_and_comes_back() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]
            manifest = k8s.fake.delete("services", "shop", "web")
            assert pods_of(await told.next()) == []
            k8s.fake.create(service("web", namespace="shop", ports={"http": 80}))
            back = await told.next()
            assert pods_of(back) == ["a", "b"]
            assert back.affinity is None
            assert manifest["metadata"]["name"] == "web"

    with cluster() as k8s:
        run(main)


def test_a_service_that_loses_its_port_fails_once_and_is_waited_for() -> None:
    async def main() -> None:
        source = k8s.source(port="http")
        async with following(source.watch()) as told:
            await told.next()
            k8s.fake.patch("services", "shop", "web", {"spec": {"ports": [OTHER]}})
            error = await told.fails()
        assert str(error) == (
            "kubernetes: service shop/web: there is no TCP port 'http' among its ports: 81 (other)"
        )
        k8s.fake.requests.clear()
        async with following(source.watch()) as told:
            assert await told.is_silent()
            k8s.pods("a")
            assert await told.is_silent()
            assert k8s.count()["list", "services"] == 0
            k8s.fake.patch("services", "shop", "web", {"spec": {"ports": [HTTP]}})
            assert pods_of(await told.next()) == ["a"]
            # What was wrong is said again if it happens again, or after another failure.
            k8s.fake.patch("services", "shop", "web", {"spec": {"ports": [OTHER]}})
            assert str(await told.fails()) == str(error)
        k8s.fake.fail(500, "watch", times=2)
        assert "500" in str(await failure_of(source.watch()))
        k8s.fake.clear_faults()
        assert str(await failure_of(source.watch())) == str(error)

    OTHER, HTTP = {"name": "other", "port": 81}, {"name": "http", "port": 80}
    with cluster() as k8s:
        run(main)


def test_an_external_name() -> None:
    async def main() -> None:
        refused = KubernetesService("db", namespace="shop", url=k8s.server.url)
        assert "external_name=True" in str(await failure_of(refused.watch()))
        source = KubernetesService("db", namespace="shop", url=k8s.server.url, external_name=True)
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["db.example.com:80"]
            patch = {"spec": {"externalName": "localhost"}}
            k8s.fake.patch("services", "shop", "db", patch)
            assert "shop/db: externalName='localhost'" in str(await told.fails())

    with cluster() as k8s:
        k8s.fake.create(service("db", namespace="shop", external_name="db.example.com"))
        run(main)


# What is said in the log


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "sticky_asgi.discovery" and record.levelno >= logging.WARNING
    ]


def lines_of(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [line for line in messages(caplog) if word in line]


async def said(caplog: pytest.LogCaptureFixture, word: str, count: int = 1) -> list[str]:
    """The lines with a word, once there are so many."""
    async with asyncio.timeout(5):
        while len(found := lines_of(caplog, word)) < count:
            await asyncio.sleep(0.005)
    return found


def test_a_bad_annotation_is_one_line_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            k8s.annotate(affinity="perhaps")
            assert await told.is_silent()
            (line,) = await said(caplog, "perhaps")
            assert "service shop/web: traefik.ingress.kubernetes.io/affinity='perhaps'" in line
            k8s.pods("a")
            assert (await told.next()).affinity is not None
            k8s.annotate(other="thing")
            assert await told.is_silent()
            assert lines_of(caplog, "perhaps") == [line]
            k8s.annotate(affinity="false")
            assert (await told.next()).affinity is None
            k8s.annotate(affinity="perhaps")
            assert await told.is_silent()
            assert len(await said(caplog, "perhaps", 2)) == 2

    with cluster() as k8s:
        run(main)


def test_a_bad_cookie_name_leaves_the_pool_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            k8s.annotate(session_same_site="sideways")
            assert await told.is_silent()
            k8s.pods("a")
            snapshot = await told.next()
            assert pods_of(snapshot) == ["a"]
            assert snapshot.affinity is not None
            assert snapshot.affinity.name == "traefik-cookie"
            (line,) = await said(caplog, "shop/web")
            assert "session-same-site='sideways'" in line

    with cluster() as k8s:
        run(main)


def test_an_object_that_cannot_be_read_stays_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            event = (
                b'{"type": "MODIFIED", "object": {"metadata": {"name": "web-1", "labels": '
                b'{"kubernetes.io/service-name": "web"}, "resourceVersion": "9999"}, '
                b'"addressType": "IPv4", "endpoints": [{"addresses": ["evil"]}]}}\n'
            )
            k8s.fake.send_raw(event * 3, "endpointslices")
            assert await told.is_silent()
            (line,) = await said(caplog, "cannot be read")
            assert "endpointslices of service web in namespace shop: web-1 cannot be read" in line
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_endpoints_that_are_no_backends_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]
            k8s.fake.patch("endpointslices", "shop", "web-1", {"ports": [{"port": 8080}]})
            assert await told.is_silent()
            assert lines_of(caplog, "shop/web") == [], "those who are known serve on"
            pods = [endpoint("127.0.1.3", pod="c")]
            k8s.fake.patch("endpointslices", "shop", "web-1", {"endpoints": pods})
            assert pods_of(await told.next()) == []
            k8s.fake.patch("endpointslices", "shop", "web-1", {"metadata": {"labels": {"a": "b"}}})
            k8s.annotate_service("web", {"note": "x"})
            assert await told.is_silent()
            assert await said(caplog, "shop/web") == [
                "kubernetes: service shop/web: none of its endpoints becomes a backend: "
                "no port in their slices has the name 'http'"
            ]
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_whoever_looks_is_told_what_is_not_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.patch("services", "shop", "web", {"spec": {"sessionAffinity": "ClientIP"}})
            k8s.annotate(load_balancer_method="drr")
            assert await told.is_silent()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]

    caplog.set_level(logging.DEBUG, "sticky_asgi.discovery")
    with cluster() as k8s:
        run(main)
    client_ip, method = [one for one in caplog.messages if "not read" in one]
    assert client_ip.startswith("kubernetes: service shop/web: sessionAffinity=ClientIP is not")
    assert method.startswith(
        "kubernetes: service shop/web: traefik.ingress.kubernetes.io/load-balancer-method='drr'"
    )
    assert messages(caplog) == []


# Watched more than once


def test_two_watches_at_once_do_not_disturb_each_other() -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as one, following(source.watch()) as other:
            assert pods_of(await one.next()) == pods_of(await other.next()) == ["a", "b"]
            await opened(k8s, 4)
            k8s.pods("a")
            assert pods_of(await one.next()) == pods_of(await other.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_a_watch_in_one_loop_after_another() -> None:
    async def first() -> None:
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.send_raw(b"garbage\n")
            await told.fails()

    async def second() -> None:
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        source = k8s.source()
        run(first)
        k8s.fake.requests.clear()
        run(second)
        assert k8s.count()["list", "services"] == 0


def test_one_that_is_closed_begins_anew(no_leaks: None) -> None:
    async def main() -> None:
        for _ in range(2):
            async with following(source.watch()) as told:
                assert pods_of(await told.next(0.9)) == ["a", "b"]
            await opened(k8s, 0)

    with cluster() as k8s:
        source = k8s.source()
        run(main)


def test_a_client_of_ones_own_is_left_open() -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=k8s.server.url) as client:
            source = KubernetesService("web", namespace="shop", client=client)
            async with following(source.watch()) as told:
                assert pods_of(await told.next()) == ["a", "b"]
            assert not client.is_closed

    with cluster() as k8s:
        run(main)


# What it is made of


def test_sources_are_equal_if_they_say_the_same() -> None:
    def make(**options: Any) -> KubernetesService:
        given: dict[str, Any] = {"namespace": "shop", "url": "http://a.test", **options}
        return KubernetesService("web", **given)

    assert make() == make()
    assert hash(make()) == hash(make())
    others: list[dict[str, Any]] = [
        {"namespace": "other"},
        {"port": 80},
        {"port": "http"},
        {"url": "http://b.test"},
        {"token_file": "t"},
        {"ca_file": "c"},
        {"identity": "uid"},
        {"zone": "z"},
        {"external_name": True},
    ]
    for options in others:
        assert make(**options) != make()
    assert KubernetesService("api", namespace="shop", url="http://a.test") != make()
    assert make() != "web"
    assert repr(make(port="http")) == "<KubernetesService shop/web:http>"
    assert repr(KubernetesService("web")) == "<KubernetesService own namespace/web>"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"service": "Web"}, ValueError, "service"),
        ({"service": "web,a=b"}, ValueError, "service"),
        ({"service": None}, TypeError, "service"),
        ({"namespace": "../kube-system"}, ValueError, "namespace"),
        ({"namespace": None}, ValueError, "namespace must be given"),
        ({"namespace": None, "url": None, "client": httpx.AsyncClient}, TypeError, "client"),
        ({"port": "a b"}, ValueError, "port"),
        ({"url": "ftp://a"}, ValueError, "url"),
        ({"url": "a.test"}, ValueError, "url"),
        ({"url": "http://a.test?x"}, ValueError, "url"),
        ({"url": "http://a.test:x"}, ValueError, "url"),
        ({"url": 7}, TypeError, "url"),
        ({"token_file": 7}, TypeError, "token_file"),
        ({"ca_file": 7}, TypeError, "ca_file"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"service": "web", "namespace": "shop", "url": "http://a.test", **options}
    with pytest.raises(error, match=message):
        KubernetesService(**given)


def test_a_password_in_the_url_is_not_shown() -> None:
    with pytest.raises(ValueError, match="no user and password") as raised:
        KubernetesService("web", namespace="shop", url="http://me:secret@a.test")
    assert "secret" not in str(raised.value)


def test_a_client_stands_alone() -> None:
    client = httpx.AsyncClient()
    with pytest.raises(ValueError, match="client"):
        KubernetesService("web", namespace="shop", client=client, url="http://a.test")


def test_a_url_with_a_path_is_respected() -> None:
    async def main() -> None:
        error = await failure_of(KubernetesService("web", namespace="shop", url=url).watch())
        assert isinstance(error, DiscoveryError)
        assert "list services (only web) in namespace shop" in str(error)

    with cluster() as k8s:
        url = k8s.server.url + "/nowhere"
        run(main)
