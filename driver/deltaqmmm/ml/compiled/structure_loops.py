"""Radial functions and directions between the QM atoms, and their derivatives: `structure.Neighbours`.

The sums of one QM atom over its neighbours of one element are Q numbers: F radial functions, then for each of F'
angular functions the R monomials of directions. A pair of atoms is looked at once, for both: seen from the second one
monomials of odd rank have the other sign.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.lanes import MEMBERS, add, add_times, clear_rows, lanes, put
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear
from deltaqmmm.ml.compiled.tables import (
    LANES,
    Block,
    RadialTable,
    RowTable,
    block_room,
    filled,
    radial_table,
    row_table,
)
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.results import FloatArray, IntArray

_PAIRS = 64
"""Pairs at a time, so that what is known of them stays in the fastest cache."""


class StructureTable(NamedTuple):
    """The functions between QM atoms.

    Attributes:
        radial: F radial functions.
        angular: Radial parts of the F' angular functions.
        rows: The R monomials up to the order of the angular functions.
        signs: Of each sum of one atom, seen from the other atom of a pair, shape (Q,).
        lane_signs: The same, four times each, see `lanes`, shape (4 Q,).
        species: Element of each QM atom among those of the model, shape (n,).
    """

    radial: RadialTable
    angular: RadialTable
    rows: RowTable
    signs: FloatArray
    lane_signs: FloatArray
    species: IntArray

    @property
    def n_sums(self) -> int:
        """Q, the sums over the neighbours of one element."""
        return len(self.signs)


def structure_table(functions: SymmetryFunctions, species: IntArray) -> StructureTable:
    """Make the tables; species are the elements of the QM atoms, shape (n,)."""
    rows = row_table(functions.angular_order)
    signs = np.ones(len(rows.raised))
    for row in range(1, len(signs)):
        signs[row] = -signs[rows.parents[row]]
    of_sums = np.concatenate([np.ones(len(functions.qm_radial)), np.tile(signs, len(functions.angular_radial))])
    return StructureTable(
        radial_table(functions.qm_radial, functions.qm_cutoff),
        radial_table(functions.angular_radial, functions.angular_cutoff),
        rows,
        of_sums,
        np.repeat(of_sums, MEMBERS),
        species,
    )


class Pairs(NamedTuple):
    """The pairs of QM atoms within the cutoffs of B frames; there is room for P of them.

    Attributes:
        counts: How many pairs there are, and how many of these, the first ones, are within the cutoff of the angular
            functions, shape (B, 2).
        atoms: The first and the second atom of each, shape (B, 2, P).
        directions: From the first to the second one, and the distance, shape (B, 4, P).
        slopes: Of the radial functions, by r^2, shape (B, F, P).
        angular: Radial parts of the angular functions, then their slopes, shape (B, 2 F', P).
        rows: Monomials, shape (B, R, P).
    """

    counts: IntArray
    atoms: IntArray
    directions: FloatArray
    slopes: FloatArray
    angular: FloatArray
    rows: FloatArray


def _no_pairs(table: StructureTable, n_frames: int) -> Pairs:
    """Room for all pairs; memory is taken for those that are found."""
    n_atoms = len(table.species)
    n_pairs = filled(n_atoms * (n_atoms - 1) // 2, LANES)

    def room(n_rows: int) -> FloatArray:
        return np.empty((n_frames, n_rows, n_pairs))

    return Pairs(
        np.zeros((n_frames, 2), dtype=np.int64),
        np.empty((n_frames, 2, n_pairs), dtype=np.int64),
        room(4),
        room(len(table.radial.kinds)),
        room(2 * len(table.angular.kinds)),
        room(len(table.rows.raised)),
    )


class _SumRoom(NamedTuple):
    """Room for the sums.

    Attributes:
        vectors: x, y, z and r^2 of all pairs of a frame, shape (4, P).
        radial: For the radial functions of some pairs.
        angular: For the angular ones.
    """

    vectors: FloatArray
    radial: Block
    angular: Block


@inlined("contract")
def _add_pairs(
    nearest: float, cutoff: float, positions: FloatArray, count: int, atoms: IntArray, vectors: FloatArray
) -> int:
    """List the pairs of atoms between two distances, with their vectors and r^2; how many there are then."""
    low, high = nearest**2, cutoff**2
    for first in range(len(positions)):
        a, b, c = positions[first, 0], positions[first, 1], positions[first, 2]
        for second in range(first + 1, len(positions)):
            x, y, z = positions[second, 0] - a, positions[second, 1] - b, positions[second, 2] - c
            squared = x * x + y * y + z * z
            # What is not a number counts as near, so that it shows.
            if squared >= high or (low > 0.0 and not squared >= low):
                continue
            atoms[0, count], atoms[1, count] = first, second
            vectors[0, count], vectors[1, count], vectors[2, count], vectors[3, count] = x, y, z, squared
            count += 1
    return count


@inlined("contract")
def _copy(given: FloatArray, found: FloatArray, row: int, begin: int, n_rows: int, count: int) -> None:
    """Copy so many rows and columns to rows and columns from a place on."""
    for index in range(n_rows):
        own, place = found[row + index, begin : begin + count], given[index, :count]
        for pair in range(count):
            own[pair] = place[pair]


@inlined("contract")
def _load_vectors(vectors: FloatArray, begin: int, count: int, pairs: FloatArray) -> int:
    """Load so many pairs, filled up to a multiple of the lanes; the number with these."""
    size = LANES * ((count + LANES - 1) // LANES)
    for y in range(4):
        # Of the rows, the fourth is for weights.
        own, given = pairs[y if y < 3 else 4], vectors[y, begin : begin + count]
        for pair in range(count):
            own[pair] = given[pair]
        for pair in range(count, size):
            own[pair] = 0.0
    return size


@inlined("contract")
def _make_directions(vectors: FloatArray, count: int, directions: FloatArray) -> None:
    """Fill in directions and distances."""
    for pair in range(count):
        distance = math.sqrt(vectors[3, pair])
        for y in range(3):
            directions[y, pair] = vectors[y, pair] / distance
        directions[3, pair] = distance


@inlined("contract")
def _add_sums(
    table: StructureTable, atoms: IntArray, turning: int, radial: Block, angular: Block, sums: FloatArray
) -> None:
    """Add the functions of some pairs, so many of them with angular ones, to the sums of both atoms (n, E, Q)."""
    n_radial, n_angular, n_rows = len(table.radial.kinds), len(table.angular.kinds), len(table.rows.raised)
    for pair in range(atoms.shape[1]):
        first, second = atoms[0, pair], atoms[1, pair]
        mine, its = sums[first, table.species[second]], sums[second, table.species[first]]
        # Places in parts of arrays are known not to be negative.
        one, two = mine[:n_radial], its[:n_radial]
        for index in range(n_radial):
            value = radial.values[index, pair]
            one[index] += value
            two[index] += value
        for index in range(n_angular if pair < turning else 0):
            value, start = angular.values[index, pair], n_radial + index * n_rows
            stop = start + n_rows
            one, two, signs = mine[start:stop], its[start:stop], table.signs[start:stop]
            for row in range(n_rows):
                product = value * angular.rows[row, pair]
                one[row] += product
                two[row] += signs[row] * product


@Kernel
def _fill_neighbour_sums(
    table: StructureTable, positions: FloatArray, sums: FloatArray, pairs: Pairs, room: _SumRoom
) -> bool:
    """Fill in sums (B, n, E, Q) and the pairs."""
    n_radial, n_angular, n_rows = len(table.radial.kinds), len(table.angular.kinds), len(table.rows.raised)
    radial, angular, vectors = room.radial, room.angular, room.vectors
    for frame in range(len(positions)):
        for atom in range(positions.shape[1]):
            clear(sums[frame, atom], sums.shape[2], sums.shape[3])
        atoms, counts, directions = pairs.atoms[frame], pairs.counts[frame], pairs.directions[frame]
        near, reach = table.angular.cutoff, table.radial.cutoff
        counts[1] = _add_pairs(0.0, near, positions[frame], 0, atoms, vectors)
        counts[0] = _add_pairs(near, reach, positions[frame], counts[1], atoms, vectors)
        _make_directions(vectors, counts[0], directions)
        for begin in range(0, counts[0], _PAIRS):
            count = min(_PAIRS, counts[0] - begin)
            size = _load_vectors(vectors, begin, count, radial.pairs)
            radial_functions(table.radial, radial, size)
            _copy(radial.slopes, pairs.slopes[frame], 0, begin, n_radial, count)
            turning = max(0, min(_PAIRS, counts[1] - begin))
            if turning > 0:
                size = _load_vectors(vectors, begin, turning, angular.pairs)
                radial_functions(table.angular, angular, size)
                _load_vectors(directions, begin, turning, angular.pairs)
                for pair in range(size):
                    angular.rows[0, pair] = 1.0
                multiply_rows(table.rows, n_rows, angular.pairs, angular.rows, size)
                _copy(angular.values, pairs.angular[frame], 0, begin, n_angular, turning)
                _copy(angular.slopes, pairs.angular[frame], n_angular, begin, n_angular, turning)
                _copy(angular.rows, pairs.rows[frame], 0, begin, n_rows, turning)
            _add_sums(table, atoms[:, begin : begin + count], turning, radial, angular, sums[frame])
    return True


@inlined("contract")
def _fill_derivatives_of_rows(table: RowTable, rows: FloatArray, begin: int, end: int, found: FloatArray) -> None:
    """Derivatives of the monomials of some pairs by the components of their directions, (3 R, pairs)."""
    n_rows = len(rows)
    for row in range(n_rows):
        for y in range(3):
            own, factor = rows[table.lowered[row, y], begin:end], table.lowered_by[row, y]
            for place in range(end - begin):
                found[y * n_rows + row, place] = factor * own[place]


@inlined("contract")
def _join_atoms(
    table: StructureTable,
    angular: FloatArray,
    pair: int,
    mine: FloatArray,
    its: FloatArray,
    by_row: FloatArray,
    steep_by_row: FloatArray,
) -> None:
    """Derivatives by the monomials of one pair, times the functions and times their slopes, each in one row, (4 R,).

    Those by the sums of the first and of the second atom are in one row each too, (4 Q,).
    """
    n_angular, count = len(table.angular.kinds), len(by_row)
    for place in range(count):
        by_row[place] = steep_by_row[place] = 0.0
    for index in range(n_angular):
        value, slope = angular[index, pair], angular[n_angular + index, pair]
        start = MEMBERS * len(table.radial.kinds) + index * count
        signs, one, two = (
            table.lane_signs[start : start + count],
            mine[start : start + count],
            its[start : start + count],
        )
        for place in range(count):
            both = one[place] + signs[place] * two[place]
            by_row[place] += value * both
            steep_by_row[place] += slope * both


@inlined("contract")
def _add_radial(slopes: FloatArray, pair: int, mine: FloatArray, its: FloatArray, parts: FloatArray) -> None:
    """Add the derivatives by r^2 of one pair through the radial functions to parts[3]."""
    total = lanes(parts, 3)
    for index in range(len(slopes)):
        slope, place = slopes[index, pair], MEMBERS * index
        total = add_times(add_times(total, slope, lanes(mine, place)), slope, lanes(its, place))
    put(parts, 3, total)


@inlined("contract")
def _add_angular(
    rows: FloatArray,
    pair: int,
    turned: FloatArray,
    place: int,
    by_row: FloatArray,
    steep_by_row: FloatArray,
    parts: FloatArray,
) -> None:
    """Add the derivatives by the direction and by r^2 of one pair through the monomials to parts."""
    n_rows = len(rows)
    x, y, z, along = lanes(parts, 0), lanes(parts, 1), lanes(parts, 2), lanes(parts, 3)
    for row in range(n_rows):
        own = lanes(by_row, MEMBERS * row)
        x = add_times(x, turned[row, place], own)
        y = add_times(y, turned[n_rows + row, place], own)
        z = add_times(z, turned[2 * n_rows + row, place], own)
        along = add_times(along, rows[row, pair], lanes(steep_by_row, MEMBERS * row))
    put(parts, 0, x)
    put(parts, 1, y)
    put(parts, 2, z)
    put(parts, 3, along)


@inlined("contract")
def _give_pair(
    directions: FloatArray, pair: int, parts: FloatArray, from_first: FloatArray, from_second: FloatArray
) -> None:
    """Add derivatives by the positions of both atoms, each (3, 4), from those by direction and r^2."""
    distance = directions[3, pair]
    # Along itself a vector does not change its direction.
    for y in range(3):
        add(parts, 4, -directions[y, pair], parts, y)
    for y in range(3):
        add(parts, y, directions[y, pair], parts, 4)
        turning, stretching = 1.0 / distance, 2.0 * distance * directions[y, pair]
        add(from_second, y, turning, parts, y)
        add(from_second, y, stretching, parts, 3)
        add(from_first, y, -turning, parts, y)
        add(from_first, y, -stretching, parts, 3)


class _Room(NamedTuple):
    """Room for the way back.

    Attributes:
        turned: Derivatives of the monomials of some pairs, shape (3 R, `_PAIRS`).
        by_row: Derivatives by the monomials of one pair, those of a group of members side by side, shape (4 R,).
        steep_by_row: The same with slopes in place of the radial parts.
        parts: Derivatives by the direction and by r^2 of one pair, and along the direction, shape (5, 4).
    """

    turned: FloatArray
    by_row: FloatArray
    steep_by_row: FloatArray
    parts: FloatArray


@Kernel
def _fill_neighbour_pull_back(
    table: StructureTable, pairs: Pairs, gradients: FloatArray, found: FloatArray, room: _Room
) -> bool:
    """Fill in found (G, B, n, 3, 4) from gradients (G, B, n, E, 4 Q)."""
    for frame in range(found.shape[1]):
        atoms, counts, directions = pairs.atoms[frame], pairs.counts[frame], pairs.directions[frame]
        rows, slopes, angular = pairs.rows[frame], pairs.slopes[frame], pairs.angular[frame]
        for group in range(len(found)):
            for atom in range(found.shape[2]):
                clear_rows(found[group, frame, atom], 0, 3)
        for begin in range(0, counts[0], _PAIRS):
            if begin < counts[1]:
                _fill_derivatives_of_rows(table.rows, rows, begin, min(begin + _PAIRS, counts[1]), room.turned)
            for pair in range(begin, min(begin + _PAIRS, counts[0])):
                first, second = atoms[0, pair], atoms[1, pair]
                for group in range(len(gradients)):
                    mine = gradients[group, frame, first, table.species[second]]
                    its = gradients[group, frame, second, table.species[first]]
                    clear_rows(room.parts, 0, 5)
                    _add_radial(slopes, pair, mine, its, room.parts)
                    if pair < counts[1]:
                        _join_atoms(table, angular, pair, mine, its, room.by_row, room.steep_by_row)
                        _add_angular(rows, pair, room.turned, pair - begin, room.by_row, room.steep_by_row, room.parts)
                    from_first, from_second = found[group, frame, first], found[group, frame, second]
                    _give_pair(directions, pair, room.parts, from_first, from_second)
    return True


def neighbour_sums(table: StructureTable, positions: FloatArray, n_elements: int) -> tuple[FloatArray, Pairs]:
    """The sums over the QM neighbours of each QM atom.

    Args:
        table: The functions.
        positions: Shape (B, n, 3), bohr.
        n_elements: Elements of the model E.

    Returns:
        The sums, shape (B, n, E, Q), and the pairs.
    """
    n_frames, n_atoms = positions.shape[:2]
    sums = np.empty((n_frames, n_atoms, n_elements, table.n_sums))
    pairs = _no_pairs(table, n_frames)
    room = _SumRoom(
        np.empty((4, pairs.atoms.shape[2])),
        block_room(len(table.radial.kinds), 1, _PAIRS),
        block_room(len(table.angular.kinds), len(table.rows.raised), _PAIRS),
    )
    _fill_neighbour_sums(table, positions, sums, pairs, room)
    return sums, pairs


def neighbour_pull_back(table: StructureTable, pairs: Pairs, gradients: FloatArray) -> FloatArray:
    """From derivatives by the sums to those by the positions, for members in groups, see `lanes`.

    Args:
        table: The functions.
        pairs: Of `neighbour_sums`.
        gradients: dE/d(sums), shape (G, B, n, E, Q, 4).

    Returns:
        dE/dR, shape (G, B, n, 3, 4), hartree/bohr.
    """
    found = np.empty((*gradients.shape[:3], 3, MEMBERS))
    count = len(table.rows.raised)
    by_row = np.empty((2, MEMBERS * count))
    room = _Room(np.empty((3 * count, _PAIRS)), by_row[0], by_row[1], np.empty((5, MEMBERS)))
    given = np.ascontiguousarray(gradients).reshape(*gradients.shape[:4], MEMBERS * table.n_sums)
    _fill_neighbour_pull_back(table, pairs, given, found, room)
    return found
