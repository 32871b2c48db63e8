"""The gateway before a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sticky_asgi import Backend, Gateway, GatewayMiddleware, Pool, SignedCookie

from . import servers
from .apps import CounterApp

SECRET = "a secret of sixteen bytes"


def local_app() -> FastAPI:
    app = FastAPI()

    @app.get("/local/{name}")
    def read(name: str, limit: int = 1) -> dict[str, object]:
        return {"local": name, "limit": limit}

    @app.websocket("/local/ws")
    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    return app


def counters() -> Pool:
    backends = [Backend(app=CounterApp(name), id=name) for name in "ab"]
    return Pool("shop", backends, affinity=SignedCookie(SECRET))


def test_the_readme_way() -> None:
    app = local_app()
    app.add_middleware(GatewayMiddleware, pools={"/": counters(), "/local": None})
    with TestClient(app) as client:
        first = client.get("/anything").json()
        assert client.get("/else").json() == first | {"count": 2}
        assert client.get("/local/x?limit=3").json() == {"local": "x", "limit": 3}
        assert client.get("/local/x?limit=y").status_code == 422
        with client.websocket_connect("/local/ws") as socket:
            assert socket.receive_text() == "hello"
        with pytest.raises(WebSocketDisconnect):
            with client.websocket_connect("/elsewhere/ws"):
                raise AssertionError("must not be accepted")


def test_without_lifespan() -> None:
    app = local_app()
    app.add_middleware(GatewayMiddleware, pools={"/": counters(), "/local": None})
    client = TestClient(app)
    first = client.get("/").json()
    assert client.get("/").json() == first | {"count": 2}
    assert client.get("/local/x").json()["local"] == "x"


def test_mounted() -> None:
    gateway = Gateway({"/": counters()})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/shop", gateway)
    with TestClient(app) as client:
        first = client.get("/shop/x").json()
        assert client.get("/shop/y").json() == first | {"count": 2}
        assert client.get("/docs").status_code == 200


async def session(request: Request) -> AsyncIterator[str]:
    yield "session"
    request.app.state.done.append("dependency")


def fastapi_backend(done: list[str]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"db": "connection"}

    app = FastAPI(lifespan=lifespan)
    app.state.done = done

    @app.post("/items")
    async def create(
        request: Request, tasks: BackgroundTasks, held: Annotated[str, Depends(session)]
    ) -> dict[str, object]:
        tasks.add_task(done.append, "background")
        return {"json": await request.json(), "db": request.state.db, "held": held}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number

        return StreamingResponse(pieces())

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("secret")

    return app


def test_as_a_backend_in_process() -> None:
    done: list[str] = []
    shop = Pool("shop", [Backend(app=fastapi_backend(done), id="a")])
    with TestClient(Gateway({"/": shop})) as client:
        answer = client.post("/items", json={"a": 1}).json()
        assert answer == {"json": {"a": 1}, "db": "connection", "held": "session"}
        assert client.get("/stream").text == "012"
        failed = client.get("/fail")
        assert failed.status_code == 500
        assert failed.text == "Internal Server Error", "FastAPI's own answer"
        servers.eventually(lambda: sorted(done) == ["background", "dependency"])


def test_in_front_and_behind_over_sockets() -> None:
    done: list[str] = []
    with servers.serve(fastapi_backend(done)) as backend:
        app = local_app()
        app.add_middleware(
            GatewayMiddleware, pools={"/": Pool("shop", [backend.url]), "/local": None}
        )
        with servers.serve(app) as server:
            response = servers.request(server.port, target=b"/stream")
            assert (response.status, response.body, response.complete) == (200, b"012", True)
            response = servers.request(server.port, target=b"/local/x")
            assert response.json() == {"local": "x", "limit": 1}
        assert server.errors == []
