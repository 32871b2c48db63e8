"""A load-balancing gateway with session affinity, as ASGI middleware."""

from __future__ import annotations

from .affinity import (
    Affinity,
    AffinityStatus,
    AnnotatedCookie,
    CookieSettings,
    PoolView,
    Resolution,
    SignedCookie,
)
from .backend import Backend, BackendState, Health, Intent
from .balancers import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    LeastTime,
    Random,
    RoundRobin,
    TwoChoices,
)
from .events import (
    BackendsReplaced,
    DiscoveryFailed,
    DiscoveryRecovered,
    Event,
    EventListener,
    HealthChanged,
    IntentChanged,
    Listener,
    Reloaded,
    RequestFinished,
    RequestQueued,
    RequestRetried,
)
from .exceptions import (
    AffinityRejected,
    BackendsBusy,
    BadRequest,
    BodyTooLarge,
    ClientDisconnected,
    ClientError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    DiscoveryError,
    DrainEnded,
    GatewayError,
    HeadTooLarge,
    IdleTimeout,
    MalformedResponse,
    NoBackendAvailable,
    NoRoute,
    QueueFull,
    QueueTimeout,
    ResponseTimeout,
    StaleConnection,
    UnwantedStatus,
    UpstreamError,
)
from .gateway import Gateway
from .hash_keys import HashKey, client_key, cookie_key, header_key, path_key, query_key
from .health import Ejection, HealthCheck
from .lease import Lease
from .limits import Limits
from .middleware import GatewayMiddleware
from .pool import Pool
from .request import RequestInfo
from .retries import Retry
from .routes import Route
from .snapshot import Discovery, Snapshot, WatchOptions
from .timeouts import Timeouts
from .tls import TLS
from .websocket_options import WebSocketOptions

__version__ = "0.1.0"

__all__ = [
    "Affinity",
    "AffinityRejected",
    "AffinityStatus",
    "AnnotatedCookie",
    "Backend",
    "BackendsBusy",
    "BackendsReplaced",
    "BackendState",
    "BadRequest",
    "Balancer",
    "BodyTooLarge",
    "client_key",
    "ClientDisconnected",
    "ClientError",
    "ConnectError",
    "ConnectionLost",
    "ConnectTimeout",
    "ConsistentHash",
    "cookie_key",
    "CookieSettings",
    "Discovery",
    "DiscoveryError",
    "DiscoveryFailed",
    "DiscoveryRecovered",
    "DrainEnded",
    "Ejection",
    "Event",
    "EventListener",
    "Gateway",
    "GatewayError",
    "GatewayMiddleware",
    "HashKey",
    "header_key",
    "HeadTooLarge",
    "Health",
    "HealthChanged",
    "HealthCheck",
    "IdleTimeout",
    "Intent",
    "IntentChanged",
    "Lease",
    "LeastRequests",
    "LeastTime",
    "Limits",
    "Listener",
    "MalformedResponse",
    "NoBackendAvailable",
    "NoRoute",
    "path_key",
    "Pool",
    "PoolView",
    "query_key",
    "QueueFull",
    "QueueTimeout",
    "Random",
    "Reloaded",
    "RequestFinished",
    "RequestInfo",
    "RequestQueued",
    "RequestRetried",
    "Resolution",
    "ResponseTimeout",
    "Retry",
    "RoundRobin",
    "Route",
    "SignedCookie",
    "Snapshot",
    "StaleConnection",
    "Timeouts",
    "TLS",
    "TwoChoices",
    "UnwantedStatus",
    "UpstreamError",
    "WatchOptions",
    "WebSocketOptions",
]
