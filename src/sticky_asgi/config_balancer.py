"""The balancer in a configuration file: a name, or what requests are hashed by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field, PrivateAttr

from . import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Random,
    RoundRobin,
    TwoChoices,
    client_key,
    cookie_key,
    header_key,
    path_key,
    query_key,
)
from .config_fields import Section
from .problems import nearest


class HashSection(Section):
    """What decides which backend a request goes to: exactly one of the keys."""

    client: Literal[True] | None = Field(None, description="The visitor's address.")
    header: str = Field("", description="The header of this name.")
    cookie: str = Field("", description="The cookie of this name.")
    query: str = Field("", description="The query parameter of this name.")
    path: Literal[True] | None = Field(None, description="The path without the query.")

    def build(self) -> ConsistentHash:
        if len(self.model_fields_set) != 1:
            raise ValueError("takes exactly one of client, header, cookie, query, path")
        (kind,) = self.model_fields_set
        if kind in ("client", "path"):
            return ConsistentHash({"client": client_key, "path": path_key}[kind]())
        named = {"header": header_key, "cookie": cookie_key, "query": query_key}
        try:
            return ConsistentHash(named[kind](getattr(self, kind)))
        except ValueError as exc:
            raise ValueError(str(exc).replace(f"{kind}_key: name", kind)) from None


class BalancerSection(Section):
    """The balancer that takes options; the others are but names."""

    consistent_hash: HashSection = Field(description="What decides.")

    def build(self) -> Balancer:
        return self.consistent_hash.build()


#: By their names.
BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_requests": LeastRequests,
    "two_choices": TwoChoices,
    "least_time": LeastTime,
    "consistent_hash": ConsistentHash,
}


class NamedBalancer(BalancerSection):
    """A balancer that was given by its name alone."""

    _name: str = PrivateAttr()

    @classmethod
    def of(cls, name: str) -> NamedBalancer:
        """The balancer of that name."""
        balancer = cls.model_construct()
        balancer._name = name
        return balancer

    def build(self) -> Balancer:
        return BALANCERS[self._name]()


def read_balancer(value: object) -> object:
    """A balancer's name as its section; what is a mapping, as it is. Raises ValueError."""
    names = list(BALANCERS)
    if isinstance(value, str):
        if value not in BALANCERS:
            raise ValueError(f"unknown balancer {value!r}{nearest(value, names)}")
        return NamedBalancer.of(value)
    if not isinstance(value, dict):
        raise ValueError(f"must be one of {', '.join(names)}, or a mapping")
    for name in value:
        if name not in BALANCERS:
            raise ValueError(f"unknown balancer {name!r}{nearest(name, names)}")
        if name != "consistent_hash":
            raise ValueError(f"{name} takes no options: write 'balancer: {name}'")
    return value
