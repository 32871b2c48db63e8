"""State in the memory of several replicas: what breaks, and the two ways to hold it.

Run it:

    python examples/sessions_shared_or_sticky.py

A visitor logs in and clicks a few times. Then the visitor's replica is cut off; at last it is back
and the only one left. It prints what happens, step by step, in three set-ups of the same three
replicas:

- `balanced`: plain load balancing. The session exists on one replica only, so most clicks meet a
  replica that has never heard of the visitor.
- `sticky`: affinity. Every click meets the replica that has the session. It holds as long as the
  replica can be reached; elsewhere nobody knows the visitor.
- `shared`: affinity, and a store that all replicas share. `announce=True` tells a replica with
  each request how the visitor got there: `Sticky-Session: kept` means that what it has in memory
  is up to date, `new`, `moved` and `lost` mean that the store knows better. So nothing breaks,
  the store is hardly ever read, and a replica that comes back does not go on from where it was.

To try it by hand, serve it and use a cookie jar:

    uvicorn examples.sessions_shared_or_sticky:app
    curl -c jar -b jar -X POST http://127.0.0.1:8000/shared/login
    curl -c jar -b jar -X POST http://127.0.0.1:8000/shared/click
"""

from __future__ import annotations

import secrets

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route as Endpoint
from starlette.testclient import TestClient

from sticky_asgi import Backend, Gateway, Intent, Pool, Route, SignedCookie

SECRET = secrets.token_hex()
CLICKS = 4


class Store:
    """What all replicas share. In earnest: Redis, a database, a directory."""

    def __init__(self) -> None:
        self.reads = 0
        self._clicks: dict[str, int] = {}

    def read(self, session: str) -> int | None:
        self.reads += 1
        return self._clicks.get(session)

    def write(self, session: str, clicks: int) -> None:
        self._clicks[session] = clicks


def make_replica(name: str, cookie: str, store: Store | None) -> Starlette:
    """One replica: a login and a click counter, kept in memory and, with a store, there too."""
    memory: dict[str, int] = {}

    def find(session: str, status: str | None) -> tuple[int | None, str]:
        if store is None:
            return memory.get(session), "memory"
        if status == "kept" and session in memory:
            return memory[session], "memory"
        return store.read(session), "store"

    def keep(session: str, clicks: int) -> None:
        memory[session] = clicks
        if store is not None:
            store.write(session, clicks)

    async def login(request: Request) -> JSONResponse:
        session = secrets.token_urlsafe()
        keep(session, 0)
        response = JSONResponse({"replica": name, "clicks": 0, "source": "login"})
        response.set_cookie(cookie, session, httponly=True, samesite="lax")
        return response

    async def click(request: Request) -> JSONResponse:
        session = request.cookies.get(cookie, "")
        clicks, source = find(session, request.headers.get("sticky-session"))
        if clicks is None:
            return JSONResponse({"replica": name, "clicks": None, "source": source}, 401)
        keep(session, clicks + 1)
        return JSONResponse({"replica": name, "clicks": clicks + 1, "source": source})

    return Starlette(
        routes=[
            Endpoint("/login", login, methods=["POST"]),
            Endpoint("/click", click, methods=["POST"]),
        ]
    )


def make_pool(name: str, affinity: SignedCookie | None, store: Store | None = None) -> Pool:
    return Pool(
        name,
        [
            Backend(app=make_replica(replica, f"{name}_session", store), id=replica)
            for replica in ("a", "b", "c")
        ],
        affinity=affinity,
    )


store = Store()
pools = (
    make_pool("balanced", None),
    make_pool("sticky", SignedCookie(SECRET)),
    make_pool("shared", SignedCookie(SECRET, announce=True), store),
)
app = Gateway([Route(pool, path=f"/{pool.name}", strip_prefix=True) for pool in pools])


def visit(pool: Pool) -> list[str]:
    """One visitor's way through a pool, a line for each step."""
    steps = []
    with TestClient(app) as client:

        def post(action: str) -> dict[str, object]:
            answer: dict[str, object] = client.post(f"/{pool.name}/{action}").json()
            return answer

        def tell(answer: dict[str, object]) -> str:
            if answer["clicks"] is None:
                return f"{answer['replica']}: who are you?"
            return f"{answer['replica']}: {answer['clicks']} clicks ({answer['source']})"

        first = post("login")
        steps.append(tell(first))
        steps += [tell(post("click")) for _ in range(CLICKS)]
        home = str(first["replica"])
        pool.set_intent(home, Intent.DOWN)
        steps.append(f"({home} is cut off)")
        steps += [tell(post("click")) for _ in range(2)]
        for state in pool.states:
            pool.set_intent(state.id, Intent.ACTIVE if state.id == home else Intent.DOWN)
        steps.append(f"(only {home} is left)")
        steps += [tell(post("click")) for _ in range(2)]
        for state in pool.states:
            pool.set_intent(state.id, Intent.ACTIVE)
    return steps


def main() -> None:
    actions = ["log in", *["click"] * CLICKS, *["", "click", "click"] * 2]
    columns = [visit(pool) for pool in pools]
    print(f"{'':8}" + "".join(f"{pool.name:24}" for pool in pools).rstrip())
    for action, *steps in zip(actions, *columns, strict=True):
        print(f"{action:8}" + "".join(f"{step:24}" for step in steps).rstrip())
    print(f"\nReads of the shared store in {CLICKS + 4} clicks: {store.reads}")


if __name__ == "__main__":
    main()
