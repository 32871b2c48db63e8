"""Streamlit in Chromium: the session is at one end of a WebSocket, files come and go by HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .programs import Front, node, served


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    def replica(port: int) -> list[str]:
        script = "examples/streamlit_notes/app.py"
        return ["-m", "streamlit", "run", script, "--server.port", str(port)]

    with served("streamlit_notes", replica, tmp_path_factory.mktemp("streamlit")) as front:
        yield front


def test_files_and_new_websockets_reach_the_replica_with_the_session(front: Front) -> None:
    visits = node("streamlit.mjs", front.sticky, "2", browser=True)
    homes = set()
    for visit in visits:
        process = int(visit["clicks"].split()[-1])
        assert visit == {
            "clicks": f"2 clicks in process {process}",
            "pictures": 4,
            "sizes": [f"{name}.txt has 300000 bytes" for name in "abc"],
            "clicksAfterCut": f"3 clicks in process {process}",
            "troubles": [],
        }
        homes.add(process)
    assert len(homes) == 2
    assert homes < front.pids


def test_without_affinity_pictures_are_missing(front: Front) -> None:
    (visit,) = node("streamlit.mjs", front.balanced, "1", browser=True)
    assert visit["pictures"] < 4
    assert re.match(r"404 /media/", visit["troubles"][0])


# The last test, for it leaves one replica less.
def test_a_page_begins_anew_elsewhere_when_its_replica_is_killed(front: Front) -> None:
    (visit,) = node("streamlit.mjs", front.sticky, "1", "kill", browser=True)
    killed, process = (int(visit[key].split()[-1]) for key in ("clicks", "clicksAfterKill"))
    assert process in front.pids - {killed}
