"""Which failures are repeated, and how many at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.exceptions import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
    StaleConnection,
    UpstreamError,
)
from sticky_asgi.retries import Retry

IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]
OTHERS = ["POST", "PATCH", "CONNECT", "PROPFIND", "get", ""]

NOT_SENT = [
    pytest.param(ConnectError("refused"), id="refused"),
    pytest.param(ConnectTimeout("no answer"), id="connect-timeout"),
    pytest.param(StaleConnection("closed", request_sent=False), id="stale-not-written"),
    pytest.param(ConnectionLost("reset", request_sent=False), id="lost-not-written"),
]
MAYBE_SENT = [
    pytest.param(StaleConnection("closed"), id="stale"),
    pytest.param(ConnectionLost("reset"), id="lost-on-head"),
    pytest.param(ConnectionLost("reset", stage="body"), id="lost-on-body"),
    pytest.param(MalformedResponse("not HTTP"), id="malformed"),
    pytest.param(ResponseTimeout("no head"), id="response-timeout"),
    pytest.param(IdleTimeout("no body"), id="idle-timeout"),
    pytest.param(ConnectError("reset in handshake", request_sent=True), id="early-data"),
]


def allows(retry: Retry, exc: UpstreamError, **changes: Any) -> bool:
    """`Retry.allows` for a first GET that nothing speaks against, with changes."""
    facts: dict[str, Any] = {
        "method": "GET",
        "attempt": 1,
        "replayable": True,
        "response_started": False,
    }
    return retry.allows(exc, **(facts | changes))


def allows_status(retry: Retry, status: int, **changes: Any) -> bool:
    facts: dict[str, Any] = {
        "method": "GET",
        "attempt": 1,
        "replayable": True,
        "response_started": False,
    }
    return retry.allows_status(status, **(facts | changes))


@pytest.mark.parametrize("exc", NOT_SENT)
@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
def test_what_no_backend_saw_is_repeated_whatever_its_method(
    exc: UpstreamError, method: str
) -> None:
    assert allows(Retry(), exc, method=method)


@pytest.mark.parametrize("exc", MAYBE_SENT)
@pytest.mark.parametrize(
    ("method", "expected"),
    [pytest.param(method, True, id=method) for method in IDEMPOTENT]
    + [pytest.param(method, False, id=method or "empty") for method in OTHERS],
)
def test_what_a_backend_may_have_seen_is_repeated_if_idempotent(
    exc: UpstreamError, method: str, expected: bool
) -> None:
    assert allows(Retry(), exc, method=method) is expected


@pytest.mark.parametrize("exc", NOT_SENT + MAYBE_SENT)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"replayable": False}, id="body-gone"),
        pytest.param({"response_started": True}, id="response-started"),
        pytest.param({"attempt": 3}, id="third-try"),
    ],
)
def test_what_is_never_repeated(exc: UpstreamError, changes: dict[str, Any]) -> None:
    assert not allows(Retry(), exc, **changes)


@given(st.integers(0, 10))
def test_attempts_counts_the_repeats(attempts: int) -> None:
    retry = Retry(attempts=attempts)
    tries = 1
    while allows(retry, ConnectError("refused"), attempt=tries):
        tries += 1
    assert tries == attempts + 1


@given(
    attempts=st.integers(0, 4),
    attempt=st.integers(1, 6),
    method=st.sampled_from(IDEMPOTENT + OTHERS),
    request_sent=st.booleans(),
    replayable=st.booleans(),
    response_started=st.booleans(),
)
def test_allows_is_the_sentence_in_the_docs(
    attempts: int,
    attempt: int,
    method: str,
    request_sent: bool,
    replayable: bool,
    response_started: bool,
) -> None:
    allowed = Retry(attempts=attempts).allows(
        UpstreamError("failed", request_sent=request_sent),
        method=method,
        attempt=attempt,
        replayable=replayable,
        response_started=response_started,
    )
    nothing_sent_to_the_client = not response_started
    safe = method in IDEMPOTENT or not request_sent
    assert allowed == (nothing_sent_to_the_client and attempt <= attempts and replayable and safe)


def test_no_status_is_repeated_by_default() -> None:
    assert not any(allows_status(Retry(), status) for status in range(100, 600))


@pytest.mark.parametrize(
    ("status", "changes", "expected"),
    [
        pytest.param(503, {}, True, id="listed"),
        pytest.param(503, {"method": "DELETE"}, True, id="idempotent"),
        pytest.param(503, {"attempt": 2}, True, id="second-try"),
        pytest.param(500, {}, False, id="not-listed"),
        pytest.param(503, {"method": "POST"}, False, id="not-idempotent"),
        pytest.param(503, {"attempt": 3}, False, id="third-try"),
        pytest.param(503, {"replayable": False}, False, id="body-gone"),
        pytest.param(503, {"response_started": True}, False, id="response-started"),
    ],
)
def test_listed_statuses(status: int, changes: dict[str, Any], expected: bool) -> None:
    assert allows_status(Retry(on_status=[502, 503]), status, **changes) is expected


def test_defaults() -> None:
    retry = Retry()
    assert (retry.attempts, retry.replay_limit, retry.on_status) == (2, 65536, frozenset())
    assert (retry.budget_ratio, retry.budget_min) == (0.2, 3)


@pytest.mark.parametrize(
    "statuses",
    [
        pytest.param((502, 503), id="tuple"),
        pytest.param([503, 502, 502], id="list"),
        pytest.param(frozenset({502, 503}), id="frozenset"),
        pytest.param(range(502, 504), id="range"),
        pytest.param(iter([502, 503]), id="iterator"),
    ],
)
def test_statuses_become_a_set(statuses: Any) -> None:
    retry = Retry(on_status=statuses)
    assert retry.on_status == frozenset({502, 503})
    assert retry == Retry(on_status=[502, 503])
    assert hash(retry) == hash(Retry(on_status=[502, 503]))


def test_retry_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Retry().attempts = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        pytest.param("attempts", -1, "-1", id="attempts-negative"),
        pytest.param("attempts", 1.5, "1.5", id="attempts-float"),
        pytest.param("attempts", True, "True", id="attempts-bool"),
        pytest.param("replay_limit", -1, "-1", id="replay-limit"),
        pytest.param("replay_limit", "64KiB", "'64KiB'", id="replay-limit-str"),
        pytest.param("on_status", (200,), "200", id="status-fine"),
        pytest.param("on_status", (600,), "600", id="status-600"),
        pytest.param("on_status", ("503",), "'503'", id="status-str"),
        pytest.param("on_status", (503.0,), "503.0", id="status-float"),
        pytest.param("on_status", 503, "503", id="status-alone"),
        pytest.param("budget_ratio", -0.1, "-0.1", id="ratio-negative"),
        pytest.param("budget_ratio", float("nan"), "nan", id="ratio-nan"),
        pytest.param("budget_ratio", float("inf"), "inf", id="ratio-inf"),
        pytest.param("budget_ratio", "20%", "'20%'", id="ratio-str"),
        pytest.param("budget_min", -1, "-1", id="min-negative"),
        pytest.param("budget_min", None, "None", id="min-none"),
        pytest.param("backoff", 0, "0", id="backoff-zero"),
        pytest.param("backoff", "25ms", "'25ms'", id="backoff-str"),
        pytest.param("attempt_timeout", -1, "-1", id="attempt-timeout-negative"),
        pytest.param("attempt_timeout", float("inf"), "inf", id="attempt-timeout-inf"),
        pytest.param("total_timeout", 0.0, "0.0", id="total-timeout-zero"),
        pytest.param("total_timeout", True, "True", id="total-timeout-bool"),
    ],
)
def test_bad_options_are_named(name: str, value: object, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must .* got {shown}$"):
        Retry(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        pytest.param(ConnectError("refused"), True, id="refused"),
        pytest.param(ConnectTimeout("late"), False, id="connect timeout"),
        pytest.param(ConnectionLost("reset"), False, id="lost"),
        pytest.param(ResponseTimeout("late"), False, id="response timeout"),
    ],
)
def test_who_is_asked_once_more(exc: UpstreamError, expected: bool) -> None:
    assert Retry().allows_same_backend(exc) is expected
    assert not Retry(backoff=None).allows_same_backend(exc)
