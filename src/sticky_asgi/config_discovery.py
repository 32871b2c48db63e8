"""The keys of a configuration file about sources of backends.

A source is imported when a file asks for it: each brings libraries that others do without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from . import Discovery, WatchOptions
from .config_fields import Also, Duration, Integer, Port, Section

if TYPE_CHECKING:
    from .discovery import DNS, File, KubernetesNamespace, KubernetesService


class WatchSection(Section):
    """How a source is followed."""

    start: Literal["wait", "empty"] = Field(
        "wait", description="Until the source has spoken: wait, or begin with nothing."
    )
    start_timeout: Duration | None = Field(
        30, description="How long the start waits. null: for ever."
    )
    debounce: Duration = Field(0.01, description="Changes within it count as one.")
    min_backoff: Duration = Field(0.8, description="First pause after a failure, then doubled.")
    max_backoff: Duration = Field(30, description="The longest pause.")

    def build(self) -> WatchOptions:
        return self.watch

    @property
    def watch(self) -> WatchOptions:
        """The options that are set."""
        given = self.given().items()
        return WatchOptions(**{key: value for key, value in given if key in _WATCH_KEYS})


_WATCH_KEYS = frozenset(WatchSection.model_fields)


class ApiServerSection(Section):
    """A namespace of Kubernetes, and how its API server is reached."""

    namespace: str | None = Field(None, description="null: the one the gateway runs in.")
    port: Port | None = Field(
        None, description="Number or name of the Service's port. null: its only one."
    )
    url: str | None = Field(None, description="The API server. null: that of the own cluster.")
    token_file: str | None = Field(None, description="null: the service account's; none with url.")
    ca_file: str | None = Field(
        None, description="null: the service account's; with url the system's."
    )
    identity: Literal["pod", "uid", "address"] = Field(
        "pod", description="What a backend's id is, hence what sessions follow."
    )
    zone: str | None = Field(None, description="Our zone, which new sessions prefer by hints.")
    external_name: bool = Field(
        False, description="true: Services of type ExternalName are followed, too."
    )

    def options(self, folder: Path) -> dict[str, Any]:
        """The keys that are set, with paths from the file's folder."""
        given = self.given()
        for key in ("token_file", "ca_file"):
            if given.get(key) is not None:
                given[key] = str(folder / given[key])
        return given


class ServiceSection(ApiServerSection):
    """A Service of Kubernetes."""

    service: str = Field(description="Its name.")

    def build(self) -> KubernetesService:
        return self.make(Path())

    def make(self, folder: Path) -> KubernetesService:
        """The source of its pods."""
        from .discovery import KubernetesService

        return KubernetesService(**self.options(folder))


class NamespaceSection(ApiServerSection):
    """Every annotated Service of a namespace of Kubernetes."""

    selector: str | None = Field(None, description="A label selector. null: every Service.")

    def build(self) -> KubernetesNamespace:
        return self.make(Path())

    def make(self, folder: Path) -> KubernetesNamespace:
        """The source of its pools."""
        from .discovery import KubernetesNamespace

        return KubernetesNamespace(**self.options(folder))


class DNSSection(Section):
    """The records of a name."""

    name: str = Field(description="What is looked up; always the whole name.")
    port: Integer | None = Field(None, description="null: the scheme's; with SRV, the records'.")
    type: Literal["A", "AAAA", "SRV"] = Field("A", description="Kind of records.")
    scheme: Literal["http", "https"] = Field("http", description="How backends are asked.")
    min_ttl: Duration = Field(5, description="How long an answer holds at least.")
    max_ttl: Duration = Field(60, description="How long an answer holds at most.")
    grace: Duration = Field(60, description="Until it is believed that there are none any more.")
    nameservers: list[str] | None = Field(None, description="null: the system's.")
    timeout: Duration = Field(5, description="For an answer, all servers and repeats included.")
    max_backends: Integer = Field(1000, description="With more, the answer is refused.")

    def build(self) -> DNS:
        from .discovery import DNS

        return DNS(**self.given())


class FileSection(Section):
    """A file that lists backends, in YAML or JSON."""

    path: str = Field(description="The file. Relative paths start at this file's folder.")
    look_every: Duration = Field(5, description="Between two looks if nothing is heard of it.")

    def build(self) -> File:
        from .discovery import File

        return File(**self.given())

    def make(self, folder: Path) -> File:
        """The source."""
        from .discovery import File

        given = self.given()
        return File(folder / given.pop("path"), **given)


def _from_path(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class DiscoverySection(WatchSection):
    """Where a pool's backends come from: exactly one of the sources."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind]} for kind in ("kubernetes", "dns", "file")]
        }
    )

    kubernetes: ServiceSection | None = Field(None, description="A Service of Kubernetes.")
    dns: DNSSection | None = Field(None, description="The records of a name.")
    file: Annotated[FileSection | None, BeforeValidator(_from_path), Also(type="string")] = Field(
        None, description="A file of its own, by its path."
    )

    def build(self) -> WatchOptions:
        if sum(source is not None for source in (self.kubernetes, self.dns, self.file)) != 1:
            raise ValueError("takes exactly one of kubernetes, dns and file")
        return super().build()

    def make(self, folder: Path) -> Discovery:
        """The source."""
        if self.kubernetes is not None:
            return self.kubernetes.make(folder)
        if self.dns is not None:
            return self.dns.build()
        assert self.file is not None, "one of them is given"
        return self.file.make(folder)
