"""A configuration file: read, checked as a whole, and put in force as a whole.

Whatever is wrong with a file is said at once, with the line: a file either works or changes
nothing. Form is read in `config_yaml.py`, the keys are in `config_model.py`, and what else may be
wrong is in `config_checks.py`.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema

from . import Gateway, Listener, Pool, Route
from .config_checks import twice, wrong_objects, wrong_references, wrong_values
from .config_model import Document
from .config_yaml import Source
from .discovery.pools import PoolDiscovery
from .problems import Problem, dotted
from .trusted_proxies import TrustedProxies

logger = logging.getLogger("sticky_asgi.config")


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: Everything that is wrong with it, in the order of lines.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class _Parts(NamedTuple):
    pools: dict[str, Pool]
    routes: list[Route]
    discovery: PoolDiscovery | None


class Config:
    """A configuration that has been checked; `load` and `parse` make it.

    Args:
        document: The checked content.
        folder: Where relative paths start.
        name: What it is called in the log.
    """

    def __init__(self, document: Document, *, folder: Path = Path(), name: str = "") -> None:
        self.document = document
        self.folder = folder
        self.name = name

    @property
    def needs_secret(self) -> bool:
        """Whether there are affinity cookies and no secrets to sign them with."""
        document = self.document
        is_sticky = any(pool.is_sticky for pool in document.pools.values())
        finds_sticky = document.discovery is not None and document.discovery.is_sticky
        return not document.secrets and (is_sticky or finds_sticky)

    def build(self, *, listeners: Sequence[Listener] = ()) -> Gateway:
        """Make a gateway. Without secrets, one is made up that lives as long as the process."""
        parts = self._make()
        gateway = Gateway(
            parts.routes,
            trusted_proxies=self.document.trusted_proxies,
            forwarded=self.document.forwarded,
            listeners=listeners,
            discovery=parts.discovery,
        )
        for name, pool in parts.pools.items():
            self._drain(pool, {}, self._draining(name))
        return gateway

    def apply(self, gateway: Gateway, previous: Config | None = None) -> None:
        """Put this configuration in force in a gateway that runs, at once and as a whole.

        Pools that keep their name keep what they know: sessions, health, requests in flight.
        What runs is finished as it began. Call it in the event loop that serves.

        Args:
            gateway: The gateway.
            previous: What was in force. A backend that it drained and this one does not is made
                active again; what an operator has set is left alone.
        """
        parts = self._make()
        # A pool that was found and one of the file are two, even if they have the same name.
        routes = () if gateway.discovery is None else gateway.discovery.routes
        found = {route.pool for route in routes}
        running = {pool.name: pool for pool in gateway.pools if pool not in found}
        for name, pool in parts.pools.items():
            kept = running.get(name)
            before: dict[str, float | None] = {}
            if kept is not None:
                before = {} if previous is None else previous._draining(name)
                # Before a visitor can be sent to one that is to drain from the start.
                self._drain(pool, {}, self._draining(name))
                kept.adopt(pool)
                parts.pools[name] = kept
            self._drain(parts.pools[name], before, self._draining(name))
        for route in parts.routes:
            if route.pool is not None:
                route.pool = parts.pools[route.pool.name]
        gateway.trusted_proxies = TrustedProxies(self.document.trusted_proxies)
        gateway.forwarded = self.document.forwarded
        gateway.replace_routes(parts.routes, discovery=parts.discovery)

    def make_pools(self) -> dict[str, Pool]:
        """Every pool of the file, by name, as nobody uses it yet."""
        return self._make().pools

    @property
    def routes(self) -> list[Route]:
        """The routes, as nobody uses them yet."""
        return self._make().routes

    def _make(self) -> _Parts:
        document = self.document
        keys = document.secrets or [_made_up_secret()]
        pools = {
            name: section.make(name, keys, self.folder) for name, section in document.pools.items()
        }
        finds = document.discovery
        discovery = None if finds is None else finds.make(keys, self.folder)
        if document.routes is None:
            return _Parts(pools, [Route(pool) for pool in pools.values()], discovery)
        routes = [route.build(pools[route.pool]) for route in document.routes]
        return _Parts(pools, routes, discovery)

    def _draining(self, pool: str) -> dict[str, float | None]:
        """The deadlines of the backends that are to drain."""
        section = self.document.pools.get(pool)
        backends = () if section is None else section.backends
        return {
            backend.build().id: backend.drain_deadline
            for backend in backends
            if backend.drain is not False
        }

    @staticmethod
    def _drain(pool: Pool, before: dict[str, float | None], now: dict[str, float | None]) -> None:
        for backend_id, deadline in now.items():
            # What was said before is under way, or was taken back by hand.
            if backend_id not in before or before[backend_id] != deadline:
                pool.drain(backend_id, deadline=deadline)
        for backend_id in before.keys() - now.keys():
            if backend_id in pool and pool[backend_id].is_drained_or_draining:
                pool.undrain(backend_id)

    @property
    def summary(self) -> str:
        """`2 pools, 5 backends, 3 routes`, and which of these discovery adds to."""
        document = self.document
        pools = document.pools.values()
        backends = sum(len(pool.backends) for pool in pools)
        routes = len(document.pools) if document.routes is None else len(document.routes)
        finds_pools = document.discovery is not None
        finds_backends = any(pool.discovery is not None for pool in pools)
        return ", ".join(
            f"{count} {word}{'' if count == 1 else 's'}{' and those found' if finds else ''}"
            for count, word, finds in (
                (len(document.pools), "pool", finds_pools),
                (backends, "backend", finds_backends or finds_pools),
                (routes, "route", finds_pools),
            )
        )

    def __repr__(self) -> str:
        return f"<Config {self.name} [{self.summary}]>"


@functools.cache
def _made_up_secret() -> str:
    return secrets.token_hex(32)


def load(path: str | Path, environ: Mapping[str, str] = os.environ, *, workers: int = 1) -> Config:
    """Read and check a configuration file.

    Args:
        path: The file. Relative paths in it start at its folder.
        environ: Where `${VARIABLES}` are looked up.
        workers: How many processes will use it. With more than one, affinity needs `secrets`.

    Raises:
        ConfigError: With everything that is wrong.
    """
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ConfigError([Problem(name, None, "", f"cannot be read: {exc.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(name, None, "", "is not text in UTF-8")]) from None
    return parse(text, name, environ, workers=workers, folder=Path(path).parent)


def parse(
    text: str,
    name: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    *,
    workers: int = 1,
    folder: Path = Path(),
) -> Config:
    """Check the text of a configuration file; `name` is what it is called in problems.

    Raises:
        ConfigError: With everything that is wrong.
    """
    source = Source(text, environ)
    found = list(source.problems)
    config: Config | None = None
    if source.data is not None:
        # What is said of a value's form already needs no second word.
        said = {path for _, path, _ in found}
        more = [*wrong_values(source.data), *wrong_references(source)]
        found += [(source.line(path), path, text) for path, text in more if path not in said]
    if not found:
        config = Config(Document.model_validate(source.data), folder=folder, name=name)
        wrong = [*wrong_objects(config.document, folder)]
        if workers > 1 and config.needs_secret:
            wrong.append(((), "secrets is missing: several workers must know the same ones"))
        found = [(source.line(path), path, text) for path, text in wrong]
    if config is None or found:
        unique = sorted(set(found), key=lambda item: (item[0], dotted(item[1])))
        raise ConfigError([Problem(name, line, dotted(path), text) for line, path, text in unique])
    return config


def quick(
    backends: Sequence[str], environ: Mapping[str, str] = os.environ, *, workers: int = 1
) -> Config:
    """What `run --backend URL ...` means: one pool, sticky by a signed cookie.

    Raises:
        ConfigError: With everything that is wrong.
    """
    data: dict[str, Any] = {
        "pools": {"default": {"backends": list(backends), "affinity": {"cookie": {}}}}
    }
    secret = environ.get("STICKY_SECRET")
    if secret is not None:
        data["secrets"] = [secret]
    problems = []
    for path, message in (*wrong_values(data), *twice(data, None)):
        if path[0] == "secrets":
            problems.append(Problem("STICKY_SECRET", None, "", message))
        else:
            problems.append(Problem("--backend", None, "", message))
    if workers > 1 and secret is None:
        message = "is not set: several workers must know the same secret"
        problems.append(Problem("STICKY_SECRET", None, "", message))
    if problems:
        raise ConfigError(problems)
    return Config(Document.model_validate(data), name="--backend")


class _Schema(GenerateJsonSchema):
    schema_dialect = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file, for editors."""
    schema = Document.model_json_schema(schema_generator=_Schema)
    return {
        "$schema": _Schema.schema_dialect,
        **schema,
        "title": "sticky_asgi gateway configuration",
    }
