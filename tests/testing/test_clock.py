"""The virtual clock."""

from __future__ import annotations

import subprocess
import sys

from starlette.testclient import TestClient

from sticky_asgi import Backend, Gateway, Pool, SignedCookie
from sticky_asgi.testing import VirtualClock

from ..apps import CounterApp


def test_a_virtual_clock_stands_until_it_is_moved() -> None:
    clock = VirtualClock(100.0)
    assert [clock(), clock()] == [100.0, 100.0]
    clock.advance(2.5)
    assert clock() == 102.5
    clock.advance(-1)
    assert clock() == 101.5
    assert repr(clock) == "<VirtualClock 101.500>"


def test_a_session_expires_on_the_virtual_clock() -> None:
    clock = VirtualClock()
    affinity = SignedCookie("a secret of sixteen bytes", idle_timeout=60, clock=clock)
    backends = [Backend(app=CounterApp(name), id=name) for name in "ab"]
    with TestClient(Gateway({"/": Pool("shop", backends, affinity=affinity)})) as client:
        first = client.get("/").json()
        clock.advance(59)
        assert client.get("/").json() == {"backend": first["backend"], "count": 2}
        clock.advance(61)
        assert "set-cookie" in client.get("/").headers


def test_the_package_does_not_load_it() -> None:
    code = "import sticky_asgi, sys; sys.exit('sticky_asgi.testing' in sys.modules)"
    path = ":".join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": path})
