"""The examples run as they are, and do what their first lines promise.

The tests in `examples/in_process_test.py` are collected here too.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from examples import fastapi_gateway, mounted_gateway, sessions_shared_or_sticky, starlette_gateway
from starlette.types import ASGIApp

from sticky_asgi import config

from .servers import ROOT, serve

pytest.register_assert_rewrite("examples.in_process_test")
from examples.in_process_test import *  # noqa: E402, F403

SERVED = ("fastapi_gateway", "mounted_gateway", "starlette_gateway")

#: Folders with an app and a gateway's configuration; tests/real_clients has what they do.
APPS = ("gradio_notes", "live_notes", "socketio_notes", "streamlit_notes")


@contextmanager
def visitors(app: ASGIApp, number: int) -> Iterator[list[httpx.Client]]:
    """Some visitors of an app that is really served; each keeps cookies."""
    with serve(app) as server:
        url = f"http://127.0.0.1:{server.port}"
        clients = [httpx.Client(base_url=url, trust_env=False) for _ in range(number)]
        try:
            yield clients
        finally:
            for client in clients:
                client.close()


def test_no_example_is_forgotten() -> None:
    known = {*SERVED, "in_process_test", "sessions_shared_or_sticky"}
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == known
    assert {path.parent.name for path in (ROOT / "examples").glob("*/app.py")} == {*APPS}


@pytest.mark.parametrize("name", APPS)
def test_an_app_says_how_it_is_run_before_its_gateway(name: str) -> None:
    folder = ROOT / "examples" / name
    settings = config.load(folder / "gateway.yaml", environ={"STICKY_SECRET": "s" * 32})
    (pool,) = settings.make_pools().values()
    assert pool.affinity is not None
    text = (folder / "app.py").read_text(encoding="utf-8")
    assert f"sticky-asgi run examples/{name}/gateway.yaml" in text
    for backend in pool.backends:
        assert backend.url is not None
        assert backend.url.rpartition(":")[2] in text


def test_starlette_gateway() -> None:
    with visitors(starlette_gateway.app, 3) as clients:
        first = [client.get("/").text for client in clients]
        assert sorted(first) == [f"replica {name}, visit 1\n" for name in "abc"]
        for client, text in zip(clients, first, strict=True):
            assert client.get("/").text == text.replace("visit 1", "visit 2")
        assert "<Pool shop [3 active" in clients[0].get("/about").text


def test_fastapi_gateway() -> None:
    with visitors(fastapi_gateway.app, 5) as (ada, *others):
        mine = ada.post("/", content="milk").json()
        assert mine["notes"] == ["milk"]
        replica = mine["replica"]
        listed = ada.get("/local/replicas").json()
        assert {state["id"]: state["intent"] for state in listed} == dict.fromkeys("abc", "active")

        drained = ada.post(f"/local/replicas/{replica}/drain").json()
        assert drained["intent"] == "draining"
        assert ada.get("/").json() == mine
        assert replica not in {client.get("/").json()["replica"] for client in others}

        assert ada.post(f"/local/replicas/{replica}/undrain").json()["intent"] == "active"
        assert ada.post("/local/replicas/z/drain").status_code == 404


def test_mounted_gateway() -> None:
    with visitors(mounted_gateway.app, 2) as (ada, bob):
        assert "/tools/" in ada.get("/").text
        hers, his = ada.get("/tools/x/y").json(), bob.get("/tools/").json()
        assert {hers["replica"], his["replica"]} == {"a", "b"}
        # The replicas do not see where they are mounted, and were started before the first request.
        assert (hers["path"], his["path"]) == ("/x/y", "/")
        assert (hers["starts"], his["starts"]) == (1, 1)
        assert ada.get("/tools/x/y").json() == hers


@pytest.mark.parametrize("name", SERVED)
def test_run_as_a_script_it_serves_its_app(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[uvicorn.Config] = []

    def run(app: ASGIApp, **options: object) -> None:
        served.append(uvicorn.Config(app, log_config=None, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(uvicorn, "run", run)
    namespace = runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    (config,) = served
    assert config.app is namespace["app"]
    assert config.port == 8000
    headers = (config.server_header, config.date_header, config.proxy_headers)
    assert headers == (False, False, False)
    assert f"python examples/{name}.py" in namespace["__doc__"]


def columns_of(line: str) -> list[str]:
    return [line[start : start + 24].strip() for start in (8, 32, 56)]


def test_sessions_shared_or_sticky_prints_the_three_side_by_side() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "examples/sessions_shared_or_sticky.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines, _, last = result.stdout.splitlines()
    assert columns_of(head) == ["balanced", "sticky", "shared"]
    balanced, sticky, shared = zip(*map(columns_of, lines), strict=True)
    strangers = [step.endswith("who are you?") for step in balanced]
    assert True in strangers[:5]

    assert sticky[:5] == (
        "a: 0 clicks (login)",
        *(f"a: {count} clicks (memory)" for count in range(1, 5)),
    )
    assert sticky[5] == "(a is cut off)"
    assert all(step.endswith("who are you?") for step in sticky[6:8])

    assert shared[:6] == sticky[:6]
    other = shared[6][0]
    assert other in "bc"
    assert shared[6:] == (
        f"{other}: 5 clicks (store)",
        f"{other}: 6 clicks (memory)",
        "(only a is left)",
        # Its memory says 4: without having been told, it would go on from there.
        "a: 7 clicks (store)",
        "a: 8 clicks (memory)",
    )
    assert last == "Reads of the shared store in 8 clicks: 2"


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        pytest.param("balanced", {200, 401}, id="balanced"),
        pytest.param("sticky", {200}, id="sticky"),
        pytest.param("shared", {200}, id="shared"),
    ],
)
def test_sessions_shared_or_sticky_can_be_served(path: str, statuses: set[int]) -> None:
    with visitors(sessions_shared_or_sticky.app, 1) as (ada,):
        assert ada.post(f"/{path}/login").status_code == 200
        assert {ada.post(f"/{path}/click").status_code for _ in range(4)} == statuses
