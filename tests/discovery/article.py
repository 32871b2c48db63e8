"""The article's Service from its creation to its renamed cookie, through a running gateway.

`play` is what happens; whoever drives the API server is told by `Driver`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sticky_asgi import AffinityStatus, AnnotatedCookie, Intent, Pool, SignedCookie
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests.servers import eventually
from tests.watching import SECRET, Watched, watched

from .kubernetes_objects import ARTICLE
from .pods import Crowd, Pods, pods_at

AFFINITY, COOKIE_NAME = ARTICLE
Manifest = Mapping[str, Any]


class Driver(Protocol):
    """Somebody who changes what an API server holds.

    Attributes:
        url: Where the server is.
    """

    url: str

    def create(self, manifest: Manifest) -> None:
        """Create an object of the namespace `shop`."""

    def replace(self, manifest: Manifest) -> None:
        """Put an EndpointSlice in the place of the one of its name."""

    def annotate(self, key: str, value: str) -> None:
        """Change an annotation of the Service `web`."""


class Town:
    """The gateway, its pool, the pods and their visitors."""

    def __init__(self, driver: Driver, front: Watched, pods: Pods) -> None:
        self.driver, self.front, self.pods = driver, front, pods
        self.pool = front.pool
        self.crowd = Crowd(front.port)

    def say(self, name: str, **pods: Mapping[str, Any]) -> None:
        """A slice holds these pods from now on, under these conditions."""
        self.driver.replace(slice_of(self.pods, name, **pods))

    def in_force(self, condition: Callable[[], bool]) -> None:
        eventually(condition, 10, f"{self.pool!r}: {self.pool.states}")

    def knows(self, *pods: str) -> None:
        """Wait until the pool has these backends."""
        self.in_force(lambda: {backend.id for backend in self.pool.backends} == {*pods})

    def intends(self, pod: str, intent: Intent) -> None:
        """Wait until a backend is to be used like this."""
        self.in_force(lambda: self.pool[pod].intent is intent)

    def outcomes(self, count: int) -> list[AffinityStatus | None]:
        """What affinity came to in the last requests."""
        self.front.settle()
        return [event.affinity for event in self.front.events[-count:]]


def slice_of(pods: Pods, name: str, **members: Mapping[str, Any]) -> Manifest:
    endpoints = [pods.endpoint(pod, **conditions) for pod, conditions in members.items()]
    return endpoint_slice("web", endpoints, ports={"http": pods.port}, namespace="shop", name=name)


READY: Mapping[str, Any] = {"ready": True, "serving": True, "terminating": False}
NOT_READY: Mapping[str, Any] = {"ready": False, "serving": False, "terminating": False}
TERMINATING: Mapping[str, Any] = {"ready": False, "serving": True, "terminating": True}


def play(driver: Driver) -> None:
    """Everything that happens to the Service, in order. The server holds nothing yet."""
    driver.create(service("web", namespace="shop", ports={"http": 80}, annotations=ARTICLE))
    # Somebody else's, which is no concern of this pool.
    driver.create(service("db", namespace="shop", ports={"sql": 5432}))
    stranger = endpoint("127.0.3.9", pod="db-0")
    driver.create(endpoint_slice("db", [stranger], ports={"sql": 5432}, namespace="shop"))
    source = KubernetesService("web", namespace="shop", url=driver.url)
    pool = Pool("shop", discovery=source, affinity=AnnotatedCookie(SECRET))
    with pods_at(a="127.0.3.1", b="127.0.3.2") as pods:
        driver.create(slice_of(pods, "web-1", a=READY, b=READY))
        with watched(pool) as front:
            town = Town(driver, front, pods)
            for happen in (
                sessions_stick,
                it_scales_up,
                a_pod_is_not_ready,
                a_pod_terminates_and_serves,
                an_address_is_used_again,
                affinity_is_switched_off_and_on,
                the_cookie_is_renamed,
            ):
                happen(town)


def sessions_stick(town: Town) -> None:
    town.knows("a", "b")
    new = town.crowd.come(6)
    assert {tuple(visitor.issued) for visitor in new} == {("traefik-cookie",)}
    assert {visitor.pod for visitor in new} == {"a", "b"}
    for _ in range(2):
        assert town.crowd.moved() == []


def it_scales_up(town: Town) -> None:
    town.pods.start("c", "127.0.3.3")
    town.driver.create(slice_of(town.pods, "web-2", c=READY))
    town.knows("a", "b", "c")
    assert town.crowd.moved() == []
    assert {visitor.pod for visitor in town.crowd.come(6)} == {"a", "b", "c"}


def a_pod_is_not_ready(town: Town) -> None:
    its_own = town.crowd.of("b")
    town.say("web-1", a=READY, b=NOT_READY)
    town.intends("b", Intent.DOWN)
    assert town.crowd.moved() == its_own
    assert town.outcomes(len(town.crowd.all)).count(AffinityStatus.MOVED) == len(its_own)
    assert town.crowd.of("b") == []
    town.say("web-1", a=READY, b=READY)
    town.intends("b", Intent.ACTIVE)
    # Who has moved, has moved.
    assert town.crowd.moved() == []
    assert "b" in {visitor.pod for visitor in town.crowd.come(4)}


def a_pod_terminates_and_serves(town: Town) -> None:
    its_own = town.crowd.of("c")
    town.say("web-2", c=TERMINATING)
    town.intends("c", Intent.DRAINING)
    assert town.crowd.moved() == []
    assert town.crowd.of("c") == its_own != []
    assert {visitor.pod for visitor in town.crowd.come(6)} == {"a", "b"}


def an_address_is_used_again(town: Town) -> None:
    its_own = town.crowd.of("c")
    town.pods.stop("c")
    town.pods.start("d", "127.0.3.3")
    town.say("web-2", d=READY)
    town.knows("a", "b", "d")
    assert town.crowd.moved() == its_own
    # Nobody came to the new pod on the strength of an old cookie.
    outcomes = town.outcomes(len(town.crowd.all))
    assert outcomes.count(AffinityStatus.LOST) == len(its_own)
    assert outcomes.count(AffinityStatus.KEPT) == len(town.crowd.all) - len(its_own)
    assert "d" in {visitor.pod for visitor in town.crowd.come(3)}


def affinity_is_switched_off_and_on(town: Town) -> None:
    town.crowd.settle()
    homes = {visitor.name: visitor.pod for visitor in town.crowd.all}
    town.driver.annotate(AFFINITY, "false")
    town.in_force(lambda: town.pool.affinity is None)
    (one, *_) = town.crowd.all
    assert {one.visit() for _ in range(6)} == {"a", "b", "d"}
    assert one.issued == []
    town.driver.annotate(AFFINITY, "true")
    town.in_force(lambda: town.pool.affinity is not None)
    # The cookies are as good as before.
    town.crowd.settle()
    assert {visitor.name: visitor.pod for visitor in town.crowd.all} == homes
    assert town.crowd.moved() == []


def the_cookie_is_renamed(town: Town) -> None:
    town.driver.annotate(COOKIE_NAME, "other-cookie")
    town.in_force(lambda: cookie_name(town.pool) == "other-cookie")
    town.crowd.settle()
    assert {tuple(visitor.issued) for visitor in town.crowd.all} == {("other-cookie",)}
    assert town.crowd.moved() == []
    assert [visitor.issued for visitor in town.crowd.all] == [[]] * len(town.crowd.all)


def cookie_name(pool: Pool) -> str:
    assert isinstance(pool.affinity, SignedCookie)
    return pool.affinity.cookie_name(pool)
