"""What several vocabularies say of one Service, made into one word.

Each setting is taken from the first vocabulary that says something of it that can be. So a
Service may keep the annotations of what it was made for, and have some of ours besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from ....affinity.settings import CookieSettings
from ...found import RouteHint
from .findings import Claim, Findings, Remark
from .reading import Reading

#: So many warnings of one Service are enough for anybody's log.
MAX = 50

#: Where two cannot go together, browsers would refuse the cookie: the later one has to go.
_COOKIE = (
    "name",
    "same_site",
    "partitioned",
    "secure",
    "path",
    "domain",
    "http_only",
    "max_age",
    "idle_timeout",
    "absolute_timeout",
    "on_lost",
)


def merge(vocabularies: Sequence[Findings]) -> Reading:
    """The word of all of them, those that come first before the others."""
    merger = _Merger(vocabularies)
    affinity = merger.cookie() if merger.first("sticky") else None
    return Reading(
        affinity=affinity,
        scheme=merger.first("scheme"),
        host=merger.first("host"),
        routes=merger.routes(),
        warnings=(*(w for found in vocabularies for w in found.warnings), *merger.warnings)[:MAX],
        notes=tuple(note for found in vocabularies for note in found.notes),
    )


class _Merger:
    """Goes through the vocabularies, setting by setting."""

    def __init__(self, vocabularies: Sequence[Findings]) -> None:
        self._vocabularies = vocabularies
        self.warnings: list[Remark] = []

    def first(self, setting: str) -> Any:
        """What is said of a setting first; what says otherwise is warned of."""
        winner: Claim | None = None
        for found in self._vocabularies:
            claim = found.claims.get(setting)
            if claim is None:
                continue
            winner = winner or claim
            self._warn_if_other(found, claim, winner)
        return None if winner is None else winner.value

    def routes(self) -> tuple[RouteHint, ...] | None:
        """Each path with each host; None if that might be more than was meant."""
        paths, hosts = self.first("route_paths"), self.first("route_hosts")
        if hosts is None and self._is_unreadable("route_hosts"):
            return None
        if paths is None and hosts is None:
            return ()
        if paths is None and self._is_unreadable("route_paths"):
            return None
        strip = bool(self.first("strip_prefix"))
        return tuple(
            RouteHint(path=path, host=host, strip_prefix=strip)
            for path, host in product(paths or ("/",), hosts or (None,))
        )

    def _is_unreadable(self, setting: str) -> bool:
        return any(setting in found.unreadable for found in self._vocabularies)

    def cookie(self) -> CookieSettings:
        """The cookie's settings; those it cannot have are left out, with a warning."""
        settings = CookieSettings()
        for setting in _COOKIE:
            winner: Claim | None = None
            for found, claim in self._candidates(setting):
                if winner is not None:
                    self._warn_if_other(found, claim, winner)
                    continue
                try:
                    settings = CookieSettings(**settings.given(), **{setting: claim.value})
                except (ValueError, TypeError) as exc:
                    self._warn(found, claim, f"ignored: {exc}")
                else:
                    winner = claim
        return settings

    def _candidates(self, setting: str) -> Iterator[tuple[Findings, Claim]]:
        """What is said of a setting by those who want a cookie, then what goes without saying."""
        sticky = [found for found in self._vocabularies if found.is_sticky]
        for found in sticky:
            if setting in found.claims:
                yield found, found.claims[setting]
        for found in sticky:
            if setting in found.defaults:
                yield found, Claim(found.defaults[setting])

    def _warn_if_other(self, found: Findings, claim: Claim, winner: Claim) -> None:
        if claim.value != winner.value and winner.key is not None:
            self._warn(found, claim, f"ignored: {winner.key} says otherwise and comes first")

    def _warn(self, found: Findings, claim: Claim, message: str) -> None:
        if claim.key is not None:
            self.warnings.append(Remark(claim.key, found.texts[claim.key], message))
