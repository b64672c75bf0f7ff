"""Radial functions and directions between the QM atoms, and their derivatives: `structure.Neighbours`.

The sums of one QM atom over its neighbours of one element are Q numbers: F radial functions, then for each of F'
angular functions the R monomials of directions. Of each pair of atoms are kept the direction and the distance, the
slopes of the radial functions, values and slopes of the radial parts of the angular functions, and the monomials; all
are zero between atoms beyond the cutoffs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.lanes import MEMBERS, add, clear_rows
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear
from deltaqmmm.ml.compiled.tables import LANES, Block, RadialTable, RowTable, block_room, radial_table, row_table
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.results import FloatArray, IntArray


class StructureTable(NamedTuple):
    """The functions between QM atoms.

    Attributes:
        radial: F radial functions.
        angular: Radial parts of the F' angular functions.
        rows: The R monomials up to the order of the angular functions.
        species: Element of each QM atom among those of the model, shape (n,).
    """

    radial: RadialTable
    angular: RadialTable
    rows: RowTable
    species: IntArray

    @property
    def n_sums(self) -> int:
        """Q, the sums over the neighbours of one element."""
        return len(self.radial.kinds) + len(self.angular.kinds) * len(self.rows.raised)

    @property
    def n_kept(self) -> int:
        """What is kept of each pair."""
        return 4 + len(self.radial.kinds) + 2 * len(self.angular.kinds) + len(self.rows.raised)


def structure_table(functions: SymmetryFunctions, species: IntArray) -> StructureTable:
    """Make the tables; species are the elements of the QM atoms, shape (n,)."""
    return StructureTable(
        radial_table(functions.qm_radial, functions.qm_cutoff),
        radial_table(functions.angular_radial, functions.angular_cutoff),
        row_table(functions.angular_order),
        species,
    )


class _Room(NamedTuple):
    """Room for the neighbours of one atom.

    Attributes:
        near: Which atoms they are, shape (n,).
        radial: For the radial functions.
        angular: For the angular ones.
    """

    near: IntArray
    radial: Block
    angular: Block


def _room(table: StructureTable) -> _Room:
    n_atoms = len(table.species)
    return _Room(
        near=np.empty(n_atoms, dtype=np.int64),
        radial=block_room(len(table.radial.kinds), 1, n_atoms),
        angular=block_room(len(table.angular.kinds), len(table.rows.raised), n_atoms),
    )


@inlined("contract")
def _load_neighbours(cutoff: float, atoms: FloatArray, atom: int, near: IntArray, pairs: FloatArray) -> int:
    """List the atoms within the cutoff of one of them, with the vectors to them; how many there are."""
    limit, count = cutoff**2, 0
    for other in range(len(atoms)):
        x, y, z = atoms[other, 0] - atoms[atom, 0], atoms[other, 1] - atoms[atom, 1], atoms[other, 2] - atoms[atom, 2]
        squared = x * x + y * y + z * z
        # What is not a number counts, so that it shows.
        if other == atom or squared >= limit:
            continue
        near[count] = other
        pairs[0, count], pairs[1, count], pairs[2, count], pairs[4, count] = x, y, z, squared
        count += 1
    for pair in range(count, LANES * ((count + LANES - 1) // LANES)):
        pairs[0, pair] = pairs[1, pair] = pairs[2, pair] = pairs[4, pair] = 0.0
    return count


@inlined("contract")
def _directions(block: Block, near: IntArray, count: int, kept: FloatArray) -> None:
    """Make directions of the vectors, and keep them (n, 4 or more), the distances after them."""
    pairs = block.pairs
    for pair in range(count):
        other, distance = near[pair], math.sqrt(pairs[4, pair])
        for y in range(3):
            pairs[y, pair] /= distance
            kept[other, y] = pairs[y, pair]
        kept[other, 3] = distance


@Kernel
def _fill_neighbour_sums(
    table: StructureTable,
    positions: FloatArray,
    sums: FloatArray,
    pairs: FloatArray,
    room: _Room,
) -> bool:
    """Fill in sums (B, n, E, Q) and pairs (B, n, n, `n_kept`)."""
    n_radial, n_angular, n_rows = len(table.radial.kinds), len(table.angular.kinds), len(table.rows.raised)
    radial, angular = room.radial, room.angular
    for frame in range(len(positions)):
        atoms = positions[frame]
        for atom in range(len(atoms)):
            found, kept = sums[frame, atom], pairs[frame, atom]
            clear(found, found.shape[0], found.shape[1])
            clear(kept, kept.shape[0], kept.shape[1])
            count = _load_neighbours(table.radial.cutoff, atoms, atom, room.near, radial.pairs)
            radial_functions(table.radial, radial, LANES * ((count + LANES - 1) // LANES))
            _directions(radial, room.near, count, kept)
            for pair in range(count):
                other = room.near[pair]
                kind = table.species[other]
                for index in range(n_radial):
                    found[kind, index] += radial.values[index, pair]
                    kept[other, 4 + index] = radial.slopes[index, pair]
            count = _load_neighbours(table.angular.cutoff, atoms, atom, room.near, angular.pairs)
            size = LANES * ((count + LANES - 1) // LANES)
            radial_functions(table.angular, angular, size)
            _directions(angular, room.near, count, kept)
            for pair in range(size):
                angular.rows[0, pair] = 1.0
            multiply_rows(table.rows, n_rows, angular.pairs, angular.rows, size)
            for pair in range(count):
                other = room.near[pair]
                kind, place = table.species[other], 4 + n_radial
                for index in range(n_angular):
                    value, start = angular.values[index, pair], n_radial + index * n_rows
                    for row in range(n_rows):
                        found[kind, start + row] += value * angular.rows[row, pair]
                    kept[other, place + index] = value
                    kept[other, place + n_angular + index] = angular.slopes[index, pair]
                place += 2 * n_angular
                for row in range(n_rows):
                    kept[other, place + row] = angular.rows[row, pair]
    return True


@inlined("contract")
def _fill_derivatives_of_rows(table: RowTable, rows: FloatArray, found: FloatArray) -> None:
    """Derivatives of monomials (R,) by the components that they are made of, and they themselves, shape (4, R)."""
    for row in range(len(rows)):
        for y in range(3):
            found[y, row] = table.lowered_by[row, y] * rows[table.lowered[row, y]]
        found[3, row] = rows[row]


@inlined("contract", "reassoc", "nsz")
def _add_dots(value: float, slope: float, rows: FloatArray, given: FloatArray, start: int, parts: FloatArray) -> None:
    """Add to parts (4, 4) the products of rows (4, R) with those given (Q, 4) from a place on.

    Three of them times the value, and the last one times the slope.
    """
    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = z0 = z1 = z2 = z3 = s0 = s1 = s2 = s3 = 0.0
    for row in range(rows.shape[1]):
        x, y, z, own = rows[0, row], rows[1, row], rows[2, row], rows[3, row]
        a, b, c, d = given[start + row, 0], given[start + row, 1], given[start + row, 2], given[start + row, 3]
        x0, x1, x2, x3 = x0 + x * a, x1 + x * b, x2 + x * c, x3 + x * d
        y0, y1, y2, y3 = y0 + y * a, y1 + y * b, y2 + y * c, y3 + y * d
        z0, z1, z2, z3 = z0 + z * a, z1 + z * b, z2 + z * c, z3 + z * d
        s0, s1, s2, s3 = s0 + own * a, s1 + own * b, s2 + own * c, s3 + own * d
    for y, (a, b, c, d) in enumerate(((x0, x1, x2, x3), (y0, y1, y2, y3), (z0, z1, z2, z3))):
        parts[y, 0] += value * a
        parts[y, 1] += value * b
        parts[y, 2] += value * c
        parts[y, 3] += value * d
    parts[3, 0], parts[3, 1] = parts[3, 0] + slope * s0, parts[3, 1] + slope * s1
    parts[3, 2], parts[3, 3] = parts[3, 2] + slope * s2, parts[3, 3] + slope * s3


@Kernel
def _fill_neighbour_pull_back(
    table: StructureTable,
    pairs: FloatArray,
    gradients: FloatArray,
    found: FloatArray,
    rows: FloatArray,
    parts: FloatArray,
) -> bool:
    """Fill in found (G, B, n, 3, 4) from gradients (G, B, n, E, Q, 4).

    There must be room for rows (4, R) and for the derivatives by the direction and by r^2 of one pair, parts (5, 4).
    """
    n_radial, n_angular, n_rows = len(table.radial.kinds), len(table.angular.kinds), len(table.rows.raised)
    n_atoms, start = pairs.shape[1], 4 + n_radial
    for frame in range(len(pairs)):
        for group in range(len(gradients)):
            for atom in range(n_atoms):
                clear_rows(found[group, frame, atom], 0, 3)
        for atom in range(n_atoms):
            for other in range(n_atoms):
                kept, kind = pairs[frame, atom, other], table.species[other]
                distance = kept[3]
                if distance == 0.0:
                    continue
                # The monomials of a pair beyond the cutoff of the angular functions are zero, also the first one.
                n_turning = n_angular if kept[start + 2 * n_angular] != 0.0 else 0
                if n_turning > 0:
                    _fill_derivatives_of_rows(table.rows, kept[start + 2 * n_angular :], rows)
                for group in range(len(gradients)):
                    own = gradients[group, frame, atom, kind]
                    clear_rows(parts, 0, 5)
                    for index in range(n_radial):
                        add(parts, 3, kept[4 + index], own, index)
                    for index in range(n_turning):
                        value, slope = kept[start + index], kept[start + n_angular + index]
                        _add_dots(value, slope, rows, own, n_radial + index * n_rows, parts)
                    # Along itself a vector does not change its direction.
                    for y in range(3):
                        add(parts, 4, -kept[y], parts, y)
                    for y in range(3):
                        add(parts, y, kept[y], parts, 4)
                    mine, its = found[group, frame, atom], found[group, frame, other]
                    for y in range(3):
                        add(its, y, 1.0 / distance, parts, y)
                        add(its, y, 2.0 * distance * kept[y], parts, 3)
                        add(mine, y, -1.0 / distance, parts, y)
                        add(mine, y, -2.0 * distance * kept[y], parts, 3)
    return True


def neighbour_sums(table: StructureTable, positions: FloatArray, n_elements: int) -> tuple[FloatArray, FloatArray]:
    """The sums over the QM neighbours of each QM atom.

    Args:
        table: The functions.
        positions: Shape (B, n, 3), bohr.
        n_elements: Elements of the model E.

    Returns:
        The sums, shape (B, n, E, Q), and what `neighbour_pull_back` needs of each pair, shape (B, n, n, `n_kept`).
    """
    n_frames, n_atoms = positions.shape[:2]
    sums = np.empty((n_frames, n_atoms, n_elements, table.n_sums))
    pairs = np.empty((n_frames, n_atoms, n_atoms, table.n_kept))

    _fill_neighbour_sums(table, positions, sums, pairs, _room(table))
    return sums, pairs


def neighbour_pull_back(table: StructureTable, pairs: FloatArray, gradients: FloatArray) -> FloatArray:
    """From derivatives by the sums to those by the positions, for members in groups, see `lanes`.

    Args:
        table: The functions.
        pairs: Of `neighbour_sums`.
        gradients: dE/d(sums), shape (G, B, n, E, Q, 4).

    Returns:
        dE/dR, shape (G, B, n, 3, 4), hartree/bohr.
    """
    found = np.empty((len(gradients), *pairs.shape[:2], 3, MEMBERS))
    rows = np.empty((4, len(table.rows.raised)))
    _fill_neighbour_pull_back(table, pairs, gradients, found, rows, np.empty((5, MEMBERS)))
    return found
