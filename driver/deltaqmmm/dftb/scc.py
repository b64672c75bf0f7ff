"""The self-consistent charge cycle for a batch of frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.dftb.occupation import fill


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
            reference=self.reference,
            n_electrons=self.n_electrons,
            temperature=self.temperature if temperature is None else temperature,
        )

    def shifts(self, excess: Tensor) -> Tensor:
        """dE/d(excess) at fixed density matrix, shape (B, n): the potential that an electron feels at each atom.

        Gaus, Cui, Elstner, doi 10.1021/ct100684s, eq. 11 and 25.
        """
        shift = (self.gamma @ excess.unsqueeze(-1)).squeeze(-1) - self.potential
        if self.third is not None:
            first = (self.third @ excess.unsqueeze(-1)).squeeze(-1)
            second = (self.third.transpose(1, 2) @ (excess * excess).unsqueeze(-1)).squeeze(-1)
            shift = shift + (2.0 * excess * first + second) / 3.0
        return shift

    def energies(self, excess: Tensor) -> dict[str, Tensor]:
        """Charge-dependent energies, each (B,): second order, third order, external potential."""
        second = 0.5 * (excess * (self.gamma @ excess.unsqueeze(-1)).squeeze(-1)).sum(-1)
        terms = {"scc": second, "external": -(excess * self.potential).sum(-1)}
        if self.third is not None:
            terms["third_order"] = ((excess**2) * (self.third @ excess.unsqueeze(-1)).squeeze(-1)).sum(-1) / 3.0
        return terms


@dataclass
class SCCSolution:
    """The outcome for B frames.

    Attributes:
        excess: Excess electrons per atom of the final density, shape (B, n).
        coefficients: Molecular orbitals, shape (B, o, o), columns.
        eigenvalues: Shape (B, o).
        occupations: Shape (B, o).
        entropy_term: -T S, shape (B,).
        residual: Largest change of a charge in the last cycle, shape (B,).
        iterations: Cycles done, shape (B,).
        converged: Shape (B,).
    """

    excess: Tensor
    coefficients: Tensor
    eigenvalues: Tensor
    occupations: Tensor
    entropy_term: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


class _Cycle:
    """One diagonalisation after another in the orthonormal basis of the Cholesky factor of S."""

    def __init__(self, problem: SCCProblem, factor: Tensor, inverse: Tensor) -> None:
        self.problem = problem
        self.factor = factor
        self.inverse = inverse

    @classmethod
    def start(cls, problem: SCCProblem) -> _Cycle:
        factor = torch.linalg.cholesky(problem.overlap)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
        return cls(problem, factor, torch.linalg.solve_triangular(factor, identity, upper=False))

    def select(self, frames: Tensor) -> _Cycle:
        return _Cycle(self.problem.select(frames), self.factor[frames], self.inverse[frames])

    def __call__(self, excess: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Output charges, orbitals, eigenvalues, occupations and -T S for given input charges."""
        problem = self.problem
        shift = problem.shifts(excess)[:, problem.atom_of_orbital]
        hamiltonian = problem.hamiltonian + 0.5 * problem.overlap * (shift.unsqueeze(-1) + shift.unsqueeze(-2))
        eigenvalues, vectors = torch.linalg.eigh(self.inverse @ hamiltonian @ self.inverse.transpose(1, 2))
        occupations, entropy_term = fill(problem.n_electrons, eigenvalues, problem.temperature)
        n_occupied = problem.n_electrons // 2 if problem.temperature == 0.0 else vectors.shape[-1]
        occupied = vectors[..., :n_occupied]
        coefficients = self.inverse.transpose(1, 2) @ vectors
        # Mulliken population of orbital mu: sum_i f_i C_mu,i (S C)_mu,i, with S C = L C' for S = L L^T.
        product = coefficients[..., :n_occupied] * (self.factor @ occupied)
        population = (product @ occupations[:, :n_occupied].unsqueeze(-1)).squeeze(-1)
        output = (-problem.reference).expand_as(excess).clone()
        output.index_add_(1, problem.atom_of_orbital, population)
        return output, coefficients, eigenvalues, occupations, entropy_term


def solve(
    problem: SCCProblem, start: Tensor, tolerance: float, max_iterations: int, mixer: AndersonMixer
) -> SCCSolution:
    """Iterate until no charge changes by more than the tolerance; converged frames leave the batch.

    Frames that did not converge are marked so in the solution; nothing is raised here.

    Args:
        problem: The B frames.
        start: First input charges (excess electrons), shape (B, n).
        tolerance: e.
        max_iterations: Cycles at most.
        mixer: A fresh mixer.
    """
    cycle = _Cycle.start(problem)
    n_frames, n_orbitals = problem.hamiltonian.shape[:2]
    solution = SCCSolution(
        excess=start.clone(),
        coefficients=torch.zeros_like(problem.hamiltonian),
        eigenvalues=start.new_zeros(n_frames, n_orbitals),
        occupations=start.new_zeros(n_frames, n_orbitals),
        entropy_term=start.new_zeros(n_frames),
        residual=start.new_full((n_frames,), torch.inf),
        iterations=torch.zeros(n_frames, dtype=torch.int64, device=start.device),
        converged=torch.zeros(n_frames, dtype=torch.bool, device=start.device),
    )
    active = torch.arange(n_frames, device=start.device)
    excess = start
    for iteration in range(1, max_iterations + 1):
        output, *orbitals = cycle(excess)
        change = output - excess
        residual = change.abs().amax(-1)
        done = residual <= tolerance
        finished = done if iteration < max_iterations else torch.ones_like(done)
        if bool(finished.any()):
            where = active[finished]
            solution.excess[where] = output[finished]
            solution.coefficients[where] = orbitals[0][finished]
            solution.eigenvalues[where] = orbitals[1][finished]
            solution.occupations[where] = orbitals[2][finished]
            solution.entropy_term[where] = orbitals[3][finished]
            solution.residual[where] = residual[finished]
            solution.iterations[where] = iteration
            solution.converged[where] = done[finished]
            going = ~finished
            if not bool(going.any()):
                break
            active, excess, change = active[going], excess[going], change[going]
            cycle = cycle.select(going)
            mixer.keep(going)
        excess = mixer.next(excess, change)
    return solution
