"""Sources of backends and of pools in the configuration file: what is built, refused, reloaded."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sticky_asgi import (
    CookieSettings,
    Discovery,
    Gateway,
    Intent,
    Pool,
    Random,
    RequestInfo,
    SignedCookie,
    WatchOptions,
)
from sticky_asgi.config import Config, ConfigError, json_schema, load, parse
from sticky_asgi.config_discovery import (
    DNSSection,
    FileSection,
    NamespaceSection,
    ServiceSection,
    WatchSection,
)
from sticky_asgi.discovery import DNS, File, KubernetesNamespace, KubernetesService
from tests.discovery.kubernetes_cluster import cluster
from tests.discovery.sources import snapshot
from tests.sections import assert_defaults
from tests.test_config import ONE

SECRET = "an-old-secret-of-22-by"
FOLDER = Path("/etc/sticky")

POD = "kubernetes: {service: web, namespace: shop}"
SAID = CookieSettings(name="traefik-cookie", secure=True)


def in_folder(text: str, workers: int = 1) -> Config:
    return parse(text, environ={}, workers=workers, folder=FOLDER)


def found(source: str, more: str = "") -> str:
    return f"secrets: [{SECRET}]\npools: {{shop: {{discovery: {{{source}}}{more}}}}}"


def pool_of(text: str) -> Pool:
    return in_folder(text).make_pools()["shop"]


def problems(text: str, workers: int = 1) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        in_folder(text, workers)
    return [str(problem).removeprefix("gateway.yaml:") for problem in caught.value.problems]


# What it builds

SOURCES = [
    pytest.param("kubernetes: {service: web}", KubernetesService("web"), id="kubernetes, defaults"),
    pytest.param(
        "kubernetes: {service: web, namespace: shop, port: http, url: 'https://k:6443', "
        "token_file: token, ca_file: ca.pem, identity: uid, zone: eu-1a, external_name: true}",
        KubernetesService(
            "web",
            namespace="shop",
            port="http",
            url="https://k:6443",
            token_file=str(FOLDER / "token"),
            ca_file=str(FOLDER / "ca.pem"),
            identity="uid",
            zone="eu-1a",
            external_name=True,
        ),
        id="kubernetes, every key",
    ),
    pytest.param(
        "kubernetes: {service: web, port: 80, token_file: /run/token, namespace: null, url: null}",
        KubernetesService("web", port=80, token_file="/run/token"),
        id="kubernetes, absolute path",
    ),
    pytest.param("dns: {name: web.test}", DNS("web.test"), id="dns, defaults"),
    pytest.param(
        "dns: {name: web.test, port: 8000, type: AAAA, scheme: https, min_ttl: 1s, max_ttl: 1m, "
        "grace: 0, nameservers: ['10.0.0.2', '10.0.0.3:5353'], timeout: 500ms, max_backends: 5}",
        DNS(
            "web.test",
            port=8000,
            type="AAAA",
            scheme="https",
            min_ttl=1,
            max_ttl=60,
            grace=0,
            nameservers=["10.0.0.2", "10.0.0.3:5353"],
            timeout=0.5,
            max_backends=5,
        ),
        id="dns, every key",
    ),
    pytest.param("file: backends.yaml", File(FOLDER / "backends.yaml"), id="file, its path"),
    pytest.param("file: /run/b.json", File("/run/b.json"), id="file, absolute path"),
    pytest.param(
        "file: {path: ../b.yaml, look_every: 1m}",
        File(FOLDER / "../b.yaml", look_every=60),
        id="file, every key",
    ),
]


@pytest.mark.parametrize(("text", "source"), SOURCES)
def test_sources(text: str, source: Discovery) -> None:
    made = pool_of(found(text))
    assert made.discovery == source
    assert made.watch == WatchOptions()
    assert (made.backends, made.watch_status.has_snapshot) == ((), False)


WATCH = "start: empty, start_timeout: null, debounce: 50ms, min_backoff: 1s, max_backoff: 1m"
OPTIONS = WatchOptions(
    start="empty", start_timeout=None, debounce=0.05, min_backoff=1, max_backoff=60
)


def test_how_a_source_is_followed() -> None:
    assert pool_of(found(f"file: b.yaml, {WATCH}")).watch == OPTIONS
    finds = in_folder(f"discovery: {{kubernetes: {{}}, {WATCH}}}").build().discovery
    assert finds is not None
    assert finds.watch == OPTIONS


NAMESPACES = [
    pytest.param("{}", KubernetesNamespace(), id="defaults"),
    pytest.param(
        "{namespace: shop, selector: 'app in (a, b)', port: http, url: 'http://k:1', "
        "token_file: token, ca_file: ca.pem, identity: address, zone: eu-1a, external_name: true}",
        KubernetesNamespace(
            "shop",
            selector="app in (a, b)",
            port="http",
            url="http://k:1",
            token_file=str(FOLDER / "token"),
            ca_file=str(FOLDER / "ca.pem"),
            identity="address",
            zone="eu-1a",
            external_name=True,
        ),
        id="every key",
    ),
]


@pytest.mark.parametrize(("text", "source"), NAMESPACES)
def test_sources_of_pools(text: str, source: KubernetesNamespace) -> None:
    config = in_folder(
        f"secrets: [{SECRET}]\n"
        f"discovery: {{kubernetes: {text}, pool: {{balancer: random, host: backend}}}}"
    )
    gateway = config.build()
    assert gateway.routes == ()
    assert gateway.discovery is not None
    assert gateway.discovery.source == source
    made = gateway.discovery.make_pool("web", KubernetesService("web"))
    assert isinstance(made.balancer, Random)
    assert (made.name, made.host) == ("web", "backend")
    made.follow(snapshot("a", affinity=SAID))
    assert cookie_of(made).name == "traefik-cookie"


def test_found_pools_stand_beside_those_of_the_file() -> None:
    text = f"{ONE % ''}\ndiscovery: {{kubernetes: {{}}}}"
    assert [route.path for route in in_folder(text).build().routes] == ["/"]


@pytest.mark.parametrize(
    ("section", "api"),
    [
        pytest.param(ServiceSection, KubernetesService, id="kubernetes"),
        pytest.param(NamespaceSection, KubernetesNamespace, id="namespace"),
        pytest.param(DNSSection, DNS, id="dns"),
        pytest.param(FileSection, File, id="file"),
        pytest.param(WatchSection, WatchOptions, id="watch"),
    ],
)
def test_keys_and_defaults_are_those_of_the_python_api(section: Any, api: Any) -> None:
    # A client of one's own, and what only tests replace, are nothing for a file.
    parameters = inspect.signature(api).parameters
    assert set(parameters) - set(section.model_fields) <= {"client", "clock", "sleep"}
    assert_defaults(section, api)


# Affinity


def cookie_of(pool: Pool) -> SignedCookie:
    assert isinstance(pool.affinity, SignedCookie)
    return pool.affinity


def set_cookie(pool: Pool) -> str:
    """The cookie that a new visitor gets: its name and attributes."""
    ((_, header),) = pool.visitors.issue(pool.visitors.resolve(RequestInfo()), pool.backends[0])
    name, _, rest = header.decode().partition("=")
    return name + rest.partition(";")[2]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("", id="left out"),
        pytest.param(", affinity: annotations", id="annotations"),
        pytest.param(", affinity: {annotations: {}}", id="a mapping"),
    ],
)
def test_annotations_are_the_default_with_kubernetes(more: str) -> None:
    made = pool_of(found(POD, more))
    assert made.affinity is None
    made.follow(snapshot("a", affinity=SAID))
    assert cookie_of(made).on_lost == "rebalance"
    assert set_cookie(made) == "traefik-cookie Path=/; SameSite=Lax; Secure; HttpOnly"
    made.follow(snapshot("a"))
    assert made.affinity is None


def test_what_the_file_says_of_the_cookie_holds() -> None:
    made = pool_of(
        found(
            POD,
            ", affinity: {annotations: {name: own, idle_timeout: 1h}, on_lost: reject, "
            "announce: true}",
        )
    )
    made.follow(snapshot("a", affinity=CookieSettings(name="x", path="/x", on_lost="rebalance")))
    cookie = cookie_of(made)
    assert cookie.idle_timeout == 3600
    assert set_cookie(made).startswith("own Path=/x;")
    assert (cookie.on_lost, cookie.announce) == ("reject", True)


def test_on_lost_is_the_annotations_to_say_where_the_file_does_not() -> None:
    made = pool_of(found(POD, ", affinity: annotations"))
    made.follow(snapshot("a", affinity=CookieSettings(on_lost="reject")))
    assert cookie_of(made).on_lost == "reject"


@pytest.mark.parametrize(
    ("source", "more", "name"),
    [
        pytest.param(POD, ", affinity: null", None, id="kubernetes, none"),
        pytest.param(POD, ", affinity: {cookie: {name: own}}", "own", id="kubernetes, a cookie"),
        pytest.param("file: b.yaml", "", None, id="file, none"),
        pytest.param("file: b.yaml", ", affinity: {cookie: {name: own}}", "own", id="file"),
        pytest.param(
            "dns: {name: a}", ", affinity: {session_persistence: {sessionName: own}}", "own",
            id="dns",
        ),
    ],
)  # fmt: skip
def test_annotations_have_no_say_otherwise(source: str, more: str, name: str | None) -> None:
    made = pool_of(found(source, more))
    for said in (None, SAID):
        made.follow(snapshot("a", affinity=said))
        assert (None if made.affinity is None else cookie_of(made).name) == name


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        pytest.param(f"pools: {{shop: {{discovery: {{{POD}}}}}}}", True, id="annotations"),
        pytest.param(
            f"pools: {{shop: {{discovery: {{{POD}}}, affinity: null}}}}", False, id="none"
        ),
        pytest.param("pools: {shop: {discovery: {file: b.yaml}}}", False, id="file"),
        pytest.param("discovery: {kubernetes: {}}", True, id="pools that are found"),
        pytest.param("discovery: {kubernetes: {}, pool: {affinity: null}}", False, id="not sticky"),
    ],
)
def test_who_needs_a_secret(text: str, needs: bool) -> None:
    assert in_folder(text).needs_secret == needs
    if needs:
        message = "1: secrets is missing: several workers must know the same ones"
        assert problems(text, workers=2) == [message]
    else:
        in_folder(text, workers=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(found(POD), "1 pool, 0 backends and those found, 1 route", id="a pool"),
        pytest.param(
            "discovery: {kubernetes: {}}",
            "0 pools and those found, 0 backends and those found, 0 routes and those found",
            id="pools",
        ),
        pytest.param(
            f"{ONE % ''}\ndiscovery: {{kubernetes: {{}}}}",
            "1 pool and those found, 1 backend and those found, 1 route and those found",
            id="both",
        ),
    ],
)
def test_the_summary_tells_of_sources(text: str, expected: str) -> None:
    assert in_folder(text).summary == expected


# Mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": takes exactly one of kubernetes, dns and file"),
        ("start: empty", ": takes exactly one of kubernetes, dns and file"),
        ("file: b.yaml, dns: {name: a}", ": takes exactly one of kubernetes, dns and file"),
        ("file: null", ": takes exactly one of kubernetes, dns and file"),
        ("fiel: b.yaml", ".fiel: unknown key; did you mean 'file'?"),
        ("file: ''", ".file: must not be empty"),
        ("file: {look_every: 1s}", ".file.path: is missing"),
        ("file: {path: b, look_every: 0}",
         ".file.look_every: must be a positive number of seconds, got 0.0"),
        ("file: b, start: soon", ".start: unknown value 'soon'; one of wait, empty"),
        ("file: b, start_timeout: 0",
         ".start_timeout: must be a positive number of seconds, got 0.0"),
        ("file: b, debounce: 5 seconds",
         ".debounce: '5 seconds' has an unknown unit; write 5s"),
        ("file: b, max_backoff: 100ms",
         ".max_backoff: must be at least min_backoff (0.8), got 0.1"),
        ("file: b, min_backoff: 1m",
         ": max_backoff must be at least min_backoff (60), got 30.0"),
        ("dns: {}", ".dns.name: is missing"),
        ("dns: {name: ''}", ".dns.name: must be a domain name, got ''"),
        ("dns: {name: 'web.test:80'}",
         ".dns.name: must be a domain name without scheme and port, got 'web.test:80'"),
        ("dns: {name: a, type: MX}", ".dns.type: unknown value 'MX'; one of A, AAAA, SRV"),
        ("dns: {name: a, port: 0}", ".dns.port: must be a number from 1 to 65535, got 0"),
        ("dns: {name: a, port: 1, type: SRV}",
         ".dns.port: must be null with SRV, whose records name it, got 1"),
        ("dns: {name: a, min_ttl: 2m}", ".dns: max_ttl must be at least min_ttl (120), got 60.0"),
        ("dns: {name: a, nameservers: [x]}",
         ".dns.nameservers: must be IP addresses, such as 10.0.0.2 or [::1]:5353, got 'x'"),
        ("kubernetes: web", ".kubernetes: must be a mapping such as {}, got text"),
        ("kubernetes: {}", ".kubernetes.service: is missing"),
        ("kubernetes: {service: WEB}",
         ".kubernetes.service: must be a name such as 'web-1', got 'WEB'"),
        ("kubernetes: {service: web, namespace: a_b}",
         ".kubernetes.namespace: must be a name such as 'web-1', got 'a_b'"),
        ("kubernetes: {service: web, namspace: a}",
         ".kubernetes.namspace: unknown key; did you mean 'namespace'?"),
        ("kubernetes: {service: web, port: 99999}",
         ".kubernetes.port: must be a port's number or name, got 99999"),
        ("kubernetes: {service: web, port: true}",
         ".kubernetes.port: must be a number, got true or false"),
        ("kubernetes: {service: web, identity: pods}",
         ".kubernetes.identity: unknown value 'pods'; did you mean 'pod'?"),
        ("kubernetes: {service: web, namespace: a, url: 'ftp://k'}",
         ".kubernetes.url: must be such as 'http://127.0.0.1:8001', got 'ftp://k'"),
        ("kubernetes: {service: web, url: 'http://k'}",
         ".kubernetes: namespace must be given where the gateway is no pod of the cluster"),
    ],
)  # fmt: skip
def test_mistakes_in_a_source(text: str, expected: str) -> None:
    lines = f"pools:\n  shop:\n    discovery: {{{text}}}"
    assert problems(lines) == [f"3: pools.shop.discovery{expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backends: [http://a], discovery: {file: b}", ": takes either backends or discovery"),
        ("balancer: random", ": takes either backends or discovery"),
        ("discovery: null", ": takes either backends or discovery"),
        ("backends: [], discovery: {file: b}", ".backends: must not be empty"),
        ("backends: [http://a], affinity: annotations",
         ".affinity: annotations come with discovery from kubernetes only"),
        ("discovery: {file: b}, affinity: {annotations: {}}",
         ".affinity: annotations come with discovery from kubernetes only"),
        (f"discovery: {{{POD}}}, affinity: annotation",
         ".affinity: must be annotations, or a mapping, got 'annotation'"),
        (f"discovery: {{{POD}}}, affinity: {{annotations: null}}",
         ".affinity.annotations: must be a mapping such as {}, got null"),
        (f"discovery: {{{POD}}}, affinity: {{annotations: {{nmae: x}}}}",
         ".affinity.annotations.nmae: unknown key; did you mean 'name'?"),
        (f"discovery: {{{POD}}}, affinity: {{annotations: {{}}, cookie: {{}}}}",
         ".affinity: takes either cookie, session_persistence or annotations"),
        (f"discovery: {{{POD}}}, affinity: {{annotations: {{secure: false, same_site: none}}}}",
         ".affinity.annotations.secure: secure=false: with same_site='none', browsers would "
         "refuse the cookie"),
    ],
)  # fmt: skip
def test_mistakes_in_its_pool(text: str, expected: str) -> None:
    assert problems(f"pools:\n  shop: {{{text}}}") == [f"2: pools.shop{expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["2: discovery.kubernetes: is missing"]),
        ("kubernetes: {}, pools: {}", ["2: discovery.pools: unknown key; did you mean 'pool'?"]),
        ("kubernetes: {service: web}",
         ["2: discovery.kubernetes.service: unknown key; one of namespace, port, url, "
          "token_file, ca_file, identity, zone, external_name, selector"]),
        ("kubernetes: {}, pool: {affinity: {cookie: {name: a b}}}",
         ["2: discovery.pool.affinity.cookie.name: must be a token (RFC 6265 §4.1.1), got 'a b'"]),
        ("kubernetes: {}, pool: {tls: {ca_file: nowhere}}",
         [f"2: discovery.pool.tls.ca_file: '{FOLDER}/nowhere': No such file or directory"]),
        ("kubernetes: {}, start: soon",
         ["2: discovery.start: unknown value 'soon'; one of wait, empty"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_source_of_pools(text: str, expected: list[str]) -> None:
    assert problems(f"forwarded: true\ndiscovery: {{{text}}}") == expected


def test_a_source_of_pools_does_not_replace_pools_that_are_wrong() -> None:
    text = "discovery: {kubernetes: {}}\npools: {a: {backends: [http://a]}, b: {}}"
    assert problems(text) == [
        "1: routes is missing: with several pools it says which paths go where",
        "2: pools.b: takes either backends or discovery",
    ]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sticky_asgi.discovery.dns_answers", None)
    assert problems("pools: {shop: {discovery: {dns: {name: web.test}}}}") == [
        "1: pools.shop.discovery.dns: DNS takes an extra: pip install 'sticky-asgi[dns]'"
    ]


# The schema

SCHEMA = Draft202012Validator(json_schema())

GOOD = [
    *(found(str(case.values[0])) for case in SOURCES),
    *(f"discovery: {{kubernetes: {case.values[0]}}}" for case in NAMESPACES),
    found(f"file: b.yaml, {WATCH}"),
    f"discovery: {{kubernetes: {{}}, pool: {{affinity: annotations}}, {WATCH}}}",
    found(POD, ", affinity: annotations"),
    found(POD, ", affinity: {annotations: {name: own}}"),
    found(POD, ", affinity: null"),
]
BAD = [
    found(""),
    found("file: b, dns: {name: a}"),
    found("file: {}"),
    found("file: 5"),
    found("fiel: b"),
    found("file: b, start: soon"),
    found("file: b, debounce: 5 seconds"),
    found("dns: {name: a, type: MX}"),
    found("kubernetes: {}"),
    found("kubernetes: {service: web, port: true}"),
    found(POD, ", backends: [http://a]"),
    found(POD, ", affinity: annotation"),
    found(POD, ", affinity: {annotations: {}, cookie: {}}"),
    "pools: {shop: {balancer: random}}",
    "discovery: {}",
    "discovery: {kubernetes: {service: web}}",
    "discovery: {kubernetes: {}, pool: {backends: [http://a]}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_the_schema_takes_what_the_file_may_say(text: str) -> None:
    in_folder(text)
    assert [error.message for error in SCHEMA.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize("text", BAD)
def test_the_schema_refuses_what_the_file_may_not_say(text: str) -> None:
    assert problems(text)
    assert not SCHEMA.is_valid(yaml.safe_load(text))


# Another configuration for a gateway that runs


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def running(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def ids(pool: Pool) -> list[str]:
    return sorted(backend.id for backend in pool.backends)


def test_an_unchanged_source_keeps_its_watch() -> None:
    with cluster() as kube:
        source = f"kubernetes: {{service: web, namespace: shop, url: '{kube.server.url}'}}"

        async def main() -> None:
            first = parse(found(source))
            async with first.build() as gateway:
                (pool,) = gateway.pools
                assert ids(pool) == ["a", "b"]
                kube.fake.requests.clear()
                second = parse(found(source, ", balancer: random, affinity: {annotations: {}}"))
                second.apply(gateway, first)
                assert isinstance(pool.balancer, Random)
                assert cookie_of(pool).name == "traefik-cookie"
                kube.pods("a", "c")
                await until(lambda: ids(pool) == ["a", "c"])
                assert kube.count()["list", "endpointslices"] == 0

        running(main)


def listing(path: Path, *urls: str) -> Path:
    path.write_text("".join(f"- {url}\n" for url in urls))
    return path


def test_another_source_takes_over_when_it_has_spoken(tmp_path: Path) -> None:
    old, new = listing(tmp_path / "old.yaml", "http://a:1", "http://b:1"), tmp_path / "new.yaml"

    async def main() -> None:
        first = parse(found(f"file: {old}"))
        async with first.build() as gateway:
            (pool,) = gateway.pools
            pool.set_intent("b:1", Intent.DOWN)
            second = parse(found(f"file: {new}, min_backoff: 10ms"))
            second.apply(gateway, first)
            await until(lambda: pool.watch_status.error is not None)
            assert ids(pool) == ["a:1", "b:1"]
            assert gateway.is_ready
            listing(new, "http://b:1", "http://c:1")
            await until(lambda: ids(pool) == ["b:1", "c:1"])
            assert pool["b:1"].intent is Intent.DOWN
            assert pool.watch_status.error is None
            # The first one is not followed any more.
            listing(old, "http://z:1")
            listing(new, "http://c:1")
            await until(lambda: ids(pool) == ["c:1"])

    running(main)


def test_from_a_list_to_a_source_and_back(tmp_path: Path) -> None:
    file = tmp_path / "backends.yaml"
    fixed = parse("pools: {shop: {backends: [http://a:1, {url: 'http://b:1', drain: true}]}}")
    follows = parse(found(f"file: {file}, min_backoff: 10ms"))

    async def main() -> None:
        async with fixed.build() as gateway:
            (pool,) = gateway.pools
            follows.apply(gateway, fixed)
            await until(lambda: pool.watch_status.error is not None)
            assert ids(pool) == ["a:1", "b:1"]
            file.write_text("[http://a:1, {url: 'http://c:1', drain: true}]")
            await until(lambda: ids(pool) == ["a:1", "c:1"])
            assert pool["c:1"].intent is Intent.DRAINING
            fixed.apply(gateway, follows)
            assert ids(pool) == ["a:1", "b:1"]
            assert (pool.discovery, pool.watch_status.error) == (None, None)
            assert pool["b:1"].intent is Intent.DRAINING
            listing(file, "http://z:1")
            follows.apply(gateway, fixed)
            await until(lambda: ids(pool) == ["z:1"])

    running(main)


def applied(pool_text: str, before: Config, gateway: Gateway) -> Config:
    config = in_folder(pool_text)
    config.apply(gateway, before)
    return config


def test_what_the_source_has_said_of_affinity_holds_when_the_file_asks_for_it() -> None:
    first = in_folder(found(POD, ", affinity: {cookie: {name: own}}"))
    gateway = first.build()
    (pool,) = gateway.pools
    pool.follow(snapshot("a", affinity=SAID))
    assert cookie_of(pool).name == "own"
    # The source says nothing more: for it, nothing has changed.
    second = applied(found(POD), first, gateway)
    assert cookie_of(pool).name == "traefik-cookie"
    third = applied(found(POD, ", affinity: null"), second, gateway)
    assert pool.affinity is None
    applied(found(POD), third, gateway)
    assert cookie_of(pool).name == "traefik-cookie"


@pytest.mark.parametrize("said", [None, SAID], ids=["not sticky", "sticky"])
def test_visitors_stay_until_a_source_that_annotates_has_spoken(
    said: CookieSettings | None,
) -> None:
    first = in_folder(ONE % ", affinity: {cookie: {name: own}}")
    gateway = first.build()
    (pool,) = gateway.pools
    applied(found(POD), first, gateway)
    assert cookie_of(pool).name == "own"
    pool.follow(snapshot("a", affinity=said))
    assert (None if pool.affinity is None else cookie_of(pool).name) == (said and said.name)


def test_options_and_annotations_that_do_not_go_together_stop_no_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = in_folder(found(POD))
    gateway = first.build()
    (pool,) = gateway.pools
    pool.follow(snapshot("a", affinity=CookieSettings(name="__Host-id", secure=True)))
    second = applied(
        found(POD, ", affinity: {annotations: {path: /x}}, balancer: random"), first, gateway
    )
    assert isinstance(pool.balancer, Random)
    assert set_cookie(pool).startswith("__Host-id Path=/;")
    assert "__Host-" in str(pool.watch_status.error)
    assert "the affinity cookie stays what it was" in caplog.text
    applied(found(POD, ", affinity: {annotations: {}, announce: true}"), second, gateway)
    assert cookie_of(pool).announce


# Pools that are found


def namespace_of(url: str, more: str = "", pools: str = "") -> str:
    return (
        f"secrets: [{SECRET}]\n{pools}\n"
        f"discovery: {{kubernetes: {{namespace: shop, url: '{url}'}}{more}}}"
    )


def paths(gateway: Gateway) -> dict[str, str]:
    return {route.path: route.pool.name for route in gateway.routes if route.pool is not None}


def test_policies_of_found_pools_change_and_their_watch_goes_on() -> None:
    with cluster() as kube:

        async def main() -> None:
            first = parse(namespace_of(kube.server.url))
            async with first.build() as gateway:
                (pool,) = gateway.pools
                assert (paths(gateway), ids(pool)) == ({"/web": "web"}, ["a", "b"])
                kube.fake.requests.clear()
                second = parse(namespace_of(kube.server.url, ", pool: {balancer: random}"))
                second.apply(gateway, first)
                assert gateway.pools == (pool,)
                assert isinstance(pool.balancer, Random)
                assert cookie_of(pool).name == "traefik-cookie"
                kube.pods("a", "c")
                await until(lambda: ids(pool) == ["a", "c"])
                assert kube.count()["list", "services"] == 0

        running(main)


def test_a_pool_of_the_file_takes_the_name_of_a_found_one_and_gives_it_back() -> None:
    with cluster() as kube:
        beside = "pools: {web: {backends: ['http://x:1']}}"

        async def main() -> None:
            first = parse(namespace_of(kube.server.url))
            async with first.build() as gateway:
                second = parse(namespace_of(kube.server.url, pools=beside))
                second.apply(gateway, first)
                assert paths(gateway) == {"/": "web"}
                (pool,) = gateway.pools
                assert (ids(pool), pool.discovery) == (["x:1"], None)
                kube.pods("a", "c")
                finds = gateway.discovery
                assert finds is not None
                await until(lambda: finds.routes == ())
                # Nothing more is heard of the namespace, and yet the found one is back.
                parse(namespace_of(kube.server.url)).apply(gateway, second)
                assert paths(gateway) == {"/web": "web"}
                await until(lambda: ids(gateway.pools[0]) == ["a", "c"])

        running(main)


def test_discovery_of_pools_comes_and_goes() -> None:
    with cluster() as kube:

        async def main() -> None:
            first = parse(ONE % "")
            async with first.build() as gateway:
                second = parse(namespace_of(kube.server.url, pools=ONE % ""))
                second.apply(gateway, first)
                assert gateway.is_ready
                await until(lambda: paths(gateway) == {"/": "shop", "/web": "web"})
                first.apply(gateway, second)
                assert paths(gateway) == {"/": "shop"}
                assert gateway.discovery is None
                await until(lambda: kube.fake.watching() == 0)

        running(main)


def test_load_takes_paths_from_the_files_folder(tmp_path: Path) -> None:
    listing(tmp_path / "backends.yaml", "http://a:1")
    path = tmp_path / "gateway.yaml"
    path.write_text(found("file: backends.yaml"))

    async def main() -> None:
        async with load(path).build() as gateway:
            assert ids(gateway.pools[0]) == ["a:1"]

    running(main)


@pytest.mark.parametrize("pools", ["", "pools: null", "pools: {}"])
def test_routes_lead_to_pools_of_the_file_only(pools: str) -> None:
    text = f"{pools}\nroutes: [{{pool: web}}]\ndiscovery: {{kubernetes: {{}}}}"
    assert "2: routes[0].pool: there is no pool 'web' in this file" in problems(text)
