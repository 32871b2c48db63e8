"""What the server says about itself: groups, resources, version. kubectl reads these first."""

from __future__ import annotations

from typing import Any

from .resources import RESOURCES, VERBS, Object

VERSION = {
    "major": "1",
    "minor": "31",
    "gitVersion": "v1.31.0",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2024-08-13T07:28:49Z",
    "goVersion": "go1.22.5",
    "compiler": "gc",
    "platform": "linux/amd64",
}

#: An OpenAPI document that describes no type: kubectl then leaves judging to the server.
OPENAPI_V2: Object = {
    "swagger": "2.0",
    "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
    "paths": {},
}
#: The same in protocol buffers: field 1, a string of three bytes. It is asked for by a name that is
#: no media type, and sent by one that is.
OPENAPI_V2_WANTED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
OPENAPI_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
OPENAPI_V2_PROTOBUF = b"\x0a\x032.0"


def document(path: str) -> Object | None:
    """The JSON document at a path, or None."""
    parts = path.strip("/").split("/")
    match parts:
        case ["version"]:
            return dict(VERSION)
        case ["openapi", "v2"]:
            return OPENAPI_V2
        case ["openapi", "v3"]:
            return {"paths": {}}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(group, version) for group, version in _groups()]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis", group]:
            for name, version in _groups():
                if name == group:
                    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, version)
        case ["apis", group, version] if (group, version) in _groups():
            return _resources(group, version)
    return None


def _groups() -> list[tuple[str, str]]:
    return sorted({(one.group, one.version) for one in RESOURCES if one.group})


def _group(group: str, version: str) -> Object:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(group: str, version: str) -> Object:
    resources: list[dict[str, Any]] = []
    for one in RESOURCES:
        if (one.group, one.version) == (group, version):
            described: dict[str, Any] = {
                "name": one.plural,
                "singularName": one.singular,
                "namespaced": one.is_namespaced,
                "kind": one.kind,
                "verbs": list(VERBS),
            }
            if one.is_in_all:
                described["categories"] = ["all"]
            if one.short_names:
                described["shortNames"] = list(one.short_names)
            resources.append(described)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }
