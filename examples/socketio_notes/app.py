"""A python-socketio server that keeps notes in memory, to be run in several replicas.

Run it, from the root of the repository:

    pip install python-socketio 'sticky-asgi[cli,websocket]'
    uvicorn examples.socketio_notes.app:app --port 9001 &
    uvicorn examples.socketio_notes.app:app --port 9002 &
    export STICKY_SECRET=$(openssl rand -hex 32)
    sticky-asgi run examples/socketio_notes/gateway.yaml

Then open http://127.0.0.1:8000. socket.io begins with long polling, many requests that belong
together, and then moves on to a WebSocket: all of them must reach the replica that knows the
connection. Without affinity none ever comes about.
"""

from __future__ import annotations

import os
from typing import Any

import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

PAGE = """<!doctype html>
<title>Notes</title>
<script src="https://cdn.socket.io/4.8.1/socket.io.min.js"></script>
<form><input name="text" placeholder="A note" autofocus> <button>Add</button></form>
<p>Process <span id="process"></span></p>
<ul></ul>
<script>
  localStorage.user ??= Math.random().toString(36).slice(2);
  const socket = io({auth: {user: localStorage.user}});
  document.forms[0].onsubmit = async (event) => {
    event.preventDefault();
    const answer = await socket.emitWithAck("note", event.target.text.value);
    event.target.reset();
    document.querySelector("#process").textContent = answer.process;
    document.querySelector("ul").replaceChildren(...answer.notes.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  };
</script>
"""

notes: dict[str, list[str]] = {}
server = socketio.AsyncServer(async_mode="asgi")


async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
    await server.save_session(sid, {"user": auth["user"]})


async def note(sid: str, text: str) -> dict[str, Any]:
    """Keep a note; the answer is what this process has of the visitor."""
    session = await server.get_session(sid)
    mine = notes.setdefault(session["user"], [])
    mine.append(text)
    return {"process": os.getpid(), "notes": mine}


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE)


server.on("connect", connect)
server.on("note", note)
app = socketio.ASGIApp(server, other_asgi_app=Starlette(routes=[Route("/", page)]))
