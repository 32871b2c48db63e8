"""The shape of a configuration file: which keys there are, what they take, what they build.

Each section makes the object of the Python API that it stands for and leaves the judging of
values to it, so the file and the API accept the same. What a default is, is the API's to say too:
only keys that are set are passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
)

from . import (
    TLS,
    AnnotatedCookie,
    Backend,
    Balancer,
    ConsistentHash,
    Discovery,
    Ejection,
    HealthCheck,
    LeastRequests,
    LeastTime,
    Limits,
    Pool,
    Random,
    Retry,
    RoundRobin,
    Route,
    SignedCookie,
    Timeouts,
    TwoChoices,
    WatchOptions,
    WebSocketOptions,
    client_key,
    cookie_key,
    header_key,
    path_key,
    query_key,
)
from .admin import StatusEndpoints
from .config_affinity import AffinitySection, read_affinity
from .config_discovery import DiscoverySection, NamespaceSection, WatchSection
from .config_fields import Also, Drain, Duration, Integer, Number, Section, Size, not_yet
from .discovery.pools import PoolDiscovery
from .problems import nearest
from .trusted_proxies import TrustedProxies


class BackendSection(Section):
    """One backend."""

    url: str = Field(description="http://host:port, https://host:port or http+unix:///socket.")
    id: str | None = Field(None, description="Its name. Default: host:port, or the socket's path.")
    weight: Number = Field(1, description="Share of new sessions; 0: none, but its own are kept.")
    max_requests: Integer | None = Field(
        None, description="Requests in flight per worker; beyond it they wait. null: no limit."
    )
    priority: Integer = Field(
        0, description="Above 0: a backup, for when nobody of a lower number can be used."
    )
    drain: Drain = Field(
        False,
        description="true: it keeps its sessions and gets no new ones. A duration: for so long.",
    )

    def build(self) -> Backend:
        return Backend(**{key: value for key, value in self.given().items() if key != "drain"})

    @property
    def drain_deadline(self) -> float | None:
        """How long it drains; None: without an end."""
        return None if isinstance(self.drain, bool) else self.drain


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


_BALANCERS: dict[str, Callable[[], Balancer]] = {
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
        return _BALANCERS[self._name]()


def _read_balancer(value: object) -> object:
    names = list(_BALANCERS)
    if isinstance(value, str):
        if value not in _BALANCERS:
            raise ValueError(f"unknown balancer {value!r}{nearest(value, names)}")
        return NamedBalancer.of(value)
    if not isinstance(value, dict):
        raise ValueError(f"must be one of {', '.join(names)}, or a mapping")
    for name in value:
        if name not in _BALANCERS:
            raise ValueError(f"unknown balancer {name!r}{nearest(name, names)}")
        if name != "consistent_hash":
            raise ValueError(f"{name} takes no options: write 'balancer: {name}'")
    return value


class RetrySection(Section):
    """When a failed attempt is repeated on another backend."""

    attempts: Integer = Field(2, description="Repeats at most; 2: three tries.")
    replay_limit: Size = Field(65536, description="Request body kept for a repeat.")
    on_status: list[Integer] = Field([], description="Statuses that count as failed.")
    budget_ratio: Number = Field(0.2, description="Share of active requests that may be repeats.")
    budget_min: Integer = Field(3, description="Repeats that may always be active.")
    backoff: Duration | None = Field(
        0.025, description="Before the same backend is tried again, growing. null: it never is."
    )
    attempt_timeout: Duration | None = Field(
        None, description="Until the response head, if a repeat is possible. null: as the last try."
    )
    total_timeout: Duration | None = Field(
        None, description="Since its arrival, after which nothing is repeated."
    )

    def build(self) -> Retry:
        return Retry(**self.given())


class TimeoutsSection(Section):
    """How long backends are waited for; null waits for ever."""

    connect: Duration | None = Field(5, description="Until the connection stands, with TLS.")
    response: Duration | None = Field(60, description="From the request to the response head.")
    idle: Duration | None = Field(None, description="Between two pieces of a response body.")
    keep_alive: Duration = Field(4, description="How long an idle connection is kept; 0: never.")

    def build(self) -> Timeouts:
        return Timeouts(**self.given())


def _as_text(value: object) -> object:
    """A single status is a number to YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class HealthCheckSection(Section):
    """How backends are asked whether they can be used."""

    path: str = Field("/", description="What is asked for.")
    method: str = Field("GET", description="Request method.")
    headers: dict[str, str] = Field({}, description="Request headers besides Host.")
    host: str | None = Field(None, description="Host header. null: the backend's own.")
    expect: Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int)] = Field(
        "200-399", description="Statuses that pass, such as 200-399 or 200,204."
    )
    contains: str | None = Field(None, description="Text that the body must contain.")
    tcp: bool = Field(False, description="true: only connect, ask for nothing.")
    interval: Duration = Field(5, description="Between two checks of a backend.")
    down_interval: Duration | None = Field(
        None, description="The same while it is unhealthy. null: a fifth of interval."
    )
    jitter: Number = Field(0.1, description="Share by which intervals vary at random.")
    timeout: Duration = Field(2, description="Within which a check must have passed.")
    rise: Integer = Field(2, description="Checks that must pass until it is healthy again.")
    fall: Integer = Field(3, description="Checks that must fail until it is unhealthy.")
    initial: Literal["unknown", "unhealthy"] = Field(
        "unknown", description="unhealthy: not used until its first check has passed."
    )
    drain_on_404: bool = Field(False, description="true: 404 passes, and means: no new sessions.")

    def build(self) -> HealthCheck:
        return HealthCheck(**self.given())


class EjectionSection(Section):
    """When requests that fail take their backend out."""

    failures: Integer | None = Field(5, description="Failures in a row. null: no matter.")
    failure_share: Number | None = Field(
        0.5, description="Share of the requests in window that failed. null: no matter."
    )
    min_requests: Integer = Field(20, description="Requests from which on the share counts.")
    window: Duration = Field(10, description="How long requests are counted.")
    duration: Duration = Field(30, description="How long it is out at first.")
    max_duration: Duration | None = Field(
        None, description="How long it is out at most. null: ten times duration."
    )
    max_share: Number = Field(0.5, description="Share of the pool that may be out.")
    statuses: list[Integer] = Field([], description="Statuses 500 to 599 that count as failed.")

    def build(self) -> Ejection:
        return Ejection(**self.given())


class LimitsSection(Section):
    """What a pool takes on."""

    queue: Integer = Field(100, description="Requests that may wait; beyond it: 503.")
    queue_timeout: Duration = Field(5, description="How long one waits at most.")
    max_body: Size | None = Field(None, description="Largest request body; beyond it: 413.")

    def build(self) -> Limits:
        return Limits(**self.given())


class WebSocketSection(Section):
    """WebSockets to backends."""

    max_message: Size | None = Field(
        16777216, description="Largest message, fragments joined. null: no limit."
    )
    ping_interval: Duration | None = Field(
        20, description="Silence after which a backend is pinged. null: never."
    )
    ping_timeout: Duration | None = Field(
        20, description="Silence after a ping until the backend counts as gone. null: for ever."
    )
    close_timeout: Duration = Field(10, description="How long a backend has to answer a close.")

    def build(self) -> WebSocketOptions:
        return WebSocketOptions(**self.given())


class TLSSection(Section):
    """TLS towards https backends. Relative paths start at the configuration file's folder."""

    ca_file: str | None = Field(None, description="Authorities to trust. null: the system's.")
    client_cert: str | None = Field(None, description="Certificate chain to present.")
    client_key: str | None = Field(None, description="Its key. null: it is in client_cert.")
    server_name: str | None = Field(None, description="Name to ask for. null: the URL's host.")
    verify: bool = Field(True, description="false accepts anyone who answers.")

    def build(self, folder: Path = Path()) -> TLS:
        given = self.given()
        for key in ("ca_file", "client_cert", "client_key"):
            if given.get(key) is not None:
                given[key] = str(folder / given[key])
        return TLS(**given)


def _from_url(value: object) -> object:
    if not isinstance(value, str | dict | BackendSection):
        raise ValueError("must be a URL or a mapping with the key 'url'")
    return {"url": value} if isinstance(value, str) else value


def _check_slow_start(value: float | None) -> float | None:
    if value is not None and value <= 0:
        raise ValueError(f"must be a positive number of seconds or null, got {value!r}")
    return value


def _timeouts_off(value: object) -> object:
    return {"connect": None, "response": None, "idle": None} if value is None else value


class PoliciesSection(Section):
    """How a pool treats its backends."""

    balancer: Annotated[
        BalancerSection,
        BeforeValidator(_read_balancer),
        Also(type="string", enum=list(_BALANCERS)),
    ] = Field(
        NamedBalancer.of("round_robin"),
        description="Who gets a new session.",
        json_schema_extra={"default": "round_robin"},
    )
    affinity: Annotated[
        AffinitySection | None,
        BeforeValidator(read_affinity),
        Also(type="string", enum=["annotations"]),
    ] = Field(
        None, description="null: every request is new. With kubernetes, annotations by default."
    )
    retry: RetrySection | None = Field(RetrySection.empty(), description="null: never.")
    timeouts: Annotated[TimeoutsSection, BeforeValidator(_timeouts_off), Also(type="null")] = Field(
        TimeoutsSection.empty(), description="null: none but keep_alive."
    )
    limits: LimitsSection = Field(LimitsSection.empty(), description="Queue and body size.")
    websocket: WebSocketSection = Field(
        WebSocketSection.empty(), description="Message size, pings and closing of WebSockets."
    )
    tls: TLSSection | None = Field(None, description="For https backends. null: the defaults.")
    host: Literal["pass", "backend"] = Field(
        "pass", description="Whose Host header backends get: the visitor's, or their own."
    )
    health_check: HealthCheckSection | None = Field(None, description="null: no active checks.")
    ejection: EjectionSection | None = Field(EjectionSection.empty(), description="null: never.")
    slow_start: Annotated[Duration | None, AfterValidator(_check_slow_start)] = Field(
        10, description="How long a backend that is back takes to its full share. null: at once."
    )
    panic: Literal["all", "none"] = Field(
        "none", description="Nobody can be used: all are tried, or none (503)."
    )
    drain_header: bool = Field(
        False, description="true: any response with Sticky-Drain: 1 drains its backend."
    )

    def make_affinity(
        self, secrets: Sequence[str], *, is_annotated: bool
    ) -> SignedCookie | AnnotatedCookie | None:
        """What binds visitors; arguments as those of `make_pool`."""
        if self.affinity is not None:
            return self.affinity.make(secrets)
        if is_annotated and "affinity" not in self.model_fields_set:
            return AnnotatedCookie(secrets)
        return None

    def make_pool(
        self,
        name: str,
        secrets: Sequence[str],
        folder: Path,
        backends: Sequence[Backend] | None = None,
        *,
        discovery: Discovery | None = None,
        watch: WatchOptions | None = None,
        is_annotated: bool = False,
    ) -> Pool:
        """A pool with these policies.

        Args:
            name: Its name.
            secrets: The file's.
            folder: Where relative paths start.
            backends: Its backends.
            discovery: Where they come from, in place of that.
            watch: How that is followed.
            is_annotated: Whether annotations say what affinity is, where the file does not.
        """
        return Pool(
            name,
            backends,
            discovery=discovery,
            watch=watch or WatchOptions(),
            balancer=self.balancer.build(),
            affinity=self.make_affinity(secrets, is_annotated=is_annotated),
            retry=None if self.retry is None else self.retry.build(),
            timeouts=self.timeouts.build(),
            limits=self.limits.build(),
            websocket=self.websocket.build(),
            tls=None if self.tls is None else self.tls.build(folder),
            health_check=None if self.health_check is None else self.health_check.build(),
            ejection=None if self.ejection is None else self.ejection.build(),
            slow_start=self.slow_start,
            panic=self.panic,
            drain_header=self.drain_header,
            host=self.host,
        )


class PoolSection(PoliciesSection):
    """A set of backends and the policies for them."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["backends"]}, {"required": ["discovery"]}]}
    )

    backends: list[Annotated[BackendSection, BeforeValidator(_from_url), Also(type="string")]] = (
        Field([], min_length=1, description="URLs, or mappings that say more.")
    )
    discovery: DiscoverySection | None = Field(
        None, description="Where the backends come from instead."
    )

    def build(self) -> None:
        if (self.discovery is None) == ("backends" not in self.model_fields_set):
            raise ValueError("takes either backends or discovery")
        is_annotated = self.discovery is not None and self.discovery.kubernetes is not None
        wants = self.affinity is not None and "annotations" in self.affinity.model_fields_set
        if wants and not is_annotated:
            raise ValueError("affinity: annotations come with discovery from kubernetes only")

    @property
    def is_sticky(self) -> bool:
        """Whether it may have affinity, which needs a secret."""
        return self.affinity is not None or (
            self.discovery is not None
            and self.discovery.kubernetes is not None
            and "affinity" not in self.model_fields_set
        )

    def make(self, name: str, secrets: Sequence[str], folder: Path) -> Pool:
        """The pool under its name."""
        if self.discovery is None:
            backends = [backend.build() for backend in self.backends]
            return self.make_pool(name, secrets, folder, backends)
        return self.make_pool(
            name,
            secrets,
            folder,
            discovery=self.discovery.make(folder),
            watch=self.discovery.watch,
            is_annotated=self.discovery.kubernetes is not None,
        )


class PoolDiscoverySection(WatchSection):
    """Pools that are found, and what they have in common."""

    kubernetes: NamespaceSection = Field(description="Every annotated Service of a namespace.")
    pool: PoliciesSection = Field(
        default_factory=PoliciesSection.empty, description="The policies of each pool."
    )

    @property
    def is_sticky(self) -> bool:
        """Whether the pools may have affinity, which needs a secret."""
        policies = self.pool
        return policies.affinity is not None or "affinity" not in policies.model_fields_set

    def make(self, secrets: Sequence[str], folder: Path) -> PoolDiscovery:
        """What finds the pools."""

        def make_pool(name: str, discovery: Discovery) -> Pool:
            return self.pool.make_pool(
                name, secrets, folder, discovery=discovery, is_annotated=True
            )

        return PoolDiscovery(self.kubernetes.make(folder), make_pool, watch=self.watch)


class RouteSection(Section):
    """Requests that go to a pool."""

    pool: str = Field(description="The pool's name.")
    path: str = Field("/", description="Path prefix of whole segments; the longest wins.")
    host: str | None = Field(None, description="Host name, or *.example.com. null: any.")
    methods: list[str] | None = Field(None, description="Request methods. null: any.")
    headers: dict[str, str] | None = Field(None, description="Headers that must be there.")
    strip_prefix: bool = Field(False, description="Take the path off before forwarding.")

    def build(self, pool: Pool | None = None) -> Route:
        return Route(pool, **{key: value for key, value in self.given().items() if key != "pool"})


def _check_secret(value: str) -> str:
    try:
        SignedCookie(value)
    except ValueError as exc:
        raise ValueError(str(exc).removeprefix("secrets[0] ")) from None
    return value


def _check_network(value: str) -> str:
    try:
        TrustedProxies([value])
    except ValueError as exc:
        raise ValueError(str(exc).removeprefix("trusted_proxies: ")) from None
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class AdminSection(Section):
    """What operators and orchestrators ask of the gateway itself."""

    path: str = Field("/-/sticky", description="{path}/live and {path}/ready are there.")
    token: Annotated[None, not_yet("the operator page is")] = None

    def build(self) -> StatusEndpoints:
        return StatusEndpoints(self.path, lambda: None)


class Document(Section):
    """The whole file."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["pools"], "properties": {"pools": {"minProperties": 1}}},
                {"required": ["discovery"]},
            ]
        }
    )

    secrets: Annotated[
        list[Annotated[str, AfterValidator(_check_secret)]],
        BeforeValidator(
            _as_list,
            json_schema_input_type=str | Annotated[list[str], Field(min_length=1)],
        ),
    ] = Field(
        [], min_length=1, repr=False, description="Keys of the affinity cookies, oldest first."
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_check_network)]] = Field(
        [], description="Addresses, networks or 'unix', whose forwarded headers are believed."
    )
    forwarded: bool = Field(False, description="Write the Forwarded header (RFC 7239) too.")
    pools: dict[str, PoolSection] = Field({}, description="Pools by name.")
    discovery: PoolDiscoverySection | None = Field(
        None, description="Where more pools come from, with the routes to them."
    )
    routes: list[RouteSection] | None = Field(
        None, min_length=1, description="Default, with one pool: every path goes there."
    )
    admin: AdminSection | None = Field(
        None, description="What is asked of the gateway itself. null: nothing, routes get it all."
    )
