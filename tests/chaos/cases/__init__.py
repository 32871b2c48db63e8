"""The cases: what is done to whom, and what must not come of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ..arena import Arena
from ..bounds import Check
from .down import down
from .front import front
from .hostile import hostile
from .hung import hung
from .killed import killed
from .reloads import reloads
from .rolling import rolling
from .sigterm import sigterm
from .steady import steady


@dataclass(frozen=True, slots=True)
class Case:
    """Something to do to a gateway.

    Attributes:
        name: What it is called.
        run: Does it, and says what came of it. Raises ChaosError if it cannot be done.
        workers: It is done to gateways of so many processes, one after the other.
        is_usual: Whether it is done unless others are asked for.
    """

    name: str
    run: Callable[[Arena], Coroutine[Any, Any, Sequence[Check]]]
    workers: Sequence[int] = (1,)
    is_usual: bool = True


CASES = {
    case.name: case
    for case in (
        Case("killed", killed),
        Case("rolling", rolling),
        Case("hung", hung),
        Case("down", down),
        Case("reloads", reloads, workers=(1, 2)),
        Case("sigterm", sigterm, workers=(1, 2)),
        Case("hostile", hostile),
        Case("front", front),
        Case("steady", steady, is_usual=False),
    )
}
