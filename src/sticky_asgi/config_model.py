"""The shape of a configuration file: which keys there are, what they take, what they build.

Each section makes the object of the Python API that it stands for and leaves the judging of
values to it, so the file and the API accept the same. What a default is, is the API's to say too:
only keys that are set are passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from . import Backend, Discovery, Pool, Route, SignedCookie
from .admin import StatusEndpoints
from .config_discovery import DiscoverySection, NamespaceSection, WatchSection
from .config_fields import Also, Drain, Integer, Number, Section, not_yet
from .config_policies import PoliciesSection
from .discovery.pools import PoolDiscovery
from .trusted_proxies import TrustedProxies


class BackendSection(Section):
    """One backend."""

    url: str = Field(description="http://host:port, https://host:port or http+unix:///socket.")
    id: str | None = Field(None, description="Its name. Default: host:port, or the socket's path.")
    weight: Number = Field(1, description="Share of new sessions; 0: none, but its own are kept.")
    max_requests: Integer | None = Field(
        None, description="Requests in flight per worker; beyond it they wait. null: no limit."
    )
    priority: Integer = Field(
        0, description="Above 0: a backup, for when nobody of a lower number can be used."
    )
    drain: Drain = Field(
        False,
        description="true: it keeps its sessions and gets no new ones. A duration: for so long.",
    )

    def build(self) -> Backend:
        return Backend(**{key: value for key, value in self.given().items() if key != "drain"})

    @property
    def drain_deadline(self) -> float | None:
        """How long it drains; None: without an end."""
        return None if isinstance(self.drain, bool) else self.drain


def _from_url(value: object) -> object:
    if not isinstance(value, str | dict | BackendSection):
        raise ValueError("must be a URL or a mapping with the key 'url'")
    return {"url": value} if isinstance(value, str) else value


class PoolSection(PoliciesSection):
    """A set of backends and the policies for them."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["backends"]}, {"required": ["discovery"]}]}
    )

    backends: list[Annotated[BackendSection, BeforeValidator(_from_url), Also(type="string")]] = (
        Field([], min_length=1, description="URLs, or mappings that say more.")
    )
    discovery: DiscoverySection | None = Field(
        None, description="Where the backends come from instead."
    )

    def build(self) -> None:
        if (self.discovery is None) == ("backends" not in self.model_fields_set):
            raise ValueError("takes either backends or discovery")
        is_annotated = self.discovery is not None and self.discovery.kubernetes is not None
        wants = self.affinity is not None and "annotations" in self.affinity.model_fields_set
        if wants and not is_annotated:
            raise ValueError("affinity: annotations come with discovery from kubernetes only")

    @property
    def is_sticky(self) -> bool:
        """Whether it may have affinity, which needs a secret."""
        return self.affinity is not None or (
            self.discovery is not None
            and self.discovery.kubernetes is not None
            and "affinity" not in self.model_fields_set
        )

    def make(self, name: str, secrets: Sequence[str], folder: Path) -> Pool:
        """The pool under its name."""
        if self.discovery is None:
            backends = [backend.build() for backend in self.backends]
            return self.make_pool(name, secrets, folder, backends)
        return self.make_pool(
            name,
            secrets,
            folder,
            discovery=self.discovery.make(folder),
            watch=self.discovery.watch,
            is_annotated=self.discovery.kubernetes is not None,
        )


class PoolDiscoverySection(WatchSection):
    """Pools that are found, and what they have in common."""

    kubernetes: NamespaceSection = Field(description="Every annotated Service of a namespace.")
    pool: PoliciesSection = Field(
        default_factory=PoliciesSection.empty, description="The policies of each pool."
    )

    @property
    def is_sticky(self) -> bool:
        """Whether the pools may have affinity, which needs a secret."""
        policies = self.pool
        return policies.affinity is not None or "affinity" not in policies.model_fields_set

    def make(self, secrets: Sequence[str], folder: Path) -> PoolDiscovery:
        """What finds the pools."""

        def make_pool(name: str, discovery: Discovery) -> Pool:
            return self.pool.make_pool(
                name, secrets, folder, discovery=discovery, is_annotated=True
            )

        return PoolDiscovery(self.kubernetes.make(folder), make_pool, watch=self.watch)


class RouteSection(Section):
    """Requests that go to a pool."""

    pool: str = Field(description="The pool's name.")
    path: str = Field("/", description="Path prefix of whole segments; the longest wins.")
    host: str | None = Field(None, description="Host name, or *.example.com. null: any.")
    methods: list[str] | None = Field(None, description="Request methods. null: any.")
    headers: dict[str, str] | None = Field(None, description="Headers that must be there.")
    strip_prefix: bool = Field(False, description="Take the path off before forwarding.")

    def build(self, pool: Pool | None = None) -> Route:
        return Route(pool, **{key: value for key, value in self.given().items() if key != "pool"})


def _check_secret(value: str) -> str:
    try:
        SignedCookie(value)
    except ValueError as exc:
        raise ValueError(str(exc).removeprefix("secrets[0] ")) from None
    return value


def _check_network(value: str) -> str:
    try:
        TrustedProxies([value])
    except ValueError as exc:
        raise ValueError(str(exc).removeprefix("trusted_proxies: ")) from None
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class AdminSection(Section):
    """What operators and orchestrators ask of the gateway itself."""

    path: str = Field("/-/sticky", description="{path}/live and {path}/ready are there.")
    token: Annotated[None, not_yet("the operator page is")] = None

    def build(self) -> StatusEndpoints:
        return StatusEndpoints(self.path, lambda: None)


class Document(Section):
    """The whole file."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["pools"], "properties": {"pools": {"minProperties": 1}}},
                {"required": ["discovery"]},
            ]
        }
    )

    secrets: Annotated[
        list[Annotated[str, AfterValidator(_check_secret)]],
        BeforeValidator(
            _as_list,
            json_schema_input_type=str | Annotated[list[str], Field(min_length=1)],
        ),
    ] = Field(
        [], min_length=1, repr=False, description="Keys of the affinity cookies, oldest first."
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_check_network)]] = Field(
        [], description="Addresses, networks or 'unix', whose forwarded headers are believed."
    )
    forwarded: bool = Field(False, description="Write the Forwarded header (RFC 7239) too.")
    pools: dict[str, PoolSection] = Field({}, description="Pools by name.")
    discovery: PoolDiscoverySection | None = Field(
        None, description="Where more pools come from, with the routes to them."
    )
    routes: list[RouteSection] | None = Field(
        None, min_length=1, description="Default, with one pool: every path goes there."
    )
    admin: AdminSection | None = Field(
        None, description="What is asked of the gateway itself. null: nothing, routes get it all."
    )
