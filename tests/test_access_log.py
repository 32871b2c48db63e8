"""The access log's two forms, and that nothing in a request can break out of its line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from sticky_asgi import (
    AffinityStatus,
    Backend,
    ConnectTimeout,
    Gateway,
    Pool,
    RequestFinished,
    SignedCookie,
)
from sticky_asgi.access_log import AccessLog, as_json, as_text
from tests.apps import CounterApp

EVENT = RequestFinished(
    method="GET",
    path="/x",
    client="127.0.0.1",
    pool="shop",
    backend="b",
    affinity=AffinityStatus.KEPT,
    attempts=1,
    status=200,
    error=None,
    duration=0.0015,
    time_to_first_byte=0.0012,
)

FAILED = replace(
    EVENT,
    client=None,
    backend=None,
    affinity=None,
    attempts=0,
    status=None,
    time_to_first_byte=None,
    error=ConnectTimeout("10.0.0.1 did not answer"),
)

ENDED = replace(EVENT, status=101, close_code=1001)

NASTY = [
    pytest.param('/a" 200 pool=x', id="quote"),
    pytest.param('/a\r\n127.0.0.1 "GET /" 200', id="line break"),
    pytest.param("/a\\", id="backslash"),
    pytest.param("/\x1b[31m\x00\x7f\x85", id="controls"),
    pytest.param("/\xe4\u2028\U0001f600", id="beyond ascii"),
]


@pytest.fixture
def logged() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it writes."""
    logger, stream = logging.getLogger("tests.access"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, stream
    logger.removeHandler(handler)


def test_text() -> None:
    assert as_text(EVENT) == (
        '127.0.0.1 "GET /x" 200 pool=shop backend=b affinity=kept attempts=1 ttfb=1.2ms total=1.5ms'
    )
    assert as_text(FAILED) == (
        '- "GET /x" - pool=shop backend=- affinity=- attempts=0 ttfb=- total=1.5ms '
        "error=ConnectTimeout"
    )
    assert as_text(ENDED) == as_text(EVENT).replace(" 200 ", " 101 ") + " close=1001"


def test_json() -> None:
    content = json.loads(as_json(EVENT))
    assert content.pop("time").endswith("+00:00")
    assert content == {
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/x",
        "status": 200,
        "pool": "shop",
        "backend": "b",
        "affinity": "kept",
        "attempts": 1,
        "ttfb_ms": 1.2,
        "total_ms": 1.5,
        "close_code": None,
        "error": None,
    }
    assert json.loads(as_json(ENDED))["close_code"] == 1001
    content = json.loads(as_json(FAILED))
    assert content["error"] == "ConnectTimeout"
    assert (content["client"], content["affinity"], content["ttfb_ms"]) == (None, None, None)


@pytest.mark.parametrize("value", NASTY)
def test_a_line_of_text_stays_one_line_of_the_same_fields(value: str) -> None:
    line = as_text(replace(EVENT, path=value, method=value, client=value, backend=value))
    assert line.isascii()
    assert line.isprintable()
    # Outside of quotes, the words are what they always are.
    bare, inside, previous = "", False, ""
    for char in line:
        if char == '"' and previous != "\\":
            inside = not inside
        elif not inside:
            bare += char
        previous = "" if previous == "\\" and char == "\\" else char
    assert not inside
    words = bare.split()
    assert words[-7:] == [
        "200", "pool=shop", words[-5], "affinity=kept", "attempts=1", "ttfb=1.2ms", "total=1.5ms",
    ]  # fmt: skip
    assert words[-5].startswith("backend=")
    assert len(words) in (7, 8)


@pytest.mark.parametrize("value", NASTY)
def test_a_line_of_json_stays_one_line(value: str) -> None:
    line = as_json(replace(EVENT, path=value, backend=value))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["path"] == value


def test_escapes() -> None:
    line = as_text(replace(EVENT, path='/"\\\n\xe4\u2028\U0001f600'))
    assert r'"GET /\"\\\x0a\xe4\u2028\U0001f600"' in line


def test_unknown_form() -> None:
    form: Any = "xml"
    with pytest.raises(ValueError, match="form must be 'text' or 'json', got 'xml'"):
        AccessLog(form)


def test_behind_a_gateway(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = logged
    affinity = SignedCookie("0123456789abcdef")
    pool = Pool("shop", [Backend(app=CounterApp("a"), id="a b")], affinity=affinity)
    gateway = Gateway({"/": pool}, listeners=[AccessLog(logger=logger)])
    with TestClient(gateway) as client:
        client.get("/x%20y")
        client.get("/")
    first, second = stream.getvalue().splitlines()
    assert '"GET /x%20y" 200 pool=shop backend="a b" affinity=new attempts=1 ttfb=' in first
    assert "affinity=kept" in second


def test_nothing_is_formatted_for_a_silent_logger(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = logged
    logger.setLevel(logging.WARNING)
    AccessLog("json", logger=logger).on_request(EVENT)
    assert stream.getvalue() == ""
