"""socket.io: the client of npm, in Node and in a page in Chromium, with python-socketio servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .programs import Front, node, served

TRANSPORTS = [
    pytest.param(("polling",), id="polling"),
    pytest.param(("polling", "websocket"), id="upgrade"),
    pytest.param(("websocket",), id="websocket"),
]

NOTES = (["milk"], ["milk", "bread"], ["milk", "bread", "salt"])


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    def replica(port: int) -> list[str]:
        return ["-m", "uvicorn", "examples.socketio_notes.app:app", "--port", str(port)]

    with served("socketio_notes", replica, tmp_path_factory.mktemp("socketio")) as front:
        yield front


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_connections_reach_the_replica_with_the_notes(
    front: Front, transports: tuple[str, ...]
) -> None:
    homes = set()
    for user in ("ada", "bob"):
        visit = node("socketio.mjs", front.sticky, f"{user} {transports}", *transports)
        assert visit["error"] is None, visit
        (process,) = {answer["process"] for answer in visit["answers"]}
        assert visit == {
            "answers": [
                {"process": process, "notes": known, "transport": transports[-1]} for known in NOTES
            ],
            "error": None,
        }
        homes.add(process)
    assert len(homes) == 2
    assert homes < front.pids


@pytest.mark.parametrize("transports", TRANSPORTS[:2])
def test_without_affinity_no_connection_comes_about(
    front: Front, transports: tuple[str, ...]
) -> None:
    visit = node("socketio.mjs", front.balanced, f"eve {transports}", *transports)
    assert visit["answers"] == []
    assert visit["error"] in ("xhr poll error", "xhr post error")


def test_without_affinity_the_next_websocket_knows_nothing(front: Front) -> None:
    visit = node("socketio.mjs", front.balanced, "eve", "websocket")
    assert visit["error"] is None
    first, second, third = visit["answers"]
    assert (first["process"], second["notes"]) == (second["process"], ["milk", "bread"])
    assert third["process"] != first["process"]
    assert third["notes"] == ["salt"]


def test_a_page_reaches_the_replica_with_the_notes(front: Front) -> None:
    visits = node("socketio_page.mjs", front.sticky, "2", browser=True)
    homes = set()
    for visit in visits:
        (process,) = {answer["process"] for answer in visit["answers"]}
        assert [answer["notes"] for answer in visit["answers"]] == list(NOTES)
        assert visit["troubles"] == []
        homes.add(process)
    assert len(homes) == 2
    assert homes < front.pids


def test_without_affinity_a_page_cannot_connect(front: Front) -> None:
    (visit,) = node("socketio_page.mjs", front.balanced, "1", browser=True)
    assert visit["answers"] == []
    assert visit["troubles"][0] == "400 /socket.io/"


# The last test, for it leaves one replica less.
def test_a_page_goes_on_elsewhere_when_its_replica_is_killed(front: Front) -> None:
    (visit,) = node("socketio_page.mjs", front.sticky, "1", "kill", browser=True)
    *before, after = visit["answers"]
    (killed,) = {answer["process"] for answer in before}
    assert after["process"] in front.pids - {killed}
    assert after["notes"] == ["pepper"]
