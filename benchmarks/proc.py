"""What Linux says of a tree of processes: CPU time, memory, and where it may run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
# Fields of /proc/<pid>/stat behind the command's name, which may itself hold spaces: proc(5).
_PPID, _UTIME, _STIME = 1, 11, 12


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[_PPID])
            except OSError:  # It has ended meanwhile.
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that processes have used so far, in user and kernel mode, in all their threads."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        ticks += int(fields[_UTIME]) + int(fields[_STIME])
    return ticks / _TICKS


def _status_kib(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(f"/proc/{pid}/status has no {name}")


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory that processes hold now."""
    return sum(_status_kib(pid, "VmRSS") for pid in pids) * 1024


def peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that processes have held since the peak was forgotten."""
    return sum(_status_kib(pid, "VmHWM") for pid in pids) * 1024


def forget_peak(pids: Iterable[int]) -> None:
    """Let the peak begin at what the processes hold now."""
    for pid in pids:
        (_PROC / str(pid) / "clear_refs").write_text("5")


def cores_of(pids: Iterable[int]) -> set[int]:
    """Every core on which some thread of the processes may run."""
    cores: set[int] = set()
    for pid in pids:
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
                cores |= os.sched_getaffinity(int(thread.name))
    return cores
