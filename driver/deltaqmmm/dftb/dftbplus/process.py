"""A worker process with one instance of DFTB+, as its owner sees it."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.companions import Companion, ending
from deltaqmmm.dftb.dftbplus import worker
from deltaqmmm.dftb.dftbplus.library import Library
from deltaqmmm.dftb.dftbplus.snapshot import Snapshot
from deltaqmmm.errors import ExternalToolError
from deltaqmmm.results import FloatArray

START_SECONDS = 120.0
"""Longest time in which a worker reads the parameters: a file system may be slow when many start."""

_SCC_LINE = re.compile(r"(?m)^\s+(\d+)\s+-?\d\.\d+E[+-]\d+\s+-?\d\.\d+E[+-]\d+\s+(\d\.\d+E[+-]\d+)\s*$")


@dataclass(frozen=True)
class Setup:
    """What a worker computes with.

    Attributes:
        library: DFTB+.
        text: Its input.
        snapshot: What lies beside it, where relative paths in it begin; None where it has none.
        threads: Threads of a worker.
    """

    library: Library
    text: str
    snapshot: Snapshot | None = None
    threads: int = 1


@dataclass(frozen=True)
class Readiness:
    """What a worker tells when it has read its input.

    Attributes:
        n_atoms: Number of atoms.
        masses: Their masses, atomic units; None where the library does not tell them.
        processed: What DFTB+ understood of its input; None where it did not write that.
    """

    n_atoms: int
    masses: FloatArray | None
    processed: str | None


@dataclass(frozen=True)
class Answer:
    """What one frame gave.

    Attributes:
        energy: Mermin free energy, hartree.
        gradients: At fixed potential, shape (n, 3), hartree/bohr.
        charges: Gross charges, shape (n,), e.
        cycles: SCC cycles.
        memory: What the process held afterwards, bytes.
    """

    energy: float
    gradients: FloatArray
    charges: FloatArray
    cycles: int
    memory: int


@dataclass(frozen=True)
class Death:
    """How a worker ended in the middle of a frame.

    Attributes:
        reason: In words.
        by_dftbplus: Whether DFTB+ itself ended it, with a message.
        cycles: SCC cycles of the frame, as far as its output tells.
        residual: Largest change of a charge in the last of them, e.
    """

    reason: str
    by_dftbplus: bool
    cycles: int = 0
    residual: float | None = None


class Worker:
    """A process; `receive_readiness` comes first, then frames are given and answers received, in the same order."""

    def __init__(self, setup: Setup) -> None:
        """Start the process without waiting for it.

        Raises:
            ExternalToolError: It cannot be started, or its folder cannot be made.
        """
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS
        self.memory_at_first: int | None = None
        try:
            self._companion = self._start(setup)
        except OSError as error:
            raise ExternalToolError(
                f"the folder of a DFTB+ process cannot be made ({error}): look at the space there and at `ulimit -n`, "
                "or have the environment variable TMPDIR name another place."
            ) from error
        self.connection = self._companion.connection
        self.process = self._companion.process
        with contextlib.suppress(OSError):
            self.connection.send({"library": str(setup.library.file), "module": str(setup.library.module)})

    def _start(self, setup: Setup) -> Companion:
        self.folder = Path(tempfile.mkdtemp(prefix="deltaqmmm_dftbplus_"))
        try:
            with_it = []
            if setup.snapshot is not None:
                setup.snapshot.furnish(self.folder)
                with_it.append(str(setup.snapshot.folder))
            (self.folder / worker.INPUT).write_text(setup.text)
            with (self.folder / "output.txt").open("ab") as output:
                return Companion(
                    [worker.__file__],
                    with_it,
                    threads=setup.threads,
                    folder=self.folder,
                    output=output,
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def receive_readiness(self) -> Readiness:
        """Wait for the worker to be ready.

        Raises:
            ExternalToolError: It cannot be; the message has DFTB+'s words.
        """
        try:
            if not self.connection.poll(max(self.deadline - time.monotonic(), 0.0)):
                raise ExternalToolError(f"DFTB+ did not start within {START_SECONDS:g} s.")
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            raise ExternalToolError(f"DFTB+ could not start: {self.bury().reason}") from None
        if kind == "refused":
            raise ExternalToolError(f"DFTB+ could not be loaded: {content[0]}")
        self.ready = True
        return Readiness(*content)

    def give(self, positions: FloatArray, potentials: FloatArray, seconds: float) -> None:
        """Send frames, few enough for what the socket holds: a worker that does not read would hold up its owner.

        Args:
            positions: Shape (B, n, 3), bohr.
            potentials: Shape (B, n), hartree/e.
            seconds: For each of them.
        """
        self.extend(seconds)
        # A worker that has just died shows itself when its answer is waited for.
        with contextlib.suppress(OSError):
            self.connection.send((positions, potentials))

    def extend(self, seconds: float) -> None:
        """The next answer must be there within this time."""
        self.deadline = time.monotonic() + seconds

    def receive(self) -> Answer | Death:
        """The next answer; where Python failed in the worker, how, and it has been ended.

        Raises:
            EOFError: The process has ended.
            OSError: It ended in the middle of an answer.
        """
        content = self.connection.recv()
        if isinstance(content, str):
            self.end()
            return Death(f"its process failed with {content}", by_dftbplus=False)
        answer = Answer(*content)
        self.memory_at_first = answer.memory if self.memory_at_first is None else self.memory_at_first
        return answer

    def grown(self, answer: Answer) -> int:
        """By how many bytes its memory has grown since its first frame."""
        return answer.memory - (answer.memory if self.memory_at_first is None else self.memory_at_first)

    def bury(self) -> Death:
        """How it ended; its traces are removed."""
        # The socket closes when the process ends, a moment before it can be waited for.
        status = self._companion.status(5.0)
        output = ""
        with contextlib.suppress(OSError):
            output = (self.folder / "output.txt").read_text(errors="replace")
        self.end()
        return _death(status, output)

    def end(self) -> None:
        """End the process; a calculation under way is dropped. A process forked from the owner leaves it alone."""
        if self._companion.end():
            shutil.rmtree(self.folder, ignore_errors=True)


def _death(status: int | None, output: str) -> Death:
    """What the status and the end of the output tell."""
    *_, last = [("0", None), *_SCC_LINE.findall(output)]
    cycles, residual = int(last[0]), None if last[1] is None else float(last[1])
    before, mark, message = output.rpartition("ERROR!")
    if mark:
        if "Code halting" in message:
            # What is wrong with the input has been said as a warning.
            message = before.rpartition("WARNING!")[2]
        words = " ".join(_message_lines(message))
        return Death(f'DFTB+ says "{words}"', by_dftbplus=True, cycles=cycles, residual=residual)
    tail = "" if status is not None and status < 0 else " ".join(output.split()[-40:])
    return Death(ending(status) + (f": {tail}" if tail else ""), by_dftbplus=False)


def _message_lines(message: str) -> Iterator[str]:
    """The lines of an error message of DFTB+, which begin with an arrow; some have more under them."""
    for line in message.strip().splitlines():
        words = line.strip().removeprefix("->").strip()
        if words.startswith(("ERROR STOP", "Error termination", "Backtrace")):
            return
        if words:
            yield words
