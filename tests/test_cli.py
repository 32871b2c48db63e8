"""The command line: words and exit codes in process, `run` and `demo` as real processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

import sticky_asgi
from sticky_asgi import RequestInfo, SignedCookie
from sticky_asgi.cli import cli
from sticky_asgi.config import parse
from sticky_asgi.listening import listening
from sticky_asgi.serving import LOGGING, Settings, create_app
from sticky_asgi.testing import FakeKubernetes
from sticky_asgi.testing.kubernetes import endpoint, endpoint_slice, service
from tests import servers
from tests.conftest import Authority
from tests.servers import RawBackend, RawClient, eventually, free_port, request, responding
from tests.websocket_peers import (
    CLOSE,
    DEFAULT,
    TEXT,
    Talker,
    connect,
    end_of,
    frame,
    handshake,
    read_frame,
)

SECRET = "0123456789abcdef-old"
NEWER = "0123456789abcdef-new"


def invoke(*args: str) -> Result:
    # Before click 8.2, stderr was kept apart only on request.
    apart: dict[str, Any] = (
        {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    )
    return CliRunner(**apart).invoke(cli, args)


@pytest.fixture
def logging_stays() -> Iterator[None]:
    """Undo what a server that was about to start has set, for the tests that come after."""
    loggers = [logging.getLogger(name) for name in LOGGING["loggers"]]
    before = [(one.level, one.propagate, one.handlers[:]) for one in loggers]
    yield
    for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate = propagate
        one.handlers[:] = handlers


def write(
    path: Path, *backends: RawBackend | str, secrets: Sequence[str] = (SECRET,), **more: object
) -> Path:
    """A configuration file with one sticky pool; replaced in one step, as careful tools do."""
    urls = [backend if isinstance(backend, str) else backend.url for backend in backends]
    text = json.dumps(
        {
            "secrets": list(secrets),
            "pools": {"shop": {"backends": urls, "affinity": {"cookie": {}}}},
            **more,
        }
    )
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "gateway.yaml", "http://127.0.0.1:1", "http://127.0.0.1:2")


def cookie_for(file: Path, index: int = 0) -> str:
    pool = parse(file.read_text()).make_pools()["shop"]
    ((_, header),) = pool.visitors.issue(pool.visitors.resolve(RequestInfo()), pool.backends[index])
    return header.partition(b";")[0].decode()


# In process


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"sticky-asgi {sticky_asgi.__version__}\n")


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["check"], ["schema"], ["inspect"]])
def test_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")


def test_check(file: Path) -> None:
    result = invoke("check", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: ok (1 pool, 2 backends, 1 route)\n")


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("pools:\n  shop:\n    backends: [http://a]\n    balancer: rr\n    hots: pass\n")
    result = invoke("check", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{path}:4: pools.shop.balancer: unknown balancer 'rr'; one of round_robin, random, "
        "least_requests, two_choices, least_time, consistent_hash",
        f"{path}:5: pools.shop.hots: unknown key; did you mean 'host'?",
    ]


def test_schema() -> None:
    result = invoke("schema")
    assert result.exit_code == 0
    assert "pools" in json.loads(result.stdout)["properties"]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{value}", id="value"),
        pytest.param("sticky_shop={value}", id="name and value"),
        pytest.param("sticky_shop={value}; Path=/; HttpOnly", id="header"),
        pytest.param("Cookie: a=1; sticky_shop={value}; b=2", id="request header"),
    ],
)
def test_inspect(file: Path, form: str) -> None:
    value = cookie_for(file).partition("=")[2]
    result = invoke("inspect", "-c", str(file), "--", form.format(value=value))
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if "  " in line)
    assert rows["pool"] == "shop"
    assert rows["backend"] == "127.0.0.1:1"
    assert rows["key"] == "1 of 1, the newest"
    assert rows["status"] == "valid"
    assert "first issued" in result.stdout
    assert "last stamped" in result.stdout


def test_inspect_takes_a_cookie_that_begins_with_a_dash(tmp_path: Path) -> None:
    """One token in 64 does."""
    path = tmp_path / "gateway.yaml"
    for number in range(2000):
        write(path, f"http://127.0.0.1:{number + 1}")
        value = cookie_for(path).partition("=")[2]
        if value.startswith("-"):
            break
    else:
        pytest.fail("no such token")
    for args in (["-c", str(path), value], [value, "-c", str(path)]):
        assert invoke("inspect", *args).exit_code == 0


def test_inspect_knows_an_older_key_and_a_backend_that_is_gone(file: Path) -> None:
    cookie = cookie_for(file, 1)
    write(file, "http://127.0.0.1:1", secrets=[SECRET, NEWER])
    result = invoke("inspect", cookie, "-c", str(file), "--pool", "shop")
    assert result.exit_code == 0
    assert "backend       no longer in the pool\n" in result.stdout
    assert "key           1 of 2\n" in result.stdout
    assert "status        lost\n" in result.stdout


KUBERNETES = {"namespace": "shop", "url": "http://127.0.0.1:1"}
FOUND = {"discovery": {"kubernetes": KUBERNETES}}
FOLLOWED = {"web": {"discovery": {"kubernetes": {"service": "web", **KUBERNETES}}}}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param({"pools": FOLLOWED}, [], id="a pool that follows a Service"),
        pytest.param(FOUND, ["--pool", "web"], id="a pool that is found"),
    ],
)
def test_inspect_reads_cookies_under_annotations(
    config: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    """Whatever the annotations say: the gateway that wrote the cookie knows, and we do not."""
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps({"secrets": [SECRET], **config}))
    pool = sticky_asgi.Pool(
        "web", ["http://10.0.0.1"], affinity=SignedCookie(SECRET, name="traefik-cookie")
    )
    ((_, header),) = pool.visitors.issue(pool.visitors.resolve(RequestInfo()), pool.backends[0])
    result = invoke("inspect", "-c", str(path), *options, "--", header.decode())
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if "  " in line)
    assert rows["pool"] == "web"
    assert rows["backend"] == "known to the gateway only, which finds them while it runs"
    assert rows["status"] == "valid, as far as the file says"
    assert rows["key"] == "1 of 1, the newest"
    result = invoke("inspect", "-c", str(path), *options, "traefik-cookie=forged")
    assert (result.exit_code, result.stdout) == (1, "invalid for pool web\n")


@pytest.mark.parametrize("has_pools", [False, True])
def test_inspect_wants_to_know_which_pool_was_found(has_pools: bool, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    pools = {"pools": FOLLOWED} if has_pools else {}
    path.write_text(json.dumps({"secrets": [SECRET], **FOUND, **pools}))
    result = invoke("inspect", "-c", str(path), "forged")
    assert result.exit_code == (1 if has_pools else 2)
    assert "one that discovery finds is asked by --pool NAME" in result.output + result.stderr


def test_inspect_refuses_what_is_forged(file: Path) -> None:
    result = invoke("inspect", "sticky_shop=forged", "-c", str(file))
    assert (result.exit_code, result.stdout) == (1, "invalid for pool shop\n")


def test_inspect_needs_to_know_the_pool_and_the_secrets(file: Path, tmp_path: Path) -> None:
    result = invoke("inspect", "x", "-c", str(file), "--pool", "shopp")
    assert result.exit_code == 2
    assert "there is no pool 'shopp'; there is shop" in result.stderr
    bare = tmp_path / "bare.yaml"
    bare.write_text(f"secrets: {SECRET}\npools: {{shop: {{backends: [http://a]}}}}")
    result = invoke("inspect", "x", "-c", str(bare), "--pool", "shop")
    assert result.exit_code == 2
    assert "pool 'shop' does not have a signed cookie" in result.stderr
    other = tmp_path / "other.yaml"
    other.write_text("pools: {shop: {backends: [http://a]}}")
    result = invoke("inspect", "x", "-c", str(other))
    assert result.exit_code == 2
    assert result.stderr == f"{other}: there are no secrets in it, so no cookie can be read\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either a configuration file or --backend URL"),
        (["x.yaml", "--backend", "http://a"], "give either a configuration file or --backend URL"),
        (["x.yaml"], "x.yaml: cannot be read: No such file or directory"),
        (["--access-log", "x.yaml"], "x.yaml: cannot be read: No such file or directory"),
        (["--access-log=xml", "x.yaml"], "'xml' is not one of 'text', 'json'"),
        (["x.yaml", "--ssl-keyfile", "x"], "--ssl-keyfile needs --ssl-certfile"),
        (["--backend", "x"], "--backend: 'x' must begin with http://"),
        (["--backend", "http://a", "--workers", "2"], "STICKY_SECRET: is not set"),
        (["--backend", "http://a", "--workers", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage_of_run(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STICKY_SECRET", raising=False)
    before = signal.getsignal(signal.SIGHUP)
    try:
        result = invoke("run", *args)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 2
    assert message in result.stderr


# As processes


class Command:
    """`python -m sticky_asgi` in a process of its own; what it prints is kept."""

    def __init__(self, *args: str, env: dict[str, str] | None = None, cwd: Path | None = None):
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        environ = {key: value for key, value in os.environ.items() if key != "STICKY_SECRET"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sticky_asgi", *args],
            env=environ | {"PYTHONPATH": str(servers.ROOT / "src")} | (env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )

    @staticmethod
    def _text(output: Any) -> str:
        size = os.fstat(output.fileno()).st_size
        return os.pread(output.fileno(), size, 0).decode()

    @property
    def stdout(self) -> str:
        return self._text(self._out)

    @property
    def stderr(self) -> str:
        return self._text(self._err)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until stderr has said it so often."""

        def said() -> bool:
            assert self.process.poll() is None, self.stderr
            return self.stderr.count(text) >= times

        eventually(said, 20, f"{text!r} in stderr")

    def wait(self) -> int:
        return self.process.wait(20)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        self._out.close()
        self._err.close()


@contextmanager
def running(*args: str, **options: Any) -> Iterator[tuple[Command, int]]:
    port = free_port()
    with Command("run", *args, "--port", str(port), **options) as command:
        command.wait_for(f"http://127.0.0.1:{port} serves / from ")
        yield command, port


@contextmanager
def named(*names: str) -> Iterator[list[RawBackend]]:
    """Back ends that answer with their names."""
    backends = [RawBackend(responding(servers.response(200, name.encode()))) for name in names]
    for backend in backends:
        backend.start()
    try:
        yield backends
    finally:
        for backend in backends:
            backend.stop()


def ask(port: int, cookie: bytes | None = None) -> tuple[bytes, bytes | None]:
    """One request: who answered, and the cookie that it set."""
    headers = [] if cookie is None else [(b"Cookie", cookie)]
    response = request(port, headers=headers)
    assert response.status == 200, response
    value = response.get(b"set-cookie")
    return response.body, None if value is None else value.partition(b";")[0]


def stays(port: int, name: bytes, cookie: bytes | None, times: int = 8) -> None:
    """A visitor is with a back end, and needs no new cookie, whichever worker answers."""
    assert [ask(port, cookie) for _ in range(times)] == [(name, None)] * times


def test_sessions_are_kept_by_every_worker_and_through_reloads(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    with named("a", "b", "c") as (a, b, c):
        write(path, a, b)
        with running(str(path), "--workers", "2") as (command, port):
            command.wait_for("ready: 1 pool, 2 backends, 1 route", times=2)
            pinned: dict[bytes, bytes | None] = {}
            while len(pinned) < 2:
                name, cookie = ask(port)
                pinned[name] = cookie
            for name, cookie in pinned.items():
                stays(port, name, cookie)

            # A changed file: `b` goes, `c` comes, and who was with `a` stays there.
            write(path, a, c)
            command.wait_for("INFO sticky_asgi.serving: reloaded", times=2)
            stays(port, b"a", pinned[b"a"])
            assert ask(port, pinned[b"b"])[0] != b"b"
            eventually(lambda: ask(port)[0] == b"c")

            # A wrong one changes nothing, and every worker says why.
            path.write_text("pools: {shop: {backends: [ftp://x]}}")
            command.wait_for("not reloaded, what was in force stays so", times=2)
            assert "pools.shop.backends[0]: 'ftp://x' must begin with" in command.stderr
            stays(port, b"a", pinned[b"a"])

            # SIGHUP to the parent reaches every worker, and replaces none.
            before = command.stderr.count("not reloaded")
            os.kill(command.process.pid, signal.SIGHUP)
            command.wait_for("not reloaded", times=before + 2)
            stays(port, b"a", pinned[b"a"])

            write(path, a, b)
            command.wait_for("INFO sticky_asgi.serving: reloaded", times=4)
            stays(port, b"a", pinned[b"a"])
            stays(port, b"b", pinned[b"b"])
            assert command.stop() == 0


def test_sighup_reloads_a_single_process(tmp_path: Path) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path)) as (command, port):
            _, cookie = ask(port)
            os.kill(command.process.pid, signal.SIGHUP)
            command.wait_for(f"reloaded {path}: 1 pool, 1 backend, 1 route")
            stays(port, b"a", cookie)
            assert command.stop() == 0


def test_a_configuration_in_a_linked_folder(tmp_path: Path) -> None:
    """Kubernetes mounts `gateway.yaml -> ..data/gateway.yaml` and replaces the link `..data`."""
    with named("a", "b") as (a, b):
        for version, backend in (("..v1", a), ("..v2", b)):
            (tmp_path / version).mkdir()
            write(tmp_path / version / "gateway.yaml", backend)
        (tmp_path / "..data").symlink_to("..v1")
        path = tmp_path / "gateway.yaml"
        path.symlink_to("..data/gateway.yaml")
        with running(str(path)) as (_, port):
            assert ask(port)[0] == b"a"
            (tmp_path / "..tmp").symlink_to("..v2")
            (tmp_path / "..tmp").replace(tmp_path / "..data")
            eventually(lambda: ask(port)[0] == b"b")
            # The folder that is linked now is followed too.
            write(tmp_path / "..v2" / "gateway.yaml", a)
            eventually(lambda: ask(port)[0] == b"a")


def test_no_request_is_dropped_by_reloads(tmp_path: Path) -> None:
    release = threading.Event()

    def slow(connection: servers.Connection) -> None:
        connection.read_request()
        connection.wait(release)
        connection.send(servers.response(200, b"slow"))

    with RawBackend(slow) as first, named("b") as (b,):
        path = write(tmp_path / "gateway.yaml", first)
        with running(str(path)) as (command, port), RawClient(port) as client:
            client.send(servers.encode_request())
            first.wait_request()
            write(path, b)
            command.wait_for("reloaded")
            assert ask(port)[0] == b"b"
            release.set()
            response = client.read_response()
            assert (response.status, response.body, response.complete) == (200, b"slow", True)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_what_runs(tmp_path: Path, workers: int) -> None:
    release = threading.Event()

    def slow(connection: servers.Connection) -> None:
        connection.read_request()
        connection.wait(release)
        connection.send(servers.response(200, b"slow"))

    def is_refused(port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            return True
        return False

    with RawBackend(slow) as backend:
        path = write(tmp_path / "gateway.yaml", backend)
        args = [str(path), "--workers", str(workers)]
        with running(*args) as (command, port), RawClient(port) as client:
            client.send(servers.encode_request())
            backend.wait_request()
            command.process.terminate()
            if workers == 1:
                # A parent keeps its sockets until the workers have ended.
                eventually(lambda: is_refused(port))
            assert command.process.poll() is None
            release.set()
            response = client.read_response()
            assert (response.status, response.body, response.complete) == (200, b"slow", True)
            assert command.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_stops_says_so_and_serves_on_for_a_while(
    tmp_path: Path, workers: int
) -> None:
    def status(port: int, name: str) -> int:
        return servers.request(port, target=b"/-/sticky/" + name.encode()).status

    with named("a") as [a]:
        path = write(tmp_path / "gateway.yaml", a, admin={})
        args = [str(path), "--workers", str(workers), "--shutdown-delay", "2"]
        with running(*args) as (command, port):
            command.wait_for("ready: ", times=workers)
            assert (status(port, "live"), status(port, "ready")) == (200, 200)
            command.process.terminate()
            # With workers, the one who is asked may not have got its signal yet.
            command.wait_for("stopping in 2 seconds: 0 requests under way", times=workers)
            assert (status(port, "live"), status(port, "ready")) == (200, 503)
            assert servers.request(port).body == b"a"
            assert command.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_sigterm_ends_the_wait(tmp_path: Path, workers: int) -> None:
    with named("a") as [a]:
        path = write(tmp_path / "gateway.yaml", a)
        args = [str(path), "--workers", str(workers), "--shutdown-delay", "3600"]
        with running(*args) as (command, _):
            command.wait_for("ready: ", times=workers)
            command.process.terminate()
            command.wait_for("stopping in 3600 seconds: ", times=workers)
            command.process.terminate()
            assert command.wait() == 0


def test_ctrl_c_says_what_it_waits_for(tmp_path: Path) -> None:
    with named("a") as [a]:
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path), "--shutdown-delay", "3600") as (command, _):
            command.wait_for("ready: ")
            command.process.send_signal(signal.SIGINT)
            command.wait_for("stopping: 0 requests under way")
            assert command.wait() == 0


def test_a_reload_moves_what_is_asked_of_the_gateway_itself(tmp_path: Path) -> None:
    with named("a") as [a]:
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path)) as (command, port):
            assert servers.request(port, target=b"/-/sticky/live").body == b"a"
            write(path, a, admin={"path": "/about"})
            command.wait_for("reloaded ")
            assert servers.request(port, target=b"/about/live").body == b"ok\n"
            assert servers.request(port, target=b"/-/sticky/live").body == b"a"


def backend_file(path: Path, *backends: RawBackend) -> Path:
    """A file that lists backends; replaced in one step."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([backend.url for backend in backends]))
    new.replace(path)
    return path


def write_discovery(path: Path, **discovery: object) -> Path:
    """A configuration whose pool finds its backends in `backends.json` beside it."""
    pool = {"discovery": {"file": "backends.json", **discovery}, "affinity": {"cookie": {}}}
    path.write_text(json.dumps({"secrets": [SECRET], "pools": {"shop": pool}, "admin": {}}))
    return path


def test_check_tells_of_sources(tmp_path: Path) -> None:
    path = write_discovery(tmp_path / "gateway.yaml")
    result = invoke("check", str(path))
    assert (result.exit_code, result.stdout) == (
        0,
        f"{path}: ok (1 pool, 0 backends and those found, 1 route)\n",
    )


def test_check_says_what_is_wrong_with_a_source(tmp_path: Path) -> None:
    path = write_discovery(tmp_path / "gateway.yaml", dns={"name": "a"})
    result = invoke("check", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{path}:1: pools.shop.discovery: takes exactly one of kubernetes, dns and file",
    ]


def test_a_file_of_backends_is_followed(tmp_path: Path) -> None:
    path = write_discovery(tmp_path / "gateway.yaml", start="empty", min_backoff="10ms")
    with named("a", "b") as (a, b), running(str(path)) as (command, port):
        command.wait_for("ready: 1 pool, 0 backends and those found, 1 route")
        command.wait_for("backends.json: cannot be read: No such file or directory")
        ready = request(port, target=b"/-/sticky/ready")
        assert (ready.status, ready.body) == (503, b"waiting for backends\n")
        assert request(port, target=b"/-/sticky/live").status == 200
        assert request(port).status == 503

        backend_file(tmp_path / "backends.json", a)
        eventually(lambda: request(port, target=b"/-/sticky/ready").status == 200, 20, "ready")
        name, cookie = ask(port)
        assert name == b"a"
        stays(port, b"a", cookie)

        # The visitor's backend is gone; the log says of a file that is wrong only that it is.
        backend_file(tmp_path / "backends.json", b)
        eventually(lambda: ask(port, cookie)[0] == b"b", 20, "b")
        (tmp_path / "backends.json").write_text("[")
        command.wait_for("backends.json:1: ")
        assert ask(port)[0] == b"b"
        assert request(port, target=b"/-/sticky/ready").status == 200


def test_pools_that_are_found_are_enough(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    with named("a") as [a], fake.running() as server:
        fake.create(
            service("web", namespace="shop", ports={"http": 80}, annotations={"sticky-asgi/x": ""})
        )
        path = tmp_path / "gateway.yaml"
        where = {"namespace": "shop", "url": server.url}
        path.write_text(json.dumps({"secrets": [SECRET], "discovery": {"kubernetes": where}}))
        with Command("run", str(path), "--port", str(port := free_port())) as command:
            command.wait_for(f"http://127.0.0.1:{port} serves what discovery finds\n")
            command.wait_for("ready: 0 pools and those found, ")
            assert request(port, target=b"/web/").status == 503
            slice_ = endpoint_slice(
                "web", [endpoint("127.0.0.1", pod="a")], namespace="shop", ports={"http": a.port}
            )
            fake.create(slice_)
            eventually(lambda: request(port, target=b"/web/").body == b"a", 20, "a")


def test_a_source_that_says_nothing_ends_the_start(tmp_path: Path) -> None:
    path = write_discovery(tmp_path / "gateway.yaml", start_timeout="50ms")
    with Command("run", str(path), "--port", "0") as command:
        assert command.wait() != 0
        assert "named no backends within 0.05 seconds: " in command.stderr


def test_sigterm_waits_only_so_long(tmp_path: Path) -> None:
    never = threading.Event()

    def hanging(connection: servers.Connection) -> None:
        connection.read_request()
        connection.wait(never)

    with RawBackend(hanging) as backend:
        path = write(tmp_path / "gateway.yaml", backend)
        with running(str(path), "--graceful-timeout", "0") as (command, port):
            with RawClient(port) as client:
                client.send(servers.encode_request())
                backend.wait_request()
                assert command.stop() == 0


def test_two_gateways_with_the_same_secrets(tmp_path: Path) -> None:
    with named("a", "b") as (a, b):
        path = write(tmp_path / "gateway.yaml", a, b)
        with running(str(path)) as (_, one), running(str(path)) as (_, other):
            name, cookie = ask(one)
            stays(other, name, cookie)
            name, cookie = ask(other)
            stays(one, name, cookie)


def test_quick_mode() -> None:
    with named("a", "b") as (a, b):
        args = ["--backend", a.url, "--backend", b.url]
        with running(*args) as (command, port):
            name, cookie = ask(port)
            stays(port, name, cookie)
            assert {ask(port)[0] for _ in range(4)} == {b"a", b"b"}
            assert "no secrets: one was made up" in command.stderr
            assert "serves / from default (2 backends)\n" in command.stderr
            assert command.stop() == 0
        env = {"STICKY_SECRET": SECRET}
        with running(*args, env=env) as (one, port), running(*args, env=env) as (_, other):
            name, cookie = ask(port)
            stays(other, name, cookie)
            assert "no secrets" not in one.stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_access_log(tmp_path: Path, form: str) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(f"--access-log={form}", str(path)) as (command, port):
            ask(port)
            line = eventually(lambda: command.stdout)
            assert line.count("\n") == 1
            if form == "json":
                assert json.loads(line)["backend"] == a.id
            else:
                assert line.startswith(f'127.0.0.1 "GET /" 200 pool=shop backend={a.id} ')


def test_websockets(tmp_path: Path) -> None:
    """The server lets through what the most generous pool allows, and compresses nothing."""
    path = tmp_path / "gateway.yaml"
    talker = Talker()
    with servers.serve(talker, ws=DEFAULT) as backend:
        websocket = {"shop": "1KiB", "big": "20MiB"}
        pools = {
            name: {"backends": [backend.url], "websocket": {"max_message": size}}
            for name, size in websocket.items()
        }
        routes = [{"path": "/", "pool": "shop"}, {"path": "/big", "pool": "big"}]
        path.write_text(json.dumps({"pools": pools, "routes": routes}))
        with running("--access-log=text", "--graceful-timeout=2", str(path)) as (command, port):
            with connect(port, "/big", max_size=None) as client:
                assert client.response is not None
                assert "Sec-WebSocket-Extensions" not in client.response.headers
                message = bytes(17 * 1024 * 1024)
                client.send(f"flood {len(message)} 1")
                assert client.recv() == message
            with connect(port) as client:
                client.send(bytes(1025))
                assert end_of(client)[0] == 1009
            eventually(lambda: command.stdout.count("\n") == 2)
            first, second = command.stdout.splitlines()
            assert first.startswith('127.0.0.1 "GET /big" 101 pool=big ')
            assert (first.split()[-1], second.split()[-1]) == ("close=1000", "close=1009")
            with connect(port) as client:
                command.process.terminate()
                assert end_of(client)[0] == 1012
            assert command.wait() == 0
        eventually(lambda: len(talker.ended) == 3)
    assert talker.ended[-1][0] == 1012


def test_what_clients_do_wrong_is_no_error_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    with servers.serve(Talker(), ws=DEFAULT) as backend:
        path.write_text(json.dumps({"pools": {"shop": {"backends": [backend.url]}}}))
        with running(str(path)) as (command, port):
            with RawClient(port) as client:
                client.send(handshake(b"/refuse"))
                assert client.read_response().status == 401
            with RawClient(port) as client:
                client.send(handshake())
                assert client.read_head().status == 101
                client.send(frame(TEXT, b"\xff", mask=True))
                opcode, data = read_frame(client)
                assert (opcode, data[:2]) == (CLOSE, (1007).to_bytes(2, "big"))
            command.process.terminate()
            assert command.wait() == 0
            assert not re.search("ERROR|Traceback", command.stderr), command.stderr


def test_no_limit_for_websockets(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    with servers.serve(Talker(), ws=DEFAULT, ws_max_size=2**30) as backend:
        pool = {"backends": [backend.url], "websocket": {"max_message": None}}
        path.write_text(json.dumps({"pools": {"shop": pool}}))
        with running(str(path)) as (_, port), connect(port, max_size=None) as client:
            message = bytes(17 * 1024 * 1024)
            client.send(message)
            assert client.recv() == message


def test_no_server_and_date_headers(tmp_path: Path) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path)) as (_, port):
            response = request(port)
            assert (response.get(b"server"), response.get(b"date")) == (None, None)


def test_idle_clients_are_let_go(tmp_path: Path) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path), "--keep-alive", "1") as (_, port), RawClient(port) as client:
            assert client.request().status == 200
            assert client.wait_closed()
        with running(str(path)) as (_, port), RawClient(port) as client:
            # Longer than a load balancer that keeps connections for a minute.
            assert client.request().status == 200
            with pytest.raises(TimeoutError):
                client.wait_closed(timeout=6)


SPARED = """
import asyncio, gc, os
from sticky_asgi import serving
from sticky_asgi.lifespan import run_lifespan

async def main():
    async with run_lifespan(serving.create_app()):
        assert gc.get_freeze_count() > 1000 and gc.get_threshold() > before

before = gc.get_threshold()
serving.Settings(file={file!r}).export(os.environ)
asyncio.run(main())
"""


def test_the_collector_is_spared(file: Path) -> None:
    program = SPARED.format(file=str(file))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_https_and_unix_sockets(tmp_path: Path, authority: Authority) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        port = free_port()
        tls = ["--ssl-certfile", str(authority.cert_file), "--ssl-keyfile", str(authority.key_file)]
        with Command("run", str(path), "--port", str(port), *tls) as command:
            command.wait_for(f"https://127.0.0.1:{port} serves / from shop (1 backend)")
            response = request(port, ssl_context=authority.client_context())
            assert response.body == b"a"
            assert b"Secure" in (response.get(b"set-cookie") or b"")
        uds = tmp_path / "gateway.sock"
        for _ in range(2):
            with Command("run", str(path), "--uds", str(uds)) as command:
                command.wait_for(f"unix:{uds} serves / from")
                assert request(0, unix=str(uds)).body == b"a"
                command.process.kill()  # leaves a stale socket, which the next one replaces
                command.wait()


def test_a_certificate_that_cannot_be_used(file: Path) -> None:
    with Command("run", str(file), "--ssl-certfile", "/nowhere") as command:
        assert command.wait() == 2
        assert command.stderr == (
            "sticky-asgi: --ssl-certfile '/nowhere': No such file or directory\n"
        )


def test_a_key_that_cannot_be_used(
    file: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    args = ["run", str(file), "--ssl-certfile", str(authority.cert_file), "--ssl-keyfile"]
    result = invoke(*args, "nope")
    assert (result.exit_code, result.stderr) == (
        2,
        "sticky-asgi: --ssl-keyfile 'nope': No such file or directory\n",
    )


def test_a_pipe_is_no_configuration_file(tmp_path: Path) -> None:
    """It could be read but once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    result = invoke("run", str(path))
    assert (result.exit_code, result.stderr) == (
        2,
        f"sticky-asgi: {path}: is not a regular file, and it has to be read more than once\n",
    )


@pytest.mark.usefixtures("logging_stays")
@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_a_host_that_is_no_name(file: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    result = invoke("run", str(file), "--host", host)
    assert (result.exit_code, result.stderr) == (
        1,
        f"sticky-asgi: cannot listen on {host}:8000: this is no host name\n",
    )


def test_what_is_written_in_pieces_is_not_held_back() -> None:
    async def accepted(listener: socket.socket) -> int:
        writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        server = await asyncio.start_server(
            lambda _, writer: writers.put_nowait(writer), sock=listener
        )
        _, client = await asyncio.open_connection(*listener.getsockname())
        writer = await writers.get()
        no_delay = writer.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY
        )
        for end in (client, writer):
            end.close()
            await end.wait_closed()
        server.close()
        return int(no_delay)

    with listening(port=0) as [listener]:
        assert asyncio.run(accepted(listener))


def test_only_its_own_unix_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with listening(uds=str(path)):
        assert path.is_socket()
    assert not path.exists()
    with listening(uds=str(path)):
        path.rename(tmp_path / "before.sock")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


def test_a_worker_that_starts_with_a_wrong_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("pools: {}")
    environ: dict[str, str] = {}
    Settings(file=str(path), workers=2).export(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sticky_asgi.serving.LOOK_EVERY", 0)
    with pytest.raises(SystemExit) as caught:
        create_app()
    assert caught.value.code == 1
    assert caplog.messages == [f"not started:\n  {path}:1: pools: must not be empty"]


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path), "--workers", "2") as (command, port):
            command.wait_for("ready:", times=2)
            victim = int(command.stderr.partition("[")[2].partition("]")[0])
            assert victim != command.process.pid
            os.kill(victim, signal.SIGKILL)
            command.wait_for(f"worker {victim} died, starting another")
            command.wait_for("ready:", times=3)
            assert ask(port)[0] == b"a"
            assert command.stop() == 0


def test_sighup_waits_for_workers_that_are_starting(tmp_path: Path) -> None:
    with named("a") as (a,):
        path = write(tmp_path / "gateway.yaml", a)
        with running(str(path), "--workers", "2") as (command, _):

            def is_ready() -> bool:
                os.kill(command.process.pid, signal.SIGHUP)
                return command.stderr.count("ready:") >= 2

            eventually(is_ready, 20, "both workers")
            command.wait_for("INFO sticky_asgi.serving: reloaded", times=2)
            assert "died" not in command.stderr
            assert command.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_ends_what_has_no_file(workers: int) -> None:
    with named("a") as (a,):
        args = ["--backend", a.url, "--workers", str(workers)]
        with running(*args, env={"STICKY_SECRET": SECRET}) as (command, _):
            command.wait_for("ready:", times=workers)
            os.kill(command.process.pid, signal.SIGHUP)
            assert command.wait() == (-signal.SIGHUP if workers == 1 else 0)


def test_a_port_that_is_taken(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Command("run", str(file), "--port", str(port)) as command:
            assert command.wait() == 1
            assert command.stderr == (
                f"sticky-asgi: cannot listen on 127.0.0.1:{port}: Address already in use\n"
            )


def test_the_start_line_lists_every_route(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "pools: {a: {backends: [http://a]}, b: {backends: [http://b, http://c]}, "
        "c: {discovery: {file: c.yaml}}}\n"
        "routes:\n"
        "  - {pool: c, path: /c}\n"
        "  - {pool: a, methods: [POST, GET]}\n"
        "  - {pool: b, host: x.example, path: /b, headers: {X-A: b}}\n"
    )
    port = free_port()
    with Command("run", str(path), "--port", str(port)) as command:
        command.wait_for(
            f"http://127.0.0.1:{port} serves /c from c (backends by discovery), GET,POST / from "
            "a (1 backend), "
            "x.example/b with x-a from b (2 backends)\n"
        )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_waits_for_backends_is_ended_by_sigterm(tmp_path: Path, workers: str) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "pools: {shop: {discovery: {file: missing.yaml, start_timeout: null}}}"
    )
    port = str(free_port())
    with Command("run", "gateway.yaml", "--port", port, "--workers", workers, cwd=tmp_path) as run:
        run.wait_for("discovery fails", int(workers))
        assert run.stop() == 0
        assert "Traceback" not in run.stderr


def test_a_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("pools: {}")
    with Command("run", "gateway.yaml", cwd=tmp_path) as command:
        assert command.wait() == 2
        assert command.stderr == "gateway.yaml:1: pools: must not be empty\n"


def test_several_workers_without_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("pools: {shop: {backends: [http://a], affinity: {cookie: {}}}}")
    with Command("run", str(path), "--workers", "2") as command:
        assert command.wait() == 2
        assert command.stderr == (
            f"{path}:1: secrets is missing: several workers must know the same ones\n"
        )


def test_demo() -> None:
    port = free_port()
    with Command("demo", "--port", str(port)) as command:
        command.wait_for(f"the demo is on http://127.0.0.1:{port} (Ctrl+C ends it)\n")
        first = request(port)
        jar = b"; ".join(value.partition(b";")[0] for value in first.get_all(b"set-cookie"))
        name = first.body.split()[0]
        again = [request(port, headers=[(b"Cookie", jar)]).body.split()[0] for _ in range(10)]
        assert again == [name] * 10
        assert len({request(port).body.split()[0] for _ in range(6)}) == 3
        os.kill(command.process.pid, signal.SIGINT)
        assert command.wait() == 0
        assert "Traceback" not in command.stderr


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from sticky_asgi.__main__ import main
main()
"""


def run_without(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(name=name), "--version"],
        env=os.environ | {"PYTHONPATH": str(servers.ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["click", "pydantic", "uvicorn", "watchfiles", "yaml"])
def test_without_the_extra(name: str) -> None:
    done = run_without(name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "sticky-asgi needs its command line extra: pip install 'sticky-asgi[cli]'\n"
    )


def test_another_missing_module_is_no_matter_of_the_extra() -> None:
    done = run_without("starlette")
    assert done.returncode == 1
    assert "No module named 'starlette'" in done.stderr


def test_signed_cookie_of_the_file_is_the_apis(file: Path) -> None:
    """What a gateway in Python issues under the same secret and names, the file's one accepts."""
    pool = sticky_asgi.Pool("shop", ["http://127.0.0.1:1"], affinity=SignedCookie(SECRET))
    ((_, header),) = pool.visitors.issue(pool.visitors.resolve(RequestInfo()), pool.backends[0])
    result = invoke("inspect", "-c", str(file), "--", header.partition(b";")[0].decode())
    assert "backend       127.0.0.1:1\n" in result.stdout
