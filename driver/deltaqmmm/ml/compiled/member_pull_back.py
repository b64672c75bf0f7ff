"""From derivatives by the sums of a shell to those by a few of its sites, for all members side by side, see `lanes`.

For one energy and many sites `shell_pull_back` is faster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.ml.compiled.arrays import check, checked_frames
from deltaqmmm.ml.compiled.coulomb_loops import (
    PAIRS,
    CoulombRoom,
    give_members,
    is_coulomb,
    load_coulomb,
    member_room,
    pull_back_members,
)
from deltaqmmm.ml.compiled.lanes import MEMBERS, add_times, lanes, put, zeros
from deltaqmmm.ml.compiled.radial_loops import radial_functions
from deltaqmmm.ml.compiled.site_loops import find_within, load, sort_sites
from deltaqmmm.ml.compiled.tables import BLOCK, Block, RadialTable, RowTable, ShellTable, Sites, block_room, site_room
from deltaqmmm.results import FloatArray, IntArray


class _Room(NamedTuple):
    """Room for one atom.

    Attributes:
        sites: For the sites.
        block: For pairs.
        given: Derivatives by its moments, those of the second rank by products of components, shape (G F, 10, 4).
    """

    sites: Sites
    block: Block
    given: FloatArray


@inlined("contract")
def _load_given(table: RowTable, gradients: FloatArray, kind: int, found: FloatArray) -> None:
    """Fill in what is given for one type (F, 10, 4)."""
    for index in range(len(gradients)):
        for row in range(gradients.shape[1]):
            # Rows xx, yy and zz: the derivative of a square.
            factor = 2.0 if row in (4, 7, 9) else 1.0
            put(found[index], row, add_times(zeros(), factor * table.factors[row], lanes(gradients[index, row], kind)))


@inlined("contract")
def _add_pair(
    pair: int,
    n_rows: int,
    functions: tuple[FloatArray, FloatArray],
    pairs: FloatArray,
    given: FloatArray,
    by_site: FloatArray,
) -> None:
    """Add derivatives by one site (3, 4); functions are values and slopes, given is for F of them (F, 10, 4)."""
    values, slopes = functions
    x, y, z, weight = pairs[0, pair], pairs[1, pair], pairs[2, pair], pairs[3, pair]
    a, b, c, along = zeros(), zeros(), zeros(), zeros()
    for index in range(len(given)):
        own, value = given[index], values[index, pair]
        u, v, w = lanes(own, 1), lanes(own, 2), lanes(own, 3)
        total = add_times(add_times(add_times(lanes(own, 0), x, u), y, v), z, w)
        if n_rows == 10:
            xx, xy, xz, yy, yz, zz = (
                lanes(own, 4),
                lanes(own, 5),
                lanes(own, 6),
                lanes(own, 7),
                lanes(own, 8),
                lanes(own, 9),
            )
            p = add_times(add_times(add_times(zeros(), x, xx), y, xy), z, xz)
            q = add_times(add_times(add_times(zeros(), x, xy), y, yy), z, yz)
            r = add_times(add_times(add_times(zeros(), x, xz), y, yz), z, zz)
            total = add_times(add_times(add_times(total, 0.5 * x, p), 0.5 * y, q), 0.5 * z, r)
            u, v, w = add_times(u, 1.0, p), add_times(v, 1.0, q), add_times(w, 1.0, r)
        a, b, c = add_times(a, value, u), add_times(b, value, v), add_times(c, value, w)
        along = add_times(along, 2.0 * slopes[index, pair], total)
    put(by_site, 0, add_times(lanes(by_site, 0), weight, add_times(a, x, along)))
    put(by_site, 1, add_times(lanes(by_site, 1), weight, add_times(b, y, along)))
    put(by_site, 2, add_times(lanes(by_site, 2), weight, add_times(c, z, along)))


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
    room: _Room,
) -> bool:
    """Add to by_site (G, B, K, 3, 4). False for a type that there is not."""
    sites, block, n_functions, n_rows = room.sites, room.block, gradients.shape[3], gradients.shape[4]
    functions = block.values, block.slopes
    for frame in range(len(qm)):
        if not sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], False, sites):
            return False
        for atom in range(qm.shape[1]):
            for kind in range(gradients.shape[5]):
                count = find_within(radial.cutoff, qm[frame, atom], kind, sites)
                if count == 0:
                    continue
                for group in range(len(gradients)):
                    found = room.given[group * n_functions : (group + 1) * n_functions]
                    _load_given(table, gradients[group, frame, atom], kind, found)
                for begin in range(0, count, BLOCK):
                    end = min(begin + BLOCK, count)
                    size = load(qm[frame, atom], sites, begin, end, block.pairs)
                    radial_functions(radial, block, size)
                    for group in range(len(gradients)):
                        given = room.given[group * n_functions : (group + 1) * n_functions]
                        for pair in range(end - begin):
                            site = sites.numbers[sites.within[begin + pair]]
                            _add_pair(pair, n_rows, functions, block.pairs, given, by_site[group, frame, site])
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
    sites: Sites,
    room: CoulombRoom,
) -> bool:
    """The same for the function "coulomb"."""
    scale = 1.0 / cutoff**2
    for frame in range(len(qm)):
        if not sort_sites(cutoff, qm[frame], mm[frame], weights[frame], types[frame], False, sites):
            return False
        for kind in range(gradients.shape[5]):
            last = sites.starts[kind + 1]
            for begin in range(sites.starts[kind], last, PAIRS):
                end = min(begin + PAIRS, last)
                for group in range(len(gradients)):
                    load_coulomb(sites, begin, end, room)
                    for atom in range(qm.shape[1]):
                        given = gradients[group, frame, atom, 0, :, kind]
                        pull_back_members(scale, qm[frame, atom], given, end - begin, room)
                    give_members(sites, begin, end, room, by_site[group, frame])
    return True


def member_pull_back(
    table: ShellTable,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
) -> None:
    """`Shell.pull_back` of monomials of vectors to the sites alone; what is found is added.

    Args:
        table: The functions.
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr.
        weights: Shape (B, K).
        types: Type of each site with weight, from 0 up, shape (B, K).
        gradients: dE/d(moments), shape (G, B, n, F, R, T, 4).
        by_site: Gets dE/dr_k, shape (G, B, K, 3, 4).

    Raises:
        ValueError: Arrays of other shapes or kinds, or a type that there is not.
    """
    given = checked_frames(qm, mm, weights, types)
    n_groups, n_types = len(gradients), gradients.shape[-2]
    shape = (n_groups, *qm.shape[:2], table.n_functions, table.n_rows, n_types, MEMBERS)
    check("the gradients", gradients, shape)
    check("by_site", by_site, (n_groups, *mm.shape, MEMBERS))
    if not by_site.flags.c_contiguous:
        raise ValueError("by_site is added to in place: it must be contiguous.")
    if table.n_functions == 0:
        return
    sites, gradients = site_room(mm.shape[1], n_types), np.ascontiguousarray(gradients)
    if is_coulomb(table):
        known = _add_coulomb_pull_back(table.radial.cutoff, *given, gradients, by_site, sites, member_room())
    else:
        factors = np.empty((n_groups * table.n_functions, 10, MEMBERS))
        general = _Room(sites, block_room(table.n_functions, 1, BLOCK), factors)
        known = _add_pull_back(table.radial, table.rows, *given, gradients, by_site, general)
    if not known:
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")
