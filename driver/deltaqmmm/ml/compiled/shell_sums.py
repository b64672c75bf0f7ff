"""The sums of `shells.Shell` over the sites around each QM atom.

What `Shell` computes with whole arrays of all pairs is done here for one QM atom after the other and some hundred sites
at a time, so that the work stays in the fastest cache.
"""

from __future__ import annotations

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.arrays import checked_frames
from deltaqmmm.ml.compiled.coulomb_loops import PAIRS, add_coulomb, give_coulomb, is_coulomb
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear, find_within, load, load_all, most_within, part_around, sort_sites
from deltaqmmm.ml.compiled.tables import (
    BLOCK,
    FUNCTIONS,
    GROUP,
    Block,
    RadialTable,
    RowTable,
    ShellTable,
    Sites,
    site_room,
)
from deltaqmmm.results import FloatArray, IntArray


@inlined("contract", "reassoc", "nsz")
def _add_dots(left: FloatArray, index: int, rows: FloatArray, row: int, size: int, sums: FloatArray) -> None:
    """Add the scalar products of four of the left with a group of rows."""
    a0 = a1 = a2 = a3 = a4 = b0 = b1 = b2 = b3 = b4 = 0.0
    c0 = c1 = c2 = c3 = c4 = d0 = d1 = d2 = d3 = d4 = 0.0
    for pair in range(size):
        a, b, c, d = left[index, pair], left[index + 1, pair], left[index + 2, pair], left[index + 3, pair]
        own = rows[row, pair]
        a0 += a * own
        b0 += b * own
        c0 += c * own
        d0 += d * own
        own = rows[row + 1, pair]
        a1 += a * own
        b1 += b * own
        c1 += c * own
        d1 += d * own
        own = rows[row + 2, pair]
        a2 += a * own
        b2 += b * own
        c2 += c * own
        d2 += d * own
        own = rows[row + 3, pair]
        a3 += a * own
        b3 += b * own
        c3 += c * own
        d3 += d * own
        own = rows[row + 4, pair]
        a4 += a * own
        b4 += b * own
        c4 += c * own
        d4 += d * own
    first, second, third, fourth = sums[index], sums[index + 1], sums[index + 2], sums[index + 3]
    for place, found in enumerate((a0, a1, a2, a3, a4)):
        first[row + place] += found
    for place, found in enumerate((b0, b1, b2, b3, b4)):
        second[row + place] += found
    for place, found in enumerate((c0, c1, c2, c3, c4)):
        third[row + place] += found
    for place, found in enumerate((d0, d1, d2, d3, d4)):
        fourth[row + place] += found


@inlined("contract")
def _give_moments(
    table: RowTable,
    n_functions: int,
    kind: int,
    plain: FloatArray,
    steep: FloatArray,
    moments: FloatArray,
    jacobian: FloatArray,
) -> None:
    """Fill in moments (F, R, T) of one type and their derivatives by the atom (F, R, T, 3) from the sums."""
    for row in range(len(table.raised)):
        for index in range(n_functions):
            moments[index, row, kind] = plain[index, row]
        for y in range(3):
            upper, lower = table.raised[row, y], table.lowered[row, y]
            stretching, turning = 2.0 * table.raised_by[row, y], table.lowered_by[row, y]
            for index in range(n_functions):
                jacobian[index, row, kind, y] = -stretching * steep[index, upper] - turning * plain[index, lower]


@Kernel
def _fill_shell_sums(
    radial: RadialTable,
    table: RowTable,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    moments: FloatArray,
    jacobian: FloatArray,
    sites: Sites,
    block: Block,
) -> bool:
    """Fill in moments (B, n, F, R, T) and jacobian (B, n, F, R, T, 3); False for a type that there is not."""
    n_functions, n_moments, n_rows = len(radial.kinds), len(table.raised), len(table.parents)
    values, slopes, rows, plain, steep = block.values, block.slopes, block.rows, block.plain, block.steep
    for frame in range(len(qm)):
        if not sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], False, sites):
            return False
        everything = most_within(radial.cutoff, qm[frame])
        for atom in range(qm.shape[1]):
            centre = qm[frame, atom]
            for kind in range(moments.shape[4]):
                clear(plain, *plain.shape)
                clear(steep, *steep.shape)
                first, last = sites.starts[kind], sites.starts[kind + 1]
                if not everything:
                    first, last = 0, find_within(radial.cutoff, centre, kind, sites)
                for begin in range(first, last, BLOCK):
                    end = min(begin + BLOCK, last)
                    size = end - begin
                    if not everything:
                        size = load(centre, sites, begin, end, block.pairs)
                    else:
                        load_all(centre, sites, begin, end, block.pairs)
                    radial_functions(radial, block, size)
                    for pair in range(size):
                        rows[0, pair] = block.pairs[3, pair]
                    multiply_rows(table, n_rows, block.pairs, rows, size)
                    for index in range(0, n_functions, FUNCTIONS):
                        for row in range(0, n_moments, GROUP):
                            _add_dots(values, index, rows, row, size, plain)
                        for row in range(0, n_rows, GROUP):
                            _add_dots(slopes, index, rows, row, size, steep)
                _give_moments(table, n_functions, kind, plain, steep, moments[frame, atom], jacobian[frame, atom])
    return True


@Kernel
def _fill_coulomb_sums(
    cutoff: float,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    moments: FloatArray,
    jacobian: FloatArray,
    sites: Sites,
    sums: FloatArray,
    parts: IntArray,
) -> bool:
    """The same for the function "coulomb"; there must be room for sums (n, 14), and for places of sites (2, n)."""
    scale = 1.0 / cutoff**2
    for frame in range(len(qm)):
        if not sort_sites(cutoff, qm[frame], mm[frame], weights[frame], types[frame], False, sites):
            return False
        for kind in range(moments.shape[4]):
            clear(sums, *sums.shape)
            last = sites.starts[kind + 1]
            for atom in range(qm.shape[1]):
                parts[0, atom], parts[1, atom] = part_around(cutoff, qm[frame, atom], kind, sites)
            for begin in range(sites.starts[kind], last, PAIRS):
                end = min(begin + PAIRS, last)
                for atom in range(qm.shape[1]):
                    first, stop = max(begin, parts[0, atom]), min(end, parts[1, atom])
                    if first < stop:
                        add_coulomb(scale, qm[frame, atom], sites, first, stop, sums[atom])
            for atom in range(qm.shape[1]):
                give_coulomb(kind, sums[atom], moments[frame, atom, 0], jacobian[frame, atom, 0])
    return True


def shell_sums(
    table: ShellTable, qm: FloatArray, mm: FloatArray, weights: FloatArray, types: IntArray, n_types: int
) -> tuple[FloatArray, FloatArray]:
    """`Shell.moments` and `Shell.jacobian` of monomials of vectors.

    Args:
        table: The functions.
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr.
        weights: Shape (B, K).
        types: Type of each site with weight, from 0 up, shape (B, K).
        n_types: Number of types T.

    Returns:
        Moments, shape (B, n, F, R, T), and their derivatives by the position of their atom, shape (B, n, F, R, T, 3).

    Raises:
        ValueError: Arrays of other shapes or kinds, or a type that there is not.
    """
    given = checked_frames(qm, mm, weights, types)
    moments = np.empty((*qm.shape[:2], table.n_functions, table.n_rows, n_types))
    jacobian = np.empty((*moments.shape, 3))

    if is_coulomb(table):
        n_atoms = qm.shape[1]
        room = site_room(mm.shape[1], n_types), np.empty((n_atoms, 14)), np.empty((2, n_atoms), dtype=np.int64)
        known = _fill_coulomb_sums(table.radial.cutoff, *given, moments, jacobian, *room)
    else:
        general = site_room(mm.shape[1], n_types), table.block_room(BLOCK)
        known = _fill_shell_sums(table.radial, table.rows, *given, moments, jacobian, *general)
    if not known:
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")
    return moments, jacobian
