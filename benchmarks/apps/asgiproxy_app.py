"""asgiproxy as its own command line sets it up: a proxy to one address, on aiohttp."""

from __future__ import annotations

from asgiproxy.config import BaseURLProxyConfigMixin, ProxyConfig
from asgiproxy.context import ProxyContext
from asgiproxy.simple_proxy import make_simple_proxy_app
from starlette.types import ASGIApp

from benchmarks.apps import origin_urls


class _Config(BaseURLProxyConfigMixin, ProxyConfig):  # type: ignore[misc]
    upstream_base_url = origin_urls()[0]


app: ASGIApp = make_simple_proxy_app(ProxyContext(_Config()))
