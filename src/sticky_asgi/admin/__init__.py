"""What operators and orchestrators ask of the gateway itself."""

from .status import StatusEndpoints

__all__ = ["StatusEndpoints"]
