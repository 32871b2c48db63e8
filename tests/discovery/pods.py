"""Pods with addresses and memories of their own, and the visitors of a gateway before them.

A pod is a uvicorn on an address of 127.0.0.0/8, at the same port as every other, which remembers in
its process how often it has seen whom: a visitor who is sent elsewhere begins anew there.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from sticky_asgi.testing.kubernetes import endpoint
from tests.apps import lifespan, respond_json
from tests.servers import WAIT, RawResponse, RunningServer, eventually, request


class Memory:
    """What runs in a pod: it counts the visits of everybody."""

    def __init__(self, pod: str) -> None:
        self.pod = pod
        self.visits: collections.Counter[bytes] = collections.Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        name = dict(scope["headers"])[b"x-visitor"]
        self.visits[name] += 1
        await respond_json(send, {"pod": self.pod, "visits": self.visits[name]})


class Pods:
    """The pods that run now, by name. A context manager.

    Attributes:
        port: The port of all of them.
    """

    def __init__(self) -> None:
        self.port = 0
        self._running: dict[str, tuple[str, RunningServer]] = {}

    def start(self, name: str, address: str) -> None:
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, self.port))
        self.port = int(listener.getsockname()[1])
        config = uvicorn.Config(
            Memory(name), ws="none", log_config=None, timeout_graceful_shutdown=2
        )
        server = RunningServer(config, listener, "asyncio")
        server.start()
        self._running[name] = address, server

    def stop(self, name: str) -> None:
        self._running.pop(name)[1].stop()

    def endpoint(self, name: str, **conditions: Any) -> dict[str, Any]:
        """The endpoint of a pod in an EndpointSlice."""
        return endpoint(self._running[name][0], pod=name, **conditions)

    def __enter__(self) -> Pods:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.ExitStack() as stack:
            for name in [*self._running]:
                stack.callback(self.stop, name)


class Visitor:
    """A browser: it keeps what cookies it gets.

    Attributes:
        pod: Who answered last.
        visits: How many visits by this visitor that pod remembers.
        issued: The names of the cookies that came with the last answer.
    """

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.pod = ""
        self.visits = 0
        self.issued: list[str] = []
        self._port = port
        self._cookies: dict[str, str] = {}

    def visit(self) -> str:
        """Visit the gateway, which must answer. Returns the pod's name."""
        headers = [(b"X-Visitor", self.name.encode())]
        if self._cookies:
            pairs = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
            headers.append((b"Cookie", pairs.encode()))
        response = request(self._port, headers=headers)
        assert response.status == 200, response.raw
        self._keep(response)
        answer = response.json()
        self.pod, self.visits = answer["pod"], answer["visits"]
        return self.pod

    def _keep(self, response: RawResponse) -> None:
        self.issued = []
        for value in response.get_all(b"set-cookie"):
            name, _, rest = value.decode().partition("=")
            self._cookies[name] = rest.partition(";")[0]
            self.issued.append(name)

    def stays(self) -> bool:
        """Visit, and say whether it was the same pod, which went on counting."""
        pod, visits = self.pod, self.visits
        return (self.visit(), self.visits) == (pod, visits + 1)

    def __repr__(self) -> str:
        return f"<Visitor {self.name} of {self.pod}, {self.visits} visits>"


class Crowd:
    """Visitors, old and new.

    Args:
        port: The gateway's.
    """

    def __init__(self, port: int) -> None:
        self.all: list[Visitor] = []
        self._port = port

    def come(self, count: int) -> list[Visitor]:
        """New visitors come."""
        new = [Visitor(f"visitor-{len(self.all) + n}", self._port) for n in range(count)]
        self.all += new
        for visitor in new:
            visitor.visit()
        return new

    def of(self, *pods: str) -> list[Visitor]:
        """The visitors of these pods."""
        return [visitor for visitor in self.all if visitor.pod in pods]

    def settle(self) -> dict[str, list[Visitor]]:
        """Everybody visits. Returns the visitors by the pods that they are with now."""
        found: dict[str, list[Visitor]] = {}
        for visitor in self.all:
            found.setdefault(visitor.visit(), []).append(visitor)
        return found

    def moved(self) -> list[Visitor]:
        """Everybody visits. Returns who did not find their session again."""
        return [visitor for visitor in self.all if not visitor.stays()]


@contextlib.contextmanager
def pods_at(**addresses: str) -> Iterator[Pods]:
    """Run pods, each at an address."""
    with Pods() as pods:
        for name, address in addresses.items():
            pods.start(name, address)
        yield pods


class Load:
    """Visitors who come all the time, some of them again and again. A context manager.

    Attributes:
        turns: How often everybody has come.
        problems: Who did not find their session, and what failed.
    """

    def __init__(self, crowd: Crowd) -> None:
        self.turns = 0
        self.problems: list[object] = []
        self._crowd = crowd
        self._regulars = crowd.come(4)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visitors")

    def _run(self) -> None:
        try:
            while not self._is_over.wait(0.01):
                self.problems += [visitor for visitor in self._regulars if not visitor.stays()]
                self._crowd.come(1)
                self.turns += 1
        except Exception as exc:
            self.problems.append(exc)

    def goes_on(self) -> None:
        """Wait until everybody has come a few times more."""
        turns = self.turns
        eventually(lambda: self.turns >= turns + 3 or self.problems)
        assert self.problems == []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join(WAIT)
