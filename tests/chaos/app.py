"""A stateful replica: it keeps a counter for each session in memory, and loses all when it dies.

Which replica answered, and which run of it, is in every answer; so is what the answer belongs to.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from tests.apps import lifespan, respond, respond_json

#: Seconds between two events of a stream.
TICK = 0.2


class Replica:
    """Counters by session.

    - `POST /session?wait=0.5&number=7` adds one, GET adds nothing; both take that long and tell the
      counter of the session that the field `x-session` names.
    - `/numbers` tells which requests have arrived, `/healthz` that it is alive.
    - `/events` is a stream without an end, a WebSocket echoes what it is sent.
    """

    def __init__(self, name: str) -> None:
        self.who = {"replica": name, "boot": uuid.uuid4().hex}
        self.counts: Counter[str] = Counter()
        self.numbers: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self.echo(receive, send)
        elif scope["path"] == "/healthz":
            await respond(send, 200, [], b"ok")
        elif scope["path"] == "/numbers":
            await respond_json(send, self.numbers)
        elif scope["path"] == "/events":
            await self.tell_events(receive, send)
        else:
            await self.serve_session(scope, receive, send)

    async def serve_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = dict(scope["headers"])[b"x-session"].decode()
        query = dict(parse_qsl(scope["query_string"].decode()))
        number = int(query["number"])
        self.numbers.append(number)
        if scope["method"] == "POST":
            # Counted only when all of it has arrived.
            while (await receive()).get("more_body"):
                pass
            self.counts[session] += 1
        await asyncio.sleep(float(query["wait"]))
        told = {"session": session, "number": number, "count": self.counts[session]}
        await respond_json(send, {**self.who, **told})

    async def tell_events(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        event = f"data: {json.dumps(self.who)}\n\n".encode()
        await receive()
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.wait([gone], timeout=TICK)

    async def echo(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


app = Replica(os.environ.get("BACKEND_NAME", "replica"))
