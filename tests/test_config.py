"""The configuration file: what it builds, how it is put in force, and what it says of mistakes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sticky_asgi import (
    ConsistentHash,
    Ejection,
    Health,
    HealthCheck,
    Intent,
    LeastRequests,
    LeastTime,
    Limits,
    Random,
    RequestInfo,
    Retry,
    RoundRobin,
    SignedCookie,
    Timeouts,
    TwoChoices,
    WebSocketOptions,
)
from sticky_asgi.affinity.session_persistence import DURATION_PATTERN as GO_DURATION_PATTERN
from sticky_asgi.certificates import wrong_chain
from sticky_asgi.config import Config, ConfigError, json_schema, load, parse, quick
from sticky_asgi.config_affinity import CookieSection
from sticky_asgi.config_model import Document
from sticky_asgi.config_policies import (
    EjectionSection,
    HealthCheckSection,
    LimitsSection,
    RetrySection,
    TimeoutsSection,
    WebSocketSection,
)
from sticky_asgi.health import CheckResult
from sticky_asgi.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size
from tests.conftest import Authority
from tests.sections import assert_defaults

SECRET = "an-old-secret-of-22-by"

EXAMPLE = """\
secrets: ["${STICKY_SECRET}"]            # oldest → newest
trusted_proxies: ["127.0.0.0/8"]
pools:
  shop:
    backends:
      - http://127.0.0.1:9001
      - {url: "http://127.0.0.1:9002", id: b, weight: 3, max_requests: 100, drain: false}
    balancer: round_robin
    affinity:
      cookie: {name: shop, same_site: lax, idle_timeout: 30m, absolute_timeout: 12h}
      on_lost: rebalance
      announce: false
    retry: {attempts: 2, replay_limit: 64KiB, on_status: []}
    timeouts: {connect: 5s, response: 60s, idle: null}
    limits: {queue: 100, queue_timeout: 5s, max_body: null}
    websocket: {max_message: 16MiB, ping_interval: 20s, ping_timeout: 20s, close_timeout: 10s}
routes:
  - {path: /, pool: shop}
"""

ONE = "pools: {shop: {backends: [http://a:1]%s}}"


def problems(text: str, environ: Mapping[str, str] | None = None, workers: int = 1) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, environ=environ or {}, workers=workers)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem).removeprefix("gateway.yaml:") for problem in caught.value.problems]


def in_pool(text: str) -> Config:
    return parse(ONE % f", {text}", environ={})


# What it builds


def test_the_contracts_example() -> None:
    config = parse(EXAMPLE, environ={"STICKY_SECRET": SECRET})
    gateway = config.build()
    assert config.summary == "1 pool, 2 backends, 1 route"
    assert repr(config) == "<Config gateway.yaml [1 pool, 2 backends, 1 route]>"
    assert gateway.trusted_proxies.networks == ("127.0.0.0/8",)
    assert not gateway.forwarded
    (route,) = gateway.routes
    shop = route.pool
    assert shop is not None
    assert route.path == "/"
    assert [(b.id, b.url, b.weight, b.max_requests) for b in shop.backends] == [
        ("127.0.0.1:9001", "http://127.0.0.1:9001", 1, None),
        ("b", "http://127.0.0.1:9002", 3, 100),
    ]
    assert isinstance(shop.balancer, RoundRobin)
    assert isinstance(shop.affinity, SignedCookie)
    assert shop.affinity.cookie_name(shop) == "shop"
    assert shop.affinity.idle_timeout == 1800
    assert shop.affinity.absolute_timeout == 43200
    assert (shop.retry, shop.timeouts, shop.limits) == (Retry(), Timeouts(), Limits())
    assert shop.websocket == WebSocketOptions()


def test_the_least_that_works() -> None:
    config = parse(ONE % "", environ={})
    (route,) = config.build().routes
    assert route.pool is not None
    assert (route.path, route.pool.name, route.pool.affinity) == ("/", "shop", None)


def test_affinity_in_the_words_of_gateway_api() -> None:
    block = "type: Cookie, absoluteTimeout: 12h, idleTimeout: 30m, cookie: {name: id}"
    config = in_pool(f"affinity: {{session_persistence: {{{block}}}, on_lost: reject}}")
    affinity = config.make_pools()["shop"].affinity
    assert isinstance(affinity, SignedCookie)
    assert (affinity.name, affinity.idle_timeout, affinity.absolute_timeout) == ("id", 1800, 43200)
    assert (affinity.on_lost, affinity.announce) == ("reject", False)
    assert config.needs_secret


def test_everything_a_pool_takes() -> None:
    text = """\
secrets: a-single-secret-of-27-bytes
forwarded: true
pools:
  shop:
    backends: ["http+unix:///run/app.sock", {url: https://b, drain: true}]
    affinity:
      cookie: {path: /x, domain: example.org, secure: true, http_only: false, same_site: null,
               max_age: 1d, forward: true, private: false}
      on_lost: reject
      announce: true
    retry: {attempts: 1, replay_limit: 1MiB, on_status: [502], budget_ratio: 0.5, budget_min: 1}
    timeouts: {connect: 250ms, response: 1.5, idle: 1m, keep_alive: 0}
    limits: {queue: 0, queue_timeout: 2, max_body: 10MiB}
    websocket: {max_message: 1MiB, ping_interval: null, ping_timeout: 5, close_timeout: 1s}
    tls: {server_name: b.example.org, verify: false}
    host: backend
  other: {backends: [http://c]}
routes:
  - {path: /a, pool: shop, host: "*.example.org", methods: [get], headers: {x-a: b},
     strip_prefix: true}
  - {pool: other}
"""
    gateway = parse(text, environ={}).build()
    first, second = gateway.routes
    shop = first.pool
    assert gateway.forwarded
    assert shop is not None
    assert second.pool is not None
    assert second.pool.name == "other"
    assert (first.host, first.strip_prefix) == ("*.example.org", True)
    assert set(first.methods or ()) == {"GET"}
    assert first.headers == ((b"x-a", b"b"),)
    assert shop["b:443"].intent is Intent.DRAINING
    assert shop.retry == Retry(
        attempts=1, replay_limit=1 << 20, on_status={502}, budget_ratio=0.5, budget_min=1
    )
    assert shop.timeouts == Timeouts(connect=0.25, response=1.5, idle=60, keep_alive=0)
    assert shop.limits == Limits(queue=0, queue_timeout=2, max_body=10 << 20)
    assert shop.websocket == WebSocketOptions(
        max_message=1 << 20, ping_interval=None, ping_timeout=5, close_timeout=1
    )
    assert shop.tls is not None
    assert (shop.tls.server_name, shop.tls.verify) == ("b.example.org", False)
    assert shop.host == "backend"
    assert shop.visitors.announces
    assert not shop.visitors.makes_private
    headers = shop.visitors.issue(shop.visitors.resolve(RequestInfo()), shop.backends[0])
    assert headers[0][1].partition(b";")[2] == (
        b" Path=/x; Domain=example.org; Max-Age=86400; Secure"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("round_robin", RoundRobin),
        ("random", Random),
        ("least_requests", LeastRequests),
        ("two_choices", TwoChoices),
        ("least_time", LeastTime),
        ("consistent_hash", ConsistentHash),
    ],
)
def test_balancers(text: str, kind: type) -> None:
    (pool,) = in_pool(f"balancer: {text}").make_pools().values()
    assert type(pool.balancer) is kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("client: true", "client_key()"),
        ("client", "client_key()"),
        ("path", "path_key()"),
        ("header: x-user", "header_key('x-user')"),
        ("cookie: session", "cookie_key('session')"),
        ("query: user", "query_key('user')"),
    ],
)
def test_consistent_hash_keys(text: str, expected: str) -> None:
    (pool,) = in_pool(f"balancer: {{consistent_hash: {{{text}}}}}").make_pools().values()
    assert repr(pool.balancer) == f"ConsistentHash(key={expected})"


def test_health_policies() -> None:
    (pool,) = (
        in_pool(
            "health_check: {path: /healthz, headers: {x-probe: a}, host: shop, expect: 204, "
            "contains: fine, interval: 500ms, down_interval: 1m, jitter: 0, timeout: 1s, rise: 1, "
            "fall: 2, initial: unhealthy, drain_on_404: true}, ejection: {failures: null, "
            "failure_share: 0.2, min_requests: 5, window: 1m, duration: 1m, max_duration: 1h, "
            "max_share: 1, statuses: [500, 503]}, slow_start: 1m, panic: all, drain_header: true"
        )
        .make_pools()
        .values()
    )
    assert pool.health_check == HealthCheck(
        path="/healthz",
        headers={"x-probe": "a"},
        host="shop",
        expect="204",
        contains="fine",
        interval=0.5,
        down_interval=60,
        jitter=0,
        timeout=1,
        rise=1,
        fall=2,
        initial="unhealthy",
        drain_on_404=True,
    )
    assert pool.ejection == Ejection(
        failures=None,
        failure_share=0.2,
        min_requests=5,
        window=60,
        duration=60,
        max_duration=3600,
        max_share=1,
        statuses=[500, 503],
    )
    assert (pool.slow_start, pool.panic, pool.drain_header) == (60, "all", True)
    (pool,) = in_pool("health_check: {tcp: true}").make_pools().values()
    assert pool.health_check == HealthCheck(tcp=True)


def test_health_policies_that_are_left_out() -> None:
    (pool,) = in_pool("host: pass").make_pools().values()
    assert (pool.health_check, pool.ejection, pool.slow_start) == (None, Ejection(), 10)
    assert (pool.panic, pool.drain_header) == ("none", False)


def test_priorities() -> None:
    text = "pools: {shop: {backends: [http://a, {url: 'http://b', priority: 2}]}}"
    (pool,) = parse(text).make_pools().values()
    assert [backend.priority for backend in pool.backends] == [0, 2]


def test_a_reload_keeps_health() -> None:
    text = "pools: {{shop: {{backends: [http://a, http://b], health_check: {}}}}}"
    first, second, third = (parse(text.format(value)) for value in ("{}", "{fall: 5}", "null"))
    gateway = first.build()
    (pool,) = gateway.pools
    pool.begin_checks()
    pool.observe_check(pool["a:80"], CheckResult(False, "status 503"))
    second.apply(gateway, first)
    assert pool.health_check == HealthCheck(fall=5)
    assert [state.health for state in pool.states] == [Health.UNHEALTHY, Health.UNKNOWN]
    third.apply(gateway, second)
    assert pool.health_check is None


def test_null_switches_a_policy_off() -> None:
    config = in_pool(
        "retry: null, timeouts: null, affinity: null, tls: null, health_check: null, "
        "ejection: null, slow_start: null, discovery: null"
    )
    (pool,) = config.make_pools().values()
    assert pool.retry.attempts == 0
    assert pool.timeouts == Timeouts(connect=None, response=None, idle=None)
    assert pool.affinity is None
    assert (pool.health_check, pool.ejection, pool.slow_start) == (None, None, None)
    assert pool.tls is None


@pytest.mark.parametrize(
    ("section", "api"),
    [
        pytest.param(CookieSection, SignedCookie, id="cookie"),
        pytest.param(RetrySection, Retry, id="retry"),
        pytest.param(TimeoutsSection, Timeouts, id="timeouts"),
        pytest.param(LimitsSection, Limits, id="limits"),
        pytest.param(WebSocketSection, WebSocketOptions, id="websocket"),
        pytest.param(EjectionSection, Ejection, id="ejection"),
        pytest.param(HealthCheckSection, HealthCheck, id="health_check"),
    ],
)
def test_defaults_are_those_of_the_python_api(section: Any, api: Any) -> None:
    assert_defaults(section, api)
    assert not any(field.is_required() for field in section.model_fields.values())


# Variables


@pytest.mark.parametrize(
    ("value", "environ", "expected"),
    [
        pytest.param("${A}", {"A": "x"}, "x", id="plain"),
        pytest.param("a${A}b${B}", {"A": "1", "B": "2"}, "a1b2", id="several"),
        pytest.param("${A:-y}", {}, "y", id="default"),
        pytest.param("${A:-y}", {"A": ""}, "y", id="default for an empty one"),
        pytest.param("${A:-y}", {"A": "x"}, "x", id="default not needed"),
        pytest.param("$${A}", {"A": "x"}, "${A}", id="escaped"),
        pytest.param("$A $$", {"A": "x"}, "$A $$", id="other dollars"),
    ],
)
def test_variables(value: str, environ: dict[str, str], expected: str) -> None:
    text = f'pools: {{shop: {{backends: [{{url: "http://a", id: "{value}"}}]}}}}'
    config = parse(text, environ=environ)
    assert config.document.pools["shop"].backends[0].id == expected


def test_variables_in_numbers_and_words() -> None:
    config = parse(
        ONE.replace("http://a:1", '{url: http://a, max_requests: "${MAX}", drain: "${DRAIN}"}')
        % ", timeouts: {connect: '${WAIT:-2s}'}, limits: {max_body: '${SIZE}'}",
        environ={"MAX": "7", "DRAIN": "true", "SIZE": "1KiB"},
    )
    (pool,) = config.build().pools
    assert pool.backends[0].max_requests == 7
    assert pool.states[0].intent is Intent.DRAINING
    assert (pool.timeouts.connect, pool.limits.max_body) == (2, 1024)


# Units


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("30m", 1800),
        ("12h", 43200),
        ("1d", 86400),
        ("2", 2),
        ("1.5s", 1.5),
        ("1.5", 1.5),
        ("5 s", 5),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds
    assert not isinstance(value, str) or re.match(DURATION_PATTERN, value)


@pytest.mark.parametrize(
    ("value", "size"),
    [("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), (1000, 1000), ("1000", 1000)],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size
    assert not isinstance(value, str) or re.match(SIZE_PATTERN, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5 seconds", "'5 seconds' has an unknown unit; write 5s"),
        ("30min", "'30min' has an unknown unit; write 30m"),
        ("2w", "'2w' has an unknown unit; the units are ms, s, m, h or d"),
        ("soon", "must be a duration such as 250ms, 5s, 30m, 12h or 1d"),
        (True, "must be a duration such as 250ms, 5s, 30m, 12h or 1d"),
        ("9" * 5000, "must be a duration such as 250ms, 5s, 30m, 12h or 1d"),
        (float("inf"), "must be a duration such as 250ms, 5s, 30m, 12h or 1d"),
    ],
)
def test_wrong_durations(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("64KB", "'64KB' has an unknown unit; write 64KiB"),
        ("1g", "'1g' has an unknown unit; write 1GiB"),
        ("64 bytes", "'64 bytes' has an unknown unit; write 64"),
        ("1TB", "'1TB' has an unknown unit; the units are KiB, MiB or GiB"),
        ("1.5MiB", "must be a size such as 65536, 64KiB, 10MiB or 1GiB, a whole number"),
        (1.5, "must be a size such as 65536, 64KiB, 10MiB or 1GiB, a whole number"),
    ],
)
def test_wrong_sizes(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(value)
    assert str(caught.value) == message


# Mistakes of form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "1: the file is empty: it must have the key 'pools'", id="empty"),
        pytest.param("# x\n", "1: the file is empty: it must have the key 'pools'", id="comment"),
        pytest.param("[1]", "1: must be a mapping with the key 'pools'", id="a list"),
        pytest.param("a:\n\tb: 1", "2: not valid YAML: a tab, where only spaces indent", id="tab"),
        pytest.param(
            "a: 1\nb: c: d", "2: not valid YAML: mapping values are not allowed here", id="colon"
        ),
        pytest.param(
            "a: [1\nb: 2",
            "2: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
            id="bracket",
        ),
        pytest.param("a: b\0", "1: not valid YAML: a control character", id="control"),
        pytest.param("a: *b", "1: not valid YAML: found undefined alias 'b'", id="alias"),
        pytest.param(
            "a: 1\n---\nb: 2",
            "2: not valid YAML: expected a single document in the stream but found another "
            "document",
            id="two documents",
        ),
    ],
)
def test_not_yaml(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_keys_given_twice() -> None:
    text = ONE % "" + "\nroutes: [{pool: shop}]\nroutes: [{pool: shop}]"
    assert problems(text) == ["3: routes: the key is there twice, see line 2"]


def test_words_that_yaml_takes_for_something_else() -> None:
    """`on` is a name here, and a date is text."""
    config = parse("pools: {on: {backends: [{url: http://a, id: 2024-01-01}]}}", environ={})
    assert config.make_pools()["on"].backends[0].id == "2024-01-01"


def test_merge_keys() -> None:
    text = """\
pools:
  a: &a {backends: [http://a], limits: {queue: 1}, host: backend}
  b: {<<: *a, backends: [http://b], host: pass}
routes: [{path: /a, pool: a}, {path: /b, pool: b}]
"""
    pools = parse(text, environ={}).make_pools()
    assert (pools["b"].backends[0].id, pools["b"].host) == ("b:80", "pass")
    assert pools["b"].limits.queue == 1


def test_an_alias_of_itself() -> None:
    assert "1: pools.x[0]: an alias refers to itself" in problems("pools: {x: &x [*x]}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("!!int abc", "is not a whole number that can be used", id="int"),
        pytest.param("!!int ''", "is not a whole number that can be used", id="empty int"),
        pytest.param("!!int 1:30", "is not a whole number that can be used", id="base 60"),
        pytest.param("!!bool maybe", "is not true or false", id="bool"),
        pytest.param("!!float x", "is not a number that can be used", id="float"),
        pytest.param("9" * 5000, "is not a whole number that can be used", id="5000 digits"),
        pytest.param("0x" + "f" * 5000, "is too large a number", id="5000 hex digits"),
        pytest.param("!x {}", "unknown tag '!x'", id="tagged mapping"),
        pytest.param("!!set {}", "unknown tag 'tag:yaml.org,2002:set'", id="set"),
        pytest.param("!!omap []", "unknown tag 'tag:yaml.org,2002:omap'", id="omap"),
    ],
)
def test_values_that_yaml_cannot_read(value: str, message: str) -> None:
    assert problems(ONE % f",\n  host: {value}")[0] == f"2: pools.shop.host: {message}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("[" * 900 + "]" * 900, "nested too deeply", id="900 brackets"),
        pytest.param("[" * 60 + "]" * 60, "nested too deeply", id="60 brackets"),
        pytest.param(
            '"\\UFFFFFFFF"', "not valid YAML: an escape that is no character", id="escape"
        ),
        pytest.param(
            "[&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "
            + ", ".join(
                f"&{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in pairwise("abcdefgh")
            )
            + "]",
            "too many values",
            id="alias bomb",
        ),
    ],
)
def test_a_file_that_is_too_much(value: str, message: str) -> None:
    assert problems(ONE % f", host: {value}") == [f"1: {message}"]


def test_there_are_no_numbers_of_base_60() -> None:
    text = ONE % ", affinity: {cookie: {idle_timeout: 1:30}}"
    (problem,) = problems(text)
    assert "affinity.cookie.idle_timeout: must be a duration such as" in problem


def test_files_of_certificates(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.cert_file, authority.key_file
    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        load_pem_private_key(key.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        )
    )
    assert wrong_chain(cert, key) is None
    for certfile, keyfile, expected in (
        ("nope", key, (False, "'nope': No such file or directory")),
        (key, key, (False, f"'{key}': there is no certificate in PEM form in it")),
        (cert, "nope", (True, "'nope': No such file or directory")),
        (cert, cert, (True, f"'{cert}': there is no key in PEM form in it")),
        (cert, locked, (True, f"'{locked}': the key is encrypted")),
        (
            cert,
            other,
            (True, f"'{other}': the key does not belong to the certificate in '{cert}'"),
        ),
    ):
        assert wrong_chain(certfile, keyfile) == expected
    text = ONE % f", tls: {{client_cert: '{cert}', client_key: nope}}"
    assert problems(text) == ["1: pools.shop.tls.client_key: 'nope': No such file or directory"]


def test_an_unknown_tag() -> None:
    text = ONE % ", host: !env pass"
    assert problems(text) == ["1: pools.shop.host: unknown tag '!env'"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${NOPE}", "environment variable NOPE is not set and has no default"),
        ("${A-b}", "'${' begins a variable: write ${NAME}, ${NAME:-default} or $${"),
        ("${A", "'${' begins a variable: write ${NAME}, ${NAME:-default} or $${"),
    ],
)
def test_wrong_variables(value: str, message: str) -> None:
    text = ONE % f'\n  , host: "{value}"\n  , retry: {{attempts: -1}}'
    assert problems(text) == [
        f"2: pools.shop.host: {message}",
        "3: pools.shop.retry.attempts: must be an integer of at least 0, got -1",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "x.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: is not text in UTF-8"


# Mistakes of content


NAMES = "round_robin, random, least_requests, two_choices, least_time, consistent_hash"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("balancer: rr", f"balancer: unknown balancer 'rr'; one of {NAMES}"),
        ("balancer: randon", "balancer: unknown balancer 'randon'; did you mean 'random'?"),
        ("balancer: {random: {}}", "balancer: random takes no options: write 'balancer: random'"),
        ("balancer: 5", f"balancer: must be one of {NAMES}, or a mapping"),
        (
            "balancer: {consistent_hash: {header: a, client}}",
            "balancer.consistent_hash: takes exactly one of client, header, cookie, query, path",
        ),
        (
            "balancer: {consistent_hash: {haeder: a}}",
            "balancer.consistent_hash.haeder: unknown key; did you mean 'header'?",
        ),
        (
            "balancer: {consistent_hash: {header: 'a b'}}",
            "balancer.consistent_hash.header: must be an HTTP token, got 'a b'",
        ),
        ("balancer: {consistent_hash: {client: 5}}",
         "balancer.consistent_hash.client: must be true"),
        ("retrys: {}", "retrys: unknown key; did you mean 'retry'?"),
        ("host: pas", "host: unknown value 'pas'; did you mean 'pass'?"),
        ("host: 5", "host: must be one of pass, backend, got a number"),
        (
            "websocket: {max_message: 0}",
            "websocket.max_message: must be a positive integer or null, got 0",
        ),
        ("limits: null", "limits: must be a mapping such as {}, got null"),
        ("limits: 5", "limits: must be a mapping such as {}, got a number"),
        ("limits: {queue: 1.5}", "limits.queue: must be a whole number, got 1.5"),
        ("limits: {queue: x}", "limits.queue: must be a whole number, got text"),
        ("limits: {queue: true}", "limits.queue: must be a number, got true or false"),
        (
            "limits: {queue_timeout: 0}",
            "limits.queue_timeout: must be a positive number of seconds, got 0.0",
        ),
        (
            "timeouts: {connect: -5s}",
            "timeouts.connect: must be a positive number of seconds or null, got -5.0",
        ),
        ("timeouts: {idel: 5s}", "timeouts.idel: unknown key; did you mean 'idle'?"),
        (
            "retry: {on_status: [200]}",
            "retry.on_status: must hold integers from 400 to 599, got 200",
        ),
        ("retry: {on_status: 502}", "retry.on_status: must be a list, got a number"),
        ("tls: {client_key: x}", "tls.client_key: 'x' needs a client_cert"),
        (
            "tls: {ca_file: /nowhere}",
            "tls.ca_file: '/nowhere': No such file or directory",
        ),
        ("health_check: {path: x}",
         "health_check.path: must begin with / and be printable ASCII, got 'x'"),
        ("health_check: {pth: /}", "health_check.pth: unknown key; did you mean 'path'?"),
        ("health_check: {expect: 20x}",
         "health_check.expect: must be statuses such as '200-399' or '200,204', got '20x'"),
        ("health_check: {expect: true}",
         "health_check.expect: must be text in quotes, got true or false"),
        ("health_check: {tcp: true, path: /x}",
         "health_check.path: '/x' is pointless with tcp=true"),
        ("health_check: {interval: 5 seconds}",
         "health_check.interval: '5 seconds' has an unknown unit; write 5s"),
        ("health_check: true", "health_check: must be a mapping such as {}, got true or false"),
        ("ejection: {max_share: 2}",
         "ejection.max_share: must be a number from 0 to 1, got 2.0"),
        ("ejection: {statuses: [404]}",
         "ejection.statuses: must hold integers from 500 to 599, got 404"),
        ("ejection: {duration: 1m, max_duration: 30s}",
         "ejection.max_duration: must be at least duration 60.0, got 30.0"),
        ("slow_start: 0", "slow_start: must be a positive number of seconds or null, got 0.0"),
        ("panic: some", "panic: unknown value 'some'; one of all, none"),
        ("affinity: {}", "affinity: takes either cookie, session_persistence or annotations"),
        ("affinity: {cookie: {}, session_persistence: {}}",
         "affinity: takes either cookie, session_persistence or annotations"),
        ("affinity: {cookie: null}", "affinity.cookie: must be a mapping such as {}, got null"),
        (
            "affinity: {cookie: {}, on_lost: rebalnce}",
            "affinity.on_lost: unknown value 'rebalnce'; did you mean 'rebalance'?",
        ),
        (
            "affinity: {cookie: {secure: false, same_site: none}}",
            "affinity.cookie.secure: secure=false: with same_site='none', browsers would refuse "
            "the cookie",
        ),
        ("affinity: {cookie: {secure: maybe}}",
         "affinity.cookie.secure: must be true, false or auto"),
        (
            "affinity: {cookie: {name: 'a;b'}}",
            "affinity.cookie.name: must be a token (RFC 6265 §4.1.1), got 'a;b'",
        ),
        (
            "affinity: {cookie: {max_age: 0.5}}",
            "affinity.cookie.max_age: must be a whole number of seconds, got 0.5",
        ),
        ("affinity: {cookie: {http_only: 5}}",
         "affinity.cookie.http_only: must be true or false, got a number"),
        ("affinity: {session_persistence: null}",
         "affinity.session_persistence: must be a mapping such as {}, got null"),
        ("affinity: {session_persistence: {absolutTimeout: 1h}}",
         "affinity.session_persistence.absolutTimeout: unknown key; "
         "did you mean 'absoluteTimeout'?"),
        ("affinity: {session_persistence: {idleTimeout: 1d}}",
         "affinity.session_persistence.idleTimeout: must be a duration such as 90s or 1h30m, "
         "got '1d'"),
        ("affinity: {session_persistence: {type: Header}}",
         "affinity.session_persistence.type: 'Header' is not part of this version: 'Cookie' is"),
        ("affinity: {session_persistence: {header: {name: x}}}",
         "affinity.session_persistence.header: affinity by header is not part of this version"),
        ("affinity: {session_persistence: {cookie: {lifetimeType: Permanent}}}",
         "affinity.session_persistence: lifetimeType 'Permanent' needs an absoluteTimeout"),
        ("affinity: {session_persistence: {cookie: {lifetimeType: permanent}}}",
         "affinity.session_persistence.cookie.lifetimeType: unknown value 'permanent'; "
         "did you mean 'Permanent'?"),
        ("affinity: {session_persistence: {cookie: {name: a b}}}",
         "affinity.session_persistence.cookie.name: must be a token (RFC 6265 §4.1.1), "
         "got 'a b'"),
        ("affinity: {session_persistence: {sessionName: a b}}",
         "affinity.session_persistence.sessionName: must be a token (RFC 6265 §4.1.1), "
         "got 'a b'"),
        ("affinity: {session_persistence: {sessionName: a, cookie: {name: b}}}",
         "affinity.session_persistence.sessionName: is the older word for cookie.name, "
         "which is 'b'"),
        ("affinity: {session_persistence: {cookieConfig: {name: a}}}",
         "affinity.session_persistence.cookieConfig.name: unknown key; one of lifetimeType"),
    ],
)  # fmt: skip
def test_mistakes_in_a_pool(text: str, expected: str) -> None:
    assert problems(ONE % f",\n  {text}") == [f"2: pools.shop.{expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ftp://a",
            "pools.shop.backends[0]: 'ftp://a' must begin with http://, https:// or http+unix://",
        ),
        (
            "{url: a:1}",
            "pools.shop.backends[0].url: 'a:1' must begin with http://, https:// or http+unix://",
        ),
        ("{id: a}", "pools.shop.backends[0].url: is missing"),
        ("{url: http://a, id: 5}",
         "pools.shop.backends[0].id: must be text in quotes, got a number"),
        (
            "{url: http://a, weight: -1}",
            "pools.shop.backends[0].weight: must be a number of at least 0, got -1.0",
        ),
        (
            "{url: http://a, priority: -1}",
            "pools.shop.backends[0].priority: must be an integer of at least 0, got -1",
        ),
        (
            "{url: http://a, max_requests: 0}",
            "pools.shop.backends[0].max_requests: must be an integer of at least 1 or null, got 0",
        ),
        (
            "{url: http://a, wieght: 2}",
            "pools.shop.backends[0].wieght: unknown key; did you mean 'weight'?",
        ),
        ("5", "pools.shop.backends[0]: must be a URL or a mapping with the key 'url'"),
        (
            "{url: http://a, max_requests: 1.5}",
            "pools.shop.backends[0].max_requests: must be a whole number, got 1.5",
        ),
        ("", "pools.shop.backends: must not be empty"),
    ],
)  # fmt: skip
def test_mistakes_in_a_backend(text: str, expected: str) -> None:
    assert problems(f"pools: {{shop: {{backends: [{text}]}}}}") == [f"1: {expected}"]


def test_two_backends_of_one_id() -> None:
    text = """\
pools:
  shop:
    backends:
      - http://a
      - {url: "http://b", id: "a:80"}
      - ftp://c
"""
    assert problems(text) == [
        "5: pools.shop.backends[1]: two backends have the id 'a:80', see line 4",
        "6: pools.shop.backends[2]: 'ftp://c' must begin with http://, https:// or http+unix://",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{pool: shopp}", ".pool: there is no pool 'shopp'; did you mean 'shop'?"),
        ("{path: /}", ".pool: is missing"),
        ("{pool: null}", ".pool: must be text in quotes, got null"),
        ("{pool: shop, path: x}", ".path: must begin with '/', got 'x'"),
        (
            "{pool: shop, host: 'http://x'}",
            ".host: must be a name without scheme and port, or one such as '*.example.com', "
            "got 'http://x'",
        ),
        ("{pool: shop, methods: GET}", ".methods: must be a list, got text"),
        ("{pool: shop, methods: []}", ".methods: must be a list such as ['GET'], got []"),
        ("{pool: shop, headers: [x]}", ".headers: must be a mapping, got a list"),
        ("{pool: shop, header: {}}", ".header: unknown key; did you mean 'headers'?"),
        ("5", ": must be a mapping such as {}, got a number"),
    ],
)
def test_mistakes_in_a_route(text: str, expected: str) -> None:
    assert problems(ONE % "" + f"\nroutes: [{text}]") == [f"2: routes[0]{expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("poools: {}", "2: poools: unknown key; did you mean 'pools'?"),
        ("routes: []", "2: routes: must not be empty"),
        ("trusted_proxies: [x]",
         "2: trusted_proxies[0]: 'x' is neither an address, a network nor 'unix'"),
        ("trusted_proxies: 10.0.0.0/8", "2: trusted_proxies: must be a list, got text"),
        ("forwarded: 5", "2: forwarded: must be true or false, got a number"),
        ("admin: {token: x}", "2: admin.token: the operator page is not part of this version"),
        ("admin: {path: sticky}", "2: admin.path: must begin with / and not end with it, got "
         "'sticky'"),
    ],
)  # fmt: skip
def test_mistakes_at_the_top(text: str, expected: str) -> None:
    assert problems(ONE % "" + f"\n{text}") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("affinity: {cookie: {}, consistent_hash: {}}",
         "affinity.consistent_hash: affinity by hash is"),
        ("affinity: {cookie: {}, header: x}", "affinity.header: affinity by header is"),
        ("affinity: {cookie: {}, learned: {}}", "affinity.learned: learned affinity is"),
    ],
)  # fmt: skip
def test_what_is_not_there_yet_is_refused(text: str, expected: str) -> None:
    assert problems(ONE % f", {text}") == [f"1: pools.shop.{expected} not part of this version"]


def test_pools_are_needed() -> None:
    assert problems("forwarded: true") == ["1: pools: is missing"]
    assert problems("pools: {}") == ["1: pools: must not be empty"]


def test_routes_are_needed_for_several_pools() -> None:
    assert problems("pools: {a: {backends: [http://a]}, b: {backends: [http://b]}}") == [
        "1: routes is missing: with several pools it says which paths go where"
    ]
    text = "pools: {a: {backends: [http://a]}, b: {backends: [http://b]}}\nroutes: null"
    assert problems(text) == [
        "2: routes: routes is missing: with several pools it says which paths go where"
    ]


def test_every_mistake_is_told() -> None:
    text = """\
secrets: [short]
pools:
  shop:
    backends: [http://a, ftp://b]
    balancer: rr
    retry: {attempts: x, budget_min: -1}
    timeouts: {connect: -1, response: later}
routes:
  - {path: x, pool: nope}
"""
    assert problems(text) == [
        "1: secrets[0]: must have at least 16 bytes, got 5",
        "4: pools.shop.backends[1]: 'ftp://b' must begin with http://, https:// or http+unix://",
        f"5: pools.shop.balancer: unknown balancer 'rr'; one of {NAMES}",
        "6: pools.shop.retry.attempts: must be a whole number, got text",
        "6: pools.shop.retry.budget_min: must be an integer of at least 0, got -1",
        "7: pools.shop.timeouts.connect: must be a positive number of seconds or null, got -1.0",
        "7: pools.shop.timeouts.response: must be a duration such as 250ms, 5s, 30m, 12h or 1d",
        "9: routes[0].path: must begin with '/', got 'x'",
        "9: routes[0].pool: there is no pool 'nope'; one of shop",
    ]


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        "secrets: [hush]",
        "secrets: {hush: 1}",
        "secrets: [[hush]]",
        "secrets: [hush\nx",
        "secrets: 'hush",
        "secrets: hush",
        "secrets: ['${HUSH}']",
        "secrets: [!hush hush]",
    ],
)
def test_a_secret_is_never_shown(text: str) -> None:
    found = problems(text, {"HUSH": "hush"})
    assert not [line for line in found if "hush" in line.replace("!hush", "").lower()]


def test_a_secret_is_not_in_the_repr() -> None:
    config = parse(EXAMPLE, environ={"STICKY_SECRET": SECRET})
    assert SECRET not in repr(config.document)
    assert SECRET not in str(config.document)


def test_a_made_up_secret_lives_as_long_as_the_process() -> None:
    text = ONE % ", affinity: {cookie: {}}"
    config = parse(text, environ={})
    assert config.needs_secret
    one, other = (parse(text, environ={}).make_pools()["shop"] for _ in range(2))
    cookie = one.visitors.issue(one.visitors.resolve(RequestInfo()), one.backends[0])[0][
        1
    ].partition(b";")[0]
    request = RequestInfo(headers=[(b"cookie", cookie)])
    assert other.visitors.resolve(request).backend_id == "a:1"


def test_several_workers_need_a_secret() -> None:
    text = ONE % ", affinity: {cookie: {}}"
    assert problems(text, workers=2) == [
        "1: secrets is missing: several workers must know the same ones"
    ]
    assert not parse(f"secrets: [{SECRET}]\n{text}", workers=2).needs_secret
    assert not parse(ONE % "", workers=2).needs_secret


# Quick mode


def test_quick_mode() -> None:
    config = quick(["http://a", "http://b"], {"STICKY_SECRET": SECRET})
    (pool,) = config.build().pools
    assert [backend.id for backend in pool.backends] == ["a:80", "b:80"]
    assert isinstance(pool.affinity, SignedCookie)
    assert not config.needs_secret
    assert quick(["http://a"], {}).needs_secret


def test_mistakes_in_quick_mode() -> None:
    with pytest.raises(ConfigError) as caught:
        quick(["a:1", "http://b", "http://b"], {"STICKY_SECRET": "short"})
    assert str(caught.value).splitlines() == [
        "STICKY_SECRET: must have at least 16 bytes, got 5",
        "--backend: 'a:1' must begin with http://, https:// or http+unix://",
        "--backend: two backends have the id 'b:80'",
    ]
    with pytest.raises(ConfigError) as caught:
        quick(["http://b"], {}, workers=2)
    assert str(caught.value) == (
        "STICKY_SECRET: is not set: several workers must know the same secret"
    )


# Another configuration for a gateway that runs


def pools_of(*backends: str, more: str = "") -> str:
    return f"secrets: [{SECRET}]\npools: {{shop: {{backends: [{', '.join(backends)}]{more}}}}}"


def test_apply_keeps_what_pools_know() -> None:
    before = parse(pools_of("http://a", "http://b", more=", affinity: {cookie: {}}"))
    gateway = before.build()
    (pool,) = gateway.pools
    pool.set_intent("a:80", Intent.DOWN)
    lease = pool.lease(pool["b:80"])
    cookie = pool.visitors.issue(pool.visitors.resolve(RequestInfo()), pool.backends[1])[0][
        1
    ].partition(b";")[0]

    after = parse(
        pools_of(
            "{url: http://a, weight: 5}",
            "http://b",
            "http://c",
            more=", affinity: {cookie: {idle_timeout: 1h}}, retry: null, balancer: random",
        )
        + "\nforwarded: true\ntrusted_proxies: [10.0.0.0/8]"
    )
    after.apply(gateway, before)
    assert gateway.pools == (pool,)
    assert [backend.id for backend in pool.backends] == ["a:80", "b:80", "c:80"]
    assert pool["a:80"].intent is Intent.DOWN
    assert pool["a:80"].weight == 5
    assert pool["b:80"].in_flight == 1
    assert pool.retry.attempts == 0
    assert isinstance(pool.balancer, Random)
    assert gateway.forwarded
    assert "10.1.1.1" in gateway.trusted_proxies
    assert pool.visitors.resolve(RequestInfo(headers=[(b"cookie", cookie)])).backend_id == "b:80"
    lease.release()


def test_apply_brings_pools_and_routes_in_and_out() -> None:
    first = parse(ONE % "", environ={})
    gateway = first.build()
    (kept,) = gateway.pools
    second = parse(
        "pools: {shop: {backends: [http://a:1]}, new: {backends: [http://n]}}\n"
        "routes: [{pool: new}, {path: /shop, pool: shop}]",
        environ={},
    )
    second.apply(gateway, first)
    assert [(route.path, route.pool and route.pool.name) for route in gateway.routes] == [
        ("/shop", "shop"),
        ("/", "new"),
    ]
    assert gateway.routes[0].pool is kept
    third = parse("pools: {new: {backends: [http://n]}}", environ={})
    third.apply(gateway, second)
    assert [pool.name for pool in gateway.pools] == ["new"]


@pytest.mark.parametrize(
    ("before", "by_hand", "after", "expected"),
    [
        pytest.param(False, None, True, Intent.DRAINING, id="drain"),
        pytest.param(True, None, False, Intent.ACTIVE, id="undrain"),
        pytest.param(False, Intent.DRAINING, False, Intent.DRAINING, id="drained by hand"),
        pytest.param(True, Intent.ACTIVE, True, Intent.ACTIVE, id="undrained by hand"),
        pytest.param(True, Intent.DOWN, False, Intent.DOWN, id="taken down by hand"),
    ],
)
def test_apply_drains_what_the_file_says(
    before: bool, by_hand: Intent | None, after: bool, expected: Intent
) -> None:
    def text(drain: bool) -> str:
        return pools_of(f"{{url: http://a, drain: {str(drain).lower()}}}")

    first = parse(text(before))
    gateway = first.build()
    (pool,) = gateway.pools
    if by_hand is not None:
        pool.set_intent("a:80", by_hand)
    parse(text(after)).apply(gateway, first)
    assert pool["a:80"].intent is expected


@pytest.mark.parametrize(
    ("before", "after", "restarted"),
    [
        pytest.param("30s", "30s", False, id="said already"),
        pytest.param("30s", "40s", True, id="another deadline"),
        pytest.param("true", "30s", True, id="a deadline at last"),
    ],
)
def test_a_deadline_in_the_file_counts_from_when_it_was_said(
    before: str, after: str, restarted: bool
) -> None:
    first = parse(pools_of(f"{{url: http://a, drain: {before}}}"))
    gateway = first.build()
    (pool,) = gateway.pools
    until = pool["a:80"].drain_until
    parse(pools_of(f"{{url: http://a, drain: {after}}}")).apply(gateway, first)
    assert pool["a:80"].intent is Intent.DRAINING
    assert (pool["a:80"].drain_until != until) == restarted


def test_a_backend_whose_drain_has_ended_serves_again_when_the_file_says_so() -> None:
    first = parse(pools_of("{url: http://a, drain: 1ms}"))
    gateway = first.build()
    (pool,) = gateway.pools
    pool.end_drain(pool["a:80"])
    assert pool["a:80"].intent is Intent.DOWN
    parse(pools_of("{url: http://a, drain: 1ms}")).apply(gateway, first)
    assert pool["a:80"].intent is Intent.DOWN
    parse(pools_of("{url: http://a}")).apply(gateway, first)
    assert pool.states[0].takes_sessions


@pytest.mark.parametrize("value", ["soon", "-1s", "0", "0s", "1", "30", "[1]", "null"])
def test_a_drain_that_is_none(value: str) -> None:
    with pytest.raises(ConfigError, match=r"drain: must be true, false or a duration such as 30s"):
        parse(pools_of(f"{{url: http://a, drain: {value}}}"))


# The schema


def test_the_schema() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Document.model_fields)
    assert [kind["required"] for kind in schema["anyOf"]] == [["pools"], ["discovery"]]
    assert schema["additionalProperties"] is False
    sections = schema["$defs"]
    pool = sections["PoolSection"]["properties"]
    assert pool["backends"]["items"] == {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/BackendSection"}]
    }
    assert {"enum": NAMES.split(", "), "type": "string"} in pool["balancer"]["anyOf"]
    assert pool["balancer"]["default"] == "round_robin"
    assert pool["discovery"]["anyOf"][0] == {"$ref": "#/$defs/DiscoverySection"}
    connect = sections["TimeoutsSection"]["properties"]["connect"]
    assert connect["default"] == 5
    assert connect["description"]
    assert {"type": "string", "pattern": DURATION_PATTERN} in str_options(connect)
    replay_limit = sections["RetrySection"]["properties"]["replay_limit"]
    assert {"type": "string", "pattern": SIZE_PATTERN} in str_options(replay_limit)
    (of_secrets,) = (
        option for option in schema["properties"]["secrets"]["anyOf"] if option["type"] == "array"
    )
    assert of_secrets["minItems"] == 1
    session = sections["SessionPersistenceSection"]["properties"]
    assert {"pattern": GO_DURATION_PATTERN, "type": "string"} in session["idleTimeout"]["anyOf"]
    assert sections["AffinitySection"]["oneOf"] == [
        {"required": ["cookie"]},
        {"required": ["session_persistence"]},
        {"required": ["annotations"]},
    ]
    for name, section in sections.items():
        assert section["additionalProperties"] is False, name


def str_options(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, those within alternatives too."""
    found: list[dict[str, Any]] = []
    for option in schema.get("anyOf", ()):
        found += str_options(option) if "anyOf" in option else [option]
    return found


def test_every_key_has_a_description() -> None:
    sections = json_schema()["$defs"]
    without = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, value in section["properties"].items()
        if "description" not in value and "$ref" not in value and value.get("type") != "null"
    ]
    assert without == []
