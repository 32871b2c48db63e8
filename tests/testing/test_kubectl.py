"""The fake as kubectl sees it: proof of its shape by a client that was written for the real one.

Any version will do from 1.20, which is Debian 12's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import RunningKubernetes, service
from tests.conftest import Authority
from tests.servers import eventually

TIMEOUT = 60.0

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: web
  annotations:
    traefik.ingress.kubernetes.io/affinity: "true"
    traefik.ingress.kubernetes.io/session-cookie-name: traefik-cookie
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
endpoints:
- addresses: ["10.0.0.1"]
ports:
- {name: http, port: 8080}
"""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with a home of its own, so that it knows no cluster but this one."""

    fake: FakeKubernetes
    server: RunningKubernetes
    home: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["kubectl", "--server", self.server.url, "--namespace", "shop", *arguments],
            env=os.environ | {"HOME": str(self.home), "KUBECONFIG": str(self.home / "config")},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run it to its end. Returns what it printed: on a failure, the errors."""
        process = self.start(*arguments)
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert process.returncode == code, errors
        return errors if code else output

    def file(self, text: str, name: str = "manifest.yaml") -> str:
        (self.home / name).write_text(text, encoding="utf-8")
        return name

    def read(self, resource: str, name: str) -> dict[str, Any]:
        """An object as the fake has it."""
        return self.fake.get(resource, "shop", name)


def made(fake: FakeKubernetes, server: RunningKubernetes, home: Path) -> Kubectl:
    kubectl = Kubectl(fake, server, home)
    kubectl.file("apiVersion: v1\nkind: Config\n", "config")
    return kubectl


@pytest.fixture
def kubectl(tmp_path: Path) -> Iterator[Kubectl]:
    fake = FakeKubernetes(namespaces=("default", "shop"))
    with fake.running() as server:
        yield made(fake, server, tmp_path)


def test_create_and_get(kubectl: Kubectl) -> None:
    assert kubectl.run("create", "-f", kubectl.file(SERVICE)) == "service/web created\n"
    assert kubectl.read("services", "web")["metadata"]["annotations"] == {
        "traefik.ingress.kubernetes.io/affinity": "true",
        "traefik.ingress.kubernetes.io/session-cookie-name": "traefik-cookie",
    }
    errors = kubectl.run("create", "-f", "manifest.yaml", code=1)
    assert errors.startswith("Error from server (AlreadyExists): ")
    assert kubectl.run("get", "svc", "-o", "name") == "service/web\n"
    head, line = kubectl.run("get", "services").splitlines()
    assert (head.split()[0], line.split()[0]) == ("NAME", "web")
    assert json.loads(kubectl.run("get", "svc", "web", "-o", "json")) == kubectl.read(
        "services", "web"
    )
    listed = json.loads(kubectl.run("get", "svc", "-o", "json"))
    assert listed["items"] == [kubectl.read("services", "web")]
    assert "  clusterIP: 10.96." in kubectl.run("get", "svc", "web", "-o", "yaml")
    assert re.search(r"^Port: +http  80/TCP$", kubectl.run("describe", "svc", "web"), re.M)


def test_an_object_that_is_not_there(kubectl: Kubectl) -> None:
    errors = kubectl.run("get", "svc", "web", code=1)
    assert errors == 'Error from server (NotFound): services "web" not found\n'


def test_an_invalid_object(kubectl: Kubectl) -> None:
    errors = kubectl.run("create", "-f", kubectl.file(SERVICE.replace("web", "Web")), code=1)
    assert 'The Service "Web" is invalid: metadata.name: Invalid value: "Web"' in errors
    assert kubectl.fake.list("services") == []


def test_apply_creates_and_changes(kubectl: Kubectl) -> None:
    applied = kubectl.run("apply", "-f", kubectl.file(SERVICE + "---\n" + SLICE))
    assert applied == ("service/web created\nendpointslice.discovery.k8s.io/web-1 created\n")
    before = kubectl.read("services", "web")
    changed = SERVICE.replace("port: 80,", "port: 81,") + "---\n" + SLICE.replace(".1", ".2")
    applied = kubectl.run("apply", "-f", kubectl.file(changed))
    assert applied == ("service/web configured\nendpointslice.discovery.k8s.io/web-1 configured\n")
    after = kubectl.read("services", "web")
    assert [port["port"] for port in after["spec"]["ports"]] == [81]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    (endpoint,) = kubectl.read("endpointslices", "web-1")["endpoints"]
    assert endpoint["addresses"] == ["10.0.0.2"]
    version = kubectl.fake.version
    assert "unchanged" in kubectl.run("apply", "-f", "manifest.yaml")
    assert kubectl.fake.version == version
    # Taken from the manifest, it goes from the object.
    shorter = SERVICE.replace('    traefik.ingress.kubernetes.io/affinity: "true"\n', "")
    kubectl.run("apply", "-f", kubectl.file(shorter))
    annotations = kubectl.read("services", "web")["metadata"]["annotations"]
    assert "traefik.ingress.kubernetes.io/affinity" not in annotations


def test_apply_by_the_server(kubectl: Kubectl) -> None:
    apply = ("apply", "--server-side", "-f", kubectl.file(SERVICE))
    for _ in range(2):
        assert kubectl.run(*apply) == "service/web serverside-applied\n"
    assert kubectl.read("services", "web")["spec"]["ports"][0]["port"] == 80


def test_annotate_label_and_patch(kubectl: Kubectl) -> None:
    def metadata() -> dict[str, Any]:
        found: dict[str, Any] = kubectl.read("services", "web")["metadata"]
        return found

    kubectl.fake.create(service("web", namespace="shop", annotations={"a": "b"}))
    assert kubectl.run("annotate", "svc", "web", "a=c", code=1)
    kubectl.run("annotate", "--overwrite", "svc", "web", "a=c", "d=e")
    assert metadata()["annotations"] == {"a": "c", "d": "e"}
    kubectl.run("annotate", "svc", "web", "d-")
    assert metadata()["annotations"] == {"a": "c"}
    kubectl.run("label", "svc", "web", "tier=1")
    assert kubectl.run("get", "svc", "-l", "tier in (1,2)", "-o", "name") == "service/web\n"
    assert kubectl.run("get", "svc", "-l", "tier!=1", "-o", "name") == ""
    kubectl.run("patch", "svc", "web", "-p", '{"spec":{"ports":[{"port":81,"name":"more"},'
                '{"port":80,"name":"http"}]}}')  # fmt: skip
    assert [port["name"] for port in kubectl.read("services", "web")["spec"]["ports"]] == [
        "http",
        "more",
    ]
    kubectl.run("patch", "svc", "web", "--type=merge", "-p", '{"metadata":{"labels":null}}')
    assert "labels" not in metadata()
    removal = '[{"op":"remove","path":"/metadata/annotations/a"}]'
    kubectl.run("patch", "svc", "web", "--type=json", "-p", removal)
    assert metadata().get("annotations") in (None, {})


def test_replace(kubectl: Kubectl) -> None:
    kubectl.run("create", "-f", kubectl.file(SERVICE))
    other = SERVICE.replace("traefik-cookie", "other")
    assert kubectl.run("replace", "-f", kubectl.file(other)) == "service/web replaced\n"
    assert "other" in kubectl.read("services", "web")["metadata"]["annotations"].values()


def test_delete(kubectl: Kubectl) -> None:
    kubectl.run("create", "-f", kubectl.file(SERVICE + "---\n" + SLICE))
    kubectl.run("create", "-f", kubectl.file(SERVICE.replace("name: web", "name: two"), "two.yaml"))
    assert kubectl.run("delete", "svc", "web").startswith('service "web" deleted')
    assert "deleted" in kubectl.run("delete", "endpointslice", "web-1")
    assert "deleted" in kubectl.run("delete", "svc", "--all")
    assert kubectl.fake.list("services") == kubectl.fake.list("endpointslices") == []


def test_watch(kubectl: Kubectl) -> None:
    kubectl.fake.create(service("web", namespace="shop"))
    process = kubectl.start("get", "services", "--watch", "--output", "name")
    try:
        eventually(lambda: kubectl.fake.watching("services"), TIMEOUT)
        kubectl.fake.create(service("two", namespace="shop"))
        kubectl.fake.delete("services", "shop", "web")
        eventually(lambda: kubectl.fake.bookmark("services"), TIMEOUT)
        assert kubectl.fake.end_watches() == 1
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert (output, errors) == ("service/web\nservice/two\nservice/web\n", "")


def test_lists_in_pages(kubectl: Kubectl) -> None:
    for name in "abcde":
        kubectl.fake.create(service(name, namespace="shop"))
    names = kubectl.run("get", "svc", "--chunk-size=2", "-o", "name").split()
    assert names == [f"service/{name}" for name in "abcde"]
    pages = [one for one in kubectl.fake.requests if one.resource == "services"]
    assert [bool(one.query.get("continue")) for one in pages] == [False, True, True]


def test_a_token_over_https(authority: Authority, tmp_path: Path) -> None:
    fake = FakeKubernetes(token="right", namespaces=("default", "shop"))
    fake.create(service("web", namespace="shop"))
    with fake.running(certfile=authority.cert_file, keyfile=authority.key_file) as server:
        kubectl = made(fake, server, tmp_path)
        ca = f"--certificate-authority={authority.ca_file}"
        get = ("get", "svc", "-o", "name", ca)
        assert kubectl.run(*get, "--token=right") == "service/web\n"
        assert "Unauthorized" in kubectl.run(*get, "--token=wrong", code=1)
        fake.forbid("list", "services")
        assert kubectl.run(*get, "--token=right", code=1) == (
            "Error from server (Forbidden): services is forbidden: User "
            '"system:serviceaccount:default:default" cannot list resource "services" in API '
            'group "" in the namespace "shop"\n'
        )


def test_what_there_is(kubectl: Kubectl) -> None:
    names = kubectl.run("api-resources", "--output=name").split()
    assert {"services", "endpointslices.discovery.k8s.io", "leases.coordination.k8s.io"} <= set(
        names
    )
    assert "v1.31.0" in kubectl.run("version")
