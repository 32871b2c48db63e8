"""Cookie names as Traefik makes them, in all versions: what cannot be in one becomes `_`."""

from __future__ import annotations

import re

from .findings import Findings

_NOT_TOKEN = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")


def to_name(text: str) -> str | None:
    """The name, or None for the default one."""
    return _NOT_TOKEN.sub("_", text) or None


def warn_of_name(findings: Findings) -> None:
    """Say so where the cookie's name is not what the annotation says."""
    claim = findings.claims.get("name")
    if claim is not None and claim.key is not None and claim.value != findings.texts[claim.key]:
        findings.warn(claim.key, f"no cookie can have this name, only one such as {claim.value!r}")
