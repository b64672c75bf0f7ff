"""Keeps i-PI and the driver together, and outlives whoever started them just long enough to end both.

A program of its own that needs the standard library alone (`python warden.py JSON`): `deltaqmmm.ipi.processes` starts
it and holds the other end of its standard input. When that closes, however its owner died, both programs are ended and
the socket is removed. Should the warden itself be killed, Linux ends both (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAUSE = 0.1
"""Seconds between two looks at the programs."""
_PR_SET_PDEATHSIG = 1


class _Ended(Exception):  # noqa: N818 - not an error
    """The owner closed the pipe, or a signal asks to end."""


def main(text: str) -> int:
    """Run both programs to their end, and report how it came.

    Args:
        text: JSON object with `server` and `driver`, each {"command": [...], "log": file name}; `socket`, the file that
            the server makes; `grace_seconds`, how long a program may take to end when asked to.

    Returns:
        0. What happened goes to standard output as a JSON object: the exit status of `server` and `driver` (null if it
        could not be started), `first`, the name of the one that ended first (null: both were asked to), and `error`.
    """
    job = json.loads(text)
    grace = float(job["grace_seconds"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    programs: dict[str, subprocess.Popen[bytes]] = {}
    report: dict[str, Any] = {"first": None, "error": None}
    try:
        for name in ("server", "driver"):
            # i-PI removes its socket when asked to end; the driver has nothing to put in order.
            programs[name] = _start(job[name], signal.SIGTERM if name == "server" else signal.SIGKILL)
        report["first"] = _first_to_end(programs)
        other = programs["driver" if report["first"] == "server" else "server"]
        # One that ended well takes the other along; after a failure i-PI would wait for another driver for ever.
        if programs[report["first"]].returncode == 0:
            _wait(other, grace)
    except _Ended:
        pass
    except OSError as error:
        report["error"] = str(error)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _end(list(programs.values()), grace)
        with contextlib.suppress(OSError):
            os.unlink(job["socket"])
        with contextlib.suppress(OSError):
            # The folder of the socket, when it was made for this run alone.
            os.rmdir(Path(job["socket"]).parent)
    report |= {name: programs[name].returncode if name in programs else None for name in ("server", "driver")}
    # The owner may be dead.
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(report).encode())
    return 0


def _raise_ended(number: int, frame: object) -> None:
    raise _Ended


def _start(program: dict[str, Any], at_death: signal.Signals) -> subprocess.Popen[bytes]:
    owner = os.getpid()
    with open(program["log"], "ab") as log:
        return subprocess.Popen(
            program["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # This process has a single thread, so code between fork and exec is safe.
            preexec_fn=lambda: _die_with(owner, at_death),
        )


def _die_with(owner: int, number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent dies; Linux only."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != owner:
        os._exit(1)


def _first_to_end(programs: dict[str, subprocess.Popen[bytes]]) -> str:
    """Wait for the end of one of them.

    Raises:
        _Ended: The owner has closed the pipe.
    """
    while True:
        for name, process in programs.items():
            if process.poll() is not None:
                return name
        _pause()


def _pause() -> None:
    readable, _, _ = select.select([0], [], [], PAUSE)
    if readable and not os.read(0, 1024):
        raise _Ended


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        _pause()


def _end(processes: list[subprocess.Popen[bytes]], grace: float) -> None:
    """Ask all to end, in order; kill those that do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
