"""What is measured: the gateway, the floor, and the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import peers
from .peers import Site
from .processes import Launch


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be measured, and whether it keeps visitors where they belong."""

    name: str
    title: str
    launch: Callable[[Site], Launch]
    is_sticky: bool


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("gateway", "sticky-asgi", peers.gateway, True),
        Subject("plain", "sticky-asgi under plain uvicorn", partial(peers.asgi, "gateway"), True),
        Subject("uvicorn", "uvicorn, empty app", partial(peers.asgi, "empty"), False),
        Subject("traefik", "Traefik", peers.traefik, True),
        Subject("envoy", "Envoy", peers.envoy, True),
        Subject("caddy", "Caddy", peers.caddy, True),
        Subject("haproxy", "HAProxy", peers.haproxy, True),
        Subject("nginx", "nginx", peers.nginx_proxy, True),
        Subject("asgiproxy", "asgiproxy", partial(peers.asgi, "asgiproxy_app"), False),
        Subject(
            "fastapi-proxy-lib",
            "fastapi-proxy-lib",
            partial(peers.asgi, "fastapi_proxy_lib_app"),
            False,
        ),
        Subject("httpx", "plain httpx proxy", partial(peers.asgi, "httpx_proxy"), False),
        Subject("httpx2", "plain httpx2 proxy", partial(peers.asgi, "httpx2_proxy"), False),
    )
}
