"""What it is all about: a gateway with the signed cookie and every header rule in force."""

from __future__ import annotations

from benchmarks.apps import origin_urls
from benchmarks.pools import make_pool
from sticky_asgi import Gateway

_urls = origin_urls()
pool = make_pool(_urls, size=len(_urls))
app = Gateway({"/": pool})
