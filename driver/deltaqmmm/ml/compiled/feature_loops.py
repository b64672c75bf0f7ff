"""The features of `features.combine`, in its order, and the way back to the sums that they are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.lanes import MEMBERS, add, add_times, clear_rows, lanes, put, zeros
from deltaqmmm.ml.compiled.tables import RowTable, row_table
from deltaqmmm.ml.features import n_features
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.monomials import first_row
from deltaqmmm.results import FloatArray, IntArray


class FeatureTable(NamedTuple):
    """What the features are made of.

    Attributes:
        n_features: Their number.
        n_radial: Radial functions over QM neighbours, F.
        rank_starts: Where the monomials of directions of each rank from 1 on start, and where they end.
        products: For two elements and each of the F' R monomials of directions, in which feature their product is,
            shape (E, E, F' R); -1 for the monomials of rank 0, which are in none.
        rows: How monomials of vectors are made of each other, up to rank 2 or higher.
    """

    n_features: int
    n_radial: int
    rank_starts: IntArray
    products: IntArray
    rows: RowTable


def feature_table(functions: SymmetryFunctions, n_elements: int, n_types: int) -> FeatureTable:
    """Make the table for E elements and T types of MM sites."""
    starts = [first_row(rank) for rank in range(1, functions.angular_order + 2)]
    n_radial, n_angular = len(functions.qm_radial), len(functions.angular_radial)
    first, second = np.triu_indices(n_elements)
    products = np.full((n_elements, n_elements, n_angular, starts[-1]), -1, dtype=np.int64)
    place = n_radial * n_elements
    for start, stop in pairwise(starts):
        for index in range(n_angular):
            own = place + np.arange(len(first))[:, None]
            products[first, second, index, start:stop] = products[second, first, index, start:stop] = own
            place += len(first)
    return FeatureTable(
        n_features(functions, n_elements, n_types),
        n_radial,
        np.array(starts),
        products.reshape(n_elements, n_elements, -1),
        row_table(2),
    )


@inlined("contract")
def _vector_rows(table: RowTable, sums: FloatArray, index: int, kind: int, rows: FloatArray) -> None:
    """The monomials of rank 1 and 2 of the vector among the sums, rows[0], and the tensor there, rows[1]."""
    for row in range(1, 4):
        rows[0, row] = sums[index, row, kind]
    if sums.shape[1] > 4:
        for row in range(4, 10):
            rows[0, row] = rows[0, table.parents[row]] * rows[0, 1 + table.along[row]] * table.factors[row]
            rows[1, row] = sums[index, row, kind]


@inlined("contract")
def _join_shell(
    table: RowTable, directions: FloatArray, sums: FloatArray, rows: FloatArray, found: FloatArray, start: int
) -> int:
    """Features of one atom and one shell, from a place on; the place after them.

    Args:
        table: The monomials.
        directions: Sums of directions to QM neighbours, shape (E, R).
        sums: Over MM sites, shape (F, R', T).
        rows: Room, shape (2, 10).
        found: The features of the atom.
        start: The place of the first of them.
    """
    n_functions, n_sums, n_kinds = len(sums), sums.shape[1], sums.shape[2]
    n_linear, n_pairs = n_functions * n_kinds, n_kinds * (n_kinds + 1) // 2
    products = start + n_linear
    pairs = products + len(directions) * n_linear
    squares = pairs + n_functions * n_pairs
    traces = squares + 2 * len(directions) * n_linear
    for index in range(n_functions):
        pair = pairs + index * n_pairs
        for kind in range(n_kinds):
            place = index * n_kinds + kind
            _vector_rows(table, sums, index, kind, rows)
            x, y, z = rows[0, 1], rows[0, 2], rows[0, 3]
            found[start + place] = sums[index, 0, kind]
            for element in range(len(directions)):
                found[products + element * n_linear + place] = (
                    directions[element, 1] * x + directions[element, 2] * y + directions[element, 3] * z
                )
            for other in range(kind, n_kinds):
                found[pair] = x * sums[index, 1, other] + y * sums[index, 2, other] + z * sums[index, 3, other]
                pair += 1
            if n_sums == 4:
                continue
            for element in range(len(directions)):
                own = tensor = 0.0
                for row in range(4, 10):
                    own += directions[element, row] * rows[0, row]
                    tensor += directions[element, row] * rows[1, row]
                square = squares + 2 * (element * n_linear + index * n_kinds) + kind
                found[square] = tensor
                found[square + n_kinds] = own
            # Rows xx, yy and zz.
            found[traces + place] = rows[1, 4] + rows[1, 7] + rows[1, 9]
    after: int = squares if n_sums == 4 else traces + n_linear
    return after


@Kernel
def _fill_features(
    table: FeatureTable,
    inside: FloatArray,
    outer: FloatArray,
    inner: FloatArray,
    features: FloatArray,
    rows: FloatArray,
) -> bool:
    """Fill in features (B, n, `n_features`)."""
    n_atoms, n_elements, n_sums = inside.shape[1], inside.shape[2], inside.shape[3]
    n_radial, starts = table.n_radial, table.rank_starts
    n_rows = starts[len(starts) - 1]
    for frame in range(len(inside)):
        for atom in range(n_atoms):
            sums, found = inside[frame, atom], features[frame, atom]
            place = 0
            for index in range(n_radial):
                for element in range(n_elements):
                    found[place] = sums[element, index]
                    place += 1
            for rank in range(len(starts) - 1):
                for start in range(n_radial, n_sums, n_rows):
                    for element in range(n_elements):
                        for other in range(element, n_elements):
                            total = 0.0
                            for row in range(start + starts[rank], start + starts[rank + 1]):
                                total += sums[element, row] * sums[other, row]
                            found[place] = total
                            place += 1
            directions = sums[:, n_radial : n_radial + n_rows]
            for shell in (outer, inner):
                place = _join_shell(table.rows, directions, shell[frame, atom], rows, found, place)
    return True


@inlined("contract")
def _pull_back_shell(
    table: RowTable,
    directions: FloatArray,
    by_directions: FloatArray,
    sums: FloatArray,
    found: FloatArray,
    rows: FloatArray,
    parts: FloatArray,
    slopes: FloatArray,
    start: int,
) -> int:
    """From derivatives by the features of `_join_shell`, from a place on, to those by the sums; the place after them.

    Those by the directions are added to by_directions (E, R, 4), those by the sums over MM sites fill found
    (F, R', T, 4). There must be room for rows (2, 10) and parts (5, 4).
    """
    n_functions, n_sums, n_kinds = len(sums), sums.shape[1], sums.shape[2]
    n_linear, n_pairs = n_functions * n_kinds, n_kinds * (n_kinds + 1) // 2
    products = start + n_linear
    pairs = products + len(directions) * n_linear
    squares = pairs + n_functions * n_pairs
    traces = squares + 2 * len(directions) * n_linear
    for index in range(n_functions):
        for kind in range(n_kinds):
            place = index * n_kinds + kind
            _vector_rows(table, sums, index, kind, rows)
            put(found[index, 0], kind, lanes(slopes, start + place))
            # By the components of the vector.
            clear_rows(parts, 0, 3)
            for element in range(len(directions)):
                own = products + element * n_linear + place
                for y in range(3):
                    add(parts, y, directions[element, 1 + y], slopes, own)
                    add(by_directions[element], 1 + y, rows[0, 1 + y], slopes, own)
            for other in range(n_kinds):
                low, high = min(kind, other), max(kind, other)
                own = pairs + index * n_pairs + low * n_kinds - low * (low - 1) // 2 + high - low
                factor = 2.0 if other == kind else 1.0
                for y in range(3):
                    add(parts, y, factor * sums[index, 1 + y, other], slopes, own)
            if n_sums > 4:
                for row in range(4, 10):
                    # By a monomial of the vector, and by the tensor.
                    clear_rows(parts, 3, 5)
                    # Rows xx, yy and zz.
                    if row == 4 or row == 7 or row == 9:
                        put(parts, 4, lanes(slopes, traces + place))
                    for element in range(len(directions)):
                        square = squares + 2 * (element * n_linear + index * n_kinds) + kind
                        add(parts, 3, directions[element, row], slopes, square + n_kinds)
                        add(parts, 4, directions[element, row], slopes, square)
                        add(by_directions[element], row, rows[0, row], slopes, square + n_kinds)
                        add(by_directions[element], row, rows[1, row], slopes, square)
                    put(found[index, row], kind, lanes(parts, 4))
                    for y in range(3):
                        # Where the derivative vanishes, the row that is named is the first one, which is not filled in.
                        if table.lowered_by[row, y] != 0.0:
                            add(parts, y, table.lowered_by[row, y] * rows[0, table.lowered[row, y]], parts, 3)
            for y in range(3):
                put(found[index, 1 + y], kind, lanes(parts, y))
    after: int = squares if n_sums == 4 else traces + n_linear
    return after


@inlined("contract")
def _pull_back_products(table: FeatureTable, slopes: FloatArray, sums: FloatArray, found: FloatArray) -> int:
    """Fill in derivatives by the sums of directions from those by their products (F, 4); how many products there are.

    The sums of directions are the last F' R among the sums (E, Q), and among what is found (E, Q, 4).
    """
    n_elements, n_sums, n_radial = sums.shape[0], table.products.shape[2], table.n_radial
    n_rows = table.rank_starts[len(table.rank_starts) - 1]
    for element in range(n_elements):
        for row in range(n_sums):
            total, own = zeros(), n_radial + row
            if table.products[element, element, row] >= 0:
                for other in range(n_elements):
                    factor = 2.0 * sums[other, own] if other == element else sums[other, own]
                    total = add_times(total, factor, lanes(slopes, table.products[element, other, row]))
            put(found[element], own, total)
    count: int = n_elements * (n_elements + 1) // 2 * (len(table.rank_starts) - 1) * (n_sums // n_rows)
    return count


@Kernel
def _fill_moment_gradients(
    table: FeatureTable,
    inside: FloatArray,
    outer: FloatArray,
    inner: FloatArray,
    slopes: FloatArray,
    by_inside: FloatArray,
    by_outer: FloatArray,
    by_inner: FloatArray,
    rows: FloatArray,
    parts: FloatArray,
) -> bool:
    """Fill in what `pull_back_features` gives."""
    n_atoms, n_elements = inside.shape[1], inside.shape[2]
    n_radial, starts = table.n_radial, table.rank_starts
    n_rows = starts[len(starts) - 1]
    for group in range(len(slopes)):
        for frame in range(len(inside)):
            for atom in range(n_atoms):
                given, sums, found = slopes[group, frame, atom], inside[frame, atom], by_inside[group, frame, atom]
                place = 0
                for index in range(n_radial):
                    for element in range(n_elements):
                        put(found[element], index, lanes(given, place))
                        place += 1
                place += _pull_back_products(table, given, sums, found)
                directions = sums[:, n_radial : n_radial + n_rows]
                by_directions = found[:, n_radial : n_radial + n_rows]
                around = outer[frame, atom], by_outer[group, frame, atom]
                place = _pull_back_shell(table.rows, directions, by_directions, *around, rows, parts, given, place)
                around = inner[frame, atom], by_inner[group, frame, atom]
                _pull_back_shell(table.rows, directions, by_directions, *around, rows, parts, given, place)
    return True


def combine_sums(table: FeatureTable, inside: FloatArray, outer: FloatArray, inner: FloatArray) -> FloatArray:
    """`features.combine`.

    Args:
        table: What the features are made of.
        inside: Sums over QM neighbours, as `neighbour_sums` gives them, shape (B, n, E, Q).
        outer: Sums over MM sites in the outer shell, shape (B, n, F, R, T).
        inner: In the inner shell, likewise.

    Returns:
        Shape (B, n, `n_features`).
    """
    features = np.empty((*inside.shape[:2], table.n_features))

    _fill_features(table, inside, outer, inner, features, np.empty((2, 10)))
    return features


def pull_back_features(
    table: FeatureTable, inside: FloatArray, outer: FloatArray, inner: FloatArray, slopes: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`features.pull_back_features`, for members in groups, see `lanes`.

    Args:
        table: What the features are made of.
        inside: As for `combine_sums`.
        outer: Likewise.
        inner: Likewise.
        slopes: dE/d(features), shape (G, B, n, `n_features`, 4).

    Returns:
        The derivatives by the sums inside, in the outer and in the inner shell, each with G in front and 4 at the end.
    """
    groups = len(slopes)
    found = (
        np.empty((groups, *inside.shape, MEMBERS)),
        np.empty((groups, *outer.shape, MEMBERS)),
        np.empty((groups, *inner.shape, MEMBERS)),
    )

    _fill_moment_gradients(table, inside, outer, inner, slopes, *found, np.empty((2, 10)), np.empty((5, MEMBERS)))
    return found
