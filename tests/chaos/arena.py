"""What a case is run in: it starts replicas, gateways and visitors, and ends whatever is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bounds import Check, none_of
from .gateway import POOL, Gateway
from .load import Load
from .replicas import Replicas
from .tally import described, problems
from .visitors import Visitor

SECRET = "the secret of all gateways here"


def say(what: str) -> None:
    """Tell whoever waits for the table what is going on."""
    sys.stderr.write(f"  {what}\n")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for.

    Attributes:
        seed: All that is random follows from it.
        minutes: How long `steady` takes.
        changed: Keys of the pools in the configuration file, in place of the usual ones.
        pace: Times of the cases are multiplied by it. Less than 1 tests the cases themselves.
    """

    seed: int = 1
    minutes: int = 10
    changed: Mapping[str, Any] = field(default_factory=dict)
    pace: float = 1.0


class Arena:
    """A context manager; makes what a case needs.

    Args:
        folder: For configuration files and logs.
        options: What the run was asked for.
        workers: Of each gateway.
    """

    def __init__(self, folder: Path, options: Options, workers: int = 1) -> None:
        self.folder = folder
        self.options = options
        self.workers = workers
        self._stack = ExitStack()
        self._gateways: list[Gateway] = []

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def sleep(self, seconds: float) -> None:
        """Let some time of a case pass."""
        await asyncio.sleep(seconds * self.options.pace)

    async def replicas(self, count: int = 3) -> Replicas:
        """Replicas that run."""
        replicas = Replicas(count)
        self._stack.callback(replicas.end)
        await replicas.start(*replicas.names)
        return replicas

    def document(self, backends: Sequence[Mapping[str, Any]], **pool: Any) -> Mapping[str, Any]:
        """A configuration file with these backends in one pool."""
        settings = {**POOL, **pool, **self.options.changed}
        pools = {"chaos": {"backends": [*backends], **settings}}
        return {"secrets": [SECRET], "pools": pools, "admin": {}}

    async def gateway(
        self, document: Mapping[str, Any], *, name: str = "gateway", **options: Any
    ) -> Gateway:
        """A gateway that runs. Raises ChaosError."""
        gateway = Gateway(self.folder, name, workers=self.workers, **options)
        self._stack.callback(gateway.end)
        self._gateways.append(gateway)
        gateway.write(document)
        await asyncio.to_thread(gateway.start)
        return gateway

    def load(self, gateway: Gateway, *, wait: float = 0.0, **options: Any) -> Load:
        """Visitors of a gateway."""
        return Load(lambda name: Visitor(name, gateway.port, wait), **options)

    def broken(self, load: Load) -> list[Check]:
        """What must hold in every case, and is told only if it does not."""
        faults = sum(len(gateway.faults) for gateway in self._gateways)
        checks = (
            none_of("requests that no visitor was free for", load.unmade),
            none_of("bugs in the gateway's log", faults),
        )
        return [check for check in checks if not check.holds]


def no_error(load: Load) -> Check:
    """Every answer was there, and was right."""
    found = problems(load.outcomes)
    return none_of(f"errors in {len(load.outcomes):,} requests", found.total(), described(found))
