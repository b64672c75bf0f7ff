"""Radial functions and directions between the QM atoms: the sums of `structure.Neighbours`, see `structure_table`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear
from deltaqmmm.ml.compiled.structure_table import PAIRS, Pairs, StructureTable, no_pairs
from deltaqmmm.ml.compiled.tables import LANES, Block, block_room
from deltaqmmm.results import FloatArray, IntArray


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
        for begin in range(0, counts[0], PAIRS):
            count = min(PAIRS, counts[0] - begin)
            size = _load_vectors(vectors, begin, count, radial.pairs)
            radial_functions(table.radial, radial, size)
            _copy(radial.slopes, pairs.slopes[frame], 0, begin, n_radial, count)
            turning = max(0, min(PAIRS, counts[1] - begin))
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
    pairs = no_pairs(table, n_frames)
    room = _SumRoom(
        np.empty((4, pairs.atoms.shape[2])),
        block_room(len(table.radial.kinds), 1, PAIRS),
        block_room(len(table.angular.kinds), len(table.rows.raised), PAIRS),
    )
    _fill_neighbour_sums(table, positions, sums, pairs, room)
    return sums, pairs
