"""What any implementation of a protocol must hold to, to be run against your own ones as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sticky_asgi.backend import Backend, BackendState
from sticky_asgi.balancers import Balancer
from sticky_asgi.request import RequestInfo


def states(**weights: float) -> tuple[BackendState, ...]:
    """Backends by id and weight, in the order given."""
    return tuple(
        BackendState(Backend(f"http://{id}.test:80", id=id, weight=weight))
        for id, weight in weights.items()
    )


def visitors(count: int) -> Iterable[RequestInfo]:
    """Requests of as many clients."""
    for number in range(count):
        yield RequestInfo(client=f"10.0.{number // 256}.{number % 256}")


def check_balancer(make: Callable[[], Balancer]) -> None:
    """Run a `Balancer` through everything the pool relies on.

    Args:
        make: Returns a new balancer each time.
    """
    _picks_a_candidate(make())
    _follows_the_candidates(make())
    _reads_a_list_anew(make())
    _spares_weight_zero(make())
    _serves_when_all_weigh_zero(make())
    _leaves_the_load_alone(make())
    _serves_two_instances_apart(make(), make())


def _picks_a_candidate(balancer: Balancer) -> None:
    for size in (1, 2, 7):
        candidates = states(**{f"b{number}": 1 + number for number in range(size)})
        for request in visitors(50):
            assert balancer.pick(candidates, request) in candidates


def _follows_the_candidates(balancer: Balancer) -> None:
    """Whoever leaves is not picked, whoever comes is, and with one left it is that one."""
    everyone = states(a=1, b=1, c=1)
    for leaving in everyone:
        rest = tuple(state for state in everyone if state is not leaving)
        for request in visitors(20):
            assert balancer.pick(everyone, request) in everyone
            assert balancer.pick(rest, request) in rest
        for request in visitors(5):
            assert balancer.pick((leaving,), request) is leaving
    (late,) = states(d=1)
    for state in everyone:
        state.in_flight = 1
    picked = {balancer.pick((*everyone, late), request).id for request in visitors(300)}
    assert "d" in picked


def _reads_a_list_anew(balancer: Balancer) -> None:
    """Only a tuple may be remembered; a list can change between two picks."""
    candidates = list(states(a=1, b=1))
    for request in visitors(4):
        balancer.pick(candidates, request)
    gone = candidates.pop(0)
    for request in visitors(20):
        assert balancer.pick(candidates, request) is not gone


def _spares_weight_zero(balancer: Balancer) -> None:
    candidates = states(a=0, b=1, c=0, d=2)
    for request in visitors(200):
        assert balancer.pick(candidates, request).id in "bd"


def _serves_when_all_weigh_zero(balancer: Balancer) -> None:
    candidates = states(a=0, b=0, c=0)
    picked = set()
    for request in visitors(200):
        state = balancer.pick(candidates, request)
        state.in_flight += 1
        picked.add(state.id)
    assert picked == {"a", "b", "c"}


def _leaves_the_load_alone(balancer: Balancer) -> None:
    """Counting is the pool's: a pick changes nothing that it, or another policy, compares."""
    candidates = states(a=1, b=3)
    for request in visitors(20):
        balancer.pick(candidates, request)
    for state in candidates:
        assert (state.in_flight, state.requests, state.latency) == (0, 0, None)


def _serves_two_instances_apart(one: Balancer, other: Balancer) -> None:
    ours, theirs = states(a=1, b=1), states(c=1, d=1)
    for request in visitors(20):
        assert one.pick(ours, request) in ours
        assert other.pick(theirs, request) in theirs
