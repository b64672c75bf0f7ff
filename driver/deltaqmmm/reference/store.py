"""The folder of finished frames: what a labelling run has done so far survives whatever happens to it.

Beside the output ``name.h5`` stands the folder ``name.h5.parts`` while a run is under way. Every finished frame is a
small dataset file of its own there, written whole or not at all, so a kill at any moment loses only the frames that
were being computed. When all frames are done they are joined in the output, which replaces the old one at once; only
then is the folder removed. A kill in between joins the same frames again: they are told apart by the hash of the frame.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
from pathlib import Path
from types import TracebackType

from deltaqmmm.atomic import PART_SUFFIX
from deltaqmmm.dataset import Dataset, Failure, LabelledFrame, read_dataset, write_dataset
from deltaqmmm.errors import DatasetError

_LOCK = "lock"


class LabelStore:
    """The finished frames of one output file; a context manager that keeps every other process out.

    Args:
        output: The dataset file that is made.
        empty: A dataset without frames: the system and settings of this run.
        mm_gradient_cutoff: Beyond this distance from the QM region the output leaves out MM gradients, bohr.

    Raises:
        DatasetError: Another process works on this output, the output or a part was made with other settings, or the
            folder cannot be used.
    """

    def __init__(self, output: Path, empty: Dataset, mm_gradient_cutoff: float = math.inf) -> None:
        self.output = output
        self._cutoff = mm_gradient_cutoff
        self.folder = output.with_name(output.name + ".parts")
        self._empty = empty
        self._frames: dict[str, LabelledFrame] = {}
        self._failures: dict[str, Failure] = {}
        self._lock: int | None = None

    def __enter__(self) -> LabelStore:
        """Lock, and read what is there."""
        # The output is looked at first: with other settings nothing at all is made.
        seen = self._read_output()
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DatasetError(f"{self.folder}: cannot be used ({error.strerror}).") from error
        try:
            self._take_lock(self._lock)
            if _state(self.output) != seen:
                # Another process has joined its frames there in the meantime.
                self._read_output()
            for leftover in self.folder.glob(f".*{PART_SUFFIX}"):
                leftover.unlink(missing_ok=True)
            for part in sorted(self.folder.glob("*.h5")):
                self._read(part)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unlock."""
        self._release()

    @property
    def frames(self) -> dict[str, LabelledFrame]:
        """The labelled frames by identity, in the order they were read and added."""
        return self._frames

    @property
    def failures(self) -> dict[str, Failure]:
        """The frames that were passed over, by identity."""
        return self._failures

    def forget_failures(self) -> None:
        """Try the failed frames again."""
        for identity in self._failures:
            self._part(identity).unlink(missing_ok=True)
        self._failures.clear()

    def add(self, frame: LabelledFrame) -> None:
        """Keep a labelled frame; it is safe on disk when this returns."""
        # Noted before it is written: after an interruption in mid-write `join` has it all the same.
        self._frames[frame.identity] = frame
        self._failures.pop(frame.identity, None)
        write_dataset(self._part(frame.identity), self._empty.with_frames([frame], []))

    def add_failure(self, failure: Failure) -> None:
        """Keep the reason why a frame was passed over."""
        self._failures[failure.identity] = failure
        write_dataset(self._part(failure.identity), self._empty.with_frames([], [failure]))

    def join(self, order: list[str]) -> Dataset:
        """Write all that is done to the output.

        Args:
            order: Identities in the order of the output. Frames of an earlier output that are not named keep their
                place at the beginning.
        """
        named = set(order)
        ordered = [*(identity for identity in self._frames if identity not in named), *order]
        dataset = self._empty.with_frames(
            (self._frames[identity] for identity in ordered if identity in self._frames), self._failures.values()
        )
        dataset = dataset.thinned(self._cutoff)
        write_dataset(self.output, dataset)
        return dataset

    def remove(self) -> None:
        """Remove the folder of parts, whose frames the output holds."""
        for part in [*self.folder.glob("*.h5"), self.folder / _LOCK]:
            part.unlink(missing_ok=True)
        # Whatever else somebody put there stays.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _take_lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(
                f"{self.output}: another process is labelling into this file (it holds {self.folder / _LOCK}): wait "
                "for it, stop it, or name another output."
            ) from error
        # A process that finished just now removed the folder: then this lock is on a file that is gone.
        with contextlib.suppress(OSError):
            if os.stat(self.folder / _LOCK).st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return
        raise DatasetError(f"{self.output}: another process has just finished this file; run the command again.")

    def _read_output(self) -> tuple[int, int] | None:
        """Read the output, if there is one; its state before."""
        state = _state(self.output)
        if state is not None:
            self._read(self.output)
        return state

    def _read(self, file: Path) -> None:
        dataset = read_dataset(file, self._empty.settings, self._empty.system)
        # What an earlier run dropped is dropped everywhere.
        self._cutoff = min(self._cutoff, dataset.mm_gradient_cutoff)
        for frame in dataset.frames:
            self._frames[frame.identity] = frame
            self._failures.pop(frame.identity, None)
        for failure in dataset.failures:
            if failure.identity not in self._frames:
                self._failures[failure.identity] = failure

    def _part(self, identity: str) -> Path:
        return self.folder / f"{identity}.h5"

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _state(file: Path) -> tuple[int, int] | None:
    """Differs where a file has been written; None where there is none."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
