"""What the annotations of a Service ask for, in the words of several systems.

A pure translation: no object of the cluster is read here, and nothing is logged. What cannot be
read is a remark, counts as absent, and leaves the rest in force; nothing in a Service is an error.

`docs/translation.md` has the tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...found import RouteHint
from .findings import Remark
from .gateway_api import read_gateway_api
from .ingress_nginx import read_ingress_nginx
from .merge import merge
from .own import read_own
from .reading import Reading
from .traefik_v1 import read_traefik_v1
from .traefik_v2 import read_traefik_v2

__all__ = ["Reading", "Remark", "RouteHint", "read_annotations"]

_NONE: Mapping[str, str] = {}


def read_annotations(
    annotations: Mapping[str, str], *, labels: Mapping[str, str] = _NONE
) -> Reading:
    """What a Service's annotations say.

    Where several vocabularies say something of one setting, ours comes first, then Gateway API's,
    Traefik's from 2.2 on, Traefik's of 1.x, and ingress-nginx's; a contradiction is a warning.

    Args:
        annotations: The Service's annotations.
        labels: Its labels: where Traefik's oldest words once stood.
    """
    annotations, labels = _texts(annotations), _texts(labels)
    return merge(
        [
            read_own(annotations),
            read_gateway_api(annotations),
            read_traefik_v2(annotations),
            read_traefik_v1(annotations, labels),
            read_ingress_nginx(annotations),
        ]
    )


def _texts(pairs: Mapping[str, str]) -> dict[str, str]:
    """An API server sends nothing else than text. One that lies is not to bring anything down."""
    return {
        key: value
        for key, value in pairs.items()
        if isinstance(key, str) and isinstance(value, str)
    }
