"""Objects as the API server sends them, and a Service's backends made of them."""

from __future__ import annotations

from typing import Any

from sticky_asgi.discovery.kubernetes.backends import Choice, ServiceBackends
from sticky_asgi.discovery.kubernetes.endpoints import Slice, read_slice
from sticky_asgi.discovery.kubernetes.services import Service, read_service
from sticky_asgi.testing.kubernetes import endpoint_slice, service

ARTICLE = {
    "traefik.ingress.kubernetes.io/affinity": "true",
    "traefik.ingress.kubernetes.io/session-cookie-name": "traefik-cookie",
}


def a_service(**options: Any) -> Service:
    return read_service(service("web", **options))


def a_slice(*endpoints: dict[str, Any], created: str = "", **options: Any) -> Slice:
    manifest = endpoint_slice("web", list(endpoints), **options)
    manifest["metadata"]["creationTimestamp"] = created
    found = read_slice(manifest)
    assert found is not None
    return found


def backends_of(
    *slices: Slice, service: Service | None = None, choice: Choice | None = None
) -> ServiceBackends:
    view = ServiceBackends(choice or Choice())
    view.service = service or a_service()
    view.slices = {part.name: part for part in slices}
    return view


def ids(view: ServiceBackends) -> list[str]:
    return [backend.id for backend in view.snapshot().backends]


def urls(view: ServiceBackends) -> list[str | None]:
    return [backend.url for backend in view.snapshot().backends]
