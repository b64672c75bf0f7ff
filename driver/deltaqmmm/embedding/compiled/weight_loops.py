"""The weights of the candidates, and how they change with the positions: what `switching` does."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.embedding.compiled.images import BLOCK, Room
from deltaqmmm.embedding.compiled.tables import CutoffTable
from deltaqmmm.jit import inlined, inverse_root
from deltaqmmm.results import FloatArray, IntArray

_NEGLIGIBLE = -40.0
"""exp(-40) is nothing beside 1 in double precision."""
_DOUBLINGS = 6
_TAYLOR = tuple(1.0 / math.factorial(power) for power in range(1, 12))


@inlined("contract")
def fill_nearest(qm: FloatArray, centre: tuple[float, float, float], count: int, room: Room) -> None:
    """Squared distances of the candidates from the nearest QM atom."""
    nearest, places = room.nearest, room.places
    for k in range(count):
        nearest[k] = np.inf
    for atom in range(len(qm)):
        x, y, z = qm[atom, 0] - centre[0], qm[atom, 1] - centre[1], qm[atom, 2] - centre[2]
        for k in range(count):
            squared = (places[0, k] - x) ** 2 + (places[1, k] - y) ** 2 + (places[2, k] - z) ** 2
            nearest[k] = squared if squared < nearest[k] else nearest[k]


@inlined("contract")
def _classify(
    inner: float, farthest: float, count: int, nearest: FloatArray, weights: FloatArray, shell: IntArray
) -> int:
    """Fill in the weights of the candidates that are surely inside, 1, or outside, -1, and list the others."""
    n_shell, near, far = 0, inner**2, farthest**2
    for k in range(count):
        weights[k] = 1.0 if nearest[k] <= near else -1.0
        shell[n_shell] = k
        n_shell += int((nearest[k] > near) & (nearest[k] <= far))
    return n_shell


@inlined("contract")
def _exponential(x: float) -> float:
    """Exp of a number that is not positive, to the last digits of 1; math.exp is not done for several at once.

    With m = exp(s) - 1 there is exp(2 s) - 1 = m (m + 2), which loses no digits.
    """
    s = max(x, _NEGLIGIBLE) / 2.0**_DOUBLINGS
    m = _TAYLOR[10]
    for term in range(9, -1, -1):
        m = m * s + _TAYLOR[term]
    m *= s
    for _ in range(_DOUBLINGS):
        m *= m + 2.0
    return m + 1.0


@inlined("contract")
def _fill_slopes(
    beta: float,
    qm: FloatArray,
    centre: tuple[float, float, float],
    begin: int,
    size: int,
    slopes: FloatArray,
    room: Room,
) -> None:
    """Terms of the smooth minimum of some candidates over d_a, exp(-beta (d_a - smallest d)) / d_a, and their sums."""
    points, places, shell, terms = room.points, room.places, room.shell, room.terms
    for k in range(size):
        candidate = shell[begin + k]
        points[0, k], points[1, k], points[2, k] = places[0, candidate], places[1, candidate], places[2, candidate]
        points[3, k], points[4, k] = math.sqrt(room.nearest[candidate]), 0.0
    for atom in range(len(qm)):
        x, y, z = qm[atom, 0] - centre[0], qm[atom, 1] - centre[1], qm[atom, 2] - centre[2]
        found = slopes[atom, begin : begin + size]
        for k in range(size):
            squared = (points[0, k] - x) ** 2 + (points[1, k] - y) ** 2 + (points[2, k] - z) ** 2
            inverse = inverse_root(squared)
            found[k] = inverse
            terms[k] = _exponential(beta * (points[3, k] - squared * inverse))
        for k in range(size):
            found[k] *= terms[k]
            points[4, k] += terms[k]


@inlined("contract")
def _weigh_some(cutoffs: CutoffTable, begin: int, size: int, slopes: FloatArray, room: Room) -> None:
    """Weights and slots of these candidates, and their slopes from the terms."""
    points, factors = room.points, room.terms
    width = cutoffs.outer - cutoffs.inner
    for k in range(size):
        candidate = room.shell[begin + k]
        u = (points[3, k] - math.log(points[4, k]) / cutoffs.sharpness - cutoffs.inner) / width
        factors[k] = -30.0 * (u * (1.0 - u)) ** 2 / (width * points[4, k])
        if 0.0 < u < 1.0:
            room.weights[candidate] = 1.0 - u**3 * (10.0 + u * (6.0 * u - 15.0))
            room.slots[candidate] = begin + k
        else:
            room.weights[candidate] = 1.0 if u <= 0.0 else -1.0
    for atom in range(len(slopes)):
        found = slopes[atom, begin : begin + size]
        for k in range(size):
            found[k] *= factors[k]


@inlined("contract")
def weigh(
    cutoffs: CutoffTable,
    qm: FloatArray,
    centre: tuple[float, float, float],
    count: int,
    slopes: FloatArray,
    room: Room,
) -> int:
    """Weights and slots of all candidates, and their slopes (n, I); how many slots there are."""
    farthest = cutoffs.outer + math.log(len(qm)) / cutoffs.sharpness
    for k in range(count):
        room.slots[k] = -1
    n_slots = _classify(cutoffs.inner, farthest, count, room.nearest, room.weights, room.shell)
    for begin in range(0, n_slots, BLOCK):
        size = min(BLOCK, n_slots - begin)
        _fill_slopes(cutoffs.sharpness, qm, centre, begin, size, slopes, room)
        _weigh_some(cutoffs, begin, size, slopes, room)
    return n_slots
