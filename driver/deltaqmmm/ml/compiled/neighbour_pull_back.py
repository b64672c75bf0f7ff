"""From derivatives by the sums of `neighbour_sums` to those by the positions of the QM atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.lanes import MEMBERS, add, add_times, clear_rows, lanes, put
from deltaqmmm.ml.compiled.structure_table import PAIRS, Pairs, StructureTable
from deltaqmmm.ml.compiled.tables import RowTable
from deltaqmmm.results import FloatArray


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
        turned: Derivatives of the monomials of some pairs, shape (3 R, `PAIRS`).
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
        for begin in range(0, counts[0], PAIRS):
            if begin < counts[1]:
                _fill_derivatives_of_rows(table.rows, rows, begin, min(begin + PAIRS, counts[1]), room.turned)
            for pair in range(begin, min(begin + PAIRS, counts[0])):
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
    room = _Room(np.empty((3 * count, PAIRS)), by_row[0], by_row[1], np.empty((5, MEMBERS)))
    given = np.ascontiguousarray(gradients).reshape(*gradients.shape[:4], MEMBERS * table.n_sums)
    _fill_neighbour_pull_back(table, pairs, given, found, room)
    return found
