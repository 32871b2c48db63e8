"""The backends of a Service, put together from its slices."""

from __future__ import annotations

from typing import Any

import pytest

from sticky_asgi import Intent
from sticky_asgi.discovery.kubernetes.backends import Choice, Identity, ServiceBackends
from sticky_asgi.discovery.kubernetes.services import Unusable, read_service
from sticky_asgi.testing.kubernetes import endpoint, service

from .kubernetes_objects import ARTICLE, a_service, a_slice, backends_of, ids, urls


def test_a_service_and_its_pods() -> None:
    view = backends_of(
        a_slice(
            endpoint("10.0.0.1", pod="a", uid="u", node="n", zone="z"),
            endpoint("10.0.0.2", pod="b", ready=False),
            endpoint("10.0.0.3", pod="c", ready=False, serving=True, terminating=True),
            ports={"http": 8080},
        ),
        service=a_service(ports={"http": 80}, annotations=ARTICLE),
    )
    snapshot = view.snapshot()
    assert ids(view) == ["a", "b", "c"]
    assert urls(view)[0] == "http://10.0.0.1:8080"
    assert snapshot.intents == {"b": Intent.DOWN, "c": Intent.DRAINING}
    assert snapshot.backends[0].metadata == {"pod": "a", "uid": "u", "node": "n", "zone": "z"}
    assert snapshot.affinity is not None
    assert snapshot.affinity.name == "traefik-cookie"


def test_without_a_service_there_are_no_backends() -> None:
    view = backends_of(a_slice(endpoint("10.0.0.1", pod="a")))
    assert ids(view) == ["a"]
    view.service = None
    assert view.snapshot().backends == ()
    assert list(view.steps()) == []


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("pod", ["a", "10.0.0.2:80"]),
        ("uid", ["uid-of-a", "10.0.0.2:80"]),
        ("address", ["10.0.0.1:80", "10.0.0.2:80"]),
    ],
)
def test_identity(identity: Identity, expected: list[str]) -> None:
    part = a_slice(endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2"))
    assert ids(backends_of(part, choice=Choice(identity=identity))) == expected


def test_an_address_of_version_6() -> None:
    view = backends_of(a_slice(endpoint("2001:db8::1"), endpoint("2001:db8::2", pod="b")))
    assert ids(view) == ["[2001:db8::1]:80", "b"]
    assert urls(view) == ["http://[2001:db8::1]:80", "http://[2001:db8::2]:80"]


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        (["IPv4", "IPv6"], "http://10.0.0.1:80"),
        (["IPv6", "IPv4"], "http://[2001:db8::1]:80"),
        (["IPv6"], "http://[2001:db8::1]:80"),
    ],
)
def test_of_two_families_the_first_counts(families: list[str], expected: str) -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), name="web-4"),
        a_slice(endpoint("2001:db8::1", pod="a"), name="web-6"),
        service=a_service(ip_families=families),
    )
    assert urls(view) == [expected]


def test_slices_are_sorted_by_age_and_name() -> None:
    old, new = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    slices = [
        a_slice(endpoint("10.0.0.3", pod="c"), name="web-a", created=new),
        a_slice(endpoint("10.0.0.2", pod="b"), name="web-z", created=old),
        a_slice(endpoint("10.0.0.1", pod="a"), name="web-y", created=old),
    ]
    for order in (slices, slices[::-1]):
        assert ids(backends_of(*order)) == ["a", "b", "c"]


BEST = [
    pytest.param({}, {"ready": False}, Intent.ACTIVE, id="active before down"),
    pytest.param(
        {"ready": False, "serving": True, "terminating": True},
        {"ready": False},
        Intent.DRAINING,
        id="draining before down",
    ),
    pytest.param(
        {}, {"ready": False, "serving": True, "terminating": True}, Intent.ACTIVE, id="active first"
    ),
]


@pytest.mark.parametrize(("better", "worse", "intent"), BEST)
@pytest.mark.parametrize("in_one_slice", [False, True])
def test_an_endpoint_that_is_there_twice(
    better: dict[str, Any], worse: dict[str, Any], intent: Intent, in_one_slice: bool
) -> None:
    for first, second in ((better, worse), (worse, better)):
        endpoints = [
            endpoint("10.0.0.1", pod="a", **first),
            endpoint("10.0.0.1", pod="a", **second),
        ]
        more = endpoint("10.0.0.2", pod="b")
        if in_one_slice:
            view = backends_of(a_slice(*endpoints, more))
        else:
            view = backends_of(
                a_slice(endpoints[0], name="web-1"), a_slice(endpoints[1], more, name="web-2")
            )
        assert ids(view) == ["a", "b"]
        assert view.snapshot().intents.get("a", Intent.ACTIVE) is intent


def test_the_port_of_the_slice_counts_not_that_of_the_service() -> None:
    service = a_service(ports={"http": 80, "admin": 90})
    part = a_slice(endpoint("10.0.0.1", pod="a"), ports={"http": 8080, "admin": 9090})
    for wanted, url in ((80, "8080"), ("http", "8080"), (90, "9090"), ("admin", "9090")):
        view = backends_of(part, service=service, choice=Choice(port=wanted))
        assert urls(view) == [f"http://10.0.0.1:{url}"]


def test_pods_that_resolve_a_port_differently_are_in_different_slices() -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports={"http": 8080}, name="web-1"),
        a_slice(endpoint("10.0.0.2", pod="b"), ports={"http": 9090}, name="web-2"),
        a_slice(endpoint("10.0.0.3", pod="c"), ports={"other": 1}, name="web-3"),
        service=a_service(ports={"http": 80}),
    )
    assert urls(view) == ["http://10.0.0.1:8080", "http://10.0.0.2:9090"]


@pytest.mark.parametrize("identity", ["pod", "uid", "address"])
def test_a_port_that_gets_another_name_keeps_who_is_there(identity: Identity) -> None:
    """The Service says so first, and its slices a moment later."""
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2", pod="b"), ports={"http": 80}),
        service=a_service(ports={"http": 80}),
        choice=Choice(identity=identity),
    )
    before = view.snapshot().backends
    view.service = a_service(ports={"web": 80})
    assert view.remarks() == ()
    assert list(map(id, view.snapshot().backends)) == list(map(id, before))
    # Meanwhile one is not ready any more, one goes, and one comes whose port nobody knows.
    moved = endpoint("10.0.0.1", pod="a", ready=False), endpoint("10.0.0.2", pod="c")
    view.slices["web-1"] = a_slice(*moved, ports={"http": 80})
    snapshot = view.snapshot()
    assert list(map(id, snapshot.backends)) == [id(before[0])]
    assert list(snapshot.intents.values()) == [Intent.DOWN]
    assert view.remarks() == ()
    view.slices["web-1"] = a_slice(*moved, ports={"web": 80})
    after = view.snapshot().backends
    assert view.remarks() == ()
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert [backend.metadata["pod"] for backend in after] == ["a", "c"]


def test_a_headless_service() -> None:
    part = a_slice(endpoint("10.0.0.1", pod="a"), ports=None)
    service = a_service(cluster_ip=None, ports=None)
    view = backends_of(part, service=service, choice=Choice(port=8080))
    assert urls(view) == ["http://10.0.0.1:8080"]
    with pytest.raises(Unusable, match="port must be given"):
        backends_of(part, service=service).snapshot()
    with_port = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports={"http": 8080}),
        service=a_service(cluster_ip=None, ports={"http": 80}),
    )
    assert urls(with_port) == ["http://10.0.0.1:8080"]


def test_https() -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports={"https": 8443}),
        service=a_service(ports={"https": 443}),
    )
    assert urls(view) == ["https://10.0.0.1:8443"]


def test_a_service_without_the_port_is_unusable_until_it_has_it() -> None:
    view = backends_of(a_slice(endpoint("10.0.0.1", pod="a")), choice=Choice(port="http"))
    for ask in (view.snapshot, lambda: list(view.steps())):
        with pytest.raises(Unusable, match="'http'"):
            ask()
    view.service = a_service(ports={"http": 80})
    view.slices["web-1"] = a_slice(endpoint("10.0.0.1", pod="a"), ports={"http": 80})
    assert ids(view) == ["a"]


# Hints


def priorities(view: ServiceBackends) -> dict[str, int]:
    return {backend.id: backend.priority for backend in view.snapshot().backends}


def hinted(pod: str, *zones: str, **options: Any) -> Any:
    return endpoint(f"10.0.0.{ord(pod) - 96}", pod=pod, for_zones=zones or None, **options)


@pytest.mark.parametrize(
    ("zone", "endpoints", "expected"),
    [
        pytest.param("x", [hinted("a", "x"), hinted("b", "y")], {"a": 0, "b": 1}, id="ours first"),
        pytest.param(
            "x", [hinted("a", "x", "y"), hinted("b", "y")], {"a": 0, "b": 1}, id="for several"
        ),
        pytest.param("z", [hinted("a", "x"), hinted("b", "y")], {"a": 0, "b": 0}, id="none ours"),
        pytest.param("x", [hinted("a", "x"), hinted("b")], {"a": 0, "b": 0}, id="one without"),
        pytest.param(None, [hinted("a", "x"), hinted("b", "y")], {"a": 0, "b": 0}, id="no zone"),
        pytest.param(
            "x",
            [hinted("a", "x"), hinted("b", "y"), hinted("c", ready=False)],
            {"a": 0, "b": 1, "c": 0},
            id="those not ready need none",
        ),
        pytest.param(
            "x",
            [hinted("a", "x", ready=False), hinted("b", "y")],
            {"a": 0, "b": 0},
            id="ours is not ready",
        ),
    ],
)
def test_hints(zone: str | None, endpoints: list[Any], expected: dict[str, int]) -> None:
    view = backends_of(a_slice(*endpoints), choice=Choice(zone=zone))
    assert priorities(view) == expected
    for backend in view.snapshot().backends:
        assert backend.url == f"http://10.0.0.{ord(backend.id) - 96}:80"
        assert backend.metadata["pod"] == backend.id


# What stays the same


def test_what_does_not_change_stays_the_same_object() -> None:
    view = backends_of(
        a_slice(hinted("a", "x"), hinted("b", "y"), name="web-1"),
        a_slice(hinted("c", "y"), name="web-2"),
        choice=Choice(zone="x"),
    )
    before = view.snapshot().backends
    assert list(map(id, view.snapshot().backends)) == list(map(id, before))
    view.slices["web-1"] = a_slice(
        hinted("a", "x"), hinted("b", "y", ready=False), hinted("d", "y"), name="web-1"
    )
    after = {backend.id: backend for backend in view.snapshot().backends}
    assert after["a"] is before[0]
    assert after["c"] is before[2]
    view.slices["web-1"] = a_slice(hinted("a", "x"), hinted("b", "y"), name="web-1")
    assert list(map(id, view.snapshot().backends)) == list(map(id, before))


def test_another_address_or_port_is_another_object() -> None:
    view = backends_of(a_slice(endpoint("10.0.0.1", pod="a")))
    before = view.snapshot().backends[0]
    view.slices["web-1"] = a_slice(endpoint("10.0.0.9", pod="a"))
    moved = view.snapshot().backends[0]
    assert (moved.id, moved.url) == ("a", "http://10.0.0.9:80")
    assert moved is not before
    view.slices["web-1"] = a_slice(endpoint("10.0.0.9", pod="a"), ports=81)
    assert urls(view) == ["http://10.0.0.9:81"]
    view.slices["web-1"] = a_slice(endpoint("10.0.0.9", pod="a", node="n"), ports=81)
    assert view.snapshot().backends[0].metadata["node"] == "n"


def test_an_address_that_is_used_again_is_another_backend() -> None:
    view = backends_of(a_slice(endpoint("10.0.0.1", pod="a")))
    assert ids(view) == ["a"]
    view.slices["web-1"] = a_slice(endpoint("10.0.0.1", pod="b"))
    assert ids(view) == ["b"]


def test_slices_that_go() -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), name="web-1"),
        a_slice(endpoint("10.0.0.2", pod="b"), name="web-2"),
    )
    assert ids(view) == ["a", "b"]
    del view.slices["web-1"]
    assert ids(view) == ["b"]


def test_each_step_is_one_slice_that_has_changed() -> None:
    view = backends_of(
        *(a_slice(endpoint(f"10.0.0.{n}", pod=f"p{n}"), name=f"web-{n}") for n in range(1, 6))
    )
    assert len(list(view.steps())) == 5
    assert len(list(view.steps())) == 0
    assert len(ids(view)) == 5
    view.slices["web-3"] = a_slice(endpoint("10.0.0.9", pod="p9"), name="web-3")
    assert len(list(view.steps())) == 1
    assert "p9" in ids(view)


# ExternalName


def external(name: str, **options: Any) -> ServiceBackends:
    service = a_service(external_name=name, **options)
    return backends_of(service=service, choice=Choice(external_name=True))


def test_an_external_name_is_one_backend() -> None:
    view = external("db.example.com", ports={"http": 8080})
    assert urls(view) == ["http://db.example.com:8080"]
    assert ids(view) == ["db.example.com:8080"]
    assert urls(external("db.example.com", ports={"https": 443})) == ["https://db.example.com:443"]


def test_an_external_name_without_ports_takes_the_one_that_is_wanted() -> None:
    service = a_service(external_name="db.example.com", ports=None)
    view = backends_of(service=service, choice=Choice(port=81, external_name=True))
    assert urls(view) == ["http://db.example.com:81"]
    with pytest.raises(Unusable, match="port"):
        backends_of(service=service, choice=Choice(external_name=True)).snapshot()


def test_an_external_name_must_be_allowed() -> None:
    with pytest.raises(Unusable, match="external_name=True"):
        backends_of(service=a_service(external_name="db.example.com")).snapshot()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "169.254.169.254", "[::1]"])
def test_external_names_that_are_refused(name: str) -> None:
    with pytest.raises(Unusable, match="refused"):
        external(name).snapshot()


@pytest.mark.parametrize("spec", [{}, {"externalName": None}], ids=["missing", "null"])
def test_an_external_name_that_is_missing(spec: dict[str, Any]) -> None:
    found = read_service(service("web") | {"spec": {"type": "ExternalName", "ports": [], **spec}})
    view = backends_of(service=found, choice=Choice(port=80, external_name=True))
    with pytest.raises(Unusable, match=r"^externalName='' is no name of the DNS$"):
        view.snapshot()


def test_an_external_name_that_stays_is_the_same_object() -> None:
    view = external("db.example.com")
    (before,) = view.snapshot().backends
    assert view.snapshot().backends[0] is before
    view.service = a_service(external_name="other.example.com")
    (after,) = view.snapshot().backends
    assert after.url == "http://other.example.com:80"


# Remarks


def test_remarks() -> None:
    key = "traefik.ingress.kubernetes.io/affinity"
    view = backends_of(service=a_service(annotations={key: "cookie"}, app_protocol="grpc"))
    annotation, protocol = view.remarks()
    assert key in annotation
    assert "appProtocol='grpc'" in protocol
    assert view.remarks() == (annotation, protocol)
    view.service = a_service(annotations=ARTICLE)
    assert view.remarks() == ()
    assert backends_of(choice=Choice(port="no")).remarks() == ()


NO_NUMBER = "none of its endpoints becomes a backend: no port in their slices has the name 'http'"


@pytest.mark.parametrize(
    ("options", "ports", "remarks"),
    [
        pytest.param({"ports": {"http": 80}}, {"other": 8080}, (NO_NUMBER,), id="another name"),
        pytest.param({"ports": {"http": 80}}, None, (NO_NUMBER,), id="no ports"),
        pytest.param(
            {"ports": 80}, {"http": 8080}, (NO_NUMBER.replace("the name 'http'", "no name"),),
            id="no name",
        ),
        pytest.param({"ports": {"http": 80}}, {"http": 8080, "x": 1}, (), id="the name"),
        pytest.param(
            {"ports": {"http": 80}, "ip_families": ["IPv6"]},
            {"http": 8080},
            ("none of its endpoints becomes a backend: none is IPv6",),
            id="another family",
        ),
    ],
)  # fmt: skip
def test_endpoints_that_are_no_backends_are_remarked(
    options: dict[str, Any], ports: Any, remarks: tuple[str, ...]
) -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports=ports),
        a_slice(ports={"http": 8080}, name="web-2", address_type="IPv6"),
        service=a_service(**options),
    )
    assert (ids(view) == []) is bool(remarks)
    assert view.remarks() == remarks
    del view.slices["web-1"]
    assert view.remarks() == (), "no endpoints, no question why"


def test_a_port_that_has_gone_is_remarked_once_nobody_is_left() -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports={"http": 8080}, name="web-1"),
        a_slice(endpoint("10.0.0.2", pod="b"), ports={"http": 8080}, name="web-2"),
        service=a_service(ports={"http": 80}),
    )
    assert ids(view) == ["a", "b"]
    view.slices["web-1"] = a_slice(endpoint("10.0.0.3", pod="c"), ports={"x": 1}, name="web-1")
    view.slices["web-2"] = a_slice(endpoint("10.0.0.2", pod="b"), ports={"x": 1}, name="web-2")
    assert view.remarks() == ()
    assert ids(view) == ["b"]
    view.slices["web-2"] = a_slice(endpoint("10.0.0.4", pod="d"), ports={"x": 1}, name="web-2")
    assert view.remarks() == (NO_NUMBER,)
    assert ids(view) == []


def test_a_headless_service_takes_the_port_that_is_wanted_without_a_remark() -> None:
    view = backends_of(
        a_slice(endpoint("10.0.0.1", pod="a"), ports=None),
        service=a_service(cluster_ip=None, ports=None),
        choice=Choice(port=8080),
    )
    assert view.remarks() == ()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"port": 0}, ValueError),
        ({"port": 65536}, ValueError),
        ({"port": ""}, ValueError),
        ({"port": "a b"}, ValueError),
        ({"port": True}, ValueError),
        ({"port": 80.0}, TypeError),
        ({"identity": "name"}, ValueError),
        ({"zone": ""}, ValueError),
        ({"zone": 1}, TypeError),
        ({"external_name": "yes"}, TypeError),
    ],
)
def test_a_choice_that_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Choice(**options)
