"""The article's Service through a running gateway, with pods on addresses of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from sticky_asgi import AnnotatedCookie, Gateway, Pool, WatchOptions
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice
from tests.servers import RunningServer, eventually, free_port, serve

from .kubernetes_cluster import Cluster, cluster

NAMES = "abcdef"


class Pod(BaseHTTPRequestHandler):
    """Answers with the last number of the address that it was reached at."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[0]).rpartition(".")[2].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def pods() -> Iterator[int]:
    """A server at 127.0.1.1 and each of the addresses after it. Yields the port of all."""
    port = free_port()
    servers = [
        ThreadingHTTPServer((f"127.0.1.{number}", port), Pod) for number in range(1, len(NAMES) + 1)
    ]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield port
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class Shop:
    """A gateway before the cluster's Service, and its visitors.

    Attributes:
        k8s: The cluster.
        pool: The gateway's pool.
    """

    def __init__(
        self, k8s: Cluster, pool: Pool, gateway: RunningServer, client: httpx.Client, port: int
    ) -> None:
        self.k8s = k8s
        self.pool = pool
        self._gateway = gateway
        self._client = client
        self._port = port

    def has(self, *endpoints: Any) -> None:
        """Have the Service's slice hold these endpoints, and wait until that is in force."""
        manifest = endpoint_slice(
            "web", list(endpoints), namespace="shop", ports={"http": self._port}
        )
        self.k8s.fake.replace(manifest)
        wanted = {
            one["targetRef"]["name"]: (
                f"http://{one['addresses'][0]}:{self._port}",
                _intent(one["conditions"]),
            )
            for one in endpoints
        }
        self.until(lambda: self._in_force() == wanted)

    def _in_force(self) -> dict[str, tuple[str | None, str]]:
        return {state.id: (state.backend.url, state.intent.value) for state in self.pool.states}

    def until(self, condition: Callable[[], bool]) -> None:
        eventually(lambda: self._gateway.call(condition), message=repr(self.pool))

    def affinity_is(self, name: str | None) -> None:
        """Wait until the pool's cookie has this name; None: it has none."""

        def is_so() -> bool:
            return self.visit()[1] == ({name} if name else set())

        eventually(is_so)

    def visit(self, cookies: dict[str, str] | None = None) -> tuple[str, set[str]]:
        """Ask with these cookies, to which new ones are added. Returns whoever has answered, and
        the names of the cookies that were set."""
        jar = {} if cookies is None else cookies
        header = "; ".join(f"{name}={value}" for name, value in jar.items())
        answer = self._client.get("/", headers={"cookie": header} if header else {})
        self._client.cookies.clear()
        assert answer.status_code == 200, answer
        jar.update(answer.cookies)
        return NAMES[int(answer.text) - 1], set(answer.cookies)

    def visitors(self, count: int = 12) -> dict[str, list[dict[str, str]]]:
        """New visitors' cookies, by the address that has answered them."""
        found: dict[str, list[dict[str, str]]] = {}
        for _ in range(count):
            cookies: dict[str, str] = {}
            found.setdefault(self.visit(cookies)[0], []).append(cookies)
        return found

    def stay(self, visitors: dict[str, list[dict[str, str]]]) -> None:
        """Assert that nobody moves, and nobody is told anything."""
        for address, jars in visitors.items():
            for jar in jars:
                assert self.visit(jar) == (address, set())


def _intent(conditions: dict[str, bool]) -> str:
    if conditions.get("terminating"):
        return "draining"
    return "active" if conditions["ready"] else "down"


def at(address: str, pod: str | None = None, **conditions: Any) -> Any:
    return endpoint(f"127.0.1.{NAMES.index(address) + 1}", pod=pod or address, **conditions)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with pods() as port, cluster() as k8s:
        pool = Pool(
            "shop",
            discovery=k8s.source(port="http"),
            affinity=AnnotatedCookie("a secret of the tests"),
            watch=WatchOptions(min_backoff=0.05, max_backoff=0.2),
        )
        with serve(Gateway({"/": pool})) as gateway, httpx.Client(base_url=gateway.url) as client:
            made = Shop(k8s, pool, gateway, client, port)
            made.has(at("a"), at("b"))
            yield made


def test_sessions_follow_the_pods(shop: Shop) -> None:
    visitors = shop.visitors()
    assert sorted(visitors) == ["a", "b"]
    assert {name for jars in visitors.values() for jar in jars for name in jar} == {
        "traefik-cookie"
    }
    shop.stay(visitors)

    # Scaled up: nobody moves.
    shop.has(at("a"), at("b"), at("c"))
    shop.stay(visitors)
    assert "c" in shop.visitors()

    # Not ready: only its own visitors move.
    shop.has(at("a"), at("b", ready=False), at("c"))
    shop.stay({"a": visitors["a"]})
    for jar in visitors.pop("b"):
        moved_to, told = shop.visit(jar)
        assert (moved_to in "ac", told) == (True, {"traefik-cookie"})
        visitors.setdefault(moved_to, []).append(jar)
    shop.stay(visitors)

    # Leaving, but still serving: its visitors stay, and nobody new comes.
    shop.has(at("a", ready=False, serving=True, terminating=True), at("b"), at("c"))
    shop.stay(visitors)
    assert "a" not in shop.visitors()

    # Gone, and another pod has its address: nobody inherits a session.
    shop.has(at("a", pod="d"), at("b"), at("c"))
    for jar in visitors.pop("a"):
        assert shop.visit(jar)[1] == {"traefik-cookie"}
    shop.stay(visitors)


def test_annotations_are_followed(shop: Shop) -> None:
    visitors = shop.visitors()
    shop.k8s.annotate(affinity="false")
    shop.affinity_is(None)
    for jars in visitors.values():
        for jar in jars:
            assert shop.visit(jar)[1] == set()
    shop.k8s.annotate(affinity="true")
    shop.affinity_is("traefik-cookie")
    shop.stay(visitors)
    shop.k8s.annotate(session_cookie_name="other")
    shop.affinity_is("other")
    for jars in visitors.values():
        for jar in jars:
            assert shop.visit(jar)[1] == {"other"}
    # What is no name of a cookie changes nothing.
    shop.k8s.annotate(session_same_site="sideways")
    shop.affinity_is("other")


FAULTS = [
    pytest.param(lambda k8s: k8s.fake.expire_watches(), id="410 in the stream"),
    pytest.param(lambda k8s: (k8s.fake.compact(), k8s.fake.drop_watches()), id="410 on resuming"),
    pytest.param(lambda k8s: k8s.fake.drop_watches(), id="dropped"),
    pytest.param(lambda k8s: k8s.fake.break_line(), id="half a line"),
    pytest.param(lambda k8s: k8s.fake.send_raw(b"<html>\n"), id="garbage"),
    pytest.param(
        lambda k8s: (k8s.fake.fail(500, "watch", times=4), k8s.fake.drop_watches()), id="500"
    ),
    pytest.param(
        lambda k8s: (k8s.fake.fail(429, retry_after=1), k8s.fake.drop_watches()), id="429"
    ),
    pytest.param(
        lambda k8s: (k8s.fake.forbid("watch"), k8s.fake.drop_watches(), k8s.fake.allow("watch")),
        id="403",
    ),
    pytest.param(lambda k8s: (k8s.server.stop(), k8s.server.start()), id="dead for a while"),
    pytest.param(lambda k8s: k8s.fake.flood("services", "shop", "web", 300), id="flood"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_request_fails_while_the_api_server_does(
    shop: Shop, fault: Callable[[Cluster], object]
) -> None:
    visitors = shop.visitors(6)
    lists = shop.k8s.count()["list", "endpointslices"]
    fault(shop.k8s)
    for _ in range(3):
        shop.stay(visitors)
    shop.has(at("a"), at("b"), at("c"))
    shop.stay(visitors)
    assert shop.k8s.count()["list", "endpointslices"] - lists <= 1
    shop.until(lambda: shop.pool.watch_status.error is None)
