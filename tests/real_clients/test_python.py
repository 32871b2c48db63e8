"""The Python clients `websockets` and `httpx-sse`, which leave cookies to whoever uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from .programs import Front, served


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    def replica(port: int) -> list[str]:
        return ["-m", "uvicorn", "examples.live_notes.app:app", "--port", str(port)]

    with served("live_notes", replica, tmp_path_factory.mktemp("live")) as front:
        yield front


# httpx-sse


def post_to_the_stream(url: str) -> tuple[int, list[Any]]:
    """Post a note to a stream of events: the status, and what the stream says until then."""
    events: list[Any] = []
    with httpx.Client(base_url=url, trust_env=False) as client:
        with connect_sse(client, "GET", "/events") as source:
            stream = source.iter_sse()
            address = next(stream)
            assert address.event == "address"
            events.append(json.loads(address.data))
            status = client.post(events[0]["post_to"], content="milk").status_code
            if status == 202:
                note = next(stream)
                assert note.event == "note"
                events.append(json.loads(note.data))
    return status, events


def test_what_is_posted_reaches_the_replica_with_the_stream(front: Front) -> None:
    homes = set()
    for _ in range(3):
        status, (address, note) = post_to_the_stream(front.sticky)
        assert status == 202
        assert note == {"process": address["process"], "text": "milk"}
        homes.add(note["process"])
    assert homes == front.pids


def test_without_affinity_what_is_posted_goes_astray(front: Front) -> None:
    status, events = post_to_the_stream(front.balanced)
    assert (status, len(events)) == (404, 1)


# websockets


def websocket(url: str, visitor: str, cookie: str | None) -> ClientConnection:
    return connect(
        f"{url.replace('http', 'ws', 1)}/websocket?visitor={visitor}",
        additional_headers={} if cookie is None else {"Cookie": cookie},
        subprotocols=[Subprotocol("other"), Subprotocol("notes")],
        proxy=None,
    )


def cookie_of(connection: ClientConnection) -> str | None:
    """The affinity cookie, which comes with the response to the handshake."""
    assert connection.response is not None
    jar = SimpleCookie(connection.response.headers.get("Set-Cookie", ""))
    return next((f"{name}={morsel.value}" for name, morsel in jar.items()), None)


def add_notes(url: str, visitor: str) -> list[Any]:
    """Add a note by each of three connections, which give back the cookie of the first."""
    answers = []
    cookie = None
    for text in ("milk", "bread", "salt"):
        with websocket(url, visitor, cookie) as connection:
            cookie = cookie or cookie_of(connection)
            assert connection.subprotocol == "notes"
            connection.send(text)
            answers.append(json.loads(connection.recv(timeout=10)))
    return answers


def test_new_websockets_reach_the_replica_with_the_notes(front: Front) -> None:
    homes = set()
    for visitor in ("ada", "bob", "cid"):
        answers = add_notes(front.sticky, visitor)
        (process,) = {answer["process"] for answer in answers}
        assert answers[-1]["notes"] == ["milk", "bread", "salt"]
        homes.add(process)
    assert homes == front.pids


def test_without_affinity_new_websockets_go_astray(front: Front) -> None:
    answers = add_notes(front.balanced, "eve")
    assert {answer["process"] for answer in answers} == front.pids
    assert [answer["notes"] for answer in answers] == [["milk"], ["bread"], ["salt"]]
