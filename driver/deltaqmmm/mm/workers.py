"""Frames of a batch side by side, each in a process that has an OpenMM context of its own.

OpenMM shares the work of one frame out among threads, which wait for each other several times per frame: with frames
enough, a frame on each core is faster, and whatever else runs on a core delays one frame and not all threads. It takes
processes: in one process all contexts have the same number of threads for the Ewald mesh, and Python's lock is one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait

from deltaqmmm.companions import Companion, ending
from deltaqmmm.errors import DeltaqmmmError, ExternalToolError
from deltaqmmm.mm.frames import FrameSystem
from deltaqmmm.mm.imaging import StandardCell
from deltaqmmm.mm.settings import OpenMMSettings
from deltaqmmm.mm.shared import SharedFrames, SharedObject
from deltaqmmm.mm.worker import Failure
from deltaqmmm.results import FloatArray
from deltaqmmm.threads import parts_of

logger = logging.getLogger(__name__)

FRAME_SECONDS = 600.0
"""Longest time for one frame of a share; the start of its process is in that of the first.

With the strain derivative a frame is 13 energies, seconds for a million atoms. What takes so long does not compute any
more: somebody has stopped it, or a file system does not answer.
"""

_LOOK_SECONDS = 0.5
"""How often is looked whether an evaluation is to end early."""

_PROGRAM = ("-c", "from deltaqmmm.mm.worker import main; main()")


def share_out(n_frames: int, threads: int) -> tuple[int, int]:
    """How many frames are computed at a time, in as few turns as there can be, and with how many threads each.

    Args:
        n_frames: Frames of the batch.
        threads: Threads in all.

    Returns:
        Two numbers whose product is at most `threads`; the second is a power of two where the first is not 1, so that
        batches of many sizes share few kinds of processes.
    """
    turns = max(1, -(-n_frames // threads))
    count = max(1, -(-n_frames // turns))
    return (1, threads) if count == 1 else (count, 1 << ((threads // count).bit_length() - 1))


@dataclass(eq=False)
class _Share:
    """Consecutive frames, the process that computes them and until when, and whether another one died of them."""

    companion: Companion
    threads: int
    frames: slice
    deadline: float = 0.0
    again: bool = False

    @property
    def seconds(self) -> float:
        """Longest time for these frames."""
        return FRAME_SECONDS * float(self.frames.stop - self.frames.start)


class Workers:
    """The processes of one system; they are started when a batch needs them, and none outlives this object.

    Args:
        frames: What they compute.
        settings: Platform, precision, and whether the strain derivative is wanted; the threads are those of a batch.
    """

    def __init__(self, frames: FrameSystem, settings: OpenMMSettings) -> None:
        self._common = frames, settings
        self._batch = 0
        self._to_end = threading.Event()
        self._started: dict[int, list[Companion]] = {}
        self._finalizer = weakref.finalize(self, _end, self._started)

    @cached_property
    def _memory(self) -> tuple[SharedObject, SharedFrames]:
        """What all processes need to know, and the frames."""
        return SharedObject(self._common), SharedFrames(len(self._common[0].atom_particles))

    @property
    def processes(self) -> list[int]:
        """Identifiers of the processes that run."""
        return [companion.process.pid for companions in self._started.values() for companion in companions]

    def close(self) -> None:
        """End all processes; further work starts new ones."""
        _end(self._started)

    def interrupt(self) -> None:
        """Have an evaluation that another thread has begun end at once, with an error, and its processes with it."""
        self._to_end.set()

    def evaluate(
        self, positions: FloatArray, cells: Sequence[StandardCell | None], count: int, threads: int
    ) -> SharedFrames:
        """Compute a batch.

        Args:
            positions: Atoms only, shape (B, N, 3), bohr.
            cells: For each frame; None if the system is not periodic.
            count: How many frames are computed at a time.
            threads: Of each of them.

        Returns:
            The results; they stay until the next batch.

        Raises:
            DeltaqmmmError: What came of the first frame that failed; nothing goes on behind it.
            ExternalToolError: Frames whose process has died twice or had no answer, no room or no more processes, or an
                interruption.
        """
        self._to_end.clear()
        try:
            return self._evaluate(positions, cells, count, threads)
        except OSError as error:
            raise ExternalToolError(
                f"the processes of the MM term have no room for their frames ({error.strerror}): look at `ulimit -n` "
                "and the memory, or set threads under [mm] to a smaller number."
            ) from error

    def _evaluate(
        self, positions: FloatArray, cells: Sequence[StandardCell | None], count: int, threads: int
    ) -> SharedFrames:
        _, shared = self._memory
        # Answers have the number of their batch: whatever happened before, none is taken for that of another one.
        self._batch += 1
        errors: dict[int, DeltaqmmmError] = {}
        try:
            shared.fit(len(positions))
            shared.positions[:] = positions
            # A frame that nobody computes shows itself: the memory still holds the results of the batch before.
            shared.energies.fill(math.nan)
            companions = self._companions(count, threads)
            shares = [
                _Share(companion, threads, part)
                for companion, part in zip(companions, parts_of(len(positions), count), strict=True)
            ]
            for share in shares:
                self._ask(share, cells)
            while shares:
                if self._to_end.is_set():
                    raise ExternalToolError("the evaluation of the MM term was interrupted.")
                for share in _with_news(shares):
                    answer = _answer(share)
                    if isinstance(answer, str):
                        self._replace(share, answer)
                        self._ask(share, cells)
                        continue
                    batch, failure = answer
                    if batch != self._batch:
                        continue
                    shares.remove(share)
                    errors.update([] if failure is None else [failure])
        except BaseException:
            # Answers that are under way belong to no later batch.
            self.close()
            raise
        if errors:
            raise errors[min(errors)]
        return shared

    def _companions(self, count: int, threads: int) -> list[Companion]:
        """So many of them; all that are missing start at the same time."""
        started = self._started.setdefault(threads, [])
        while len(started) < count:
            started.append(self._start(threads))
        return started[:count]

    def _start(self, threads: int) -> Companion:
        descriptors = [part.descriptor for part in self._memory]
        return Companion(_PROGRAM, [*map(str, descriptors), str(threads)], descriptors=descriptors)

    def _ask(self, share: _Share, cells: Sequence[StandardCell | None]) -> None:
        share.deadline = time.monotonic() + share.seconds
        # One that has died shows itself when its answer is waited for.
        with contextlib.suppress(OSError):
            question = self._batch, len(cells), share.frames.start, list(cells[share.frames])
            share.companion.connection.send(question)

    def _replace(self, share: _Share, how: str) -> None:
        """Another process for frames whose process has died, or is to be ended."""
        share.companion.end()
        started = self._started[share.threads]
        place = started.index(share.companion)
        del started[place]
        if share.again:
            raise ExternalToolError(
                f"the MM term could not be computed: {how}, twice with the same frames. Each process has an OpenMM "
                "context: with too little memory for all of them set threads under [mm] to a smaller number."
            )
        logger.warning("MM: %s. Its frames are computed once more.", how)
        share.companion, share.again = self._start(share.threads), True
        started.insert(place, share.companion)


def _with_news(shares: list[_Share]) -> list[_Share]:
    """Those whose process has answered or has ended, or whose time is over; none at all after a while."""
    seconds = min(share.deadline for share in shares) - time.monotonic()
    heard = wait([share.companion.connection for share in shares], min(max(seconds, 0.0), _LOOK_SECONDS))
    now = time.monotonic()
    return [share for share in shares if share.companion.connection in heard or now >= share.deadline]


def _answer(share: _Share) -> tuple[int, Failure | None] | str:
    """The answer of a process that has news, or how that has ended or is to be ended, in words."""
    try:
        if share.companion.connection.poll():
            answer: tuple[int, Failure | None] = share.companion.connection.recv()
            return answer
    except (EOFError, OSError):
        # The socket closes when the process ends, a moment before it can be waited for.
        return ending(share.companion.status(5.0))
    return f"no answer within {share.seconds:g} s, so its process was ended"


def _end(started: dict[int, list[Companion]]) -> None:
    companions = [companion for some in started.values() for companion in some]
    # None is used again, whatever comes in between: one that nobody ends any more ends when it is collected.
    started.clear()
    for companion in companions:
        companion.end()
