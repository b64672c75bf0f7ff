"""The innermost loops of a shell with sums up to rank 1 and a few Gaussians around zero: those over all MM sites.

They do for a block of pairs what `shell_sums` and `shell_pull_back` do with any functions, without arrays between the
Gaussians and the sums: with g = exp(-eta r^2) f and f the window, dg/d(r^2) = exp(-eta r^2) (f' - eta f).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import inlined
from deltaqmmm.ml.compiled.radial_loops import exponential
from deltaqmmm.ml.compiled.tables import FUNCTIONS, RadialTable, ShellTable
from deltaqmmm.results import FloatArray

PAIRS = 256
"""Pairs at a time."""

# Rows: components, weight, r^2, window and its derivative by r^2 (both times the weight for sums), Gaussians,
# derivatives by components and weight.
_WINDOW, _STEEP, _GAUSSIANS, FOUND, _N_ROWS = 5, 6, 7, 11, 15
_X, _Y, _Z, _F, _S = 0, PAIRS, 2 * PAIRS, _WINDOW * PAIRS, _STEEP * PAIRS
_G0, _G1, _G2, _G3 = 7 * PAIRS, 8 * PAIRS, 9 * PAIRS, 10 * PAIRS
_BY_X, _BY_Y, _BY_Z, _BY_W = 11 * PAIRS, 12 * PAIRS, 13 * PAIRS, 14 * PAIRS


class VectorRoom(NamedTuple):
    """Room for a block of pairs.

    Attributes:
        rows: See above, shape (15, `PAIRS`).
        flat: The same numbers in one row. Where the places of rows are known when loops are compiled, it is certain
            that what is written is not read later: otherwise pair after pair is done.
        argument: Of the exponential function, shape (1, `PAIRS`).
        plain: Sums of values times 1, x, y, z, shape (4, 4).
        steep: Sums of slopes times x, y, z, xx, xy, xz, yy, yz, zz, shape (4, 9).
        factors: Derivatives by moments, shape (4, 4).
    """

    rows: FloatArray
    flat: FloatArray
    argument: FloatArray
    plain: FloatArray
    steep: FloatArray
    factors: FloatArray


def vector_room() -> VectorRoom:
    """Functions that there are not have no Gaussians: zeros."""
    flat = np.zeros(_N_ROWS * PAIRS)
    return VectorRoom(
        flat.reshape(_N_ROWS, PAIRS),
        flat,
        np.zeros((1, PAIRS)),
        np.zeros((FUNCTIONS, 4)),
        np.zeros((FUNCTIONS, 9)),
        np.zeros((FUNCTIONS, 4)),
    )


def are_vectors(table: ShellTable) -> bool:
    """Whether these loops can do it."""
    return bool(table.rank == 1 and 0 < table.n_functions <= FUNCTIONS and not table.radial.need_distances)


@inlined("contract")
def fill_gaussians(radial: RadialTable, weighted: bool, size: int, room: VectorRoom) -> None:
    """Fill in windows and Gaussians; vectors, weights and r^2 are there."""
    rows, argument, scale = room.rows, room.argument, 1.0 / radial.cutoff**2
    for pair in range(size):
        ratio = rows[4, pair] * scale
        power = ratio * ratio
        inside = 1.0 - power * ratio
        # Nothing beyond the cutoff; what is not a number stays so.
        inside = 0.0 if inside < 0.0 else inside
        square = inside * inside
        rows[_WINDOW, pair] = square * inside
        rows[_STEEP, pair] = -9.0 * scale * power * square
    if weighted:
        for row in range(_WINDOW, _STEEP + 1):
            for pair in range(size):
                rows[row, pair] *= rows[3, pair]
    for index in radial.order:
        row, eta, root = _GAUSSIANS + index, radial.etas[index], _GAUSSIANS + radial.roots[index]
        if eta == 0.0:
            for pair in range(size):
                rows[row, pair] = 1.0
        elif root >= _GAUSSIANS:
            for pair in range(size):
                rows[row, pair] = rows[root, pair] * rows[root, pair]
        else:
            for pair in range(size):
                argument[0, pair] = -eta * rows[4, pair]
            exponential(argument, rows, row, size)


@inlined("contract", "reassoc", "nsz")
def add_plain(size: int, rows: FloatArray, sums: FloatArray) -> None:
    """Add the sums of four functions and of these times the components to sums (4, 4)."""
    a0 = ax = ay = az = b0 = bx = by = bz = 0.0
    c0 = cx = cy = cz = d0 = dx = dy = dz = 0.0
    for pair in range(size):
        x, y, z, window = rows[0, pair], rows[1, pair], rows[2, pair], rows[_WINDOW, pair]
        a, b = window * rows[_GAUSSIANS, pair], window * rows[_GAUSSIANS + 1, pair]
        c, d = window * rows[_GAUSSIANS + 2, pair], window * rows[_GAUSSIANS + 3, pair]
        a0 += a
        ax += a * x
        ay += a * y
        az += a * z
        b0 += b
        bx += b * x
        by += b * y
        bz += b * z
        c0 += c
        cx += c * x
        cy += c * y
        cz += c * z
        d0 += d
        dx += d * x
        dy += d * y
        dz += d * z
    for index, found in enumerate(((a0, ax, ay, az), (b0, bx, by, bz), (c0, cx, cy, cz), (d0, dx, dy, dz))):
        for row in range(4):
            sums[index, row] += found[row]


@inlined("contract", "reassoc", "nsz")
def add_steep(etas: FloatArray, index: int, size: int, rows: FloatArray, sums: FloatArray) -> None:
    """Add the sums of the slopes of one function times components and products of two of them to sums (F, 9)."""
    sx = sy = sz = sxx = sxy = sxz = syy = syz = szz = 0.0
    eta, row = etas[index], _GAUSSIANS + index
    for pair in range(size):
        x, y, z = rows[0, pair], rows[1, pair], rows[2, pair]
        slope = rows[row, pair] * (rows[_STEEP, pair] - eta * rows[_WINDOW, pair])
        px, py, pz = slope * x, slope * y, slope * z
        sx += px
        sy += py
        sz += pz
        sxx += px * x
        sxy += px * y
        sxz += px * z
        syy += py * y
        syz += py * z
        szz += pz * z
    for column, found in enumerate((sx, sy, sz, sxx, sxy, sxz, syy, syz, szz)):
        sums[index, column] += found


@inlined("contract")
def give_sums(kind: int, room: VectorRoom, moments: FloatArray, jacobian: FloatArray) -> None:
    """Fill in moments (F, 4, T) and their derivatives by the atom (F, 4, T, 3)."""
    products = ((3, 4, 5), (4, 6, 7), (5, 7, 8))
    for index in range(len(moments)):
        plain, steep = room.plain[index], room.steep[index]
        for row in range(4):
            moments[index, row, kind] = plain[row]
        for y in range(3):
            jacobian[index, 0, kind, y] = -2.0 * steep[y]
            for row in range(3):
                jacobian[index, row + 1, kind, y] = -2.0 * steep[products[row][y]]
            jacobian[index, y + 1, kind, y] -= plain[0]


@inlined("contract", "reassoc", "nsz")
def pull_back_vectors(etas: FloatArray, gradients: FloatArray, kind: int, size: int, room: VectorRoom) -> None:
    """Fill in derivatives by vectors and weights from those by the moments of one atom (F, 4, T)."""
    given, work = room.factors, room.flat
    for index in range(len(gradients)):
        for row in range(4):
            given[index, row] = gradients[index, row, kind]
    p, q, r, s = given[0], given[1], given[2], given[3]
    p0, px, py, pz, q0, qx, qy, qz = p[0], p[1], p[2], p[3], q[0], q[1], q[2], q[3]
    r0, rx, ry, rz, s0, sx, sy, sz = r[0], r[1], r[2], r[3], s[0], s[1], s[2], s[3]
    # Functions that there are not have no factors.
    last = len(etas) - 1
    ep, eq, er, es = etas[0], etas[min(1, last)], etas[min(2, last)], etas[min(3, last)]
    # Known to be no more, places are known not to be negative.
    for pair in range(min(size, PAIRS)):
        x, y, z, window, steep = work[_X + pair], work[_Y + pair], work[_Z + pair], work[_F + pair], work[_S + pair]
        a, b, c, d = work[_G0 + pair], work[_G1 + pair], work[_G2 + pair], work[_G3 + pair]
        u, v, w = a * px + b * qx + (c * rx + d * sx), a * py + b * qy + (c * ry + d * sy), a * pz + b * qz
        w += c * rz + d * sz
        total = (a * p0 + b * q0 + (c * r0 + d * s0)) + (u * x + v * y + w * z)
        a, b, c, d = a * ep, b * eq, c * er, d * es
        part = a * (p0 + px * x + (py * y + pz * z)) + b * (q0 + qx * x + (qy * y + qz * z))
        part += c * (r0 + rx * x + (ry * y + rz * z)) + d * (s0 + sx * x + (sy * y + sz * z))
        twice = 2.0 * (steep * total - window * part)
        work[_BY_X + pair] = window * u + twice * x
        work[_BY_Y + pair] = window * v + twice * y
        work[_BY_Z + pair] = window * w + twice * z
        work[_BY_W + pair] = window * total
