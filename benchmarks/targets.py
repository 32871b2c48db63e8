"""What the gateway promises."""

from __future__ import annotations

from .pools import POLICIES
from .results import Target

TARGETS = (
    Target("100b", "gateway", "traefik", 1.0),
    Target("100b", "gateway", "uvicorn", 2.0),
    Target("100b", "gateway", "asgiproxy", 0.4),
    Target("100b", "gateway", "httpx", 0.04),
    Target("10k", "gateway", "traefik", 1.0),
    Target("upload64k", "gateway", "traefik", 1.3),
    Target("1m", "gateway", "traefik", 1.5),
    Target("backends", "sticky, 10,000 backends", "sticky, 2 backends", 1.2),
    *(
        Target("backends", f"{policy}, 10,000 backends", f"{policy}, 2 backends", 1.5)
        for policy in POLICIES
    ),
    Target("discovery", "20 pods, one by one, slowest", None, 100.0),
    Target("discovery", "5,000 pods, 100 a second, slowest", None, 100.0),
    Target("discovery turns", "100 a second, CPU time", None, 10.0),
    Target("slow_reader", "gateway", None, 4.0),
    Target("idle", "gateway", "uvicorn", 1.3),
    Target("latency p50", "gateway", "traefik", 1.2),
    Target("latency p99", "gateway", "traefik", 1.5),
    Target("ws", "gateway", "traefik", 1.5),
    Target("ws_idle", "gateway", "uvicorn", 2.0),
)
