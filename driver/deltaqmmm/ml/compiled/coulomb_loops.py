"""The innermost loops of a shell of the function "coulomb": those over all MM sites.

They do for a block of pairs what `shell_sums` and `shell_pull_back` do with other functions, with one pass over the
pairs for the radial parts and one for the sums: with f the window, g = f / r for the sums of 1, and h = f / r^3 for
those of the components.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import inlined
from deltaqmmm.ml.compiled.tables import ShellTable
from deltaqmmm.ml.functions import CLOSEST, COULOMB, KINDS
from deltaqmmm.results import FloatArray

PAIRS = 256
"""Pairs at a time."""

# Rows: components, weight, r^2, then g, h and their derivatives by r^2 (for sums times the weight), then derivatives by
# components and weight.
_RADIAL, FOUND, _N_ROWS = 5, 9, 13
_X, _Y, _Z, _W, _S = 0, PAIRS, 2 * PAIRS, 3 * PAIRS, 4 * PAIRS
_G, _H, _G_STEEP, _H_STEEP = 5 * PAIRS, 6 * PAIRS, 7 * PAIRS, 8 * PAIRS
_BY_X, _BY_Y, _BY_Z, _BY_W = 9 * PAIRS, 10 * PAIRS, 11 * PAIRS, 12 * PAIRS
_KIND = KINDS.index(COULOMB.kind)


class CoulombRoom(NamedTuple):
    """Room for a block of pairs.

    Attributes:
        rows: See above, shape (13, `PAIRS`).
        flat: The same numbers in one row. Where the places of rows are known when loops are compiled, it is certain
            that what is written is not read later: otherwise pair after pair is done.
        sums: Of g, of h, of h times x, y, z, of g' times x, y, z, and of h' times xx, xy, xz, yy, yz, zz, shape (14,).
    """

    rows: FloatArray
    flat: FloatArray
    sums: FloatArray


def coulomb_room() -> CoulombRoom:
    """Allocated here: in the compiled loops it would take seconds to compile."""
    flat = np.zeros(_N_ROWS * PAIRS)
    return CoulombRoom(flat.reshape(_N_ROWS, PAIRS), flat, np.zeros(14))


def is_coulomb(table: ShellTable) -> bool:
    """Whether a shell is one for these loops."""
    return bool((table.radial.kinds == _KIND).any())


@inlined("contract")
def fill_coulomb(cutoff: float, weighted: bool, size: int, room: CoulombRoom) -> None:
    """Fill in the radial parts; vectors, weights and r^2 are there."""
    work, scale = room.flat, 1.0 / cutoff**2
    # Known to be no more, places are known not to be negative.
    for pair in range(min(size, PAIRS)):
        squared = work[_S + pair]
        ratio = squared * scale
        power = ratio * ratio
        inside = 1.0 - power * ratio
        # Nothing beyond the cutoff; what is not a number stays so.
        inside = 0.0 if inside < 0.0 else inside
        square = inside * inside
        inverse = 1.0 / max(squared, CLOSEST)
        root = math.sqrt(inverse)
        if weighted:
            root *= work[_W + pair]
        cube, part = root * inverse, inverse * square * inside
        window_slope = -9.0 * scale * power * square
        work[_G + pair] = root * (square * inside)
        work[_H + pair] = cube * (square * inside)
        work[_G_STEEP + pair] = root * (window_slope - 0.5 * part)
        work[_H_STEEP + pair] = cube * (window_slope - 1.5 * part)


@inlined("contract", "reassoc", "nsz")
def add_coulomb(size: int, room: CoulombRoom) -> None:
    """Add the sums of a block."""
    work, sums = room.flat, room.sums
    g = h = hx = hy = hz = gx = gy = gz = xx = xy = xz = yy = yz = zz = 0.0
    for pair in range(min(size, PAIRS)):
        x, y, z = work[_X + pair], work[_Y + pair], work[_Z + pair]
        own, slope = work[_H + pair], work[_H_STEEP + pair]
        px, py, pz = slope * x, slope * y, slope * z
        h += own
        hx += own * x
        hy += own * y
        hz += own * z
        xx += px * x
        xy += px * y
        xz += px * z
        yy += py * y
        yz += py * z
        zz += pz * z
    for pair in range(min(size, PAIRS)):
        slope = work[_G_STEEP + pair]
        g += work[_G + pair]
        gx += slope * work[_X + pair]
        gy += slope * work[_Y + pair]
        gz += slope * work[_Z + pair]
    for place, found in enumerate((g, h, hx, hy, hz, gx, gy, gz, xx, xy, xz, yy, yz, zz)):
        sums[place] += found


@inlined("contract")
def give_coulomb(kind: int, sums: FloatArray, moments: FloatArray, jacobian: FloatArray) -> None:
    """Fill in moments (4, T) and their derivatives by the atom (4, T, 3)."""
    products = ((8, 9, 10), (9, 11, 12), (10, 12, 13))
    moments[0, kind] = sums[0]
    for y in range(3):
        moments[1 + y, kind] = sums[2 + y]
        jacobian[0, kind, y] = -2.0 * sums[5 + y]
        for row in range(3):
            jacobian[1 + row, kind, y] = -2.0 * sums[products[row][y]]
        jacobian[1 + y, kind, y] -= sums[1]


@inlined("contract", "reassoc", "nsz")
def pull_back_coulomb(gradients: FloatArray, kind: int, size: int, room: CoulombRoom) -> None:
    """Fill in derivatives by vectors and weights from those by the moments of one atom (4, T)."""
    work = room.flat
    first, p, q, r = gradients[0, kind], gradients[1, kind], gradients[2, kind], gradients[3, kind]
    # Known to be no more, places are known not to be negative.
    for pair in range(min(size, PAIRS)):
        x, y, z, own = work[_X + pair], work[_Y + pair], work[_Z + pair], work[_H + pair]
        along = p * x + (q * y + r * z)
        twice = 2.0 * (first * work[_G_STEEP + pair] + along * work[_H_STEEP + pair])
        work[_BY_X + pair] = own * p + twice * x
        work[_BY_Y + pair] = own * q + twice * y
        work[_BY_Z + pair] = own * r + twice * z
        work[_BY_W + pair] = first * work[_G + pair] + along * own
