"""What the fake does wrong on request."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import KubernetesError
from tests.servers import WAIT, eventually

from .cluster import SERVICES, SLICES, WEB, Cluster


def test_the_next_requests_fail(cluster: Cluster) -> None:
    cluster.fake.fail(429, "list", "services", times=2, retry_after=3)
    for _ in range(2):
        refused = cluster.http.get(SERVICES)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "3"
        assert refused.json()["reason"] == "TooManyRequests"
        assert refused.json()["details"] == {"retryAfterSeconds": 3}
        assert cluster.http.get(SLICES).status_code == 200
    assert cluster.http.get(SERVICES).status_code == 200
    assert [one.status for one in cluster.fake.requests] == [429, 200, 429, 200, 200]


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "InternalError"), (503, "ServiceUnavailable"), (418, "")]
)
def test_any_request_may_fail(cluster: Cluster, status: int, reason: str) -> None:
    cluster.fake.fail(status, message="on fire")
    refused = cluster.http.get("/api")
    assert refused.status_code == status
    assert (refused.json()["reason"], refused.json()["message"]) == (reason, "on fire")
    assert "retry-after" not in refused.headers
    assert cluster.http.get("/api").status_code == 200


def test_watches_fail_before_they_begin(cluster: Cluster) -> None:
    cluster.fake.fail(500, "watch")
    assert cluster.http.get(SERVICES).status_code == 200
    assert cluster.http.get(SERVICES, params={"watch": "1"}).status_code == 500


def test_faults_come_in_the_order_they_were_asked_for(cluster: Cluster) -> None:
    cluster.fake.fail(500)
    cluster.fake.fail(503)
    assert [cluster.http.get("/api").status_code for _ in range(3)] == [500, 503, 200]


def test_faults_are_forgotten(cluster: Cluster) -> None:
    cluster.fake.fail(500, times=5)
    cluster.fake.clear_faults()
    assert cluster.http.get("/api").status_code == 200


def test_a_wrong_token_meets_no_fault(cluster: Cluster) -> None:
    cluster.fake.token = "right"
    cluster.fake.fail(500)
    assert cluster.http.get("/api").status_code == 401
    assert cluster.http.get("/api", headers={"Authorization": "Bearer right"}).status_code == 500


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        pytest.param(lambda fake: fake.fail(200), "status", id="no error"),
        pytest.param(lambda fake: fake.fail(500, times=0), "times", id="no times"),
        pytest.param(lambda fake: fake.fail(500, "look"), "verb", id="verb"),
        pytest.param(lambda fake: fake.hang("get", "jobs"), "resource", id="resource"),
        pytest.param(lambda fake: fake.delay(-1), "seconds", id="delay"),
    ],
)
def test_what_cannot_be_asked_for(ask: Callable[[FakeKubernetes], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ask(FakeKubernetes())


def test_an_answer_is_late(cluster: Cluster) -> None:
    cluster.fake.delay(0.05, "list")
    before = time.monotonic()
    assert cluster.http.get(SERVICES).status_code == 200
    assert time.monotonic() - before >= 0.05


def test_a_request_hangs_until_it_is_released(cluster: Cluster) -> None:
    cluster.fake.hang("list")
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(cluster.http.get(SERVICES).status_code))
    asking.start()
    eventually(cluster.fake.release)
    asking.join()
    assert answers == [200]
    assert cluster.fake.release() == 0


def test_who_hangs_may_leave(cluster: Cluster) -> None:
    cluster.fake.hang("list")
    with pytest.raises(httpx.ReadTimeout):
        cluster.http.get(SERVICES, timeout=httpx.Timeout(WAIT, read=0.05))
    eventually(lambda: cluster.fake.requests)
    eventually(lambda: cluster.fake.release() == 0)
    assert [one.status for one in cluster.fake.requests] == [None]


def test_a_response_is_cut_off(cluster: Cluster) -> None:
    cluster.fake.cut_off("list")
    with pytest.raises(httpx.RemoteProtocolError):
        cluster.http.get(SERVICES)
    assert cluster.http.get(SERVICES).status_code == 200


# Watches that are open


def test_watches_end_on_request(cluster: Cluster) -> None:
    with cluster.watch() as stream, cluster.watch(SLICES) as slices:
        assert cluster.fake.end_watches("services") == 1
        assert cluster.fake.end_watches("services") == 0
        assert stream.rest() == b""
        assert cluster.fake.watching() == 1
        assert cluster.fake.end_watches() == 1
        assert slices.rest() == b""


def test_watches_are_dropped(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with cluster.watch() as stream:
        cluster.create("web")
        assert cluster.fake.drop_watches() == 1
        # What had happened before is still told.
        assert stream.named() == ("ADDED", "web")
        with pytest.raises(httpx.RemoteProtocolError):
            stream.rest()
    assert cluster.fake.watching() == 0
    assert caplog.text == ""


def test_watches_expire(cluster: Cluster) -> None:
    with cluster.watch() as stream:
        assert cluster.fake.expire_watches() == 1
        kind, status = stream.event()
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
        assert stream.rest() == b""


def test_watches_are_told_of_another_error(cluster: Cluster) -> None:
    with cluster.watch() as stream:
        cluster.fake.fail_watches(KubernetesError(500, "etcd is gone"), "services")
        kind, status = stream.event()
        assert (kind, status["message"]) == ("ERROR", "etcd is gone")


def test_garbage_comes_between_events(cluster: Cluster) -> None:
    with cluster.watch() as stream:
        cluster.fake.send_raw(b"<html>\n")
        cluster.create("web")
        assert stream.line() == b"<html>"
        assert stream.named() == ("ADDED", "web")


def test_a_line_is_broken_off(cluster: Cluster) -> None:
    with cluster.watch() as stream:
        assert cluster.fake.break_line() == 1
        with pytest.raises(httpx.RemoteProtocolError):
            stream.line()
        assert stream.received.startswith(b'{"type":"MODIFIED"')
        with pytest.raises(json.JSONDecodeError):
            json.loads(stream.received)


def test_a_flood_of_events(cluster: Cluster) -> None:
    cluster.create("web")
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        last = cluster.fake.flood("services", "shop", "web", 500)
        assert [stream.event()[0] for _ in range(500)] == ["MODIFIED"] * 500
    again = cluster.fake.flood("services", "shop", "web", 1)
    counts = [obj["metadata"]["annotations"]["testing.sticky-asgi/flood"] for obj in (last, again)]
    assert counts == ["500", "501"]
    assert cluster.http.get(WEB).json() == again
