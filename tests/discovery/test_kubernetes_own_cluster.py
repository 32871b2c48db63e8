"""The API server of the cluster that the gateway runs in, and certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from pathlib import Path

import pytest

from sticky_asgi.discovery import KubernetesService
from sticky_asgi.discovery.kubernetes import api
from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests.conftest import Authority
from tests.loops import run

from .kubernetes_cluster import failure_of, following, pods_of


@pytest.fixture
def account(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a pod's service account is mounted in."""
    (tmp_path / "token").write_text("of the pod")
    (tmp_path / "namespace").write_text("shop")
    (tmp_path / "ca.crt").write_bytes(authority.ca_file.read_bytes())
    monkeypatch.setattr(api, "ACCOUNT", tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT", raising=False)
    return tmp_path


@pytest.fixture
def fake() -> FakeKubernetes:
    made = FakeKubernetes(token="of the pod")
    made.create(service("web", namespace="shop"))
    made.create(endpoint_slice("web", [endpoint("127.0.1.1", pod="a")], namespace="shop"))
    return made


def test_a_pod_needs_no_settings(
    account: Path, fake: FakeKubernetes, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with following(KubernetesService("web").watch()) as told:
            assert pods_of(await told.next()) == ["a"]

    with fake.running(certfile=authority.cert_file, keyfile=authority.key_file) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        # Nothing of this is for the API server.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
        run(main)


def test_outside_of_a_cluster(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        (account / "namespace").unlink()
        for namespace in (None, "shop"):
            source = KubernetesService("web", namespace=namespace)
            error = str(await failure_of(source.watch()))
            assert "KUBERNETES_SERVICE_HOST is not set" in error
            assert "give a url, such as that of `kubectl proxy`, and the namespace" in error
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        error = str(await failure_of(KubernetesService("web").watch()))
        assert error.startswith(f"kubernetes: cannot read {account / 'namespace'}: ")

    run(main)


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.96.0.1", "443", "https://10.96.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("10.96.0.1", None, "https://10.96.0.1:443"),
    ],
)
def test_its_address(
    account: Path, host: str, port: str | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    if port is not None:
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    assert api._own_url() == url


def test_a_certificate_of_somebody_else(fake: FakeKubernetes, authority: Authority) -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=server.url)
        assert "certificate" in str(await failure_of(source.watch())).lower()

    with fake.running(certfile=authority.cert_file, keyfile=authority.key_file) as server:
        run(main)


def test_an_authority_of_ones_own(
    fake: FakeKubernetes, authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]

    (tmp_path / "token").write_text("of the pod")
    with fake.running(certfile=authority.cert_file, keyfile=authority.key_file) as server:
        source = KubernetesService(
            "web",
            namespace="shop",
            url=server.url,
            token_file=tmp_path / "token",
            ca_file=authority.ca_file,
        )
        run(main)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_an_authority_that_cannot_be_loaded(tmp_path: Path, text: str | None) -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url="https://a.test", ca_file=file)
        assert f"cannot load {file}" in str(await failure_of(source.watch()))

    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    run(main)


def test_authorities_are_loaded_while_others_are_served(tmp_path: Path) -> None:
    ticked = threading.Event()
    was_in_time: list[bool] = []

    def write() -> None:
        was_in_time.append(ticked.wait(5))
        pipe.write_text("no certificate")

    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url="https://a.test", ca_file=pipe)
        asyncio.get_running_loop().call_later(0.05, ticked.set)
        assert f"cannot load {pipe}" in str(await failure_of(source.watch()))

    pipe = tmp_path / "ca.crt"
    os.mkfifo(pipe)
    # Whoever opens a pipe to read waits for whoever writes to it.
    writer = threading.Thread(target=write)
    writer.start()
    run(main)
    writer.join()
    assert was_in_time == [True]


def test_the_systems_authorities(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    for url in ("https://a.test", "HTTPS://a.test"):
        assert len(api.ApiServer(url=url)._context(url).get_ca_certs()) == 1
    assert not api.ApiServer(url="http://a.test")._context("http://a.test").get_ca_certs()


def test_old_authorities_are_accepted(authority: Authority) -> None:
    """The default context of Python 3.13 refuses those without an Authority Key Identifier."""
    server = api.ApiServer(url="https://a.test", ca_file=authority.ca_file)
    context = server._context("https://a.test")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.verify_flags & getattr(ssl, "VERIFY_X509_STRICT", 0)
