"""What the annotations of a Service are read as. The usual is in docs/translation.md, whose tables
are tested by tests/test_translation.py; here is what is unusual.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.affinity import CookieSettings, SignedCookie
from sticky_asgi.discovery.kubernetes.annotations import (
    Reading,
    Remark,
    RouteHint,
    read_annotations,
)

SHORT = "ingress.kubernetes.io/"
LONG = "traefik.ingress.kubernetes.io/"
V2 = LONG + "service."
NGINX = "nginx.ingress.kubernetes.io/"
OWN = "sticky-asgi/"
OLD = "traefik.backend.loadbalancer."


def given_by(annotations: Mapping[str, str]) -> dict[str, Any] | None:
    """The cookie's settings, of annotations with which nothing is wrong."""
    reading = read_annotations(annotations)
    assert reading.warnings == ()
    return None if reading.affinity is None else reading.affinity.given()


def warned(annotations: Mapping[str, str], key: str, message: str) -> dict[str, Any] | None:
    """The same, of annotations with which one thing is wrong."""
    reading = read_annotations(annotations)
    (warning,) = reading.warnings
    assert (warning.key, warning.value) == (key, annotations[key])
    assert message in warning.message
    return None if reading.affinity is None else reading.affinity.given()


def test_a_service_that_says_nothing_is_not_sticky() -> None:
    assert read_annotations({}) == Reading()
    assert read_annotations({"kubectl.kubernetes.io/last-applied-configuration": "{}"}) == Reading()


def test_the_two_annotations_that_it_began_with() -> None:
    article = {LONG + "affinity": "true", LONG + "session-cookie-name": "traefik-cookie"}
    assert given_by(article) == {"name": "traefik-cookie"}
    assert given_by(article | {LONG + "affinity": "false"}) is None


# Booleans


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_go_takes_for_true(text: str) -> None:
    assert given_by({LONG + "affinity": text}) == {}
    assert given_by({OWN + "affinity": text}) == {}
    assert given_by({V2 + "sticky.cookie.secure": text}) == {"secure": True}


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_go_takes_for_false(text: str) -> None:
    assert given_by({LONG + "affinity": text}) is None
    assert given_by({V2 + "sticky.cookie.secure": text}) == {"secure": False}


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", " true", "cookie", "2"])
def test_what_go_takes_for_neither(text: str) -> None:
    assert warned({LONG + "affinity": text}, LONG + "affinity", "must be") is None


# Traefik 1.x


def test_the_short_prefix_comes_first() -> None:
    both = {SHORT + "affinity": "true", LONG + "affinity": "true"}
    assert given_by(both | {SHORT + "session-cookie-name": "a"}) == {"name": "a"}
    names = {SHORT + "session-cookie-name": "a", LONG + "session-cookie-name": "b"}
    message = "ingress.kubernetes.io/session-cookie-name says otherwise"
    assert warned(both | names, LONG + "session-cookie-name", message) == {"name": "a"}


def test_what_cannot_be_read_leaves_it_to_the_next() -> None:
    # Other controllers have a word of their own behind the short prefix.
    both = {SHORT + "affinity": "cookie", LONG + "affinity": "true"}
    assert warned(both, SHORT + "affinity", "must be") == {}


def test_the_oldest_words_come_last() -> None:
    new = {LONG + "affinity": "true", LONG + "session-cookie-name": "new"}
    old = {OLD + "stickiness": "true", OLD + "stickiness.cookieName": "old"}
    assert warned(new | old, OLD + "stickiness.cookieName", "comes first") == {"name": "new"}


def test_the_oldest_words_may_be_labels() -> None:
    labels = {OLD + "stickiness": "true", OLD + "stickiness.cookieName": "old", "app": "web"}
    assert read_annotations({}, labels=labels).affinity == CookieSettings(name="old")
    reading = read_annotations({OLD + "stickiness.cookieName": "new"}, labels=labels)
    assert reading.affinity == CookieSettings(name="new")
    assert read_annotations({}, labels={LONG + "affinity": "true"}) == Reading()


@pytest.mark.parametrize("text", [" TRUE ", "true"])
def test_the_very_oldest(text: str) -> None:
    assert warned({OLD + "sticky": text}, OLD + "sticky", "out of date") == {
        "name": "_TRAEFIK_BACKEND"
    }
    both = {OLD + "sticky": text, LONG + "affinity": "true"}
    assert warned(both, OLD + "sticky", "out of date") == {}


def test_what_else_traefik_1_reads() -> None:
    reading = read_annotations({LONG + "load-balancer-method": "drr", LONG + "affinity": "true"})
    assert reading.warnings == ()
    (note,) = reading.notes
    assert "balancer" in note.message
    assert (
        warned({LONG + "max-conn-amount": "10"}, LONG + "max-conn-amount", "max_requests") is None
    )


def test_slips_of_the_pen() -> None:
    slip = {LONG + "affinity": "true", LONG + "session-cooky-name": "x"}
    message = f"did you mean '{LONG}session-cookie-name'?"
    assert warned(slip, LONG + "session-cooky-name", message) == {}
    assert given_by({LONG + "router.entrypoints": "web", SHORT + "rewrite-target": "/"}) is None


# Traefik 2 and 3


def test_case_does_not_matter_behind_the_prefix() -> None:
    assert given_by({LONG + "SERVICE.Sticky.Cookie.SameSite": "None"}) == {"same_site": "none"}
    both = {V2 + "sticky.cookie.Name": "a", V2 + "sticky.cookie.name": "b"}
    assert warned(both, V2 + "sticky.cookie.name", "comes first") == {"name": "a"}


@pytest.mark.parametrize("switch", ["sticky", "sticky.cookie"])
def test_what_is_off_takes_everything_below_with_it(switch: str) -> None:
    on = {V2 + "sticky.cookie.name": "a", V2 + "sticky.cookie": "true"}
    assert given_by(on | {V2 + switch: "TRUE"}) == {"name": "a"}
    assert given_by(on | {V2 + switch: ""}) == {"name": "a"}
    assert given_by(on | {V2 + switch: "false"}) is None
    assert warned(on | {V2 + switch: "no"}, V2 + switch, "which means off") is None


def test_sticky_alone_is_no_cookie() -> None:
    assert given_by({V2 + "sticky": "true"}) is None


def test_a_child_that_cannot_be_read_switches_nothing_on() -> None:
    key = V2 + "sticky.cookie.maxage"
    assert warned({key: "1h"}, key, "whole number of seconds") is None
    assert given_by({V2 + "sticky.cookie.name": ""}) == {}


def test_only_what_is_lost_is_warned_of() -> None:
    assert given_by({V2 + "nativelb": "false", V2 + "nodeportlb": "0"}) is None
    assert warned({V2 + "nativelb": "maybe"}, V2 + "nativelb", 'must be "true"') is None


# ingress-nginx


def test_ingress_nginx_without_its_switch() -> None:
    key = NGINX + "session-cookie-name"
    assert warned(
        {key: "route"}, key, 'without nginx.ingress.kubernetes.io/affinity: "cookie"'
    ) is (None)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1h", "9" * 30])
def test_lifetimes_that_are_none(text: str) -> None:
    for name in ("max-age", "expires"):
        key = f"{NGINX}session-cookie-{name}"
        settings = warned({NGINX + "affinity": "cookie", key: text}, key, "ignored")
        assert settings == {"name": "INGRESSCOOKIE"}


def test_what_is_passed_over() -> None:
    annotations = {
        NGINX + "affinity": "cookie",
        NGINX + "affinity-mode": "balanced",
        NGINX + "affinity-canary-behavior": "legacy",
        NGINX + "proxy-body-size": "8m",
    }
    assert given_by(annotations) == {"name": "INGRESSCOOKIE"}
    notes = read_annotations(annotations).notes
    assert [note.key for note in notes] == [
        NGINX + "affinity-canary-behavior",
        NGINX + "affinity-mode",
    ]
    slip = {NGINX + "session-cookie-maxage": "5"}
    assert warned(slip, NGINX + "session-cookie-maxage", "did you mean") is None
    mode = {NGINX + "affinity-mode": "sticky"}
    assert warned(mode, NGINX + "affinity-mode", "balanced or persistent") is None


# Our own


def test_our_own_says_everything() -> None:
    annotations = {
        "cookie-name": "id",
        "cookie-path": "/app",
        "cookie-domain": "example.org",
        "cookie-secure": "true",
        "cookie-http-only": "false",
        "cookie-same-site": "none",
        "cookie-partitioned": "true",
        "cookie-max-age": "1d",
        "idle-timeout": "30m",
        "absolute-timeout": "12h",
        "on-lost": "reject",
    }
    expected = CookieSettings(
        name="id",
        path="/app",
        domain="example.org",
        secure=True,
        http_only=False,
        same_site="none",
        partitioned=True,
        max_age=86400,
        idle_timeout=1800,
        absolute_timeout=43200,
        on_lost="reject",
    )
    assert None not in (getattr(expected, name) for name in CookieSettings.__slots__)
    own = {OWN + name: text for name, text in annotations.items()}
    assert given_by(own) == expected.given()
    assert given_by(own | {OWN + "affinity": "false"}) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cookie-name", "a b", "must be a token"),
        ("cookie-name", "a\r\nSet-Cookie: b", "must be a token"),
        ("cookie-name", "a" * 1025, "longer than 1024 characters"),
        ("cookie-name", "", "must be a token"),
        ("cookie-path", "/a;b", "must begin with '/'"),
        ("cookie-domain", "a..b", "must be a host name"),
        ("cookie-secure", "always", "must be"),
        ("cookie-same-site", "Lax", "must be 'lax' or 'strict' or 'none'"),
        ("cookie-max-age", "1.5", "whole number of seconds"),
        ("idle-timeout", "0", "positive number of seconds"),
        ("idle-timeout", "5 min", "write 5m"),
        ("on-lost", "close", "must be 'rebalance' or 'reject'"),
        ("cookie-color", "red", "not known here"),
        ("idle-timout", "5m", "did you mean 'sticky-asgi/idle-timeout'?"),
        ("scheme", "h2c", "must be 'http' or 'https'"),
        ("path", "/a?b", "without the query"),
        ("path", "/a," * 16 + "/a", "more than 16"),
        ("host", "a:80", "without scheme and port"),
        ("session-persistence", "{", "must be JSON or YAML"),
        ("session-persistence", "[]", "must be JSON or YAML"),
        ("session-persistence", "cookie: &a {path: *a}", "must be JSON or YAML"),
        ("session-persistence", "cookie: {path: {x: {y: z}}}", "must be JSON or YAML"),
        ("session-persistence", "[" * 1000, "must be JSON or YAML"),
        ("session-persistence", "{" * 1000, "must be JSON or YAML"),
        ("session-persistence", "- " * 500, "must be JSON or YAML"),
        ("session-persistence", "type: Header", "not part of this version"),
        ("session-persistence", "cookie: {lifetimeType: Permanent}", "needs an absoluteTimeout"),
    ],
)
def test_a_bad_value_leaves_the_rest_in_force(name: str, text: str, message: str) -> None:
    annotations = {OWN + "affinity": "true", OWN + "cookie-partitioned": "true", OWN + name: text}
    assert warned(annotations, OWN + name, message) == {"partitioned": True}


def test_a_block_of_gateway_api() -> None:
    block = {"absoluteTimeout": "1h", "cookie": {"name": "id", "lifetimeType": "Permanent"}}
    key = OWN + "session-persistence"
    expected = {
        "name": "id",
        "same_site": "strict",
        "max_age": 3600,
        "absolute_timeout": 3600,
    }
    assert given_by({key: json.dumps(block)}) == expected
    assert given_by(
        {key: "absoluteTimeout: 1h\ncookie:\n  name: id\n  lifetimeType: Permanent"}
    ) == (expected)
    # Gateway API says nothing of SameSite, so everybody else may.
    other = {V2 + "sticky.cookie.samesite": "lax", key: json.dumps(block)}
    assert given_by(other) == expected | {"same_site": "lax"}
    mine = {OWN + "cookie-name": "mine", key: json.dumps(block)}
    assert warned(mine, key, "sticky-asgi/cookie-name says otherwise") == expected | {
        "name": "mine"
    }


def test_without_pyyaml_a_block_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    key = OWN + "session-persistence"
    assert given_by({key: "{}"}) == {"same_site": "strict"}
    assert warned({key: "type: Cookie"}, key, "PyYAML") is None
    # What it would take too long for, it is never asked to read.
    assert warned({key: "[" * 1000}, key, "must be JSON or YAML") is None


@pytest.mark.parametrize(
    ("annotations", "routes"),
    [
        pytest.param({"path": "/", "host": "a b"}, None, id="host"),
        pytest.param({"path": "/v1", "host": "a b"}, None, id="host, longer path"),
        pytest.param({"host": "a b"}, None, id="only a host"),
        pytest.param({"host": "a.test", "path": "v1"}, None, id="path of a host"),
        pytest.param({"host": "a.test", "path": "/" + "v" * 2000}, None, id="long path"),
        pytest.param({"path": "v1"}, (), id="only a path"),
    ],
)
def test_routes_that_might_be_more_than_was_meant(
    annotations: dict[str, str], routes: tuple[RouteHint, ...] | None
) -> None:
    reading = read_annotations({f"sticky-asgi/{key}": text for key, text in annotations.items()})
    assert reading.routes == routes
    assert len(reading.warnings) == 1


def test_routes() -> None:
    annotations = {
        OWN + "path": "/a, /b/, /a",
        OWN + "host": "x.example.org,*.example.org",
        OWN + "strip-prefix": "true",
    }
    assert read_annotations(annotations).routes == tuple(
        RouteHint(path=path, host=host, strip_prefix=True)
        for path in ("/a", "/b")
        for host in ("x.example.org", "*.example.org")
    )
    assert read_annotations({OWN + "strip-prefix": "true"}) == Reading()


# Several at once


def test_who_comes_first() -> None:
    names = {
        OWN + "cookie-name": "own",
        OWN + "session-persistence": '{"cookie": {"name": "gateway"}}',
        V2 + "sticky.cookie.name": "new",
        LONG + "session-cookie-name": "old",
        NGINX + "session-cookie-name": "nginx",
    }
    switches = {LONG + "affinity": "true", NGINX + "affinity": "cookie"}
    found = []
    while names:
        reading = read_annotations(names | switches)
        assert reading.affinity is not None
        assert [warning.key for warning in reading.warnings] == list(names)[1:]
        found.append(reading.affinity.name)
        del names[next(iter(names))]
    assert found == ["own", "gateway", "new", "old", "nginx"]


def test_settings_add_up() -> None:
    annotations = {
        OWN + "on-lost": "reject",
        V2 + "sticky.cookie.path": "/app",
        LONG + "affinity": "true",
        LONG + "session-http-only": "false",
    }
    assert given_by(annotations) == {"on_lost": "reject", "path": "/app", "http_only": False}


def test_off_comes_first_too() -> None:
    off = {OWN + "affinity": "false", LONG + "affinity": "true", LONG + "session-secure": "true"}
    assert warned(off, LONG + "affinity", "sticky-asgi/affinity says otherwise") is None


def test_who_wants_no_cookie_has_no_say_in_it() -> None:
    off = {LONG + "affinity": "false", LONG + "session-cookie-name": "old"}
    on = {V2 + "sticky.cookie": "true"}
    assert warned(off | on, LONG + "affinity", "sticky.cookie says otherwise") == {}


def test_a_name_that_cannot_be_leaves_it_to_the_next() -> None:
    annotations = {
        OWN + "cookie-name": "a b",
        LONG + "affinity": "true",
        LONG + "session-cookie-name": "c",
    }
    assert warned(annotations, OWN + "cookie-name", "must be a token") == {"name": "c"}


@pytest.mark.parametrize(
    ("annotations", "dropped", "kept"),
    [
        pytest.param(
            {"cookie-name": "__Host-a", "cookie-domain": "example.org"},
            "cookie-domain",
            {"name": "__Host-a"},
            id="host-with-a-domain",
        ),
        pytest.param(
            {"cookie-name": "__Host-a", "cookie-path": "/app"},
            "cookie-path",
            {"name": "__Host-a"},
            id="host-with-a-path",
        ),
        pytest.param(
            {"cookie-name": "__Secure-a", "cookie-secure": "false"},
            "cookie-secure",
            {"name": "__Secure-a"},
            id="secure-that-is-not",
        ),
        pytest.param(
            {"cookie-same-site": "none", "cookie-secure": "false"},
            "cookie-secure",
            {"same_site": "none"},
            id="none-that-is-not-secure",
        ),
        pytest.param(
            {"cookie-partitioned": "true", "cookie-secure": "false"},
            "cookie-secure",
            {"partitioned": True},
            id="partitioned-that-is-not-secure",
        ),
    ],
)
def test_what_browsers_would_refuse(
    annotations: dict[str, str], dropped: str, kept: dict[str, Any]
) -> None:
    own = {OWN + name: text for name, text in annotations.items()}
    assert warned(own, OWN + dropped, "ignored") == kept


# Garbage

KEYS = st.sampled_from(
    [
        *(LONG + name for name in ("affinity", "session-cookie-name", "session-secure", "x")),
        *(SHORT + name for name in ("affinity", "session-same-site", "session-http-only")),
        *(OLD + name for name in ("sticky", "stickiness", "stickiness.cookieName")),
        *(V2 + name for name in ("sticky", "sticky.cookie", "serversscheme", "nativelb", "", ".")),
        *(
            V2 + "sticky.cookie." + name
            for name in ("name", "secure", "samesite", "maxage", "path", "domain")
        ),
        *(
            NGINX + name
            for name in (
                "affinity",
                "affinity-mode",
                "session-cookie-name",
                "session-cookie-max-age",
            )
        ),
        *(
            OWN + name
            for name in (
                "",
                "affinity",
                "cookie-name",
                "cookie-path",
                "cookie-domain",
                "cookie-secure",
                "cookie-same-site",
                "cookie-partitioned",
                "cookie-max-age",
                "idle-timeout",
                "session-persistence",
                "path",
                "host",
                "strip-prefix",
                "a\nb",
            )
        ),
    ]
)
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=40),
    st.sampled_from(
        ["true", "false", "cookie", "none", "__Host-a", "/", "x.org", "0", "-1", "1e400", "nan"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["type", "cookie", "name", "path", "absoluteTimeout", "a\nb"]), inner
        ),
        max_leaves=6,
    ).map(json.dumps),
)


@given(st.dictionaries(KEYS | st.text(max_size=20), VALUES, max_size=8))
def test_nothing_in_a_service_is_an_error(annotations: dict[str, str]) -> None:
    reading = read_annotations(annotations, labels=annotations)
    assert reading == read_annotations(dict(reversed(annotations.items())), labels=annotations)
    if reading.affinity is not None:
        SignedCookie("-" * 16, **reading.affinity.given())
    for remark in (*reading.warnings, *reading.notes):
        assert annotations[remark.key] == remark.value
        assert str(remark).isprintable()


def test_an_api_server_that_lies() -> None:
    lies: Any = {LONG + "affinity": True, OWN + "idle-timeout": 5, None: "x", OWN + "host": ["a"]}
    assert read_annotations(lies, labels={OLD + "sticky": None}) == Reading()  # type: ignore[dict-item]


def test_no_service_fills_the_log() -> None:
    reading = read_annotations({f"{OWN}{number}": "x" for number in range(1000)})
    assert len(reading.warnings) == 50
    remark = Remark("a/b", "x\n" * 1000, "ignored")
    assert str(remark) == "a/b='" + "x\\n" * 40 + "…': ignored"
