"""The plain proxy on httpx2, with the limits it has by default: more connections cost it more."""

from __future__ import annotations

import httpx2

from benchmarks.apps import origin_urls
from benchmarks.apps.streaming import make_proxy

app = make_proxy(httpx2.AsyncClient(base_url=origin_urls()[0]))
