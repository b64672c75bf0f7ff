"""A process that labels frames, one after the other."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from deltaqmmm.companions import attend
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


def main() -> None:
    """Label what the owner sends, as long as there is one."""
    connection = attend(int(sys.argv[1]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work(connection, connection.recv())


def work(connection: Connection, settings: WorkerSettings) -> None:
    """Answer every `Job` with a `ReferenceResult` or a `Refusal`.

    The first message out is None when the worker is ready, or a `Refusal`.
    """
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
        connection.send(_answer(calculator.label, connection.recv()))


def _answer(label: object, job: Job) -> object:
    # A frame that PySCF or a library below it cannot compute must not end the run of all others.
    try:
        return label(job.qm_positions, job.mm_positions, job.mm_charges)  # type: ignore[operator]
    except DeltaqmmmError as error:
        return Refusal(str(error))
    except Exception as error:  # noqa: BLE001
        return Refusal(f"{type(error).__name__}: {error}")
