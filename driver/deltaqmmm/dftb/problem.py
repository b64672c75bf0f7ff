"""The equations that the charges of a batch of frames obey."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def electron_shifts(excess: Tensor, gamma: Tensor, potential: Tensor, third: Tensor | None) -> Tensor:
    """dE/d(excess) at fixed density matrix, shape (B, n): the potential that an electron feels at each atom.

    Gaus, Cui, Elstner, doi 10.1021/ct100684s, eq. 11 and 25. The arguments are those of `SCCProblem`.
    """
    shift = (gamma @ excess.unsqueeze(-1)).squeeze(-1) - potential
    if third is not None:
        first = (third @ excess.unsqueeze(-1)).squeeze(-1)
        second = (third.transpose(1, 2) @ (excess * excess).unsqueeze(-1)).squeeze(-1)
        shift = shift + (2.0 * excess * first + second) / 3.0
    return shift


@dataclass(frozen=True)
class SCCProblem:
    """All that stays fixed while the charges of B frames become self-consistent, in atomic units.

    Populations are excess electrons over the neutral atom (minus the gross charge).

    Attributes:
        hamiltonian: H0, shape (B, o, o).
        overlap: S, shape (B, o, o).
        gamma: Shape (B, n, n), with the Hubbard values on the diagonal.
        third: Gamma_ab = dgamma_ab/dU_a dU_a/dq_a, shape (B, n, n), with U'_a/2 on the diagonal; None for second order.
        potential: External potential felt by a positive charge at the atoms, shape (B, n).
        atom_of_orbital: Shape (o,).
        orbitals_of_atom: Shape (n, m), with o in the places that atoms of fewer than m orbitals leave empty.
        reference: Electrons of the neutral atoms, shape (n,).
        n_electrons: Number of electrons.
        temperature: k_B T of the filling.
    """

    hamiltonian: Tensor
    overlap: Tensor
    gamma: Tensor
    third: Tensor | None
    potential: Tensor
    atom_of_orbital: Tensor
    orbitals_of_atom: Tensor
    reference: Tensor
    n_electrons: int
    temperature: float

    def select(self, frames: Tensor, temperature: float | None = None) -> SCCProblem:
        """The problem for some of the frames, optionally at another electronic temperature."""
        return SCCProblem(
            hamiltonian=self.hamiltonian[frames],
            overlap=self.overlap[frames],
            gamma=self.gamma[frames],
            third=None if self.third is None else self.third[frames],
            potential=self.potential[frames],
            atom_of_orbital=self.atom_of_orbital,
            orbitals_of_atom=self.orbitals_of_atom,
            reference=self.reference,
            n_electrons=self.n_electrons,
            temperature=self.temperature if temperature is None else temperature,
        )

    @property
    def n_filled(self) -> int:
        """How many of the lowest orbitals can hold electrons."""
        return self.n_electrons // 2 if self.temperature == 0.0 else self.hamiltonian.shape[-1]

    def shifts(self, excess: Tensor) -> Tensor:
        """See `electron_shifts`."""
        return electron_shifts(excess, self.gamma, self.potential, self.third)

    def energies(self, excess: Tensor) -> dict[str, Tensor]:
        """Charge-dependent energies, each (B,): second order, third order, external potential."""
        second = 0.5 * (excess * (self.gamma @ excess.unsqueeze(-1)).squeeze(-1)).sum(-1)
        terms = {"scc": second, "external": -(excess * self.potential).sum(-1)}
        if self.third is not None:
            terms["third_order"] = ((excess**2) * (self.third @ excess.unsqueeze(-1)).squeeze(-1)).sum(-1) / 3.0
        return terms

    def kernel(self, excess: Tensor) -> Tensor:
        """d(shift_a)/d(excess_b), shape (B, n, n)."""
        if self.third is None:
            return self.gamma
        first = (self.third @ excess.unsqueeze(-1)).squeeze(-1)
        products = excess.unsqueeze(-1) * self.third
        return self.gamma + 2.0 / 3.0 * (torch.diag_embed(first) + products + products.mT)
