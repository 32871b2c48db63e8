"""Watches over a socket: what they begin with, what they are told, how they end."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import service
from tests.servers import eventually

from .cluster import SERVICES, SLICES, WEB, Cluster, serving, web_slice


def test_a_watch_goes_on_where_a_list_ended(cluster: Cluster) -> None:
    cluster.create("before")
    version = cluster.http.get(SERVICES).json()["metadata"]["resourceVersion"]
    cluster.create("a")
    with cluster.watch(resourceVersion=version) as stream:
        assert stream.named() == ("ADDED", "a")
        cluster.label("a", x="y")
        kind, obj = stream.event()
        assert (kind, obj["metadata"]["labels"]) == ("MODIFIED", {"x": "y"})
        assert (obj["kind"], obj["apiVersion"]) == ("Service", "v1")
        assert obj == cluster.fake.get("services", "shop", "a")
        cluster.fake.delete("services", "shop", "a")
        kind, gone = stream.event()
        assert (kind, gone["metadata"]["name"]) == ("DELETED", "a")
        assert gone["metadata"]["resourceVersion"] == cluster.fake.version


def test_the_head_comes_before_any_event(cluster: Cluster) -> None:
    with cluster.http.stream("GET", SERVICES, params={"watch": "1"}) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.headers["content-type"] == "application/json"
        assert cluster.fake.watching("services") == 1
        assert cluster.fake.watching("endpointslices") == 0
    eventually(lambda: cluster.fake.watching() == 0)
    assert cluster.verbs() == ["watch"]


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_without_a_version_begins_with_all_there_is(cluster: Cluster, version: str) -> None:
    cluster.create("b", "a")
    with cluster.watch(resourceVersion=version) as stream:
        cluster.create("c")
        assert [stream.named() for _ in range(3)] == [
            ("ADDED", "a"),
            ("ADDED", "b"),
            ("ADDED", "c"),
        ]


def test_a_version_to_come_is_waited_for(cluster: Cluster) -> None:
    future = str(int(cluster.fake.version) + 2)
    with cluster.watch(resourceVersion=future) as stream:
        cluster.create("a", "b", "c")
        assert stream.named() == ("ADDED", "c")


def test_events_are_lines_of_go(cluster: Cluster) -> None:
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        cluster.create("web", annotations={"a": "<\x85\u2028"})
        line = stream.line()
    assert line.startswith(b'{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1",')
    assert b'"a":"\\u003c\xc2\x85\\u2028"' in line


def test_a_watch_sees_its_own_resource_and_namespace(cluster: Cluster) -> None:
    with (
        cluster.watch(resourceVersion=cluster.fake.version) as stream,
        cluster.watch("/api/v1/services", resourceVersion=cluster.fake.version) as everywhere,
        cluster.watch(SLICES, resourceVersion=cluster.fake.version) as slices,
    ):
        cluster.fake.create(service("other"))
        cluster.fake.create(web_slice("10.0.0.1"))
        cluster.create("web")
        assert stream.named() == ("ADDED", "web")
        assert [everywhere.named() for _ in range(2)] == [("ADDED", "other"), ("ADDED", "web")]
        assert slices.named() == ("ADDED", "web-1")


def test_objects_come_and_go_with_their_labels(cluster: Cluster) -> None:
    cluster.create("a")
    query = {"resourceVersion": cluster.fake.version, "labelSelector": "on=yes"}
    with cluster.watch(**query) as stream:
        cluster.create("b")
        cluster.label("a", on="yes")
        assert stream.named() == ("ADDED", "a")
        cluster.label("a", more="1")
        assert stream.named() == ("MODIFIED", "a")
        cluster.label("a", on="no")
        kind, gone = stream.event()
        # Shown as it was, with the version of now.
        assert (kind, gone["metadata"]["labels"]) == ("DELETED", {"on": "yes", "more": "1"})
        assert gone["metadata"]["resourceVersion"] == cluster.fake.version
        cluster.fake.delete("services", "shop", "a")
        cluster.label("b", on="yes")
        assert stream.named() == ("ADDED", "b")


def test_one_object_is_watched_by_its_name(cluster: Cluster) -> None:
    query = {"resourceVersion": cluster.fake.version, "fieldSelector": "metadata.name=web"}
    with cluster.watch(**query) as stream:
        cluster.create("other", "web")
        assert stream.named() == ("ADDED", "web")
    assert cluster.fake.requests[-1].name == "web"


@pytest.mark.parametrize(
    ("value", "verb"),
    [("true", "watch"), ("1", "watch"), ("", "watch"), ("false", "list"), ("0", "list")],
)
def test_what_a_watch_is(cluster: Cluster, value: str, verb: str) -> None:
    with cluster.http.stream("GET", SERVICES, params={"watch": value}) as response:
        assert response.status_code == 200
    assert cluster.verbs() == [verb]


# The end


def test_a_watch_ends_after_its_time(cluster: Cluster) -> None:
    cluster.create("web")
    query = {"watch": "true", "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
    lines = cluster.http.get(SERVICES, params=query).content.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["ADDED", "BOOKMARK"]
    assert cluster.fake.watching() == 0


def test_a_version_that_is_gone_is_told_in_the_stream(cluster: Cluster) -> None:
    cluster.create("web")
    version = cluster.fake.version
    cluster.fake.create(service("elsewhere"))
    cluster.fake.compact()
    with cluster.watch(resourceVersion=version) as stream:
        kind, status = stream.event()
        assert stream.rest() == b""
    assert kind == "ERROR"
    assert status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"too old resource version: {version} ({cluster.fake.version})",
        "reason": "Expired",
        "code": 410,
    }
    listed = cluster.http.get(SERVICES).json()["metadata"]["resourceVersion"]
    with cluster.watch(resourceVersion=listed) as stream:
        cluster.label("web", x="y")
        assert stream.named() == ("MODIFIED", "web")


def test_the_newest_version_outlives_a_compaction(cluster: Cluster) -> None:
    cluster.create("a")
    cluster.fake.compact()
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        cluster.create("b")
        assert stream.named() == ("ADDED", "b")


def test_open_watches_outlive_a_compaction(cluster: Cluster) -> None:
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        cluster.fake.compact()
        cluster.create("web")
        assert stream.named() == ("ADDED", "web")


# Bookmarks


def test_bookmarks_are_for_those_who_want_them(cluster: Cluster) -> None:
    version = cluster.fake.version
    with (
        cluster.watch(resourceVersion=version, allowWatchBookmarks="true") as stream,
        cluster.watch(resourceVersion=version) as other,
    ):
        cluster.fake.create(service("elsewhere"))
        assert cluster.fake.bookmark("services") == 2
        kind, obj = stream.event()
        assert kind == "BOOKMARK"
        assert obj == {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"creationTimestamp": None, "resourceVersion": cluster.fake.version},
        }
        cluster.create("web")
        assert other.named() == ("ADDED", "web")


def test_bookmarks_come_by_themselves() -> None:
    with serving(FakeKubernetes(namespaces=["shop"], bookmark_interval=0.01)) as cluster:
        with cluster.watch(allowWatchBookmarks="true") as stream:
            assert [stream.event()[0] for _ in range(2)] == ["BOOKMARK"] * 2


def test_a_watch_may_begin_with_all_and_say_so(cluster: Cluster) -> None:
    cluster.create("a")
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    with cluster.watch(**query) as stream:
        assert stream.named() == ("ADDED", "a")
        kind, obj = stream.event()
    assert kind == "BOOKMARK"
    assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert obj["metadata"]["resourceVersion"] == cluster.fake.version


def test_a_watch_may_begin_with_now(cluster: Cluster) -> None:
    cluster.create("a")
    query = {"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan"}
    with cluster.watch(**query) as stream:
        cluster.create("b")
        assert stream.named() == ("ADDED", "b")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"sendInitialEvents": "true"}, id="no match"),
        pytest.param({"resourceVersionMatch": "NotOlderThan"}, id="match alone"),
        pytest.param({"resourceVersion": "x"}, id="no number"),
    ],
)
def test_watches_that_are_refused(cluster: Cluster, query: dict[str, str]) -> None:
    refused = cluster.http.get(SERVICES, params={"watch": "true"} | query)
    assert refused.status_code == 422
    assert refused.json()["reason"] == "Invalid"


# Many at once


def test_writers_in_several_threads_lose_nothing(cluster: Cluster) -> None:
    names = [f"web-{number}" for number in range(4)]
    cluster.create(*names)
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        threads = [
            threading.Thread(target=cluster.fake.flood, args=("services", "shop", name, 50))
            for name in names
        ]
        for thread in threads:
            thread.start()
        events = [stream.event() for _ in range(200)]
        for thread in threads:
            thread.join()
    assert {kind for kind, _ in events} == {"MODIFIED"}
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
    assert versions == list(range(versions[0], versions[0] + 200))


def test_writes_over_http_are_seen_as_well(cluster: Cluster) -> None:
    with cluster.watch(resourceVersion=cluster.fake.version) as stream:
        with httpx.Client(base_url=cluster.http.base_url, trust_env=False) as other:
            other.post(SERVICES, json=service("web", namespace="shop"))
            assert stream.named() == ("ADDED", "web")
            other.delete(WEB)
            assert stream.named() == ("DELETED", "web")
