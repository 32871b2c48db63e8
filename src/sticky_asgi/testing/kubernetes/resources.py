"""The kinds of object that the fake holds, and what distinguishes one from the other.

A kind beyond these is one line in the table: the verbs, watches and selectors hold for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

#: A Kubernetes object as its JSON is.
Object: TypeAlias = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of object.

    Attributes:
        group: Its API group; "" is the core.
        version: Of the group.
        plural: As in the URL.
        kind: As in the object.
        short_names: What kubectl also understands.
        is_namespaced: Whether its objects live in namespaces.
        is_in_all: Whether `kubectl get all` shows it.
        name_rule: What its names are made of: "subdomain" or "label1123" (RFC 1123), or
            "label1035" (RFC 1035).
        creates_on_update: Whether PUT makes an object that is not there.
        counts_generations: Whether `metadata.generation` rises when something beside the
            metadata changes.
        returns_deleted: Whether DELETE answers with the object, or else with a Status.
        merge_keys: For strategic merge patches, the key that tells the items of a list apart, by
            the list's path. A list that is not named here is replaced as a whole.
    """

    group: str = ""
    version: str = "v1"
    plural: str
    kind: str
    short_names: tuple[str, ...] = ()
    is_namespaced: bool = True
    is_in_all: bool = False
    name_rule: str = "subdomain"
    creates_on_update: bool = False
    counts_generations: bool = False
    returns_deleted: bool = False
    merge_keys: tuple[tuple[str, str], ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def qualified(self) -> str:
        """`services`, or `endpointslices.discovery.k8s.io`, as in the server's messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def names(self) -> tuple[str, ...]:
        return (self.plural, self.singular, self.kind, self.qualified, *self.short_names)


NAMESPACES = Resource(
    plural="namespaces",
    kind="Namespace",
    short_names=("ns",),
    is_namespaced=False,
    name_rule="label1123",
)
SERVICES = Resource(
    plural="services",
    kind="Service",
    short_names=("svc",),
    is_in_all=True,
    name_rule="label1035",
    creates_on_update=True,
    returns_deleted=True,
    merge_keys=(("spec.ports", "port"),),
)
ENDPOINT_SLICES = Resource(
    group="discovery.k8s.io",
    plural="endpointslices",
    kind="EndpointSlice",
    counts_generations=True,
)
PODS = Resource(
    plural="pods",
    kind="Pod",
    short_names=("po",),
    is_in_all=True,
    returns_deleted=True,
    merge_keys=(
        ("spec.containers", "name"),
        ("spec.containers.env", "name"),
        ("spec.containers.ports", "containerPort"),
        ("spec.containers.volumeMounts", "mountPath"),
        ("spec.initContainers", "name"),
        ("spec.volumes", "name"),
        ("status.conditions", "type"),
    ),
)
RESOURCES = (
    Resource(plural="configmaps", kind="ConfigMap", short_names=("cm",)),
    Resource(plural="endpoints", kind="Endpoints", short_names=("ep",), creates_on_update=True),
    NAMESPACES,
    PODS,
    Resource(plural="secrets", kind="Secret"),
    SERVICES,
    Resource(
        group="coordination.k8s.io",
        plural="leases",
        kind="Lease",
        creates_on_update=True,
    ),
    ENDPOINT_SLICES,
)


def named(word: str) -> Resource:
    """The resource that is called so: `services`, `service`, `Service` or `svc`.

    Raises:
        ValueError: None is.
    """
    for resource in RESOURCES:
        if word in resource.names:
            return resource
    known = ", ".join(resource.plural for resource in RESOURCES)
    raise ValueError(f"unknown resource {word!r}; one of {known}")


def of_object(obj: Object) -> Resource:
    """The resource that an object belongs to, by its `apiVersion` and `kind`.

    Raises:
        ValueError: None, so the fake cannot hold it.
    """
    for resource in RESOURCES:
        if (resource.api_version, resource.kind) == (obj.get("apiVersion"), obj.get("kind")):
            return resource
    known = ", ".join(f"{resource.api_version} {resource.kind}" for resource in RESOURCES)
    raise ValueError(
        f"unknown object: apiVersion {obj.get('apiVersion')!r}, kind {obj.get('kind')!r}; "
        f"one of {known}"
    )


def at(group: str, version: str, plural: str) -> Resource | None:
    """The resource that a URL names."""
    for resource in RESOURCES:
        if (resource.group, resource.version, resource.plural) == (group, version, plural):
            return resource
    return None
