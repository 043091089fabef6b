"""The memory of this process, in MB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MB = 1 << 20


def most_resident() -> float:
    """What this process ever held."""
    # Not ru_maxrss where there is another way: on Linux a process inherits its parent's.
    found = _status("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KB
    return peak / (MB if sys.platform == "darwin" else 1 << 10)


def resident() -> float:
    """What it holds now; where that is not told, the peak up to now, which is near it."""
    found = _status("VmRSS")
    return most_resident() if found is None else found


def _status(field: str) -> float | None:
    """A field of Linux's /proc/self/status; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
