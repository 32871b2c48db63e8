"""A fast sender and a slow receiver: the sender has to wait, and the gateway keeps little."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.servers import ProcessBackend, eventually, request, serve
from tests.websocket_apps import PIECE, PIECES, Flood
from tests.websocket_peers import IMPLEMENTATIONS

#: What the gateway may grow by: a part of what is sent, 64 MiB.
MOST = 12 << 20


@dataclass(frozen=True)
class Front:
    """A gateway in a process of its own, before a `Flood` there and one here."""

    process: ProcessBackend

    def ask(self, path: str) -> dict[str, int]:
        """What the backend tells about itself."""
        answer = request(self.process.port, target=path.encode())
        assert answer.status == 200, answer.raw
        content: dict[str, int] = answer.json()
        return content

    def connect(self, path: str) -> ClientConnection:
        options: dict[str, Any] = {"compression": None}
        if "max_queue" in signature(connect).parameters:  # Else it holds one message anyway.
            options["max_queue"] = 1
        client: ClientConnection = connect(f"ws://127.0.0.1:{self.process.port}{path}", **options)
        return client

    def memory(self, name: str) -> int:
        """A figure of /proc: bytes that it holds (`VmRSS`), or has held at most (`VmHWM`)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@pytest.fixture(
    scope="module",
    params=IMPLEMENTATIONS,
)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """On each of uvicorn's WebSocket implementations."""
    options = ["--ws", request.param]
    with serve(Flood(), ws="wsproto") as flood:
        with ProcessBackend(
            "tests.websocket_apps:flood_gateway", env={"FLOOD_URL": flood.url}, options=options
        ) as process:
            yield Front(process)


@pytest.fixture(params=["away", "here"])
def side(request: pytest.FixtureRequest) -> str:
    """Where the backend is."""
    name: str = request.param
    return name


def stalled(count: Callable[[], int]) -> int:
    """A count once it has stayed the same for half a second."""
    seen = [-1]

    def is_still() -> bool:
        seen.append(count())
        return len(seen) > 100 and seen[-100] == seen[-1] > 0

    eventually(is_still, timeout=20)
    return seen[-1]


def test_a_backend_waits_for_a_client_that_reads_slowly(front: Front, side: str) -> None:
    with front.connect(f"/{side}/down") as client:
        client.recv()
        front.forget_peak()
        before = front.memory("VmRSS")
        sent = stalled(lambda: front.ask(f"/{side}/")["sent"])
        assert sent < PIECES // 2
        for _ in range(PIECES - 1):
            message = client.recv(timeout=10)
            assert len(message) == PIECE
        assert front.ask(f"/{side}/")["sent"] == PIECES
        assert front.memory("VmHWM") - before < MOST


def test_a_client_waits_for_a_backend_that_reads_slowly(front: Front, side: str) -> None:
    sent = 0

    def pour() -> None:
        nonlocal sent
        for _ in range(PIECES):
            client.send(bytes(PIECE))
            sent += 1
        client.send("how many?")

    with front.connect(f"/{side}/up") as client:
        front.forget_peak()
        before = front.memory("VmRSS")
        thread = threading.Thread(target=pour)
        thread.start()
        assert stalled(lambda: sent) < PIECES // 2
        front.ask(f"/{side}/go")
        assert client.recv(timeout=20) == str(PIECES * PIECE)
        thread.join(10)
        assert front.memory("VmHWM") - before < MOST
