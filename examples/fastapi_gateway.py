"""A FastAPI application that is a sticky gateway, with endpoints to watch and drain its replicas.

Run it:

    python examples/fastapi_gateway.py

Open http://127.0.0.1:8000/: one of three replicas answers, and it stays yours. Then take it out of
service without losing anybody:

    curl http://127.0.0.1:8000/local/replicas
    curl -X POST http://127.0.0.1:8000/local/replicas/a/drain

Whoever belongs to `a` still gets `a`; new visitors get `b` and `c` only. `undrain` takes it back.

The endpoints are open to everybody here. Put your own authentication before them.
"""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from sticky_asgi import Backend, BackendState, GatewayMiddleware, LeastRequests, Pool, SignedCookie


def make_replica(name: str) -> FastAPI:
    """A stateful back end: remembers what it was told, in its own memory."""
    replica = FastAPI()
    notes: list[str] = []

    @replica.get("/")
    async def read_notes() -> dict[str, object]:
        return {"replica": name, "notes": notes}

    @replica.post("/")
    async def add_note(request: Request) -> dict[str, object]:
        notes.append((await request.body()).decode())
        return {"replica": name, "notes": notes}

    return replica


pool = Pool(
    "notes",
    [Backend(app=make_replica(name), id=name) for name in ("a", "b", "c")],
    balancer=LeastRequests(),
    affinity=SignedCookie(os.environ.get("STICKY_SECRET", "a secret for this example only")),
)

app = FastAPI()
app.add_middleware(GatewayMiddleware, pools={"/": pool, "/local": None})


def find(replica_id: str) -> BackendState:
    if replica_id not in pool:
        raise HTTPException(404, f"no replica {replica_id!r}")
    return pool[replica_id]


def describe(state: BackendState) -> dict[str, object]:
    return {"id": state.id, "intent": state.intent.value, "in_flight": state.in_flight}


@app.get("/local/replicas")
async def list_replicas() -> list[dict[str, object]]:
    return [describe(state) for state in pool.states]


@app.post("/local/replicas/{replica_id}/drain")
async def drain(replica_id: str) -> dict[str, object]:
    state = find(replica_id)
    pool.drain(replica_id)
    return describe(state)


@app.post("/local/replicas/{replica_id}/undrain")
async def undrain(replica_id: str) -> dict[str, object]:
    state = find(replica_id)
    pool.undrain(replica_id)
    return describe(state)


if __name__ == "__main__":
    uvicorn.run(app, port=8000, server_header=False, date_header=False, proxy_headers=False)
