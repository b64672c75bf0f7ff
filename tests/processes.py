"""Which processes there are, whether they have ended, and what is told in a forked one (Linux)."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings
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


def raised_in_fork(function, seconds=20.0):
    """What a function raises in a forked child, in words; it may hang there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of newer Pythons: that a process with threads is forked is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - nothing may leave the child
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as words:
        if not select.select([words], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return words.read()


def _status(pid):
    """State and parent of a process; those of one that has ended where there is none."""
    try:
        # pid (command) state parent ...
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", "0"
