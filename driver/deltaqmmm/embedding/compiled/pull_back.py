"""From derivatives by what the QM side sees back to those by positions and cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.embedding.compiled.images import BLOCK, Images
from deltaqmmm.embedding.compiled.pair_loops import (
    N_ROWS,
    fill_blurred,
    pull_back_blurred,
    pull_back_points,
)
from deltaqmmm.embedding.compiled.site_loops import Sites, load_sites
from deltaqmmm.embedding.compiled.tables import GroupTable, RegionTable
from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.threads import rows_of, side_by_side, threads_of_loops


@inlined()
def _load_given(by_site: FloatArray, by_charge: FloatArray, begin: int, size: int, block: FloatArray) -> None:
    """Fill the rows of derivatives with those that are given; arrays without rows stand for zeros."""
    for k in range(size):
        block[4, k] = block[5, k] = block[6, k] = block[7, k] = 0.0
    if len(by_site) > 0:
        for k in range(size):
            block[4, k], block[5, k] = by_site[begin + k, 0], by_site[begin + k, 1]
            block[6, k] = by_site[begin + k, 2]
    if len(by_charge) > 0:
        for k in range(size):
            block[7, k] = by_charge[begin + k]


@inlined()
def _pull_back_potentials(
    blur_width: float,
    qm: FloatArray,
    points: FloatArray,
    charges: FloatArray,
    given: tuple[FloatArray, FloatArray, FloatArray],
    count: int,
    by_qm: FloatArray,
    totals: FloatArray,
    block: FloatArray,
) -> None:
    """Add to by_qm (n, 3), and fill in totals (K, 4), the derivatives by site and charge; given are by_site, ..."""
    by_site, by_charge, by_potential = given
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        load_sites(points, charges, begin, size, block)
        _load_given(by_site, by_charge, begin, size, block)
        for atom in range(len(by_potential)):
            x, y, z = qm[atom, 0], qm[atom, 1], qm[atom, 2]
            if blur_width == 0.0:
                a, b, c = pull_back_points(by_potential[atom], x, y, z, size, block)
            else:
                fill_blurred(blur_width, x, y, z, size, block)
                a, b, c = pull_back_blurred(by_potential[atom], x, y, z, size, block)
            by_qm[atom, 0] += a
            by_qm[atom, 1] += b
            by_qm[atom, 2] += c
        for k in range(size):
            for axis in range(4):
                totals[begin + k, axis] = block[4 + axis, k]


@inlined("contract")
def _load_weights(
    groups: GroupTable,
    frame: int,
    images: Images,
    points: FloatArray,
    totals: FloatArray,
    weights: FloatArray,
    rows: IntArray,
) -> None:
    """Fill in derivatives by the weights in the switch, and where the reference atoms are, of each slot, (4, slots).

    All images are in one function: a call costs more than what is done for one of them.
    """
    starts, charges, row = groups.starts, groups.charges, 0
    for slot in range(images.counts[frame, 3]):
        weights[0, slot] = weights[1, slot] = weights[2, slot] = weights[3, slot] = 0.0
        rows[slot] = -1
    for image in range(images.counts[frame, 1]):
        group, slot = images.groups[frame, image], images.slots[frame, image]
        start, end = starts[group], starts[group + 1]
        if slot >= 0:
            by_weight = 0.0
            for place in range(start, end):
                by_weight += charges[place] * totals[row + place - start, 3]
            reference = row + groups.reference_members[group]
            weights[0, slot], weights[1, slot] = points[reference, 0], points[reference, 1]
            weights[2, slot], weights[3, slot] = points[reference, 2], by_weight
            rows[slot] = reference
        row += end - start


@inlined("contract", "reassoc", "nsz")
def _pull_back_distances(
    x: float, y: float, z: float, slopes: FloatArray, n_slots: int, weights: FloatArray
) -> tuple[float, float, float]:
    """Add the derivatives by the reference atoms to weights (7, slots), and return those by the QM atom at a place."""
    a = b = c = 0.0
    for slot in range(n_slots):
        part = weights[3, slot] * slopes[slot]
        u, v, w = part * (x - weights[0, slot]), part * (y - weights[1, slot]), part * (z - weights[2, slot])
        weights[4, slot] -= u
        weights[5, slot] -= v
        weights[6, slot] -= w
        a += u
        b += v
        c += w
    return a, b, c


@inlined()
def _pull_back_weights(
    slopes: FloatArray,
    n_slots: int,
    qm: FloatArray,
    by_qm: FloatArray,
    totals: FloatArray,
    weights: FloatArray,
    rows: IntArray,
) -> None:
    """Add the chain rule through the weights of the images of one frame."""
    for slot in range(n_slots):
        weights[4, slot] = weights[5, slot] = weights[6, slot] = 0.0
    for atom in range(len(qm)):
        a, b, c = _pull_back_distances(qm[atom, 0], qm[atom, 1], qm[atom, 2], slopes[atom], n_slots, weights)
        by_qm[atom, 0] += a
        by_qm[atom, 1] += b
        by_qm[atom, 2] += c
    for slot in range(n_slots):
        # A candidate that turned out to be outside has a slot, but no row.
        if rows[slot] >= 0:
            totals[rows[slot], 0] += weights[4, slot]
            totals[rows[slot], 1] += weights[5, slot]
            totals[rows[slot], 2] += weights[6, slot]


@inlined("contract")
def _pull_back_virtual(groups: GroupTable, frame: int, images: Images, points: FloatArray, totals: FloatArray) -> None:
    """Hand the derivatives by the virtual sites of one frame over to their parents."""
    virtual, weights, row = groups.virtual, groups.virtual_weights, 0
    for image in range(images.counts[frame, 1]):
        group = images.groups[frame, image]
        for site in range(groups.virtual_starts[group], groups.virtual_starts[group + 1]):
            own, one, two, three = (
                row + virtual[site, 0],
                row + virtual[site, 1],
                row + virtual[site, 2],
                row + virtual[site, 3],
            )
            x, y, z = points[one, 0], points[one, 1], points[one, 2]
            a, b, c = points[two, 0] - x, points[two, 1] - y, points[two, 2] - z
            u, v, w = points[three, 0] - x, points[three, 1] - y, points[three, 2] - z
            # g . (s x t) = s . (t x g) = t . (g x s)
            cross = weights[site, 3]
            g, h, i = cross * totals[own, 0], cross * totals[own, 1], cross * totals[own, 2]
            by_second = v * i - w * h, w * g - u * i, u * h - v * g
            by_third = h * c - i * b, i * a - g * c, g * b - h * a
            for axis in range(3):
                total = totals[own, axis]
                totals[one, axis] += weights[site, 0] * total - by_second[axis] - by_third[axis]
                totals[two, axis] += weights[site, 1] * total + by_second[axis]
                totals[three, axis] += weights[site, 2] * total + by_third[axis]
        row += groups.starts[group + 1] - groups.starts[group]


@inlined("contract")
def _add_shifted(shift: FloatArray, gradient: FloatArray, by_cell: FloatArray) -> None:
    for vector in range(3):
        for axis in range(3):
            by_cell[vector, axis] += shift[vector] * gradient[axis]


@inlined("contract")
def _scatter(
    region: RegionTable,
    groups: GroupTable,
    frame: int,
    images: Images,
    by_qm: FloatArray,
    totals: FloatArray,
    found: FloatArray,
) -> None:
    """Fill in the derivatives by the positions of all atoms, shape (N, 3)."""
    for atom in range(len(found)):
        found[atom, 0] = found[atom, 1] = found[atom, 2] = 0.0
    for index in range(len(region.atoms)):
        for axis in range(3):
            found[region.atoms[index], axis] = by_qm[index, axis]
    row = 0
    for image in range(images.counts[frame, 1]):
        group = images.groups[frame, image]
        for place in range(groups.starts[group], groups.starts[group + 1]):
            atom = groups.atoms[place]
            if atom >= 0:
                for axis in range(3):
                    found[atom, axis] += totals[row, axis]
            row += 1


@inlined("contract")
def _sum_by_cell(
    groups: GroupTable,
    frame: int,
    images: Images,
    qm_shifts: FloatArray,
    shifts: FloatArray,
    by_qm: FloatArray,
    totals: FloatArray,
    found: FloatArray,
) -> None:
    """Fill in the derivatives by the cell: of each atom, its lattice shift times the derivatives by its position."""
    for vector in range(3):
        found[vector, 0] = found[vector, 1] = found[vector, 2] = 0.0
    for atom in range(len(by_qm)):
        _add_shifted(qm_shifts[atom], by_qm[atom], found)
    row = 0
    for image in range(images.counts[frame, 1]):
        group = images.groups[frame, image]
        for place in range(groups.starts[group], groups.starts[group + 1]):
            if groups.atoms[place] >= 0:
                _add_shifted(shifts[row], totals[row], found)
            row += 1


class Gradients(NamedTuple):
    """Derivatives of L by what the QM side sees; all but the first may have no second axis, (B, 0, ...), for zeros.

    Attributes:
        by_qm: dL/d(QM positions), shape (B, n, 3); the loops add to it.
        by_site: dL/d(MM positions), shape (B, K, 3).
        by_charge: dL/d(MM charges), shape (B, K).
        by_potential: dL/d(potentials), shape (B, n).
    """

    by_qm: FloatArray
    by_site: FloatArray
    by_charge: FloatArray
    by_potential: FloatArray


@Kernel
def _pull_back(
    region: RegionTable,
    groups: GroupTable,
    blur_width: float,
    images: Images,
    qm_positions: FloatArray,
    qm_shifts: FloatArray,
    sites: Sites,
    given: Gradients,
    by_position: FloatArray,
    by_cell: FloatArray,
    totals: FloatArray,
    weights: FloatArray,
    rows: IntArray,
    block: FloatArray,
) -> bool:
    """Fill in by_position (B, N, 3) and by_cell (B, 3, 3)."""
    for frame in range(len(qm_positions)):
        qm, points, by_qm = qm_positions[frame], sites.positions[frame], given.by_qm[frame]
        by_sites = given.by_site[frame], given.by_charge[frame], given.by_potential[frame]
        count = images.counts[frame, 2]
        _pull_back_potentials(blur_width, qm, points, sites.charges[frame], by_sites, count, by_qm, totals, block)
        _load_weights(groups, frame, images, points, totals, weights, rows)
        _pull_back_weights(images.slopes[frame], images.counts[frame, 3], qm, by_qm, totals, weights, rows)
        if len(groups.virtual) > 0:
            _pull_back_virtual(groups, frame, images, points, totals)
        _scatter(region, groups, frame, images, by_qm, totals, by_position[frame])
        if len(by_cell) > 0:
            _sum_by_cell(groups, frame, images, qm_shifts[frame], sites.shifts[frame], by_qm, totals, by_cell[frame])
    return True


def pull_back(
    region: RegionTable,
    groups: GroupTable,
    blur_width: float,
    images: Images,
    qm: tuple[FloatArray, FloatArray],
    sites: Sites,
    given: Gradients,
    n_atoms: int,
    by_cells: bool,
) -> tuple[FloatArray, FloatArray]:
    """The chain rule through potentials, weights, virtual sites and lattice shifts.

    Args:
        region: The QM region.
        groups: The MM groups.
        blur_width: Width of the blur of the charges, bohr.
        images: Of `find_images`.
        qm: Positions of the QM atoms, made whole, bohr, and their lattice shifts, both of shape (B, n, 3).
        sites: Of `fill_sites`.
        given: The derivatives by what these two have made.
        n_atoms: Number of all atoms N.
        by_cells: Whether the derivatives by cells are wanted; the sites must have been made with their shifts.

    Returns:
        dL/d(positions), shape (B, N, 3), and dL/d(cells), shape (B, 3, 3), or (0, 3, 3) where it is not wanted.
    """
    n_frames, n_sites = sites.charges.shape
    by_position, by_cell = np.empty((n_frames, n_atoms, 3)), np.empty((n_frames if by_cells else 0, 3, 3))
    n_slots = int(images.counts[:, 3].max(initial=0))

    def work(part: slice) -> bool:
        totals, weights, rows = np.empty((n_sites, 4)), np.empty((7, n_slots)), np.empty(n_slots, dtype=np.int64)
        own = rows_of(images, part), qm[0][part], qm[1][part], rows_of(sites, part), rows_of(given, part)
        found = by_position[part], by_cell[part]
        return _pull_back(region, groups, blur_width, *own, *found, totals, weights, rows, np.empty((N_ROWS, BLOCK)))

    side_by_side(work, n_frames, threads_of_loops())
    return by_position, by_cell
