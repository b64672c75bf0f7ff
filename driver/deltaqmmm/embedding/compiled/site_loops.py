"""The sites of the images that count: where they are, their charges and the potentials of these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.embedding.compiled.images import BLOCK, Images
from deltaqmmm.embedding.compiled.lattice_loops import elements, moved, nearest_shift
from deltaqmmm.embedding.compiled.pair_loops import (
    N_ROWS,
    blurred_potential,
    fill_blurred,
    point_potential,
)
from deltaqmmm.embedding.compiled.tables import GroupTable, Lattices
from deltaqmmm.embedding.frames import FAR, FAR_STEP
from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.threads import rows_of, side_by_side, threads_of_loops


class Sites(NamedTuple):
    """What the QM side sees of the surroundings; see `EmbeddedFrames`.

    Attributes:
        positions: Shape (B, K, 3), bohr.
        charges: Shape (B, K), e.
        numbers: Shape (B, K).
        potentials: Shape (B, n), hartree/e.
        shifts: Lattice shift of each site's atom from where it is given, shape (B, K, 3); of no meaning for a virtual
            site. Where derivatives by cells are not asked for, there are none, (0, K, 3); the loops have room for those
            of one frame.
    """

    positions: FloatArray
    charges: FloatArray
    numbers: IntArray
    potentials: FloatArray
    shifts: FloatArray


@inlined("contract")
def _is_whole(groups: GroupTable, group: int, safe: float, positions: FloatArray) -> bool:
    """Whether all bonds of a group are so short that they need no search."""
    longest, bonded = 0.0, groups.bonded
    for bond in range(groups.bond_starts[group], groups.bond_starts[group + 1]):
        child, parent = bonded[bond, 0], bonded[bond, 1]
        x = positions[child, 0] - positions[parent, 0]
        y = positions[child, 1] - positions[parent, 1]
        z = positions[child, 2] - positions[parent, 2]
        longest = max(longest, x * x + y * y + z * z)
    return longest <= safe


@inlined("contract")
def _make_whole(
    groups: GroupTable,
    group: int,
    lattices: Lattices,
    frame: int,
    positions: FloatArray,
    points: FloatArray,
    shifts: FloatArray,
) -> None:
    """Fill in lattice shifts and places of the members of one image; the shift of its reference atom is there."""
    start, cell, bonds = groups.starts[group], elements(lattices.cells[frame]), groups.bonds
    reference = groups.reference_members[group]
    for member in range(groups.starts[group + 1] - start):
        for axis in range(3):
            shifts[member, axis] = shifts[reference, axis]
    for bond in range(groups.bond_starts[group], groups.bond_starts[group + 1]):
        child, parent = bonds[bond, 0], bonds[bond, 1]
        one, other = positions[groups.bonded[bond, 0]], positions[groups.bonded[bond, 1]]
        x, y, z = one[0] - other[0], one[1] - other[1], one[2] - other[2]
        a = b = c = 0.0
        if x * x + y * y + z * z > lattices.safe_squares[frame]:
            a, b, c = nearest_shift(x, y, z, lattices, frame)
        a, b, c = a + shifts[parent, 0], b + shifts[parent, 1], c + shifts[parent, 2]
        shifts[child, 0], shifts[child, 1], shifts[child, 2] = a, b, c
        points[child, 0], points[child, 1], points[child, 2] = moved(one[0], one[1], one[2], a, b, c, cell)


@inlined("contract")
def _place_virtual(groups: GroupTable, group: int, points: FloatArray) -> None:
    """Fill in where the virtual sites of a group are; points are those of its members."""
    for site in range(groups.virtual_starts[group], groups.virtual_starts[group + 1]):
        members, weights = groups.virtual[site], groups.virtual_weights[site]
        own, first, second, third = points[members[0]], points[members[1]], points[members[2]], points[members[3]]
        a, b, c = second[0] - first[0], second[1] - first[1], second[2] - first[2]
        u, v, w = third[0] - first[0], third[1] - first[1], third[2] - first[2]
        for axis in range(3):
            own[axis] = weights[0] * first[axis] + weights[1] * second[axis] + weights[2] * third[axis]
        own[0] += weights[3] * (b * w - c * v)
        own[1] += weights[3] * (c * u - a * w)
        own[2] += weights[3] * (a * v - b * u)


@inlined("contract")
def _fill_frame(
    groups: GroupTable, lattices: Lattices, frame: int, positions: FloatArray, images: Images, sites: Sites
) -> int:
    """Fill in the sites of one frame; how many there are."""
    points, charges, numbers = sites.positions[frame], sites.charges[frame], sites.numbers[frame]
    strained = len(sites.shifts) == len(sites.positions)
    shifts = sites.shifts[frame if strained else 0]
    cell, safe = elements(lattices.cells[frame]), lattices.safe_squares[frame]
    row = 0
    for image in range(images.counts[frame, 1]):
        group, weight = images.groups[frame, image], images.weights[frame, image]
        i, j, k = images.shifts[frame, image, 0], images.shifts[frame, image, 1], images.shifts[frame, image, 2]
        a, b, c = moved(0.0, 0.0, 0.0, i, j, k, cell)
        start, end = groups.starts[group], groups.starts[group + 1]
        for place in range(start, end):
            member = row + place - start
            numbers[member] = groups.sites[place]
            charges[member] = weight * groups.charges[place]
            # A virtual site is placed later.
            atom = max(groups.atoms[place], 0)
            points[member, 0] = positions[atom, 0] + a
            points[member, 1] = positions[atom, 1] + b
            points[member, 2] = positions[atom, 2] + c
        whole = _is_whole(groups, group, safe, positions)
        if strained or not whole:
            for member in range(row, row + end - start):
                shifts[member, 0], shifts[member, 1], shifts[member, 2] = i, j, k
        if not whole:
            _make_whole(groups, group, lattices, frame, positions, points[row:], shifts[row:])
        if groups.virtual_starts[group] < groups.virtual_starts[group + 1]:
            _place_virtual(groups, group, points[row:])
        row += end - start
    return row


@inlined()
def _fill_padding(qm: FloatArray, first: int, points: FloatArray, charges: FloatArray, numbers: IntArray) -> None:
    """Fill in the sites from the first one on that there are not."""
    for row in range(first, len(points)):
        points[row, 0] = qm[0, 0] + (FAR + FAR_STEP * row)
        points[row, 1], points[row, 2] = qm[0, 1], qm[0, 2]
        charges[row] = 0.0
        numbers[row] = -1


@inlined()
def load_sites(points: FloatArray, charges: FloatArray, begin: int, size: int, block: FloatArray) -> None:
    """Fill the first four rows of a block with sites."""
    for k in range(size):
        block[0, k], block[1, k], block[2, k] = points[begin + k, 0], points[begin + k, 1], points[begin + k, 2]
        block[3, k] = charges[begin + k]


@inlined()
def _fill_potentials(
    blur_width: float,
    qm: FloatArray,
    points: FloatArray,
    charges: FloatArray,
    count: int,
    potentials: FloatArray,
    block: FloatArray,
) -> bool:
    """Fill in the potentials of one frame; False if a site lies on a QM atom."""
    n_close = 0
    for atom in range(len(qm)):
        potentials[atom] = 0.0
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        load_sites(points, charges, begin, size, block)
        for atom in range(len(qm)):
            x, y, z = qm[atom, 0], qm[atom, 1], qm[atom, 2]
            if blur_width == 0.0:
                potential, close = point_potential(x, y, z, size, block)
            else:
                close = fill_blurred(blur_width, x, y, z, size, block)
                potential = blurred_potential(size, block)
            potentials[atom] += potential
            n_close += close
    return n_close == 0


@Kernel
def _fill_sites(
    groups: GroupTable,
    lattices: Lattices,
    blur_width: float,
    positions: FloatArray,
    qm_positions: FloatArray,
    images: Images,
    sites: Sites,
    block: FloatArray,
) -> bool:
    """Fill in the sites and their potentials; False if a site lies on a QM atom."""
    apart = True
    for frame in range(len(positions)):
        qm, points, charges = qm_positions[frame], sites.positions[frame], sites.charges[frame]
        count = _fill_frame(groups, lattices, frame, positions[frame], images, sites)
        _fill_padding(qm, count, points, charges, sites.numbers[frame])
        apart &= _fill_potentials(blur_width, qm, points, charges, count, sites.potentials[frame], block)
    return apart


def fill_sites(
    groups: GroupTable,
    lattices: Lattices,
    blur_width: float,
    positions: FloatArray,
    qm_positions: FloatArray,
    images: Images,
    keep_shifts: bool,
) -> tuple[Sites, bool]:
    """Lay the sites of all images out in arrays as wide as the largest frame, and sum up their potentials.

    Args:
        groups: The MM groups.
        lattices: The cells of B frames.
        blur_width: Width of the blur of the charges, bohr.
        positions: All atoms, shape (B, N, 3), bohr.
        qm_positions: The QM region, made whole, shape (B, n, 3), bohr.
        images: Of `find_images`.
        keep_shifts: Whether derivatives by cells will be asked for.

    Returns:
        The sites, and whether none of them lies on a QM atom: otherwise their potentials mean nothing.
    """
    n_frames, n_qm = qm_positions.shape[:2]
    n_sites = int(images.counts[:, 2].max(initial=0))
    sites = Sites(
        positions=np.empty((n_frames, n_sites, 3)),
        charges=np.empty((n_frames, n_sites)),
        numbers=np.empty((n_frames, n_sites), dtype=np.int64),
        potentials=np.empty((n_frames, n_qm)),
        shifts=np.empty((n_frames if keep_shifts else 0, n_sites, 3)),
    )

    def work(part: slice) -> bool:
        own = rows_of(sites, part)
        if not keep_shifts:
            own = own._replace(shifts=np.empty((1, n_sites, 3)))
        given = positions[part], qm_positions[part], rows_of(images, part), own
        return _fill_sites(groups, rows_of(lattices, part), blur_width, *given, np.empty((N_ROWS, BLOCK)))

    return sites, all(side_by_side(work, n_frames, threads_of_loops()))
