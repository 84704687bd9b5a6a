"""What a process has used, from the kernel's own books (Linux)."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_cpu_seconds(pid: int, name: str) -> float:
    """Time that the threads of this name have run so far, to the nanosecond: a role's own, and those that it
    has started, which inherit its name."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    named = [task for task in threads if (task / "comm").read_text().strip() == name]
    if not named:
        raise ValueError(f"process {pid} has no thread named {name}")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in named) / 1e9


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no VmRSS")
