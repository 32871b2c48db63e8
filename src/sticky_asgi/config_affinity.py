"""The keys of a configuration file about affinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from . import AnnotatedCookie, SignedCookie
from .affinity.session_persistence import (
    DURATION_PATTERN,
    read_duration,
    read_session_persistence,
)
from .affinity.settings import CookieSettings
from .config_fields import Duration, Section, not_yet

_PLACEHOLDER = ("-" * 16,)


def _read_secure(value: object) -> object:
    words = {"true": True, "false": False, "auto": "auto"}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError("must be true, false or auto")
    return found


class CookieSection(Section):
    """The signed cookie: everything `SignedCookie` takes."""

    name: str | None = Field(None, description="Cookie name. Default: sticky_ and the pool's name.")
    path: str = Field("/", description="Path the browser sends it for.")
    domain: str | None = Field(None, description="null: this host only, not its subdomains.")
    secure: Annotated[
        Any, BeforeValidator(_read_secure, json_schema_input_type=bool | Literal["auto"])
    ] = Field("auto", description="auto: over https only, if the visitor came by https.")
    http_only: bool = Field(True, description="true: scripts cannot read it.")
    same_site: Literal["lax", "strict", "none"] | None = Field(
        "lax", description="null: the attribute is left out."
    )
    partitioned: bool = Field(False, description="true: one cookie per embedding site (CHIPS).")
    max_age: Duration | None = Field(
        None, description="How long the browser keeps it. null: until it is closed."
    )
    idle_timeout: Duration | None = Field(
        None, description="How long a session lives without a request. null: for ever."
    )
    absolute_timeout: Duration | None = Field(
        None, description="How long a session lives in all. null: for ever."
    )
    forward: bool = Field(False, description="true: backends get to see the cookie.")
    private: bool = Field(
        True, description="Mark cacheable responses that set the cookie as private."
    )

    def build(self, secrets: Sequence[str] = _PLACEHOLDER, **options: Any) -> SignedCookie:
        return SignedCookie(secrets, **self.given(), **options)


def _go_duration(value: object) -> object:
    """What `read_session_persistence` takes for a duration; it needs no key to say so."""
    try:
        read_duration("", value)
    except ValueError as exc:
        raise ValueError(str(exc).strip()) from None
    return value


GoDuration: TypeAlias = Annotated[
    str,
    BeforeValidator(_go_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]


def _check_name(value: str | None) -> str | None:
    try:
        CookieSettings(name=value)
    except ValueError as exc:
        raise ValueError(str(exc).removeprefix("name ")) from None
    return value


class CookieConfigSection(Section):
    """The cookie, in the words of older versions of Gateway API."""

    lifetimeType: Literal["Session", "Permanent"] | None = Field(
        None, description="Permanent: kept when the browser is closed; needs absoluteTimeout."
    )


class SessionCookieSection(CookieConfigSection):
    """The cookie, in the words of Gateway API."""

    name: Annotated[str | None, AfterValidator(_check_name)] = Field(
        None, description="Cookie name. Default: sticky_ and the pool's name."
    )
    path: str | None = Field(None, description="Path the browser sends it for. Default: /.")

    def build(self) -> CookieSettings:
        return CookieSettings(path=self.path)


class SessionPersistenceSection(Section):
    """`sessionPersistence` of Gateway API, line by line."""

    type: Literal["Cookie", "Header"] | None = Field(None, description="Cookie.")
    sessionName: Annotated[str | None, AfterValidator(_check_name)] = Field(
        None, description="The older word for cookie.name."
    )
    absoluteTimeout: GoDuration | None = Field(
        None, description="How long a session lives in all. null: for ever."
    )
    idleTimeout: GoDuration | None = Field(
        None, description="How long a session lives without a request. null: for ever."
    )
    cookie: SessionCookieSection | None = Field(None, description="Name, path and lifetime.")
    cookieConfig: CookieConfigSection | None = Field(None, description="The older word for cookie.")
    header: Annotated[None, not_yet("affinity by header is")] = None

    def build(self) -> CookieSettings:
        return read_session_persistence(self.model_dump(exclude_none=True))


class AffinitySection(Section):
    """How a visitor finds back to a backend."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["cookie"]},
                {"required": ["session_persistence"]},
                {"required": ["annotations"]},
            ],
        }
    )

    cookie: CookieSection = Field(
        default_factory=CookieSection.empty, description="A signed cookie; {} takes the defaults."
    )
    session_persistence: SessionPersistenceSection = Field(
        default_factory=SessionPersistenceSection.empty,
        description="The same in the words of Gateway API.",
    )
    annotations: CookieSection = Field(
        default_factory=CookieSection.empty,
        description="As the source of the backends says; what is set here holds all the same.",
    )
    on_lost: Literal["rebalance", "reject"] = Field(
        "rebalance", description="A visitor whose backend is gone: to another one, or 503."
    )
    announce: bool = Field(
        False, description="Tell backends the outcome in the request header Sticky-Session."
    )
    consistent_hash: Annotated[None, not_yet("affinity by hash is")] = None
    header: Annotated[None, not_yet("affinity by header is")] = None
    learned: Annotated[None, not_yet("learned affinity is")] = None

    def build(self) -> SignedCookie | AnnotatedCookie:
        return self.make(_PLACEHOLDER)

    def make(self, secrets: Sequence[str]) -> SignedCookie | AnnotatedCookie:
        """The affinity under the file's secrets."""
        kinds = ("cookie", "session_persistence", "annotations")
        given = [kind for kind in kinds if kind in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("takes either cookie, session_persistence or annotations")
        options: dict[str, Any] = {"on_lost": self.on_lost, "announce": self.announce}
        match given[0]:
            case "cookie":
                return self.cookie.build(secrets, **options)
            case "session_persistence":
                settings = self.session_persistence.build().given()
                return SignedCookie(secrets, **settings, **options)
            case _:
                if "on_lost" not in self.model_fields_set:
                    del options["on_lost"]
                return AnnotatedCookie(secrets, **self.annotations.given(), **options)


def read_affinity(value: object) -> object:
    """`annotations` says as much as `{annotations: {}}`."""
    if not isinstance(value, str):
        return value
    if value != "annotations":
        raise ValueError(f"must be annotations, or a mapping, got {value!r}")
    return {"annotations": {}}
