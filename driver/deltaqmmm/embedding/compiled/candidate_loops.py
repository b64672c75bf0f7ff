"""The images of groups in a sphere around the QM region, which are candidates for having a weight.

All groups of a frame are looked at, many at a time. In a cell that is large enough a group has a single image there at
most, and is put in place by rounding alone.
"""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.embedding.compiled.images import BLOCK, Room
from deltaqmmm.embedding.compiled.lattice_loops import Matrix, elements, moved
from deltaqmmm.embedding.compiled.tables import Lattices
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray, IntArray


@inlined("contract")
def _fill_squares(
    vectors: Matrix,
    inverse: Matrix,
    bounds: tuple[float, float, float],
    size: int,
    points: FloatArray,
    squares: FloatArray,
) -> None:
    """Squared distances of points from the centre, or 0 where another image may lie in the sphere too.

    A point of the sphere has fractional coordinates within the bounds. A single array is written to: otherwise it would
    not be done for several points at once.
    """
    first, second, third = bounds
    for point in range(size):
        x, y, z = points[0, point], points[1, point], points[2, point]
        a, b, c = moved(0.0, 0.0, 0.0, x, y, z, inverse)
        i, j, k = -np.rint(a), -np.rint(b), -np.rint(c)
        x, y, z = moved(x, y, z, i, j, k, vectors)
        alone = (abs(a + i) + first < 1.0) & (abs(b + j) + second < 1.0) & (abs(c + k) + third < 1.0)
        squares[point] = x * x + y * y + z * z if alone else 0.0


@inlined("contract")
def _add_images(
    first_group: int,
    n_kept: int,
    vectors: Matrix,
    inverse: Matrix,
    bounds: tuple[float, float, float],
    limit: float,
    count: int,
    room: Room,
) -> int:
    """Add the images within the sphere of some groups to the candidates; how many of these there are then."""
    first, second, third = bounds
    points, places, groups = room.points, room.places, room.groups
    for index in range(n_kept):
        kept = room.kept[index]
        x, y, z = points[0, kept], points[1, kept], points[2, kept]
        a, b, c = moved(0.0, 0.0, 0.0, x, y, z, inverse)
        i, j, k = -np.rint(a), -np.rint(b), -np.rint(c)
        a, b, c = a + i, b + j, c + k
        x, y, z = moved(x, y, z, i, j, k, vectors)
        if room.squares[kept] > 0.0:
            if count < len(groups):
                groups[count] = first_group + kept
                places[0, count], places[1, count], places[2, count] = x, y, z
                places[3, count], places[4, count], places[5, count] = i, j, k
            count += 1
            continue
        for r in range(math.ceil(-third - c), math.floor(third - c) + 1):
            for q in range(math.ceil(-second - b), math.floor(second - b) + 1):
                for p in range(math.ceil(-first - a), math.floor(first - a) + 1):
                    u, v, w = moved(x, y, z, float(p), float(q), float(r), vectors)
                    if u * u + v * v + w * w > limit:
                        continue
                    if count < len(groups):
                        groups[count] = first_group + kept
                        places[0, count], places[1, count], places[2, count] = u, v, w
                        places[3, count], places[4, count], places[5, count] = i + p, j + q, k + r
                    count += 1
    return count


@inlined("contract")
def find_candidates(
    references: IntArray,
    positions: FloatArray,
    centre: tuple[float, float, float],
    radius: float,
    lattices: Lattices,
    frame: int,
    room: Room,
) -> int:
    """List the images of the groups within a sphere, ordered by group; how many there are.

    Beyond the room that there is they are counted only.
    """
    vectors, inverse = elements(lattices.vectors[frame]), elements(lattices.inverses[frame])
    heights = lattices.heights[frame]
    bounds = (radius / heights[0], radius / heights[1], radius / heights[2])
    limit, points, squares, kept = radius**2, room.points, room.squares, room.kept
    # Not the literal 0, for which `_add_images` would be compiled once more.
    count = int(np.int64(0))
    for begin in range(0, len(references), BLOCK):
        size = min(BLOCK, len(references) - begin)
        for point in range(size):
            atom = references[begin + point]
            points[0, point] = positions[atom, 0] - centre[0]
            points[1, point] = positions[atom, 1] - centre[1]
            points[2, point] = positions[atom, 2] - centre[2]
        _fill_squares(vectors, inverse, bounds, size, points, squares)
        n_kept = int(np.int64(0))
        for point in range(size):
            # Without a branch that cannot be foretold.
            kept[n_kept] = point
            n_kept += int(squares[point] <= limit)
        count = _add_images(begin, n_kept, vectors, inverse, bounds, limit, count, room)
    return count
