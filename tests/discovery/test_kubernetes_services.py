"""What a Service says: its ports, its scheme, and whom a name may stand for."""

from __future__ import annotations

from typing import Any

import pytest

from sticky_asgi.discovery.kubernetes.external_name import check_external_name
from sticky_asgi.discovery.kubernetes.services import (
    Service,
    ServicePort,
    Unusable,
    choose_port,
    read_service,
    scheme_of,
)
from sticky_asgi.testing.kubernetes import service

from .kubernetes_objects import ARTICLE, a_service


def test_what_is_read() -> None:
    found = a_service(
        ports={"http": 80}, annotations=ARTICLE, labels={"app": "web"}, ip_families=["IPv6", "IPv4"]
    )
    assert found.name == "web"
    assert found.ports == (ServicePort("http", 80),)
    assert found.family == "IPv6"
    assert found.external_name is None
    assert found.labels == {"app": "web"}
    assert found.reading.affinity is not None
    assert found.reading.affinity.name == "traefik-cookie"


def test_the_same_again_is_the_same_object() -> None:
    manifest = service("web", annotations=ARTICLE)
    before = read_service(manifest)
    manifest["metadata"]["resourceVersion"] = "17"
    assert read_service(manifest, before) is before
    manifest["spec"]["ports"][0]["port"] = 81
    after = read_service(manifest, before)
    assert after is not before
    assert after.reading is before.reading


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"spec": None}, id="no spec"),
        pytest.param({"metadata": {}}, id="no name"),
        pytest.param({"spec": {"type": "ExternalName", "externalName": 7}}, id="external name"),
        pytest.param({"spec": {"ports": [{"port": "http"}]}}, id="port no number"),
        pytest.param({"spec": {"ipFamilies": ["IPv4\n"]}}, id="family"),
        pytest.param({"spec": {"ipFamilies": [[]]}}, id="family no text"),
        pytest.param({"spec": {"ports": [{"port": float("inf")}]}}, id="port without end"),
        pytest.param({"spec": {"ports": [{"port": 1, "name": 5}]}}, id="name no text"),
        pytest.param({"spec": {"ports": [{"port": 1, "appProtocol": 5}]}}, id="protocol no text"),
        pytest.param({"metadata": {"name": "web", "annotations": {"a": 1}}}, id="annotation"),
        pytest.param({"metadata": {"name": "web", "annotations": [1]}}, id="annotations no object"),
    ],
)
def test_what_cannot_be_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_service(service("web") | change)


HTTP_AND_ADMIN = {"http": 80, "admin": 9000}


@pytest.mark.parametrize(
    ("ports", "wanted", "found"),
    [
        pytest.param({"http": 80}, None, ("http", 80), id="the only one"),
        pytest.param(80, None, ("", 80), id="the only one has no name"),
        pytest.param(HTTP_AND_ADMIN, 9000, ("admin", 9000), id="by number"),
        pytest.param(HTTP_AND_ADMIN, "http", ("http", 80), id="by name"),
        pytest.param(None, 8080, ("", 8080), id="headless, without ports"),
    ],
)
def test_the_port(ports: Any, wanted: int | str | None, found: tuple[str, int]) -> None:
    assert choose_port(a_service(ports=ports), wanted) == (*found, None)


@pytest.mark.parametrize(
    ("ports", "wanted", "message"),
    [
        pytest.param(HTTP_AND_ADMIN, None, "80 (http), 9000 (admin)", id="several"),
        pytest.param(HTTP_AND_ADMIN, "grpc", "'grpc' among its ports: 80", id="no such name"),
        pytest.param(HTTP_AND_ADMIN, 81, "no TCP port 81", id="no such number"),
        pytest.param({"http": 80}, "80", "a number has no quotes", id="a number as a name"),
        pytest.param({"http": 80}, 8080, "no TCP port 8080", id="the pods' port is not meant"),
        pytest.param(None, None, "must be given", id="no ports and none given"),
        pytest.param(None, "http", "none", id="no ports and a name"),
    ],
)
def test_no_port(ports: Any, wanted: int | str | None, message: str) -> None:
    with pytest.raises(Unusable) as raised:
        choose_port(a_service(ports=ports), wanted)
    assert message in str(raised.value)


def test_any_port_is_the_only_one() -> None:
    assert choose_port(a_service(ports={"web": 80}), "http", any_port=True).number == 80
    with pytest.raises(Unusable):
        choose_port(a_service(ports=HTTP_AND_ADMIN), "grpc", any_port=True)


def test_ports_of_another_protocol_do_not_count() -> None:
    manifest = service("dns", ports={"dns": 53, "http": 80})
    manifest["spec"]["ports"][0]["protocol"] = "UDP"
    assert choose_port(read_service(manifest), None).name == "http"


SCHEME = "traefik.ingress.kubernetes.io/service.serversscheme"


@pytest.mark.parametrize(
    ("port", "app_protocol", "annotation", "scheme", "is_remarked"),
    [
        pytest.param(("http", 80), None, None, "http", False, id="nothing said"),
        pytest.param(("web", 443), None, None, "https", False, id="number 443"),
        pytest.param(("https", 8443), None, None, "https", False, id="name https"),
        pytest.param(("https-web", 8443), None, None, "https", False, id="name https-…"),
        pytest.param(("http", 80), "http", None, "http", False, id="appProtocol http"),
        pytest.param(("http", 80), "kubernetes.io/ws", None, "http", False, id="appProtocol ws"),
        pytest.param(("http", 80), "https", None, "https", False, id="appProtocol https"),
        pytest.param(("http", 80), "HTTPS", None, "https", False, id="appProtocol HTTPS"),
        pytest.param(("http", 80), "kubernetes.io/wss", None, "https", False, id="wss"),
        pytest.param(("web", 443), "http", None, "http", False, id="appProtocol before the number"),
        pytest.param(("http", 80), "kubernetes.io/h2c", None, "http", True, id="appProtocol h2c"),
        pytest.param(("web", 443), "grpc", None, "https", True, id="appProtocol unknown"),
        pytest.param(("http", 80), None, "https", "https", False, id="annotation"),
        pytest.param(("web", 443), "https", "http", "http", False, id="annotation first of all"),
        pytest.param(("http", 80), "grpc", "https", "https", False, id="annotation settles it"),
        pytest.param(("http", 80), "https", "h2c", "https", False, id="annotation h2c is no word"),
    ],
)
def test_the_scheme(
    port: tuple[str, int],
    app_protocol: str | None,
    annotation: str | None,
    scheme: str,
    is_remarked: bool,
) -> None:
    found = a_service(
        ports=dict([port]),
        app_protocol=app_protocol,
        annotations={} if annotation is None else {SCHEME: annotation},
    )
    said, remark = scheme_of(found, found.ports[0])
    assert said == scheme
    assert (remark is not None) is is_remarked
    if remark is not None:
        assert f"appProtocol={app_protocol!r}" in remark
    assert any("h2c" in str(one) for one in found.reading.warnings) is (annotation == "h2c")


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("web.example.com", "web.example.com"),
        ("web.example.com.", "web.example.com"),
        ("db_1.example.com", "db_1.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("notlocalhost", "notlocalhost"),
        ("metadata.example.com", "metadata.example.com"),
        ("metadata.shop.svc.cluster.local", "metadata.shop.svc.cluster.local"),
        ("100.100.100.201", "100.100.100.201"),
        ("64:ff9b::10.0.0.1", "[64:ff9b::a00:1]"),
        ("2002:a00:1::1", "[2002:a00:1::1]"),
        # A site's own addresses, of today and of old (RFC 3879), lead no further than 10.0.0.0/8.
        ("fd00::1", "[fd00::1]"),
        ("fec0::1", "[fec0::1]"),
    ],
)
def test_external_names(name: str, host: str) -> None:
    assert check_external_name(name) == host


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "::127.0.0.1",
        "::169.254.169.254",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::0.0.0.0",
        "64:ff9b:1::10.0.0.1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2001:0:a00:1::80ff:fffe",
        "metadata",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata.goog",
        "metadata.azure.internal",
        "instance-data",
        "instance-data.ec2.internal",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::254%eth0",
    ],
)
def test_external_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="refused") as raised:
        check_external_name(name)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    "name", ["", ".", "a b", "10.0.0.1 b", "a/b", "user@host", "a:80", "-a", "é.example"]
)
def test_external_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="no name of the DNS"):
        check_external_name(name)


V1 = "traefik.ingress.kubernetes.io/"


def _read_in_turn(*annotations: dict[str, str]) -> Service:
    read: Service | None = None
    for texts in annotations:
        read = read_service(service("web", annotations=texts), read)
    assert read is not None
    return read


STICKY = {f"{V1}affinity": "true", f"{V1}session-cookie-name": "traefik-cookie"}


@pytest.mark.parametrize(
    ("change", "name", "warned"),
    [
        pytest.param({f"{V1}affinity": "maybe"}, "traefik-cookie", "affinity", id="unreadable"),
        pytest.param(
            {f"{V1}session-cookie-name": "a b"}, "traefik-cookie", "session-cookie-name", id="name"
        ),
        pytest.param(
            {f"{V1}affinity": "maybe", f"{V1}session-cookie-name": "other"},
            "other",
            "affinity",
            id="and a good one",
        ),
    ],
)
def test_a_mistyped_annotation_ends_no_sessions(
    change: dict[str, str], name: str, warned: str
) -> None:
    """What it said before holds, through other changes, until it is right again."""
    for more in ({}, {"note": "x"}):
        read = _read_in_turn(STICKY, {**STICKY, **change}, {**STICKY, **change, **more})
        assert read.reading.affinity is not None
        assert read.reading.affinity.name == name
        (warning,) = read.reading.warnings
        assert warning.key == f"{V1}{warned}"
        assert warning.message.endswith("; what it said before holds")
    mended = _read_in_turn(STICKY, {**STICKY, **change}, STICKY)
    assert (mended.reading.warnings, mended.understood) == ((), STICKY)


def test_what_is_taken_away_or_said_to_be_off_is_off() -> None:
    assert _read_in_turn(STICKY, {}).reading.affinity is None
    assert _read_in_turn(STICKY, {**STICKY, f"{V1}affinity": "false"}).reading.affinity is None
    assert _read_in_turn({f"{V1}affinity": "maybe"}).reading.affinity is None
    oldest = "traefik.backend.loadbalancer.sticky"
    assert _read_in_turn({oldest: "true"}, {oldest: "false"}).reading.affinity is None
    mistyped = {**STICKY, f"{V1}affinity": "maybe"}
    assert _read_in_turn(STICKY, mistyped, {}, mistyped).reading.affinity is None
