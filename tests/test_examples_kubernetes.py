"""What examples/kubernetes puts into images: the app does its work, and what is run can be run.

The manifests themselves are in tests/test_kubernetes_manifests.py.
"""

from __future__ import annotations

import itertools
import json
import re
import runpy
from typing import Any, NamedTuple

import click
import pytest
import uvicorn
import yaml
from examples.kubernetes.web.app import create_app
from starlette.testclient import TestClient

from sticky_asgi import Backend, Gateway, Pool, SignedCookie
from sticky_asgi.cli import cli

from .servers import ROOT

FOLDER = ROOT / "examples" / "kubernetes"
PODS = ("web-1", "web-2", "web-3")


class Dockerfile(NamedTuple):
    """What a Dockerfile says, by instruction."""

    name: str
    said: dict[str, list[str]]

    @property
    def command(self) -> list[str]:
        """What a container runs when nothing else is said."""
        words: list[str] = []
        for instruction in ("ENTRYPOINT", "CMD"):
            for text in self.said.get(instruction, []):
                words += json.loads(text)
        return words


def dockerfile(name: str) -> Dockerfile:
    said: dict[str, list[str]] = {}
    text = (FOLDER / name / "Dockerfile").read_text(encoding="utf-8")
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            instruction, _, value = line.partition(" ")
            said.setdefault(instruction, []).append(value.strip())
    return Dockerfile(name, said)


def pool_of_carts(affinity: SignedCookie | None) -> Pool:
    backends = [Backend(app=create_app(pod), id=pod) for pod in PODS]
    return Pool("web", backends, affinity=affinity)


def pods_and_carts(client: TestClient) -> list[tuple[str, list[str]]]:
    answers = [client.post("/", content=thing).json() for thing in ("shoes", "milk", "tea")]
    return [(answer["pod"], answer["cart"]) for answer in answers]


def test_carts_hold_together_with_affinity() -> None:
    cookie = SignedCookie("a secret that nobody knows", name="traefik-cookie")
    gateway = Gateway({"/": pool_of_carts(cookie)})
    with TestClient(gateway) as ada, TestClient(gateway) as bob:
        hers, his = pods_and_carts(ada), pods_and_carts(bob)
    for pods in (hers, his):
        assert [cart for _, cart in pods] == [
            ["shoes"],
            ["shoes", "milk"],
            ["shoes", "milk", "tea"],
        ]
        assert len({pod for pod, _ in pods}) == 1
    assert hers[0][0] != his[0][0]


def test_carts_fall_apart_without_affinity() -> None:
    with TestClient(Gateway({"/": pool_of_carts(None)})) as client:
        answers = pods_and_carts(client)
    assert answers == [("web-1", ["shoes"]), ("web-2", ["milk"]), ("web-3", ["tea"])]


def test_keys_are_turned_round_without_a_logout() -> None:
    """The steps of docs/kubernetes.md, with gateways of both kinds in between."""
    a, b, c = (f"the key {name} of the cookies" for name in "abc")
    pods = [Backend(app=create_app(pod), id=pod) for pod in PODS]

    def gateway(*keys: str) -> Gateway:
        return Gateway({"/": Pool("web", pods, affinity=SignedCookie(keys))})

    steps = [gateway(a, b), gateway(c, b), gateway(b, c), gateway(c, c)]
    with TestClient(steps[0]) as visitor:
        pod = visitor.post("/", content="shoes").json()["pod"]
    cookies = visitor.cookies
    for before, after in itertools.pairwise(steps):
        for running in (before, after, before, after):
            with TestClient(running, cookies=cookies) as visitor:
                assert visitor.get("/").json() == {"pod": pod, "cart": ["shoes"]}
            cookies = visitor.cookies


def test_a_stranger_who_only_looks_gets_no_cart() -> None:
    with TestClient(create_app("web-1")) as client:
        assert client.get("/").json() == {"pod": "web-1", "cart": []}
        assert client.get("/healthz").text == "ok\n"


def test_a_pod_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTNAME", "web-7d4b9c-x2x9z")
    namespace = runpy.run_path(str(FOLDER / "web" / "app.py"))
    with TestClient(namespace["app"]) as client:
        assert client.get("/").json()["pod"] == "web-7d4b9c-x2x9z"


@pytest.mark.parametrize("name", ["gateway", "web"])
def test_an_image_has_what_it_copies_and_is_built_as_it_says(name: str) -> None:
    image = dockerfile(name)
    for copied in image.said.get("COPY", []):
        *sources, _ = copied.split()
        for source in sources:
            assert (FOLDER / name / source).exists()
    first = (FOLDER / name / "Dockerfile").read_text(encoding="utf-8").splitlines()[0]
    built = re.fullmatch(r"# docker build --tag (\S+):(\S+) (\S+)", first)
    assert built is not None
    assert ROOT / built[3] == FOLDER / name
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
    assert {"name": built[1], "newTag": built[2]} in kustomization["images"]


@pytest.mark.parametrize("name", ["gateway", "web"])
def test_an_image_runs_as_the_user_that_the_deployment_names(name: str) -> None:
    manifest = yaml.safe_load((FOLDER / name / "deployment.yaml").read_text(encoding="utf-8"))
    context = manifest["spec"]["template"]["spec"]["securityContext"]
    assert dockerfile(name).said["USER"] == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def options_of(command: click.Command, arguments: list[str]) -> dict[str, Any]:
    """What a command would be called with; it is not run. Wrong usage raises."""
    with command.make_context(command.name, list(arguments)) as context:
        return context.params


def test_the_gateway_image_runs_a_command_that_there_is() -> None:
    program, command, *arguments = dockerfile("gateway").command
    assert program == "sticky-asgi"
    options = options_of(cli.commands[command], arguments)
    assert options["host"] == "0.0.0.0"
    assert dockerfile("gateway").said["EXPOSE"] == [str(options["port"])]


def test_the_web_image_runs_the_app_it_copies() -> None:
    program, *arguments = dockerfile("web").command
    assert program == "uvicorn"
    options = options_of(uvicorn.main, arguments)
    assert options["app"] == "app:app"
    assert options["host"] == "0.0.0.0"
    assert dockerfile("web").said["EXPOSE"] == [str(options["port"])]


def test_the_app_says_how_it_is_run_by_hand() -> None:
    text = (FOLDER / "web" / "app.py").read_text(encoding="utf-8")
    assert "uvicorn examples.kubernetes.web.app:app --port 9001" in text
