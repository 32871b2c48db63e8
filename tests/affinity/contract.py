"""What every `Affinity` owes its pool, whatever it remembers and wherever it keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sticky_asgi.affinity import Affinity, AffinityStatus, Resolution
from sticky_asgi.backend import Backend
from sticky_asgi.request import RawHeader, RawHeaders, RequestInfo

NOW = 1_700_000_000.0
FOUND = {
    AffinityStatus.NEW,
    AffinityStatus.KEPT,
    AffinityStatus.LOST,
    AffinityStatus.EXPIRED,
    AffinityStatus.INVALID,
    AffinityStatus.BYPASSED,
}
JUNK = (b"", b"=", b";", b"x", b"\xff\x00=\xff", b'"', b"a=b; ; =; c", b"." * 9000, b"=.=.=.=")


class View:
    """A pool's outside: name, version and backends."""

    def __init__(self, name: str, ids: Iterable[str]) -> None:
        self.name = name
        self.version = 0
        self.backends: tuple[Backend, ...] = ()
        self.replace(ids)

    def replace(self, ids: Iterable[str]) -> None:
        self.backends = tuple(Backend(f"http://{id}", id=id) for id in ids)
        self.version += 1

    def __contains__(self, backend_id: object) -> bool:
        return any(backend.id == backend_id for backend in self.backends)

    def __getitem__(self, backend_id: str) -> Backend:
        return next(backend for backend in self.backends if backend.id == backend_id)


class Visitor:
    """A browser reduced to what affinity needs: it returns the cookies it was given."""

    def __init__(self) -> None:
        self.jar: dict[bytes, bytes] = {}

    def request(self) -> RequestInfo:
        headers: RawHeaders = [(b"host", b"shop.example"), (b"accept", b"*/*")]
        if self.jar:
            pairs = [name + b"=" + value for name, value in self.jar.items()]
            headers.append((b"cookie", b"; ".join(pairs)))
        return RequestInfo(headers=headers, host=b"shop.example", client="192.0.2.7")

    def obey(self, headers: Sequence[RawHeader]) -> None:
        for name, value in headers:
            if name == b"set-cookie":
                key, _, content = value.partition(b";")[0].partition(b"=")
                self.jar[key] = content


def check_affinity(make: Callable[[], Affinity], *, now: float = NOW) -> None:
    """Run the contract against fresh objects of `make`, whose clock, if any, tells `now`."""
    check_new_visitor(make(), now)
    check_return(make(), now)
    check_change_of_backend(make(), now)
    check_lost_backend(make(), now)
    check_bypass(make(), now)
    check_junk(make())
    check_strip(make(), now)


def resolve(affinity: Affinity, visitor: Visitor, pool: View) -> Resolution:
    request = visitor.request()
    before = list(request.headers)
    resolution = affinity.resolve(request, pool)
    assert request.headers == before, "resolve must not change the request"
    check_resolution(resolution, pool)
    return resolution


def check_resolution(resolution: Resolution, pool: View) -> None:
    assert resolution.status in FOUND, "only the pool says that a visitor moved"
    assert (resolution.backend_id is not None) == (resolution.status is AffinityStatus.KEPT)
    assert resolution.backend_id is None or resolution.backend_id in pool


def issue(
    affinity: Affinity, resolution: Resolution, backend: Backend, now: float
) -> Sequence[RawHeader]:
    headers = affinity.issue(resolution, backend, now)
    for name, value in headers:
        assert isinstance(name, bytes)
        assert name == name.lower()
        assert isinstance(value, bytes)
        assert not set(value) & set(b"\r\n\0"), "header injection"
    return headers


def check_new_visitor(affinity: Affinity, now: float) -> None:
    pool = View("contract", ["a:80", "b:80"])
    resolution = resolve(affinity, Visitor(), pool)
    assert resolution.status is not AffinityStatus.LOST
    issue(affinity, resolution, pool["a:80"], now)


def check_return(affinity: Affinity, now: float) -> None:
    """Who was told where to go is sent there again, and told no more."""
    pool = View("contract", ["a:80", "b:80", "c:80"])
    for backend in pool.backends:
        visitor = Visitor()
        visitor.obey(issue(affinity, resolve(affinity, visitor, pool), backend, now))
        kept = resolve(affinity, visitor, pool)
        if kept.status is AffinityStatus.KEPT and visitor.jar:
            assert kept.backend_id == backend.id
            assert list(issue(affinity, kept, backend, now)) == []


def check_change_of_backend(affinity: Affinity, now: float) -> None:
    """The visitor follows the backend that answered, not the one that was asked first."""
    pool = View("contract", ["a:80", "b:80"])
    visitor = Visitor()
    visitor.obey(issue(affinity, resolve(affinity, visitor, pool), pool["a:80"], now))
    resolution = resolve(affinity, visitor, pool)
    if resolution.status is AffinityStatus.KEPT and visitor.jar:
        resolution.status = AffinityStatus.MOVED
        visitor.obey(issue(affinity, resolution, pool["b:80"], now))
        assert resolve(affinity, visitor, pool).backend_id == "b:80"


def check_lost_backend(affinity: Affinity, now: float) -> None:
    pool = View("contract", ["a:80", "b:80"])
    visitor = Visitor()
    visitor.obey(issue(affinity, resolve(affinity, visitor, pool), pool["a:80"], now))
    pool.replace(["b:80", "c:80"])
    gone = resolve(affinity, visitor, pool)
    if visitor.jar:
        assert gone.status is AffinityStatus.LOST
    visitor.obey(issue(affinity, gone, pool["b:80"], now))
    resolve(affinity, visitor, pool)


def check_bypass(affinity: Affinity, now: float) -> None:
    pool = View("contract", ["a:80"])
    assert list(affinity.issue(Resolution(AffinityStatus.BYPASSED), pool["a:80"], now)) == []
    resolution = resolve(affinity, Visitor(), pool)
    resolution.status = AffinityStatus.BYPASSED
    assert list(affinity.issue(resolution, pool["a:80"], now)) == []


def check_junk(affinity: Affinity) -> None:
    """Nothing a client sends makes it raise."""
    pool = View("contract", ["a:80"])
    name = getattr(affinity, "cookie_name", lambda pool: "x")(pool).encode()
    for junk in JUNK:
        for value in (junk, name + b"=" + junk, name + junk):
            headers = [(b"cookie", value), (b"x-junk", junk), (b"", junk)]
            check_resolution(affinity.resolve(RequestInfo(headers=headers), pool), pool)


def check_strip(affinity: Affinity, now: float) -> None:
    """Optional; what it leaves, it leaves as it was."""
    strip = getattr(affinity, "strip", None)
    if strip is None:
        return
    pool = View("contract", ["a:80"])
    plain: RawHeaders = [(b"host", b"h"), (b"cookie", b"other=1;  odd ;x"), (b"x-y", b"\xff")]
    assert strip(plain, pool) is plain
    visitor = Visitor()
    visitor.obey(issue(affinity, resolve(affinity, visitor, pool), pool["a:80"], now))
    sent = plain + visitor.request().headers[2:]
    before = list(sent)
    left = strip(sent, pool)
    assert sent == before, "the request's own list must not change"
    assert left[:3] == plain
