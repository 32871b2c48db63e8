"""Gradio in Chromium: one request puts an event into a queue, another one hears of its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from gradio_client import Client

from .programs import Front, node, served


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    def replica(port: int) -> list[str]:
        return ["examples/gradio_notes/app.py"]

    with served("gradio_notes", replica, tmp_path_factory.mktemp("gradio")) as front:
        yield front


def test_events_and_uploads_reach_the_replica_with_the_state(front: Front) -> None:
    visits = node("gradio.mjs", front.sticky, "2", browser=True)
    homes = set()
    for visit in visits:
        (process,) = {int(answer.split()[-1]) for answer in visit["answers"]}
        assert visit == {
            "answers": [f"{count} notes in process {process}" for count in (1, 2, 3, 4)],
            "size": "a.txt has 300000 bytes",
            "troubles": [],
        }
        homes.add(process)
    assert len(homes) == 2
    assert homes < front.pids


def test_without_affinity_events_are_lost(front: Front) -> None:
    (visit,) = node("gradio.mjs", front.balanced, "1", browser=True)
    assert visit["answers"][-1] is None
    assert re.search(r"/queue/(data|join)", visit["troubles"][0])


def test_the_python_client_keeps_the_cookie(front: Front) -> None:
    client = Client(front.sticky, verbose=False)
    answers = [client.predict("milk", api_name="/add") for _ in range(4)]
    (process,) = {int(answer.split()[-1]) for answer in answers}
    assert answers == [f"{count} notes in process {process}" for count in (1, 2, 3, 4)]


def test_without_affinity_the_python_client_loses_an_event(front: Front) -> None:
    client = Client(front.balanced, verbose=False)
    assert client.cookies == {}
    with pytest.raises(CancelledError):
        [client.submit("milk", api_name="/add").result(timeout=30) for _ in range(4)]
