"""Blocks of the Slater-Koster transformation and what they pull back to the bond (see `rotation`).

With n along the bond, T^m the matrices of the d functions, t_m = T^m n and y_m = n.t_m, the products of sigma vectors
and of pi vectors are polynomials in n:

    sigma:  s 1,  p n_i,  d y_m
    pi:     p-p  delta_ij - n_i n_j      p-d  sqrt(4/3) (t_m,i - n_i y_m)      d-d  4/3 (t_m.t_m' - y_m y_m')
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

_MIXED = math.sqrt(4.0 / 3.0)


class Bond(NamedTuple):
    """Room for one bond.

    Attributes:
        direction: n, shape (3,).
        sigma: Sigma vectors of the shells s, p, d one after the other, shape (9,).
        turned: t_m, shape (5, 3).
        d_matrices: T^m, shape (5, 3, 3).
        values: Integrals, shape (28,).
        slopes: Their derivatives, shape (28,).
        gradient: dE/dn, shape (3,).
    """

    direction: FloatArray
    sigma: FloatArray
    turned: FloatArray
    d_matrices: FloatArray
    values: FloatArray
    slopes: FloatArray
    gradient: FloatArray


def bond_room(d_matrices: FloatArray) -> Bond:
    """Room for one bond; the matrices T^m as `rotation.d_matrices` gives them."""
    return Bond(np.zeros(3), np.ones(9), np.zeros((5, 3)), d_matrices, np.zeros(28), np.zeros(28), np.zeros(3))


@inlined("contract")
def set_direction(bond: Bond, x: float, y: float, z: float, highest: int) -> None:
    """Sigma vectors and t_m of a bond, as far as its shells need them."""
    n, sigma = bond.direction, bond.sigma
    n[0], n[1], n[2] = x, y, z
    sigma[1], sigma[2], sigma[3] = x, y, z
    if highest < 2:
        return
    for m in range(5):
        t, square = bond.turned[m], 0.0
        for i in range(3):
            t[i] = bond.d_matrices[m, i, 0] * x + bond.d_matrices[m, i, 1] * y + bond.d_matrices[m, i, 2] * z
            square += t[i] * n[i]
        sigma[4 + m] = square


@inlined("contract")
def _pi(bond: Bond, first: int, second: int, i: int, j: int) -> float:
    """pi_i . pi_j of orbital i of the first shell and j of the second."""
    n, t = bond.direction, bond.turned
    if first == 1 and second == 1:
        product: float = (1.0 if i == j else 0.0) - n[i] * n[j]
    elif first == 1:
        product = _MIXED * (t[j, i] - n[i] * bond.sigma[4 + j])
    elif second == 1:
        product = _MIXED * (t[i, j] - n[j] * bond.sigma[4 + i])
    else:
        product = t[i, 0] * t[j, 0] + t[i, 1] * t[j, 1] + t[i, 2] * t[j, 2]
        product = 4.0 / 3.0 * (product - bond.sigma[4 + i] * bond.sigma[4 + j])
    return product


@inlined("contract")
def fill_block(
    bond: Bond,
    shells: tuple[int, int],
    channels: int,
    place: tuple[int, int],
    hamiltonian: FloatArray,
    overlap: FloatArray,
) -> None:
    """Write the block of a pair, and its mirror image, into H0 and S.

    Args:
        bond: Direction and integrals.
        shells: Highest shells of the two atoms.
        channels: Integrals of each kind.
        place: First orbitals of the two atoms.
        hamiltonian: H0, shape (o, o).
        overlap: S, shape (o, o).
    """
    channel, values = 0, bond.values
    for first in range(shells[0] + 1):
        for second in range(shells[1] + 1):
            lower = min(first, second)
            for i in range(2 * first + 1):
                row = place[0] + first * first + i
                for j in range(2 * second + 1):
                    along = bond.sigma[first * first + i] * bond.sigma[second * second + j]
                    h, s = values[channel] * along, values[channels + channel] * along
                    if lower > 0:
                        across = _pi(bond, first, second, i, j)
                        h += values[channel + 1] * across
                        s += values[channels + channel + 1] * across
                        if lower == 2:
                            rest = (1.0 if i == j else 0.0) - along - across
                            h += values[channel + 2] * rest
                            s += values[channels + channel + 2] * rest
                    column = place[1] + second * second + j
                    hamiltonian[row, column] = hamiltonian[column, row] = h
                    overlap[row, column] = overlap[column, row] = s
            channel += lower + 1


@inlined("contract")
def _add_sigma(bond: Bond, shell: int, i: int, weight: float) -> None:
    """Add weight d(sigma_i)/dn to the gradient."""
    if shell == 1:
        bond.gradient[i] += weight
    elif shell == 2:
        for k in range(3):
            bond.gradient[k] += 2.0 * weight * bond.turned[i, k]


@inlined("contract")
def _add_turned(bond: Bond, m: int, vector: FloatArray, weight: float) -> None:
    """Add weight d(t_m . vector)/dn at a fixed vector."""
    for k in range(3):
        matrix = bond.d_matrices[m, k]
        bond.gradient[k] += weight * (matrix[0] * vector[0] + matrix[1] * vector[1] + matrix[2] * vector[2])


@inlined("contract")
def _add_mixed(bond: Bond, p: int, d: int, weight: float) -> None:
    """Add weight d(pi_p . pi_d)/dn for a p and a d orbital."""
    n, t, gradient = bond.direction, bond.turned, bond.gradient
    for k in range(3):
        gradient[k] += _MIXED * weight * (bond.d_matrices[d, p, k] - 2.0 * n[p] * t[d, k])
    gradient[p] -= _MIXED * weight * bond.sigma[4 + d]


@inlined("contract")
def _add_pi(bond: Bond, first: int, second: int, i: int, j: int, weight: float) -> None:
    """Add weight d(pi_i . pi_j)/dn."""
    n, t, gradient = bond.direction, bond.turned, bond.gradient
    if first == 1 and second == 1:
        gradient[i] -= weight * n[j]
        gradient[j] -= weight * n[i]
    elif first == 1:
        _add_mixed(bond, i, j, weight)
    elif second == 1:
        _add_mixed(bond, j, i, weight)
    else:
        scaled = 4.0 / 3.0 * weight
        _add_turned(bond, i, t[j], scaled)
        _add_turned(bond, j, t[i], scaled)
        for k in range(3):
            gradient[k] -= 2.0 * scaled * (t[i, k] * bond.sigma[4 + j] + t[j, k] * bond.sigma[4 + i])


@inlined("contract")
def pull_block(
    bond: Bond,
    shells: tuple[int, int],
    channels: int,
    place: tuple[int, int],
    by_hamiltonian: FloatArray,
    by_overlap: FloatArray,
) -> float:
    """dE/dr of a pair through its block, with dE/dn in the bond's gradient.

    Args:
        bond: Direction, integrals and their slopes.
        shells: Highest shells of the two atoms.
        channels: Integrals of each kind.
        place: First orbitals of the two atoms.
        by_hamiltonian: Symmetric dE/dH0, shape (o, o).
        by_overlap: Symmetric dE/dS, shape (o, o).
    """
    values, slopes = bond.values, bond.slopes
    bond.gradient[0] = bond.gradient[1] = bond.gradient[2] = 0.0
    channel, radial = 0, 0.0
    for first in range(shells[0] + 1):
        for second in range(shells[1] + 1):
            lower = min(first, second)
            c, d = channel, channels + channel
            for i in range(2 * first + 1):
                row, one = place[0] + first * first + i, bond.sigma[first * first + i]
                for j in range(2 * second + 1):
                    column, other = place[1] + second * second + j, bond.sigma[second * second + j]
                    # Each element stands twice in its symmetric matrix.
                    h, s = 2.0 * by_hamiltonian[row, column], 2.0 * by_overlap[row, column]
                    sigma = h * values[c] + s * values[d]
                    radial += (h * slopes[c] + s * slopes[d]) * one * other
                    if lower > 0:
                        across = _pi(bond, first, second, i, j)
                        pi = h * values[c + 1] + s * values[d + 1]
                        radial += (h * slopes[c + 1] + s * slopes[d + 1]) * across
                        if lower == 2:
                            delta = h * values[c + 2] + s * values[d + 2]
                            rest = (1.0 if i == j else 0.0) - one * other - across
                            radial += (h * slopes[c + 2] + s * slopes[d + 2]) * rest
                            sigma -= delta
                            pi -= delta
                        _add_pi(bond, first, second, i, j, pi)
                    _add_sigma(bond, first, i, sigma * other)
                    _add_sigma(bond, second, j, sigma * one)
            channel += lower + 1
    return radial
