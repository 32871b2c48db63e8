"""Fixtures for all tests; the machinery is in `tests/servers.py`."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from hypothesis import settings

from tests import gateways, servers, websocket_peers

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(params=["h11", "httptools", "joined"])
def http(request: pytest.FixtureRequest) -> servers.HttpImplementation:
    """The server's HTTP implementation: a test that takes it runs with each."""
    implementation: servers.HttpImplementation = request.param
    return implementation


@pytest.fixture(params=websocket_peers.IMPLEMENTATIONS)
def ws(request: pytest.FixtureRequest) -> str:
    """The server's WebSocket implementation: a test that takes it runs with each."""
    name: str = request.param
    return name


@pytest.fixture(params=gateways.LANES)
def lane(request: pytest.FixtureRequest) -> gateways.Lane:
    """How a gateway reaches its backends: a test that takes it runs with each transport."""
    way: gateways.Lane = request.param
    return way


@pytest.fixture(scope="module", params=gateways.LANES)
def front_lane(request: pytest.FixtureRequest) -> gateways.Lane:
    """The lane of `front` and `obedient`."""
    way: gateways.Lane = request.param
    return way


@pytest.fixture(scope="module", params=["h11", "httptools", "joined"])
def front_http(request: pytest.FixtureRequest) -> servers.HttpImplementation:
    """The HTTP implementation of `front` and `obedient`."""
    implementation: servers.HttpImplementation = request.param
    return implementation


@pytest.fixture(scope="module")
def front(
    front_http: servers.HttpImplementation, front_lane: gateways.Lane
) -> Iterator[gateways.Front]:
    """A gateway with nothing set, before a backend that echoes: on each HTTP implementation and
    each lane, and shared by a module's tests."""
    with gateways.gateway_before(http=front_http, lane=front_lane) as served:
        yield served


@pytest.fixture(scope="module")
def obedient(
    front_http: servers.HttpImplementation, front_lane: gateways.Lane
) -> Iterator[gateways.Front]:
    """As `front`, before a backend that answers with the bytes it is sent as a request's body."""
    with gateways.gateway_before(gateways.obey, http=front_http, lane=front_lane) as served:
        yield served


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail when the test leaves a thread or an open socket behind. Name it first."""
    with servers.no_leaks():
        yield


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can: what is not safe among them is soon seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and a certificate of it for `localhost` and 127.0.0.1.

    Attributes:
        ca_file: PEM file to trust.
        cert_file: PEM file with the certificate chain.
        key_file: PEM file with its key.
    """

    ca_file: Path
    cert_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates for tests that speak TLS."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    files = Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca.cert_pem.write_to_path(files.ca_file)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files.cert_file, append=True)
    issued.private_key_pem.write_to_path(files.key_file)
    return files
