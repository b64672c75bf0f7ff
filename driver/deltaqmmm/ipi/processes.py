"""i-PI and the driver side by side in one folder: started, followed and ended together.

    socket = make_socket_folder() / "run"          # i-PI and the driver take the folder with `-S FOLDER/`
    pair = Pair.start(PairSettings(folder, server=[...], driver=[...], socket=socket, environment=os.environ))
    while (ending := pair.poll()) is None: ...

No process and no socket is left behind, whatever happens to the program that started them: see `warden.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.errors import ExternalToolError

SERVER_LOG, DRIVER_LOG = "ipi.log", "driver.log"
_WARDEN = Path(__file__).with_name("warden.py")
_TAIL_BYTES = 4096
_EXCERPT_LINES = 8


def find_ipi() -> Path:
    """The `i-pi` program: beside this Python, else on PATH.

    Raises:
        ExternalToolError: There is none.
    """
    beside = Path(sys.executable).with_name("i-pi")
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which("i-pi")
    if found is None:
        raise ExternalToolError(
            f"i-PI was not found: there is no program `i-pi` beside {sys.executable} or on PATH. Install it with "
            "`pip install 'deltaqmmm[demo]'`, or put the folder of an installed one on PATH."
        )
    return Path(found)


@dataclass(frozen=True)
class PairSettings:
    """What to run.

    Attributes:
        folder: Where both run; the logs `ipi.log` and `driver.log` are written anew there.
        server: The command of i-PI.
        driver: The command of the driver.
        socket: The socket file that i-PI makes; removed at the end, and its folder too if that is empty then.
        environment: The environment of both.
        grace_seconds: How long each may take to end when asked to, before it is killed.
    """

    folder: Path
    server: Sequence[str]
    driver: Sequence[str]
    socket: Path
    environment: Mapping[str, str]
    grace_seconds: float = 15.0


@dataclass(frozen=True)
class Ending:
    """How a pair ended.

    Attributes:
        server_status: Exit status of i-PI (minus the number of the signal that killed it); None if it never started.
        driver_status: The same for the driver.
        first: "server" or "driver", whichever ended first by itself; None if both were asked to end.
        error: What the operating system said if one could not be started.
    """

    server_status: int | None
    driver_status: int | None
    first: str | None
    error: str | None

    @property
    def well(self) -> bool:
        """Whether both ended by themselves, without an error."""
        return self.server_status == 0 and self.driver_status == 0 and self.first is not None

    def explain(self, folder: Path) -> str:
        """Who failed, and the last lines of its log."""
        if self.error is not None:
            return f"could not be started: {self.error}"
        if self.first == "driver":
            name, status, log = "the driver", self.driver_status, folder / DRIVER_LOG
        else:
            name, status, log = "i-PI", self.server_status, folder / SERVER_LOG
        if status == 0 and self.first == "server" and self.driver_status != 0:
            name, status, log = "the driver", self.driver_status, folder / DRIVER_LOG
        return f"{name} ended with status {status}; {log} ends with\n{last_lines(log)}"


class Pair:
    """i-PI and a driver, running. Use `start`; call `poll` now and then, or `stop`."""

    def __init__(self, settings: PairSettings, process: subprocess.Popen[bytes]) -> None:
        self.settings = settings
        self._process = process
        self._ending: Ending | None = None
        self._step = -1
        self._moved = time.monotonic()

    @classmethod
    def start(cls, settings: PairSettings) -> Pair:
        """Start both.

        Raises:
            ExternalToolError: The process that keeps them together cannot be started.
        """
        for log in (SERVER_LOG, DRIVER_LOG):
            (settings.folder / log).unlink(missing_ok=True)
        job = {
            "server": {"command": list(settings.server), "log": SERVER_LOG},
            "driver": {"command": list(settings.driver), "log": DRIVER_LOG},
            "socket": str(settings.socket),
            "grace_seconds": settings.grace_seconds,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(_WARDEN), json.dumps(job)],
                cwd=settings.folder,
                env=dict(settings.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C in a terminal goes to the owner alone, who ends both in order.
                start_new_session=True,
            )
        except OSError as error:
            raise ExternalToolError(f"{settings.folder}: i-PI and the driver cannot be started ({error}).") from error
        return cls(settings, process)

    @property
    def step(self) -> int:
        """The last step in run.out; -1 before the first."""
        step = last_step(self.settings.folder / "run.out")
        if step > self._step:
            self._step, self._moved = step, time.monotonic()
        return self._step

    def seconds_without_step(self) -> float:
        """For how long no step was finished."""
        before = self._step
        return 0.0 if self.step != before else time.monotonic() - self._moved

    def poll(self) -> Ending | None:
        """How they ended; None while they run."""
        if self._ending is None and self._process.poll() is not None:
            self._ending = self._read_report()
        return self._ending

    def ask_to_stop(self) -> None:
        """Ask both to end, and return at once."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> Ending:
        """End both, wait for it, and say how they ended."""
        self.ask_to_stop()
        try:
            self._process.wait(2 * self.settings.grace_seconds + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self.poll() or Ending(None, None, None, None)

    def _read_report(self) -> Ending:
        self.ask_to_stop()
        text = b""
        if self._process.stdout is not None:
            text = self._process.stdout.read()
            self._process.stdout.close()
        try:
            report = json.loads(text)
        except ValueError:
            # Only a killed warden says nothing.
            return Ending(None, None, None, f"their keeper ended with status {self._process.returncode}")
        return Ending(report["server"], report["driver"], report["first"], report["error"])


def make_socket_folder() -> Path:
    """Make a new folder of short path for one socket: no name in it is in use, and the pair removes it at its end."""
    return Path(tempfile.mkdtemp(prefix="ipi_", dir="/tmp" if os.access("/tmp", os.W_OK) else None))


def last_step(properties: Path) -> int:
    """The step in the last complete line of an i-PI property file whose first column is the step; -1 if none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # What stands after the last line break is not yet complete.
        lines = _tail(properties).rpartition(b"\n")[0].splitlines()
        return int(float(lines[-1].split()[0]))
    return -1


def last_lines(log: Path) -> str:
    """The end of a log file, indented."""
    try:
        text = _tail(log).decode(errors="replace")
    except OSError as error:
        return f"  (no log: {error.strerror})"
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_EXCERPT_LINES:]) or "  (nothing)"


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(stream.tell() - _TAIL_BYTES, 0))
        return stream.read()
