"""Label and field selectors, by the grammar of Kubernetes' `labels` and `fields` packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .errors import bad_request
from .resources import Object

Labels: TypeAlias = Mapping[str, str]
Requirement: TypeAlias = Callable[[Labels], bool]

_COMMA = re.compile(r",(?![^()]*\))")
_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_COMPARES = re.compile(rf"({_KEY})\s*([<>])\s*(-?[0-9]+)")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(({_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)")


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of a resource are meant.

    Attributes:
        namespace: Their namespace, or None for all.
        labels: What their labels have to fulfil.
        fields: What their fields have to fulfil.
    """

    namespace: str | None = None
    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether it only says where."""
        return not self.labels and not self.fields

    def matches(self, obj: Object | None) -> bool:
        if obj is None:
            return False
        metadata = obj["metadata"]
        if self.namespace is not None and metadata.get("namespace") != self.namespace:
            return False
        labels = metadata.get("labels") or {}
        fields = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata.get("namespace", ""),
        }
        return all(holds(labels) for holds in self.labels) and all(
            holds(fields) for holds in self.fields
        )


def parse(namespace: str | None, labels: str, fields: str) -> Selector:
    """Raises KubernetesError, 400, when one of them is no selector."""
    return Selector(
        namespace=namespace,
        labels=tuple(map(_label_requirement, _parts(labels))),
        fields=tuple(map(_field_requirement, _parts(fields))),
    )


def chosen_name(fields: str) -> str | None:
    """The one name that a field selector lets through, or None."""
    match = re.search(r"(?:^|,)metadata\.name==?([^,]*)", fields)
    return match[1] if match else None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in _COMMA.split(text)] if text.strip() else []


def _label_requirement(text: str) -> Requirement:
    if match := _EXISTS.fullmatch(text):
        return _exists(match[2], wanted=not match[1])
    if match := _EQUALS.fullmatch(text):
        return _is_one_of(match[1], {match[3]}, wanted=match[2] != "!=")
    if match := _SET.fullmatch(text):
        values = {value.strip() for value in match[3].split(",")}
        return _is_one_of(match[1], values, wanted=match[2] == "in")
    if match := _COMPARES.fullmatch(text):
        return _compares(match[1], match[2], int(match[3]))
    raise bad_request(f"unable to parse requirement: {text!r}")


def _field_requirement(text: str) -> Requirement:
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", text)
    if match is None:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    if match[1] not in ("metadata.name", "metadata.namespace"):
        raise bad_request(f"field label not supported: {match[1]}")
    return _is_one_of(match[1], {match[3]}, wanted=match[2] != "!=")


def _exists(key: str, *, wanted: bool) -> Requirement:
    return lambda labels: (key in labels) is wanted


def _is_one_of(key: str, values: set[str], *, wanted: bool) -> Requirement:
    """An object without the label is none of them: `!=` and `notin` choose it."""
    return lambda labels: (key in labels and labels[key] in values) is wanted


def _compares(key: str, sign: str, bound: int) -> Requirement:
    def holds(labels: Labels) -> bool:
        value = labels.get(key, "")
        if re.fullmatch(r"-?[0-9]+", value) is None:
            return False
        return int(value) > bound if sign == ">" else int(value) < bound

    return holds
