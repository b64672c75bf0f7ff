"""Whether processes have ended."""

from __future__ import annotations

import time
from pathlib import Path


def ended(pids, seconds=10.0):
    """Whether all processes are gone, soon; one that nobody has waited for yet counts as gone."""
    deadline = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running(pid):
    """Whether a process runs (Linux)."""
    try:
        # pid (command) state ...
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
