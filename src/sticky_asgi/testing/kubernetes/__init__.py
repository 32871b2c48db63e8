"""A strict fake of the Kubernetes API server, and manifests to fill it with."""

from .errors import KubernetesError
from .fake import FakeKubernetes
from .log import Request
from .manifests import endpoint, endpoint_slice, service
from .serving import RunningKubernetes

__all__ = [
    "FakeKubernetes",
    "KubernetesError",
    "Request",
    "RunningKubernetes",
    "endpoint",
    "endpoint_slice",
    "service",
]
