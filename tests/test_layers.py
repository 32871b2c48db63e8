"""The house plan of the package: who may import whom, and what importing it costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "sticky_asgi"
SOURCE = Path(__file__).resolve().parent.parent / "src" / PACKAGE

#: A module, or a subpackage with all that is in it, belongs to one layer. A layer imports only
#: layers before it in this table, or its own.
LAYERS = (
    (
        "exceptions",
        "alike",
        "backend",
        "checks",
        "config_yaml",
        "hash_keys",
        "headers",
        "limits",
        "memo",
        "problems",
        "request",
        "target",
        "timeouts",
        "tls",
        "tracebacks",
        "trusted_proxies",
        "units",
        "websocket_options",
    ),
    ("balancers", "affinity", "health", "retries", "retry_budget", "events", "intents", "snapshot"),
    ("groups", "lease", "observers", "pool", "pool_affinity", "pool_checks", "waiting_queue"),
    ("closing", "upstream", "error_response", "lifespan", "routes"),
    (
        "client_body",
        "exchange",
        "forward_http",
        "forward_websocket",
        "user_checks",
        "probes",
        "discovery",
        "file_watch",
        "inbound",
        "runtime",
        "waits",
    ),
    ("call", "gateway"),
    ("middleware", "admin", "contrib"),
    (
        "certificates",
        "config",
        "config_affinity",
        "config_balancer",
        "config_checks",
        "config_discovery",
        "config_fields",
        "config_model",
        "config_policies",
        "config_problems",
        "access_log",
        "cli",
        "demo",
        "listening",
        "serving",
        "stopping",
        "uvicorn_http",
        "uvicorn_websocket",
        "__main__",
    ),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
#: Modules that may import everything: the front door, and the doubles for users' tests.
FREE = ("__init__", "testing")

#: The layers that decide and leave acting to others.
LAST_PURE_LAYER = 2
LAST_CORE_LAYER = 6
HTTP_CLIENTS = ("httpx", "httpcore", "httptools", "httpx2", "httpcore2", "websockets")
SOCKETS = ("socket", "socketserver", "select", "selectors", "ssl", "http.client", "urllib.request")
IO = (*HTTP_CLIENTS, *SOCKETS, "anyio", "asyncio", "h11", "subprocess", "uvicorn", "uvloop")
OPTIONAL = (
    "click",
    "dns",
    "fastapi",
    "httpx2",
    "pydantic",
    "uvicorn",
    "uvloop",
    "watchfiles",
    "websockets",
    "yaml",
)
#: Modules that are themselves imported only when they are needed.
LATE = (
    "config_yaml.py",
    "discovery/dns_answers.py",
    "file_watch.py",
    "testing/dns.py",
    "upstream/frames.py",
    "upstream/http1_websocket.py",
)


class Import:
    """One import: absolute dotted name, line, and whether it waits for a call or a type checker."""

    def __init__(self, name: str, line: int, lazy: bool) -> None:
        self.name = name
        self.line = line
        self.lazy = lazy

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")


class Source:
    """A module of the package, parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(SOURCE)
        self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.name = self.path.parts[0].removesuffix(".py")
        # A relative import starts from the package that holds the file.
        self.package = [PACKAGE, *self.path.parts[:-1]]

    @property
    def layer(self) -> int | None:
        return LAYER_OF.get(self.name)

    def imports(self) -> Iterator[Import]:
        yield from self._imports(self.tree, lazy=False)

    def _imports(self, node: ast.AST, *, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy)
            elif isinstance(child, ast.ImportFrom):
                base = self._base(child)
                # `from . import x` names a module or an attribute; both end in the same module.
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, lazy)
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                )
                yield from self._imports(child, lazy=lazy or later)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package[: len(self.package) - node.level + 1]
        return ".".join([*parts, node.module] if node.module else parts)

    def own(self) -> Iterator[tuple[str, Import]]:
        """Imports from the package itself, with the module or subpackage they name."""
        for item in self.imports():
            if item.is_of(PACKAGE):
                yield [*item.name.split("."), "__init__"][1], item

    def at(self, item: Import) -> str:
        return f"{self.path}:{item.line} imports {item.name}"


SOURCES = [Source(path) for path in sorted(SOURCE.rglob("*.py"))]


def test_there_is_something_to_check() -> None:
    assert {"exceptions", "backend"} <= {source.name for source in SOURCES}


def test_every_module_has_its_layer() -> None:
    unknown = [str(s.path) for s in SOURCES if s.layer is None and s.name not in FREE]
    assert unknown == [], "add them to the table in design and here"


def test_a_layer_imports_only_layers_above_it() -> None:
    wrong = []
    for source in SOURCES:
        if source.layer is None:
            continue
        for target, item in source.own():
            # What is no module is a name of the front door, which imports every layer but the last.
            if LAYER_OF.get(target, len(LAYERS) - 1) > source.layer or target == "testing":
                wrong.append(source.at(item))
    assert wrong == []


def test_deciding_layers_have_no_coroutines_and_no_io() -> None:
    wrong = []
    for source in SOURCES:
        if source.layer is None or source.layer > LAST_PURE_LAYER:
            continue
        wrong += [
            f"{source.path}:{node.lineno} is async"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        ]
        forbidden = set(IO) - ({"ssl"} if source.name == "tls" else set())
        wrong += [
            source.at(item)
            for item in source.imports()
            if any(item.is_of(module) for module in forbidden)
        ]
    assert wrong == []


def test_only_upstream_and_kubernetes_know_an_http_client() -> None:
    wrong = [
        source.at(item)
        for source in SOURCES
        for item in source.imports()
        if source.name not in ("upstream", "testing")
        and not source.path.is_relative_to("discovery/kubernetes")
        and any(item.is_of(client) for client in HTTP_CLIENTS)
    ]
    assert wrong == []


def test_the_core_needs_no_optional_dependency() -> None:
    wrong = [
        source.at(item)
        for source in SOURCES
        for item in source.imports()
        if (source.layer is None or source.layer <= LAST_CORE_LAYER)
        and not (item.lazy or str(source.path) in LATE)
        and any(item.is_of(module) for module in OPTIONAL)
    ]
    assert wrong == []


def test_main_starts_with_the_standard_library_alone() -> None:
    """It is what says which extra to install when the rest cannot be imported."""
    wrong = [
        source.at(item)
        for source in SOURCES
        if str(source.path) == "__main__.py"
        for item in source.imports()
        if not item.lazy and item.name.split(".")[0] not in (*sys.stdlib_module_names, PACKAGE)
    ]
    assert wrong == []


def test_all_is_sorted_complete_and_importable() -> None:
    import sticky_asgi

    names = list(sticky_asgi.__all__)
    assert names == sorted(set(names), key=str.casefold)
    for name in names:
        assert hasattr(sticky_asgi, name), name
    public = {
        name
        for name, value in vars(sticky_asgi).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and name not in ("TYPE_CHECKING", "annotations")
    }
    assert public - set(names) == set()


MEASURE = """
import json, sys, time
start = time.perf_counter()
import starlette.applications, starlette.middleware, starlette.responses, starlette.routing
import starlette.requests, starlette.websockets, httpx
before, between = set(sys.modules), time.perf_counter()
import sticky_asgi
share = (time.perf_counter() - between) / (between - start)
print(json.dumps([share, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def imported() -> tuple[float, set[str]]:
    """What importing the package adds to the time of Starlette and httpx, and the modules."""
    shares: list[float] = []
    modules: set[str] = set()
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", MEASURE],
            env=os.environ | {"PYTHONPATH": str(SOURCE.parent)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode()
        share, names = json.loads(run.stdout)
        shares.append(share)
        modules = set(names)
    return min(shares), modules


def test_sources_are_imported_when_they_are_asked_for(imported: tuple[float, set[str]]) -> None:
    assert not any(name.startswith("sticky_asgi.discovery.kubernetes") for name in imported[1])


def test_importing_is_quick(imported: tuple[float, set[str]]) -> None:
    assert imported[0] < 1


def test_importing_loads_no_optional_dependency(imported: tuple[float, set[str]]) -> None:
    assert {name.split(".")[0] for name in imported[1]} & set(OPTIONAL) == set()
