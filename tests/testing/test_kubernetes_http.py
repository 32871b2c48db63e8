"""The fake over a socket: verbs, paths, headers, bodies and what they are answered with."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from sticky_asgi.testing import FakeKubernetes, VirtualClock
from sticky_asgi.testing.kubernetes import KubernetesError, service

from .cluster import SERVICES, SLICES, WEB, Cluster, serving, web_slice

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


def send(
    cluster: Cluster, method: str, path: str, body: Any, kind: str = MERGE, **query: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": kind}
    return cluster.http.request(method, path, content=content, headers=headers, params=query)


def status_of(response: httpx.Response) -> dict[str, Any]:
    status: dict[str, Any] = response.json()
    assert status["kind"] == "Status"
    assert status["code"] == response.status_code
    return status


# Form


def test_json_is_that_of_go(cluster: Cluster) -> None:
    cluster.create("web", annotations={"a": "<&>\u2028\u2029\x85é\n\x01"})
    response = cluster.http.get(WEB)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-cache, private"
    body = response.content
    assert body.startswith(b'{"kind":"Service","apiVersion":"v1","metadata":{"name":"web",')
    assert b'"a":"\\u003c\\u0026\\u003e\\u2028\\u2029' + "\x85é".encode() + b'\\n\\u0001"' in body
    assert body.count(b"\n") == 1
    assert body.endswith(b"}\n")


def test_items_of_a_list_do_not_say_what_they_are(cluster: Cluster) -> None:
    cluster.create("b", "a")
    cluster.fake.create(service("c"))
    answer = cluster.http.get(SERVICES).json()
    assert (answer["kind"], answer["apiVersion"]) == ("ServiceList", "v1")
    assert answer["metadata"] == {"resourceVersion": cluster.fake.version}
    assert [item["metadata"]["name"] for item in answer["items"]] == ["a", "b"]
    assert {"kind", "apiVersion"} & set(answer["items"][0]) == set()
    everywhere = cluster.http.get("/api/v1/services").json()["items"]
    assert [item["metadata"]["name"] for item in everywhere] == ["c", "a", "b"]
    assert cluster.http.get("/api/v1/namespaces/none/services").json()["items"] == []


def test_selectors_narrow_a_list(cluster: Cluster) -> None:
    cluster.create("a", "b", labels={"app": "x"})
    cluster.create("c")
    found = cluster.http.get(
        SERVICES, params={"labelSelector": "app in (x)", "fieldSelector": "metadata.name!=a"}
    )
    assert [item["metadata"]["name"] for item in found.json()["items"]] == ["b"]
    assert cluster.http.get(SERVICES, params={"labelSelector": "="}).status_code == 400


# Verbs


def test_create_read_update_delete(cluster: Cluster) -> None:
    made = send(cluster, "POST", SERVICES, service("web", namespace="shop"), "application/json")
    assert made.status_code == 201
    obj = made.json()
    assert cluster.http.get(WEB).json() == obj
    obj["metadata"]["labels"] = {"a": "b"}
    put = cluster.http.put(WEB, json=obj)
    assert put.status_code == 200
    assert put.json()["metadata"]["labels"] == {"a": "b"}
    stale = cluster.http.put(WEB, json=obj | {"spec": {"ports": [{"port": 81}]}})
    assert status_of(stale)["reason"] == "Conflict"
    gone = cluster.http.delete(WEB)
    assert gone.json()["kind"] == "Service"
    assert status_of(cluster.http.get(WEB))["message"] == 'services "web" not found'
    assert [request.status for request in cluster.fake.requests] == [201, 200, 200, 409, 200, 404]


def test_what_a_put_creates_is_new(cluster: Cluster) -> None:
    assert cluster.http.put(WEB, json=service("web", namespace="shop")).status_code == 201
    slices = f"{SLICES}/web-1"
    assert cluster.http.put(slices, json=web_slice("10.0.0.1")).status_code == 404


def test_a_deletion_is_told_by_status(cluster: Cluster) -> None:
    made = cluster.fake.create(web_slice("10.0.0.1"))
    status = cluster.http.delete(f"{SLICES}/web-1").json()
    assert status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": "web-1",
            "group": "discovery.k8s.io",
            "kind": "endpointslices",
            "uid": made["metadata"]["uid"],
        },
    }


def test_a_deletion_has_preconditions(cluster: Cluster) -> None:
    cluster.create("web")
    for wanted in ({"uid": "other"}, {"resourceVersion": "1"}):
        refused = send(cluster, "DELETE", WEB, {"preconditions": wanted}, "application/json")
        assert status_of(refused)["reason"] == "Conflict"
    assert send(cluster, "DELETE", WEB, [], "application/json").status_code == 400
    uid = cluster.http.get(WEB).json()["metadata"]["uid"]
    deleted = send(cluster, "DELETE", WEB, {"preconditions": {"uid": uid}}, "application/json")
    assert deleted.status_code == 200


def test_a_collection_is_deleted_by_selector(cluster: Cluster) -> None:
    cluster.create("a", "b", labels={"app": "x"})
    cluster.create("c")
    gone = cluster.http.delete(SERVICES, params={"labelSelector": "app=x"}).json()
    assert [item["metadata"]["name"] for item in gone["items"]] == ["a", "b"]
    assert [obj["metadata"]["name"] for obj in cluster.fake.list("services")] == ["c"]
    assert cluster.verbs() == ["deletecollection"]


def test_names_are_generated(cluster: Cluster) -> None:
    manifest = service("x", namespace="shop")
    del manifest["metadata"]["name"]
    manifest["metadata"]["generateName"] = "web-"
    names = [
        cluster.http.post(SERVICES, json=manifest).json()["metadata"]["name"] for _ in range(3)
    ]
    assert len(set(names)) == 3
    assert all(re.fullmatch("web-[b-z0-9]{5}", name) for name in names)


def test_a_namespace_must_be_there(cluster: Cluster) -> None:
    refused = cluster.http.post("/api/v1/namespaces/no/services", json=service("a", namespace="no"))
    assert status_of(refused)["message"] == 'namespaces "no" not found'
    refused = cluster.http.post(SERVICES, json=service("a", namespace="default"))
    assert "does not match the namespace sent" in status_of(refused)["message"]


def test_namespaces_have_none(cluster: Cluster) -> None:
    made = cluster.http.post(
        "/api/v1/namespaces", json={"kind": "Namespace", "metadata": {"name": "new"}}
    )
    assert made.status_code == 201
    assert cluster.http.get("/api/v1/namespaces/new").json()["status"] == {"phase": "Active"}
    names = [
        item["metadata"]["name"] for item in cluster.http.get("/api/v1/namespaces").json()["items"]
    ]
    assert names == ["default", "new", "shop"]
    assert cluster.http.delete("/api/v1/namespaces/new").json()["status"] == "Success"


def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    query = {"dryRun": "All"}
    body = service("web", namespace="shop")
    before = cluster.fake.version
    assert cluster.http.post(SERVICES, json=body, params=query).status_code == 201
    assert cluster.fake.version == before
    cluster.create("web")
    before = cluster.fake.version
    patch = {"metadata": {"labels": {"a": "b"}}}
    made = send(cluster, "PATCH", WEB, patch, dryRun="All").json()
    assert made["metadata"]["labels"] == {"a": "b"}
    assert cluster.http.delete(WEB, params=query).status_code == 200
    assert cluster.fake.version == before
    assert cluster.http.delete(WEB, params={"dryRun": "Some"}).status_code == 422


# Patches


def test_a_strategic_merge_knows_its_lists(cluster: Cluster) -> None:
    cluster.create(
        "web",
        ports={"a": 80, "b": 81, "c": 82},
        app_protocol="http",
        annotations={"x": "1", "y": "2"},
    )
    patch = {
        "metadata": {"annotations": {"x": None}, "finalizers": ["example.com/f"]},
        "spec": {
            "$setElementOrder/ports": [{"port": 81}, {"port": 80}],
            "ports": [
                {"port": 80, "name": "new"},
                {"port": 82, "$patch": "delete"},
                {"port": 83, "name": "d"},
            ],
            "selector": {"$patch": "replace", "only": "this"},
        },
    }
    made = send(cluster, "PATCH", WEB, patch, STRATEGIC).json()
    assert made["metadata"]["annotations"] == {"y": "2"}
    assert [
        (port["name"], port["port"], port.get("appProtocol")) for port in made["spec"]["ports"]
    ] == [("new", 80, "http"), ("b", 81, "http"), ("d", 83, None)]
    assert made["spec"]["selector"] == {"only": "this"}
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/f"]},
        "spec": {
            "ports": [{"port": 90}, {"$patch": "replace"}],
            "selector": {"$patch": "delete"},
        },
    }
    made = send(cluster, "PATCH", WEB, patch, STRATEGIC).json()
    assert made["metadata"]["finalizers"] == []
    assert [port["port"] for port in made["spec"]["ports"]] == [90]
    assert made["spec"]["selector"] == {}


def test_endpoints_of_a_slice_are_replaced_as_a_whole(cluster: Cluster) -> None:
    cluster.fake.create(web_slice("10.0.0.1", "10.0.0.2"))
    patch = {"endpoints": [{"addresses": ["10.0.0.3"]}]}
    made = send(cluster, "PATCH", f"{SLICES}/web-1", patch, STRATEGIC).json()
    assert [one["addresses"] for one in made["endpoints"]] == [["10.0.0.3"]]


def test_an_apply_creates_and_changes(cluster: Cluster) -> None:
    manifest = service("web", namespace="shop")
    assert send(cluster, "PATCH", WEB, manifest, APPLY).status_code == 422
    made = send(cluster, "PATCH", WEB, manifest, APPLY, fieldManager="test")
    assert made.status_code == 201
    manifest["metadata"]["labels"] = {"a": "b"}
    made = send(cluster, "PATCH", WEB, manifest, APPLY, fieldManager="test")
    assert (made.status_code, made.json()["metadata"]["labels"]) == (200, {"a": "b"})


@pytest.mark.parametrize(
    ("kind", "patch", "status"),
    [
        pytest.param(MERGE, [], 422, id="merge by a list"),
        pytest.param(STRATEGIC, {"spec": {"ports": [{"name": "x"}]}}, 422, id="no merge key"),
        pytest.param(STRATEGIC, {"spec": {"ports": ["x"]}}, 422, id="no object"),
        pytest.param("application/json-patch+json", {}, 422, id="no list"),
        pytest.param("application/json", {}, 415, id="media type"),
        pytest.param(MERGE, b"{", 400, id="no JSON"),
        pytest.param(MERGE, {"spec": {"ports": None}}, 422, id="invalid outcome"),
        pytest.param(MERGE, {"kind": "Pod"}, 400, id="another kind"),
    ],
)
def test_patches_that_are_refused(cluster: Cluster, kind: str, patch: Any, status: int) -> None:
    cluster.create("web")
    before = cluster.fake.version
    status_of(refused := send(cluster, "PATCH", WEB, patch, kind))
    assert refused.status_code == status
    assert cluster.fake.version == before


def test_a_patch_of_nothing(cluster: Cluster) -> None:
    assert send(cluster, "PATCH", WEB, {}).status_code == 404


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "the server could not find the requested resource"),
        ("GET", "/api/v2/services", 404, "the server could not find the requested resource"),
        ("GET", "/apis/apps/v1/deployments", 404, "could not find the requested resource"),
        ("GET", "/api/v1/services/web", 404, "could not find the requested resource"),
        ("GET", f"{WEB}/status", 404, "could not find the requested resource"),
        ("POST", WEB, 405, "the server does not allow this method on the requested resource"),
        ("PUT", SERVICES, 405, "does not allow this method"),
        ("POST", "/api/v1/services", 405, "does not allow this method"),
        ("POST", "/version", 405, "does not allow this method"),
    ],
)
def test_paths_and_methods_that_are_none(
    cluster: Cluster, method: str, path: str, status: int, message: str
) -> None:
    refused = cluster.http.request(method, path)
    assert refused.status_code == status
    assert message in status_of(refused)["message"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("*/*", 200),
        ("application/*", 200),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 200),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", 406),
        ("application/vnd.kubernetes.protobuf,application/json", 200),
        ("application/vnd.kubernetes.protobuf", 406),
        ("text/html", 406),
    ],
)
def test_only_json_is_to_be_had(cluster: Cluster, accept: str, status: int) -> None:
    cluster.create("web")
    answer = cluster.http.get(WEB, headers={"Accept": accept})
    assert answer.status_code == status
    if status == 406:
        assert status_of(answer)["reason"] == "NotAcceptable"


@pytest.mark.parametrize(
    ("kind", "body", "status", "reason"),
    [
        ("application/vnd.kubernetes.protobuf", b"k8s", 415, "UnsupportedMediaType"),
        ("application/yaml", b"kind: Service", 415, "UnsupportedMediaType"),
        ("application/json", b"kind: Service", 400, "BadRequest"),
        ("application/json", b"[]", 400, "BadRequest"),
        ("application/json", b'{"kind":"Pod","metadata":{}}', 400, "BadRequest"),
        ("application/json", b'{"apiVersion":"v2","metadata":{}}', 400, "BadRequest"),
        ("application/json", b" " * (3 * 1024 * 1024 + 1), 413, "RequestEntityTooLarge"),
    ],
)
def test_bodies_that_are_none(
    cluster: Cluster, kind: str, body: bytes, status: int, reason: str
) -> None:
    refused = send(cluster, "POST", SERVICES, body, kind)
    assert refused.status_code == status
    assert status_of(refused)["reason"] == reason


def test_an_invalid_object_names_its_fields(cluster: Cluster) -> None:
    refused = cluster.http.post(SERVICES, json=service("web", namespace="shop", ports=None))
    assert status_of(refused) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'Service "web" is invalid: spec.ports: Required value',
        "reason": "Invalid",
        "details": {
            "name": "web",
            "kind": "Service",
            "causes": [
                {
                    "reason": "FieldValueRequired",
                    "message": "Required value",
                    "field": "spec.ports",
                }
            ],
        },
        "code": 422,
    }


# Pages and versions of lists


def names(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return "".join(item["metadata"]["name"] for item in answer.json()["items"])


def test_a_list_comes_in_pages_of_one_version(cluster: Cluster) -> None:
    cluster.create(*"abcde")
    version = cluster.fake.version
    first = cluster.http.get(SERVICES, params={"limit": "2"})
    assert names(first) == "ab"
    assert first.json()["metadata"]["remainingItemCount"] == 3
    # What happens meanwhile is not seen.
    cluster.fake.delete("services", "shop", "c")
    cluster.create("bb")
    cluster.label("d", new="1")
    query = {"limit": "2", "continue": first.json()["metadata"]["continue"]}
    second = cluster.http.get(SERVICES, params=query)
    assert names(second) == "cd"
    assert "labels" not in second.json()["items"][1]["metadata"]
    query["continue"] = second.json()["metadata"]["continue"]
    third = cluster.http.get(SERVICES, params=query)
    assert names(third) == "e"
    assert third.json()["metadata"] == {"resourceVersion": version}


def test_no_count_is_left_with_a_selector(cluster: Cluster) -> None:
    cluster.create(*"abc", labels={"x": "y"})
    answer = cluster.http.get(SERVICES, params={"limit": "2", "labelSelector": "x"})
    assert set(answer.json()["metadata"]) == {"resourceVersion", "continue"}


def test_a_page_that_comes_too_late(cluster: Cluster) -> None:
    cluster.create(*"abc")
    query = {"limit": "2"}
    query["continue"] = cluster.http.get(SERVICES, params=query).json()["metadata"]["continue"]
    cluster.create("d")
    cluster.fake.compact()
    refused = cluster.http.get(SERVICES, params=query)
    status = status_of(refused)
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert status["message"].startswith("The provided continue parameter is too old")
    # The refusal says how to go on, inconsistently.
    query["continue"] = status["metadata"]["continue"]
    assert names(cluster.http.get(SERVICES, params=query)) == "cd"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param({"resourceVersion": "0"}, 200, id="any"),
        pytest.param({"resourceVersion": "1"}, 200, id="not older than"),
        pytest.param({"resourceVersion": "99999"}, 504, id="future"),
        pytest.param({"resourceVersion": "x"}, 422, id="no number"),
        pytest.param({"resourceVersion": "1", "resourceVersionMatch": "Exact"}, 410, id="gone"),
        pytest.param({"resourceVersion": "0", "resourceVersionMatch": "Exact"}, 422, id="exact 0"),
        pytest.param(
            {"resourceVersion": "99999", "resourceVersionMatch": "Exact"}, 504, id="exact future"
        ),
        pytest.param({"resourceVersionMatch": "Exact"}, 422, id="match alone"),
        pytest.param({"resourceVersion": "1", "resourceVersionMatch": "x"}, 422, id="match"),
        pytest.param({"continue": "!"}, 400, id="no token"),
        pytest.param({"continue": "e30"}, 400, id="empty token"),
        pytest.param({"continue": "e30", "resourceVersion": "5"}, 400, id="both"),
        pytest.param({"limit": "x"}, 400, id="limit"),
    ],
)
def test_versions_of_lists(cluster: Cluster, query: dict[str, str], status: int) -> None:
    cluster.create("a")
    assert cluster.http.get(SERVICES, params=query).status_code == status


def test_a_list_of_a_past_version(cluster: Cluster) -> None:
    cluster.create("a")
    then = cluster.fake.version
    cluster.create("b")
    cluster.fake.create(web_slice("10.0.0.1"))
    query = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    answer = cluster.http.get(SERVICES, params=query)
    assert names(answer) == "a"
    assert answer.json()["metadata"]["resourceVersion"] == then


def test_history_is_limited() -> None:
    with serving(FakeKubernetes(namespaces=["shop"], history=3)) as cluster:
        cluster.create("web")
        then = cluster.fake.version
        query = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
        cluster.fake.flood("services", "shop", "web", 3)
        assert cluster.http.get(SERVICES, params=query).status_code == 200
        cluster.fake.flood("services", "shop", "web", 1)
        assert cluster.http.get(SERVICES, params=query).status_code == 410


# Documents


def test_the_server_tells_what_it_has(cluster: Cluster) -> None:
    def read(path: str) -> dict[str, Any]:
        answer = cluster.http.get(path)
        assert answer.status_code == 200
        content: dict[str, Any] = answer.json()
        return content

    assert read("/api")["versions"] == ["v1"]
    assert [group["name"] for group in read("/apis")["groups"]] == [
        "coordination.k8s.io",
        "discovery.k8s.io",
    ]
    group = read("/apis/discovery.k8s.io")
    assert group["preferredVersion"]["groupVersion"] == "discovery.k8s.io/v1"
    core = {item["name"]: item for item in read("/api/v1")["resources"]}
    assert core["services"]["shortNames"] == ["svc"]
    assert core["services"]["categories"] == ["all"]
    assert core["namespaces"]["namespaced"] is False
    assert set(core) == {"configmaps", "endpoints", "namespaces", "pods", "secrets", "services"}
    (slices,) = read("/apis/discovery.k8s.io/v1")["resources"]
    assert (slices["name"], slices["kind"]) == ("endpointslices", "EndpointSlice")
    assert "watch" in slices["verbs"]
    assert read("/version")["gitVersion"].startswith("v1.")
    assert read("/openapi/v2")["swagger"] == "2.0"
    assert read("/openapi/v3") == {"paths": {}}
    assert cluster.http.get("/apis/apps").status_code == 404
    assert cluster.http.get("/readyz").text == "ok"


def test_the_openapi_document_comes_in_protocol_buffers(cluster: Cluster) -> None:
    wanted = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = cluster.http.get("/openapi/v2", headers={"Accept": wanted})
    assert answer.content == b"\x0a\x032.0"
    assert "@" not in answer.headers["content-type"]


# Who may do what


def test_a_token_is_asked_for() -> None:
    with serving(FakeKubernetes(token="old")) as cluster:
        for value in (None, "Bearer other", "Basic old", "Bearer", "old", "Bearer \xfc"):
            headers = [] if value is None else [(b"Authorization", value.encode("latin-1"))]
            refused = cluster.http.get("/api", headers=headers)
            assert status_of(refused)["message"] == "Unauthorized"
        old, new = {"Authorization": "Bearer old"}, {"Authorization": "bearer new"}
        assert cluster.http.get("/api", headers=old).status_code == 200
        cluster.fake.token = "new"
        assert cluster.fake.token == "new"
        assert cluster.http.get("/api", headers=old).status_code == 401
        assert cluster.http.get("/api", headers=new).status_code == 200
        cluster.fake.token = None
        assert cluster.http.get("/api").status_code == 200


def test_what_is_forbidden_is_said_as_the_server_says_it(cluster: Cluster) -> None:
    user = "system:serviceaccount:default:default"
    cluster.create("web")
    cluster.fake.forbid("list", "services")
    cluster.fake.forbid(resource="endpointslices", namespace="shop")
    status = status_of(cluster.http.get(SERVICES))
    assert (status["code"], status["reason"]) == (403, "Forbidden")
    assert status["message"] == (
        f'services is forbidden: User "{user}" cannot list resource "services" in API group "" '
        'in the namespace "shop"'
    )
    assert status["details"] == {"kind": "services"}
    assert status_of(cluster.http.get("/api/v1/services"))["message"].endswith(
        'cannot list resource "services" in API group "" at the cluster scope'
    )
    assert status_of(cluster.http.get(f"{SLICES}/web-1"))["message"] == (
        f'endpointslices.discovery.k8s.io "web-1" is forbidden: User "{user}" cannot get resource '
        '"endpointslices" in API group "discovery.k8s.io" in the namespace "shop"'
    )
    assert cluster.http.get(WEB).status_code == 200
    assert cluster.http.get(SLICES.replace("shop", "default")).status_code == 200
    cluster.fake.allow("list", "services")
    assert cluster.http.get(SERVICES).status_code == 200
    assert cluster.http.get(SLICES).status_code == 403


def test_what_is_forbidden_must_exist(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="unknown verb 'read'; one of create"):
        cluster.fake.forbid("read")
    with pytest.raises(ValueError, match="unknown resource 'jobs'"):
        cluster.fake.forbid("get", "jobs")


# The log


def test_requests_are_noted() -> None:
    clock = VirtualClock()
    with serving(FakeKubernetes(namespaces=["shop"], clock=clock)) as cluster:
        cluster.http.get(SERVICES, params={"fieldSelector": "metadata.name=web", "limit": "5"})
        clock.advance(2)
        send(cluster, "PATCH", WEB, {})
        cluster.http.get("/version")
        first, second, third = cluster.fake.requests
    assert (first.verb, first.resource, first.namespace, first.name, first.status) == (
        "list",
        "services",
        "shop",
        "web",
        200,
    )
    assert first.query == {"fieldSelector": "metadata.name=web", "limit": "5"}
    assert first.path == SERVICES
    assert second.time - first.time == 2
    assert (second.verb, second.name, second.status) == ("patch", "web", 404)
    assert (third.verb, third.resource, third.namespace, third.path) == (
        "get",
        "",
        None,
        "/version",
    )


def test_errors_of_python_and_http_are_the_same(cluster: Cluster) -> None:
    with pytest.raises(KubernetesError) as caught:
        cluster.fake.get("services", "shop", "web")
    assert cluster.http.get(WEB).json() == caught.value.status
