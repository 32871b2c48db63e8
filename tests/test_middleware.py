"""The gateway before an application: matched → gateway, everything else → the application."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sticky_asgi import Backend, Gateway, GatewayMiddleware, Pool, Route, SignedCookie

from . import servers
from .apps import CounterApp, EchoApp, hello

SECRET = "a secret of sixteen bytes"


def pool(app: ASGIApp | None = None, **options: Any) -> Pool:
    return Pool("shop", [Backend(app=app or hello("backend"), id="a")], **options)


async def say_local(request: Request) -> Response:
    return PlainTextResponse(f"local {request.url.path}")


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


ROUTES = [
    WebSocketRoute("/local/ws", greet),
    WebSocketRoute("/shop/ws", greet),
    StarletteRoute("/{path:path}", say_local),
]


class Bare:
    """An application that knows nothing but ASGI, and keeps the scopes it was called with."""

    def __init__(self) -> None:
        self.types: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.types.append(scope["type"])
        if scope["type"] == "websocket":
            await greet(WebSocket(scope, receive, send))
        elif scope["type"] == "http":
            await PlainTextResponse(f"local {scope['path']}")(scope, receive, send)
        else:
            raise RuntimeError(f"no {scope['type']} here")


def starlette(pools: Any, **options: Any) -> ASGIApp:
    middleware = [Middleware(GatewayMiddleware, pools=pools, **options)]
    return Starlette(routes=ROUTES, middleware=middleware)


def bare(pools: Any, **options: Any) -> ASGIApp:
    return GatewayMiddleware(Bare(), pools, **options)


applications = pytest.mark.parametrize(
    "build", [pytest.param(starlette, id="starlette"), pytest.param(bare, id="bare")]
)


@applications
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/shop", "backend", id="matched"),
        pytest.param("/shop/x", "backend", id="below"),
        pytest.param("/shopping", "local /shopping", id="half-segment"),
        pytest.param("/", "local /", id="no-match"),
        pytest.param("/shop/own/x", "local /shop/own/x", id="none"),
    ],
)
def test_who_answers(build: Any, path: str, expected: str) -> None:
    with TestClient(build({"/shop": pool(), "/shop/own": None})) as client:
        assert client.get(path).text == expected


@applications
def test_routes_may_be_a_list(build: Any) -> None:
    routes = [Route(pool(), path="/shop", methods=["POST"])]
    with TestClient(build(routes)) as client:
        assert client.post("/shop").text == "backend"
        assert client.get("/shop").text == "local /shop"


@applications
def test_web_sockets(build: Any) -> None:
    with TestClient(build({"/shop": pool()})) as client:
        with client.websocket_connect("/local/ws") as socket:
            assert socket.receive_text() == "hello"
        with pytest.raises(WebSocketDisconnect):
            with client.websocket_connect("/shop/ws"):
                raise AssertionError("must not be accepted")
        assert client.get("/shop").text == "backend", "and all goes on"


@applications
def test_web_sockets_of_a_matching_route(build: Any) -> None:
    async def talk(socket: WebSocket) -> None:
        await socket.accept(subprotocol="chat")
        await socket.send_text(f"backend {await socket.receive_text()}")
        await socket.close(4000)

    backend = Starlette(routes=[WebSocketRoute("/shop/ws", talk)])
    with TestClient(build({"/shop": pool(backend), "/shop/own": None})) as client:
        with client.websocket_connect("/shop/ws", subprotocols=["chat"]) as socket:
            assert socket.accepted_subprotocol == "chat"
            socket.send_text("hears")
            assert socket.receive_text() == "backend hears"
            with pytest.raises(WebSocketDisconnect) as caught:
                socket.receive_text()
            assert caught.value.code == 4000
        with client.websocket_connect("/local/ws") as socket:
            assert socket.receive_text() == "hello"


def test_other_scopes_go_to_the_app() -> None:
    app = Bare()

    async def main() -> None:
        async def never(*args: Any) -> Any:
            raise AssertionError

        with pytest.raises(RuntimeError, match="no telepathy here"):
            await GatewayMiddleware(app, {"/": pool()})({"type": "telepathy"}, never, never)

    asyncio.run(main())
    assert app.types == ["telepathy"]


def test_the_app_is_there_for_middleware_outside_and_inside() -> None:
    """Pure ASGI: what stands around it sees the requests that go to backends."""
    seen: list[str] = []

    class Watch:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                seen.append(scope["path"])
            await self.app(scope, receive, send)

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Watch), Middleware(GatewayMiddleware, pools={"/shop": pool()})],
    )
    with TestClient(app) as client:
        client.get("/shop")
        client.get("/x")
    assert seen == ["/shop", "/x"]


def test_added_to_a_finished_app() -> None:
    app = Starlette(routes=ROUTES)
    app.add_middleware(GatewayMiddleware, pools={"/": pool(), "/local": None})
    with TestClient(app) as client:
        assert [client.get(path).text for path in ("/", "/local")] == ["backend", "local /local"]


def test_options_reach_the_gateway() -> None:
    events: list[Any] = []

    class Listening:
        def on_request(self, event: Any) -> None:
            events.append(event)

    middleware = GatewayMiddleware(
        hello(),
        {"/": Pool("shop", [])},
        trusted_proxies=["10.0.0.0/8"],
        error_response=lambda error, scope: PlainTextResponse("sorry", error.status_code),
        listeners=[Listening()],
        forwarded=True,
        max_head=1000,
    )
    assert middleware.gateway.forwarded
    assert "10.1.1.1" in middleware.gateway.trusted_proxies
    with TestClient(middleware) as client:
        assert client.get("/").text == "sorry"
        assert client.get("/", headers={"x": "y" * 1000}).status_code == 431
    assert [event.status for event in events] == [503, 431]


def test_one_set_of_options_for_both() -> None:
    """What the middleware takes, it takes as the gateway does."""
    import inspect

    gateway = inspect.signature(Gateway).parameters
    middleware = dict(inspect.signature(GatewayMiddleware).parameters)
    assert middleware.pop("app")
    assert {name: (p.kind, p.default) for name, p in middleware.items()} == {
        name: (p.kind, p.default) for name, p in gateway.items()
    }


# Lifespan


class Lived:
    """Lifespans that say what they do."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def starlette(self, name: str, **options: Any) -> Starlette:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
            self.log.append(f"{name} starts")
            yield {"name": name}
            self.log.append(f"{name} stops")

        async def say(request: Request) -> Response:
            return PlainTextResponse(request.state.name)

        return Starlette(routes=[StarletteRoute("/{path:path}", say)], lifespan=lifespan, **options)


def test_lifespans_of_app_and_backends() -> None:
    lived = Lived()
    shop = pool(lived.starlette("backend"))
    app = lived.starlette("app", middleware=[Middleware(GatewayMiddleware, pools={"/shop": shop})])
    with TestClient(app) as client:
        assert lived.log == ["backend starts", "app starts"]
        assert client.get("/shop").text == "backend", "each finds its own state"
        assert client.get("/").text == "app"
    assert lived.log == ["backend starts", "app starts", "app stops", "backend stops"]


def test_an_app_that_fails_to_start_is_not_served() -> None:
    lived = Lived()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = Starlette(
        lifespan=lifespan,
        middleware=[Middleware(GatewayMiddleware, pools={"/": pool(lived.starlette("backend"))})],
    )
    with pytest.raises(RuntimeError) as caught:
        with servers.serve(app):
            raise AssertionError("must not be served")
    assert "did not start" in str(caught.value)
    assert "no database" in str(caught.value)
    assert lived.log == ["backend starts", "backend stops"]


def test_a_backend_that_fails_to_start_is_not_served() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = GatewayMiddleware(hello(), {"/": pool(Starlette(lifespan=lifespan))})
    with pytest.raises(RuntimeError, match="no database"):
        with servers.serve(app):
            raise AssertionError("must not be served")


@pytest.fixture
def backend(no_leaks: None) -> Any:
    answer = servers.response(200, b"over a socket")
    with servers.RawBackend(servers.responding(answer)) as backend:
        yield backend
        servers.eventually(lambda: not backend.open_connections)


def test_without_lifespan_it_starts_with_the_first_request(
    backend: servers.RawBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """TestClient without `with` runs every request in an event loop of its own."""
    client = TestClient(starlette({"/": Pool("shop", [backend.url])}))
    for _ in range(3):
        assert client.get("/").text == "over a socket"
        servers.eventually(lambda: not backend.open_connections)
        gc.collect()
    assert len(backend.connections) == 3
    lines = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "was not started by a lifespan" in lines[0]


def test_with_lifespan_connections_are_kept_until_the_end(
    backend: servers.RawBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(starlette({"/": Pool("shop", [backend.url])})) as client:
        for _ in range(3):
            assert client.get("/").text == "over a socket"
        assert len(backend.connections) == 1
        assert backend.open_connections == 1
    servers.eventually(lambda: not backend.open_connections)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_server_with_lifespan_off(
    backend: servers.RawBackend, http: servers.HttpImplementation
) -> None:
    app = starlette({"/": Pool("shop", [backend.url])})
    with servers.serve(app, http=http, lifespan="off") as server:
        for _ in range(2):
            assert servers.request(server.port).body == b"over a socket"
        assert len(backend.connections) == 1
    servers.eventually(lambda: not backend.open_connections)
    assert server.errors == []


# Mounted


def test_mounted() -> None:
    lived = Lived()
    gateway = Gateway({"/": pool(lived.starlette("backend")), "/echo": Pool("echo", [
        Backend(app=EchoApp(), id="e")])})  # fmt: skip

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway:
            yield

    app = Starlette(
        routes=[Mount("/shop", app=gateway), StarletteRoute("/{path:path}", say_local)],
        lifespan=lifespan,
    )
    with TestClient(app) as client:
        assert lived.log == ["backend starts"]
        assert client.get("/shop/").text == "backend"
        assert client.get("/x").text == "local /x"
        echoed = client.get("/shop/echo/a%2Fb?q").json()
        assert echoed["target"] == "/echo/a%2Fb?q", "the mount's path is not the backend's"
        assert echoed["root_path"] == ""
    assert lived.log == ["backend starts", "backend stops"]


# What users test their own gateways with


def test_sessions_stick_in_a_test_client() -> None:
    backends = [Backend(app=CounterApp(name), id=name) for name in "abc"]
    shop = Pool("shop", backends, affinity=SignedCookie(SECRET))
    app = starlette({"/": shop})
    with TestClient(app) as one, TestClient(app, cookies={}) as other:
        first = one.get("/").json()
        assert [one.get("/").json() for _ in range(3)] == [
            first | {"count": count} for count in (2, 3, 4)
        ]
        assert other.get("/").json()["backend"] != first["backend"]
        shop.remove(first["backend"])
        moved = one.get("/").json()
        assert moved["backend"] != first["backend"]
        assert one.get("/").json()["backend"] == moved["backend"]


def test_a_backends_failure_in_a_test_client() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    with TestClient(starlette({"/": pool(broken)})) as client:
        response = client.get("/")
        assert (response.status_code, response.text) == (502, "502 Bad Gateway\n")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_methods_in_a_test_client(method: str) -> None:
    with TestClient(starlette({"/": pool(EchoApp())})) as client:
        body = b"x" * 100_000 if method in ("POST", "PUT") else b""
        response = client.request(method, "/", content=body)
        if method == "HEAD":
            assert response.content == b""
            assert int(response.headers["content-length"]) > 0
        else:
            echoed = response.json()
            assert (echoed["method"], echoed["body_length"]) == (method, len(body))
