"""The self-consistent charge cycle for a batch of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deltaqmmm.dftb.density import Diagonalisation
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.dftb.problem import SCCProblem


class Density(Protocol):
    """The density of B frames at given input charges (see `density.Orbitals`)."""

    @property
    def excess(self) -> Tensor:
        """Output charges, shape (B, n)."""

    @property
    def entropy_term(self) -> Tensor:
        """-T S, shape (B,)."""

    @property
    def problem(self) -> SCCProblem:
        """The frames."""

    def select(self, frames: Tensor) -> Density:
        """Those of some of the frames."""

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Density matrix and energy-weighted density matrix, each (B, o, o)."""

    def response(self) -> Tensor:
        """d(excess)/d(shift), shape (B, n, n)."""


class DensitySolver(Protocol):
    """What turns input charges into a density (see `density.Diagonalisation`)."""

    def select(self, frames: Tensor) -> DensitySolver:
        """The same for some of the frames."""

    def __call__(self, excess: Tensor) -> Density:
        """The density at given charges, shape (B, n)."""

    def orbitals(self, excess: Tensor) -> Density:
        """The same from orbitals, whose response costs no diagonalisation of its own."""


@dataclass
class SCCSolution:
    """The outcome for B frames.

    Attributes:
        excess: Excess electrons per atom of the final density, shape (B, n).
        density: Density matrix, shape (B, o, o).
        energy_weighted: Energy-weighted density matrix, shape (B, o, o), hartree.
        entropy_term: -T S, shape (B,), hartree.
        screening: The inverse dielectric matrix that steered the cycle, shape (B, n, n).
        residual: Largest change of a charge in the last cycle, shape (B,).
        iterations: Cycles done, shape (B,).
        converged: Shape (B,).
    """

    excess: Tensor
    density: Tensor
    energy_weighted: Tensor
    entropy_term: Tensor
    screening: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


REFRESHED_ABOVE = 3
"""Cycles above which a frame hands on the inverse dielectric matrix of its own orbitals instead of that it was
given."""


FAR = 0.05
"""Residual in e above which Newton's step is shortened: the response is that of other charges there..."""
SHORTENED = 0.7
"""... to this share. Cold starts of retinoate take 12 cycles with it, 15 to 20 without."""


def inverse_dielectric_matrix(response: Tensor, kernel: Tensor) -> Tensor:
    """(1 - X K)^-1, shape (B, n, n): what a wrong charge grows to until it is self-consistent.

    A charge that deviates by dq shifts the potentials by K dq and so draws X K dq after it. The residual of the cycle
    is therefore (1 - X K) (q - q_in), and its product with this matrix is Newton's step. X is negative and K
    positive, so the step is never longer than the residual.

    Args:
        response: X = d(charge)/d(shift), shape (B, n, n), e^2/hartree.
        kernel: K = d(shift)/d(charge), shape (B, n, n), hartree/e^2.
    """
    identity = torch.eye(response.shape[-1], dtype=response.dtype, device=response.device)
    # The checked version would let the host wait; the matrix has no eigenvalue below one.
    inverse: Tensor = torch.linalg.inv_ex(identity - response @ kernel).inverse
    return inverse


def _screening(density: Density) -> Tensor:
    return inverse_dielectric_matrix(density.response(), density.problem.kernel(density.excess))


def _nothing(problem: SCCProblem, start: Tensor) -> SCCSolution:
    """Room for the outcome."""
    n_frames, n_atoms = start.shape
    return SCCSolution(
        excess=start.clone(),
        density=torch.zeros_like(problem.hamiltonian),
        energy_weighted=torch.zeros_like(problem.hamiltonian),
        entropy_term=start.new_zeros(n_frames),
        screening=start.new_zeros(n_frames, n_atoms, n_atoms),
        residual=start.new_full((n_frames,), torch.inf),
        iterations=torch.zeros(n_frames, dtype=torch.int64, device=start.device),
        converged=torch.zeros(n_frames, dtype=torch.bool, device=start.device),
    )


def _sorted_out(finished: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the frames that leave the batch and of those that stay: all that the host waits for in a cycle."""
    flags = finished.tolist()
    leaving = [frame for frame, flag in enumerate(flags) if flag]
    going = [frame for frame, flag in enumerate(flags) if not flag]
    device = finished.device
    return torch.tensor(leaving, dtype=torch.int64, device=device), torch.tensor(
        going, dtype=torch.int64, device=device
    )


def _settle(solution: SCCSolution, frames: Tensor, density: Density, screening: Tensor | None) -> None:
    """Write down the densities of frames that are finished, and what they hand on to the next of their trajectory."""
    solution.excess[frames] = density.excess
    solution.density[frames], solution.energy_weighted[frames] = density.matrices()
    solution.entropy_term[frames] = density.entropy_term
    solution.screening[frames] = _screening(density) if screening is None else screening


def solve(
    problem: SCCProblem,
    start: Tensor,
    tolerance: float,
    max_iterations: int,
    mixer: AndersonMixer,
    newton: bool = False,
    screening: Tensor | None = None,
    solver: DensitySolver | None = None,
) -> SCCSolution:
    """Iterate until no charge changes by more than the tolerance; converged frames leave the batch.

    Frames that did not converge are marked so in the solution; nothing is raised here.

    Args:
        problem: The B frames.
        start: First input charges (excess electrons), shape (B, n).
        tolerance: e.
        max_iterations: Cycles at most.
        mixer: A fresh mixer.
        newton: Turn residuals into Newton steps before they are mixed.
        screening: The inverse dielectric matrices for this, or what is near to them, shape (B, n, n); None to take
            them from the orbitals of the first cycle.
        solver: What makes the densities of these frames; None to diagonalise.
    """
    solver = solver or Diagonalisation.of(problem)
    solution = _nothing(problem, start)
    active = torch.arange(len(start), device=start.device)
    excess = start
    for iteration in range(1, max_iterations + 1):
        density = solver.orbitals(excess) if newton and screening is None else solver(excess)
        change = density.excess - excess
        residual = change.abs().amax(-1)
        done = residual <= tolerance
        # A frame that has lost its numbers will not find them again.
        finished = done | ~torch.isfinite(residual) if iteration < max_iterations else torch.ones_like(done)
        if newton and screening is None:
            screening = _screening(density)
        solution.residual[active], solution.iterations[active] = residual, iteration
        solution.converged[active] = done
        leaving, going = _sorted_out(finished)
        if len(leaving):
            known = None if screening is None or iteration > REFRESHED_ABOVE else screening[leaving]
            _settle(solution, active[leaving], density.select(leaving), known)
            if not len(going):
                break
            active, excess, change = active[going], excess[going], change[going]
            solver = solver.select(going)
            screening = None if screening is None else screening[going]
            mixer.keep(going)
        fraction = None
        if newton and screening is not None:
            fraction = torch.where(change.abs().amax(-1, keepdim=True) > FAR, SHORTENED, 1.0)
            change = (screening @ change.unsqueeze(-1)).squeeze(-1)
        excess = mixer.next(excess, change, fraction)
    return solution
