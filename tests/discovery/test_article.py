"""The article's Service, driven from Python: `FakeKubernetes` and its methods."""

from __future__ import annotations

from sticky_asgi.testing import FakeKubernetes

from .article import Driver, Manifest, play


class Fake:
    """Does it with the methods of the fake."""

    def __init__(self, fake: FakeKubernetes, url: str) -> None:
        self.fake, self.url = fake, url

    def create(self, manifest: Manifest) -> None:
        self.fake.create(dict(manifest))

    def replace(self, manifest: Manifest) -> None:
        self.fake.replace(dict(manifest))

    def annotate(self, key: str, value: str) -> None:
        self.fake.patch("services", "shop", "web", {"metadata": {"annotations": {key: value}}})


def test_the_article() -> None:
    fake = FakeKubernetes()
    with fake.running() as server:
        driver: Driver = Fake(fake, server.url)
        play(driver)
