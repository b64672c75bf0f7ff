"""A process that computes frames with one OpenMM context: what `deltaqmmm.mm.workers` starts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from deltaqmmm.companions import attend
from deltaqmmm.errors import DeltaqmmmError, ExternalToolError
from deltaqmmm.mm.frames import FrameEngine, naming
from deltaqmmm.mm.imaging import StandardCell
from deltaqmmm.mm.shared import SharedFrames, SharedObject

Failure = tuple[int, DeltaqmmmError]
"""The first frame that failed, and its error."""


def main() -> None:
    """Compute the frames that are asked for, as long as there is an owner.

    An answer is the number of the batch, and the first frame that failed with its error, or None.
    """
    connection = attend(int(sys.argv[1]))
    compute: Callable[..., Failure | None]
    try:
        compute = _compute_with(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the owner must hear of it
        reason = _in_words(error)
        compute = lambda n_frames, first, cells: (first, reason)  # noqa: E731
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            batch, *question = connection.recv()
            connection.send((batch, compute(*question)))


def _compute_with(common: int, memory: int, threads: int) -> Callable[..., Failure | None]:
    """What computes some frames of a batch: consecutive ones from the first on."""
    frames, settings = SharedObject.read(common)
    engine = FrameEngine(frames, replace(settings, threads=threads))
    shared = SharedFrames(len(frames.atom_particles), memory)

    def compute(n_frames: int, first: int, cells: Sequence[StandardCell | None]) -> Failure | None:
        frame = first
        try:
            shared.fit(n_frames)
            for frame, cell in enumerate(cells, start=first):
                with naming(frame):
                    result = engine.evaluate(shared.positions[frame], cell)
                shared.energies[frame], shared.forces[frame] = result.energy, result.forces
                if result.strain_derivative is not None:
                    shared.strain_derivatives[frame] = result.strain_derivative
        except Exception as error:  # noqa: BLE001 - whatever it is, the owner must hear of it
            return frame, _in_words(error)
        return None

    return compute


def _in_words(error: Exception) -> DeltaqmmmError:
    """An error that the owner can raise."""
    if isinstance(error, DeltaqmmmError):
        return error
    return ExternalToolError(f"a process of the MM term failed with {type(error).__name__}: {error}")
