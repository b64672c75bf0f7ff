"""The inverse dielectric matrix of a frame (see `density.Orbitals.response` and `scc.inverse_dielectric_matrix`)."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.dftb.compiled.copying import copy_matrix
from deltaqmmm.dftb.compiled.density_loops import Orbitals
from deltaqmmm.dftb.compiled.tables import BasisTable
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

SMALLEST_GAP = 1e-3
"""Energy differences count as at least this, hartree."""


@inlined("contract")
def _transition_charges(basis: BasisTable, orbitals: Orbitals) -> FloatArray:
    """Q^ai of the atoms over the root of the energy differences, shape (n, v k)."""
    n_empty, n_occupied = orbitals.mixing.shape
    n_atoms = len(basis.first) - 1
    charges = np.zeros((n_atoms, n_empty * n_occupied))
    for atom in range(n_atoms):
        row_charges = charges[atom]
        for row in range(basis.first[atom], basis.first[atom + 1]):
            plain, overlapped = orbitals.plain_occupied[row], orbitals.overlapped_occupied[row]
            for a in range(n_empty):
                one, other = 0.5 * orbitals.plain_empty[row, a], 0.5 * orbitals.overlapped_empty[row, a]
                start = a * n_occupied
                for i in range(n_occupied):
                    row_charges[start + i] += one * overlapped[i] + other * plain[i]
    place = 0
    for a in range(n_empty):
        for i in range(n_occupied):
            gap = orbitals.eigenvalues[n_occupied + a] - orbitals.eigenvalues[i]
            scale = 2.0 / math.sqrt(max(gap, SMALLEST_GAP))
            for atom in range(n_atoms):
                charges[atom, place] *= scale
            place += 1
    return charges


@inlined("contract")
def fill_screening(
    basis: BasisTable,
    orbitals: Orbitals,
    gamma: FloatArray,
    third: FloatArray,
    excess: FloatArray,
    screening: FloatArray,
) -> None:
    """(1 - X K)^-1 at the orbitals at hand.

    Args:
        basis: Where the orbitals are.
        orbitals: Diagonalised at charges near the present ones.
        gamma: Shape (n, n).
        third: Shape (n, n).
        excess: Present charges, shape (n,).
        screening: Filled in, shape (n, n).
    """
    charges = _transition_charges(basis, orbitals)
    response = np.dot(charges, charges.T)
    kernel = np.empty_like(gamma)
    for a in range(len(excess)):
        total = 0.0
        for b in range(len(excess)):
            total += third[a, b] * excess[b]
            kernel[a, b] = gamma[a, b] + 2.0 / 3.0 * (excess[a] * third[a, b] + excess[b] * third[b, a])
        kernel[a, a] += 2.0 / 3.0 * total
    dielectric = np.dot(response, kernel)
    for a in range(len(excess)):
        dielectric[a, a] += 1.0
    copy_matrix(np.linalg.inv(dielectric), screening)
