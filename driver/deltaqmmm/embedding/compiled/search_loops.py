"""Which images of which MM groups lie within the cutoff, with their weights: what `search` does."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.embedding.compiled.candidate_loops import find_candidates
from deltaqmmm.embedding.compiled.images import Images, Room, image_room, search_room
from deltaqmmm.embedding.compiled.lattice_loops import Matrix, elements, make_region_whole, moved
from deltaqmmm.embedding.compiled.tables import CutoffTable, GroupTable, Lattices, RegionTable
from deltaqmmm.embedding.compiled.weight_loops import fill_nearest, weigh
from deltaqmmm.jit import Kernel, inlined
from deltaqmmm.periodic import check_positions
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.threads import rows_of, side_by_side, threads_of_loops


@inlined("contract")
def _sphere(qm: FloatArray) -> tuple[float, float, float, float]:
    """The centre of the QM atoms (the middle of their box), and how far the furthest of them is from it."""
    x0, y0, z0 = qm[0, 0], qm[0, 1], qm[0, 2]
    x1, y1, z1 = x0, y0, z0
    for atom in range(len(qm)):
        x0, y0, z0 = min(x0, qm[atom, 0]), min(y0, qm[atom, 1]), min(z0, qm[atom, 2])
        x1, y1, z1 = max(x1, qm[atom, 0]), max(y1, qm[atom, 1]), max(z1, qm[atom, 2])
    x0, y0, z0 = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1)
    widest = 0.0
    for atom in range(len(qm)):
        widest = max(widest, (qm[atom, 0] - x0) ** 2 + (qm[atom, 1] - y0) ** 2 + (qm[atom, 2] - z0) ** 2)
    return x0, y0, z0, math.sqrt(widest)


@inlined()
def _keep(starts: IntArray, operation: Matrix, frame: int, count: int, images: Images, room: Room) -> None:
    """Make images of the candidates with weight."""
    n_images = n_sites = 0
    for candidate in range(count):
        if room.weights[candidate] < 0.0:
            continue
        group, places = room.groups[candidate], room.places
        images.groups[frame, n_images] = group
        images.weights[frame, n_images] = room.weights[candidate]
        images.slots[frame, n_images] = room.slots[candidate]
        i, j, k = moved(0.0, 0.0, 0.0, places[3, candidate], places[4, candidate], places[5, candidate], operation)
        shift = images.shifts[frame, n_images]
        shift[0], shift[1], shift[2] = i, j, k
        n_images += 1
        n_sites += starts[group + 1] - starts[group]
    images.counts[frame, 1], images.counts[frame, 2] = n_images, n_sites


@inlined()
def _keep_all(starts: IntArray, frame: int, images: Images) -> None:
    """Every group once, where it is."""
    n_groups = len(starts) - 1
    images.counts[frame, 0] = images.counts[frame, 1] = n_groups
    images.counts[frame, 2] = starts[n_groups]
    if n_groups > images.groups.shape[1]:
        return
    for group in range(n_groups):
        images.groups[frame, group], images.weights[frame, group], images.slots[frame, group] = group, 1.0, -1
        for axis in range(3):
            images.shifts[frame, group, axis] = 0.0


@inlined("contract", "reassoc", "nsz")
def _sum(numbers: FloatArray) -> float:
    total = 0.0
    for index in range(len(numbers)):
        total += numbers[index]
    return total


@Kernel
def _find_images(
    region: RegionTable,
    starts: IntArray,
    references: IntArray,
    cutoffs: CutoffTable,
    lattices: Lattices,
    positions: FloatArray,
    qm_positions: FloatArray,
    qm_shifts: FloatArray,
    images: Images,
    room: Room,
) -> bool:
    """Fill in the QM region, and the images; False for too little room, or for positions that may not be finite."""
    fine = True
    for frame in range(len(positions)):
        # One number that is not finite makes the sum so. This also brings the frame into the processor's cache.
        fine &= math.isfinite(_sum(positions[frame].reshape(-1)))
        qm = qm_positions[frame]
        make_region_whole(region, lattices, frame, positions[frame], qm_shifts[frame], qm)
        if cutoffs.everything:
            _keep_all(starts, frame, images)
        else:
            x, y, z, widest = _sphere(qm)
            radius = cutoffs.outer + math.log(len(qm)) / cutoffs.sharpness + widest
            centre = (x, y, z)
            count = find_candidates(references, positions[frame], centre, radius, lattices, frame, room)
            images.counts[frame, 0] = count
            if count <= len(room.groups):
                fill_nearest(qm, centre, count, room)
                images.counts[frame, 3] = weigh(cutoffs, qm, centre, count, images.slopes[frame], room)
                _keep(starts, elements(lattices.operations[frame]), frame, count, images, room)
        fine &= images.counts[frame, 0] <= images.groups.shape[1]
    return fine


def find_images(
    region: RegionTable,
    groups: GroupTable,
    cutoffs: CutoffTable,
    lattices: Lattices,
    positions: FloatArray,
    capacity: int,
) -> tuple[FloatArray, FloatArray, Images]:
    """Make the QM region whole, and find the images of the groups within the cutoff.

    Args:
        region: The QM region.
        groups: The MM groups.
        cutoffs: The settings.
        lattices: The cells of B frames.
        positions: All atoms, shape (B, N, 3), bohr.
        capacity: Room for so many candidates in a frame is tried first.

    Returns:
        Positions of the QM atoms, made whole, shape (B, n, 3), bohr; their lattice shifts, of the same shape; and the
        images.

    Raises:
        FrameError: A position is not finite.
    """
    n_frames, n_qm = len(positions), len(region.atoms)
    qm_positions, qm_shifts = np.empty((n_frames, n_qm, 3)), np.empty((n_frames, n_qm, 3))
    while True:
        images = image_room(n_frames, capacity, n_qm)

        def work(part: slice, images: Images = images, capacity: int = capacity) -> bool:
            given = region, groups.starts, groups.references, cutoffs, rows_of(lattices, part), positions[part]
            found = qm_positions[part], qm_shifts[part], rows_of(images, part)
            return _find_images(*given, *found, search_room(capacity))

        if all(side_by_side(work, n_frames, threads_of_loops())):
            break
        check_positions(positions, positions.shape[1])
        needed = int(images.counts[:, 0].max())
        if needed <= capacity:
            break
        capacity = needed
    return qm_positions, qm_shifts, images
