"""What it is all about: a gateway with the signed cookie and every header rule in force."""

from __future__ import annotations

import os

from benchmarks.apps import KEEP_ALIVE, POLICY, SIZE, origin_urls
from benchmarks.pools import make_pool
from sticky_asgi import Gateway, Timeouts

_urls = origin_urls()
_keep_alive = os.environ.get(KEEP_ALIVE)
pool = make_pool(
    _urls,
    size=int(os.environ.get(SIZE, len(_urls))),
    policy=os.environ.get(POLICY, "round_robin"),
    timeouts=Timeouts(keep_alive=float(_keep_alive)) if _keep_alive else None,
)
app = Gateway({"/": pool})
