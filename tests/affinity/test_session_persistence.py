from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.affinity import CookieSettings
from sticky_asgi.affinity.session_persistence import (
    DURATION_PATTERN,
    read_duration,
    read_session_persistence,
)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"type": "Cookie", "cookie": {"lifetimeType": "Session"}}, {}, id="defaults"),
        pytest.param({"type": None, "cookie": None, "absoluteTimeout": None}, {}, id="nulls"),
        pytest.param({"cookie": {"name": "id"}}, {"name": "id"}, id="name"),
        pytest.param({"sessionName": "id"}, {"name": "id"}, id="older-name"),
        pytest.param({"sessionName": "id", "cookie": {"name": "id"}}, {"name": "id"}, id="both"),
        pytest.param({"cookie": {"path": "/x"}}, {"path": "/x"}, id="path"),
        pytest.param({"idleTimeout": "1m30s"}, {"idle_timeout": 90}, id="idle"),
        pytest.param(
            {"absoluteTimeout": "12h"}, {"absolute_timeout": 43200}, id="session-has-no-max-age"
        ),
        pytest.param(
            {"absoluteTimeout": "12h", "cookie": {"lifetimeType": "Permanent"}},
            {"absolute_timeout": 43200, "max_age": 43200},
            id="permanent",
        ),
        pytest.param(
            {"absoluteTimeout": "1500ms", "cookieConfig": {"lifetimeType": "Permanent"}},
            {"absolute_timeout": 1.5, "max_age": 2},
            id="older-permanent-in-whole-seconds",
        ),
    ],
)
def test_what_it_comes_to(block: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_session_persistence(block) == CookieSettings(same_site="strict", **expected)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "Header"}, "type 'Header' is not part of this version"),
        ({"type": "cookie"}, "type must be 'Cookie' or 'Header', got 'cookie'"),
        ({"header": {"name": "x"}}, "header goes with type 'Header'"),
        (
            {"cookie": {"lifetimeType": "Permanent"}},
            "lifetimeType 'Permanent' needs an absoluteTimeout",
        ),
        ({"cookie": {"lifetimeType": "Forever"}}, "cookie.lifetimeType must be 'Session' or"),
        ({"absolutTimeout": "1h"}, "an unknown key; did you mean 'absoluteTimeout'?"),
        ({"cookie": {"domain": "x"}}, "'cookie.domain' is an unknown key; one of name, path"),
        ({"cookieConfig": {"name": "x"}}, "'cookieConfig.name' is an unknown key"),
        ({"cookie": {}, "cookieConfig": {}}, "cookieConfig is the older word for cookie"),
        ({"cookie": "id"}, "cookie must be a mapping, got 'id'"),
        ({"cookie": []}, "cookie must be a mapping, got list"),
        ({"sessionName": "a", "cookie": {"name": "b"}}, "sessionName is the older word"),
        ({"sessionName": 5}, "sessionName must be text, got 5"),
        ({"sessionName": "a b"}, "name must be a token"),
        ({"cookie": {"path": "x"}}, "path must begin with '/'"),
        ({"absoluteTimeout": "1d"}, "absoluteTimeout must be a duration such as"),
        ({"absoluteTimeout": 3600}, "absoluteTimeout must be a duration such as"),
        ({"idleTimeout": "0s"}, "idleTimeout must be longer than 0s"),
    ],
)
def test_what_does_not_fit(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_session_persistence(block)


def test_a_block_is_a_mapping() -> None:
    with pytest.raises(ValueError, match="sessionPersistence must be a mapping"):
        read_session_persistence([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("1h30m", 5400), ("90s", 90), ("250ms", 0.25), ("1m1m", 120), ("1s500ms", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration("idleTimeout", text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-1s", "1d", "123456s", "1h1h1h1h1h", "1h\n"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="idleTimeout must be a duration"):
        read_duration("idleTimeout", text)


@given(st.from_regex(DURATION_PATTERN.replace("$", r"\Z"), fullmatch=True))
def test_every_duration_of_the_api_is_one(text: str) -> None:
    if re.search("[1-9]", text):
        assert read_duration("idleTimeout", text) > 0
