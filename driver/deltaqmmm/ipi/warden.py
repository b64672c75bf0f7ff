"""Keeps i-PI and its drivers together, and outlives whoever started them just long enough to end them all.

A program of its own that needs the standard library alone (`python warden.py JSON`): `deltaqmmm.ipi.processes` starts
it and holds the other end of its standard input. When that closes, however its owner died, all programs are ended and
the sockets are removed. Should the warden itself be killed, Linux ends them (PR_SET_PDEATHSIG).
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
from typing import Any

PAUSE = 0.1
"""Seconds between two looks at the programs."""
AFTER_SERVER = 3.0
"""Seconds in which a driver ends by itself once i-PI has; one that was never connected does not."""
AFTER_SIGNAL = 3.0
"""Seconds that i-PI has after a signal to the warden, which whoever sends signals to whole jobs has sent to i-PI too:
it looks at signals once in a second, and a second one in that time would end it without a RESTART."""
_PR_SET_PDEATHSIG = 1

Process = subprocess.Popen[bytes]


class _Ended(Exception):  # noqa: N818 - not an error
    """The owner closed the pipe, or a signal asks to end."""

    def __init__(self, *, by_signal: bool = False) -> None:
        super().__init__()
        self.by_signal = by_signal


def main(text: str) -> int:
    """Run all programs to their end, and report how it came.

    Args:
        text: JSON object with `programs`, a list of {"command": [...], "log": file name}, the first one the server;
            `sockets`, files to remove at the end; `socket_folder`, a folder to remove with the files in it (or null);
            `grace_seconds`, how long a program may take to end when asked to.

    Returns:
        0. What happened goes to standard output as a JSON object: `statuses`, the exit status of each program (null if
        it could not be started); `first`, the index of the one that ended first (null: all were asked to); `asked`, the
        indices of those that did not end by themselves; and `error`.
    """
    job = json.loads(text)
    grace = float(job["grace_seconds"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    programs: list[Process] = []
    report: dict[str, Any] = {"first": None, "error": None}
    by_signal = False
    try:
        for index, program in enumerate(job["programs"]):
            # i-PI removes its socket when asked to end; a driver has nothing to put in order.
            programs.append(_start(program, signal.SIGKILL if index else signal.SIGTERM))
        report["first"] = first = _first_to_end(programs)
        # One that ended well takes the others along; after a failure i-PI would wait for another driver for ever.
        if programs[first].returncode == 0:
            _wait(programs, grace if first else min(grace, AFTER_SERVER))
    except _Ended as ended:
        by_signal = ended.by_signal
    except OSError as error:
        report["error"] = str(error)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if by_signal:
            _wait_for(programs[:1], AFTER_SIGNAL)
        report["asked"] = [index for index, process in enumerate(programs) if process.poll() is None]
        _end(programs, grace)
        _remove(job["sockets"], job["socket_folder"])
    started = [process.returncode for process in programs]
    report["statuses"] = started + [None] * (len(job["programs"]) - len(started))
    # The owner may be dead.
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(report).encode())
    return 0


def _raise_ended(number: int, frame: object) -> None:
    raise _Ended(by_signal=True)


def _start(program: dict[str, Any], at_death: signal.Signals) -> Process:
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


def _first_to_end(programs: list[Process]) -> int:
    """Wait for the end of one of them.

    Raises:
        _Ended: The owner has closed the pipe.
    """
    while True:
        for index, process in enumerate(programs):
            if process.poll() is not None:
                return index
        _pause()


def _pause() -> None:
    readable, _, _ = select.select([0], [], [], PAUSE)
    if readable and not os.read(0, 1024):
        raise _Ended


def _wait(processes: list[Process], seconds: float) -> None:
    """Wait for the end of all, or of the owner."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        _pause()


def _wait_for(processes: list[Process], seconds: float) -> None:
    """Wait for the end of all, whatever the owner does."""
    deadline = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.0))


def _end(programs: list[Process], grace: float) -> None:
    """Ask all to end, i-PI first, and kill those that do not.

    i-PI writes RESTART once the drivers have answered what they were asked, and tells them that it ends. Where that
    takes too long the drivers are ended before it: i-PI then goes on as if they had answered.
    """
    server, drivers = programs[:1], programs[1:]
    _ask(server)
    _wait_for(server, grace)
    if all(process.poll() == 0 for process in server):
        _wait_for(drivers, min(grace, AFTER_SERVER))
    _ask(drivers)
    _wait_for(drivers, grace)
    _kill(drivers)
    _wait_for(server, grace)
    _kill(server)


def _ask(processes: list[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)


def _kill(processes: list[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _remove(sockets: list[str], folder: str | None) -> None:
    if folder is not None:
        with contextlib.suppress(OSError):
            sockets = [*sockets, *(os.path.join(folder, name) for name in os.listdir(folder))]
    for socket in sockets:
        with contextlib.suppress(OSError):
            os.unlink(socket)
    if folder is not None:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
