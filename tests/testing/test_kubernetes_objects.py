"""The fake from Python: manifests, what the server fills in, and what it refuses."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from sticky_asgi.testing import FakeKubernetes, VirtualClock
from sticky_asgi.testing.kubernetes import KubernetesError, endpoint, endpoint_slice, service

from .cluster import web_slice


@pytest.fixture
def fake() -> FakeKubernetes:
    return FakeKubernetes(clock=VirtualClock())


def refused(fake: FakeKubernetes, obj: dict[str, Any]) -> KubernetesError:
    before = fake.version
    with pytest.raises(KubernetesError) as caught:
        fake.create(obj)
    assert fake.version == before
    return caught.value


def test_a_service_gets_what_the_server_fills_in(fake: FakeKubernetes) -> None:
    made = fake.create(service("web", annotations={"a": "b"}, ports={"http": 80}))
    assert list(made)[:3] == ["kind", "apiVersion", "metadata"]
    metadata, spec = made["metadata"], made["spec"]
    assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert str(uuid.UUID(metadata["uid"])) == metadata["uid"]
    assert metadata["resourceVersion"] == fake.version
    assert metadata["annotations"] == {"a": "b"}
    assert spec["ports"] == [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]
    assert spec["type"] == "ClusterIP"
    assert spec["sessionAffinity"] == "None"
    assert spec["ipFamilies"] == ["IPv4"]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["clusterIP"].startswith("10.96.")
    assert made["status"] == {"loadBalancer": {}}
    assert "generation" not in metadata


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            {"cluster_ip": None, "ports": None},
            {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]},
            id="headless",
        ),
        pytest.param(
            {"external_name": "shop.test"},
            {"type": "ExternalName", "externalName": "shop.test"},
            id="external",
        ),
        pytest.param(
            {"ip_families": ["IPv4", "IPv6"]}, {"ipFamilies": ["IPv4", "IPv6"]}, id="dual stack"
        ),
        pytest.param({"type": "NodePort"}, {"type": "NodePort"}, id="node port"),
        pytest.param(
            {"ports": {"a": 80, "b": 443}, "app_protocol": "https"},
            {
                "ports": [
                    {
                        "name": name,
                        "port": port,
                        "protocol": "TCP",
                        "appProtocol": "https",
                        "targetPort": port,
                    }
                    for name, port in (("a", 80), ("b", 443))
                ]
            },
            id="ports",
        ),
    ],
)
def test_services_of_all_kinds(
    fake: FakeKubernetes, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    spec = fake.create(service("web", **options))["spec"]
    assert {key: spec[key] for key in expected} == expected
    if spec["type"] == "ExternalName":
        assert "clusterIP" not in spec
    elif spec["clusterIP"] != "None":
        assert len(spec["clusterIPs"]) == len(spec["ipFamilies"])


def test_an_endpoint_says_what_it_is_told() -> None:
    made = endpoint(
        "10.0.0.1",
        pod="web-0",
        ready=False,
        serving=True,
        terminating=True,
        node="n1",
        zone="a",
        for_zones=["a", "b"],
    )
    assert made == {
        "addresses": ["10.0.0.1"],
        "conditions": {"ready": False, "serving": True, "terminating": True},
        "targetRef": {"kind": "Pod", "name": "web-0", "uid": "uid-of-web-0"},
        "nodeName": "n1",
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}]},
    }
    assert endpoint("10.0.0.1", ready=None) == {"addresses": ["10.0.0.1"], "conditions": {}}
    assert endpoint("10.0.0.1", pod="p", uid="u")["targetRef"]["uid"] == "u"


def test_a_slice_belongs_to_its_service(fake: FakeKubernetes) -> None:
    made = fake.create(web_slice("10.0.0.1", ports={"http": 8080}, app_protocol="http"))
    assert made["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert made["metadata"]["name"] == "web-1"
    assert made["metadata"]["generation"] == 1
    assert made["addressType"] == "IPv4"
    assert made["ports"] == [
        {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}
    ]
    assert made["endpoints"][0]["targetRef"]["namespace"] == "shop"


def test_a_slice_may_be_empty(fake: FakeKubernetes) -> None:
    made = fake.create(endpoint_slice("web", [], ports=None))
    assert (made["addressType"], made["endpoints"], made["ports"]) == ("IPv4", [], [])


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        pytest.param("10.0.0.1", "IPv4", id="v4"),
        pytest.param("fd00::1", "IPv6", id="v6"),
        pytest.param("shop.test", "FQDN", id="name"),
    ],
)
def test_a_slice_has_the_type_of_its_addresses(address: str, kind: str) -> None:
    assert endpoint_slice("web", [endpoint(address)])["addressType"] == kind


def test_a_namespace_is_made_when_it_is_missing(fake: FakeKubernetes) -> None:
    fake.create(service("web", namespace="shop"))
    made = fake.get("namespaces", None, "shop")
    assert made["status"] == {"phase": "Active"}
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "shop"}


def test_what_is_returned_is_a_copy(fake: FakeKubernetes) -> None:
    manifest = service("web", labels={"a": "b"})
    made = fake.create(manifest)
    manifest["metadata"]["labels"]["a"] = "c"
    made["metadata"]["labels"]["a"] = "d"
    fake.get("services", "default", "web")["metadata"]["labels"]["a"] = "e"
    fake.list("services")[0]["metadata"]["labels"]["a"] = "f"
    assert fake.get("services", "default", "web")["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("word", ["services", "service", "Service", "svc"])
def test_a_resource_has_several_names(fake: FakeKubernetes, word: str) -> None:
    fake.create(service("web"))
    assert fake.get(word, "default", "web")["kind"] == "Service"


def test_what_is_not_held_is_a_mistake_of_the_test(fake: FakeKubernetes) -> None:
    with pytest.raises(ValueError, match="unknown resource 'ingresses'; one of configmaps"):
        fake.list("ingresses")
    with pytest.raises(ValueError, match="apiVersion 'apps/v1', kind 'Deployment'"):
        fake.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}})
    with pytest.raises(TypeError, match="keys must be str, got 1"):
        fake.create(service("web") | {"spec": {1: 80}})
    with pytest.raises(TypeError, match="JSON has no set"):
        fake.create(service("web") | {"spec": {"ports": {80}}})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"history": 0}, "history", id="history"),
        pytest.param({"bookmark_interval": 0}, "bookmark_interval", id="bookmarks"),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FakeKubernetes(**options)


# Versions


def test_every_write_has_a_higher_version(fake: FakeKubernetes) -> None:
    versions = [int(fake.version)]
    fake.create(service("web"))
    versions.append(int(fake.version))
    fake.create(web_slice("10.0.0.1"))
    versions.append(int(fake.version))
    fake.patch("services", "default", "web", {"metadata": {"labels": {"a": "b"}}})
    versions.append(int(fake.version))
    fake.delete("services", "default", "web")
    versions.append(int(fake.version))
    assert versions == sorted(set(versions))


def test_a_write_that_changes_nothing_is_none(fake: FakeKubernetes) -> None:
    made = fake.create(service("web", labels={"a": "b"}))
    assert fake.replace(made) == made
    assert fake.patch("services", "default", "web", {"metadata": {"labels": {"a": "b"}}}) == made
    assert fake.version == made["metadata"]["resourceVersion"]


def test_an_old_version_is_a_conflict(fake: FakeKubernetes) -> None:
    old = fake.create(service("web"))
    fake.patch("services", "default", "web", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(KubernetesError) as caught:
        fake.replace(old)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    assert caught.value.message == (
        'Operation cannot be fulfilled on services "web": the object has been modified; please '
        "apply your changes to the latest version and try again"
    )
    version = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    with pytest.raises(KubernetesError, match="has been modified"):
        fake.patch("services", "default", "web", version)
    del old["metadata"]["resourceVersion"]
    assert "labels" not in fake.replace(old)["metadata"]


def test_what_the_server_sets_stays(fake: FakeKubernetes) -> None:
    made = fake.create(service("web"))
    after = fake.replace(service("web", annotations={"a": "b"}))
    for key in ("uid", "creationTimestamp"):
        assert after["metadata"][key] == made["metadata"][key]
    assert after["spec"]["clusterIP"] == made["spec"]["clusterIP"]


def test_another_uid_is_another_object(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    other = service("web")
    other["metadata"]["uid"] = "other"
    with pytest.raises(KubernetesError, match="Precondition failed: UID in precondition: other"):
        fake.replace(other)


def test_a_generation_counts_changes_of_the_content(fake: FakeKubernetes) -> None:
    def generation() -> int:
        number: int = fake.get("endpointslices", "shop", "web-1")["metadata"]["generation"]
        return number

    fake.create(web_slice("10.0.0.1"))
    fake.patch("endpointslices", "shop", "web-1", {"metadata": {"labels": {"a": "b"}}})
    assert generation() == 1
    fake.replace(web_slice("10.0.0.1", "10.0.0.2"))
    assert generation() == 2


def test_a_recreated_object_is_a_new_one(fake: FakeKubernetes) -> None:
    first = fake.create(service("web"))
    gone = fake.delete("services", "default", "web")
    assert gone["metadata"]["uid"] == first["metadata"]["uid"]
    assert gone["metadata"]["resourceVersion"] == fake.version
    assert fake.create(service("web"))["metadata"]["uid"] != first["metadata"]["uid"]


def test_finalizers_hold_a_deletion_up(fake: FakeKubernetes) -> None:
    manifest = service("web")
    manifest["metadata"]["finalizers"] = ["example.com/a"]
    fake.create(manifest)
    fake.delete("services", "default", "web")
    marked = fake.get("services", "default", "web")
    assert marked["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    fake.delete("services", "default", "web")
    assert fake.get("services", "default", "web") == marked
    fake.patch("services", "default", "web", {"metadata": {"finalizers": None}})
    assert fake.list("services") == []


def test_a_namespace_takes_its_objects_with_it(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    fake.create(service("web", namespace="shop"))
    fake.create(web_slice("10.0.0.1"))
    fake.delete("namespaces", None, "shop")
    assert [obj["metadata"]["namespace"] for obj in fake.list("services")] == ["default"]
    assert fake.list("endpointslices") == []


# Refusals


def test_an_object_exists_once(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    error = refused(fake, service("web"))
    assert error.status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'services "web" already exists',
        "reason": "AlreadyExists",
        "details": {"name": "web", "kind": "services"},
        "code": 409,
    }
    assert repr(error) == '<KubernetesError 409 AlreadyExists: services "web" already exists>'


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_what_is_not_there(fake: FakeKubernetes, verb: str) -> None:
    with pytest.raises(KubernetesError) as caught:
        getattr(fake, verb)("endpointslices", "shop", "web-1")
    assert caught.value.code == 404
    assert caught.value.message == 'endpointslices.discovery.k8s.io "web-1" not found'
    assert caught.value.details == {
        "name": "web-1",
        "group": "discovery.k8s.io",
        "kind": "endpointslices",
    }


def changed(obj: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The object with one place changed; numbers in the path are indexes."""
    *parents, last = path.split(".")
    place: Any = obj
    for part in parents:
        place = place[int(part)] if part.isdecimal() else place[part]
    place[last] = value
    return obj


@pytest.mark.parametrize(
    ("obj", "code", "part"),
    [
        pytest.param(
            service("Web"), 422, 'metadata.name: Invalid value: "Web": a DNS-1035', id="upper"
        ),
        pytest.param(service("1web"), 422, "a DNS-1035 label", id="digit first"),
        pytest.param(service("a" * 64), 422, "no more than 63 characters", id="long name"),
        pytest.param(service("web", ports=None), 422, "spec.ports: Required value", id="no ports"),
        pytest.param(
            service("web", ports=0),
            422,
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535",
            id="port 0",
        ),
        pytest.param(
            service("web", ports={"": 80, "a": 81}),
            422,
            "spec.ports[0].name: Required value",
            id="unnamed",
        ),
        pytest.param(
            service("web", ports={"a": 80, "b": 80}),
            422,
            "spec.ports[1]: Duplicate value",
            id="port twice",
        ),
        pytest.param(
            service("web", ports={"A_": 80}),
            422,
            "spec.ports[0].name: Invalid value",
            id="port name",
        ),
        pytest.param(
            changed(service("web"), "spec.ports.0.protocol", "UDPX"),
            422,
            'Unsupported value: "UDPX": supported values: "SCTP", "TCP", "UDP"',
            id="protocol",
        ),
        pytest.param(
            changed(service("web"), "spec.ports.0.targetPort", "-"),
            422,
            "targetPort",
            id="target name",
        ),
        pytest.param(
            changed(service("web"), "spec.ports.0.targetPort", 70000),
            422,
            "targetPort",
            id="target number",
        ),
        pytest.param(
            changed(service("web", ports={"a": 80, "b": 81}), "spec.ports.1.name", "a"),
            422,
            'spec.ports[1].name: Duplicate value: "a"',
            id="port name twice",
        ),
        pytest.param(
            service("web", ip_families=["IPv4", "IPv5"]),
            422,
            'spec.ipFamilies[1]: Unsupported value: "IPv5"',
            id="family of a service",
        ),
        pytest.param(
            service("web", annotations={"a_b/c": ""}), 422, "prefix part", id="annotation prefix"
        ),
        pytest.param(service("web", type="Other"), 422, "spec.type: Unsupported value", id="type"),
        pytest.param(
            service("web", type="ExternalName"),
            422,
            "spec.externalName: Required value",
            id="external",
        ),
        pytest.param(
            service("web", labels={"a": "b c"}), 422, "metadata.labels: Invalid value", id="label"
        ),
        pytest.param(
            service("web", labels={"-": "b"}), 422, "metadata.labels: Invalid value", id="label key"
        ),
        pytest.param(
            service("web", annotations={"A/b": "", "x y": ""}),
            422,
            "metadata.annotations: Invalid value",
            id="annotation key",
        ),
        pytest.param(
            service("web", annotations={"a": "x" * 262144}),
            422,
            "metadata.annotations: Too long",
            id="annotations",
        ),
        pytest.param(
            changed(service("web"), "metadata.annotations", {"a": True}),
            400,
            "cannot unmarshal bool into Go struct field Service.metadata.annotations of type",
            id="boolean",
        ),
        pytest.param(
            changed(service("web"), "metadata.finalizers", 5),
            400,
            "of type array",
            id="finalizers",
        ),
        pytest.param(
            changed(service("web"), "metadata.labels", ["a"]),
            400,
            "cannot unmarshal array",
            id="labels",
        ),
        pytest.param(
            changed(service("web"), "metadata.name", 1), 400, "cannot unmarshal number", id="name"
        ),
        pytest.param(
            changed(service("web"), "metadata.name", ""),
            422,
            "name or generateName is required",
            id="no name",
        ),
        pytest.param(
            changed(service("web"), "metadata.resourceVersion", "5"),
            500,
            "resourceVersion should not be set",
            id="version",
        ),
        pytest.param(
            changed(service("web"), "spec", "x"), 400, "cannot be handled as a Service", id="spec"
        ),
        pytest.param(
            changed(service("web"), "spec.ports", ["x"]),
            400,
            "cannot be handled as a Service",
            id="port",
        ),
        pytest.param(
            web_slice("10.0.0.1", address_type="IPv5"),
            422,
            "addressType: Unsupported value",
            id="address type",
        ),
        pytest.param(
            changed(web_slice("10.0.0.1"), "addressType", ""),
            422,
            "addressType: Required value",
            id="no address type",
        ),
        pytest.param(
            web_slice("10.0.0.1", address_type="IPv6"),
            422,
            'endpoints[0].addresses[0]: Invalid value: "10.0.0.1": must be a valid IP address',
            id="family",
        ),
        pytest.param(
            web_slice("10.0.0.300", address_type="IPv4"),
            422,
            "endpoints[0].addresses[0]",
            id="no address",
        ),
        pytest.param(
            web_slice("a_b", address_type="FQDN"), 422, "must be a valid hostname", id="hostname"
        ),
        pytest.param(
            endpoint_slice("web", [endpoint([])], address_type="IPv4"),
            422,
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            id="empty",
        ),
        pytest.param(
            web_slice(*["10.0.0.1"] * 1001), 422, "endpoints: Too many: 1001", id="endpoints"
        ),
        pytest.param(
            changed(web_slice("10.0.0.1"), "ports.0.port", 0), 422, "ports[0].port", id="slice port"
        ),
        pytest.param(
            changed(web_slice("10.0.0.1"), "ports.0.protocol", "X"),
            422,
            "ports[0].protocol",
            id="slice protocol",
        ),
        pytest.param(
            changed(web_slice("10.0.0.1"), "ports", [{"port": 1}, {"port": 2}]),
            422,
            "ports[1].name: Duplicate value",
            id="slice port name",
        ),
        pytest.param(
            endpoint_slice("web", [endpoint("10.0.0.1", for_zones="abcdefghi")]),
            422,
            "hints.forZones: Forbidden",
            id="hints",
        ),
        pytest.param(
            changed(web_slice("10.0.0.1"), "endpoints.0.conditions", {"ready": "true"}),
            400,
            "into ready of type bool",
            id="condition",
        ),
        pytest.param(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A"}},
            422,
            "a lowercase RFC 1123 subdomain",
            id="config map",
        ),
        pytest.param(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}},
            422,
            "a lowercase RFC 1123 label",
            id="namespace",
        ),
        pytest.param(
            {"apiVersion": "v1", "kind": "ConfigMap"},
            400,
            "cannot unmarshal null",
            id="no metadata",
        ),
    ],
)
def test_invalid_objects_are_refused(
    fake: FakeKubernetes, obj: dict[str, Any], code: int, part: str
) -> None:
    for namespace in ("default", "shop"):
        if namespace not in [one["metadata"]["name"] for one in fake.list("namespaces")]:
            fake.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    error = refused(fake, obj)
    assert error.code == code
    assert part in error.message


def test_several_faults_are_told_at_once(fake: FakeKubernetes) -> None:
    error = refused(fake, service("Web", ports=0))
    assert error.message.startswith('Service "Web" is invalid: [metadata.name: ')
    assert error.details is not None
    causes = error.details["causes"]
    assert [cause["field"] for cause in causes[:2]] == ["metadata.name", "spec.ports[0].port"]
    assert causes[1]["reason"] == "FieldValueInvalid"
    assert error.details["kind"] == "Service"


def test_some_things_cannot_be_changed(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    with pytest.raises(KubernetesError, match="may not change once set"):
        fake.patch("services", "default", "web", {"spec": {"clusterIP": "10.96.200.1"}})
    fake.create(web_slice("10.0.0.1"))
    with pytest.raises(KubernetesError, match=r"addressType: .*field is immutable"):
        fake.replace(web_slice("fd00::1"))


def test_a_service_becomes_external(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    assert fake.replace(service("web", external_name="shop.test"))["spec"]["type"] == "ExternalName"
    assert fake.replace(service("web"))["spec"]["clusterIP"].startswith("10.96.")


# Patches


def test_a_merge_patch(fake: FakeKubernetes) -> None:
    fake.create(service("web", annotations={"a": "1", "b": "2"}))
    patch = {"metadata": {"annotations": {"a": None, "c": "3"}}, "spec": {"selector": {"x": "y"}}}
    made = fake.patch("services", "default", "web", patch)
    assert made["metadata"]["annotations"] == {"b": "2", "c": "3"}
    assert made["spec"]["selector"] == {"app": "web", "x": "y"}


def test_a_json_patch(fake: FakeKubernetes) -> None:
    fake.create(service("web", annotations={"a/b": "1", "z": "3"}))
    fake.patch("services", "default", "web", {"spec": {"selector": {"x~y": "2"}}})
    at = "/metadata/annotations"
    made = fake.patch(
        "services",
        "default",
        "web",
        [
            {"op": "test", "path": f"{at}/a~1b", "value": "1"},
            {"op": "replace", "path": f"{at}/a~1b", "value": "4"},
            {"op": "remove", "path": f"{at}/z"},
            {"op": "move", "from": "/spec/selector/x~0y", "path": f"{at}/w"},
            {"op": "copy", "from": f"{at}/w", "path": f"{at}/v"},
            {"op": "add", "path": "/spec/ports/-", "value": {"name": "b", "port": 81}},
            {"op": "add", "path": "/spec/ports/0", "value": {"name": "c", "port": 82}},
            {"op": "add", "path": "/spec/ports/1/name", "value": "a"},
        ],
    )
    assert made["metadata"]["annotations"] == {"a/b": "4", "w": "2", "v": "2"}
    assert made["spec"]["selector"] == {"app": "web"}
    assert [port["name"] for port in made["spec"]["ports"]] == ["c", "a", "b"]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param([{"op": "test", "path": "/kind", "value": "Pod"}], id="test"),
        pytest.param([{"op": "remove", "path": "/metadata/nothing"}], id="nothing there"),
        pytest.param([{"op": "replace", "path": "/nothing", "value": 1}], id="nothing to replace"),
        pytest.param([{"op": "add", "path": "/a/b", "value": 1}], id="no parent"),
        pytest.param([{"op": "add", "path": "/spec/ports/7", "value": {}}], id="beyond the end"),
        pytest.param([{"op": "remove", "path": "/spec/ports/1"}], id="no such item"),
        pytest.param([{"op": "remove", "path": "/spec/ports/-1"}], id="negative"),
        pytest.param([{"op": "add", "path": "/metadata/labels"}], id="no value"),
        pytest.param([{"op": "add", "path": "metadata", "value": 1}], id="no pointer"),
        pytest.param([{"op": "set", "path": "/kind", "value": 1}], id="no operation"),
        pytest.param(["remove"], id="no object"),
    ],
)
def test_a_json_patch_that_does_not_fit(fake: FakeKubernetes, patch: list[Any]) -> None:
    made = fake.create(service("web"))
    with pytest.raises(KubernetesError) as caught:
        fake.patch("services", "default", "web", patch)
    assert caught.value.code == 422
    assert fake.get("services", "default", "web") == made


def test_a_patch_cannot_rename(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    with pytest.raises(KubernetesError, match="does not match the name on the URL"):
        fake.patch("services", "default", "web", {"metadata": {"name": "other"}})
    with pytest.raises(KubernetesError, match="namespace of the provided object does not match"):
        fake.patch("services", "default", "web", {"metadata": {"namespace": "other"}})


# Selectors


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        pytest.param("", "abc", id="all"),
        pytest.param("app=x", "a", id="equal"),
        pytest.param("app==x", "a", id="double"),
        pytest.param("app!=x", "bc", id="unequal"),
        pytest.param("app in (x, y)", "ab", id="in"),
        pytest.param("app notin (x)", "bc", id="notin"),
        pytest.param("app", "ab", id="exists"),
        pytest.param("!app", "c", id="not exists"),
        pytest.param("app in (x,y),tier", "b", id="both"),
        pytest.param("tier>2", "b", id="greater"),
        pytest.param("tier<2", "", id="less"),
        pytest.param("example.com/a=", "c", id="empty value"),
    ],
)
def test_label_selectors(fake: FakeKubernetes, labels: str, names: str) -> None:
    fake.create(service("a", labels={"app": "x"}))
    fake.create(service("b", labels={"app": "y", "tier": "3"}))
    fake.create(service("c", labels={"example.com/a": ""}))
    found = fake.list("services", labels=labels)
    assert "".join(obj["metadata"]["name"] for obj in found) == names


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param("metadata.name=a", "a", id="name"),
        pytest.param("metadata.name!=a", "b", id="not the name"),
        pytest.param("metadata.namespace=shop", "b", id="namespace"),
        pytest.param("metadata.namespace=shop,metadata.name==a", "", id="both"),
    ],
)
def test_field_selectors(fake: FakeKubernetes, fields: str, names: str) -> None:
    fake.create(service("a"))
    fake.create(service("b", namespace="shop"))
    found = fake.list("services", fields=fields)
    assert "".join(obj["metadata"]["name"] for obj in found) == names


@pytest.mark.parametrize(
    "selector",
    [
        pytest.param({"labels": "a=b=c"}, id="two signs"),
        pytest.param({"labels": "a in b"}, id="no brackets"),
        pytest.param({"labels": "a=b,"}, id="comma"),
        pytest.param({"labels": "-a"}, id="key"),
        pytest.param({"fields": "metadata.name"}, id="no sign"),
        pytest.param({"fields": "spec.type=ClusterIP"}, id="unknown field"),
    ],
)
def test_selectors_that_are_none(fake: FakeKubernetes, selector: dict[str, str]) -> None:
    with pytest.raises(KubernetesError) as caught:
        fake.list("services", **selector)
    assert caught.value.code == 400


def test_repr_tells_the_state(fake: FakeKubernetes) -> None:
    fake.create(service("web"))
    version = fake.version
    assert repr(fake) == f"<FakeKubernetes version {version} [2 objects | 0 watches | 0 requests]>"
