"""From derivatives by the sums of a shell to those by its sites and their weights."""

from __future__ import annotations

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.arrays import check, checked_frames
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear, find_within, load, sort_sites
from deltaqmmm.ml.compiled.tables import BLOCK, GROUP, Block, RadialTable, RowTable, ShellTable, Sites, shell_room
from deltaqmmm.results import FloatArray, IntArray


@inlined("contract", "reassoc", "nsz")
def _add_scaled(
    factors: FloatArray,
    rows: FloatArray,
    row: int,
    left: FloatArray,
    right: FloatArray,
    index: int,
    size: int,
    found: FloatArray,
) -> None:
    """Add linear combinations of a group of rows, times two of the left to found[3], of the right to found[4]."""
    a, b = factors[index], factors[index + 1]
    a0, a1, a2, a3, a4 = a[row], a[row + 1], a[row + 2], a[row + 3], a[row + 4]
    b0, b1, b2, b3, b4 = b[row], b[row + 1], b[row + 2], b[row + 3], b[row + 4]
    for pair in range(size):
        r0, r1, r2 = rows[row, pair], rows[row + 1, pair], rows[row + 2, pair]
        r3, r4 = rows[row + 3, pair], rows[row + 4, pair]
        first = (a0 * r0 + a1 * r1 + a2 * r2) + (a3 * r3 + a4 * r4)
        second = (b0 * r0 + b1 * r1 + b2 * r2) + (b3 * r3 + b4 * r4)
        found[3, pair] += left[index, pair] * first + left[index + 1, pair] * second
        found[4, pair] += right[index, pair] * first + right[index + 1, pair] * second


@inlined("contract", "reassoc", "nsz")
def _add_turned(
    factors: FloatArray, rows: FloatArray, row: int, left: FloatArray, index: int, size: int, found: FloatArray
) -> None:
    """Add for each component a linear combination of a group of rows, times one of the left, to found."""
    x, y, z = factors[0, index], factors[1, index], factors[2, index]
    x0, x1, x2, x3, x4 = x[row], x[row + 1], x[row + 2], x[row + 3], x[row + 4]
    y0, y1, y2, y3, y4 = y[row], y[row + 1], y[row + 2], y[row + 3], y[row + 4]
    z0, z1, z2, z3, z4 = z[row], z[row + 1], z[row + 2], z[row + 3], z[row + 4]
    for pair in range(size):
        r0, r1, r2 = rows[row, pair], rows[row + 1, pair], rows[row + 2, pair]
        r3, r4 = rows[row + 3, pair], rows[row + 4, pair]
        value = left[index, pair]
        found[0, pair] += value * ((x0 * r0 + x1 * r1 + x2 * r2) + (x3 * r3 + x4 * r4))
        found[1, pair] += value * ((y0 * r0 + y1 * r1 + y2 * r2) + (y3 * r3 + y4 * r4))
        found[2, pair] += value * ((z0 * r0 + z1 * r1 + z2 * r2) + (z3 * r3 + z4 * r4))


@inlined("contract", "reassoc", "nsz")
def _add_constant(factors: FloatArray, left: FloatArray, index: int, size: int, found: FloatArray) -> None:
    """`_add_turned` with the first row alone, which is 1, for all three components."""
    x0, y0, z0 = factors[0, index, 0], factors[1, index, 0], factors[2, index, 0]
    x1, y1, z1 = factors[0, index + 1, 0], factors[1, index + 1, 0], factors[2, index + 1, 0]
    for pair in range(size):
        a, b = left[index, pair], left[index + 1, pair]
        found[0, pair] += x0 * a + x1 * b
        found[1, pair] += y0 * a + y1 * b
        found[2, pair] += z0 * a + z1 * b


@inlined("contract")
def _turn(table: RowTable, gradients: FloatArray, kind: int, factors: FloatArray, turned: FloatArray) -> None:
    """Copy gradients (F, R, T) to factors, and make of them what multiplies rows in the derivatives by components."""
    for index in range(gradients.shape[0]):
        for row in range(gradients.shape[1]):
            factors[index, row] = gradients[index, row, kind]
    for lower in range(table.n_lower):
        for y in range(3):
            # The only row whose derivative by this component is the lower one, times a factor.
            row = table.raised[lower, y]
            for index in range(gradients.shape[0]):
                turned[y, index, lower] = table.lowered_by[row, y] * factors[index, row]


@inlined("contract")
def _scatter(pairs: FloatArray, found: FloatArray, sites: Sites, begin: int, end: int, sums: FloatArray) -> None:
    """Add to some of the sites within the cutoff (K, 4) the derivatives by the vectors to them and by their weights."""
    size = end - begin
    for y in range(3):
        for pair in range(size):
            found[y, pair] += 2.0 * found[4, pair] * pairs[y, pair]
    for pair in range(size):
        place = sites.within[begin + pair]
        sums[place, 0] += found[0, pair]
        sums[place, 1] += found[1, pair]
        sums[place, 2] += found[2, pair]
        sums[place, 3] += found[3, pair]


@Kernel
def _add_pull_back(
    radial: RadialTable,
    table: RowTable,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
    sites: Sites,
    block: Block,
    sums: FloatArray,
) -> bool:
    """Add to by_site (C, B, K, 3) and by_weight (C, B, K).

    Sums (C, K, 4) are for the derivatives of one frame, without the factors w_k. False for a type that there is not.
    """
    n_functions, n_moments, n_members = len(radial.kinds), len(table.raised), len(gradients)
    values, slopes, rows, found = block.values, block.slopes, block.rows, block.found
    for pair in range(BLOCK):
        rows[0, pair] = 1.0
    for frame in range(len(qm)):
        if not sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], True, sites):
            return False
        n_sites = sites.starts[len(sites.starts) - 1]
        for member in range(n_members):
            clear(sums[member], n_sites, 4)
        for atom in range(qm.shape[1]):
            centre = qm[frame, atom]
            for kind in range(gradients.shape[5]):
                count = find_within(radial.cutoff, centre, kind, sites)
                for begin in range(0, count, BLOCK):
                    end = min(begin + BLOCK, count)
                    size = load(centre, sites, begin, end, block.pairs)
                    radial_functions(radial, block, size)
                    multiply_rows(table, n_moments, block.pairs, rows, size)
                    for member in range(n_members):
                        _turn(table, gradients[member, frame, atom], kind, block.factors, block.turned)
                        clear(found, len(found), size)
                        for index in range(0, n_functions, 2):
                            for row in range(0, n_moments, GROUP):
                                _add_scaled(block.factors, rows, row, values, slopes, index, size, found)
                            if table.n_lower == 1:
                                _add_constant(block.turned, values, index, size, found)
                            else:
                                for row in range(0, table.n_lower, GROUP):
                                    _add_turned(block.turned, rows, row, values, index, size, found)
                                    _add_turned(block.turned, rows, row, values, index + 1, size, found)
                        _scatter(block.pairs, found, sites, begin, end, sums[member])
        for member in range(n_members):
            for place in range(n_sites):
                site = sites.numbers[place]
                for y in range(3):
                    by_site[member, frame, site, y] += sites.table[3, place] * sums[member, place, y]
                by_weight[member, frame, site] += sums[member, place, 3]
    return True


def shell_pull_back(
    table: ShellTable,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
) -> None:
    """`Shell.pull_back` of monomials of vectors; what is found is added.

    Args:
        table: The functions.
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr; all sites or some.
        weights: Shape (B, K).
        types: Type of each site, from 0 up, shape (B, K).
        gradients: dE/d(moments) of C energies, shape (C, B, n, F, R, T).
        by_site: Gets dE/dr_k, shape (C, B, K, 3).
        by_weight: Gets dE/dw_k, shape (C, B, K).

    Raises:
        ValueError: Arrays of other shapes or kinds, or a type that there is not.
    """
    given = checked_frames(qm, mm, weights, types)
    n_members, n_types = gradients.shape[0], gradients.shape[-1]
    check("the gradients", gradients, (n_members, *qm.shape[:2], table.n_functions, table.n_rows, n_types))
    for name, array, shape in (("by_site", by_site, mm.shape), ("by_weight", by_weight, weights.shape)):
        check(name, array, (n_members, *shape))
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is added to in place: it must be contiguous.")
    given.append(np.ascontiguousarray(gradients))

    room = shell_room(table, mm.shape[1], n_types)
    sums = np.empty((n_members, mm.shape[1], 4))
    if not _add_pull_back(table.radial, table.rows, *given, by_site, by_weight, *room, sums):
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")
