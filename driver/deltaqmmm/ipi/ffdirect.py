"""deltaqmmm inside i-PI's own process: `<ffdirect>` with `pes='custom'` calls a Python object instead of a socket.

i-PI calls the object with one cell and one array of positions, or, with `<batch_size>` above 1, with lists of them. Its
cells have the lattice vectors as columns, as on the socket.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np

from deltaqmmm.ipi.frames import Evaluate, ExpectedFrames, evaluate_frames
from deltaqmmm.ipi.wire import Frames, transpose
from deltaqmmm.results import FloatArray

_POLLING_THREAD = "poll_"  # how i-PI names the thread that evaluates, followed by the force field's name

DirectResult = tuple[float, FloatArray, FloatArray, str]
"""Energy (hartree), forces (N, 3) (hartree/bohr), virial (3, 3) as i-PI wants it (hartree), extras as JSON text."""


class DirectDriver:
    """A callable with the signature of i-PI's own PES drivers.

    Args:
        evaluate: Computes a batch of frames, `evaluate(cells, positions)`.
        expected: The number of atoms, and whether the cell matters.
    """

    def __init__(self, evaluate: Evaluate, expected: ExpectedFrames) -> None:
        self._evaluate = evaluate
        self._expected = expected

    def __call__(
        self, cell: FloatArray | Sequence[FloatArray], pos: FloatArray | Sequence[FloatArray]
    ) -> DirectResult | list[DirectResult]:
        """Evaluate one structure, or a list of them.

        Args:
            cell: Lattice vectors as columns, (3, 3), bohr, or a list of such cells.
            pos: Positions, (N, 3), bohr, or a list of as many.

        Returns:
            One result, or a list of results.

        Raises:
            FrameError: The structure cannot be evaluated.
            NonFiniteError: A result is not finite.
        """
        try:
            if isinstance(cell, np.ndarray) and cell.ndim == 2:
                return self._compute([cell], [np.asarray(pos)])[0]
            return self._compute(list(cell), list(pos))
        except Exception as error:
            _end_ipi(error)
            raise

    def _compute(self, cells: Sequence[FloatArray], positions: Sequence[FloatArray]) -> list[DirectResult]:
        if len(cells) != len(positions):
            raise ValueError(f"i-PI gave {len(cells)} cells but {len(positions)} sets of positions.")
        frames = Frames(
            transpose(np.array(cells, dtype=np.float64).reshape(-1, 3, 3)),
            # A copy: i-PI may change its arrays, and an evaluation may keep the positions it saw last.
            np.array([np.reshape(frame, (-1, 3)) for frame in positions], dtype=np.float64),
        )
        results, _ = evaluate_frames(frames, self._evaluate, self._expected)
        virials = transpose(results.virials)
        return [
            # Copies: i-PI zeroes the lower triangle of the virial in place.
            (float(energy), forces.copy(), virial.copy(), extra)
            for energy, forces, virial, extra in zip(
                results.energies, results.forces, virials, results.extras, strict=True
            )
        ]


def _end_ipi(error: Exception) -> None:
    """End i-PI where the error alone would not.

    With `threaded='True'` an error only ends i-PI's polling thread, and i-PI would wait for ever. Elsewhere the error
    reaches i-PI's main thread and ends it with a status other than 0.

    Args:
        error: What went wrong; i-PI prints it, and writes its restart file.
    """
    softexit = sys.modules.get("ipi.utils.softexit")
    if softexit is not None and threading.current_thread().name.startswith(_POLLING_THREAD):
        softexit.softexit.cleanup(status="bad", message=f"{type(error).__name__}: {error}")
