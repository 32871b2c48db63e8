"""Who is let in, and who may do what."""

from __future__ import annotations

from . import errors
from .faults import Requests
from .log import Request
from .resources import Resource


class Access:
    """The bearer token, and what is forbidden to whoever has it. For any thread.

    Attributes:
        token: What `Authorization: Bearer ...` must say; None lets everybody in.
        user: What the holder of the token is called in refusals.
    """

    def __init__(self, token: str | None, user: str) -> None:
        self.token = token
        self.user = user
        self._forbidden: list[Requests] = []

    def forbid(self, requests: Requests) -> None:
        self._forbidden = [*self._forbidden, requests]

    def allow(self, requests: Requests) -> None:
        """Take back what was forbidden in the same words."""
        self._forbidden = [one for one in self._forbidden if one != requests]

    def authenticate(self, authorization: str) -> None:
        """Raises KubernetesError, 401."""
        if self.token is None:
            return
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token.strip() != self.token:
            raise errors.unauthorized()

    def authorize(self, request: Request, resource: Resource) -> None:
        """Raises KubernetesError, 403."""
        if any(requests.include(request) for requests in self._forbidden):
            raise errors.forbidden(
                resource, request.verb, request.namespace, request.name, self.user
            )
