"""Affinity: which backend a visitor belongs to, and how the visitor is told."""

from .annotated import AnnotatedCookie
from .base import Affinity, AffinityStatus, LostAction, OnLost, PoolView, Resolution
from .cookie import SignedCookie
from .settings import CookieSettings

__all__ = [
    "Affinity",
    "AffinityStatus",
    "AnnotatedCookie",
    "CookieSettings",
    "LostAction",
    "OnLost",
    "PoolView",
    "Resolution",
    "SignedCookie",
]
