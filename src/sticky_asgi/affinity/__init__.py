"""Affinity: which backend a visitor belongs to, and how the visitor is told."""

from .base import Affinity, AffinityStatus, LostAction, OnLost, PoolView, Resolution
from .cookie import SignedCookie

__all__ = [
    "Affinity",
    "AffinityStatus",
    "LostAction",
    "OnLost",
    "PoolView",
    "Resolution",
    "SignedCookie",
]
