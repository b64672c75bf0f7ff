"""Which processes there are, and whether they have ended (Linux)."""

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
    """Whether a process runs."""
    return _status(pid)[0] != "Z"


def children(pid):
    """Processes whose parent is this one."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [one for one in found if _status(one)[1] == str(pid)]


def _status(pid):
    """State and parent of a process; those of one that has ended where there is none."""
    try:
        # pid (command) state parent ...
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", "0"
