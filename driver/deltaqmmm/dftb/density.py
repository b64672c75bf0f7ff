"""From input charges to output charges by diagonalisation, for a batch of frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.dftb.occupation import fill, slopes
from deltaqmmm.dftb.problem import SCCProblem

SMALLEST_GAP = 1e-3
"""Energy differences count as at least this in the response, hartree: it only steers, and must not run away."""


def orthonormal_hamiltonian(hamiltonian: Tensor, half_overlap: Tensor, inverse: Tensor, shift: Tensor) -> Tensor:
    """H in the orthonormal basis, shape (B, o, o), of potentials that an electron feels in its orbitals (B, o)."""
    pairs = shift.unsqueeze(-1) + shift.unsqueeze(-2)
    return inverse @ torch.addcmul(hamiltonian, half_overlap, pairs) @ inverse.mT


def excess_electrons(population: Tensor, reference: Tensor, atom_of_orbital: Tensor) -> Tensor:
    """Excess electrons of the atoms (B, n) from the Mulliken populations of the orbitals (B, o)."""
    excess = (-reference).repeat(len(population), 1)
    return excess.index_add_(1, atom_of_orbital, population)


@dataclass(frozen=True)
class Diagonalisation:
    """Turns the input charges of B frames into orbitals, in the orthonormal basis of the Cholesky factor of S.

    Attributes:
        problem: The frames.
        half_overlap: S / 2, shape (B, o, o).
        factor: L with S = L L^T, shape (B, o, o).
        inverse: Its inverse, shape (B, o, o).
    """

    problem: SCCProblem
    half_overlap: Tensor
    factor: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, problem: SCCProblem) -> Diagonalisation:
        """Prepare what does not depend on charges.

        Raises:
            LinAlgError: The overlap of a frame is not positive definite.
        """
        factor = torch.linalg.cholesky(problem.overlap)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        return cls(problem, 0.5 * problem.overlap, factor, inverse)

    def select(self, frames: Tensor) -> Diagonalisation:
        """The same for some of the frames."""
        return Diagonalisation(
            self.problem.select(frames), self.half_overlap[frames], self.factor[frames], self.inverse[frames]
        )

    def hamiltonian(self, excess: Tensor) -> Tensor:
        """H of given charges in the orthonormal basis, shape (B, o, o)."""
        shift = self.problem.shifts(excess)[:, self.problem.atom_of_orbital]
        return orthonormal_hamiltonian(self.problem.hamiltonian, self.half_overlap, self.inverse, shift)

    def orbitals(self, excess: Tensor) -> Orbitals:
        """The same as a call."""
        return self(excess)

    def __call__(self, excess: Tensor) -> Orbitals:
        """The orbitals at given charges (B, n).

        Raises:
            LinAlgError: A diagonalisation fails.
        """
        problem = self.problem
        eigenvalues, vectors = torch.linalg.eigh(self.hamiltonian(excess))
        occupations, entropy_term = fill(problem.n_electrons, eigenvalues, problem.temperature)
        n = problem.n_filled
        filled = vectors[..., :n]
        # Mulliken population of orbital mu: sum_i f_i C_mu,i (S C)_mu,i, with S C = L C' for S = L L^T.
        products = (self.inverse.mT @ filled) * (self.factor @ filled)
        population = (products @ occupations[:, :n, None]).squeeze(-1)
        excess = excess_electrons(population, problem.reference, problem.atom_of_orbital)
        return Orbitals(self, excess, entropy_term, vectors, eigenvalues, occupations)


@dataclass(frozen=True)
class Orbitals:
    """The orbitals of B frames at given input charges.

    Attributes:
        origin: What they came from.
        excess: Output charges: excess electrons of the atoms, shape (B, n).
        entropy_term: -T S, shape (B,), hartree.
        vectors: Orbitals in the orthonormal basis, shape (B, o, o), columns.
        eigenvalues: Shape (B, o), hartree, ascending.
        occupations: Shape (B, o), from 2 to 0.
    """

    origin: Diagonalisation
    excess: Tensor
    entropy_term: Tensor
    vectors: Tensor
    eigenvalues: Tensor
    occupations: Tensor

    @property
    def problem(self) -> SCCProblem:
        """The frames."""
        return self.origin.problem

    def select(self, frames: Tensor) -> Orbitals:
        """Those of some of the frames."""
        return Orbitals(
            self.origin.select(frames),
            self.excess[frames],
            self.entropy_term[frames],
            self.vectors[frames],
            self.eigenvalues[frames],
            self.occupations[frames],
        )

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Density matrix and energy-weighted density matrix in the basis of the atoms, each (B, o, o)."""
        n = self.problem.n_filled
        coefficients = self.origin.inverse.mT @ self.vectors[..., :n]
        weighted = coefficients * self.occupations[:, None, :n]
        return weighted @ coefficients.mT, (weighted * self.eigenvalues[:, None, :n]) @ coefficients.mT

    def response(self) -> Tensor:
        """How the output charges answer to potentials at the atoms, X_ab = d(excess_a)/d(shift_b), shape (B, n, n).

        First-order perturbation theory with the Mulliken transition charges Q^ij of Niehaus et al., Phys. Rev. B 63,
        085108 (2001), doi 10.1103/PhysRevB.63.085108, eq. 14:

            X_ab = sum_ij (f_i - f_j) / (e_i - e_j) Q^ij_a Q^ij_b

        over all pairs of orbitals. With fractional occupations the terms i = j are their derivatives, at a Fermi level
        that keeps the number of electrons.
        """
        problem = self.problem
        if problem.temperature == 0.0:
            n = problem.n_electrons // 2
            charges = self._transition_charges(self.vectors[..., :n], self.vectors[..., n:])
            gap = self.eigenvalues[:, None, n:] - self.eigenvalues[:, :n, None]
            scaled = (charges * gap.clamp(min=SMALLEST_GAP).rsqrt().unsqueeze(1)).flatten(2)
            return -4.0 * scaled @ scaled.mT
        charges = self._transition_charges(self.vectors, self.vectors)
        weights = slopes(self.eigenvalues, self.occupations, problem.temperature)
        answer = (charges * weights.unsqueeze(1)).flatten(2) @ charges.flatten(2).mT
        own = weights.diagonal(dim1=1, dim2=2)
        level = (charges.diagonal(dim1=2, dim2=3) * own.unsqueeze(1)).sum(-1)
        return answer - level.unsqueeze(-1) * level.unsqueeze(-2) / own.sum(-1).clamp(max=-1e-150)[:, None, None]

    def _transition_charges(self, left: Tensor, right: Tensor) -> Tensor:
        """Q^ij_a = 1/2 sum_mu in a (C_mu,i (S C)_mu,j + (S C)_mu,i C_mu,j), shape (B, n, i, j)."""
        plain_left, overlapped_left = self._by_atom(left)
        plain_right, overlapped_right = self._by_atom(right)
        first = torch.cat([plain_left, overlapped_left], dim=2)
        second = torch.cat([overlapped_right, plain_right], dim=2)
        return 0.5 * (first.mT @ second)

    def _by_atom(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """C and S C of some orbitals with their rows sorted by atom, each (B, n, m, k), zeros in empty places."""
        coefficients = torch.stack([self.origin.inverse.mT @ vectors, self.origin.factor @ vectors])
        padded = torch.nn.functional.pad(coefficients, (0, 0, 0, 1))
        plain, overlapped = padded[:, :, self.problem.orbitals_of_atom].unbind()
        return plain, overlapped
