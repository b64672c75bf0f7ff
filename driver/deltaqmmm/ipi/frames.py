"""From frames to results: checks before and after the evaluation, and repeated frames evaluated once.

i-PI pads a short batch by repeating its last frame, and drops the results of the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.ipi.extras import encode_frame_extras
from deltaqmmm.ipi.wire import Frames, Results
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.results import Evaluation, FloatArray

Evaluate = Callable[[FloatArray, FloatArray], Evaluation]
"""`evaluate(cells, positions)`: cells (B, 3, 3), rows are lattice vectors; positions (B, N, 3); both in bohr."""


@dataclass(frozen=True)
class ExpectedFrames:
    """What the frames that i-PI sends must look like.

    Attributes:
        n_atoms: The number of atoms that i-PI must send.
        periodic: Whether the cell is used. Without, a singular cell is accepted (ASE sends zeros for a molecule).
    """

    n_atoms: int
    periodic: bool = True


def count_distinct(frames: Frames) -> int:
    """Return the number of leading frames that are left when trailing copies of the frame before them are dropped."""
    n_frames = len(frames.positions)
    while (
        n_frames > 1
        and np.array_equal(frames.positions[n_frames - 1], frames.positions[n_frames - 2])
        and np.array_equal(frames.cells[n_frames - 1], frames.cells[n_frames - 2])
    ):
        n_frames -= 1
    return n_frames


def check_frames(frames: Frames, expected: ExpectedFrames) -> None:
    """Check that the frames can be evaluated.

    Raises:
        FrameError: A position or a cell is not finite, the number of atoms is wrong, or the cell of a periodic system
            is singular.
    """
    check_positions(frames.positions, expected.n_atoms)
    if expected.periodic:
        check_cell(frames.cells)
    elif not np.isfinite(frames.cells).all():
        raise FrameError("The cell that i-PI sent has a value that is not finite. Check the cell in the i-PI input.")


def evaluate_frames(frames: Frames, evaluate: Evaluate, expected: ExpectedFrames) -> tuple[Results, int]:
    """Evaluate a batch of frames.

    Args:
        frames: The frames as i-PI sent them, B of them.
        evaluate: Computes the distinct ones.
        expected: What the frames are checked against.

    Returns:
        The results for all B frames, and how many frames were evaluated.

    Raises:
        FrameError: The frames cannot be evaluated.
        NonFiniteError: A result is not finite.
    """
    n_frames, n_distinct = len(frames.positions), count_distinct(frames)
    distinct = Frames(frames.cells[:n_distinct], frames.positions[:n_distinct])
    check_frames(distinct, expected)
    evaluation = evaluate(distinct.cells, distinct.positions)
    results = results_from(evaluation, n_distinct, expected.n_atoms)
    if n_distinct < n_frames:
        results = _repeat_last(results, n_frames - n_distinct)
    return results, n_distinct


def results_from(evaluation: Evaluation, n_frames: int, n_atoms: int) -> Results:
    """Check an evaluation and turn it into what i-PI wants: the virial is minus the strain derivative.

    Raises:
        NonFiniteError: An energy, a force, a strain derivative or an extra is not finite.
    """
    strain = evaluation.strain_derivatives
    if strain is None:
        strain = np.zeros((n_frames, 3, 3))
    _check_array("energy", evaluation.energies, (n_frames,))
    _check_array("force", evaluation.forces, (n_frames, n_atoms, 3))
    _check_array("strain derivative", strain, (n_frames, 3, 3))
    # 0 - x instead of -x: a zero virial is then plain 0.0 in i-PI's files.
    return Results(evaluation.energies, evaluation.forces, 0.0 - strain, encode_frame_extras(evaluation, n_frames))


def _check_array(name: str, array: npt.NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"The {name} array of the evaluation has shape {array.shape}; needed is {shape}.")
    finite = np.isfinite(array)
    if finite.all():
        return
    index = [int(number) for number in np.argwhere(~finite)[0]]
    place = f"frame {index[0]}" + (f", atom {index[1]}" if name == "force" else "") + " (counted from 0)"
    raise NonFiniteError(
        f"The {name} of {place} is {array[tuple(index)]}; nothing was sent to i-PI. The structure is probably "
        "unphysical (atoms on top of each other): use a smaller time step, or minimise the start structure."
    )


def _repeat_last(results: Results, copies: int) -> Results:
    def extended(array: FloatArray) -> FloatArray:
        return np.concatenate([array, np.repeat(array[-1:], copies, axis=0)])

    extras: Sequence[str] = [*results.extras, *[results.extras[-1]] * copies]
    return Results(extended(results.energies), extended(results.forces), extended(results.virials), extras)
