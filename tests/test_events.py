"""What listeners are told, besides of requests."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sticky_asgi import (
    Backend,
    BackendsReplaced,
    Event,
    EventListener,
    Gateway,
    GatewayError,
    Health,
    HealthChanged,
    Intent,
    IntentChanged,
    Limits,
    Pool,
    QueueFull,
    QueueTimeout,
    Reloaded,
    RequestFinished,
    RequestQueued,
    RequestRetried,
)
from sticky_asgi.serving import Service, Settings
from tests.servers import (
    Connection,
    RawBackend,
    RawClient,
    encode_request,
    eventually,
    refusing_port,
    request,
    responding,
    response,
    serve,
)
from tests.websocket_peers import handshake

OK = responding(response(200, b"fine"))


class Ear:
    """Keeps all it is told but of requests."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def heard(act: Callable[[Pool], object]) -> list[Event]:
    """What a listener is told when something is done to a pool of a and b."""
    pool, ear = Pool("shop", ["http://a", "http://b"]), Ear()
    gateway = Gateway({"/": pool}, listeners=[ear])
    assert ear.events == []
    act(pool)
    assert gateway.pools == (pool,)
    return ear.events


# Pools


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(
            lambda pool: pool.set_health("a:80", Health.UNHEALTHY),
            [
                HealthChanged(
                    pool="shop",
                    backend="a:80",
                    before=Health.UNKNOWN,
                    after=Health.UNHEALTHY,
                    reason="set by hand",
                )
            ],
            id="health",
        ),
        pytest.param(
            lambda pool: pool.set_health("a:80", Health.UNHEALTHY, reason="on fire"),
            [
                HealthChanged(
                    pool="shop",
                    backend="a:80",
                    before=Health.UNKNOWN,
                    after=Health.UNHEALTHY,
                    reason="on fire",
                )
            ],
            id="health and why",
        ),
        pytest.param(
            lambda pool: pool.set_health("a:80", Health.UNKNOWN), [], id="health as before"
        ),
        pytest.param(
            lambda pool: pool.drain("a:80"),
            [
                IntentChanged(
                    pool="shop", backend="a:80", before=Intent.ACTIVE, after=Intent.DRAINING
                )
            ],
            id="intent",
        ),
        pytest.param(lambda pool: pool.undrain("a:80"), [], id="intent as before"),
        pytest.param(
            lambda pool: pool.add("http://c"),
            [BackendsReplaced(pool="shop", added=("c:80",), removed=())],
            id="added",
        ),
        pytest.param(
            lambda pool: pool.replace(["http://b", "http://d"]),
            [BackendsReplaced(pool="shop", added=("d:80",), removed=("a:80",))],
            id="replaced",
        ),
        pytest.param(
            lambda pool: pool.replace(["http://b", Backend("http://a", weight=3)]),
            [],
            id="the same ids",
        ),
    ],
)
def test_what_a_pool_has_to_say(act: Callable[[Pool], object], expected: list[Event]) -> None:
    assert heard(act) == expected


def test_a_deadline_is_told_with_the_intent() -> None:
    pool, ear = Pool("shop", ["http://a"]), Ear()
    gateway = Gateway({"/": pool}, listeners=[ear])
    pool.drain("a:80", deadline=100)
    pool.drain("a:80", deadline=200)
    first, second = ear.of(IntentChanged)
    assert second.until - first.until == pytest.approx(100, abs=5)
    assert (second.before, second.after) == (Intent.DRAINING, Intent.DRAINING)
    assert gateway.pools


def test_every_gateway_of_a_pool_is_told_and_none_is_kept_alive() -> None:
    pool, ears = Pool("shop", ["http://a"]), [Ear(), Ear()]
    gateways = [Gateway({"/": pool}, listeners=[ear]) for ear in ears]
    pool.drain("a:80")
    assert [len(ear.events) for ear in ears] == [1, 1]
    forgotten = weakref.ref(gateways.pop())
    gc.collect()
    assert forgotten() is None
    pool.undrain("a:80")
    assert [len(ear.events) for ear in ears] == [2, 1]


def test_the_pools_of_new_routes_are_heard() -> None:
    early, late, ear = Pool("early", ["http://a"]), Pool("late", ["http://a"]), Ear()
    gateway = Gateway({"/": early}, listeners=[ear])
    gateway.replace_routes({"/": late})
    late.drain("a:80")
    assert [event.pool for event in ear.of(IntentChanged)] == ["late"]


# Requests


def test_a_retry_is_told_with_its_reason() -> None:
    ear = Ear()
    with refusing_port() as port, RawBackend(OK) as backend:
        pool = Pool("shop", [Backend(f"http://127.0.0.1:{port}", id="dead"), backend.url])
        with serve(Gateway({"/": pool}, listeners=[ear])) as server:
            assert request(server.port, target=b"/x?y").status == 200
    (event,) = ear.of(RequestRetried)
    assert (event.pool, event.backend, event.attempt) == ("shop", "dead", 1)
    assert (event.method, event.path) == ("GET", "/x")
    assert event.error.stage == "connect"


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        pytest.param(Limits(queue=0), QueueFull, id="full"),
        pytest.param(Limits(queue_timeout=0.01), QueueTimeout, id="too late"),
        pytest.param(Limits(), None, id="served"),
    ],
)
def test_a_wait_is_told(limits: Limits, error: type[Exception] | None) -> None:
    gate, ear = threading.Event(), Ear()

    def late(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.wait(gate)
            connection.send(response(200))

    with RawBackend(late) as backend:
        pool = Pool("shop", [Backend(backend.url, max_requests=1)], limits=limits)
        with serve(Gateway({"/": pool}, listeners=[ear])) as server:
            with RawClient(server.port) as first, RawClient(server.port) as second:
                first.send(encode_request())
                backend.wait_request()
                second.send(encode_request("POST", b"/late"))
                if error is None:
                    eventually(lambda: pool.queued == 1)
                    gate.set()
                assert second.read_response().status == (200 if error is None else 503)
                gate.set()
                assert first.read_response().status == 200
    (event,) = ear.of(RequestQueued)
    assert (event.pool, event.method, event.path) == ("shop", "POST", "/late")
    assert event.waited >= 0
    assert type(event.error) is (error or type(None))


class Curious:
    """Keeps the errors of requests, and whether it could be seen where they came from."""

    def __init__(self) -> None:
        self.errors: list[GatewayError] = []
        self.has_seen: list[bool] = []

    def on_request(self, event: RequestFinished) -> None:
        assert event.error is not None
        self.errors.append(event.error)
        self.has_seen.append(event.error.__traceback__ is not None)


@pytest.mark.parametrize("is_websocket", [False, True], ids=["http", "websocket"])
def test_a_listener_sees_where_an_error_comes_from(is_websocket: bool) -> None:
    """And nobody after it: that would hold the request."""
    curious = Curious()
    with serve(Gateway({"/": Pool("shop", [])}, listeners=[curious])) as server:
        with RawClient(server.port) as client:
            client.send(handshake() if is_websocket else encode_request())
            assert client.read_response().status == 503
        eventually(lambda: bool(curious.errors))
    assert curious.has_seen == [True]
    assert curious.errors[0].__traceback__ is None


def test_a_server_that_aborts_a_response_may_say_where_the_error_comes_from() -> None:
    curious = Curious()

    def dies(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    with RawBackend(dies) as backend:
        gateway = Gateway({"/": Pool("shop", [backend.url])}, listeners=[curious])
        with TestClient(gateway) as client, pytest.raises(GatewayError) as caught:
            client.get("/")
    assert curious.has_seen == [True]
    assert curious.errors == [caught.value]
    assert "forward_http.py" in {Path(entry.path).name for entry in caught.traceback}


# Files


def test_reloads_are_told(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("pools: {shop: {backends: [http://a]}}")
    service, ear = Service(Settings(file=str(file))), Ear()
    service.gateway.listeners.of_events = (ear.on_event,)
    file.write_text("pools: {shop: {backends: [http://a, http://b]}}")
    service.reload()
    file.write_text("pools: nonsense")
    service.reload()
    good, bad = ear.of(Reloaded)
    assert (good.name, good.error) == (str(file), None)
    assert (bad.name, type(bad.error).__name__) == (str(file), "ConfigError")
    assert [event.added for event in ear.of(BackendsReplaced)] == [("b:80",)]


# Listeners


def test_one_object_may_hear_everything() -> None:
    class Both(Ear):
        def __init__(self) -> None:
            super().__init__()
            self.requests: list[RequestFinished] = []

        def on_request(self, event: RequestFinished) -> None:
            self.requests.append(event)

    both = Both()
    with RawBackend(OK) as backend:
        pool = Pool("shop", [backend.url])
        with serve(Gateway({"/": pool}, listeners=[both])) as server:
            assert request(server.port).status == 200
            pool.drain(backend.id)
    assert len(both.requests) == len(both.events) == 1


def test_a_listener_without_any_hook_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must have on_request\(\) or on_event\(\), got <object"):
        Gateway({"/": Pool("shop", [])}, listeners=[object()])  # type: ignore[list-item]


def test_a_listener_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf:
        def on_event(self, event: Event) -> None:
            raise RuntimeError("a bug")

    ear = Ear()
    listeners: list[EventListener] = [Deaf(), ear]
    pool = Pool("shop", ["http://a"])
    gateway = Gateway({"/": pool}, listeners=listeners)
    with caplog.at_level(logging.ERROR, "sticky_asgi"):
        pool.drain("a:80")
    assert len(ear.events) == 1
    assert "raised an exception" in caplog.text
    assert pool["a:80"].intent is Intent.DRAINING
    assert gateway.pools


def test_without_listeners_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    for name in ("RequestFinished", "RequestRetried", "RequestQueued"):
        monkeypatch.setattr(f"sticky_asgi.call.{name}", lambda **values: built.append(values))
    with refusing_port() as port, RawBackend(OK) as backend:
        pool = Pool("shop", [f"http://127.0.0.1:{port}", backend.url])
        with serve(Gateway({"/": pool})) as server:
            assert request(server.port).status == 200
    assert built == []
