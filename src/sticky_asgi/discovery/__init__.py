"""Sources of backends: pools that find their backends by themselves."""

from .dns import DNS
from .file import File

__all__ = [
    "DNS",
    "File",
]
