"""A process that computes frames with one OpenMM context: what `deltaqmmm.mm.workers` starts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace

from deltaqmmm.companions import attend
from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.mm.frames import FrameEngine
from deltaqmmm.mm.imaging import StandardCell
from deltaqmmm.mm.shared import SharedFrames, SharedObject


def main() -> None:
    """Compute the frames that are asked for, as long as there is an owner."""
    connection = attend(int(sys.argv[1]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        frames, settings = SharedObject.read(int(sys.argv[2]))
        engine = FrameEngine(frames, replace(settings, threads=int(sys.argv[4])))
        shared = SharedFrames(len(frames.atom_particles), int(sys.argv[3]))
        while True:
            n_frames, first, cells = connection.recv()
            shared.fit(n_frames)
            connection.send(_compute(engine, shared, first, cells))


def _compute(
    engine: FrameEngine, shared: SharedFrames, first: int, cells: Sequence[StandardCell | None]
) -> tuple[int, DeltaqmmmError] | None:
    """Frames from the first on; the first that fails, and how."""
    for frame, cell in enumerate(cells, start=first):
        try:
            result = engine.evaluate(shared.positions[frame], cell)
        except DeltaqmmmError as error:
            return frame, error
        shared.energies[frame], shared.forces[frame] = result.energy, result.forces
        if result.strain_derivative is not None:
            shared.strain_derivatives[frame] = result.strain_derivative
    return None
