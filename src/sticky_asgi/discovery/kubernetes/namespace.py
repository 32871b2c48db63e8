"""Pools from the annotated Services of a namespace."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator

import httpx

from ...checks import check_type
from ..found import DiscoveredPool, RouteHint
from .api import ApiServer
from .backends import Choice, Identity, ServiceBackends
from .copy import Copy
from .services import Service, Unusable
from .source import Memory, Source, is_other

logger = logging.getLogger("sticky_asgi.discovery")

#: Whose annotations make a pool of a Service.
PREFIXES = (
    "sticky-asgi/",
    "traefik.ingress.kubernetes.io/",
    "ingress.kubernetes.io/",
    "nginx.ingress.kubernetes.io/",
    "traefik.backend.",
)


class KubernetesNamespace(Source[tuple[DiscoveredPool, ...]]):
    """Every annotated Service of a Kubernetes namespace: a source of pools for a gateway.

    A Service with an annotation of a vocabulary that is known here is a pool of its name, sticky
    or not as the annotations say, with the routes that they name, or else the path `/<service>`.
    One watch on the Services and one on the EndpointSlices serve them all. A Service that cannot
    be used, such as one of several ports of which none is chosen, is named in the log once; what
    was known of it stays in force.

    It needs `get`, `list` and `watch` on `services` and `endpointslices` in the namespace.

    Args:
        namespace: The namespace. Default: the one the gateway runs in; must be given with `url`
            or `client`.
        selector: A label selector, as `kubectl -l` takes it. Default None: every Service.
        port: Number or name of the port to take where a Service has several. Default None: such
            Services are no pools.
        url: As in `KubernetesService`, and so are the others.

    Raises:
        ValueError: A value that cannot be, naming it.
        TypeError: An argument of another type.
    """

    def __init__(
        self,
        namespace: str | None = None,
        *,
        selector: str | None = None,
        port: int | str | None = None,
        url: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        client: httpx.AsyncClient | None = None,
        identity: Identity = "pod",
        zone: str | None = None,
        external_name: bool = False,
    ) -> None:
        check_type("selector", selector, str, None)
        super().__init__(
            namespace,
            ApiServer(url=url, token_file=token_file, ca_file=ca_file, client=client),
            Choice(
                port=port, any_port=True, identity=identity, zone=zone, external_name=external_name
            ),
            selector=selector,
        )
        self.selector = selector

    def watch_pools(self) -> AsyncIterator[tuple[DiscoveredPool, ...]]:
        """Tell what pools there are, now and from now on, sorted by name.

        Each is the full set. A pool of which nothing has changed is the same object as before.

        Raises:
            DiscoveryError: The API server cannot be reached, or refuses.
        """
        return self._tell()

    async def _look(self, memory: Memory[tuple[DiscoveredPool, ...]]) -> tuple[DiscoveredPool, ...]:
        copy = memory.copy
        pools = {pool.name: pool for pool in memory.told or ()}
        changed, copy.changed = copy.changed, set()
        for name in sorted(changed):
            view = copy.views.get(name)
            if view is None or view.service is None or not _is_annotated(view.service):
                pools.pop(name, None)
                copy.say(name, ())
                continue
            remarks = view.remarks()
            try:
                for _ in view.steps():
                    await asyncio.sleep(0)
                # It may be gone by now, which is a change of its own.
                if (pool := _pool(view, pools.get(name))) is not None:
                    pools[name] = pool
            except Unusable as exc:
                remarks = (*remarks, str(exc))
            copy.say(name, remarks)
        if memory.told is None:
            self._say_if_none(copy)
        return tuple(pools[name] for name in sorted(pools))

    def _say_if_none(self, copy: Copy) -> None:
        """There may be no such namespace: the API server does not say so, its lists are empty."""
        services = [view.service for view in copy.views.values() if view.service is not None]
        if not any(map(_is_annotated, services)):
            selector = "" if self.selector is None else f", selector {self.selector!r}"
            logger.warning(
                "kubernetes: services in namespace %s%s: none has an annotation that is known here",
                copy.namespace,
                selector,
            )

    def _is_news(self, before: tuple[DiscoveredPool, ...], now: tuple[DiscoveredPool, ...]) -> bool:
        return list(map(id, before)) != list(map(id, now))

    def __repr__(self) -> str:
        selector = "" if self.selector is None else f" {self.selector}"
        return f"<KubernetesNamespace {self.namespace or 'own namespace'}{selector}>"


def _is_annotated(service: Service) -> bool:
    return any(key.startswith(PREFIXES) for key in (*service.annotations, *service.labels))


def _pool(view: ServiceBackends, before: DiscoveredPool | None) -> DiscoveredPool | None:
    """The pool that a Service makes; None if there is no Service.

    Raises:
        Unusable: The Service can be none.
    """
    service = view.service
    if service is None:
        return None
    snapshot, reading = view.snapshot(), service.reading
    routes = reading.routes or (RouteHint(path=f"/{service.name}"),)
    if reading.routes is None:
        if before is None:
            raise Unusable("there is no route to it until its path and host can be read")
        routes = before.routes
    if (
        before is not None
        and not is_other(before.snapshot, snapshot)
        and (before.routes, before.host) == (routes, reading.host)
    ):
        return before
    return DiscoveredPool(name=service.name, snapshot=snapshot, routes=routes, host=reading.host)
