"""The error tree: side, stage and status of each."""

from __future__ import annotations

import pytest

from sticky_asgi import exceptions as errors

TABLE: list[tuple[errors.GatewayError, str, str, int]] = [
    (errors.GatewayError("x"), "gateway", "request", 500),
    (errors.BadRequest("x"), "client", "request", 400),
    (errors.BodyTooLarge("x"), "client", "request", 413),
    (errors.HeadTooLarge("x"), "client", "request", 431),
    (errors.ClientDisconnected("x"), "client", "request", 499),
    (errors.NoRoute("x"), "client", "route", 404),
    (errors.NoBackendAvailable(), "gateway", "pick", 503),
    (errors.BackendsBusy(), "gateway", "pick", 503),
    (errors.QueueFull(), "gateway", "pick", 503),
    (errors.QueueTimeout(), "gateway", "pick", 503),
    (errors.AffinityRejected(), "gateway", "pick", 503),
    (errors.DrainEnded("drained"), "gateway", "body", 503),
    (errors.ConnectError("x"), "backend", "connect", 502),
    (errors.ConnectTimeout("x"), "backend", "connect", 504),
    (errors.StaleConnection("x"), "gateway", "head", 502),
    (errors.ConnectionLost("x"), "backend", "head", 502),
    (errors.ConnectionLost("x", stage="body"), "backend", "body", 502),
    (errors.MalformedResponse("x"), "backend", "head", 502),
    (errors.MalformedResponse("x", stage="body"), "backend", "body", 502),
    (errors.UnwantedStatus(503), "backend", "head", 503),
    (errors.ResponseTimeout("x"), "backend", "head", 504),
    (errors.IdleTimeout("x"), "backend", "body", 504),
]


@pytest.mark.parametrize(
    ("error", "side", "stage", "status"),
    [pytest.param(*row, id=f"{type(row[0]).__name__}-{row[2]}") for row in TABLE],
)
def test_table(error: errors.GatewayError, side: str, stage: str, status: int) -> None:
    assert (error.side, error.stage, error.status_code) == (side, stage, status)


def test_the_table_is_complete() -> None:
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type)}
    concrete = {
        cls
        for cls in classes
        if issubclass(cls, errors.GatewayError)
        and cls not in (errors.ClientError, errors.UpstreamError)
    }
    assert {type(row[0]) for row in TABLE} == concrete


def test_only_a_connection_that_failed_proves_that_nothing_was_sent() -> None:
    upstream = [row[0] for row in TABLE if isinstance(row[0], errors.UpstreamError)]
    unsent = {type(error) for error in upstream if not error.request_sent}
    assert unsent == {errors.ConnectError, errors.ConnectTimeout}
    assert not errors.ConnectionLost("x", request_sent=False).request_sent
    assert errors.ConnectError("x", request_sent=True).request_sent


def test_a_refusal_says_when_to_come_back() -> None:
    assert errors.NoBackendAvailable().retry_after == 1
    assert errors.QueueFull("full", retry_after=30).retry_after == 30
    assert str(errors.NoBackendAvailable()) == "no backend is available"
    assert str(errors.UnwantedStatus(503)) == "the backend answered 503"
