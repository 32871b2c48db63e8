"""Back ends and gateways that carry WebSockets, for processes of their own: `ProcessBackend` serves
the instances at the end. What they have to know is in the environment."""

from __future__ import annotations

import asyncio
import os

from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi import Backend, Gateway, Pool
from tests.apps import lifespan, respond, respond_json

#: Bytes of a message of a flood, and how many there are: more than all buffers on the way hold.
PIECE = 64 * 1024
PIECES = 1024


class Echo:
    """Sends each message back, but for `close 4001`, which closes, and `die`, which raises."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            await respond(send, 200, [], b"echo")
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await self._echo(receive, send)

    async def _echo(self, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            word, _, code = (message.get("text") or "").partition(" ")
            if word == "close":
                await send({"type": "websocket.close", "code": int(code), "reason": "as told"})
                return
            if word == "die":
                raise RuntimeError("as it was told")
            await send({**message, "type": "websocket.send"})


class Flood:
    """Sends faster than anybody reads, or reads nothing until it may.

    A WebSocket on `.../down` gets `PIECES` messages. One on `.../up` may send as many, and is not
    listened to before somebody has asked for `.../go`; then it is told how many bytes have come.
    Any other request is told the same, and how many messages were sent.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self._go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            if scope["path"].endswith("/go"):
                self._go.set()
            await respond_json(send, {"sent": self.sent, "received": self.received})
        else:
            self.sent = self.received = 0
            self._go.clear()
            await receive()
            await send({"type": "websocket.accept"})
            await (self._pour if scope["path"].endswith("/down") else self._drink)(receive, send)

    async def _pour(self, receive: Receive, send: Send) -> None:
        for _ in range(PIECES):
            await send({"type": "websocket.send", "bytes": bytes(PIECE)})
            self.sent += 1
        await receive()

    async def _drink(self, receive: Receive, send: Send) -> None:
        await self._go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received += len(message.get("bytes") or b"")
            if "text" in message and message["text"] is not None:
                await send({"type": "websocket.send", "text": str(self.received)})


def _gateway() -> ASGIApp:
    """To a backend in another process, and to one in this."""
    away = Pool("away", [os.environ.get("FLOOD_URL", "http://127.0.0.1:9")])
    here = Pool("here", [Backend(app=Flood(), id="flood")])
    return Gateway({"/away": away, "/here": here})


echo = Echo()
flood_gateway = _gateway()
