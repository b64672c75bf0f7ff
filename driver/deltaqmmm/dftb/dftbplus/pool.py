"""Many workers with a share of the frames each; one that dies is replaced, one that grows too large is renewed."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import wait

import numpy as np

from deltaqmmm.companions import refuse_fork
from deltaqmmm.dftb.dftbplus.process import Answer, Death, Readiness, Setup, Worker
from deltaqmmm.errors import ExternalToolError
from deltaqmmm.results import FloatArray

logger = logging.getLogger(__name__)

GROWTH = 256 << 20
"""Bytes by which the memory of a worker may grow after its first frame before it is renewed.

2,000 evaluations of retinoate with DFTB+ 25.1 grew one by 0.1 MB: what grows by so much does not stop. Work space of
large molecules is there after the first frame, and starting anew costs a fraction of a second.
"""
PORTION = 64 << 10
"""Bytes that a worker is given at once: the socket holds them, so that nothing waits where the worker does not read."""
NOT_COMPUTED = Death("it was not computed", by_dftbplus=False)
"""Stands for the frames that were left when another one was given up."""


@dataclass
class _Place:
    """A worker, the frames that it has yet to answer, in their order, and how many of them it has been given."""

    worker: Worker | None = None
    frames: deque[int] = field(default_factory=deque)
    given: int = 0


class Pool:
    """Computes the frames of a batch in several processes.

    No process outlives the pool, however that ends: `close` ends them, and so does its collection or the end of the
    interpreter; when that is killed, they end themselves.
    """

    def __init__(self, setup: Setup, workers: int, timeout: float, *, proven: bool = False) -> None:
        """Start nothing: workers come with the work.

        Args:
            setup: What all of them compute with.
            workers: Their number.
            timeout: Longest time for one frame, seconds.
            proven: Whether DFTB+ is known to start with this setup, so that a worker that does not is replaced.
        """
        self._owner = os.getpid()
        self._setup = setup
        self._timeout = timeout
        self._places = [_Place() for _ in range(workers)]
        self._proven = proven
        self._finalizer = weakref.finalize(self, _end, self._places)

    @property
    def processes(self) -> list[int]:
        """Identifiers of the processes that run."""
        return [place.worker.process.pid for place in self._places if place.worker is not None]

    def close(self) -> None:
        """End all processes; further work starts new ones."""
        _end(self._places)

    def start(self) -> Readiness:
        """Start the first worker.

        Raises:
            ExternalToolError: DFTB+ cannot be started with this input, or the pool was made before a fork.
        """
        refuse_fork(self._owner, "DFTB+ engine")
        place = self._places[0]
        _end([place])
        place.worker = Worker(self._setup)
        try:
            readiness = place.worker.receive_readiness()
        except BaseException:
            self.close()
            raise
        self._proven = True
        return readiness

    def compute(self, positions: FloatArray, potentials: FloatArray) -> list[Answer | Death]:
        """Compute B frames, and tell of each what it gave or how it failed.

        Neighbouring frames go to the same worker, which starts each from the charges of the one before. A frame whose
        worker ends without a word from DFTB+ is tried once more; if that fails too, all processes are ended and the
        frames that are left stay `NOT_COMPUTED`.

        Args:
            positions: Shape (B, n, 3), bohr.
            potentials: Shape (B, n), hartree/e.

        Raises:
            ExternalToolError: A worker cannot be started, or the pool was made before a fork.
        """
        refuse_fork(self._owner, "DFTB+ engine")
        found: list[Answer | Death | None] = [None] * len(positions)
        crashed: set[int] = set()
        shares = np.array_split(np.arange(len(positions)), min(len(self._places), len(positions)))
        try:
            for place, share in zip(self._places, shares, strict=False):
                place.frames = deque(int(frame) for frame in share)
                place.worker = place.worker or Worker(self._setup)
            for place in self._places:
                self._give(place, positions, potentials)
            while busy := [place for place in self._places if place.frames]:
                for place in self._with_news(busy):
                    frame = place.frames[0]
                    outcome = self._outcome(place)
                    if isinstance(outcome, Answer) or outcome.by_dftbplus:
                        place.frames.popleft()
                        found[frame] = outcome
                    elif frame in crashed:
                        found[frame] = outcome
                        self.close()
                        return [NOT_COMPUTED if one is None else one for one in found]
                    else:
                        logger.warning("DFTB+ on frame %d of the batch: %s. Once more.", frame, outcome.reason)
                        crashed.add(frame)
                    self._go_on(place, outcome, positions, potentials)
        except BaseException:
            # Answers that are under way belong to no later question.
            self.close()
            raise
        return [outcome for outcome in found if outcome is not None]

    def _go_on(self, place: _Place, outcome: Answer | Death, positions: FloatArray, potentials: FloatArray) -> None:
        """After an outcome: the next portion, to another worker where this one has ended."""
        if isinstance(outcome, Answer):
            place.given -= 1
            self._renew(place, outcome)
        else:
            place.given = 0
        if place.frames and not place.given:
            place.worker = place.worker or Worker(self._setup)
            self._give(place, positions, potentials)

    def _give(self, place: _Place, positions: FloatArray, potentials: FloatArray) -> None:
        """Hand over the next frames of a place, once its worker is ready."""
        if place.worker is None or not place.frames:
            return
        if not place.worker.ready:
            place.worker = self._made_ready(place.worker)
        size = positions[0].nbytes + potentials[0].nbytes
        frames = list(islice(place.frames, max(PORTION // size, 1)))
        place.given = len(frames)
        place.worker.give(positions[frames], potentials[frames], self._timeout)

    def _made_ready(self, worker: Worker) -> Worker:
        """The worker, or another one where it was ended as it started although its input is a good one."""
        try:
            worker.receive_readiness()
        except ExternalToolError as error:
            worker.end()
            if not self._proven:
                raise
            logger.warning("%s Once more.", error)
            worker = Worker(self._setup)
            try:
                worker.receive_readiness()
            except BaseException:
                # No place has it yet: nobody else would.
                worker.end()
                raise
        self._proven = True
        return worker

    def _with_news(self, busy: list[_Place]) -> list[_Place]:
        """The places whose worker has answered, has ended, or has been ended because its time is over."""
        running = [(place, place.worker) for place in busy if place.worker is not None]
        seconds = min(worker.deadline for _, worker in running) - time.monotonic()
        heard = wait([worker.connection for _, worker in running], max(seconds, 0.0))
        now = time.monotonic()
        return [place for place, worker in running if worker.connection in heard or now >= worker.deadline]

    def _outcome(self, place: _Place) -> Answer | Death:
        worker = place.worker
        if worker is None:
            return Death("its process is gone", by_dftbplus=False)
        if not worker.connection.poll() and time.monotonic() >= worker.deadline:
            place.worker = None
            worker.end()
            return Death(f"no answer within {self._timeout:g} s, so its process was ended", by_dftbplus=False)
        try:
            answer = worker.receive()
        except (EOFError, OSError):
            place.worker = None
            return worker.bury()
        if isinstance(answer, Death):
            place.worker = None
            return answer
        worker.extend(self._timeout)
        return answer

    def _renew(self, place: _Place, answer: Answer) -> None:
        """End a worker that has done its share and has grown; the next batch starts another."""
        worker = place.worker
        if worker is None or place.frames or worker.grown(answer) <= GROWTH:
            return
        logger.info("A worker of DFTB+ has grown to %d MB and is renewed.", answer.memory >> 20)
        place.worker = None
        worker.end()


def _end(places: list[_Place]) -> None:
    workers = [place.worker for place in places if place.worker is not None]
    # None is used again, whatever comes in between: what it was asked belongs to no later batch. One that nobody ends
    # any more ends when it is collected, and removes its folder.
    for place in places:
        place.worker, place.given = None, 0
        place.frames.clear()
    for worker in workers:
        worker.end()
