"""Identity, and what is known of a backend at run time."""

from __future__ import annotations

import math
import traceback
from typing import Any

import pytest

from sticky_asgi.backend import Backend, BackendState, Health, Intent

from .apps import hello

APP = hello()


@pytest.mark.parametrize(
    ("url", "id", "scheme", "host", "port", "authority"),
    [
        pytest.param("http://a:8000", "a:8000", "http", "a", 8000, "a:8000", id="port"),
        pytest.param("http://a", "a:80", "http", "a", 80, "a", id="http-default"),
        pytest.param("http://a:80/", "a:80", "http", "a", 80, "a", id="http-explicit"),
        pytest.param("https://a", "a:443", "https", "a", 443, "a", id="https-default"),
        pytest.param("https://a:80", "a:80", "https", "a", 80, "a:80", id="https-on-80"),
        pytest.param("HTTP://A.Test:1", "a.test:1", "http", "a.test", 1, "a.test:1", id="case"),
        pytest.param("http://[::1]:81", "[::1]:81", "http", "::1", 81, "[::1]:81", id="ipv6"),
        pytest.param("http://[::1]", "[::1]:80", "http", "::1", 80, "[::1]", id="ipv6-default"),
    ],
)
def test_url(url: str, id: str, scheme: str, host: str, port: int, authority: str) -> None:
    backend = Backend(url)
    assert (backend.url, backend.app, backend.uds) == (url, None, None)
    assert (backend.id, backend.scheme, backend.host, backend.port) == (id, scheme, host, port)
    assert backend.authority == authority


@pytest.mark.parametrize(
    ("url", "path"),
    [
        pytest.param("http+unix:///run/app.sock", "/run/app.sock", id="plain"),
        pytest.param("http+unix:///run/my%20app.sock", "/run/my app.sock", id="escaped"),
    ],
)
def test_socket(url: str, path: str) -> None:
    backend = Backend(url)
    assert (backend.uds, backend.id, backend.authority) == (path, path, "localhost")


def test_in_process() -> None:
    backend = Backend(app=APP, id="a")
    assert (backend.url, backend.app, backend.authority) == (None, APP, "localhost")
    assert repr(backend) == "<Backend 'a' in process weight=1>"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("10.0.0.1:8000", "must begin with http://", id="no-scheme"),
        pytest.param("localhost:8000", "must begin with http://", id="host-as-scheme"),
        pytest.param("ftp://a", "must begin with http://", id="ftp"),
        pytest.param("", "must begin with http://", id="empty"),
        pytest.param("http://", "has no host", id="no-host"),
        pytest.param("http://:8000", "has no host", id="port-only"),
        pytest.param("http://a/path", "must have no path", id="path"),
        pytest.param("http://a?q", "no query or fragment", id="query"),
        pytest.param("http://a#f", "no query or fragment", id="fragment"),
        pytest.param("http://a:0", "port from 1 to 65535", id="port-0"),
        pytest.param("http://a:65536", "cannot be read", id="port-too-large"),
        pytest.param("http://a:x", "cannot be read", id="port-no-number"),
        pytest.param("http://[::1", "cannot be read", id="bracket"),
        pytest.param("http://a b", "without spaces", id="space"),
        pytest.param("http://a\r\n:1", "printable ASCII", id="control"),
        pytest.param("http://ä", "printable ASCII", id="not-ascii"),
        pytest.param("http+unix://run/app.sock", "must name a socket", id="socket-relative"),
        pytest.param("http+unix:///", "must name a socket", id="socket-root"),
    ],
)
def test_url_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Backend(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("http://alice:s3cret@a", "'http://…@a' must have no user and", id="user"),
        pytest.param("ftp://alice:s3cret@a", "'ftp://…@a' must have no user", id="other-scheme"),
        pytest.param("alice:s3cret@a:80", "'…@a:80' must begin with", id="no-scheme"),
        pytest.param("http://alice:s3cret@a:x", "'http://…@a:x' must have no user", id="bad-port"),
        pytest.param("http://alice:s3cret/@a", "'http://…@a' cannot be read", id="slash"),
        pytest.param("http://alice:80/s3cret@a", "'http://…@a' must have no path", id="slash-2"),
        pytest.param("http://alice:80?s3cret@a", "'http://…@a' must have no query", id="question"),
        pytest.param("http://alice:s3cret@x@[a", "'http://…@[a' cannot be read", id="bracket"),
        pytest.param("http://alice:s3cret℀@a", "'http://…@a' cannot be read", id="unicode"),
        pytest.param("http://alice:s3cret\n@a", "'http://…@a' must have no user", id="newline"),
        pytest.param("http+unix://alice:s3cret@/x", "…@/x' must have no user", id="socket"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        Backend(url)
    message = "".join(traceback.format_exception(caught.value)).rpartition("ValueError")[2]
    assert shown in message
    assert "s3cret" not in message
    assert "alice" not in message


def test_a_socket_may_have_an_at_sign_in_its_path() -> None:
    assert Backend("http+unix:///run/me@a.sock").uds == "/run/me@a.sock"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        pytest.param([5], {}, "^backend url must be str, got 5$", id="url"),
        pytest.param([b"http://a"], {}, "url must be str, got b'http://a'", id="bytes"),
        pytest.param([APP], {}, r"url .*; did you mean Backend\(app=..., id=...\)", id="app"),
        pytest.param(["http://a"], {"id": 5}, "^id must be str or None, got 5$", id="id"),
        pytest.param(["http://a"], {"metadata": 5}, "^metadata must .* got 5$", id="metadata"),
    ],
)
def test_types_refused(arguments: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Backend(*arguments, **options)


NUMBERS: list[Any] = [True, "3", math.nan, math.inf, -1, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "either a url or an app", id="neither"),
        pytest.param({"url": "http://a", "app": APP}, "either a url or an app", id="both"),
        pytest.param({"app": APP}, "needs an id", id="app-without-id"),
        pytest.param({"app": "module:app", "id": "a"}, "app must .* got 'module:app'", id="string"),
        pytest.param({"url": "http://a", "id": ""}, "id must .* got ''", id="empty-id"),
        pytest.param({"url": "http://a", "id": "a\n"}, "id must .* got 'a.n'", id="control-in-id"),
        *(
            pytest.param({"url": "http://a", "weight": n}, f"weight must .* got {n!r}", id=f"w-{n}")
            for n in NUMBERS
        ),
        *(
            pytest.param(
                {"url": "http://a", "max_requests": n},
                f"max_requests must .* got {n!r}",
                id=f"m-{n}",
            )
            for n in [*NUMBERS[:-1], 0, 1.5]
        ),
    ],
)
def test_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backend(**options)


def test_equality_goes_by_id() -> None:
    one, same = Backend("http://a:1", id="x"), Backend("http://b:2", id="x", weight=5)
    assert one == same
    assert len({one, same, Backend("http://a:1")}) == 2
    assert one != "x"


def test_immutable() -> None:
    backend = Backend("http://a:1", metadata={"zone": 1})
    with pytest.raises(AttributeError, match="make another one to change its weight"):
        backend.weight = 2
    with pytest.raises(AttributeError, match="its weight cannot be deleted"):
        del backend.weight
    with pytest.raises(TypeError):
        backend.metadata["zone"] = 2  # type: ignore[index]


def test_metadata_is_a_copy() -> None:
    given = {"zone": 1}
    backend = Backend("http://a:1", metadata=given)
    given["zone"] = 2
    assert backend.metadata == {"zone": 1}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(Backend("http://a:1", id="y", weight=9), True, id="same-address"),
        pytest.param(Backend("http://a:2", id="x"), False, id="other-port"),
        pytest.param(Backend("https://a:1", id="x"), False, id="other-scheme"),
        pytest.param(Backend(app=APP, id="x"), False, id="in-process"),
    ],
)
def test_reaches_same_place(other: Backend, same: bool) -> None:
    assert Backend("http://a:1", id="x").reaches_same_place(other) is same


@pytest.mark.parametrize(
    ("intent", "health", "weight", "keeps", "takes"),
    [
        pytest.param(Intent.ACTIVE, Health.UNKNOWN, 1, True, True, id="at-first"),
        pytest.param(Intent.ACTIVE, Health.HEALTHY, 1, True, True, id="healthy"),
        pytest.param(Intent.ACTIVE, Health.UNHEALTHY, 1, False, False, id="unhealthy"),
        pytest.param(Intent.ACTIVE, Health.HEALTHY, 0, True, False, id="weightless"),
        pytest.param(Intent.DRAINING, Health.HEALTHY, 1, True, False, id="draining"),
        pytest.param(Intent.DRAINING, Health.UNHEALTHY, 1, False, False, id="draining-unhealthy"),
        pytest.param(Intent.DOWN, Health.HEALTHY, 1, False, False, id="down"),
    ],
)
def test_sessions(intent: Intent, health: Health, weight: int, keeps: bool, takes: bool) -> None:
    state = BackendState(Backend("http://a:1", weight=weight))
    state.intent, state.health = intent, health
    assert (state.keeps_sessions, state.takes_sessions) == (keeps, takes)


def test_is_full() -> None:
    state = BackendState(Backend("http://a:1", max_requests=2))
    full = []
    for state.in_flight in range(4):
        full.append(state.is_full)
    assert full == [False, False, True, True]
    unlimited = BackendState(Backend("http://a:1"))
    unlimited.in_flight = 10**6
    assert not unlimited.is_full


def test_latency_is_a_moving_average() -> None:
    state = BackendState(Backend("http://a:1"))
    assert state.latency is None
    state.observe_latency(1.0)
    assert state.latency == 1.0
    state.observe_latency(2.0)
    assert state.latency == pytest.approx(1.2)


def test_failures_are_counted_since_the_last_answer() -> None:
    state = BackendState(Backend("http://a:1"))
    state.observe_failure()
    state.observe_failure()
    assert state.failures == 2
    state.observe_latency(1.0)
    assert state.failures == 0


def test_who_may_have_moved_up_is_noted_for_those_who_ask() -> None:
    state = BackendState(Backend("http://a:1"))
    state.in_flight = 2
    state.finish_request()
    assert state.in_flight == 1
    noted = state.noted_in = set[BackendState]()
    for change in (
        state.finish_request,
        lambda: state.observe_latency(1.0),
        lambda: state.observe_latency(2.0),
        state.observe_failure,
    ):
        noted.clear()
        change()
        assert noted == {state}


def test_repr() -> None:
    state = BackendState(Backend("http://a:1", id="a", weight=2.5))
    state.in_flight = 3
    assert repr(state) == "<BackendState 'a' active unknown 3 in flight>"
    assert repr(state.backend) == "<Backend 'a' http://a:1 weight=2.5>"
