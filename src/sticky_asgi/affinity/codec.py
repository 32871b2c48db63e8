"""The bytes of an affinity cookie: how it is written, signed, read and verified.

A value reads `token.first-issued.stamp.signature`. The token is a keyed hash of pool and backend
id; the rest is what `itsdangerous.TimestampSigner` makes of it. What a cookie means for a visitor,
and when one is due, is decided in `cookie.py`.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from itsdangerous import BadData, BadSignature, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode, want_bytes

from .base import PoolView

Clock: TypeAlias = Callable[[], float]

#: A cookie has about 75 bytes; browsers cap name and value together at this.
MAX_VALUE = 4096
#: Cookies of the name that are looked at in one request, lest a forger buys hashing wholesale.
MAX_COOKIES = 16
#: Verified values, and headers that have been read, that are remembered per pool.
CACHE_SIZE = 4096
#: A Cookie header longer than this is read each time.
MAX_CACHED = 1024


class Claim(NamedTuple):
    """What a genuine cookie says. Whether it is still in time is asked at every request."""

    token: bytes
    issued: int
    stamped: int
    signer: Signer


class Codec:
    """Reads and writes the cookies of one pool."""

    __slots__ = ("_claims", "_split", "name", "newest", "read", "signers")

    def __init__(
        self,
        secrets: Sequence[bytes],
        formats: Sequence[str],
        pool_name: str,
        cookie_name: str,
        clock: Clock,
    ) -> None:
        self.name = cookie_name.encode("ascii")
        tables = [Tokens(secret, pool_name) for secret in secrets]
        self.signers = tuple(
            Signer(secrets[index], index, version, tables[index], pool_name, clock)
            for version in reversed(formats)
            for index in reversed(range(len(secrets)))
        )
        self.newest = self.signers[0]
        # Exceptions are not cached, so forgeries cannot crowd out the genuine.
        verify = functools.lru_cache(maxsize=CACHE_SIZE)(functools.partial(_verify, self.signers))
        #: What a cookie's value claims, or None if it is not genuine.
        self.read = functools.partial(_read, verify)
        # A visitor sends the same header with each request.
        self._split = functools.lru_cache(maxsize=CACHE_SIZE)(
            functools.partial(_split, self.name + b"=")
        )
        self._claims = functools.lru_cache(maxsize=CACHE_SIZE)(
            functools.partial(_claims, self._split, self.read)
        )

    def split(self, header: bytes) -> tuple[tuple[bytes, ...], bytes]:
        """The values that a Cookie header holds for this cookie, and the header without them."""
        if len(header) > MAX_CACHED:
            return self._split.__wrapped__(header)
        return self._split(header)

    def claims(self, header: bytes) -> tuple[Claim | None, ...]:
        """What the cookies claim that a Cookie header holds, of the first `MAX_COOKIES`."""
        if len(header) > MAX_CACHED:
            return _claims(self._split.__wrapped__, self.read, header)
        return self._claims(header)


def _split(prefix: bytes, header: bytes) -> tuple[tuple[bytes, ...], bytes]:
    values: list[bytes] = []
    others: list[bytes] = []
    for pair in header.split(b";"):
        bare = pair.strip(b" \t")
        if bare.startswith(prefix):
            values.append(bare[len(prefix) :])
        else:
            others.append(pair)
    if not values:
        return (), header
    rest = b";".join(others).lstrip(b" \t")
    return tuple(values), rest if rest.strip(b"; \t") else b""


def _claims(
    split: Callable[[bytes], tuple[tuple[bytes, ...], bytes]],
    read: Callable[[bytes], Claim | None],
    header: bytes,
) -> tuple[Claim | None, ...]:
    return tuple(map(read, split(header)[0][:MAX_COOKIES]))


def _read(verify: Callable[[bytes], Claim], value: bytes) -> Claim | None:
    if len(value) > MAX_VALUE:
        return None
    try:
        return verify(value)
    except BadSignature:
        return None


def _verify(signers: Sequence[Signer], value: bytes) -> Claim:
    for signer in signers:
        claim = signer.read(value)
        if claim is not None:
            return claim
    raise BadSignature("no secret and format fit the cookie")


class Signer(TimestampSigner):
    """Signs under one secret in one format version, for one pool."""

    def __init__(
        self,
        secret: bytes,
        secret_index: int,
        version: str,
        tokens: Tokens,
        pool_name: str,
        clock: Clock,
    ) -> None:
        salt = f"sticky_asgi.affinity.{version}:{pool_name}"
        super().__init__(secret, salt, key_derivation="hmac", digest_method=hashlib.sha256)
        self._key = super().derive_key()
        self.secret_index = secret_index
        self.format = version
        self.tokens = tokens
        self.clock = clock

    def write(self, backend_id: str, issued: int | None) -> bytes:
        """A cookie value; `issued` None begins a session now."""
        if issued is None:
            issued = self.get_timestamp()
        stamp = issued.to_bytes(8, "big").lstrip(b"\0")
        return self.sign(self.tokens.make(backend_id) + b"." + base64_encode(stamp))

    def read(self, value: bytes) -> Claim | None:
        try:
            payload, stamped = self.unsign(value, return_timestamp=True)
            token, _, issued = payload.partition(b".")
            began = int.from_bytes(base64_decode(issued), "big")
        except (BadData, ValueError, OverflowError, OSError):
            # The last three: a stamp that was signed all right, but is no date (a broken clock).
            return None
        return Claim(token, began, int(stamped.timestamp()), self)

    def get_timestamp(self) -> int:
        return int(self.clock())

    def derive_key(self, secret_key: str | bytes | None = None) -> bytes:
        return self._key

    def verify_signature(self, value: str | bytes, sig: str | bytes) -> bool:
        # Encoded signatures are compared. Decoding first would let pass what the base64 decoder
        # overlooks: spare bits of the last character, and characters outside the alphabet.
        return hmac.compare_digest(want_bytes(sig), self.get_signature(value))


class Tokens:
    """The opaque names of a pool's backends under one secret."""

    __slots__ = ("_ids", "_key", "_pool", "_tokens", "_version")

    def __init__(self, secret: bytes, pool_name: str) -> None:
        self._key = hmac.digest(secret, b"sticky_asgi.affinity.token", "sha256")
        name = pool_name.encode()
        self._pool = len(name).to_bytes(4, "big") + name
        self._tokens: dict[str, bytes] = {}
        self._ids: dict[bytes, str] = {}
        self._version: int | None = None

    def make(self, backend_id: str) -> bytes:
        return self._tokens.get(backend_id) or self._hash(backend_id)

    def find(self, token: bytes, pool: PoolView) -> str | None:
        version = pool.version
        if version != self._version:
            self._follow(pool)
            self._version = version
        return self._ids.get(token)

    def _follow(self, pool: PoolView) -> None:
        # Of thousands of backends few come and go. Another thread may look at the tables meanwhile.
        tokens, names = self._tokens.copy(), self._ids.copy()
        ids = {backend.id for backend in pool.backends}
        for id in tokens.keys() - ids:
            del names[tokens.pop(id)]
        for id in ids - tokens.keys():
            token = tokens[id] = self._hash(id)
            names[token] = id
        self._tokens, self._ids = tokens, names

    def _hash(self, backend_id: str) -> bytes:
        digest = hmac.digest(self._key, self._pool + backend_id.encode(), "sha256")
        return base64_encode(digest[:12])
