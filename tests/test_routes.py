"""Which route a request takes."""

from __future__ import annotations

from typing import Any

import pytest

from sticky_asgi import Pool, Route
from sticky_asgi.routes import RouteTable

POOL = Pool("shop", ["http://a:1"])
OTHER = Pool("other", ["http://b:1"])
THIRD = Pool("third", ["http://c:1"])


def scope(
    path: str = "/",
    *,
    host: str | None = "test",
    root_path: str = "",
    type: str = "http",
    method: str = "GET",
    headers: Any = (),
) -> dict[str, Any]:
    fields = [] if host is None else [(b"host", host.encode())]
    made: dict[str, Any] = {"type": type, "path": path, "root_path": root_path}
    made["headers"] = [*fields, *headers]
    if type == "http":
        made["method"] = method
    return made


def matches(route: Route, **options: Any) -> bool:
    return RouteTable([route]).match(scope(**options)) is route


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        pytest.param("/", "/", True, id="all-root"),
        pytest.param("/", "/x/y", True, id="all-below"),
        pytest.param("/", "*", True, id="all-options-asterisk"),
        pytest.param("/", "", True, id="all-empty"),
        pytest.param("/api", "/api", True, id="itself"),
        pytest.param("/api", "/api/", True, id="slash"),
        pytest.param("/api", "/api/x", True, id="below"),
        pytest.param("/api", "/apix", False, id="half-segment"),
        pytest.param("/api", "/ap", False, id="shorter"),
        pytest.param("/api", "/", False, id="root"),
        pytest.param("/api", "/API", False, id="case"),
        pytest.param("/api", "//api", False, id="double-slash"),
        pytest.param("/api/", "/api", True, id="trailing-slash-in-route"),
        pytest.param("/api/", "/apix", False, id="trailing-slash-half-segment"),
        pytest.param("/a b", "/a b/c", True, id="decoded"),
        pytest.param("/api/v1", "/api/v1/x", True, id="two-segments"),
        pytest.param("/api/v1", "/api/v10", False, id="two-segments-half"),
    ],
)
def test_whole_segments(prefix: str, path: str, expected: bool) -> None:
    assert matches(Route(POOL, path=prefix), path=path) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/", POOL, id="root"),
        pytest.param("/x", POOL, id="shortest"),
        pytest.param("/api/x", OTHER, id="longer"),
        pytest.param("/api/v1/x", THIRD, id="longest"),
        pytest.param("/api/local/x", None, id="none"),
        pytest.param("/api/v1x", OTHER, id="half-segment"),
    ],
)
def test_the_longest_prefix_wins(path: str, expected: Pool | None) -> None:
    pools = {"/": POOL, "/api/v1": THIRD, "/api": OTHER, "/api/local": None}
    for items in (pools.items(), reversed(pools.items())):
        route = RouteTable(dict(items)).match(scope(path))
        assert route is not None
        assert route.pool is expected


def test_no_route() -> None:
    assert RouteTable({"/api": POOL}).match(scope("/")) is None


def test_among_equal_paths_the_first_that_matches_wins() -> None:
    table = RouteTable([Route(OTHER, methods=["POST"]), Route(POOL), Route(THIRD)])
    posted, got = table.match(scope(method="POST")), table.match(scope(method="GET"))
    assert posted is not None
    assert got is not None
    assert (posted.pool, got.pool) == (OTHER, POOL)


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        pytest.param("/app/api/x", "/app", True, id="below"),
        pytest.param("/app/api", "/app/", True, id="root-with-slash"),
        pytest.param("/app/other", "/app", False, id="other-path"),
        pytest.param("/api/x", "/app", True, id="server-stripped-it"),
        pytest.param("/apple/api", "/app", False, id="half-segment"),
        pytest.param("/app/api", "", False, id="no-root"),
    ],
)
def test_below_a_root_path(path: str, root_path: str, expected: bool) -> None:
    assert matches(Route(POOL, path="/api"), path=path, root_path=root_path) is expected


@pytest.mark.parametrize(
    ("wanted", "host", "expected"),
    [
        pytest.param("a.test", "a.test", True, id="same"),
        pytest.param("a.test", "A.Test", True, id="case-of-request"),
        pytest.param("A.Test", "a.test", True, id="case-of-route"),
        pytest.param("a.test", "a.test:8000", True, id="port"),
        pytest.param("a.test", "a.test.", True, id="dot-of-request"),
        pytest.param("a.test", "a.test.:80", True, id="dot-and-port"),
        pytest.param("a.test.", "a.test", True, id="dot-of-route"),
        pytest.param("a.test", "b.test", False, id="other"),
        pytest.param("a.test", "x.a.test", False, id="below"),
        pytest.param("a.test", "", False, id="empty"),
        pytest.param("a.test", None, False, id="no-host"),
        pytest.param("*.a.test", "x.a.test", True, id="wildcard"),
        pytest.param("*.a.test", "x.y.a.test:80", True, id="wildcard-deep"),
        pytest.param("*.A.test", "X.a.TEST", True, id="wildcard-case"),
        pytest.param("*.a.test", "a.test", False, id="wildcard-itself"),
        pytest.param("*.a.test", "xa.test", False, id="wildcard-half-label"),
        pytest.param("[::1]", "[::1]", True, id="ipv6"),
        pytest.param("[::1]", "[::1]:8000", True, id="ipv6-port"),
        pytest.param("[FE80::A]", "[fe80::a]", True, id="ipv6-case"),
        pytest.param("[::1]", "[::2]:8000", False, id="ipv6-other"),
        pytest.param("127.0.0.1", "127.0.0.1:80", True, id="ipv4"),
    ],
)
def test_host(wanted: str, host: str | None, expected: bool) -> None:
    assert matches(Route(POOL, host=wanted), host=host) is expected


def test_methods() -> None:
    route = Route(POOL, methods=["post", "PUT"])
    assert matches(route, method="POST")
    assert matches(route, method="PUT")
    assert not matches(route, method="GET")
    assert not matches(route, type="websocket"), "a handshake is a GET"
    assert matches(Route(POOL, methods={"GET"}), type="websocket")


def test_headers() -> None:
    route = Route(POOL, headers={"X-Version": "2", "x-beta": "yes"})
    both = [(b"x-beta", b"yes"), (b"x-version", b"2")]
    assert matches(route, headers=both)
    assert matches(route, headers=[(b"x-version", b"1"), *both]), "one value of several"
    assert matches(route, headers=[list(pair) for pair in both]), "ASGI asks for no tuples"
    assert not matches(route, headers=both[:1])
    assert not matches(route, headers=[(b"x-beta", b"yes"), (b"x-version", b"22")])


def test_every_condition_counts() -> None:
    route = Route(POOL, path="/api", host="a.test", methods=["GET"], headers={"x": "1"})
    right: dict[str, Any] = {"path": "/api", "host": "a.test", "headers": [(b"x", b"1")]}
    assert matches(route, **right)
    wrongs: list[dict[str, Any]] = [
        {"path": "/"},
        {"host": "b.test"},
        {"method": "POST"},
        {"headers": []},
    ]
    for wrong in wrongs:
        assert not matches(route, **(right | wrong)), wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"path": "api"}, "path must begin with '/', got 'api'", id="path"),
        pytest.param({"path": ""}, "path must begin with '/', got ''", id="empty-path"),
        pytest.param({"host": ""}, "host must be a name .* got ''", id="empty-host"),
        pytest.param({"host": "*"}, r"host must .* got '\*'", id="any-host"),
        pytest.param({"host": "*."}, r"host must .* got '\*\.'", id="empty-wildcard"),
        pytest.param({"host": "*a.test"}, r"host must .* got '\*a.test'", id="half-wildcard"),
        pytest.param({"host": "a.*"}, r"host must .* got 'a\.\*'", id="wildcard-at-the-end"),
        pytest.param({"host": ".a.test"}, r"host must .* got '\.a.test'", id="dot"),
        pytest.param({"host": "a:80"}, "without scheme and port.* got 'a:80'", id="host-port"),
        pytest.param({"host": "http://a"}, "got 'http://a'", id="host-scheme"),
        pytest.param({"host": "[::1]:80"}, r"got '\[::1\]:80'", id="ipv6-port"),
        pytest.param({"methods": "GET"}, r"list such as \['GET'\], got 'GET'", id="one-method"),
        pytest.param({"methods": []}, r"list such as \['GET'\], got \[\]", id="no-method"),
        pytest.param({"methods": [""]}, "names such as 'GET', got ''", id="empty-method"),
        pytest.param({"methods": 5}, r"list such as \['GET'\], got 5", id="methods-number"),
        pytest.param({"methods": [5]}, "methods .* such as 'GET', got 5", id="method-number"),
        pytest.param({"methods": ["GET POST"]}, "methods .* got 'GET POST'", id="two-in-one"),
        pytest.param({"headers": {"": "x"}}, "headers must have names", id="empty-header"),
        pytest.param({"headers": {"x a": "x"}}, "names .* got 'x a'", id="header-with-blank"),
        pytest.param({"headers": {"x:": "x"}}, "names .* got 'x:'", id="header-with-colon"),
        pytest.param({"headers": {5: "x"}}, "names .* got 5", id="header-number"),
        pytest.param({"headers": {"x": "日"}}, "'x' must be Latin-1 .* got '日'", id="value"),
        pytest.param({"headers": {"x": "a\n"}}, "'x' must be Latin-1 .* got 'a", id="control"),
        pytest.param({"headers": {"x": " a"}}, "'x' .* blanks .* got ' a'", id="blank"),
        pytest.param(
            {"path": "/x?y=1"},
            r"^path is matched against the decoded path.* got '/x\?y=1', did you mean '/x'",
            id="query",
        ),
        pytest.param({"path": "/x#y"}, "decoded path.* did you mean '/x'", id="fragment"),
        pytest.param(
            {"path": "/a%2Fb"},
            "decoded path.* got '/a%2Fb', did you mean '/a/b'",
            id="escaped-path",
        ),
    ],
)
def test_bad_routes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Route(POOL, **options)


@pytest.mark.parametrize(
    ("pool", "options", "message"),
    [
        pytest.param("x", {}, "^pool must be Pool or None, got 'x'", id="pool"),
        pytest.param(POOL, {"path": None}, "^path must be str, got None", id="path"),
        pytest.param(POOL, {"host": 5}, "^host must be str or None, got 5", id="host"),
        pytest.param(POOL, {"headers": 5}, "^headers must be Mapping or None, got 5", id="headers"),
        pytest.param(
            POOL, {"headers": {"x": 5}}, "^headers: the value of 'x' must be str, got 5", id="value"
        ),
        pytest.param(
            POOL, {"strip_prefix": "no"}, "^strip_prefix must be bool, got 'no'", id="strip-prefix"
        ),
    ],
)
def test_types_refused(pool: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Route(pool, **options)


def test_unusual_routes_that_can_match() -> None:
    assert matches(Route(POOL, path="/100%"), path="/100%")
    assert matches(Route(POOL, headers={"x": ""}), headers=[(b"x", b"")])
    assert matches(Route(POOL, headers={"x": "é, ü"}), headers=[(b"x", b"\xe9, \xfc")])
    assert matches(Route(POOL, methods=["m-search"]), method="M-SEARCH")


@pytest.mark.parametrize(
    ("pools", "error", "message"),
    [
        pytest.param({}, ValueError, "at least one route", id="empty-mapping"),
        pytest.param([], ValueError, "at least one route", id="empty-list"),
        pytest.param(
            {"/": POOL, "/x": Pool("shop", [])},
            ValueError,
            "two pools have the name 'shop'",
            id="one-name",
        ),
        pytest.param(
            {"/x": POOL, "/x/": OTHER}, ValueError, "two pools have the path '/x'", id="one-path"
        ),
        pytest.param({"x": POOL}, ValueError, "path must begin with '/'", id="path"),
        pytest.param(
            {"/": "http://a"}, TypeError, "Pool objects or None, .*, got 'http://a'", id="url"
        ),
        pytest.param({5: POOL}, TypeError, "pools must map paths .* got the path 5", id="number"),
        pytest.param({"/": [POOL]}, TypeError, r"got \[<Pool shop", id="list-in-mapping"),
        pytest.param([POOL], TypeError, "list of Route, got <Pool shop", id="list-of-pools"),
        pytest.param(POOL, TypeError, "list of Route, got <Pool shop", id="pool"),
        pytest.param(Route(POOL), TypeError, "list of Route, got <Route", id="route"),
        pytest.param(None, TypeError, "got None", id="none"),
    ],
)
def test_bad_tables(pools: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RouteTable(pools)


def test_pools_are_listed_once() -> None:
    table = RouteTable({"/": POOL, "/a": OTHER, "/b": POOL, "/c": None})
    assert sorted(pool.name for pool in table.pools) == ["other", "shop"]


def test_repr() -> None:
    assert repr(Route(POOL)) == "<Route / → shop>"
    assert repr(Route(None, path="/local", host="A.test")) == "<Route a.test/local → app>"
