"""The gateway, as an application for servers that are told its name."""

from __future__ import annotations

import os

from sticky_asgi import Backend, Gateway, Pool, SignedCookie

pool = Pool(
    "echo",
    [Backend(os.environ["AUTOBAHN_BACKEND"])],
    affinity=SignedCookie("a secret for this test only"),
)
app = Gateway({"/": pool})
