"""What an EndpointSlice says."""

from __future__ import annotations

from typing import Any

import pytest

from sticky_asgi import Intent
from sticky_asgi.discovery.kubernetes.endpoints import intent_of, read_slice
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice

from .kubernetes_objects import a_slice

ACTIVE, DRAINING, DOWN = Intent.ACTIVE, Intent.DRAINING, Intent.DOWN


@pytest.mark.parametrize(
    ("ready", "serving", "terminating", "intent"),
    [
        pytest.param(True, True, False, ACTIVE, id="ready"),
        pytest.param(False, False, False, DOWN, id="not ready"),
        pytest.param(None, None, None, ACTIVE, id="nothing said"),
        pytest.param(True, None, None, ACTIVE, id="mirrored, ready"),
        pytest.param(False, None, None, DOWN, id="mirrored, not ready"),
        pytest.param(None, True, False, ACTIVE, id="ready unknown, serving"),
        pytest.param(None, False, False, ACTIVE, id="ready unknown counts as ready"),
        pytest.param(True, False, False, ACTIVE, id="publishNotReadyAddresses"),
        pytest.param(False, True, False, DOWN, id="serving but not ready, alive"),
        pytest.param(False, True, True, DRAINING, id="terminating, still serving"),
        pytest.param(False, False, True, DOWN, id="terminating, serving no more"),
        pytest.param(True, True, True, DRAINING, id="publishNotReadyAddresses, terminating"),
        pytest.param(True, False, True, DOWN, id="publishNotReadyAddresses, serving no more"),
        pytest.param(None, None, True, DRAINING, id="terminating, nothing else said"),
        pytest.param(True, None, True, DRAINING, id="terminating, mirrored, ready"),
        pytest.param(False, None, True, DOWN, id="terminating, mirrored, not ready"),
        pytest.param(None, False, True, DOWN, id="terminating, not serving"),
        pytest.param(None, True, True, DRAINING, id="terminating, serving"),
    ],
)
def test_conditions(
    ready: bool | None, serving: bool | None, terminating: bool | None, intent: Intent
) -> None:
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    assert intent_of(conditions) is intent
    given = {key: value for key, value in conditions.items() if value is not None}
    assert intent_of(given) is intent


def test_an_endpoint_without_conditions_is_active() -> None:
    manifest = endpoint_slice("web", [endpoint("10.0.0.1")])
    del manifest["endpoints"][0]["conditions"]
    found = read_slice(manifest)
    assert found is not None
    assert found.endpoints[0].intent is ACTIVE


def test_what_is_read() -> None:
    found = a_slice(
        endpoint("10.0.0.1", pod="a", uid="u", node="n", zone="z", for_zones=["z", "y"]),
        endpoint("10.0.0.2"),
        ports={"http": 8080, "": 9090},
        created="2026-01-01T00:00:00Z",
    )
    assert (found.name, found.service, found.family) == ("web-1", "web", "IPv4")
    assert found.created == "2026-01-01T00:00:00Z"
    assert found.ports == {"http": 8080, "": 9090}
    assert found.endpoints == (
        ("10.0.0.1", "a", "u", "n", "z", ACTIVE, ("z", "y")),
        ("10.0.0.2", None, None, None, None, ACTIVE, ()),
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("Pod", "a", id="pod"),
        pytest.param(None, "a", id="none"),
        pytest.param("", "a", id="empty"),
        pytest.param("Node", None, id="node"),
    ],
)
def test_only_a_pod_gives_its_name(kind: str | None, name: str | None) -> None:
    made = endpoint("10.0.0.1", pod="a", uid="u")
    made["targetRef"]["kind"] = kind
    (found,) = a_slice(made).endpoints
    assert (found.name, found.uid) == (name, name and "u")


def test_only_the_first_address_counts() -> None:
    assert [one.address for one in a_slice(endpoint(["10.0.0.1", "10.0.0.2"])).endpoints] == [
        "10.0.0.1"
    ]


@pytest.mark.parametrize("key", ["endpoints", "ports"])
@pytest.mark.parametrize("value", [None, [], "absent"])
def test_nothing_in_it(key: str, value: object) -> None:
    manifest = endpoint_slice("web", [endpoint("10.0.0.1")])
    manifest[key] = value
    if value == "absent":
        del manifest[key]
    found = read_slice(manifest)
    assert found is not None
    assert len(found.endpoints if key == "endpoints" else found.ports) == 0


def test_what_is_no_backend() -> None:
    assert read_slice(endpoint_slice("web", [endpoint("web.example.com")])) is None
    manifest = endpoint_slice("web", [endpoint("10.0.0.1")])
    del manifest["metadata"]["labels"]["kubernetes.io/service-name"]
    assert read_slice(manifest) is None
    del manifest["metadata"]["labels"]
    assert read_slice(manifest) is None


def test_only_tcp_ports_with_a_number_count() -> None:
    manifest = endpoint_slice("web", [endpoint("10.0.0.1")])
    manifest["ports"] = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "any", "port": None},
        {"name": None, "port": 80},
        {"name": "web", "port": 81, "protocol": None},
    ]
    found = read_slice(manifest)
    assert found is not None
    assert found.ports == {"": 80, "web": 81}


def test_the_same_again_is_the_same_object() -> None:
    before = a_slice(endpoint("10.0.0.1", pod="a"))
    manifest = endpoint_slice("web", [endpoint("10.0.0.1", pod="a")])
    manifest["metadata"]["resourceVersion"] = "17"
    assert read_slice(manifest, before) is before
    manifest["endpoints"][0]["conditions"]["ready"] = False
    assert read_slice(manifest, before) not in (before, None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"endpoints": 7}, id="endpoints no list"),
        pytest.param({"endpoints": [7]}, id="endpoint no object"),
        pytest.param({"endpoints": [{}]}, id="no addresses"),
        pytest.param({"endpoints": [{"addresses": ["evil.example"]}]}, id="address is a name"),
        pytest.param({"endpoints": [{"addresses": ["1.2.3.4/x"]}]}, id="address with a path"),
        pytest.param({"endpoints": [{"addresses": [7]}]}, id="address no text"),
        pytest.param({"endpoints": [{"addresses": ["fe80::1%eth0"]}]}, id="address with a zone"),
        pytest.param(
            {"endpoints": [{"addresses": ["1.2.3.4"], "targetRef": {"name": "a\nb"}}]}, id="name"
        ),
        pytest.param({"endpoints": [{"addresses": ["1.2.3.4"], "zone": 7}]}, id="zone no text"),
        pytest.param(
            {"endpoints": [{"addresses": ["1.2.3.4"], "hints": {"forZones": ["z"]}}]}, id="hints"
        ),
        pytest.param({"ports": [{"port": "80"}]}, id="port no number"),
        pytest.param({"ports": [{"port": 0}]}, id="port 0"),
        pytest.param({"ports": [{"port": 65536}]}, id="port too high"),
        pytest.param({"ports": 7}, id="ports no list"),
        pytest.param({"metadata": None}, id="no metadata"),
    ],
)
def test_what_cannot_be_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_slice(endpoint_slice("web", [endpoint("10.0.0.1")]) | change)


def test_endpoints_that_have_not_changed_are_the_same_objects() -> None:
    """A hundred new ones with each change are what a garbage collector lives on."""
    names = ["a", "b", "c"]
    before = a_slice(*[endpoint("10.0.0.1", pod=name) for name in names])
    changed = [endpoint("10.0.0.1", pod=name, ready=name != "b") for name in names]
    now = read_slice(endpoint_slice("web", [*changed, endpoint("10.0.0.4", pod="d")]), before)
    assert now is not None
    assert [one.name for one in now.endpoints] == ["a", "b", "c", "d"]
    assert [one in map(id, before.endpoints) for one in map(id, now.endpoints)] == [
        True,
        False,
        True,
        False,
    ]
