"""From input charges to output charges without orbitals: the density matrix by purification, all matrix products.

The second-order trace-correcting expansion (SP2) of Niklasson, Phys. Rev. B 66, 155115 (2002), doi
10.1103/PhysRevB.66.155115: X -> X^2 or X -> 2 X - X^2, whichever brings the trace nearer to the number of occupied
orbitals, from a matrix X whose eigenvalues lie in [0, 1] in the reverse order of those of H. Every product is a batched
one in float64, and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.dftb.density import Diagonalisation, Orbitals, excess_electrons, orthonormal_hamiltonian
from deltaqmmm.dftb.problem import SCCProblem, electron_shifts

STEPS = 48
"""Steps at most: enough for a gap of a ten-thousandth of the spectrum's width."""
IDEMPOTENT = 1e-10
"""Largest deviation of the trace of D - D^2 from zero, per orbital, with which a density matrix is accepted."""


@dataclass(frozen=True)
class ChargeCycle:
    """From input to output charges as a function of tensors, every one of which has the frames in its first dimension.

    What it holds itself stays the same for a molecule. So its kernels can be recorded once and replayed
    (see `replay.Replay`).

    Attributes:
        n_occupied: Occupied orbitals.
        reference: Electrons of the neutral atoms, shape (n,).
        atom_of_orbital: Shape (o,).
    """

    n_occupied: int
    reference: Tensor
    atom_of_orbital: Tensor

    @classmethod
    def of(cls, problem: SCCProblem) -> ChargeCycle:
        """That of a molecule."""
        return cls(problem.n_electrons // 2, problem.reference, problem.atom_of_orbital)

    def __call__(
        self,
        excess: Tensor,
        potential: Tensor,
        gamma: Tensor,
        hamiltonian: Tensor,
        half_overlap: Tensor,
        factor: Tensor,
        inverse: Tensor,
        third: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One cycle of B frames; the arguments are those of `SCCProblem` and `Diagonalisation`.

        Returns:
            Output charges (B, n), Hamiltonian (B, o, o) and density matrix (B, o, o) in the orthonormal basis. Charges
            and density of a frame are NaN where it cannot be purified.
        """
        shift = electron_shifts(excess, gamma, potential, third)[:, self.atom_of_orbital]
        orthonormal = orthonormal_hamiltonian(hamiltonian, half_overlap, inverse, shift)
        density = occupied_projector(orthonormal, self.n_occupied)
        # sum_nu S_mu,nu P_nu,mu with S = L L^T and P = 2 L^-T D L^-1.
        population = 2.0 * ((factor @ density) * inverse.mT).sum(-1)
        return excess_electrons(population, self.reference, self.atom_of_orbital), orthonormal, density


@dataclass(frozen=True)
class Purification:
    """Turns the input charges of B frames into density matrices; for closed shells at zero temperature.

    Attributes:
        basis: The matrices that do not depend on charges, and the way to orbitals where they are needed.
        cycle: The `ChargeCycle` of the molecule, or what replays it.
    """

    basis: Diagonalisation
    cycle: Callable[..., tuple[Tensor, ...]]

    @classmethod
    def of(cls, problem: SCCProblem) -> Purification:
        """Prepare what does not depend on charges.

        Raises:
            LinAlgError: The overlap of a frame is not positive definite.
        """
        return cls(Diagonalisation.of(problem), ChargeCycle.of(problem))

    def select(self, frames: Tensor) -> Purification:
        """The same for some of the frames."""
        return Purification(self.basis.select(frames), self.cycle)

    def orbitals(self, excess: Tensor) -> Orbitals:
        """The orbitals at given charges (B, n)."""
        return self.basis(excess)

    def __call__(self, excess: Tensor) -> PurifiedDensity:
        """The density matrices at given charges (B, n). Charges of a frame whose density is not idempotent are NaN."""
        basis, problem = self.basis, self.basis.problem
        inputs = [excess, problem.potential, problem.gamma, problem.hamiltonian]
        inputs += [basis.half_overlap, basis.factor, basis.inverse]
        if problem.third is not None:
            inputs.append(problem.third)
        found, hamiltonian, density = self.cycle(*inputs)
        return PurifiedDensity(self, found, torch.zeros_like(excess[:, 0]), excess, hamiltonian, density)


@dataclass(frozen=True)
class PurifiedDensity:
    """The density matrices of B frames at given input charges.

    Attributes:
        origin: What they came from.
        excess: Output charges: excess electrons of the atoms, shape (B, n).
        entropy_term: Zero, shape (B,).
        charges: Input charges, shape (B, n).
        hamiltonian: In the orthonormal basis, shape (B, o, o).
        density: Projector on the occupied orbitals in the orthonormal basis, shape (B, o, o).
    """

    origin: Purification
    excess: Tensor
    entropy_term: Tensor
    charges: Tensor
    hamiltonian: Tensor
    density: Tensor

    @property
    def problem(self) -> SCCProblem:
        """The frames."""
        return self.origin.basis.problem

    def select(self, frames: Tensor) -> PurifiedDensity:
        """Those of some of the frames."""
        return PurifiedDensity(
            self.origin.select(frames),
            self.excess[frames],
            self.entropy_term[frames],
            self.charges[frames],
            self.hamiltonian[frames],
            self.density[frames],
        )

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Density matrix and energy-weighted density matrix in the basis of the atoms, each (B, o, o)."""
        inverse, density = self.origin.basis.inverse, self.density
        weighted = density @ self.hamiltonian @ density
        return 2.0 * inverse.mT @ density @ inverse, 2.0 * inverse.mT @ weighted @ inverse

    def response(self) -> Tensor:
        """See `Orbitals.response`: the orbitals are made for it."""
        return self.origin.basis(self.charges).response()


def occupied_projector(hamiltonian: Tensor, n_occupied: int) -> Tensor:
    """The projector on the lowest eigenvectors of symmetric matrices.

    Args:
        hamiltonian: Shape (B, o, o).
        n_occupied: How many eigenvectors.

    Returns:
        Shape (B, o, o); NaN where there is no gap above them that the steps can resolve.
    """
    size = hamiltonian.shape[-1]
    diagonal = hamiltonian.diagonal(dim1=1, dim2=2)
    radius = hamiltonian.abs().sum(-1) - diagonal.abs()
    lowest, highest = (diagonal - radius).amin(-1), (diagonal + radius).amax(-1)
    # The bounds of Gershgorin; a width of zero (one orbital) would leave nothing to divide by.
    width = (highest - lowest).clamp(min=1e-6)
    identity = torch.eye(size, dtype=hamiltonian.dtype, device=hamiltonian.device)
    x = ((highest + 1e-6)[:, None, None] * identity - hamiltonian) / (width + 2e-6)[:, None, None]
    trace = x.diagonal(dim1=1, dim2=2).sum(-1)
    for _ in range(STEPS):
        square = x @ x
        squared = square.diagonal(dim1=1, dim2=2).sum(-1)
        down = (squared - n_occupied).abs() < (2.0 * trace - squared - n_occupied).abs()
        # Once idempotent to rounding, further steps would only gather rounding errors.
        going = (trace - squared).abs() > 1e-13 * size
        # Numbers that no tensor has to be made for: each is a kernel more.
        step = (1.0 - 2.0 * down.to(x.dtype)) * going
        x = x + step[:, None, None] * (x - square)
        trace = trace + step * (trace - squared)
    # McWeeny's step: both 0 and 1 attract, to the square of what is left.
    square = x @ x
    x = 3.0 * square - 2.0 * square @ x
    trace = x.diagonal(dim1=1, dim2=2).sum(-1)
    defect = (trace - (x * x).sum((1, 2))).abs() + (trace - n_occupied).abs()
    return torch.where((defect <= IDEMPOTENT * size)[:, None, None], x, torch.full_like(x, torch.nan))
