"""Minimum images, and the QM region made whole: what `periodic` and `search.qm_region_shifts` do."""

from __future__ import annotations

import itertools

import numpy as np

from deltaqmmm.embedding.compiled.tables import Lattices, RegionTable
from deltaqmmm.embedding.search import TIE
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

Matrix = tuple[float, float, float, float, float, float, float, float, float]

_NEIGHBOURS = np.array([shift for shift in itertools.product((-1, 0, 1), repeat=3) if any(shift)], dtype=np.float64)
_LEAST_GAIN = 1e-12
"""Relative gain in squared length below which two images count as equally near (keeps the search from cycling)."""


@inlined()
def elements(matrix: FloatArray) -> Matrix:
    """The elements of a matrix (3, 3), row after row: a loop that reads them from an array reads them each time."""
    return (
        matrix[0, 0], matrix[0, 1], matrix[0, 2],
        matrix[1, 0], matrix[1, 1], matrix[1, 2],
        matrix[2, 0], matrix[2, 1], matrix[2, 2],
    )  # fmt: skip


@inlined("contract")
def moved(x: float, y: float, z: float, a: float, b: float, c: float, matrix: Matrix) -> tuple[float, float, float]:
    """The point (x, y, z) moved by a, b and c times the rows of a matrix."""
    return (
        x + (a * matrix[0] + b * matrix[3] + c * matrix[6]),
        y + (a * matrix[1] + b * matrix[4] + c * matrix[7]),
        z + (a * matrix[2] + b * matrix[5] + c * matrix[8]),
    )


@inlined("contract")
def nearest_shift(x: float, y: float, z: float, lattices: Lattices, frame: int) -> tuple[float, float, float]:
    """The lattice shift, in the basis of the cell, that makes a vector as short as possible.

    Few vectors are not as short already: others should not come here, for the call alone takes longer than to see that.
    """
    safe, vectors = lattices.safe_squares[frame], elements(lattices.vectors[frame])
    a, b, c = moved(0.0, 0.0, 0.0, -x, -y, -z, elements(lattices.inverses[frame]))
    a, b, c = np.rint(a), np.rint(b), np.rint(c)
    x, y, z = moved(x, y, z, a, b, c, vectors)
    squared = x * x + y * y + z * z
    while squared > safe:
        best, least = -1, 0.0
        for neighbour in range(len(_NEIGHBOURS)):
            i, j, k = _NEIGHBOURS[neighbour, 0], _NEIGHBOURS[neighbour, 1], _NEIGHBOURS[neighbour, 2]
            p, q, r = moved(0.0, 0.0, 0.0, i, j, k, vectors)
            gain = 2.0 * (x * p + y * q + z * r) + (p * p + q * q + r * r)
            if best < 0 or gain < least:
                best, least = neighbour, gain
        if least >= -_LEAST_GAIN * squared:
            break
        i, j, k = _NEIGHBOURS[best, 0], _NEIGHBOURS[best, 1], _NEIGHBOURS[best, 2]
        a, b, c = a + i, b + j, c + k
        x, y, z = moved(x, y, z, i, j, k, vectors)
        squared = x * x + y * y + z * z
    return moved(0.0, 0.0, 0.0, a, b, c, elements(lattices.operations[frame]))


@inlined("contract")
def make_region_whole(
    region: RegionTable, lattices: Lattices, frame: int, positions: FloatArray, shifts: FloatArray, found: FloatArray
) -> None:
    """Fill in the lattice shifts of the QM atoms of one frame and their moved positions, both of shape (n, 3)."""
    atoms, cell, safe = region.atoms, elements(lattices.cells[frame]), lattices.safe_squares[frame]
    for atom in range(len(atoms)):
        for axis in range(3):
            shifts[atom, axis] = 0.0
    for bond in range(len(region.bonds)):
        child, parent = region.bonds[bond, 0], region.bonds[bond, 1]
        x = positions[atoms[child], 0] - positions[atoms[parent], 0]
        y = positions[atoms[child], 1] - positions[atoms[parent], 1]
        z = positions[atoms[child], 2] - positions[atoms[parent], 2]
        a = b = c = 0.0
        if x * x + y * y + z * z > safe:
            a, b, c = nearest_shift(x, y, z, lattices, frame)
        shifts[child, 0] = shifts[parent, 0] + a
        shifts[child, 1] = shifts[parent, 1] + b
        shifts[child, 2] = shifts[parent, 2] + c
    _move_region(region, cell, positions, shifts, found)
    if region.n_molecules > 1:
        for molecule in range(1, region.n_molecules):
            _shift_molecule(region, lattices, frame, molecule, shifts, found)
        _move_region(region, cell, positions, shifts, found)


@inlined("contract")
def _move_region(
    region: RegionTable, cell: Matrix, positions: FloatArray, shifts: FloatArray, found: FloatArray
) -> None:
    for atom in range(len(region.atoms)):
        given, shift = positions[region.atoms[atom]], shifts[atom]
        x, y, z = moved(given[0], given[1], given[2], shift[0], shift[1], shift[2], cell)
        found[atom, 0], found[atom, 1], found[atom, 2] = x, y, z


@inlined("contract")
def _shift_molecule(
    region: RegionTable, lattices: Lattices, frame: int, molecule: int, shifts: FloatArray, whole: FloatArray
) -> None:
    """Put a molecule where its closest pair of atoms with the first molecule is nearest; the first such pair counts."""
    n_atoms, closest, molecules = len(region.atoms), np.inf, region.molecules
    cell, safe = elements(lattices.cells[frame]), lattices.safe_squares[frame]
    a = b = c = 0.0
    # Once for the shortest distance, and once more for the first pair that is as close.
    for search in range(2):
        chosen = False
        for atom in range(n_atoms):
            if molecules[atom] != molecule or chosen:
                continue
            for other in range(n_atoms):
                if molecules[other] != 0 or chosen:
                    continue
                x = whole[atom, 0] - whole[other, 0]
                y = whole[atom, 1] - whole[other, 1]
                z = whole[atom, 2] - whole[other, 2]
                i = j = k = 0.0
                if x * x + y * y + z * z > safe:
                    i, j, k = nearest_shift(x, y, z, lattices, frame)
                    x, y, z = moved(x, y, z, i, j, k, cell)
                squared = x * x + y * y + z * z
                if search == 0:
                    closest = min(closest, squared)
                elif squared <= closest + TIE:
                    a, b, c = i, j, k
                    chosen = True
    for atom in range(n_atoms):
        if molecules[atom] == molecule:
            shifts[atom, 0] += a
            shifts[atom, 1] += b
            shifts[atom, 2] += c
