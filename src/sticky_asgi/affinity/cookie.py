"""The signed affinity cookie: the visitor carries the answer, the gateway keeps no state.

A cookie reads `token.first-issued.stamp.signature`. The token is a keyed hash of pool and backend
id, so that a visitor learns neither addresses nor how many backends there are; the rest is what
`itsdangerous.TimestampSigner` makes of it.

This file decides which backend a cookie names and when it must be written again. It does not
decide whether that backend can be used, and does no I/O. All it remembers can be computed again
from the secrets, the pool's name and the backends' ids: every worker gives the same answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias
from weakref import WeakKeyDictionary

from ..alike import Alike
from ..backend import Backend
from ..request import RawHeader, RawHeaders, RequestInfo
from .attributes import SameSite, check_attributes, derive_name, read_secure, written
from .base import AffinityStatus, OnLost, PoolView, Resolution
from .codec import MAX_COOKIES, Claim, Clock, Codec

MIN_SECRET = 16
#: How far ahead, in seconds, the clock of another gateway may be.
MAX_AHEAD = 86400

# Several cookies, none of them good: the status that says most is reported.
_TELLING = (AffinityStatus.INVALID, AffinityStatus.EXPIRED, AffinityStatus.LOST)


class SignedCookie(Alike):
    """Affinity by a signed cookie.

    One object may serve several pools; each has its own keys and, by default, its own cookie
    name. Pools are held weakly and by identity. Objects with the same options are equal. A quoted
    cookie value is not accepted, and of one name the first 16 cookies are looked at.

    Args:
        secrets: One secret or several, oldest → newest, each of at least 16 bytes. The newest
            signs, all verify, and a cookie under an older one is rewritten: rotation logs nobody
            out. Before a new secret signs, every gateway must know it; with several of them, put
            it first everywhere, then last everywhere.
        name: Cookie name. Default None: `sticky_` and the pool's name. Pools that share a name
            and a path overwrite each other's cookies.
        path: Default `/`, so that pages and their WebSockets share the session.
        domain: Default None: this host only, not its subdomains.
        secure: Whether the browser sends it over https only. Default `"auto"`: yes for visitors
            who came by https, and always where browsers insist (`same_site="none"`,
            `partitioned`, names beginning with `__Host-` or `__Secure-`).
        http_only: Default True: scripts cannot read it.
        same_site: `"lax"` (default), `"strict"` (loses the session on the way back from another
            site, as after a login there), `"none"` (works in foreign iframes) or None (attribute
            left out).
        partitioned: Default False. True keeps one cookie per embedding site (CHIPS).
        max_age: Whole seconds the browser keeps it, counted from the last Set-Cookie. Default
            None: until the browser is closed. Only `idle_timeout` renews it on the way.
        idle_timeout: Seconds without a request after which a session expires. Default None:
            never. The cookie is written again when a tenth of it has passed.
        absolute_timeout: Seconds since the session's first cookie after which it expires.
            Default None: never.
        on_lost: What happens to a visitor whose backend is gone or cannot take the request:
            `"rebalance"` (default) to another backend, `"reject"` with 503, or a callable that
            gets the status and the request and returns one of these.
        forward: Whether the backend gets to see the cookie. Default False.
        announce: Whether the backend is told the status, as request header `Sticky-Session`.
            Default False.
        private: Whether a cacheable response that sets the cookie and has no Cache-Control is
            marked private. Default True; without it a shared cache may hand one visitor's
            session to all.
        clock: Wall clock, in seconds since the epoch. The `now` passed to `issue` must tell the
            same time.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A value that cannot work, or that browsers would refuse.

    The semantics are those of HAProxy's `cookie ... insert indirect` with `maxidle`, `maxlife`.
    """

    #: Versions of the cookie's format, oldest → newest. The newest is written, all are honoured.
    formats: ClassVar[tuple[str, ...]] = ("1",)

    def __init__(
        self,
        secrets: str | bytes | Sequence[str | bytes],
        *,
        name: str | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool | Literal["auto"] = "auto",
        http_only: bool = True,
        same_site: SameSite | None = "lax",
        partitioned: bool = False,
        max_age: float | None = None,
        idle_timeout: float | None = None,
        absolute_timeout: float | None = None,
        on_lost: OnLost = "rebalance",
        forward: bool = False,
        announce: bool = False,
        private: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self._secrets = _read_secrets(secrets)
        _check_flags(http_only=http_only, partitioned=partitioned, forward=forward,
                     announce=announce, private=private)  # fmt: skip
        check_attributes(name, path, domain, same_site)
        if not (callable(on_lost) or on_lost in ("rebalance", "reject")):
            raise ValueError(f"on_lost must be 'rebalance', 'reject' or callable, got {on_lost!r}")
        if not callable(clock):
            raise TypeError(f"clock must be callable, got {clock!r}")
        self.name = name
        self.idle_timeout = _seconds("idle_timeout", idle_timeout)
        self.absolute_timeout = _seconds("absolute_timeout", absolute_timeout)
        self.on_lost: OnLost = on_lost
        self.forward, self.announce, self.private = forward, announce, private
        self.clock = clock
        self._secure = read_secure(secure, name, path, domain, same_site, partitioned)
        front = written(path, domain, _whole_seconds("max_age", max_age), same_site)
        back = (b"; HttpOnly" if http_only else b"") + (b"; Partitioned" if partitioned else b"")
        self._attributes = {False: front + back, True: front + b"; Secure" + back}
        # Pools of one name may differ in their backends, so a codec belongs to one pool object.
        self._codecs: WeakKeyDictionary[PoolView, Codec] = WeakKeyDictionary()

    def resolve(self, request: RequestInfo, pool: PoolView) -> Resolution:
        """Find the backend that a request's cookies name.

        The first genuine, timely cookie of a backend in the pool wins. Without one, the status
        is `LOST`, `EXPIRED` or `INVALID`, whichever the best of the cookies comes to, or `NEW`.
        """
        codec = self._codec(pool)
        secure = request.is_secure if self._secure is None else self._secure
        claims: tuple[Claim | None, ...] = ()
        for field in request.cookie_fields():
            claims += codec.claims(field)
            if len(claims) >= MAX_COOKIES:
                break
        if not claims:
            return CookieResolution(AffinityStatus.NEW, None, codec, None, secure)
        now = self.clock()
        telling = 0
        for claim in claims[:MAX_COOKIES]:
            status = self._judge(claim, now)
            if claim is not None and status is AffinityStatus.KEPT:
                backend_id = claim.signer.tokens.find(claim.token, pool)
                if backend_id is not None:
                    return CookieResolution(status, backend_id, codec, claim, secure)
                status = AffinityStatus.LOST
            telling = max(telling, _TELLING.index(status))
        return CookieResolution(_TELLING[telling], None, codec, None, secure)

    def issue(self, resolution: Resolution, backend: Backend, now: float) -> Sequence[RawHeader]:
        """The Set-Cookie header that binds the visitor to a backend, where one is due.

        A visitor who was kept gets one for a new secret or format, or when a tenth of the idle
        timeout has passed; the session's first-issued time stays. Everyone else gets one that
        begins a new session.

        Args:
            resolution: As `resolve` returned it, its status as the pool left it.
            backend: The backend that answered in the end.
            now: Wall-clock time in seconds since the epoch. It tells whether the cookie is due;
                what is written into it is read from `clock`, as what is checked later.

        Raises:
            TypeError: A resolution of another affinity.
        """
        status = resolution.status
        if status is AffinityStatus.BYPASSED:
            return []
        if not isinstance(resolution, CookieResolution):
            raise TypeError(f"a SignedCookie cannot issue for {resolution!r}")
        codec, claim = resolution.codec, resolution.claim
        issued = None
        if (
            status is AffinityStatus.KEPT
            and claim is not None
            and resolution.backend_id == backend.id
        ):
            is_due = self.idle_timeout and now - claim.stamped >= self.idle_timeout / 10
            if claim.signer is codec.newest and not is_due:
                return []
            issued = claim.issued
        value = codec.newest.write(backend.id, issued)
        cookie = codec.name + b"=" + value + self._attributes[resolution.secure]
        return [(b"set-cookie", cookie)]

    def strip(self, headers: RawHeaders, pool: PoolView) -> RawHeaders:
        """Remove the affinity cookie; the same list object when there is nothing to remove."""
        if self.forward:
            return headers
        codec = self._codec(pool)
        stripped = headers
        for field in headers:
            if field[0] == b"cookie":
                values, rest = codec.split(field[1])
                if values:
                    stripped = headers.copy() if stripped is headers else stripped
                    at = stripped.index(field)
                    stripped[at : at + 1] = [(b"cookie", rest)] if rest else []
        return stripped

    def inspect(self, value: str, pool: PoolView) -> CookieReport:
        """Say what a cookie value means, for operators."""
        codec = self._codec(pool)
        claim = codec.read(value.strip().encode("utf-8", "surrogatepass"))
        if claim is None:
            return CookieReport(pool=pool.name, status="invalid")
        signer = claim.signer
        backend_id = signer.tokens.find(claim.token, pool)
        verdict = self._judge(claim, self.clock())
        status: ReportStatus
        if verdict is AffinityStatus.KEPT:
            status = "lost" if backend_id is None else "valid"
        else:
            status = "expired" if verdict is AffinityStatus.EXPIRED else "invalid"
        return CookieReport(
            pool=pool.name,
            status=status,
            backend_id=backend_id,
            first_issued=signer.timestamp_to_datetime(claim.issued),
            last_stamped=signer.timestamp_to_datetime(claim.stamped),
            secret=signer.secret_index,
            format=signer.format,
        )

    def prepare(self, pool: PoolView) -> None:
        """Do what the first visitor who returns would wait for: 20 ms with 5,000 backends."""
        self._codec(pool).prepare(pool)

    def cookie_name(self, pool: PoolView) -> str:
        """The name of the cookie for a pool."""
        return derive_name(pool.name) if self.name is None else self.name

    def _codec(self, pool: PoolView) -> Codec:
        codec = self._codecs.get(pool)
        if codec is None:
            name = self.cookie_name(pool)
            codec = Codec(self._secrets, self.formats, pool.name, name, self.clock)
            self._codecs[pool] = codec
        return codec

    def _judge(self, claim: Claim | None, now: float) -> AffinityStatus:
        latest = now + MAX_AHEAD
        if claim is None or claim.issued > latest or claim.stamped > latest:
            return AffinityStatus.INVALID
        if self.idle_timeout is not None and now - claim.stamped > self.idle_timeout:
            return AffinityStatus.EXPIRED
        if self.absolute_timeout is not None and now - claim.issued > self.absolute_timeout:
            return AffinityStatus.EXPIRED
        return AffinityStatus.KEPT

    def _options(self) -> tuple[object, ...]:
        # All but what is remembered.
        return tuple(value for name, value in vars(self).items() if name != "_codecs")

    def __repr__(self) -> str:
        count = len(self._secrets)
        return f"<SignedCookie name={self.name!r} {count} secret{'s' * (count > 1)}>"


class CookieResolution(Resolution):
    """What the cookies of one request came to, and what issuing the next one needs.

    Args:
        status: See `Resolution`.
        backend_id: See `Resolution`.
        codec: Reads and writes the cookies of the pool that was asked for.
        claim: What the cookie says that `backend_id` was read from, or None.
        secure: Whether a cookie for this request is to be marked Secure.
    """

    __slots__ = ("claim", "codec", "secure")

    def __init__(
        self,
        status: AffinityStatus,
        backend_id: str | None,
        codec: Codec,
        claim: Claim | None,
        secure: bool,
    ) -> None:
        self.status = status
        self.backend_id = backend_id
        self.codec = codec
        self.claim = claim
        self.secure = secure


ReportStatus: TypeAlias = Literal["valid", "expired", "lost", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieReport:
    """What `SignedCookie.inspect` found out about one cookie.

    Args:
        pool: Name of the pool it was checked for.
        status: `invalid` for a forged or damaged one, another pool's, or one from the future.
        backend_id: The backend it names; None when the pool holds no such backend.
        first_issued: When the session began.
        last_stamped: When the cookie was written.
        secret: Position of the secret that signed it, 0 being the oldest.
        format: Its format version.
    """

    pool: str
    status: ReportStatus
    backend_id: str | None = None
    first_issued: datetime | None = None
    last_stamped: datetime | None = None
    secret: int | None = None
    format: str | None = None


def _read_secrets(secrets: str | bytes | Sequence[str | bytes]) -> tuple[bytes, ...]:
    # No message shows a secret, and none is raised from an error that holds one.
    if isinstance(secrets, str | bytes):
        secrets = (secrets,)
    if not isinstance(secrets, Sequence):
        kind = type(secrets).__name__
        raise TypeError(f"secrets must be str, bytes or a sequence of these, not {kind}")
    if not secrets:
        raise ValueError("secrets must hold at least one secret, got none")
    read = []
    for index, secret in enumerate(secrets):
        if not isinstance(secret, str | bytes):
            raise TypeError(f"secrets[{index}] must be str or bytes, not {type(secret).__name__}")
        raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
        if len(raw) < MIN_SECRET:
            raise ValueError(
                f"secrets[{index}] must have at least {MIN_SECRET} bytes, got {len(raw)}"
            )
        read.append(raw)
    return tuple(read)


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def _seconds(parameter: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{parameter} must be a number of seconds or None, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{parameter} must be a positive number of seconds, got {value!r}")
    return value


def _whole_seconds(parameter: str, value: float | None) -> int | None:
    seconds = _seconds(parameter, value)
    if seconds is not None and seconds != int(seconds):
        raise ValueError(f"{parameter} must be a whole number of seconds, got {value!r}")
    return None if seconds is None else int(seconds)
