"""How to test a gateway of your own: with TestClient, in one process, without any socket.

Run it:

    python -m pytest examples/in_process_test.py

The gateway under test is built by `make_gateway`, as yours would be; only the replicas are made
for the test. Each `TestClient` has its own cookie jar: it is one visitor.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi import (
    AffinityStatus,
    Backend,
    Gateway,
    Intent,
    Pool,
    RequestFinished,
    SignedCookie,
)


class Listener:
    """Keeps what the gateway reports."""

    def __init__(self) -> None:
        self.events: list[RequestFinished] = []

    def on_request(self, event: RequestFinished) -> None:
        self.events.append(event)


def make_gateway(backends: Iterable[str | Backend], listener: Listener) -> tuple[Gateway, Pool]:
    """What is tested: in your project, import it instead."""
    pool = Pool("shop", backends, affinity=SignedCookie("a secret for the tests"))
    return Gateway({"/": pool}, listeners=[listener]), pool


def replica(name: str) -> Backend:
    """A back end that answers with its name."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(name)

    return Backend(app=Starlette(routes=[Route("/{path:path}", answer)]), id=name)


def broken(name: str) -> Backend:
    """A back end that fails instead of answering."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("out of order")

    return Backend(app=app, id=name)


def visitor(app: ASGIApp) -> TestClient:
    return TestClient(app)


def test_a_visitor_returns_to_the_same_replica() -> None:
    gateway, _ = make_gateway([replica("a"), replica("b"), replica("c")], Listener())
    with visitor(gateway) as ada:
        first = ada.get("/")
        assert "set-cookie" in first.headers
        again = [ada.get("/") for _ in range(5)]
    assert {response.text for response in again} == {first.text}
    assert not any("set-cookie" in response.headers for response in again)


def test_new_visitors_are_spread() -> None:
    gateway, _ = make_gateway([replica("a"), replica("b"), replica("c")], Listener())
    answers = [visitor(gateway).get("/").text for _ in range(6)]
    assert sorted(answers) == ["a", "a", "b", "b", "c", "c"]


def test_a_draining_replica_keeps_its_visitors() -> None:
    gateway, pool = make_gateway([replica("a"), replica("b")], Listener())
    with visitor(gateway) as ada:
        mine = ada.get("/").text
        pool.drain(mine)
        assert ada.get("/").text == mine
        assert mine not in {visitor(gateway).get("/").text for _ in range(4)}


def test_a_visitor_moves_once_when_the_replica_is_down() -> None:
    listener = Listener()
    gateway, pool = make_gateway([replica("a"), replica("b")], listener)
    with visitor(gateway) as ada:
        mine = ada.get("/").text
        pool.set_intent(mine, Intent.DOWN)
        other = ada.get("/").text
        assert ada.get("/").text == other != mine
    assert [event.affinity for event in listener.events] == [
        AffinityStatus.NEW,
        AffinityStatus.MOVED,
        AffinityStatus.KEPT,
    ]


def test_a_broken_replica_does_not_show() -> None:
    listener = Listener()
    gateway, _ = make_gateway([broken("a"), replica("b")], listener)
    with visitor(gateway) as ada:
        assert [ada.get("/").text for _ in range(3)] == ["b", "b", "b"]
    assert listener.events[0].attempts == 2


def test_without_any_replica_the_answer_is_503() -> None:
    gateway, _ = make_gateway([], Listener())
    with visitor(gateway) as ada:
        response = ada.get("/")
    assert response.status_code == 503
    assert "retry-after" in response.headers
