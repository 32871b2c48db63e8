"""The gateways, as applications for servers that are told their names."""

from __future__ import annotations

import os

from starlette.types import Receive, Scope, Send

from sticky_asgi import Backend, Gateway, Pool, SignedCookie


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """What the echo server does, as an application."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "bytes" if message.get("text") is None else "text"
        await send({"type": "websocket.send", kind: message[kind]})


def _gateway_before(backend: Backend) -> Gateway:
    pool = Pool("echo", [backend], affinity=SignedCookie("a secret for this test only"))
    return Gateway({"/": pool})


before_server = _gateway_before(Backend(os.environ["AUTOBAHN_BACKEND"]))
before_app = _gateway_before(Backend(app=echo, id="echo"))
