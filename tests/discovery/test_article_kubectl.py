"""The article's Service, driven by kubectl: `create`, `replace` and `annotate`, as an operator."""

from __future__ import annotations

import json
from pathlib import Path

from sticky_asgi.testing import FakeKubernetes
from tests.testing.test_kubectl import Kubectl, made

from .article import Manifest, play


class Operator:
    """Does it at the command line."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self.url = kubectl.server.url

    def create(self, manifest: Manifest) -> None:
        self._kubectl.run("create", "-f", self._kubectl.file(json.dumps(manifest)))

    def replace(self, manifest: Manifest) -> None:
        self._kubectl.run("replace", "-f", self._kubectl.file(json.dumps(manifest)))

    def annotate(self, key: str, value: str) -> None:
        self._kubectl.run("annotate", "--overwrite", "service", "web", f"{key}={value}")


def test_the_article(tmp_path: Path) -> None:
    fake = FakeKubernetes(namespaces=("default", "shop"))
    with fake.running() as server:
        play(Operator(made(fake, server, tmp_path)))
