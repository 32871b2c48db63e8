"""The demo: visitors stay, strangers rotate, and a back end that stops is seen to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from sticky_asgi.demo import MAX_VISITORS, NAMES, Replica, create_app, render

JSON = {"accept": "application/json"}


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app()) as client:
        yield client


def ask(client: TestClient) -> dict[str, Any]:
    response = client.get("/", headers=JSON)
    assert response.status_code == 200
    content: dict[str, Any] = response.json()
    return content


def state(client: TestClient) -> dict[str, dict[str, Any]]:
    backends = client.get("/-/demo/state").json()["backends"]
    return {backend.pop("name"): backend for backend in backends}


def test_a_visitor_with_cookies_stays(client: TestClient) -> None:
    answers = [ask(client) for _ in range(10)]
    assert len({answer["backend"] for answer in answers}) == 1
    assert [answer["count"] for answer in answers] == list(range(1, 11))
    assert [answer["affinity"] for answer in answers] == ["new"] + ["kept"] * 9


def test_visitors_without_cookies_rotate(client: TestClient) -> None:
    names = []
    for _ in range(6):
        client.cookies.clear()
        names.append(ask(client)["backend"])
    assert sorted(names) == sorted(NAMES * 2)


def test_a_terminal_gets_a_line(client: TestClient) -> None:
    lines = [client.get("/", headers={"accept": "*/*"}).text for _ in range(2)]
    name = lines[0].split()[0]
    assert lines == [
        f"{name} answered; it has had 1 request from you\n",
        f"{name} answered; it has had 2 requests from you\n",
    ]


def test_a_browser_gets_the_page(client: TestClient) -> None:
    response = client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    name = ask(client)["backend"]
    assert f"<title>{name} holds your session" in response.text
    assert "{{" not in response.text
    assert not re.search(r"(src|href)=.?https?:", response.text), "no foreign assets"


def test_the_page_cannot_be_broken_out_of() -> None:
    page = render({"backend": "amber", "count": 1, "affinity": "</script><script>"})
    assert "</script><script>" not in page


def test_the_state_shows_each_memory(client: TestClient) -> None:
    holder = [ask(client)["backend"] for _ in range(3)].pop()
    now = state(client)
    assert set(now) == set(NAMES)
    assert now.pop(holder) == {"running": True, "yours": 3, "requests": 3, "visitors": 1}
    for other in now.values():
        assert other == {"running": True, "yours": 0, "requests": 0, "visitors": 0}


def test_to_forget_the_cookie_is_to_be_new(client: TestClient) -> None:
    before = ask(client)["backend"]
    assert "sticky_demo" in client.cookies
    assert client.post("/-/demo/forget").status_code == 204
    assert "sticky_demo" not in client.cookies
    assert "demo_session" in client.cookies
    after = ask(client)
    assert after["backend"] != before
    assert (after["count"], after["affinity"]) == (1, "new")


def test_a_stopped_back_end_loses_its_visitors_and_its_memory(client: TestClient) -> None:
    first = [ask(client)["backend"] for _ in range(3)].pop()
    assert client.post(f"/-/demo/{first}/stop").status_code == 204
    assert state(client)[first] == {"running": False, "yours": 0, "requests": 0, "visitors": 0}
    moved = ask(client)
    assert moved["backend"] != first
    assert (moved["count"], moved["affinity"]) == (1, "moved")
    assert client.post(f"/-/demo/{first}/start").status_code == 204
    assert state(client)[first]["running"]
    assert ask(client) == {"backend": moved["backend"], "count": 2, "affinity": "kept"}


def test_all_stopped(client: TestClient) -> None:
    for name in NAMES:
        client.post(f"/-/demo/{name}/stop")
    assert client.get("/", headers=JSON).status_code == 503
    assert client.get("/-/demo/state").status_code == 200


def test_unknown_controls(client: TestClient) -> None:
    assert client.post("/-/demo/red/stop").status_code == 404
    assert client.post("/-/demo/amber/explode").status_code == 404
    assert client.get("/-/demo/amber/stop").status_code == 405
    assert client.get("/nowhere").status_code == 404


def test_a_back_end_remembers_only_so_many() -> None:
    replica = Replica("amber")
    replica.visits = {str(number): 1 for number in range(MAX_VISITORS)}
    with TestClient(replica.app) as client:
        client.get("/")
    assert len(replica.visits) == MAX_VISITORS
    assert "0" not in replica.visits
