"""From a Hamiltonian to the occupied orbitals of a frame: by diagonalisation, or by turning those at hand.

Once a frame has been diagonalised, its next Hamiltonians differ by little. In the basis of the orbitals C = (C_o, C_v)
at hand the matrix F = C^T H C is nearly diagonal, and the occupied space of H is that of C_o + C_v X where

    F_vo + F_vv X - X F_oo - X F_ov X = 0

(the Riccati equation of the block diagonalisation). It is solved by iteration with the differences of the diagonal, and
takes matrix products only. Where it does not converge, or X is not small, the frame is diagonalised again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.dftb.compiled.copying import copy_matrix, copy_row
from deltaqmmm.dftb.compiled.tables import BasisTable
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

TURNS = 12
"""Iterations of X at most..."""
TURNED = 1e-12
"""... until none of its elements changes by more than this."""
SMALL = 1e-4
"""Largest row sum of X^T X with which the series below has all digits."""


class Orbitals(NamedTuple):
    """Room for the orbitals of one frame: o orbitals, k of them occupied, v = o - k empty.

    Attributes:
        factor: L with S = L L^T, shape (o, o).
        inverse: Its inverse, shape (o, o).
        inverse_turned: The transpose of that, shape (o, o).
        hamiltonian: H of the present charges, shape (o, o).
        work: Shape (o, o).
        rotated: Shape (o, o).
        eigenvalues: Shape (o,), hartree.
        coefficients_turned: C^T, shape (o, o).
        coefficients: C, shape (o, o).
        plain_occupied: C_o, shape (o, k).
        plain_empty: C_v, shape (o, v).
        overlapped_occupied: S C_o, shape (o, k).
        overlapped_empty: S C_v, shape (o, v).
        mixing: X, shape (v, k).
        occupied: The occupied orbitals of H, orthonormal with S, shape (o, k).
        overlapped: S times these, shape (o, k).
    """

    factor: FloatArray
    inverse: FloatArray
    inverse_turned: FloatArray
    hamiltonian: FloatArray
    work: FloatArray
    rotated: FloatArray
    eigenvalues: FloatArray
    coefficients_turned: FloatArray
    coefficients: FloatArray
    plain_occupied: FloatArray
    plain_empty: FloatArray
    overlapped_occupied: FloatArray
    overlapped_empty: FloatArray
    mixing: FloatArray
    occupied: FloatArray
    overlapped: FloatArray


def orbital_room(n_orbitals: int, n_occupied: int) -> Orbitals:
    """Room for a frame."""
    o, k, v = n_orbitals, n_occupied, n_orbitals - n_occupied
    square, tall = (o, o), (o, k)
    return Orbitals(
        factor=np.zeros(square),
        inverse=np.zeros(square),
        inverse_turned=np.zeros(square),
        hamiltonian=np.zeros(square),
        work=np.zeros(square),
        rotated=np.zeros(square),
        eigenvalues=np.zeros(o),
        coefficients_turned=np.zeros(square),
        coefficients=np.zeros(square),
        plain_occupied=np.zeros(tall),
        plain_empty=np.zeros((o, v)),
        overlapped_occupied=np.zeros(tall),
        overlapped_empty=np.zeros((o, v)),
        mixing=np.zeros((v, k)),
        occupied=np.zeros(tall),
        overlapped=np.zeros(tall),
    )


@inlined("contract")
def factorise(overlap: FloatArray, orbitals: Orbitals) -> None:
    """L, its inverse and the transpose of that."""
    size, inverse = len(overlap), orbitals.inverse
    copy_matrix(np.linalg.cholesky(overlap), orbitals.factor)
    inverse[:] = 0.0
    for row in range(size):
        for column in range(row):
            weight = orbitals.factor[row, column]
            if weight != 0.0:
                for k in range(column + 1):
                    inverse[row, k] -= weight * inverse[column, k]
        scale = 1.0 / orbitals.factor[row, row]
        for k in range(row):
            inverse[row, k] *= scale
        inverse[row, row] = scale
    for row in range(size):
        for column in range(size):
            orbitals.inverse_turned[row, column] = inverse[column, row]


@inlined("contract")
def fill_hamiltonian(basis: BasisTable, h0: FloatArray, overlap: FloatArray, shifts: FloatArray, h: FloatArray) -> None:
    """H0 + S (shift_a + shift_b) / 2."""
    for a in range(len(shifts)):
        for b in range(len(shifts)):
            half = 0.5 * (shifts[a] + shifts[b])
            for row in range(basis.first[a], basis.first[a + 1]):
                for column in range(basis.first[b], basis.first[b + 1]):
                    h[row, column] = h0[row, column] + half * overlap[row, column]


@inlined()
def diagonalise(orbitals: Orbitals) -> None:
    """All orbitals of H."""
    k = orbitals.occupied.shape[1]
    np.dot(orbitals.inverse, orbitals.hamiltonian, orbitals.work)
    np.dot(orbitals.work, orbitals.inverse_turned, orbitals.rotated)
    eigenvalues, vectors = np.linalg.eigh(orbitals.rotated)
    columns = np.ascontiguousarray(vectors)
    copy_row(eigenvalues, orbitals.eigenvalues)
    np.dot(orbitals.inverse_turned, columns, orbitals.coefficients)
    np.dot(orbitals.factor, columns, orbitals.work)
    for row in range(len(columns)):
        for column in range(len(columns)):
            value, overlapped = orbitals.coefficients[row, column], orbitals.work[row, column]
            orbitals.coefficients_turned[column, row] = value
            if column < k:
                orbitals.plain_occupied[row, column] = orbitals.occupied[row, column] = value
                orbitals.overlapped_occupied[row, column] = orbitals.overlapped[row, column] = overlapped
            else:
                orbitals.plain_empty[row, column - k] = value
                orbitals.overlapped_empty[row, column - k] = overlapped
    orbitals.mixing[:] = 0.0


@inlined("contract")
def _mix(orbitals: Orbitals) -> bool:
    """Iterate X for the present H; False where that fails."""
    x = orbitals.mixing
    n_empty, n_occupied = x.shape
    np.dot(orbitals.hamiltonian, orbitals.coefficients, orbitals.work)
    np.dot(orbitals.coefficients_turned, orbitals.work, orbitals.rotated)
    f = orbitals.rotated
    occupied = np.ascontiguousarray(f[:n_occupied, :n_occupied])
    mixed = np.ascontiguousarray(f[:n_occupied, n_occupied:])
    empty = np.ascontiguousarray(f[n_occupied:, n_occupied:])
    previous = np.inf
    for _ in range(TURNS):
        left = np.dot(empty, x)
        middle = np.dot(mixed, x)
        middle += occupied
        right = np.dot(x, middle)
        largest = 0.0
        for a in range(n_empty):
            for i in range(n_occupied):
                residual = mixed[i, a] + left[a, i] - right[a, i]
                step = residual / (empty[a, a] - occupied[i, i])
                x[a, i] -= step
                largest = max(largest, abs(step))
        if largest <= TURNED:
            return True
        if not largest < previous:
            return False
        previous = largest
    return False


@inlined("contract")
def _orthonormalise(orbitals: Orbitals) -> bool:
    """C_o + C_v X with (1 + X^T X)^-1/2; False where X is not small."""
    x = orbitals.mixing
    k = x.shape[1]
    square = np.dot(np.ascontiguousarray(x.T), x)
    largest = 0.0
    for i in range(k):
        total = 0.0
        for j in range(k):
            total += abs(square[i, j])
        largest = max(largest, total)
    if not largest < SMALL:
        return False
    # 1 - g/2 + 3/8 g^2 - 5/16 g^3, from the inside.
    series = -5.0 / 16.0 * square
    for i in range(k):
        series[i, i] += 0.375
    series = np.dot(square, series)
    for i in range(k):
        series[i, i] -= 0.5
    series = np.dot(square, series)
    for i in range(k):
        series[i, i] += 1.0
    turned = np.dot(orbitals.plain_empty, x)
    turned += orbitals.plain_occupied
    np.dot(turned, series, orbitals.occupied)
    turned = np.dot(orbitals.overlapped_empty, x)
    turned += orbitals.overlapped_occupied
    np.dot(turned, series, orbitals.overlapped)
    return True


@inlined()
def occupy(orbitals: Orbitals, known: bool) -> None:
    """The occupied orbitals of H, from those at hand if there are any."""
    if known and orbitals.mixing.size > 0 and _mix(orbitals) and _orthonormalise(orbitals):
        return
    diagonalise(orbitals)


@inlined("contract")
def fill_excess(basis: BasisTable, orbitals: Orbitals, excess: FloatArray) -> None:
    """Mulliken populations of the atoms less the electrons of neutral atoms."""
    for atom in range(len(excess)):
        population = 0.0
        for row in range(basis.first[atom], basis.first[atom + 1]):
            for column in range(orbitals.occupied.shape[1]):
                population += orbitals.occupied[row, column] * orbitals.overlapped[row, column]
        excess[atom] = 2.0 * population - basis.reference[atom]


@inlined()
def fill_densities(orbitals: Orbitals, density: FloatArray, weighted: FloatArray) -> None:
    """The density matrix and the energy-weighted one, each (o, o)."""
    turned = 2.0 * np.ascontiguousarray(orbitals.occupied.T)
    np.dot(orbitals.occupied, turned, density)
    half = np.dot(orbitals.hamiltonian, orbitals.occupied)
    inner = 0.5 * np.dot(turned, half)
    np.dot(np.dot(orbitals.occupied, inner), turned, weighted)
