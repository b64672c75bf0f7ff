"""i-PI and its drivers side by side in one folder: started, followed and ended together.

    sockets = make_socket_folder()                 # i-PI and the drivers take it with `-S SOCKETS/`
    group = Group.start(GroupSettings(folder, Program("i-PI", [...], "ipi.log"), [driver, ...], os.environ, sockets))
    while (ending := group.poll()) is None: ...

No process and no socket is left behind, whatever happens to the program that started them: see `warden.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.errors import ExternalToolError

_WARDEN = Path(__file__).with_name("warden.py")
_TAIL_BYTES = 4096
_EXCERPT_LINES = 8
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS")


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
class Program:
    """A program to run.

    Attributes:
        name: What messages call it: "i-PI", "the driver".
        command: Its words.
        log: Name of the file in the folder that takes what it prints.
    """

    name: str
    command: Sequence[str]
    log: str


@dataclass(frozen=True)
class GroupSettings:
    """What to run.

    Attributes:
        folder: Where all run. Their logs are written anew there; old ones are renamed as i-PI does: `#ipi.log#0#`.
        server: i-PI.
        drivers: Any number; i-PI alone may do without.
        environment: The environment of all.
        socket_folder: A folder from `make_socket_folder`, removed at the end with the files in it.
        sockets: Socket files elsewhere, which i-PI makes; removed at the end.
        grace_seconds: How long each may take to end when asked to, before it is killed.
        held: Descriptors that stay open until all have ended, with the locks on them.
    """

    folder: Path
    server: Program
    drivers: Sequence[Program]
    environment: Mapping[str, str]
    socket_folder: Path | None = None
    sockets: Sequence[Path] = ()
    grace_seconds: float = 15.0
    held: Sequence[int] = ()

    @property
    def programs(self) -> tuple[Program, ...]:
        """All of them, the server first."""
        return (self.server, *self.drivers)


@dataclass(frozen=True)
class End:
    """How one program ended.

    Attributes:
        program: Which one.
        status: Exit status (minus the number of the signal that killed it); None if it never started.
        asked: Whether it had to be asked to end.
    """

    program: Program
    status: int | None
    asked: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ended by itself with an error."""
        return not self.asked and self.status != 0


@dataclass(frozen=True)
class Ending:
    """How a group ended.

    Attributes:
        folder: Where it ran.
        ends: How each program ended, the server first.
        first: Index of the one that ended first by itself; None if all were asked to end.
        error: What went wrong beside them: one could not be started, or what keeps them together was killed.
    """

    folder: Path
    ends: tuple[End, ...] = ()
    first: int | None = None
    error: str | None = None

    @property
    def server(self) -> End:
        """How i-PI ended."""
        return self.ends[0]

    @property
    def well(self) -> bool:
        """Whether i-PI ended by itself, and nobody with an error."""
        if self.error is not None or self.first is None:
            return False
        return not self.server.asked and not any(end.failed for end in self.ends)

    def explain(self) -> str:
        """Who failed, and the last lines of its log."""
        if self.error is not None:
            return self.error
        if self.first is None:
            return "all were asked to end"
        failed = [end for end in self.ends if end.failed]
        end = self.ends[self.first] if self.ends[self.first] in failed or not failed else failed[0]
        log = self.folder / end.program.log
        alone = "" if failed else " before i-PI did"
        return f"{end.program.name} ended with status {end.status}{alone}; {log} ends with\n{last_lines(log)}"


class Group:
    """i-PI and its drivers, running. Use `start`; call `poll` now and then, or `stop`."""

    def __init__(self, settings: GroupSettings, process: subprocess.Popen[bytes]) -> None:
        self.settings = settings
        self._process = process
        self._ending: Ending | None = None

    @classmethod
    def start(cls, settings: GroupSettings) -> Group:
        """Start all.

        Raises:
            ExternalToolError: The process that keeps them together cannot be started.
        """
        for program in settings.programs:
            keep_old(settings.folder / program.log)
        job = {
            "programs": [{"command": list(program.command), "log": program.log} for program in settings.programs],
            "sockets": [str(socket) for socket in settings.sockets],
            "socket_folder": None if settings.socket_folder is None else str(settings.socket_folder),
            "grace_seconds": settings.grace_seconds,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(_WARDEN), json.dumps(job)],
                cwd=settings.folder,
                env=dict(settings.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C in a terminal goes to the owner alone, who ends all in order.
                start_new_session=True,
                pass_fds=tuple(settings.held),
            )
        except OSError as error:
            raise ExternalToolError(f"{settings.folder}: i-PI and its drivers cannot be started ({error}).") from error
        return cls(settings, process)

    def poll(self) -> Ending | None:
        """How they ended; None while they run."""
        if self._ending is None and self._process.poll() is not None:
            self._ending = self._read_report()
        return self._ending

    def ask_to_stop(self) -> None:
        """Ask all to end, and return at once."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> Ending:
        """End all, wait for it, and say how they ended."""
        self.ask_to_stop()
        try:
            self._process.wait(4 * self.settings.grace_seconds + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self.poll() or Ending(self.settings.folder)

    def _read_report(self) -> Ending:
        self.ask_to_stop()
        text = b""
        if self._process.stdout is not None:
            text = self._process.stdout.read()
            self._process.stdout.close()
        folder, programs = self.settings.folder, self.settings.programs
        try:
            report = json.loads(text)
        except ValueError:
            # Only a killed warden says nothing.
            status = self._process.returncode
            unknown = tuple(End(program, None, asked=True) for program in programs)
            reason = f"the process that keeps i-PI and its drivers together ended with status {status}"
            return Ending(folder, unknown, error=reason)
        ends = tuple(
            End(program, status, index in report["asked"])
            for index, (program, status) in enumerate(zip(programs, report["statuses"], strict=True))
        )
        error = None if report["error"] is None else f"could not be started: {report['error']}"
        return Ending(folder, ends, report["first"], error)


def make_socket_folder() -> Path:
    """Make a new folder of short path for sockets: no name in it is in use, and the group removes it at its end."""
    return Path(tempfile.mkdtemp(prefix="ipi_", dir="/tmp" if os.access("/tmp", os.W_OK) else None))


def threads_environment(threads: int) -> dict[str, str]:
    """The environment of i-PI and drivers that may use so many threads each."""
    return {**os.environ, **dict.fromkeys(_THREADS, str(threads))}


def keep_old(file: Path) -> None:
    """Give an old file of this name another one, as i-PI does: `#ipi.log#0#`."""
    number = 0
    while (old := file.with_name(f"#{file.name}#{number}#")).exists():
        number += 1
    if file.exists():
        file.rename(old)


def last_lines(log: Path) -> str:
    """The end of a log file, indented."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - _TAIL_BYTES, 0))
            text = stream.read().decode(errors="replace")
    except OSError as error:
        return f"  (no log: {error.strerror})"
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_EXCERPT_LINES:]) or "  (nothing)"
