"""The self-consistent charges of one frame (see `scc` and `mixer`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.dftb.compiled.density_loops import Orbitals, fill_excess, fill_hamiltonian, occupy
from deltaqmmm.dftb.compiled.geometry_loops import Matrices
from deltaqmmm.dftb.compiled.response_loops import fill_screening
from deltaqmmm.dftb.compiled.tables import BasisTable
from deltaqmmm.dftb.mixer import REGULARISATION
from deltaqmmm.dftb.scc import FAR, REFRESHED_ABOVE, SHORTENED
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

HISTORY = 8


class Charges(NamedTuple):
    """Room for the charges of one frame.

    Attributes:
        input: Shape (n,).
        output: Shape (n,).
        shifts: Shape (n,), hartree.
        inputs: Those of earlier cycles, shape (HISTORY, n).
        residuals: Newton steps of earlier cycles, shape (HISTORY, n).
    """

    input: FloatArray
    output: FloatArray
    shifts: FloatArray
    inputs: FloatArray
    residuals: FloatArray


def charge_room(n_atoms: int) -> Charges:
    """Room for a frame."""
    return Charges(
        np.zeros(n_atoms),
        np.zeros(n_atoms),
        np.zeros(n_atoms),
        np.zeros((HISTORY, n_atoms)),
        np.zeros((HISTORY, n_atoms)),
    )


@inlined("contract")
def fill_shifts(matrices: Matrices, potential: FloatArray, excess: FloatArray, shifts: FloatArray) -> None:
    """The potential that an electron feels at each atom."""
    n = len(excess)
    for a in range(n):
        shifts[a] = -potential[a]
    for a in range(n):
        first, second = 0.0, 0.0
        square = excess[a] * excess[a] / 3.0
        for b in range(n):
            second += matrices.gamma[a, b] * excess[b]
            first += matrices.third[a, b] * excess[b]
            shifts[b] += square * matrices.third[a, b]
        shifts[a] += second + 2.0 / 3.0 * excess[a] * first


@inlined("contract")
def _solve(matrix: FloatArray, values: FloatArray) -> None:
    """Solve for the values (k,) in place, by elimination in a positive definite matrix (k, k), which is overwritten.

    LAPACK's solver would take seconds to compile into the loops.
    """
    for k in range(len(values)):
        for row in range(k + 1, len(values)):
            weight = matrix[row, k] / matrix[k, k]
            for column in range(k, len(values)):
                matrix[row, column] -= weight * matrix[k, column]
            values[row] -= weight * values[k]
    for k in range(len(values) - 1, -1, -1):
        for column in range(k + 1, len(values)):
            values[k] -= matrix[k, column] * values[column]
        values[k] /= matrix[k, k]


@inlined("contract")
def _mix(charges: Charges, step: FloatArray, count: int, fraction: float) -> None:
    """The next input, by Anderson's method from `count` earlier cycles."""
    n, kept = len(step), min(count, HISTORY - 1)
    mixed, residual = charges.input.copy(), step.copy()
    if kept > 0:
        rows, changes = np.empty((kept, n)), np.empty((kept, n))
        for k in range(kept):
            place = (count - 1 - k) % HISTORY
            length = 0.0
            for a in range(n):
                rows[k, a] = step[a] - charges.residuals[place, a]
                changes[k, a] = charges.input[a] - charges.inputs[place, a]
                length += rows[k, a] ** 2
            scale = 1.0 / max(math.sqrt(length), 1e-150)
            for a in range(n):
                rows[k, a] *= scale
                changes[k, a] *= scale
        normal = np.dot(rows, rows.T)
        for k in range(kept):
            normal[k, k] += REGULARISATION
        weights = np.dot(rows, step)
        _solve(normal, weights)
        for k in range(kept):
            for a in range(n):
                mixed[a] -= weights[k] * changes[k, a]
                residual[a] -= weights[k] * rows[k, a]
    place = count % HISTORY
    for a in range(n):
        charges.inputs[place, a], charges.residuals[place, a] = charges.input[a], step[a]
        charges.input[a] = mixed[a] + fraction * residual[a]


@inlined()
def converge(
    basis: BasisTable,
    matrices: Matrices,
    potential: FloatArray,
    limits: tuple[float, int],
    known: bool,
    screening: FloatArray,
    orbitals: Orbitals,
    charges: Charges,
) -> tuple[int, float]:
    """Iterate from the input charges until no charge changes by more than the tolerance.

    Args:
        basis: Orbitals and electrons.
        matrices: Of the frame.
        potential: Shape (n,).
        limits: Tolerance, e, and cycles at most.
        known: Whether `screening` holds an inverse dielectric matrix to begin with.
        screening: What steered the cycle, or a fresh one where that took long, shape (n, n).
        orbitals: Left at the last cycle.
        charges: Input in, output out.

    Returns:
        Cycles, and the largest change in the last of them.
    """
    residual, n = 0.0, len(potential)
    step = np.empty(n)
    for cycle in range(1, limits[1] + 1):
        fill_shifts(matrices, potential, charges.input, charges.shifts)
        fill_hamiltonian(basis, matrices.hamiltonian, matrices.overlap, charges.shifts, orbitals.hamiltonian)
        occupy(orbitals, cycle > 1)
        fill_excess(basis, orbitals, charges.output)
        residual, finite = 0.0, True
        for a in range(n):
            step[a] = charges.output[a] - charges.input[a]
            # The larger of a number and what is none is the number.
            residual, finite = max(residual, abs(step[a])), finite and math.isfinite(step[a])
        if not finite:
            return cycle, np.inf
        if not known or (residual <= limits[0] and cycle > REFRESHED_ABOVE):
            fill_screening(basis, orbitals, matrices.gamma, matrices.third, charges.output, screening)
            known = True
        if residual <= limits[0]:
            return cycle, residual
        _mix(charges, np.dot(screening, step), cycle - 1, SHORTENED if residual > FAR else 1.0)
    return limits[1], max(residual, 2.0 * limits[0])
