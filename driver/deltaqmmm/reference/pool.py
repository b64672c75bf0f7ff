"""Many worker processes with one frame each at a time; a worker that dies is replaced."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait

from deltaqmmm.companions import Companion, ending
from deltaqmmm.errors import ExternalToolError
from deltaqmmm.reference.calculator import ReferenceResult
from deltaqmmm.reference.worker import Job, Refusal, WorkerSettings

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a frame is tried whose worker died (out of memory, for one)."""

_PROGRAM = ("-c", "from deltaqmmm.reference.worker import main; main()")


class _Worker:
    """One process, and what it is computing."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._companion = Companion(_PROGRAM, threads=settings.threads)
        self.connection: Connection = self._companion.connection
        self.ready = False
        self.job: Job | None = None
        self.send(settings)

    def send(self, content: WorkerSettings | Job) -> None:
        """Hand something over; a process that has died shows itself when its answer is waited for."""
        with contextlib.suppress(OSError):
            self.connection.send(content)

    def bury(self) -> str:
        """How the process has ended, in words."""
        how = ending(self._companion.status(5.0))
        self.end()
        return how

    def end(self) -> None:
        """End the process; a calculation under way is dropped."""
        self._companion.end()


class Pool:
    """Computes frames in several processes; a context manager that leaves no process behind.

    Args:
        settings: What every worker computes.
        processes: Their number.
    """

    def __init__(self, settings: WorkerSettings, processes: int) -> None:
        self._settings = settings
        self._processes = processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        """Nothing is started before there is work."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def compute(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, ReferenceResult | Refusal]]:
        """Yield each job with its result, in the order they are finished.

        Raises:
            ExternalToolError: The workers cannot be started.
        """
        iterator = iter(jobs)
        again: deque[Job] = deque()
        deaths: dict[str, int] = {}
        exhausted = False
        while True:
            while (again or not exhausted) and self._has_room():
                job = again.popleft() if again else next(iterator, None)
                if job is None:
                    exhausted = True
                else:
                    self._give(job)
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            for worker in self._with_news(busy):
                done = self._receive(worker, again, deaths)
                if done is not None:
                    yield done

    def _has_room(self) -> bool:
        return len(self._workers) < self._processes or any(worker.job is None for worker in self._workers)

    def _give(self, job: Job) -> None:
        """Hand a job to an idle process; one is started if there is none."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = _Worker(self._settings)
            self._workers.append(worker)
        worker.job = job
        if worker.ready:
            worker.send(job)

    def _with_news(self, workers: list[_Worker]) -> list[_Worker]:
        handles = {worker.connection: worker for worker in workers}
        return [handles[connection] for connection in wait(list(handles)) if isinstance(connection, Connection)]

    def _receive(
        self, worker: _Worker, again: deque[Job], deaths: dict[str, int]
    ) -> tuple[Job, ReferenceResult | Refusal] | None:
        job = worker.job
        if job is None:
            return None
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._buried(worker, job, again, deaths)
        if not worker.ready:
            if isinstance(message, Refusal):
                raise ExternalToolError(message.reason)
            worker.ready = True
            worker.send(job)
            return None
        worker.job = None
        return job, message

    def _buried(
        self, worker: _Worker, job: Job, again: deque[Job], deaths: dict[str, int]
    ) -> tuple[Job, Refusal] | None:
        """A worker has died: its frame is tried once more in a new one, which the next round starts."""
        self._workers.remove(worker)
        reason = worker.bury()
        if not worker.ready:
            raise ExternalToolError(f"a process of the reference method could not start: {reason}.")
        deaths[job.identity] = deaths.get(job.identity, 0) + 1
        if deaths[job.identity] >= ATTEMPTS:
            return job, Refusal(f"{reason}, {ATTEMPTS} times")
        logger.warning("A frame is tried once more: %s.", reason)
        again.append(job)
        return None
