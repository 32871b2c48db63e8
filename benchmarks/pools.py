"""The pool that the gateway is measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sticky_asgi import (
    Backend,
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Pool,
    Random,
    RoundRobin,
    SignedCookie,
    TwoChoices,
    cookie_key,
)

#: The balancing policies, by their names in the configuration file.
POLICIES: dict[str, Callable[[], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "two_choices": TwoChoices,
    "least_requests": LeastRequests,
    "least_time": LeastTime,
    "consistent_hash": lambda: ConsistentHash(cookie_key("user")),
}


def make_pool(urls: Sequence[str], *, size: int, policy: str = "round_robin") -> Pool:
    """A pool of `size` backends, which share the addresses there are."""
    return Pool(
        "bench",
        [Backend(urls[number % len(urls)], id=f"backend-{number}") for number in range(size)],
        balancer=POLICIES[policy](),
        affinity=SignedCookie("a secret for the benchmark only"),
    )
