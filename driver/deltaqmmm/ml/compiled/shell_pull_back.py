"""From derivatives by the sums of a shell to those by its sites and their weights."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.arrays import check, checked_frames
from deltaqmmm.ml.compiled.coulomb_loops import (
    PAIRS,
    CoulombRoom,
    coulomb_room,
    give_sites,
    is_coulomb,
    load_coulomb,
    pull_back_coulomb,
)
from deltaqmmm.ml.compiled.lanes import MEMBERS, add
from deltaqmmm.ml.compiled.radial_loops import multiply_rows, radial_functions
from deltaqmmm.ml.compiled.site_loops import clear, find_within, load, load_all, most_within, part_around, sort_sites
from deltaqmmm.ml.compiled.tables import BLOCK, FUNCTIONS, Block, RadialTable, RowTable, ShellTable, Sites, site_room
from deltaqmmm.results import FloatArray, IntArray

# A loop is done for several pairs at once where it is certain that what it writes is nothing that it reads. That is
# looked up when it begins, for no more than eight pairs of rows: so loops write one row, and read a few.


@inlined("contract", "reassoc", "nsz")
def _join_functions(
    factors: FloatArray, row: int, radial: FloatArray, n_functions: int, size: int, found: FloatArray
) -> None:
    """Make one row of derivatives by monomials: the sum of radial functions times factors (F, R)."""
    a, b, c, d = factors[0, row], factors[1, row], factors[2, row], factors[3, row]
    for pair in range(size):
        found[row, pair] = (a * radial[0, pair] + b * radial[1, pair]) + (c * radial[2, pair] + d * radial[3, pair])
    for index in range(FUNCTIONS, n_functions, 2):
        a, b = factors[index, row], factors[index + 1, row]
        for pair in range(size):
            found[row, pair] += a * radial[index, pair] + b * radial[index + 1, pair]


@inlined("contract", "reassoc", "nsz")
def _join_rows(table: RowTable, size: int, block: Block) -> None:
    """Fill in derivatives by vectors and weights from those by monomials."""
    pairs, rows, plain, steep, found = block.pairs, block.rows, block.by_row, block.steep_by_row, block.found
    clear(found, len(found), size)
    for row in range(len(table.raised)):
        for pair in range(size):
            found[3, pair] += plain[row, pair] * rows[row, pair]
        for pair in range(size):
            found[4, pair] += 2.0 * steep[row, pair] * rows[row, pair]
        for y in range(3):
            lower, factor = table.lowered[row, y], table.lowered_by[row, y]
            if factor != 0.0:
                for pair in range(size):
                    found[y, pair] += factor * plain[row, pair] * rows[lower, pair]
    for y in range(3):
        for pair in range(size):
            found[y, pair] += found[4, pair] * pairs[y, pair]


@inlined("contract", "reassoc", "nsz")
def _join_tensors(table: RowTable, n_functions: int, size: int, block: Block) -> None:
    """Fill in derivatives by vectors and weights from factors of monomials up to rank 2, function after function."""
    values, slopes, work = block.values, block.slopes, block.flat
    clear(block.found, len(block.found), size)
    for index in range(n_functions):
        value, slope, given, norms = values[index], slopes[index], block.factors[index], table.factors
        f, fx, fy, fz = given[0], given[1], given[2], given[3]
        xx, yy, zz = 2.0 * norms[4] * given[4], 2.0 * norms[7] * given[7], 2.0 * norms[9] * given[9]
        xy, xz, yz = norms[5] * given[5], norms[6] * given[6], norms[8] * given[8]
        # Known to be no more, places are known not to be negative.
        for pair in range(min(size, BLOCK)):
            x, y, z = work[pair], work[BLOCK + pair], work[2 * BLOCK + pair]
            u, v, w = fx + xx * x + (xy * y + xz * z), fy + xy * x + (yy * y + yz * z), fz + xz * x + (yz * y + zz * z)
            total = f + 0.5 * (((fx + u) * x + (fy + v) * y) + (fz + w) * z)
            work[5 * BLOCK + pair] += value[pair] * u
            work[6 * BLOCK + pair] += value[pair] * v
            work[7 * BLOCK + pair] += value[pair] * w
            work[8 * BLOCK + pair] += value[pair] * total
            work[9 * BLOCK + pair] += 2.0 * slope[pair] * total
    for pair in range(min(size, BLOCK)):
        twice = work[9 * BLOCK + pair]
        work[5 * BLOCK + pair] += twice * work[pair]
        work[6 * BLOCK + pair] += twice * work[BLOCK + pair]
        work[7 * BLOCK + pair] += twice * work[2 * BLOCK + pair]


@inlined("contract")
def _pull_back_block(table: RowTable, gradients: FloatArray, kind: int, size: int, block: Block) -> None:
    """Fill in derivatives by vectors and weights of one block from those by the moments of one atom (F, R, T)."""
    n_functions = gradients.shape[0]
    for index in range(n_functions):
        for row in range(gradients.shape[1]):
            block.factors[index, row] = gradients[index, row, kind]
    if gradients.shape[1] == 10:
        _join_tensors(table, n_functions, size, block)
        return
    for row in range(gradients.shape[1]):
        _join_functions(block.factors, row, block.values, n_functions, size, block.by_row)
        _join_functions(block.factors, row, block.slopes, n_functions, size, block.steep_by_row)
    _join_rows(table, size, block)


@inlined("contract")
def _add_all(found: FloatArray, begin: int, size: int, sums: FloatArray) -> None:
    """Add what was found to the sums (4, K') of consecutive sites."""
    for y in range(4):
        own = sums[y, begin : begin + size]
        for pair in range(size):
            own[pair] += found[y, pair]


@inlined("contract")
def _scatter(found: FloatArray, within: IntArray, begin: int, end: int, sums: FloatArray) -> None:
    """Add what was found to the sums (4, K') of the sites within the cutoff."""
    for pair in range(end - begin):
        place = within[begin + pair]
        sums[0, place] += found[0, pair]
        sums[1, place] += found[1, pair]
        sums[2, place] += found[2, pair]
        sums[3, place] += found[3, pair]


@inlined("contract")
def _give(sites: Sites, sums: FloatArray, by_site: FloatArray, by_weight: FloatArray) -> None:
    """Add the sums of one frame (C, 4, K') to what is found for its sites, (C, K, 3) and (C, K)."""
    for member in range(len(sums)):
        for place in range(sites.starts[len(sites.starts) - 1]):
            site = sites.numbers[place]
            if site >= 0:
                for y in range(3):
                    by_site[member, site, y] += sites.table[3, place] * sums[member, y, place]
                by_weight[member, site] += sums[member, 3, place]


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

    Sums (C, 4, K') are for the derivatives of one frame, without the factors w_k. False for a type that there is not.
    """
    n_moments, n_members, rows = len(table.raised), len(gradients), block.rows
    for pair in range(BLOCK):
        rows[0, pair] = 1.0
    for frame in range(len(qm)):
        if not sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], True, sites):
            return False
        everything, n_sites = most_within(radial.cutoff, qm[frame]), sites.starts[len(sites.starts) - 1]
        for member in range(n_members):
            clear(sums[member], 4, n_sites)
        for atom in range(qm.shape[1]):
            centre = qm[frame, atom]
            for kind in range(gradients.shape[5]):
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
                    if n_moments != 10:
                        multiply_rows(table, n_moments, block.pairs, rows, size)
                    for member in range(n_members):
                        _pull_back_block(table, gradients[member, frame, atom], kind, size, block)
                        if everything:
                            _add_all(block.found, begin, size, sums[member])
                        else:
                            _scatter(block.found, sites.within, begin, end, sums[member])
        _give(sites, sums, by_site[:, frame], by_weight[:, frame])
    return True


@Kernel
def _add_coulomb_pull_back(
    cutoff: float,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
    sites: Sites,
    room: CoulombRoom,
    parts: IntArray,
) -> bool:
    """The same for the function "coulomb"; there must be room for places of sites, parts (2, n)."""
    scale = 1.0 / cutoff**2
    for frame in range(len(qm)):
        if not sort_sites(cutoff, qm[frame], mm[frame], weights[frame], types[frame], True, sites):
            return False
        for kind in range(gradients.shape[5]):
            last = sites.starts[kind + 1]
            for atom in range(qm.shape[1]):
                parts[0, atom], parts[1, atom] = part_around(cutoff, qm[frame, atom], kind, sites)
            for begin in range(sites.starts[kind], last, PAIRS):
                end = min(begin + PAIRS, last)
                for member in range(len(gradients)):
                    load_coulomb(sites, begin, end, room)
                    for atom in range(qm.shape[1]):
                        first, stop = max(begin, parts[0, atom]), min(end, parts[1, atom])
                        if first < stop:
                            given, places = gradients[member, frame, atom, 0], (first - begin, stop - begin)
                            pull_back_coulomb(scale, qm[frame, atom], given, kind, places, room)
                    give_sites(sites, begin, end, room, by_site[member, frame], by_weight[member, frame])
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

    if table.n_functions == 0:
        return
    sites = site_room(mm.shape[1], n_types)
    if is_coulomb(table):
        parts = np.empty((2, qm.shape[1]), dtype=np.int64)
        known = _add_coulomb_pull_back(table.radial.cutoff, *given, by_site, by_weight, sites, coulomb_room(), parts)
    else:
        sums = np.empty((n_members, 4, len(sites.numbers)))
        block = table.block_room(BLOCK)
        known = _add_pull_back(table.radial, table.rows, *given, by_site, by_weight, sites, block, sums)
    if not known:
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")


@Kernel
def _add_by_atom(gradients: FloatArray, jacobian: FloatArray, found: FloatArray) -> bool:
    """Add to found (G, B, n, 3, 4) from gradients (G, B, n, M, 4) and jacobian (B, n, M, 3)."""
    for group in range(found.shape[0]):
        for frame in range(found.shape[1]):
            for atom in range(found.shape[2]):
                own, given, slopes = found[group, frame, atom], gradients[group, frame, atom], jacobian[frame, atom]
                for moment in range(len(given)):
                    for y in range(3):
                        add(own, y, slopes[moment, y], given, moment)
    return True


def add_by_atom(gradients: FloatArray, jacobian: FloatArray, found: FloatArray) -> None:
    """From derivatives by the moments of each atom to those by its position, for members in groups, see `lanes`.

    Args:
        gradients: dE/d(moments), shape (G, B, n, F, R, T, 4).
        jacobian: Of `shell_sums`, shape (B, n, F, R, T, 3).
        found: Is added to, shape (G, B, n, 3, 4).
    """
    count = math.prod(jacobian.shape[2:-1])
    rows = gradients.reshape(*found.shape[:3], count, MEMBERS)
    _add_by_atom(rows, jacobian.reshape(*found.shape[1:3], count, 3), found)
