"""The innermost loops of a shell of the function "coulomb": those over all MM sites.

They do for some sites and one QM atom what `shell_sums` and `shell_pull_back` do with other functions, each in one
pass: with the window f = (1 - (r / r_c)^6)^3 within the cutoff and 0 beyond, g = f / r for the sums of 1, and
h = f / r^3 for those of the components; lengths in bohr. Sites beyond the cutoff are left out many at a time
(`site_loops.part_around`), not one by one: to look at each takes longer than to compute it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import inlined, inverse_root
from deltaqmmm.ml.compiled.lanes import MEMBERS
from deltaqmmm.ml.compiled.rooms import kept
from deltaqmmm.ml.compiled.site_loops import clear
from deltaqmmm.ml.compiled.tables import ShellTable, Sites
from deltaqmmm.ml.functions import CLOSEST, COULOMB, KINDS
from deltaqmmm.results import FloatArray

PAIRS = 256
"""Sites at a time."""

_X, _Y, _Z, _BY_X, _BY_Y, _BY_Z, _BY_W, _N_ROWS = 0, PAIRS, 2 * PAIRS, 3 * PAIRS, 4 * PAIRS, 5 * PAIRS, 6 * PAIRS, 7
_FIRST, _SECOND, _THIRD, _FOURTH = _BY_X, 6 * PAIRS, 9 * PAIRS, 12 * PAIRS
_N_MEMBER_ROWS = 3 + 3 * MEMBERS
_KIND = KINDS.index(COULOMB.kind)


class CoulombRoom(NamedTuple):
    """Room for some sites.

    Attributes:
        rows: Positions, and derivatives by them and by the weights, shape (7, `PAIRS`); or positions, and derivatives
            of four members by them, shape (15, `PAIRS`).
        flat: The same numbers in one row. Where the places of rows are known when loops are compiled, it is certain
            that what is written is not read later: otherwise pair after pair is done.
    """

    rows: FloatArray
    flat: FloatArray


@kept
def coulomb_room() -> CoulombRoom:
    """Room for one energy; kept."""
    return _room(_N_ROWS)


@kept
def member_room() -> CoulombRoom:
    """Room for members; kept."""
    return _room(_N_MEMBER_ROWS)


def _room(n_rows: int) -> CoulombRoom:
    flat = np.zeros(n_rows * PAIRS)
    return CoulombRoom(flat.reshape(n_rows, PAIRS), flat)


def is_coulomb(table: ShellTable) -> bool:
    """Whether a shell is one for these loops."""
    return bool((table.radial.kinds == _KIND).any())


@inlined("contract")
def _radial_parts(scale: float, squared: float) -> tuple[float, float, float, float]:
    """g, h and their derivatives by r^2; the scale is 1 / r_c^2."""
    ratio = squared * scale
    power = ratio * ratio
    inside = 1.0 - power * ratio
    # Nothing beyond the cutoff; what is not a number stays so.
    inside = 0.0 if inside < 0.0 else inside
    square = inside * inside
    root = inverse_root(max(squared, CLOSEST))
    inverse = root * root
    first, slope = root * (square * inside), root * (-9.0 * scale * power * square)
    second = first * inverse
    return first, second, slope - 0.5 * second, inverse * (slope - 1.5 * second)


@inlined("contract", "reassoc", "nsz")
def add_coulomb(scale: float, centre: FloatArray, sites: Sites, begin: int, end: int, sums: FloatArray) -> None:
    """Add the sums of one QM atom over some sites.

    They are those of g, of h, of h times x, y, z, of g' times x, y, z, and of h' times xx, xy, xz, yy, yz, zz.
    """
    g = h = hx = hy = hz = gx = gy = gz = xx = xy = xz = yy = yz = zz = 0.0
    a, b, c = centre[0], centre[1], centre[2]
    at_x, at_y, at_z, weights = (
        sites.table[0, begin:end],
        sites.table[1, begin:end],
        sites.table[2, begin:end],
        sites.table[3, begin:end],
    )
    for site in range(end - begin):
        x, y, z, weight = at_x[site] - a, at_y[site] - b, at_z[site] - c, weights[site]
        first, second, first_slope, second_slope = _radial_parts(scale, x * x + y * y + z * z)
        own, steep, slope = weight * second, weight * first_slope, weight * second_slope
        g += weight * first
        h += own
        hx += own * x
        hy += own * y
        hz += own * z
        gx += steep * x
        gy += steep * y
        gz += steep * z
        u, v, w = slope * x, slope * y, slope * z
        xx += u * x
        xy += u * y
        xz += u * z
        yy += v * y
        yz += v * z
        zz += w * z
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


@inlined("contract")
def load_coulomb(sites: Sites, begin: int, end: int, room: CoulombRoom) -> None:
    """Fill in the positions of some sites, and set the derivatives by them to zero."""
    for y in range(3):
        for site in range(end - begin):
            room.rows[y, site] = sites.table[y, begin + site]
    clear(room.rows[3:], len(room.rows) - 3, end - begin)


@inlined("contract", "reassoc", "nsz")
def _add_along(
    work: FloatArray,
    place: int,
    vector: tuple[float, float, float],
    radial: tuple[float, float, float],
    given: tuple[float, float, float, float],
) -> float:
    """Add the derivatives of one energy by one site to three rows, the first from a place on.

    Args:
        work: Room, in one row.
        place: That of the site in the first of the rows.
        vector: From the atom to the site, bohr.
        radial: h, and the derivatives of g and h by r^2.
        given: Derivatives of the energy by the sum of 1, with g, and by those of the components, with h.

    Returns:
        The scalar product of the last three of these with the vector.
    """
    (x, y, z), (other, own_slope, other_slope), (first, p, q, r) = vector, radial, given
    along = p * x + (q * y + r * z)
    twice = 2.0 * (first * own_slope + along * other_slope)
    work[place] += other * p + twice * x
    work[PAIRS + place] += other * q + twice * y
    work[2 * PAIRS + place] += other * r + twice * z
    return along


@inlined("contract", "reassoc", "nsz")
def pull_back_coulomb(
    scale: float, centre: FloatArray, gradients: FloatArray, kind: int, places: tuple[int, int], room: CoulombRoom
) -> None:
    """Add derivatives by sites, without their weights, and by weights, from those by the moments (4, T) of one atom.

    Those are taken that have places in the room between two.
    """
    work, size = room.flat[places[0] :], places[1] - places[0]
    a, b, c = centre[0], centre[1], centre[2]
    given = gradients[0, kind], gradients[1, kind], gradients[2, kind], gradients[3, kind]
    # Known to be no more, places are known not to be negative.
    for site in range(min(size, PAIRS)):
        x, y, z = work[_X + site] - a, work[_Y + site] - b, work[_Z + site] - c
        own, other, own_slope, other_slope = _radial_parts(scale, x * x + y * y + z * z)
        along = _add_along(work, _BY_X + site, (x, y, z), (other, own_slope, other_slope), given)
        work[_BY_W + site] += given[0] * own + along * other


@inlined("contract")
def give_sites(
    sites: Sites, begin: int, end: int, room: CoulombRoom, by_site: FloatArray, by_weight: FloatArray
) -> None:
    """Add what was found to the derivatives of one energy by the sites (K, 3) and weights (K,)."""
    for place in range(end - begin):
        site, weight = sites.numbers[begin + place], sites.table[3, begin + place]
        if site >= 0:
            for y in range(3):
                by_site[site, y] += weight * room.rows[3 + y, place]
            by_weight[site] += room.rows[6, place]


@inlined("contract", "reassoc", "nsz")
def pull_back_members(scale: float, centre: FloatArray, given: FloatArray, size: int, room: CoulombRoom) -> None:
    """Likewise derivatives of four members by so many sites, from those by the moments of one atom and type (4, 4)."""
    work = room.flat
    a, b, c = centre[0], centre[1], centre[2]
    first = given[0, 0], given[1, 0], given[2, 0], given[3, 0]
    second = given[0, 1], given[1, 1], given[2, 1], given[3, 1]
    third = given[0, 2], given[1, 2], given[2, 2], given[3, 2]
    fourth = given[0, 3], given[1, 3], given[2, 3], given[3, 3]
    for site in range(min(size, PAIRS)):
        vector = work[_X + site] - a, work[_Y + site] - b, work[_Z + site] - c
        parts = _radial_parts(scale, vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
        radial = parts[1], parts[2], parts[3]
        _add_along(work, _FIRST + site, vector, radial, first)
        _add_along(work, _SECOND + site, vector, radial, second)
        _add_along(work, _THIRD + site, vector, radial, third)
        _add_along(work, _FOURTH + site, vector, radial, fourth)


@inlined("contract")
def give_members(sites: Sites, begin: int, end: int, room: CoulombRoom, by_site: FloatArray) -> None:
    """Add what was found to the derivatives of four members by the sites (K, 3, 4)."""
    for place in range(end - begin):
        site, weight = sites.numbers[begin + place], sites.table[3, begin + place]
        if site >= 0:
            for y in range(3):
                for lane in range(MEMBERS):
                    by_site[site, y, lane] += weight * room.rows[3 + 3 * lane + y, place]
