"""The features of `features.combine`, in its order, and the way back to the sums that they are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.site_loops import clear
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
        products: For each pair of elements and each of the F' R monomials of directions, in which feature their product
            is, shape (E (E + 1) / 2, F' R); 0 for the monomials of rank 0, which are in none.
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
    n_pairs, n_radial = n_elements * (n_elements + 1) // 2, len(functions.qm_radial)
    products = np.zeros((n_pairs, len(functions.angular_radial), starts[-1]), dtype=np.int64)
    place = n_radial * n_elements
    for start, stop in pairwise(starts):
        for index in range(len(functions.angular_radial)):
            products[:, index, start:stop] = place + np.arange(n_pairs)[:, None]
            place += n_pairs
    return FeatureTable(
        n_features(functions, n_elements, n_types),
        n_radial,
        np.array(starts),
        products.reshape(n_pairs, -1),
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
    slopes: FloatArray,
    start: int,
) -> int:
    """From derivatives by the features of `_join_shell`, from a place on, to those by the sums; the place after them.

    Those by the directions are added to by_directions (E, R), those by the sums over MM sites fill found (F, R', T).
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
            found[index, 0, kind] = slopes[start + place]
            x = y = z = 0.0
            for element in range(len(directions)):
                slope = slopes[products + element * n_linear + place]
                x += slope * directions[element, 1]
                y += slope * directions[element, 2]
                z += slope * directions[element, 3]
                for row in range(1, 4):
                    by_directions[element, row] += slope * rows[0, row]
            for other in range(n_kinds):
                low, high = min(kind, other), max(kind, other)
                slope = slopes[pairs + index * n_pairs + low * n_kinds - low * (low - 1) // 2 + high - low]
                if other == kind:
                    slope *= 2.0
                x += slope * sums[index, 1, other]
                y += slope * sums[index, 2, other]
                z += slope * sums[index, 3, other]
            if n_sums > 4:
                for row in range(4, 10):
                    own = tensor = 0.0
                    for element in range(len(directions)):
                        square = squares + 2 * (element * n_linear + index * n_kinds) + kind
                        own += slopes[square + n_kinds] * directions[element, row]
                        tensor += slopes[square] * directions[element, row]
                        by_directions[element, row] += (
                            slopes[square + n_kinds] * rows[0, row] + slopes[square] * rows[1, row]
                        )
                    # Rows xx, yy and zz.
                    if row == 4 or row == 7 or row == 9:
                        tensor += slopes[traces + place]
                    found[index, row, kind] = tensor
                    x += own * table.lowered_by[row, 0] * rows[0, table.lowered[row, 0]]
                    y += own * table.lowered_by[row, 1] * rows[0, table.lowered[row, 1]]
                    z += own * table.lowered_by[row, 2] * rows[0, table.lowered[row, 2]]
            found[index, 1, kind] = x
            found[index, 2, kind] = y
            found[index, 3, kind] = z
    after: int = squares if n_sums == 4 else traces + n_linear
    return after


@inlined("contract")
def _pull_back_products(
    table: FeatureTable, slopes: FloatArray, sums: FloatArray, found: FloatArray, spread: FloatArray
) -> int:
    """Add derivatives by the sums of directions (E, F' R) from those by their products; how many products there are.

    Those by one product are spread over its monomials first, so that the loops are long.
    """
    pair = 0
    for element in range(len(sums)):
        for other in range(element, len(sums)):
            for row in range(len(spread)):
                spread[row] = slopes[table.products[pair, row]]
            for row in range(len(spread)):
                found[element, row] += spread[row] * sums[other, row]
            for row in range(len(spread)):
                found[other, row] += spread[row] * sums[element, row]
            pair += 1
    # The monomials of rank 0 are in no product: what they got is some other's.
    n_rows = table.rank_starts[len(table.rank_starts) - 1]
    for element in range(len(sums)):
        for row in range(0, len(spread), n_rows):
            found[element, row] = 0.0
    count: int = pair * (len(table.rank_starts) - 1) * (len(spread) // n_rows)
    return count


@Kernel
def _fill_moment_gradients(
    table: FeatureTable,
    inside: FloatArray,
    outer: FloatArray,
    inner: FloatArray,
    slopes: FloatArray,
    blocks: IntArray,
    by_inside: FloatArray,
    by_outer: FloatArray,
    by_inner: FloatArray,
    rows: FloatArray,
    spread: FloatArray,
) -> bool:
    """Fill in what `pull_back_features` gives."""
    n_atoms, n_elements, n_sums = inside.shape[1], inside.shape[2], inside.shape[3]
    n_radial, starts = table.n_radial, table.rank_starts
    n_rows = starts[len(starts) - 1]
    n_members, n_frames = by_inside.shape[0], by_inside.shape[1]
    for member in range(n_members):
        for frame in range(n_frames):
            for atom in range(n_atoms):
                first, count, own = blocks[atom, 0], blocks[atom, 1], blocks[atom, 2]
                given = slopes[n_members * n_frames * first + (member * n_frames + frame) * count + own]
                sums, found = inside[frame, atom], by_inside[member, frame, atom]
                clear(found, n_elements, n_sums)
                place = 0
                for index in range(n_radial):
                    for element in range(n_elements):
                        found[element, index] = given[place]
                        place += 1
                place += _pull_back_products(table, given, sums[:, n_radial:], found[:, n_radial:], spread)
                directions = sums[:, n_radial : n_radial + n_rows]
                by_directions = found[:, n_radial : n_radial + n_rows]
                around = outer[frame, atom], by_outer[member, frame, atom]
                place = _pull_back_shell(table.rows, directions, by_directions, *around, rows, given, place)
                around = inner[frame, atom], by_inner[member, frame, atom]
                _pull_back_shell(table.rows, directions, by_directions, *around, rows, given, place)
    return True


def combine_sums(table: FeatureTable, inside: FloatArray, outer: FloatArray, inner: FloatArray) -> FloatArray:
    """`features.combine`.

    Args:
        table: What the features are made of.
        inside: Sums over QM neighbours, as `structure_loops` has them, shape (B, n, E, Q).
        outer: Sums over MM sites in the outer shell, shape (B, n, F, R, T).
        inner: In the inner shell, likewise.

    Returns:
        Shape (B, n, `n_features`).
    """
    features = np.empty((*inside.shape[:2], table.n_features))

    _fill_features(table, inside, outer, inner, features, np.empty((2, 10)))
    return features


def pull_back_features(
    table: FeatureTable,
    inside: FloatArray,
    outer: FloatArray,
    inner: FloatArray,
    slopes: FloatArray,
    blocks: IntArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`features.pull_back_features`.

    Args:
        table: What the features are made of.
        inside: As for `combine_sums`.
        outer: Likewise.
        inner: Likewise.
        slopes: dE/d(features) of C energies, shape (C, B, n, `n_features`); with blocks (C B n, `n_features`).
        blocks: Which row is whose, see `CompiledNetwork`, shape (n, 3).

    Returns:
        The derivatives by the sums inside, in the outer and in the inner shell, each with C in front.
    """
    n_features, n_atoms = slopes.shape[-1], inside.shape[1]
    rows = slopes.reshape(-1, n_features)
    n_members = len(rows) // max(len(inside) * n_atoms, 1) if blocks is not None else len(slopes)
    if blocks is None:
        blocks = np.stack([np.zeros(n_atoms, dtype=np.int64), np.full(n_atoms, n_atoms), np.arange(n_atoms)], axis=1)
    found = (
        np.empty((n_members, *inside.shape)),
        np.empty((n_members, *outer.shape)),
        np.empty((n_members, *inner.shape)),
    )

    _fill_moment_gradients(
        table, inside, outer, inner, rows, blocks, *found, np.empty((2, 10)), np.empty(table.products.shape[1])
    )
    return found
