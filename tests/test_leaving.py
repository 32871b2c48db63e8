"""Clients that leave at any moment, many at a time: nothing of them may stay behind."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from sticky_asgi import (
    Backend,
    ClientDisconnected,
    ConnectError,
    Limits,
    NoBackendAvailable,
    Pool,
    SignedCookie,
)
from tests.gateways import Lane, transport_of
from tests.servers import (
    Connection,
    HttpImplementation,
    RawBackend,
    RawClient,
    chunk,
    encode_request,
    eventually,
    refusing_port,
    response,
)
from tests.watching import SECRET, Watched, kept_servers, watched

THREADS = 4
CHUNKED = (b"Transfer-Encoding", b"chunked")
PIECE = b"x" * 3000


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with kept_servers():
        yield


class Patient:
    """A backend that goes on with each request for as long as somebody is there."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = 0
        self.seen: Counter[bytes] = Counter()

    def handler(self, connection: Connection) -> None:
        while True:
            request = connection.read_head()
            with self.lock:
                self.busy += 1
                self.seen[request.target] += 1
            try:
                if request.target != b"/unread":
                    connection.read_body(request)
                self.answer(connection, request.target)
            finally:
                with self.lock:
                    self.busy -= 1

    def answer(self, connection: Connection, target: bytes) -> None:
        if target in (b"/silent", b"/unread"):
            connection.wait_closed()
            raise ConnectionError
        if target == b"/half":
            connection.send(b"HTTP/1.1 200 OK\r\nX-Half: ")
            connection.wait_closed()
            raise ConnectionError
        if target == b"/stream":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.send(chunk(PIECE))
        connection.send(response(200, b"fine"))


class Passer:
    """A client who does not stay."""

    def __init__(self, front: Watched, seed: str) -> None:
        self.front = front
        self.rng = random.Random(seed)
        self.client: RawClient

    def pass_by(self, rounds: int) -> int:
        """Call so many times, and leave each time; how many answers were complete."""
        stays = 0
        for _ in range(rounds):
            self.client = RawClient(self.front.port)
            act = self.rng.choice(
                [self.in_the_head, self.in_the_body, self.waiting, self.reading, self.staying]
            )
            # The gateway may be the first to close: when it has sent the visitor away.
            with contextlib.suppress(ConnectionError):
                stays += act()
            self.client.reset() if self.rng.random() < 0.5 else self.client.close()
        return stays

    def pause(self) -> None:
        time.sleep(self.rng.random() * 0.01)

    def in_the_head(self) -> int:
        data = encode_request("POST", b"/upload", body=PIECE)
        self.client.send(data[: self.rng.randrange(len(data))])
        self.pause()
        return 0

    def in_the_body(self) -> int:
        target = self.rng.choice([b"/upload", b"/unread"])
        if self.rng.random() < 0.5:
            self.client.send(encode_request("PUT", target, [(b"Content-Length", b"10000000")]))
            piece = PIECE
        else:
            self.client.send(encode_request("POST", target, [CHUNKED]))
            piece = chunk(PIECE)
        for _ in range(self.rng.randrange(40)):
            self.client.send(piece)
        self.pause()
        return 0

    def waiting(self) -> int:
        target = self.rng.choice([b"/silent", b"/half", b"/unread"])
        method = self.rng.choice(["GET", "POST"])
        size = self.rng.choice([0, 10, 200_000])
        self.client.send(encode_request(method, target, body=b"x" * size or None))
        self.pause()
        return 0

    def reading(self) -> int:
        self.client.send(encode_request("GET", b"/stream"))
        answer = self.client.read_head()
        for _ in range(self.rng.randrange(20)):
            self.client.read_piece(answer)
        return 0

    def staying(self) -> int:
        body = [PIECE] * self.rng.randrange(5)
        answer = self.client.request("POST", b"/fine", body=body)
        assert answer.status in (200, 502, 503)
        assert answer.complete
        return int(answer.status == 200)


def test_nothing_is_left_of_clients_that_leave(http: HttpImplementation, lane: Lane) -> None:
    """Under load, with a queue, and with a backend that refuses, so that there are repeats."""
    rounds = 200 if lane == "http1" else 100
    kinds = {b"/silent", b"/half", b"/unread", b"/stream", b"/upload", b"/fine"}
    patients = [Patient(), Patient()]
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(RawBackend(patient.handler)) for patient in patients]
        refusing = stack.enter_context(refusing_port())
        transport = transport_of(lane)
        pool = Pool(
            "shop",
            [
                *(Backend(backend.url, max_requests=2) for backend in backends),
                Backend(f"http://127.0.0.1:{refusing}", weight=0.5),
            ],
            affinity=SignedCookie(SECRET),
            limits=Limits(queue=3, queue_timeout=0.05),
            transport=transport,
        )
        front = stack.enter_context(watched(pool, http))
        tasks, before = front.tasks, front.server.connections
        with ThreadPoolExecutor(THREADS) as threads:
            passers = [Passer(front, f"{http} {n}") for n in range(THREADS)]
            each = [rounds // THREADS] * THREADS
            stayed = sum(threads.map(Passer.pass_by, passers, each, timeout=60))
            for _ in range(5):
                # The queue turns visitors away: go on until each kind has got through to a backend.
                if kinds <= patients[0].seen.keys() | patients[1].seen.keys():
                    break
                stayed += sum(threads.map(Passer.pass_by, passers, each, timeout=60))

        eventually(lambda: not front.traces(), message=f"{front.traces()}")
        eventually(lambda: front.tasks <= tasks)
        eventually(lambda: front.server.connections <= before)
        eventually(lambda: not any(patient.busy for patient in patients))
        if isinstance(transport, httpx.AsyncHTTPTransport):
            assert all(c.is_idle() or c.is_closed() for c in transport._pool.connections)

        # The load was one: some stayed, most left, some waited or were sent elsewhere.
        assert stayed > rounds // 20
        seen = patients[0].seen + patients[1].seen
        assert kinds <= seen.keys()
        errors = Counter(type(event.error) for event in front.events if event.error)
        assert errors[ClientDisconnected] > rounds // 10
        blamed = [
            event.error for event in front.events if event.error and event.error.side == "backend"
        ]
        assert all(type(error) is ConnectError for error in blamed), "only who refused"
        others = errors.keys() - {ClientDisconnected, ConnectError}
        assert all(issubclass(kind, NoBackendAvailable) for kind in others)

        # And the gateway serves as before.
        for n in range(20):
            answer = front.request("POST", b"/fine", body=b"%d" % n)
            assert (answer.status, answer.body) == (200, b"fine")


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_leaves_at_each_byte_of_its_request(
    http: HttpImplementation, is_chunked: bool
) -> None:
    patient = Patient()
    body = [b"abc", b"de"] if is_chunked else b"abcde"
    data = encode_request("POST", b"/fine", body=body)
    with (
        RawBackend(patient.handler) as backend,
        watched(Pool("shop", [backend.url]), http) as front,
    ):
        for size in range(len(data) + 1):
            client = RawClient(front.port)
            client.send(data[:size])
            client.close() if size % 2 else client.reset()
        eventually(lambda: not front.traces())
        eventually(lambda: patient.busy == 0)
        whole = [request for request in backend.requests if request.complete]
        assert all(request.body == b"abcde" for request in whole)
        assert len(whole) <= 1, "what was cut off is never taken for whole"
        assert front.request("POST", b"/fine", body=body).body == b"fine"
