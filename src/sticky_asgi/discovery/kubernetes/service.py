"""A pool's backends from one Service of Kubernetes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import httpx

from ...exceptions import DiscoveryError
from ...snapshot import Snapshot
from .api import ApiServer
from .backends import Choice, Identity, ServiceBackends
from .services import Unusable
from .source import Memory, Source, check_name, is_other


class KubernetesService(Source[Snapshot]):
    """The pods of a Kubernetes Service: a source of backends for a `Pool`.

    The Service and its EndpointSlices are listed and then watched, so a change is known within
    milliseconds. Pods that are ready are active; those that terminate and still serve drain: they
    keep their visitors and get no new ones; those that are not ready are down. What the Service's
    annotations say of affinity is in `Snapshot.affinity`.

    It needs `get`, `list` and `watch` on `services` and `endpointslices` in the namespace.

    Args:
        service: The name of the Service. While it does not exist there are no backends.
        namespace: Its namespace. Default: the one the gateway runs in; must be given with `url`
            or `client`.
        port: Number or name of the Service's port, not that of its pods. Default: its only one;
            must be given where it has several, or where a headless Service has none.
        url: Address of the API server, such as that of `kubectl proxy`. Default: that of the
            cluster the gateway runs in, with the service account of its pod.
        token_file: File with a bearer token. It is read for each request, since tokens are
            replaced. Default: the service account's; with `url` none is sent.
        ca_file: PEM file with the authority of the server's certificate. Default: the service
            account's; with `url` the system's.
        client: A ready `httpx.AsyncClient` with a `base_url`, in place of these three. It is not
            closed, and serves one event loop.
        identity: What a backend's id is, and so what sessions follow: the name of its `"pod"`
            (default), so that a pod of a StatefulSet that is replaced keeps its visitors, and one
            that gets another's address inherits none; the pod's `"uid"`; or its `"address"`.
        zone: The zone the gateway runs in. Where every ready endpoint has topology hints and some
            are for this zone, new sessions go there; sessions stay where they are. Default None:
            hints are not looked at. `Backend.metadata["zone"]` has each one's zone in any case.
        external_name: Whether a Service of type ExternalName is a backend, by that name. Default
            False, since whoever may edit the Service then says where requests go. Names of this
            machine, loopback and link-local addresses and clouds' metadata services are refused in
            any case.

    Raises:
        ValueError: A value that cannot be, naming it.
        TypeError: An argument of another type.

    Example:
        pool = Pool("shop", discovery=KubernetesService("web", namespace="shop", port="http"))
    """

    def __init__(
        self,
        service: str,
        *,
        namespace: str | None = None,
        port: int | str | None = None,
        url: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        client: httpx.AsyncClient | None = None,
        identity: Identity = "pod",
        zone: str | None = None,
        external_name: bool = False,
    ) -> None:
        check_name("service", service)
        super().__init__(
            namespace,
            ApiServer(url=url, token_file=token_file, ca_file=ca_file, client=client),
            Choice(port=port, identity=identity, zone=zone, external_name=external_name),
            name=service,
        )
        self.service = service

    def watch(self) -> AsyncIterator[Snapshot]:
        """Tell what backends there are, now and from now on.

        Raises:
            DiscoveryError: The API server cannot be reached or refuses, or the Service is not what
                is wanted: a port that it has not, for one. The latter is raised once; while it
                lasts, another watch waits for better news.
        """
        return self._tell()

    async def _look(self, memory: Memory[Snapshot]) -> Snapshot | None:
        copy = memory.copy
        copy.changed.clear()
        view = copy.views.get(self.service) or ServiceBackends(self.choice)
        copy.say(self.service, _remarks(view))
        try:
            for _ in view.steps():
                await asyncio.sleep(0)
            snapshot = view.snapshot()
        except Unusable as exc:
            problem = f"kubernetes: service {copy.namespace}/{self.service}: {exc}"
            if problem == memory.problem:
                return None
            memory.problem = problem
            raise DiscoveryError(problem) from None
        memory.problem = None
        return snapshot

    def _is_news(self, before: Snapshot, now: Snapshot) -> bool:
        return is_other(before, now)

    def __repr__(self) -> str:
        port = "" if self.choice.port is None else f":{self.choice.port}"
        return f"<KubernetesService {self.namespace or 'own namespace'}/{self.service}{port}>"


def _remarks(view: ServiceBackends) -> tuple[str, ...]:
    """What is to be said of the Service to the operator."""
    if view.service is None:
        return ("does not exist",)
    reading = view.service.reading
    if not reading.routes and reading.host != "backend":
        return view.remarks()
    return (
        *view.remarks(),
        "what its annotations say of routes and of the Host header holds for the pools of a "
        "namespace; here the gateway's routes and the pool's host say it",
    )
