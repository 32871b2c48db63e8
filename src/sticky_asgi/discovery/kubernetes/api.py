"""How the Kubernetes API server is reached: where it is, who we are, and what its errors mean.

Every failure leaves this file as a `DiscoveryError` that says what was asked of which object.
Nothing is tried again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import reprlib
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ...checks import check_type
from ...exceptions import DiscoveryError
from .garbage import uncollected

#: Where a pod finds the token, the authority and the namespace of its service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: Seconds: to connect, and for a whole answer that is no stream.
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 30.0

#: Seconds for which an answer may still begin that nobody wants any more.
FAREWELL = 0.3

#: The longest answer that is read, and what is read of an error.
MAX_ANSWER = 16 * 2**20
MAX_ERROR = 64 * 2**10

#: The longest pause, in seconds, that a server may ask for.
MAX_RETRY_AFTER = 300.0


class ApiError(DiscoveryError):
    """The API server answers, but not with what was asked for."""


class Expired(ApiError):
    """The version, or the page, is older than what the server remembers: 410 Gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """Where the API server is, and how we say who we are.

    Args:
        url: Its address, with a path where a proxy wants one. Default None: that of the cluster
            we run in, with the pod's service account.
        token_file: File with a bearer token; read for each request, since tokens are replaced.
            Default: that of the service account if `url` is None, else no token is sent.
        ca_file: PEM file with the authority that has signed the server's certificate. Default:
            that of the service account if `url` is None, else those of the system.
        client: A client of yours with a `base_url`, in place of all the others. It is used in
            whatever event loop the watch runs in, and is not closed.

    Raises:
        ValueError: A URL that is none, or a client beside one of the others.
        TypeError: An argument of another type.
    """

    url: str | None = None
    token_file: str | os.PathLike[str] | None = None
    ca_file: str | os.PathLike[str] | None = None
    client: httpx.AsyncClient | None = None

    def __post_init__(self) -> None:
        check_type("url", self.url, str, None)
        check_type("token_file", self.token_file, str, os.PathLike, None)
        check_type("ca_file", self.ca_file, str, os.PathLike, None)
        check_type("client", self.client, httpx.AsyncClient, None)
        if self.url is not None:
            _check_url(self.url)
        others = (self.url, self.token_file, self.ca_file)
        if self.client is not None and any(other is not None for other in others):
            raise ValueError("client stands in place of url, token_file and ca_file")

    @property
    def is_own_cluster(self) -> bool:
        """Whether it is the server of the cluster we run in."""
        return self.url is None and self.client is None

    def own_namespace(self) -> str:
        """The namespace we run in. Raises DiscoveryError outside of a cluster."""
        _own_url()  # Where there is no cluster, that is what is to be said, and not of a file.
        return _read(ACCOUNT / "namespace")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ApiClient]:
        """A client for the event loop that runs. Raises DiscoveryError if there can be none."""
        if self.client is not None:
            yield ApiClient(self.client, None)
            return
        url, token_file = self.url, self.token_file
        if url is None:
            url, token_file = _own_url(), token_file or ACCOUNT / "token"
        # The system's authorities are 30 milliseconds of reading.
        context = await asyncio.to_thread(self._context, url)
        transport = httpx.AsyncHTTPTransport(
            verify=context, trust_env=False, socket_options=_keep_alive()
        )
        async with httpx.AsyncClient(base_url=url, transport=transport, trust_env=False) as client:
            yield ApiClient(client, token_file)

    def _context(self, url: str) -> ssl.SSLContext:
        # Not ssl.create_default_context: from Python 3.13 on, that one refuses the authorities
        # of older clusters, which have no Authority Key Identifier (RFC 5280 §4.2.1.1).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca_file = self.ca_file
        if ca_file is None and self.url is None:
            ca_file = ACCOUNT / "ca.crt"
        if ca_file is not None:
            try:
                context.load_verify_locations(ca_file)
            except OSError as exc:  # ssl.SSLError is one
                raise DiscoveryError(f"kubernetes: cannot load {ca_file}: {exc}") from exc
        elif urlsplit(url).scheme == "https":
            context.load_default_certs()
        return context


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    # What stands before an @ may be a password: such a URL is not shown.
    if "@" in url:
        raise ValueError("url must have no user and password")
    if not good or parts.query or parts.fragment or not (url.isascii() and url.isprintable()):
        raise ValueError(f"url must be such as 'http://127.0.0.1:8001', got {url!r}")


def _own_url() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise DiscoveryError(
            "kubernetes: KUBERNETES_SERVICE_HOST is not set, so this is no pod of a cluster; "
            "elsewhere give a url, such as that of `kubectl proxy`, and the namespace"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise DiscoveryError(f"kubernetes: cannot read {os.fspath(path)}: {exc}") from exc


def _keep_alive() -> list[tuple[int, int, int]]:
    """Have the kernel notice within a minute or so that a silent server is gone."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class ApiClient:
    """Asks the API server, in one event loop.

    Args:
        client: The client, with a `base_url`.
        token_file: File with the bearer token, if one is to be sent.
    """

    def __init__(
        self, client: httpx.AsyncClient, token_file: str | os.PathLike[str] | None
    ) -> None:
        self._client = client
        self._token_file = token_file

    async def get(self, path: str, params: Mapping[str, str], *, what: str) -> dict[str, Any]:
        """Ask for an object. `what` is said of it in errors.

        Raises:
            Expired: It was, but is no more (410).
            DiscoveryError: It was not to be had.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                async with self.stream(path, params, what=what, quiet=ANSWER_TIMEOUT) as answer:
                    body = await answer.read_all()
        except TimeoutError:
            raise DiscoveryError(f"{what}: no answer within {ANSWER_TIMEOUT:g} seconds") from None
        with uncollected():
            found = decode(body, what)
        if not isinstance(found, dict):
            raise ApiError(f"{what}: the answer is no object: {glimpse(found)}")
        return found

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, what: str, quiet: float
    ) -> AsyncIterator[Answer]:
        """Ask for an answer that is read piece by piece.

        Args:
            path: Path below the server's URL.
            params: The query.
            what: What is asked for, in words for errors.
            quiet: Seconds without a byte after which it counts as lost.

        Raises:
            Expired: It was, but is no more (410).
            DiscoveryError: It was not to be had.
        """
        timeout = httpx.Timeout(quiet, connect=CONNECT_TIMEOUT)
        async with contextlib.AsyncExitStack() as stack:
            with _translated(what):
                # The beginning of an answer is there at once, even that of a quiet stream.
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    request = self._client.build_request(
                        "GET", path, params=dict(params), headers=self._headers(), timeout=timeout
                    )
                    sending = self._client.send(request, stream=True, follow_redirects=False)
                    response = await _begun(sending)
                    stack.push_async_callback(response.aclose)
                    if response.status_code != 200:
                        raise await _refusal(response, what, self._token_file)
            answer = Answer(response, what)
            stack.push_async_callback(answer.aclose)
            yield answer

    def _headers(self) -> dict[str, str]:
        # Unpacking would be a way to have us fill our memory.
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "sticky-asgi",
        }
        if self._token_file is not None:
            token = _read(self._token_file)
            if not token or not token.isascii() or not token.isprintable():
                raise DiscoveryError(f"kubernetes: no token in {os.fspath(self._token_file)}")
            headers["authorization"] = f"Bearer {token}"
        return headers


async def _begun(sending: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
    """The answer, as soon as it begins.

    Where nobody wants it any more, it may begin for a moment longer, and is closed: anyio may lose
    a connection that is cancelled just as it is made, or lose that it was cancelled.
    """
    task = asyncio.create_task(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        _, late = await asyncio.wait([task], timeout=FAREWELL)
        if late:
            task.cancel()
            await asyncio.wait(late)
        if not task.cancelled() and task.exception() is None:
            await task.result().aclose()
        raise


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise DiscoveryError(f"{what}: no answer within {ANSWER_TIMEOUT:g} seconds") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        url = exc.request.url
        reason = shorten(str(exc)) or type(exc).__name__
        raise DiscoveryError(
            f"{what}: no connection to {url.scheme}://{url.netloc.decode('ascii')}: {reason}"
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as exc:
        raise DiscoveryError(f"{what}: {shorten(str(exc)) or type(exc).__name__}") from exc


class Answer:
    """The body of an answer while it comes in."""

    def __init__(self, response: httpx.Response, what: str) -> None:
        self._pieces = response.aiter_bytes()
        self._what = what

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises DiscoveryError where it breaks off."""
        with _translated(self._what):
            async for piece in self._pieces:
                return piece
        return b""

    async def read_all(self) -> bytes:
        """The whole. Raises DiscoveryError if it breaks off or never ends."""
        body = bytearray()
        while piece := await self.read():
            body += piece
            if len(body) > MAX_ANSWER:
                raise ApiError(f"{self._what}: the answer is longer than {MAX_ANSWER} bytes")
        return bytes(body)

    async def aclose(self) -> None:
        """Read no more."""
        await self._pieces.aclose()  # type: ignore[attr-defined]


def decode(text: bytes, what: str) -> Any:
    """Read JSON. Raises ApiError where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        shown = shorten(text[:80].decode("utf-8", "replace"))
        raise ApiError(f"{what}: the answer is no JSON: {exc}, in {shown!r}") from None


async def _refusal(
    response: httpx.Response, what: str, token_file: str | os.PathLike[str] | None
) -> ApiError:
    """The error that an answer with another status than 200 stands for."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ERROR:
            break
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        status = {}
    code = response.status_code
    if code == 401 and token_file is not None:
        what = f"{what}, with the token in {os.fspath(token_file)}"
    return refusal(
        {"reason": response.reason_phrase, **status, "code": code},
        what,
        retry_after=response.headers.get("retry-after"),
    )


def refusal(status: Mapping[str, Any], what: str, *, retry_after: object = None) -> ApiError:
    """The error that a `Status` of the API server stands for.

    Args:
        status: The `Status`, as it came: nothing of it is certain.
        what: What was asked for.
        retry_after: Seconds for which the server asks to be left alone, by the header.
    """
    code, reason = status.get("code"), status.get("reason")
    parts = [what, shorten(f"{code} {reason or ''}".strip())]
    message = status.get("message")
    if isinstance(message, str) and message:
        parts.append(shorten(message))
    details = status.get("details")
    if retry_after is None and isinstance(details, dict):
        retry_after = details.get("retryAfterSeconds")
    made = Expired if code == 410 or reason in ("Expired", "Gone") else ApiError
    return made(": ".join(parts), retry_after=_seconds(retry_after))


def _seconds(retry_after: object) -> float | None:
    """The API server sends seconds, never a date."""
    if isinstance(retry_after, str) and retry_after.isascii() and retry_after.isdigit():
        retry_after = int(retry_after[:9])
    if isinstance(retry_after, bool) or not isinstance(retry_after, int) or retry_after <= 0:
        return None
    return min(float(retry_after), MAX_RETRY_AFTER)


def glimpse(value: object) -> str:
    """What somebody else has sent in place of something better, fit for a line of a log."""
    return shorten(reprlib.repr(value))


def shorten(text: str) -> str:
    """What somebody else has written, fit for one line of a log."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:300])
    return line.strip() + ("…" if len(text) > 300 else "")
