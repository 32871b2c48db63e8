"""Server-sent events and WebSockets with notes in memory, to be run in several replicas.

Run it, from the root of the repository:

    pip install 'sticky-asgi[cli,websocket]'
    uvicorn examples.live_notes.app:app --port 9001 &
    uvicorn examples.live_notes.app:app --port 9002 &
    export STICKY_SECRET=$(openssl rand -hex 32)
    sticky-asgi run examples/live_notes/gateway.yaml

    curl -c jar http://127.0.0.1:8000/
    curl -b jar -N http://127.0.0.1:8000/events &
    curl -b jar -d milk 'http://127.0.0.1:8000/messages?stream=...'

A stream of events goes one way only, so what a client has to say to it is posted: that request
must reach the replica where the stream is. A WebSocket goes both ways, but the next one may reach
another replica. Clients that are no browsers have to keep the cookie, as curl does in `jar`, which
it writes when it ends: hence the request before the stream.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

streams: dict[str, asyncio.Queue[str]] = {}
notes: dict[str, list[str]] = {}


def event(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps({'process': os.getpid(), **data})}\n\n"


async def events(request: Request) -> StreamingResponse:
    """A stream that begins with the address to post to."""
    stream = secrets.token_urlsafe(8)

    async def content() -> AsyncIterator[str]:
        queue = streams[stream] = asyncio.Queue()
        try:
            yield event("address", post_to=f"/messages?stream={stream}")
            while True:
                yield event("note", text=await queue.get())
        finally:
            del streams[stream]

    return StreamingResponse(content(), media_type="text/event-stream")


async def messages(request: Request) -> PlainTextResponse:
    queue = streams.get(request.query_params["stream"])
    if queue is None:
        return PlainTextResponse("no such stream in this process\n", 404)
    queue.put_nowait((await request.body()).decode())
    return PlainTextResponse("", 202)


async def websocket(websocket: WebSocket) -> None:
    """Each message is a note; the answer is what this process has of the visitor."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept("notes" if "notes" in offered else None)
    mine = notes.setdefault(websocket.query_params["visitor"], [])
    async for text in websocket.iter_text():
        mine.append(text)
        await websocket.send_json({"process": os.getpid(), "notes": mine})


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"process {os.getpid()}\n")


app = Starlette(
    routes=[
        Route("/", home),
        Route("/events", events),
        Route("/messages", messages, methods=["POST"]),
        WebSocketRoute("/websocket", websocket),
    ]
)
