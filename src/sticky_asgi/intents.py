"""Who wishes what for the backends of a pool: operators, their source, and they themselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from .backend import BackendState, Intent
from .events import IntentChanged

logger = logging.getLogger("sticky_asgi")

#: The strictest wins.
_STRICTNESS = {Intent.ACTIVE: 0, Intent.DRAINING: 1, Intent.DOWN: 2}


class IntentKeeper:
    """Keeps the intents of one pool's backends.

    An operator's word and a backend's own stand in one place, the later instead of the earlier,
    but a backend undoes nothing that an operator has said. The word of discovery stands beside
    it, and the stricter of the two is in force: `BackendState.intent`. Both may speak at once, in
    several threads.

    Args:
        pool: The pool's name, for log and events.
        changed: Called when somebody may be used who was not, or the other way round.
        tell: Told of each change.
    """

    __slots__ = ("_changed", "_discovered", "_lock", "_pool", "_tell")

    def __init__(
        self, pool: str, changed: Callable[[], None], tell: Callable[[IntentChanged], None]
    ) -> None:
        self._pool = pool
        self._changed = changed
        self._tell = tell
        self._lock = threading.Lock()
        #: For whom the source has wished something, the last time it was heard.
        self._discovered: tuple[str, ...] = ()

    def wish(
        self, state: BackendState, intent: Intent, *, until: float | None = None, reason: str = ""
    ) -> None:
        """An operator wishes something for a backend.

        Args:
            state: The backend.
            intent: What is wished.
            until: When a drain ends, or has ended, by the pool's clock.
            reason: Why, for the log.
        """
        with self._lock:
            before, until_then = state.intent, state.drain_until
            state.wished, state.drain_until, state.drained_itself = intent, until, False
            state.intent = _strictest(state)
        self._changed()
        if (before, until_then) != (state.intent, until):
            self._say(state, before, reason)

    def end_drain(self, state: BackendState) -> None:
        """The deadline of a drain has passed: take the backend out of service."""
        if state.wished is Intent.DRAINING:
            self.wish(state, Intent.DOWN, until=state.drain_until, reason="its drain has ended")

    def discover(
        self, states: Mapping[str, BackendState], intents: Mapping[str, Intent]
    ) -> Mapping[BackendState, Intent]:
        """The pool's source wishes something for some of its backends, and nothing for others.

        Args:
            states: The pool's backends, by id.
            intents: What is wished for some of them, by id.

        Returns:
            For whom something else is wished than before, and what was in force before:
            `tell_of_discovered` is to follow.
        """
        before: dict[BackendState, Intent] = {}
        with self._lock:
            # Of thousands only those are looked at for whom something is wished, or was till now.
            wishes = dict.fromkeys(self._discovered, Intent.ACTIVE) | dict(intents)
            self._discovered = tuple(intents)
            for backend_id, wish in wishes.items():
                state = states.get(backend_id)
                if state is not None and wish is not state.discovered:
                    before[state] = state.intent
                    state.discovered = wish
                    state.intent = _strictest(state)
        return before

    def tell_of_discovered(self, before: Mapping[BackendState, Intent]) -> None:
        """Put in force, and tell, what `discover` has returned."""
        if before:
            self._changed()
        for state, intent in before.items():
            if state.intent is not intent:
                self._say(state, intent, "discovery")

    def observe_wish(self, state: BackendState, drains: bool, reason: str) -> None:
        """A backend says whether it wants new sessions."""
        if drains is state.wishes_drain:
            return
        state.wishes_drain = drains
        if drains and state.wished is Intent.ACTIVE:
            logger.info("pool %s: backend %s drains itself: %s", self._pool, state.id, reason)
            self.wish(state, Intent.DRAINING, reason=reason)
            state.drained_itself = True
        elif not drains and state.drained_itself:
            logger.info("pool %s: backend %s takes sessions again", self._pool, state.id)
            self.wish(state, Intent.ACTIVE, reason=reason)

    def forget_wishes(self, states: Iterable[BackendState], reason: str) -> None:
        """Nobody hears any more whether these backends want new sessions."""
        for state in states:
            if state.drained_itself:
                self.observe_wish(state, False, reason)

    @staticmethod
    def forget(state: BackendState) -> None:
        """A backend has left the pool, and what was wished for it with it."""
        state.intent = state.wished = state.discovered = Intent.ACTIVE
        state.drain_until = None
        state.wishes_drain = state.drained_itself = False

    def _say(self, state: BackendState, before: Intent, reason: str) -> None:
        self._tell(
            IntentChanged(
                pool=self._pool,
                backend=state.id,
                before=before,
                after=state.intent,
                until=state.drain_until,
                reason=reason,
            )
        )

    def __repr__(self) -> str:
        return f"<IntentKeeper of {self._pool}>"


def _strictest(state: BackendState) -> Intent:
    return max(state.wished, state.discovered, key=_STRICTNESS.__getitem__)
