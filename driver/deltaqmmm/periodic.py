"""Periodic cells: checks, minimum images for any cell shape, and making molecules whole.

Every function returns *integer lattice shifts*, not moved positions. A caller that needs derivatives applies
``positions + shifts @ cell`` itself, in whatever array library it differentiates with; a caller that does not can use
`make_whole`. Cell rows are lattice vectors, in bohr.

The minimum image is exact. A cell is first reduced in the sense of Minkowski (Nguyen and Stehlé, ACM Trans. Algorithms
5, 46 (2009), DOI 10.1145/1597036.1597050). In a reduced basis all vectors whose bisecting planes bound the Voronoi cell
of the lattice have coefficients -1, 0 and 1, so a vector that none of these 26 shifts makes shorter is the shortest of
its class. Rounding fractional coordinates gives the start, and a result shorter than half of the shortest lattice
vector needs no search.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from ase.geometry import minkowski_reduce

from deltaqmmm.errors import FrameError
from deltaqmmm.results import FloatArray, IntArray

FARTHEST = 1e8
"""No atom is farther from the origin, bohr: beyond, positions have too few digits left for forces."""

_FLATTEST_CELL = 1e-9
"""A cell whose volume is less than this part of the product of its edge lengths counts as singular."""

_TIE = 1e-12
"""Relative gain in squared length below which two images count as equally near (keeps the search from cycling)."""

_NEIGHBOURS = np.array([shift for shift in itertools.product((-1, 0, 1), repeat=3) if any(shift)], dtype=np.float64)


@dataclass(frozen=True)
class ReducedCell:
    """The Minkowski-reduced basis of a lattice.

    Attributes:
        vectors: Reduced lattice vectors as rows, shape (3, 3), bohr.
        inverse: Inverse of `vectors`, shape (3, 3), 1/bohr: ``r @ inverse`` are fractional coordinates.
        operation: Unimodular matrix with ``vectors = operation @ cell``, shape (3, 3): a shift n in the reduced basis
            is the shift ``n @ operation`` in the basis of the cell.
        heights: Distances between opposite faces of the reduced cell, shape (3,), bohr.
        safe_radius: Half the length of the shortest lattice vector, bohr: a shorter vector is its own minimum image.
    """

    vectors: FloatArray
    inverse: FloatArray
    operation: IntArray
    heights: FloatArray
    safe_radius: float


def check_cell(cell: npt.ArrayLike) -> FloatArray:
    """Check one cell or a batch of cells.

    Args:
        cell: Lattice vectors as rows, shape (3, 3) or (B, 3, 3), bohr.

    Returns:
        The cell as a float64 array.

    Raises:
        FrameError: The shape is wrong, an element is not finite, or the lattice vectors are linearly dependent.
    """
    array = np.asarray(cell, dtype=np.float64)
    if array.ndim not in (2, 3) or array.shape[-2:] != (3, 3):
        raise FrameError(f"The cell has shape {array.shape}; needed is (3, 3), or (frames, 3, 3) for a batch.")
    if not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array.reshape(-1, 9)).all(axis=1))[0, 0])
        raise FrameError(
            f"The cell of frame {frame} (counted from 0) has a value that is not finite:\n"
            f"{array.reshape(-1, 3, 3)[frame]}\nCheck the cell in the i-PI input, and whether the barostat blew up."
        )
    volumes = np.abs(np.linalg.det(array)).reshape(-1)
    edges = np.linalg.norm(array, axis=-1).prod(axis=-1).reshape(-1)
    singular = volumes <= _FLATTEST_CELL * edges
    if singular.any():
        frame = int(np.argmax(singular))
        raise FrameError(
            f"The cell of frame {frame} (counted from 0) is singular: its volume is {volumes[frame]:.3g} bohr^3.\n"
            f"{array.reshape(-1, 3, 3)[frame]}\nThree linearly independent lattice vectors are needed."
        )
    return array


def check_positions(positions: npt.ArrayLike, n_atoms: int) -> FloatArray:
    """Check the positions of a batch of frames.

    Args:
        positions: Shape (B, N, 3), bohr.
        n_atoms: The number of atoms N that the system has.

    Returns:
        The positions as a float64 array.

    Raises:
        FrameError: The shape or the number of atoms is wrong, or an element is not finite, or beyond `FARTHEST`.
    """
    array = np.asarray(positions, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != 3:
        raise FrameError(f"The positions have shape {array.shape}; needed is (frames, {n_atoms}, 3).")
    if array.shape[1] != n_atoms:
        raise FrameError(
            f"The frame has {array.shape[1]} atoms, but the topology has {n_atoms}. "
            "Use the same atoms in the same order in the i-PI input and in the topology file."
        )
    # Neither is what is not a number.
    if not np.abs(array).max(initial=0.0) <= FARTHEST:
        frame, atom, _ = (int(index) for index in np.argwhere(~(np.abs(array) <= FARTHEST))[0])
        what = f"beyond {FARTHEST:g} bohr" if np.isfinite(array[frame, atom]).all() else "not finite"
        raise FrameError(
            f"The position of atom {atom} in frame {frame} (counted from 0) is {what}: {array[frame, atom]}. "
            "The trajectory has probably blown up: use a smaller time step, or minimise the start structure."
        )
    return array


def reduce_cell(cell: npt.ArrayLike) -> ReducedCell:
    """Reduce a cell in the sense of Minkowski; recent cells are remembered by value.

    Args:
        cell: Lattice vectors as rows, shape (3, 3), bohr.

    Returns:
        The reduced basis and what goes with it.

    Raises:
        FrameError: The cell is not finite or singular.
    """
    return _reduce_cell(np.ascontiguousarray(cell, dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _reduce_cell(data: bytes) -> ReducedCell:
    cell = check_cell(np.frombuffer(data, dtype=np.float64).reshape(3, 3))
    # The reduction has absolute tolerances, so it is given a cell of about unit edges.
    scale = np.abs(np.linalg.det(cell)) ** (1.0 / 3.0)
    operation = np.asarray(minkowski_reduce(cell / scale)[1], dtype=np.int64)  # type: ignore[no-untyped-call]
    vectors = operation @ cell
    inverse = np.linalg.inv(vectors).astype(np.float64)
    reduced = ReducedCell(
        vectors=vectors,
        inverse=inverse,
        operation=operation,
        heights=1.0 / np.linalg.norm(inverse, axis=0),
        safe_radius=0.5 * float(np.linalg.norm(vectors, axis=1).min()),
    )
    for array in (reduced.vectors, reduced.inverse, reduced.operation, reduced.heights):
        array.setflags(write=False)
    return reduced


def minimum_image_shifts(vectors: FloatArray, cells: FloatArray) -> IntArray:
    """Find the lattice shift that makes each vector as short as possible, exactly, for any cell shape.

    Args:
        vectors: Difference vectors, shape (..., 3) with one cell, or (B, ..., 3) with a batch of cells, bohr.
        cells: Lattice vectors as rows, shape (3, 3) or (B, 3, 3), bohr.

    Returns:
        Integer shifts n of the shape of `vectors`: ``vectors + n @ cells`` are the shortest images. Between images of
        equal length (to rounding) the choice is arbitrary.

    Raises:
        FrameError: A cell is not finite or singular, or the batch of cells does not match.
    """
    if cells.ndim == 2:
        return _minimum_image_shifts(vectors, reduce_cell(cells))
    if cells.shape[0] != vectors.shape[0]:
        raise FrameError(
            f"Got {cells.shape[0]} cells for {vectors.shape[0]} frames; one cell for each frame is needed."
        )
    if cells.shape[0] > 0 and (cells == cells[0]).all():
        return _minimum_image_shifts(vectors, reduce_cell(cells[0]))
    shifts = np.zeros(vectors.shape, dtype=np.int64)
    for frame, cell in enumerate(cells):
        shifts[frame] = _minimum_image_shifts(vectors[frame], reduce_cell(cell))
    return shifts


def _minimum_image_shifts(vectors: FloatArray, reduced: ReducedCell) -> IntArray:
    flat = vectors.reshape(-1, 3)
    shifts = np.zeros(flat.shape, dtype=np.int64)
    # Most vectors are bonds of molecules that are whole already, and are not worth a rounding.
    long = np.flatnonzero(np.einsum("ij,ij->i", flat, flat) > reduced.safe_radius**2)
    if long.size:
        shifts[long] = _search_shifts(flat[long], reduced).astype(np.int64) @ reduced.operation
    return shifts.reshape(vectors.shape)


def _search_shifts(vectors: FloatArray, reduced: ReducedCell) -> FloatArray:
    """Minimum-image shifts in the reduced basis, as floats: rounding, then descent over the 26 neighbours."""
    shifts = -np.rint(vectors @ reduced.inverse)
    rest = vectors + shifts @ reduced.vectors
    unsafe = np.flatnonzero(np.einsum("ij,ij->i", rest, rest) > reduced.safe_radius**2)
    neighbours = _NEIGHBOURS @ reduced.vectors
    lengths = np.einsum("ij,ij->i", neighbours, neighbours)
    rest = rest[unsafe]
    while unsafe.size:
        # |v + t|^2 - |v|^2 for the 26 candidates t
        gains = 2.0 * rest @ neighbours.T + lengths
        best = gains.argmin(axis=1)
        better = gains[np.arange(len(best)), best] < -_TIE * np.einsum("ij,ij->i", rest, rest)
        unsafe, best = unsafe[better], best[better]
        shifts[unsafe] += _NEIGHBOURS[best]
        rest = rest[better] + neighbours[best]
    return shifts


def whole_shifts(positions: FloatArray, cells: FloatArray, levels: Sequence[IntArray]) -> IntArray:
    """Find the lattice shifts that put every atom next to its parent in a tree of bonds.

    Args:
        positions: Shape (B, N, 3), bohr.
        cells: Lattice vectors as rows, shape (B, 3, 3) (or (3, 3) for all frames), bohr.
        levels: The tree, breadth first: each level holds pairs (child, parent) of atom indices, shape (n, 2); a parent
            is a root or a child of an earlier level.

    Returns:
        Integer shifts, shape (B, N, 3): ``positions + shifts @ cells`` is whole. Zero for atoms that are no child.
    """
    shifts = np.zeros(positions.shape, dtype=np.int64)
    for level in levels:
        child, parent = level[:, 0], level[:, 1]
        bonds = positions.take(child, axis=1) - positions.take(parent, axis=1)
        shifts[:, child] = shifts.take(parent, axis=1) + minimum_image_shifts(bonds, cells)
    return shifts


def make_whole(positions: FloatArray, cells: FloatArray, levels: Sequence[IntArray]) -> FloatArray:
    """Put every atom next to its parent in a tree of bonds (see `whole_shifts`).

    Args:
        positions: Shape (B, N, 3), bohr.
        cells: Lattice vectors as rows, shape (B, 3, 3) (or (3, 3) for all frames), bohr.
        levels: The tree, breadth first, as in `whole_shifts`.

    Returns:
        Positions of whole molecules, shape (B, N, 3), bohr. Roots stay where they are.
    """
    moved: FloatArray = positions + whole_shifts(positions, cells, levels) @ cells
    return moved
