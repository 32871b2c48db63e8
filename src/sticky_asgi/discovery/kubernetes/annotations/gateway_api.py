"""Gateway API's `sessionPersistence`, in an annotation of our own that holds JSON or YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....affinity.session_persistence import read_session_persistence
from .findings import Findings
from .own import PREFIX, SESSION_PERSISTENCE

KEY = PREFIX + SESSION_PERSISTENCE
#: A mapping in a mapping is all there is. What goes far beyond takes a parser its time.
_MAX_DEPTH = 3
_MAX_BRACKETS = 8
_NO_BLOCK = "must be JSON or YAML such as {type: Cookie, absoluteTimeout: 12h}"


def read_gateway_api(annotations: Mapping[str, str]) -> Findings:
    """What `sticky-asgi/session-persistence` says."""
    findings = Findings(annotations)
    if KEY in annotations:
        findings.read(KEY, "block", _to_settings)
    block = findings.claims.pop("block", None)
    if block is not None:
        findings.claim("sticky", True, KEY)
        for setting, value in block.value.items():
            if setting == "same_site":
                # Gateway API has no word for it: whoever has one may say otherwise.
                findings.defaults[setting] = value
            else:
                findings.claim(setting, value, KEY)
    return findings


def _to_settings(text: str) -> Mapping[str, Any]:
    block = _load(text)
    if not isinstance(block, Mapping):
        raise ValueError(_NO_BLOCK)
    return read_session_persistence(block).given()


def _load(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _load_yaml(text)


def _load_yaml(text: str) -> object:
    if text.count("{") + text.count("[") > _MAX_BRACKETS:
        raise ValueError(_NO_BLOCK)
    try:
        import yaml
    except ImportError:
        raise ValueError("is not JSON, and for YAML the package PyYAML is missing") from None
    depth = 0
    try:
        # First without making anything, because what is nested deeply takes its time.
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            is_start = isinstance(event, yaml.CollectionStartEvent)
            depth += is_start - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ValueError(_NO_BLOCK)
        # All of it as text: no dates, no numbers, no tags.
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise ValueError(_NO_BLOCK) from None
