"""The error tree: whose fault it is, at which stage, and what the client is told.

This file decides nothing at run time; it names what can go wrong. `side` says who is to blame,
and only `"backend"` may ever count against a backend's health: a client that hangs up never does.

    GatewayError                    side      stage      status
    ├── ClientError                 client
    │   ├── BadRequest              client    request    400
    │   ├── BodyTooLarge            client    request    413
    │   ├── HeadTooLarge            client    request    431
    │   └── ClientDisconnected      client    any        499, never sent
    ├── NoRoute                     client    route      404
    ├── NoBackendAvailable          gateway   pick       503 + Retry-After
    │   ├── BackendsBusy            gateway   pick       503 + Retry-After
    │   ├── QueueFull               gateway   pick       503 + Retry-After
    │   ├── QueueTimeout            gateway   pick       503 + Retry-After
    │   └── AffinityRejected        gateway   pick       503 + Retry-After
    ├── DrainEnded                  gateway   body       503, never sent
    └── UpstreamError               backend
        ├── ConnectError            backend   connect    502
        │   └── ConnectTimeout      backend   connect    504
        ├── StaleConnection         gateway   head       502, a reused connection closed unanswered
        ├── ConnectionLost          backend   head/body  502
        │   └── MalformedResponse   backend   head/body  502
        ├── UnwantedStatus          backend   head       the backend's
        ├── ResponseTimeout         backend   head       504
        └── IdleTimeout             backend   body       504

Messages are for the operator's log. They may hold addresses, so they are never sent to a client:
what a client sees is made by the gateway's `error_response`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Side = Literal["client", "gateway", "backend"]
Stage = Literal["request", "route", "pick", "connect", "head", "body"]


class GatewayError(Exception):
    """Base of every error that ends a request in the gateway.

    Attributes:
        side: Who is to blame: `"client"`, `"gateway"` or `"backend"`.
        stage: How far the request had come.
        status_code: What the client is told, if a response has not yet started.
    """

    side: Side = "gateway"
    stage: Stage = "request"
    status_code: int = 500


class ClientError(GatewayError):
    """The client sent something that cannot be forwarded, or left."""

    side: Side = "client"
    status_code = 400


class BadRequest(ClientError):
    """Malformed framing, Host or header fields (RFC 9112 §3.2, §6.3)."""


class BodyTooLarge(ClientError):
    """The request body exceeds `Limits.max_body` (RFC 9110 §15.5.14)."""

    status_code = 413


class HeadTooLarge(ClientError):
    """The request head exceeds the limit (RFC 6585 §5)."""

    status_code = 431


class ClientDisconnected(ClientError):
    """The client left before its response was complete.

    Status 499, nginx's convention, appears in logs only: there is nobody left to receive it.
    """

    status_code = 499


class NoRoute(GatewayError):
    """No route of the gateway matches the request."""

    side: Side = "client"
    stage: Stage = "route"
    status_code = 404


class NoBackendAvailable(GatewayError):
    """No backend of the pool can take the request now.

    Attributes:
        retry_after: Seconds after which the client may try again, sent as `Retry-After`.
    """

    stage: Stage = "pick"
    status_code = 503

    def __init__(self, message: str = "no backend is available", *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendsBusy(NoBackendAvailable):
    """Whoever could take the request is at `max_requests`: it may wait for them."""


class QueueFull(NoBackendAvailable):
    """Every backend is at `max_requests` and the pool's queue is at `Limits.queue`."""


class QueueTimeout(NoBackendAvailable):
    """A request waited `Limits.queue_timeout` seconds and no backend became free."""


class AffinityRejected(NoBackendAvailable):
    """The visitor's backend cannot take the request, and `on_lost` says not to move."""


class DrainEnded(GatewayError):
    """A response or a WebSocket was under way when the deadline of its backend's drain passed."""

    stage: Stage = "body"
    status_code = 503


class UpstreamError(GatewayError):
    """The exchange with a backend failed.

    Attributes:
        request_sent: Whether a byte of the request may have reached the backend. A request that
            may have been received is repeated only if its method is idempotent (RFC 9110 §9.2.2).
    """

    side: Side = "backend"
    status_code = 502
    default_request_sent: ClassVar[bool] = True

    def __init__(self, message: str, *, request_sent: bool | None = None) -> None:
        super().__init__(message)
        self.request_sent = self.default_request_sent if request_sent is None else request_sent


class ConnectError(UpstreamError):
    """No connection to the backend: refused, unreachable, or its TLS handshake failed."""

    stage: Stage = "connect"
    default_request_sent = False


class ConnectTimeout(ConnectError):
    """No connection within `Timeouts.connect` seconds."""

    status_code = 504


class StaleConnection(UpstreamError):
    """A reused keep-alive connection was closed before any byte of a response.

    The race every keep-alive client has with its server's idle timeout (RFC 9112 §9.3.1): it says
    nothing about the backend's health.
    """

    side: Side = "gateway"
    stage: Stage = "head"


class ConnectionLost(UpstreamError):
    """The backend closed or reset a connection before its response, or its WebSocket, was over."""

    stage: Stage = "head"

    def __init__(
        self, message: str, *, stage: Stage = "head", request_sent: bool | None = None
    ) -> None:
        super().__init__(message, request_sent=request_sent)
        self.stage = stage


class MalformedResponse(ConnectionLost):
    """What the backend sent is not an HTTP response that may be forwarded, or breaks RFC 6455."""


class UnwantedStatus(UpstreamError):
    """The backend answered with a status that `Retry.on_status` lists."""

    stage: Stage = "head"

    def __init__(self, status_code: int) -> None:
        super().__init__(f"the backend answered {status_code}")
        self.status_code = status_code


class ResponseTimeout(UpstreamError):
    """No response head within `Timeouts.response` seconds."""

    stage: Stage = "head"
    status_code = 504


class IdleTimeout(UpstreamError):
    """No byte of a response body for `Timeouts.idle` seconds, or no answer to a WebSocket ping."""

    stage: Stage = "body"
    status_code = 504


class DiscoveryError(Exception):
    """A source of backends is away, or says what cannot be used. Raised by `Discovery.watch`.

    No request fails of it: the last good snapshot stays in force. It is no `GatewayError`.

    Args:
        message: What is wrong, for the operator: it names the source and the object.
        retry_after: Seconds for which the source asks to be left alone; None: it asks nothing.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
