"""The floor: an application that only answers, with as many bytes as the origin would."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from benchmarks.payloads import LARGE, MEDIUM, SMALL, UPLOAD

_BODIES = {payload.path: b"x" * payload.received for payload in (SMALL, MEDIUM, LARGE, UPLOAD)}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, then answer; send back what comes over a WebSocket."""
    if scope["type"] == "websocket":
        await _echo(receive, send)
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = _BODIES[scope["path"]]
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
