"""fastapi-proxy-lib, as its own documentation uses it: a proxy to one address, on httpx."""

from __future__ import annotations

from fastapi_proxy_lib.fastapi.app import reverse_http_app
from starlette.types import ASGIApp

from benchmarks.apps import origin_urls

app: ASGIApp = reverse_http_app(base_url=origin_urls()[0] + "/")
