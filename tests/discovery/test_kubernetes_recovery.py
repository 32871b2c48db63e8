"""What goes wrong with an API server, seen from the visitors of a running gateway: nothing.

And from the server: it is asked once a step of the back-off, and lists once when it has to.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sticky_asgi import AnnotatedCookie, Pool, WatchOptions
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.discovery.kubernetes import reflector
from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import RunningKubernetes, service
from tests.servers import eventually
from tests.watching import SECRET, Watched, kept_servers, watched

from .article import READY, slice_of
from .kubernetes_objects import ARTICLE
from .pods import Crowd, Load, Pods, pods_at

#: A minute without the server, in a twentieth of the time.
QUICK = WatchOptions(min_backoff=0.04, max_backoff=0.3)


@pytest.fixture(scope="module")
def pods() -> Iterator[Pods]:
    with pods_at(a="127.0.4.1", b="127.0.4.2", c="127.0.4.3") as running, kept_servers():
        yield running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream counts as one after a tenth of a second."""
    monkeypatch.setattr(reflector, "SETTLED", 0.1)


class Scene:
    """A gateway that follows the Service, under light load.

    Attributes:
        breaks: How often the open streams are broken off by the test.
    """

    breaks = 1

    def __init__(
        self,
        fake: FakeKubernetes,
        server: RunningKubernetes,
        pods: Pods,
        front: Watched,
        load: Load,
        token: Path,
    ) -> None:
        self.fake, self.server, self.front, self.load, self.token = fake, server, front, load, token
        self._pods = pods

    @property
    def failures(self) -> int:
        """How often the watch has failed so far."""
        return self.front.pool.watch_status.failures_total

    def fails(self, times: int) -> None:
        """Wait until the watch has failed so often, while visitors come and go."""
        eventually(lambda: self.failures >= times, 10, repr(self.front.pool))
        self.load.goes_on()
        assert self.front.gateway.is_ready

    def scale_up(self) -> None:
        self.fake.replace(dict(slice_of(self._pods, "web-1", a=READY, b=READY, c=READY)))

    def is_followed(self) -> None:
        """Wait until the pool knows of the third pod, and nothing is wrong any more."""
        pool = self.front.pool
        eventually(lambda: "c" in pool and pool.watch_status.error is None, 10, repr(pool))
        eventually(lambda: self.fake.watching() == 2)
        self.load.goes_on()

    def asked(self, verb: str) -> collections.Counter[str]:
        """How often it was asked since the last `requests.clear()`, by resource."""
        return collections.Counter(
            one.resource for one in self.fake.requests if one.verb == verb and one.resource
        )


@contextlib.contextmanager
def scene(pods: Pods, folder: Path) -> Iterator[Scene]:
    token = folder / "token"
    token.write_text("old")
    fake = FakeKubernetes(token="old")
    fake.create(service("web", namespace="shop", ports={"http": 80}, annotations=ARTICLE))
    fake.create(dict(slice_of(pods, "web-1", a=READY, b=READY)))
    with fake.running() as server:
        source = KubernetesService("web", namespace="shop", url=server.url, token_file=token)
        pool = Pool("shop", discovery=source, watch=QUICK, affinity=AnnotatedCookie(SECRET))
        with watched(pool) as front, Load(Crowd(front.port)) as load:
            eventually(lambda: fake.watching() == 2)
            load.goes_on()
            made = Scene(fake, server, pods, front, load, token)
            fake.requests.clear()
            yield made
            made.is_followed()
        assert load.problems == []
        # One after each step, and two at once after a break: the first may find a version expired.
        assert max(made.asked("watch").values()) <= made.failures + made.breaks + 1
        assert max(made.asked("list").values(), default=0) <= 1


ONCE = {"services": 1, "endpointslices": 1}


def test_expired_versions_are_one_list(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.compact()
        now.fake.expire_watches()
        now.scale_up()
        now.is_followed()
        assert now.asked("list") == ONCE


def test_versions_that_expire_between_two_streams_are_one_list(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.hang("watch", times=2)
        now.fake.drop_watches()
        eventually(lambda: len(now.fake.requests) == 2)
        now.scale_up()
        now.fake.patch("services", "shop", "web", {"metadata": {"labels": {"tier": "front"}}})
        now.fake.compact()
        now.fake.release()
        now.is_followed()
        assert now.asked("list") == ONCE


DROPS = [
    pytest.param(FakeKubernetes.drop_watches, id="dropped"),
    pytest.param(FakeKubernetes.end_watches, id="ended"),
    pytest.param(FakeKubernetes.break_line, id="half an event"),
]


@pytest.mark.parametrize("drop", DROPS)
def test_streams_that_end_are_resumed(
    drop: Callable[[FakeKubernetes], int], pods: Pods, tmp_path: Path
) -> None:
    with scene(pods, tmp_path) as now:
        now.breaks = 3
        for _ in range(now.breaks):
            assert drop(now.fake) == 2
            now.load.goes_on()
            eventually(lambda: now.fake.watching() == 2)
        now.scale_up()
        now.is_followed()
        assert now.asked("list") == {}


def test_a_refusal_of_watches(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.forbid("watch", "endpointslices")
        now.fake.drop_watches()
        now.scale_up()
        now.fails(4)
        assert "403 Forbidden" in (now.front.pool.watch_status.error or "")
        now.fake.allow("watch", "endpointslices")
        now.is_followed()
        assert now.asked("list") == {}


def test_a_server_that_has_too_much_to_do(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.fail(429, "watch", "endpointslices", times=2, retry_after=1)
        now.fake.drop_watches()
        now.scale_up()
        now.fails(2)
        now.is_followed()
        asked = [one for one in now.fake.requests if one.resource == "endpointslices"]
        refused = [pair for pair in itertools.pairwise(asked) if pair[0].status == 429]
        assert len(refused) == 2
        # Its own back-off ends at a third of a second.
        assert all(again.time - one.time >= 1 for one, again in refused)
        assert now.asked("list") == {}


def test_errors_of_the_server(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.fail(500, "watch", times=8)
        now.fake.drop_watches()
        now.scale_up()
        now.fails(3)
        now.is_followed()
        assert now.asked("list") == {}


def test_a_dead_server(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.server.stop()
        now.scale_up()
        now.fails(8)
        now.server.start()
        now.is_followed()
        assert now.asked("list") == {}


def test_a_dead_server_that_has_forgotten_its_history(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.server.stop()
        now.scale_up()
        now.fake.patch("services", "shop", "web", {"metadata": {"labels": {"tier": "front"}}})
        now.fake.compact()
        now.fails(4)
        now.server.start()
        now.is_followed()
        assert now.asked("list") == ONCE


def test_a_token_that_is_rotated(pods: Pods, tmp_path: Path) -> None:
    with scene(pods, tmp_path) as now:
        now.fake.token = "new"
        now.fake.drop_watches()
        now.scale_up()
        now.fails(3)
        assert "401" in (now.front.pool.watch_status.error or "")
        now.token.write_text("new")
        now.is_followed()
        assert now.asked("list") == {}
