"""A process that labels frames, one after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.reference.settings import ReferenceSettings
from deltaqmmm.results import FloatArray


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told once: see `calculator.ReferenceCalculator`."""

    symbols: tuple[str, ...]
    charge: int
    settings: ReferenceSettings
    blur_width: float
    threads: int


@dataclass(frozen=True, eq=False)
class Job:
    """One frame to compute: see `calculator.ReferenceCalculator.label`."""

    identity: str
    qm_positions: FloatArray
    mm_positions: FloatArray
    mm_charges: FloatArray


@dataclass(frozen=True)
class Refusal:
    """Why a frame, or all of them, cannot be computed."""

    reason: str


def work(connection: Connection, settings: WorkerSettings) -> None:
    """Answer every `Job` with a `ReferenceResult` or a `Refusal`, until None comes.

    The first message out is None when the worker is ready, or a `Refusal`.
    """
    # Ctrl-C goes to all processes of the terminal; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from deltaqmmm.reference.calculator import ReferenceCalculator

    try:
        calculator = ReferenceCalculator(
            settings.symbols, settings.charge, settings.settings, settings.blur_width, settings.threads
        )
    except DeltaqmmmError as error:
        connection.send(Refusal(str(error)))
        return
    connection.send(None)
    while True:
        job = connection.recv()
        if job is None:
            return
        connection.send(_answer(calculator.label, job))


def _answer(label: object, job: Job) -> object:
    # A frame that PySCF or a library below it cannot compute must not end the run of all others.
    try:
        return label(job.qm_positions, job.mm_positions, job.mm_charges)  # type: ignore[operator]
    except DeltaqmmmError as error:
        return Refusal(str(error))
    except Exception as error:  # noqa: BLE001
        return Refusal(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """End at once when the parent has gone, however it went: nobody would take the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
