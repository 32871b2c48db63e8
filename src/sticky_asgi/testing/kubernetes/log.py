"""What was asked of the fake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Request:
    """A request that has come in, in the words of Kubernetes' own audit log.

    Attributes:
        verb: get, list, watch, create, update, patch, delete or deletecollection.
        resource: The plural, such as `services`; "" for a path that is no resource's.
        namespace: None for all of them, and where there is none.
        name: "" for a whole list. A field selector that chooses one name counts as the name.
        query: The query's parameters; of several with one name the last.
        path: As it was sent, without the query.
        time: When it came, in seconds since the epoch, by the fake's clock.
        status: What it was answered with; None while it has not been.
    """

    verb: str
    resource: str
    namespace: str | None
    name: str
    query: Mapping[str, str]
    path: str
    time: float
    status: int | None = None
