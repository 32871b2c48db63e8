"""Active checks: what is asked, over sockets; who is asked when; and that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from sticky_asgi import TLS, Backend, ConnectError, Gateway, Health, HealthCheck, Intent, Pool
from sticky_asgi.probes import CONCURRENCY, Prober
from sticky_asgi.testing import VirtualClock
from sticky_asgi.upstream import Clients
from sticky_asgi.upstream.connections import Http1Client
from tests import servers
from tests.apps import respond
from tests.conftest import Authority
from tests.gateways import Lane, transport_of
from tests.loops import VirtualLoop, run, run_virtually
from tests.servers import Connection, Handler, RawBackend, responding, response

UNKNOWN, HEALTHY, UNHEALTHY = Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY
OK = responding(response(200, b"all is fine"))
QUICK: dict[str, Any] = {"interval": 0.05, "down_interval": 0.05, "timeout": 5}


async def until(condition: Callable[[], object], message: str = "") -> None:
    """Wait, for as long as the test may last."""
    try:
        while not condition():
            await asyncio.sleep(0.002)
    except asyncio.CancelledError:
        raise AssertionError(message or "it never came to that") from None


def verdict_on(pool: Pool) -> Health:
    """What the first check finds of a pool's only backend."""

    async def main() -> Health:
        async with Gateway({"/": pool}):
            (state,) = pool.states
            await until(lambda: state.health is not UNKNOWN, "the first check decides")
            found = state.health
        if pool.transport is not None:
            await pool.transport.aclose()
        return found

    return run(main)


def check(**options: Any) -> HealthCheck:
    """A check that is made often."""
    return HealthCheck(**QUICK | options)


def once(**options: Any) -> HealthCheck:
    """A check that is made once in a test's life."""
    return check(interval=3600, down_interval=3600, **options)


def hangs(connection: Connection) -> None:
    connection.read_request()
    connection.wait_closed()


def half(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def moved(connection: Connection) -> None:
    """A redirect to where all is fine."""
    while True:
        is_there = connection.read_request().target == b"/there"
        there = [(b"Location", b"/there")]
        connection.send(response(200) if is_there else response(302, b"", there))


def drips(connection: Connection) -> None:
    """A response that never ends."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.send(servers.chunk(b"x" * 1000))


# What is asked, and what the answer means


@pytest.mark.parametrize(
    ("handler", "options", "health"),
    [
        pytest.param(OK, {}, HEALTHY, id="200"),
        pytest.param(OK, {"expect": "204"}, UNHEALTHY, id="another status"),
        pytest.param(
            responding(response(302, b"", [(b"Location", b"http://127.0.0.1:1/")])),
            {},
            HEALTHY,
            id="redirect",
        ),
        pytest.param(
            moved,
            {"expect": "200"},
            UNHEALTHY,
            id="redirect not followed",
        ),
        pytest.param(responding(response(503)), {}, UNHEALTHY, id="503"),
        pytest.param(OK, {"contains": "is fine"}, HEALTHY, id="text"),
        pytest.param(OK, {"contains": "is bad"}, UNHEALTHY, id="no text"),
        pytest.param(
            responding(response(200, b"x" * 65000 + b"fine" + b"x" * 99999)),
            {"contains": "fine"},
            HEALTHY,
            id="text in a long body",
        ),
        pytest.param(
            responding(response(200, b"x" * 65536 + b"fine")),
            {"contains": "fine"},
            UNHEALTHY,
            id="text too far",
        ),
        pytest.param(drips, {}, HEALTHY, id="endless"),
        pytest.param(half, {}, UNHEALTHY, id="half a response"),
        pytest.param(hangs, {"timeout": 0.05}, UNHEALTHY, id="hangs"),
        pytest.param(lambda connection: None, {}, UNHEALTHY, id="closes"),
        pytest.param(lambda connection: connection.reset(), {}, UNHEALTHY, id="resets"),
        pytest.param(lambda connection: connection.send(b"?" * 99), {}, UNHEALTHY, id="nonsense"),
    ],
)
def test_a_request(
    lane: Lane, handler: Handler, options: dict[str, Any], health: Health, no_leaks: None
) -> None:
    with RawBackend(handler) as backend:
        pool = Pool(
            "shop", [backend.url], health_check=once(**options), transport=transport_of(lane)
        )
        assert verdict_on(pool) is health


def test_what_is_sent(lane: Lane) -> None:
    asked = once(
        path="/healthz?full=1",
        method="OPTIONS",
        headers={"X-Probe": "yes", "Accept": "text/plain"},
        host="shop.example",
    )
    with RawBackend(OK) as backend:
        verdict_on(Pool("shop", [backend.url], health_check=asked, transport=transport_of(lane)))
        request = backend.requests[0]
    assert (request.method, request.target) == ("OPTIONS", b"/healthz?full=1")
    fields = {name.lower(): value for name, value in request.headers}
    assert fields.pop(b"connection", b"close") == b"close"
    assert fields == {b"host": b"shop.example", b"x-probe": b"yes", b"accept": b"text/plain"}


def test_the_host_is_the_backends_own_by_default() -> None:
    with RawBackend(OK) as backend:
        verdict_on(Pool("shop", [backend.url], health_check=once()))
        assert backend.requests[0].get_all(b"host") == [b"127.0.0.1:%d" % backend.port]


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "http"])
def test_a_port_where_nobody_listens(tcp: bool) -> None:
    with servers.refusing_port() as port:
        pool = Pool("shop", [f"http://127.0.0.1:{port}"], health_check=once(tcp=tcp))
        assert verdict_on(pool) is UNHEALTHY


def test_a_connection_alone(lane: Lane, no_leaks: None) -> None:
    """A backend that says nothing passes, and is asked nothing."""
    with RawBackend(lambda connection: connection.wait_closed()) as backend:
        pool = Pool(
            "shop", [backend.url], health_check=once(tcp=True), transport=transport_of(lane)
        )
        assert verdict_on(pool) is HEALTHY
        servers.eventually(lambda: not backend.open_connections)
        assert not backend.requests


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "http"])
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "not trusted"])
def test_tls(authority: Authority, tcp: bool, is_trusted: bool) -> None:
    handler: Handler = (lambda connection: connection.wait_closed()) if tcp else OK
    with RawBackend(handler, ssl_context=authority.server_context()) as backend:
        tls = TLS(ca_file=authority.ca_file) if is_trusted else None
        pool = Pool("shop", [backend.url], tls=tls, health_check=once(tcp=tcp))
        assert verdict_on(pool) is (HEALTHY if is_trusted else UNHEALTHY)


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "http"])
def test_a_unix_socket(tmp_path: Path, tcp: bool) -> None:
    handler: Handler = (lambda connection: connection.wait_closed()) if tcp else OK
    with RawBackend(handler, unix=tmp_path / "app.sock") as backend:
        pool = Pool("shop", [backend.url], health_check=once(tcp=tcp))
        assert verdict_on(pool) is HEALTHY


class Replica:
    """An application in process.

    Attributes:
        status: What it answers; None: it raises.
        scopes: What it was called with.
    """

    def __init__(self, status: int | None = 200, **headers: str) -> None:
        self.status = status
        self.headers = [
            (name.replace("_", "-").encode(), headers[name].encode()) for name in headers
        ]
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        self.scopes.append(scope)
        if self.status is None:
            raise RuntimeError("out of order")
        await respond(send, self.status, self.headers, b"fine")


@pytest.mark.parametrize(
    ("status", "tcp", "health"),
    [
        pytest.param(200, False, HEALTHY, id="fine"),
        pytest.param(500, False, UNHEALTHY, id="500"),
        pytest.param(None, False, UNHEALTHY, id="raises"),
        pytest.param(None, True, HEALTHY, id="tcp"),
    ],
)
def test_in_process(status: int | None, tcp: bool, health: Health) -> None:
    app = Replica(status)
    pool = Pool("shop", [Backend(app=app, id="a")], health_check=once(tcp=tcp))
    assert verdict_on(pool) is health
    assert bool(app.scopes) is not tcp
    assert {(scope["path"], dict(scope["headers"])[b"host"]) for scope in app.scopes} <= {
        ("/", b"localhost")
    }


def test_checks_need_no_place_and_are_no_requests() -> None:
    app = Replica()
    pool = Pool("shop", [Backend(app=app, id="a", max_requests=1)], health_check=check())

    async def main() -> None:
        async with Gateway({"/": pool}):
            state = pool["a"]
            with pool.lease(state):
                await until(lambda: len(app.scopes) >= 2)
                assert (state.in_flight, state.requests, pool.in_flight) == (1, 1, 1)

    run(main)


# A check of one's own


@pytest.mark.parametrize(
    ("answer", "health", "said"),
    [
        pytest.param(True, HEALTHY, "", id="True"),
        pytest.param(False, UNHEALTHY, "", id="False"),
        pytest.param(None, UNHEALTHY, "must return True or False, got None", id="None"),
        pytest.param(RuntimeError("broken"), UNHEALTHY, "broken", id="raises"),
    ],
)
def test_a_check_of_ones_own(
    answer: Any, health: Health, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Backend] = []

    async def look(backend: Backend) -> bool:
        asked.append(backend)
        if isinstance(answer, Exception):
            raise answer
        found: bool = answer
        return found

    pool = Pool("shop", ["http://a"], health_check=check(check=look))

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: len(asked) > 3 and pool["a:80"].health is health)

    run(main)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == bool(said), "once, not with every check"
    assert said in str(errors[0].exc_info) if said else not errors


def test_what_a_check_raises_is_told_again_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    raises = ["one", "one", "two", "two", "", "two"]
    asked = []

    async def look(backend: Backend) -> bool:
        asked.append(backend)
        what = raises[min(len(asked), len(raises)) - 1]
        if what:
            raise ValueError(what)
        return True

    pool = Pool("shop", ["http://a"], health_check=check(check=look))

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: len(asked) > len(raises))

    run(main)
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert told == ["one", "two", "two"]


def test_a_check_of_ones_own_that_hangs_is_cancelled() -> None:
    cancelled = []

    async def look(backend: Backend) -> bool:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(backend)
            raise
        return True

    pool = Pool("shop", ["http://a"], health_check=once(check=look, timeout=0.02))
    assert verdict_on(pool) is UNHEALTHY
    assert cancelled


class Stubborn:
    """Checks that go on when they are cancelled, until they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let_go = asyncio.Event()

    async def look(self, backend: Backend) -> bool:
        self.asked.append(backend.id)
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return True


def test_a_check_that_does_not_end_is_the_only_one(caplog: pytest.LogCaptureFixture) -> None:
    loop, stubborn = VirtualLoop(), Stubborn()
    pool = Pool(
        "shop",
        ["http://a"],
        health_check=HealthCheck(check=stubborn.look, interval=5, timeout=2, fall=2),
        clock=loop.time,
    )

    async def main() -> None:
        prober = Prober(pool, Clients())
        await asyncio.sleep(100)
        assert stubborn.asked == ["a:80"]
        assert pool["a:80"].health is UNHEALTHY
        stubborn.let_go.set()
        await asyncio.sleep(20)
        assert len(stubborn.asked) > 2
        assert pool["a:80"].health is HEALTHY, "checks are made again"
        await prober.aclose()

    run_virtually(main, loop)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1, "once"
    assert "Stubborn.look of backend a:80 goes on" in errors[0]


def test_checks_that_do_not_end_keep_no_others_waiting() -> None:
    loop, stubborn = VirtualLoop(), Stubborn()
    asked: Counter[str] = Counter()

    async def look(backend: Backend) -> bool:
        asked[backend.id] += 1
        return await stubborn.look(backend) if backend.metadata.get("bad") else True

    backends = [
        Backend(f"http://b{number}", metadata={"bad": number < CONCURRENCY})
        for number in range(CONCURRENCY + 10)
    ]
    pool = Pool("shop", backends, health_check=HealthCheck(check=look), clock=loop.time)

    async def main() -> None:
        prober = Prober(pool, Clients())
        await asyncio.sleep(60)
        assert Counter(state.health for state in pool.states) == {
            UNHEALTHY: CONCURRENCY,
            HEALTHY: 10,
        }
        assert sum(count == 1 for count in asked.values()) == CONCURRENCY
        stubborn.let_go.set()
        await prober.aclose()

    run_virtually(main, loop)


def test_the_gateway_ends_without_a_check_that_does_not(caplog: pytest.LogCaptureFixture) -> None:
    loop, stubborn = VirtualLoop(), Stubborn()
    check = HealthCheck(check=stubborn.look, timeout=60)
    pool = Pool("shop", ["http://a"], health_check=check, clock=loop.time)

    async def main() -> None:
        prober = Prober(pool, Clients())
        await asyncio.sleep(1)
        began = loop.time()
        await prober.aclose()
        assert loop.time() - began == pytest.approx(1, abs=0.1)
        assert not pool.followers
        stubborn.let_go.set()
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(main, loop)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "Stubborn.look of backend a:80" in record.message


def test_an_answer_that_comes_too_late_does_not_count() -> None:
    """Even of a check that takes its cancellation for a reason to answer."""

    async def look(backend: Backend) -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return True

    pool = Pool("shop", ["http://a"], health_check=once(check=look, timeout=0.02))
    assert verdict_on(pool) is UNHEALTHY


# Up and down again


def test_down_and_up_again() -> None:
    app = Replica()
    pool = Pool("shop", [Backend(app=app, id="a")], health_check=check())

    async def main() -> None:
        async with Gateway({"/": pool}):
            state = pool["a"]
            for status, health in ((200, HEALTHY), (500, UNHEALTHY), (200, HEALTHY)):
                app.status = status
                await until(lambda health=health: state.health is health)  # type: ignore[misc]
            assert state.weight < 1, "slow start"

    run(main)


@pytest.mark.parametrize(
    ("app", "options"),
    [
        pytest.param(Replica(404), {"drain_on_404": True}, id="404"),
        pytest.param(Replica(200, sticky_drain="1"), {}, id="header"),
    ],
)
def test_a_backend_drains_itself(app: Replica, options: dict[str, Any]) -> None:
    pool = Pool("shop", [Backend(app=app, id="a")], health_check=check(**options))

    async def main() -> None:
        async with Gateway({"/": pool}):
            state = pool["a"]
            await until(lambda: state.intent is Intent.DRAINING)
            assert state.health is HEALTHY
            app.status, app.headers = 200, []
            await until(lambda: state.intent is Intent.ACTIVE)
            pool.drain("a")
            seen = len(app.scopes)
            await until(lambda: len(app.scopes) > seen + 2)
            assert state.intent is Intent.DRAINING, "an operator's wish"

    run(main)


def test_an_ejected_backend_is_checked_soon() -> None:
    app = Replica()
    pool = Pool(
        "shop",
        [Backend(app=app, id="a"), Backend(app=Replica(), id="b")],
        health_check=check(interval=3600, rise=2),
    )

    async def main() -> None:
        async with Gateway({"/": pool}):
            state = pool["a"]
            await until(lambda: state.health is HEALTHY)
            for _ in range(5):
                pool.observe_failure(state, ConnectError("refused"))
            assert state.health is UNHEALTHY
            await until(lambda: state.health is HEALTHY, "not in an hour")

    run(main)


# Changes while it runs


def test_backends_come_and_go(no_leaks: None) -> None:
    one, two = Replica(), Replica()
    pool = Pool("shop", [Backend(app=one, id="a")], health_check=check(interval=3600))

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: pool["a"].health is HEALTHY)
            pool.replace([Backend(app=two, id="b")])
            await until(lambda: pool["b"].health is HEALTHY, "the new one is checked at once")
            pool.replace([])
            pool.replace([Backend(app=one, id="a")])
            await until(lambda: pool["a"].health is HEALTHY)

    run(main)
    assert (len(one.scopes), len(two.scopes)) == (2, 1)


def test_a_result_for_another_address_does_not_count() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def look(backend: Backend) -> bool:
        if backend.port == 1:
            asked.set()
            await answered.wait()
            return False
        return True

    pool = Pool("shop", [Backend("http://a:1", id="a")], health_check=check(check=look))

    async def main() -> None:
        async with Gateway({"/": pool}):
            await asked.wait()
            pool.replace([Backend("http://a:2", id="a")])
            answered.set()
            await until(lambda: pool["a"].health is not UNKNOWN)
            assert pool["a"].health is HEALTHY

    run(main)


def test_a_reload_changes_what_is_asked() -> None:
    app = Replica()
    backends = [Backend(app=app, id="a")]
    pool = Pool("shop", backends)

    async def main() -> None:
        async with Gateway({"/": pool}):
            pool.adopt(Pool("shop", backends, health_check=check(path="/one")))
            await until(lambda: pool["a"].health is HEALTHY)
            pool.adopt(Pool("shop", backends, health_check=check(path="/two", expect="500")))
            await until(lambda: pool["a"].health is UNHEALTHY)
            pool.adopt(Pool("shop", backends))
            await until(lambda: pool["a"].health is UNKNOWN, "what checks have said is void")
            seen = len(app.scopes)
            await asyncio.sleep(0.15)
            assert len(app.scopes) == seen

    run(main)
    assert {scope["path"] for scope in app.scopes} == {"/one", "/two"}


def test_pools_come_and_go_with_the_routes() -> None:
    apps = Replica(), Replica()
    one, two = (
        Pool(f"p{number}", [Backend(app=app, id="a")], health_check=check())
        for number, app in enumerate(apps)
    )

    async def main() -> None:
        gateway = Gateway({"/": one})
        async with gateway:
            await until(lambda: one["a"].health is HEALTHY)
            gateway.replace_routes({"/": two})
            await until(lambda: two["a"].health is HEALTHY)
            await until(lambda: not one.followers)
            seen = len(apps[0].scopes)
            await asyncio.sleep(0.15)
            assert len(apps[0].scopes) == seen

    run(main)
    assert not two.followers


def test_waiting_for_the_first_check() -> None:
    apps = {"a": Replica(), "b": Replica(500)}
    pool = Pool(
        "shop",
        [Backend(app=app, id=id) for id, app in apps.items()],
        health_check=check(initial="unhealthy"),
    )

    async def main() -> None:
        async with Gateway({"/": pool}):
            await asyncio.sleep(0)
            assert [state.health for state in pool.states] == [UNHEALTHY] * 2
            await until(lambda: pool["a"].health is HEALTHY)
            assert pool["b"].health is UNHEALTHY

    run(main)


# The end


@contextlib.asynccontextmanager
async def tasks_end() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() == before


def test_nothing_is_left_when_the_gateway_ends(no_leaks: None) -> None:
    """Also where a check is under way."""
    with RawBackend(hangs) as silent, RawBackend(OK) as fine:
        pool = Pool("shop", [silent.url, fine.url], health_check=check(timeout=60))

        async def main() -> None:
            async with tasks_end():
                async with Gateway({"/": pool}):
                    await until(lambda: silent.requests and len(fine.requests) > 3)
                assert not pool.followers

        run(main)
        servers.eventually(lambda: not silent.open_connections and not fine.open_connections)


def test_checks_leave_no_idle_connections() -> None:
    with RawBackend(OK) as backend:
        pool = Pool("shop", [backend.url], health_check=check())

        async def main() -> None:
            async with Gateway({"/": pool}):
                await until(lambda: len(backend.requests) > 5)
                assert backend.open_connections <= 1

        run(main)


def test_without_a_lifespan_there_are_no_checks(caplog: pytest.LogCaptureFixture) -> None:
    app = Replica()
    pool = Pool(
        "shop", [Backend(app=app, id="a")], health_check=check(initial="unhealthy", path="/check")
    )
    gateway = Gateway({"/": pool})
    sent = []

    async def main() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
            "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "scheme": "http",
        }  # fmt: skip
        await gateway(scope, receive, send)
        await asyncio.sleep(0.15)

    run(main)
    assert sent[0]["status"] == 200
    assert [scope["path"] for scope in app.scopes] == ["/"]
    assert "makes no health checks" in caplog.text


# Many backends, several loops


def test_ten_thousand_backends_wake_nobody_ten_thousand_times() -> None:
    asked: list[float] = []
    under_way = most = 0

    async def look(backend: Backend) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        asked.append(loop.time())
        await asyncio.sleep(0)
        under_way -= 1
        return True

    loop = VirtualLoop()
    pool = Pool(
        "shop",
        [f"http://b{number}" for number in range(10_000)],
        health_check=HealthCheck(check=look, interval=5),
        clock=loop.time,
    )

    async def main() -> int:
        prober = Prober(pool, Clients())
        await asyncio.sleep(15)
        waits = loop.waits
        await prober.aclose()
        return waits

    waits = run_virtually(main, loop)
    assert {state.health for state in pool.states} == {HEALTHY}
    assert 28_000 < len(asked) < 33_000
    assert waits <= 15 / 0.02 + 10
    assert max(Counter(int(moment) for moment in asked).values()) < 3000, "evenly"
    assert most < 200


def test_only_so_many_checks_at_a_time() -> None:
    under_way: set[str] = set()
    most = 0

    async def look(backend: Backend) -> bool:
        nonlocal most
        under_way.add(backend.id)
        most = max(most, len(under_way))
        try:
            await asyncio.sleep(60)
        finally:
            under_way.remove(backend.id)
        return True

    loop = VirtualLoop()
    pool = Pool(
        "shop",
        [f"http://b{number}" for number in range(1000)],
        health_check=HealthCheck(check=look, interval=5),
        clock=loop.time,
    )

    async def main() -> None:
        prober = Prober(pool, Clients())
        await asyncio.sleep(30)
        assert {state.health for state in pool.states} == {UNHEALTHY}, "everybody has a turn"
        await prober.aclose()

    run_virtually(main, loop)
    assert most == CONCURRENCY
    assert not under_way


def test_several_loops_share_the_checks() -> None:
    """Each check is made once; when one loop ends, the others go on."""
    asked: Counter[int] = Counter()

    async def look(backend: Backend) -> bool:
        asked[threading.get_ident()] += 1
        return True

    pool = Pool(
        "shop",
        [f"http://b{number}" for number in range(10)],
        health_check=HealthCheck(check=look, interval=0.2, jitter=0),
    )
    gateway = Gateway({"/": pool})
    barrier = threading.Barrier(2)
    left: list[int] = []

    def serve(is_first: bool) -> None:
        async def main() -> None:
            async with gateway:
                await asyncio.to_thread(barrier.wait, 10)
                await until(lambda: asked.total() >= 30)
                if not is_first:
                    seen = asked.total()
                    await until(lambda: not first.is_alive())
                    assert {state.health for state in pool.states} == {HEALTHY}
                    await until(lambda: asked.total() > seen + 20)
                    left.append(asked.total())

        run(main)

    first = threading.Thread(target=serve, args=(True,))
    second = threading.Thread(target=serve, args=(False,))
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join(20)
    assert left
    assert not pool.followers


def test_a_pool_can_be_checked_again_in_another_loop() -> None:
    app = Replica()
    pool = Pool("shop", [Backend(app=app, id="a")], health_check=once())
    for _ in range(2):
        assert verdict_on(pool) is HEALTHY
        pool.set_health("a", UNKNOWN)


def test_a_bug_does_not_pass_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Pool):
        def _turn(self, *change: object) -> None:
            raise RuntimeError("the hook is broken")

    app = Replica()
    pool = Broken("shop", [Backend(app=app, id="a")], health_check=check())

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: len(app.scopes) > 2, "checks go on")

    run(main)
    assert "by a fault of the gateway's own" in caplog.text


def test_repr() -> None:
    async def main() -> None:
        prober = Prober(Pool("shop", [], clock=VirtualClock()), Clients())
        assert repr(prober) == "<Prober of shop [0 under way]>"
        await prober.aclose()

    run(main)


def test_what_a_check_waits_for_may_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def look(backend: Backend) -> bool:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return bool(await future)

    pool = Pool("shop", ["http://a"], health_check=check(check=look))

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: pool["a:80"].health is UNHEALTHY)

    run(main)
    assert "raised" in caplog.text


def test_a_set_that_is_said_again_voids_no_check() -> None:
    """Discovery may say it faster than a check that waits in vain."""
    with RawBackend(lambda connection: connection.wait_closed()) as backend:
        pool = Pool("shop", [backend.url], health_check=check(timeout=0.1, interval=3600))

        async def main() -> None:
            async with Gateway({"/": pool}):
                await until(lambda: len(backend.connections) > 0)
                pool.replace([backend.url])
                await until(lambda: pool.states[0].health is UNHEALTHY)

        run(main)


def test_what_the_gateway_runs_out_of_is_no_backends_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def connect(client: Http1Client, owner: object) -> None:
        asked.append(client)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Http1Client, "_connect_tcp", connect)
    pool = Pool("shop", ["http://a", "http://b"], health_check=check(), retry=None)

    async def main() -> None:
        async with Gateway({"/": pool}):
            await until(lambda: len(asked) > 9)

    run(main)
    assert [state.health for state in pool.states] == [UNKNOWN, UNKNOWN]
