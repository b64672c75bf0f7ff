"""From the positions of a frame to its matrices, and from weights of these back to forces."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.dftb.compiled.bond_loops import Bond, bond_room, fill_block, pull_block, set_direction
from deltaqmmm.dftb.compiled.radial_loops import gammas, integrals, repulsion
from deltaqmmm.dftb.compiled.tables import BasisTable, GammaTable, PairTable
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray


class Matrices(NamedTuple):
    """Room for the functions of the positions of one frame.

    Attributes:
        hamiltonian: H0, shape (o, o).
        overlap: S, shape (o, o).
        gamma: Shape (n, n).
        third: Gamma, first index the atom whose Hubbard value varies, shape (n, n).
        bond: Room for one bond.
        gamma_values: Shape (3,).
        gamma_slopes: Shape (3,).
    """

    hamiltonian: FloatArray
    overlap: FloatArray
    gamma: FloatArray
    third: FloatArray
    bond: Bond
    gamma_values: FloatArray
    gamma_slopes: FloatArray


def matrix_room(n_atoms: int, n_orbitals: int, d_matrices: FloatArray) -> Matrices:
    """Room for a frame of n atoms and o orbitals."""
    return Matrices(
        np.zeros((n_orbitals, n_orbitals)),
        np.zeros((n_orbitals, n_orbitals)),
        np.zeros((n_atoms, n_atoms)),
        np.zeros((n_atoms, n_atoms)),
        bond_room(d_matrices),
        np.zeros(3),
        np.zeros(3),
    )


@inlined("contract")
def _bond(pairs: PairTable, pair: int, positions: FloatArray, bond: Bond) -> float:
    """Set the direction of a pair; its distance."""
    a, b = positions[pairs.atoms[pair, 0]], positions[pairs.atoms[pair, 1]]
    x, y, z = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    distance = math.sqrt(x * x + y * y + z * z)
    inverse = 1.0 / distance
    highest = max(pairs.shells[pair, 0], pairs.shells[pair, 1])
    set_direction(bond, x * inverse, y * inverse, z * inverse, highest)
    return distance


@inlined("contract")
def fill_matrices(
    pairs: PairTable, gamma: GammaTable, basis: BasisTable, positions: FloatArray, matrices: Matrices
) -> float:
    """Fill in H0, S, gamma and Gamma of a frame; its repulsive energy."""
    bond, values = matrices.bond, matrices.gamma_values
    hamiltonian, overlap = matrices.hamiltonian, matrices.overlap
    hamiltonian[:] = 0.0
    overlap[:] = 0.0
    for orbital in range(len(hamiltonian)):
        hamiltonian[orbital, orbital], overlap[orbital, orbital] = basis.onsite[orbital], 1.0
    for atom in range(len(gamma.hubbard)):
        matrices.gamma[atom, atom] = gamma.hubbard[atom]
        matrices.third[atom, atom] = 0.5 * gamma.derivatives[atom]
    energy = 0.0
    for pair in range(len(pairs.atoms)):
        distance = _bond(pairs, pair, positions, bond)
        a, b = pairs.atoms[pair, 0], pairs.atoms[pair, 1]
        if distance < pairs.cutoffs[pair]:
            integrals(pairs, pair, distance, bond.values, bond.slopes)
            shells = pairs.shells[pair, 0], pairs.shells[pair, 1]
            place = basis.first[a], basis.first[b]
            fill_block(bond, shells, pairs.n_channels[pair], place, hamiltonian, overlap)
        gammas(gamma, pair, distance, values, matrices.gamma_slopes)
        matrices.gamma[a, b] = matrices.gamma[b, a] = values[0]
        matrices.third[a, b] = values[1] * gamma.derivatives[a]
        matrices.third[b, a] = values[2] * gamma.derivatives[b]
        energy += repulsion(pairs, pair, distance)[0]
    return energy


@inlined("contract")
def fill_gradient(
    pairs: PairTable,
    gamma: GammaTable,
    basis: BasisTable,
    positions: FloatArray,
    weights: tuple[FloatArray, FloatArray, FloatArray],
    matrices: Matrices,
    gradient: FloatArray,
) -> None:
    """The gradient of the energy by the positions of a frame.

    Args:
        pairs: The pairs.
        gamma: Their gamma.
        basis: Where the orbitals are.
        positions: Shape (n, 3), bohr.
        weights: Symmetric dE/dH0 and dE/dS, each (o, o), and the excess electrons (n,).
        matrices: Room.
        gradient: Filled in, shape (n, 3), hartree/bohr.
    """
    bond, slopes = matrices.bond, matrices.gamma_slopes
    by_hamiltonian, by_overlap, excess = weights
    gradient[:] = 0.0
    for pair in range(len(pairs.atoms)):
        distance = _bond(pairs, pair, positions, bond)
        a, b = pairs.atoms[pair, 0], pairs.atoms[pair, 1]
        radial = repulsion(pairs, pair, distance)[1]
        gammas(gamma, pair, distance, matrices.gamma_values, slopes)
        product = excess[a] * excess[b]
        radial += product * slopes[0]
        radial += (
            product
            * (excess[a] * gamma.derivatives[a] * slopes[1] + excess[b] * gamma.derivatives[b] * slopes[2])
            / 3.0
        )
        across, along = 0.0, 0.0
        if distance < pairs.cutoffs[pair]:
            integrals(pairs, pair, distance, bond.values, bond.slopes)
            shells = pairs.shells[pair, 0], pairs.shells[pair, 1]
            place = basis.first[a], basis.first[b]
            radial += pull_block(bond, shells, pairs.n_channels[pair], place, by_hamiltonian, by_overlap)
            across = 1.0 / distance
            for axis in range(3):
                along += bond.gradient[axis] * bond.direction[axis]
        for axis in range(3):
            n = bond.direction[axis]
            # Only what turns the bond comes from dE/dn: n stays of unit length.
            force = radial * n + across * (bond.gradient[axis] - along * n)
            gradient[b, axis] += force
            gradient[a, axis] -= force
