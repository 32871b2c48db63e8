"""A gateway before a namespace: its Services become pools, and their pods get requests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route as AppRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from sticky_asgi import (
    AnnotatedCookie,
    Discovery,
    Gateway,
    GatewayMiddleware,
    HealthCheck,
    Pool,
    WatchOptions,
)
from sticky_asgi.config import Config, parse
from sticky_asgi.discovery import KubernetesNamespace, PoolDiscovery
from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests import servers
from tests.servers import eventually

SECRET = "0123456789abcdef0123456789abcdef"
STICKY = {"traefik.ingress.kubernetes.io/affinity": "true"}


def make_pool(name: str, discovery: Discovery) -> Pool:
    affinity = AnnotatedCookie(SECRET, secure=False)
    return Pool(name, discovery=discovery, affinity=affinity)


class Namespace:
    """The namespace `shop` of a fake cluster, with pods that serve, and a gateway before it."""

    def __init__(self, fake: FakeKubernetes, url: str, stack: contextlib.ExitStack) -> None:
        self.fake = fake
        self.url = url
        self.gateway: Gateway
        self.server: servers.RunningServer
        self.pods: dict[str, servers.RawBackend] = {}
        self._stack = stack

    def source(self) -> KubernetesNamespace:
        return KubernetesNamespace("shop", url=self.url)

    def add(
        self,
        name: str,
        count: int = 1,
        annotations: Mapping[str, str] = STICKY,
        handler: servers.Handler | None = None,
    ) -> None:
        """Have a Service with so many pods, `<name>-0` and so on, which answer with their names."""
        self.fake.create(
            service(name, namespace="shop", ports={"http": 80}, annotations=annotations)
        )
        for number in range(count):
            pod = f"{name}-{number}"
            if pod not in self.pods:
                answer = servers.responding(servers.response(body=pod.encode()))
                self.pods[pod] = self._stack.enter_context(servers.RawBackend(handler or answer))
            ports = {"http": self.pods[pod].port}
            self.fake.create(
                endpoint_slice(
                    name,
                    [endpoint("127.0.0.1", pod=pod)],
                    namespace="shop",
                    ports=ports,
                    name=pod,
                )
            )

    def remove(self, name: str) -> None:
        self.fake.delete("services", "shop", name)
        for one in self.fake.list("endpointslices", "shop"):
            if one["metadata"]["labels"]["kubernetes.io/service-name"] == name:
                self.fake.delete("endpointslices", "shop", one["metadata"]["name"])

    def annotate(self, name: str, annotations: Mapping[str, str | None]) -> None:
        self.fake.patch("services", "shop", name, {"metadata": {"annotations": annotations}})

    def serve(self, wrap: Callable[[Gateway], ASGIApp] = lambda gateway: gateway) -> None:
        self.server = self._stack.enter_context(servers.serve(wrap(self.gateway)))

    def ask(self, target: str, headers: servers.Headers = ()) -> servers.RawResponse:
        return servers.request(self.server.port, "GET", target.encode(), headers)

    def says(self, target: str, *, host: str | None = None) -> str:
        """The body, or the status if it is not 200."""
        answer = self.ask(target, [(b"Host", host.encode())] if host else ())
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def pool(self, name: str) -> Pool:
        (pool,) = [pool for pool in self.gateway.pools if pool.name == name]
        return pool

    def becomes(self, target: str, expected: str, *, host: str | None = None) -> None:
        eventually(
            lambda: self.says(target, host=host) == expected, message=f"{target}: {expected}"
        )


@contextlib.contextmanager
def namespace(
    make: Callable[[str, Discovery], Pool] = make_pool, **watch: Any
) -> Iterator[Namespace]:
    fake = FakeKubernetes()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(fake.running())
        made = Namespace(fake, server.url, stack)
        options = WatchOptions(**watch)
        made.gateway = Gateway([], discovery=PoolDiscovery(made.source(), make, watch=options))
        yield made


def to(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


def test_services_come_and_go_with_requests_under_way() -> None:
    """One watch on the Services and one on the slices serve all of them."""
    release = threading.Event()

    def slow(connection: servers.Connection) -> None:
        connection.read_request()
        connection.wait(release)
        connection.send(servers.response(body=b"at last"))

    with namespace() as shop:
        shop.add("web")
        shop.add("slow", handler=slow)
        shop.serve()
        assert shop.says("/web") == "web-0"
        assert shop.says("/api") == "404"
        shop.add("api")
        shop.becomes("/api/x", "api-0")
        (request,) = shop.pods["api-0"].requests[-1:]
        assert request.target == b"/api/x"

        with servers.RawClient(shop.server.port) as client:
            client.send(servers.encode_request("GET", b"/slow"))
            shop.pods["slow-0"].wait_request()
            shop.remove("slow")
            eventually(lambda: shop.gateway.match(to("/slow")) is None)
            assert shop.says("/slow") == "404"
            release.set()
            answer = client.read_response()
            assert (answer.status, answer.body) == (200, b"at last")

        shop.remove("web")
        shop.becomes("/web", "404")
        shop.add("web")
        shop.becomes("/web", "web-0")
        for number in range(10):
            shop.add(f"n{number}")
        shop.becomes("/n9", "n9-0")
        assert Counter((one.verb, one.resource) for one in shop.fake.requests) == {
            ("list", "services"): 1,
            ("list", "endpointslices"): 1,
            ("watch", "services"): 1,
            ("watch", "endpointslices"): 1,
        }
        assert shop.server.errors == []


def test_annotations_say_where_requests_come_from_and_how_they_go_on() -> None:
    with namespace() as shop:
        shop.add("web", annotations={"sticky-asgi/path": "/shop"})
        shop.serve()
        assert shop.says("/shop/cart") == "web-0"
        assert shop.says("/web") == "404"
        before = shop.pods["web-0"].requests[-1]
        assert (before.target, before.get(b"host")) == (b"/shop/cart", b"test")

        shop.annotate("web", {"sticky-asgi/strip-prefix": "true"})
        shop.becomes("/shop/cart", "web-0")
        eventually(lambda: shop.says("/shop/c") and shop.pods["web-0"].requests[-1].target == b"/c")
        assert shop.pods["web-0"].requests[-1].get(b"x-forwarded-prefix") == b"/shop"

        shop.annotate("web", {"sticky-asgi/host": "one.example, two.example"})
        shop.becomes("/shop", "404", host="other.example")
        assert shop.says("/shop", host="two.example") == "web-0"
        assert shop.pods["web-0"].requests[-1].get(b"host") == b"two.example"

        shop.annotate("web", {"sticky-asgi/host-header": "backend"})
        own = shop.pods["web-0"].id.encode()
        eventually(
            lambda: (
                shop.says("/shop", host="two.example")
                and shop.pods["web-0"].requests[-1].get(b"host") == own
            )
        )
        shop.annotate("web", {"sticky-asgi/host-header": None})
        eventually(
            lambda: (
                shop.says("/shop", host="two.example")
                and shop.pods["web-0"].requests[-1].get(b"host") == b"two.example"
            )
        )


def test_each_service_has_sessions_of_its_own() -> None:
    """Cookies of two pools lie side by side on one host, with the path `/`."""
    with namespace() as shop:
        shop.add("web", 3)
        shop.add("api", 3)
        shop.add("free", 3, annotations={"traefik.ingress.kubernetes.io/affinity": "false"})
        shop.serve()
        jar: dict[bytes, bytes] = {}

        def visit(path: str) -> str:
            cookies = b"; ".join(b"%s=%s" % pair for pair in jar.items())
            answer = shop.ask(path, [(b"Cookie", cookies)] if jar else ())
            for line in answer.get_all(b"set-cookie"):
                assert b"; Path=/;" in line
                name, _, rest = line.partition(b"=")
                jar[name] = rest.partition(b";")[0]
            return answer.body.decode()

        web, api = visit("/web"), visit("/api")
        assert sorted(jar) == [b"sticky_api", b"sticky_web"]
        for _ in range(6):
            assert (visit("/web"), visit("/api")) == (web, api)
        assert len({visit("/free") for _ in range(6)}) == 3
        assert sorted(jar) == [b"sticky_api", b"sticky_web"]

        # A cookie of one says nothing to the other, even under its name.
        jar[b"sticky_api"] = jar[b"sticky_web"]
        api = visit("/api")
        assert jar[b"sticky_api"] != jar[b"sticky_web"], "it got one of its own"
        # And sessions outlive their pool.
        shop.remove("api")
        shop.becomes("/api", "404")
        shop.add("api", 3)
        eventually(lambda: len(shop.pool("api").backends) == 3 if shop.says("/api") != "404" else 0)
        for _ in range(4):
            assert visit("/api") == api


def test_pools_that_are_found_are_checked_as_long_as_they_are_there() -> None:
    def checked(name: str, discovery: Discovery) -> Pool:
        return Pool(
            name, discovery=discovery, health_check=HealthCheck(path="/health", interval=0.02)
        )

    def checks(pod: str) -> int:
        return sum(one.target == b"/health" for one in shop.pods[pod].requests)

    with namespace(checked) as shop:
        shop.serve()
        shop.add("web")
        shop.add("api")
        shop.becomes("/web", "web-0")
        shop.becomes("/api", "api-0")
        eventually(lambda: checks("web-0") > 2 and checks("api-0") > 2)
        gone = shop.pool("web")
        shop.remove("web")
        shop.becomes("/web", "404")
        eventually(lambda: not gone.followers)
        before, other = checks("web-0"), checks("api-0")
        eventually(lambda: checks("api-0") > other + 3)
        assert checks("web-0") <= before + 1, "one may have been under way"


def test_in_a_test_client() -> None:
    with namespace() as shop:
        shop.add("web")
        with TestClient(shop.gateway) as client:
            assert client.get("/web").text == "web-0"
            assert client.get("/api").status_code == 404
            shop.add("api")
            eventually(lambda: client.get("/api").text == "api-0")


def test_as_middleware_the_rest_is_the_applications() -> None:
    def home(request: object) -> PlainTextResponse:
        return PlainTextResponse("app")

    app = Starlette(routes=[AppRoute("/{path:path}", home)])
    with namespace() as shop:
        discovery = shop.gateway.discovery
        middleware = GatewayMiddleware(app, [], discovery=discovery)
        shop.gateway = middleware.gateway
        shop.serve(lambda gateway: middleware)
        assert shop.says("/web") == "app"
        shop.add("web")
        shop.becomes("/web", "web-0")
        assert shop.says("/webs") == "app"
        shop.remove("web")
        shop.becomes("/web", "app")


def test_the_start_fails_with_the_servers_reason() -> None:
    with namespace(start_timeout=0.3) as shop:
        shop.fake.forbid("list", "services")
        with pytest.raises(RuntimeError, match=r"all pools: .*services.* forbidden"):
            shop.serve()


def test_a_service_that_cannot_be_used_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sticky_asgi")
    with namespace() as shop:
        shop.add("web")
        two_ports = {"a": 80, "b": 81}
        bad = service("bad", namespace="shop", ports=two_ports, annotations=STICKY)
        shop.fake.create(bad)
        shop.add("odd", annotations={"sticky-asgi/path": "shop?", "sticky-asgi/affinity": "maybe"})
        shop.serve()
        assert shop.says("/web") == "web-0"
        assert shop.says("/bad") == "404"
        assert shop.says("/odd") == "odd-0", "what cannot be read counts as absent"
        shop.add("more")
        shop.becomes("/more", "more-0")
        lines = [record.getMessage() for record in caplog.records]
        assert sum("shop/bad" in line for line in lines) == 1
        assert sum("sticky-asgi/path" in line for line in lines) == 1


def test_an_api_server_that_is_away_changes_nothing() -> None:
    with namespace(min_backoff=0.02, max_backoff=0.05) as shop:
        shop.add("web")
        shop.serve()
        shop.fake.forbid()
        shop.fake.drop_watches()
        discovery = shop.gateway.discovery
        assert discovery is not None
        eventually(lambda: discovery.status.failures > 2)
        assert shop.says("/web") == "web-0"
        assert shop.gateway.is_ready
        assert discovery.status.error is not None
        shop.fake.allow()
        shop.add("api")
        shop.becomes("/api", "api-0")
        eventually(lambda: discovery.status.error is None)


def test_a_configuration_that_is_read_anew_keeps_what_was_found() -> None:
    document = """
secrets: [0123456789abcdef0123456789abcdef]
discovery:
  kubernetes: {{namespace: shop, url: '{url}'}}
  pool: {{affinity: {{cookie: {{secure: false}}}}, timeouts: {{connect: {connect}}}}}
pools: {pools}
"""
    with namespace() as shop:

        def config(connect: str, pools: str = "{}") -> Config:
            return parse(document.format(url=shop.url, connect=connect, pools=pools), environ={})

        def apply(after: Config, before: Config) -> None:
            shop.server.call(lambda: after.apply(shop.gateway, before))

        shop.add("web")
        shop.add("api")
        first = config("1s")
        shop.gateway = first.build()
        shop.serve()
        assert shop.says("/web") == "web-0"
        web = shop.pool("web")
        assert web.timeouts.connect == 1

        second = config("2s")
        apply(second, first)
        assert shop.pool("web") is web
        assert (web.timeouts.connect, shop.pool("api").timeouts.connect) == (2, 2)

        # The file has a pool of that name now, and then no more.
        own = f"{{web: {{backends: ['{shop.pods['api-0'].url}'], timeouts: {{connect: 3}}}}}}"
        third = config("4s", own)
        apply(third, second)
        assert shop.pool("web").timeouts.connect == 3
        assert shop.pool("api").timeouts.connect == 4
        assert shop.says("/anything") == "api-0"
        shop.annotate("web", {"sticky-asgi/idle-timeout": "5m"})
        shop.add("more")
        shop.becomes("/more", "more-0")
        assert shop.says("/web") == "api-0"
        apply(second, third)
        shop.becomes("/web", "web-0")
        assert shop.says("/anything") == "404"
        listed = Counter(one.resource for one in shop.fake.requests if one.verb == "list")
        assert set(listed.values()) == {1}, "the watch went on"
        assert shop.server.errors == []
