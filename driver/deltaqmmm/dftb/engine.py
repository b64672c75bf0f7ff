"""SCC-DFTB energies and gradients for batches of frames of one molecule.

    E = sum_i f_i <i|H0|i> - T S + 1/2 sum_ab dq_a dq_b gamma_ab + 1/3 sum_ab dq_a^2 dq_b Gamma_ab + E_rep + sum_a q_a
    phi_a (+ E_D3)

with dq_a the excess electrons of atom a (Mulliken), q_a = -dq_a its gross charge, phi_a the external potential.
DFTB2: Elstner et al., doi 10.1103/PhysRevB.58.7260; DFTB3: Gaus, Cui, Elstner, doi 10.1021/ct100684s. One charge per
atom (not per shell), closed shells, no periodic images: these belong to the embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from deltaqmmm.dftb.checks import check_electrons, pair_distances
from deltaqmmm.dftb.choice import SolverChoice
from deltaqmmm.dftb.compiled import CompiledFrames
from deltaqmmm.dftb.compiled.frames import TERMS
from deltaqmmm.dftb.compiled.tables import basis_table, gamma_table, pair_table
from deltaqmmm.dftb.gamma import gamma_function
from deltaqmmm.dftb.hamiltonian import MatrixBuilder
from deltaqmmm.dftb.memory import TrajectoryMemory
from deltaqmmm.dftb.parameters import load_parameters
from deltaqmmm.dftb.problem import SCCProblem
from deltaqmmm.dftb.radial import repulsive_tables
from deltaqmmm.dftb.retry import self_consistent
from deltaqmmm.dftb.rotation import d_matrices
from deltaqmmm.dftb.scc import SCCSolution
from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.errors import ConvergenceError
from deltaqmmm.results import FloatArray
from deltaqmmm.threads import threads_of_loops

if TYPE_CHECKING:
    # Its library is only needed where it is asked for.
    from deltaqmmm.dispersion import Dispersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DFTBResult:
    """Results for B frames of n atoms, atomic units.

    Attributes:
        energies: Mermin free energies, shape (B,), hartree (the total energy at zero electronic temperature).
        gradients: dE/dR at fixed external potential, shape (B, n, 3), hartree/bohr.
        charges: Mulliken gross charges, shape (B, n), e; equal to dE/dphi.
        dipoles: sum_a q_a R_a, shape (B, 3), e bohr; depends on the origin where the molecule is charged.
        iterations: SCC cycles, shape (B,).
        terms: Parts of the energy, each (B,), hartree.
        screening: Inverse dielectric matrices of the charges, shape (B, n, n): what a later calculation may be steered
            with.
    """

    energies: Tensor
    gradients: Tensor
    charges: Tensor
    dipoles: Tensor
    iterations: Tensor
    terms: Mapping[str, Tensor]
    screening: FloatArray


@dataclass(frozen=True)
class _Geometry:
    """What depends on positions only; `elements`, `gamma` and `smooth` carry the graph back to `positions`."""

    positions: Tensor
    elements: Tensor
    gamma: Tensor
    repulsion: Tensor


class DFTBEngine:
    """A DFTB calculator for one molecule: elements, charge and settings are fixed, positions and potentials vary."""

    def __init__(
        self, symbols: Sequence[str], charge: int, settings: DFTBSettings, device: torch.device | str = "cpu"
    ) -> None:
        """Read the parameters and prepare all that does not depend on positions.

        Args:
            symbols: Elements of the n atoms.
            charge: Total charge, e.
            settings: Model, parameters and convergence.
            device: Where to compute.

        Raises:
            ParameterError: A Slater-Koster file or Hubbard derivative is missing.
            TopologyError: The number of electrons is odd, or more than the basis holds.
        """
        self.settings = settings
        self.symbols = tuple(symbols)
        self.charge = charge
        self.device = torch.device(device)
        parameters = load_parameters(self.symbols, settings)
        self._reference = torch.as_tensor(parameters.electrons, device=self.device)
        self.n_electrons = round(float(parameters.electrons.sum())) - charge
        self._builder = MatrixBuilder(
            self.symbols, parameters.highest_shells, parameters.onsite, parameters.files, self.device
        )
        check_electrons(self.n_electrons, self._builder.n_orbitals, charge)
        pairs = self._builder.pairs
        hydrogen = np.array([symbol == "H" for symbol in self.symbols])
        self._gamma = gamma_function(
            parameters.hubbard,
            pairs,
            np.any(hydrogen[pairs], axis=1),
            settings.damping_exponent if settings.third_order else None,
            self.device,
        )
        self._hubbard = torch.as_tensor(parameters.hubbard, device=self.device)
        self._derivatives = torch.as_tensor(parameters.hubbard_derivatives, device=self.device)
        species = [(self.symbols[i], self.symbols[j]) for i, j in pairs]
        unique = sorted(set(species))
        self._repulsion = repulsive_tables(
            [parameters.files[pair].repulsion for pair in unique], [unique.index(s) for s in species], self.device
        )
        self._first = torch.as_tensor(pairs[:, 0], device=self.device)
        self._second = torch.as_tensor(pairs[:, 1], device=self.device)
        self._dispersion: Dispersion | None = None
        if settings.dispersion == "d3bj":
            from deltaqmmm.dispersion import DFTB3, Dispersion

            self._dispersion = Dispersion(self.symbols, DFTB3)
        self._memory = TrajectoryMemory()
        self._compiled = self._compile() if self._can_be_compiled() else None
        # What compiled loops fail at now and then is not worth measuring.
        chosen = settings if self._compiled is None else replace(settings, solver="diagonalisation")
        self._choice = SolverChoice(chosen, self.device)

    @property
    def n_orbitals(self) -> int:
        """Size of the basis: the order of the matrices that are diagonalised."""
        return self._builder.n_orbitals

    @property
    def compiled(self) -> bool:
        """Whether compiled loops do the work, and torch only what they fail at."""
        return self._compiled is not None

    def _can_be_compiled(self) -> bool:
        settings = self.settings
        plain = settings.electronic_temperature == 0.0 and settings.solver != "purification"
        mixed = 0 < self.n_electrons < 2 * self.n_orbitals
        return settings.compiled and plain and mixed and self.device.type == "cpu" and len(self.symbols) > 1

    def _compile(self) -> CompiledFrames:
        return CompiledFrames(
            pair_table(self._builder, self._repulsion),
            gamma_table(self._gamma, self._hubbard, self._derivatives),
            basis_table(self._builder, len(self.symbols), self._reference, self.n_electrons),
            d_matrices(self.device).numpy(),
        )

    def evaluate(self, positions: Tensor, potentials: Tensor) -> DFTBResult:
        """Energies, gradients and charges of B frames.

        Args:
            positions: Shape (B, n, 3), bohr.
            potentials: External potential at the atoms, shape (B, n), hartree/e.

        Raises:
            FrameError: Positions or potentials are non-finite, or two atoms coincide.
            ConvergenceError: The SCC of a frame did not converge, after the safer retries.
        """
        positions, potentials = positions.detach().to(self.device), potentials.detach().to(self.device)
        distances = pair_distances(self.symbols, self._builder.pairs, positions, potentials)
        start = np.full(potentials.shape, -self.charge / len(self.symbols))
        recollection = None
        if self.settings.warm_start:
            descriptors = np.concatenate([1.0 / distances, potentials.cpu().numpy()], axis=1)
            recollection = self._memory.recall(descriptors, start)
            start, screening = recollection.excess, recollection.screening
        else:
            screening = None
        result = None
        if self._compiled is not None:
            result = self._evaluate_compiled(self._compiled, positions, potentials, start, screening)
        if result is None:
            result = self._evaluate(positions, potentials, start, screening)
        if recollection is not None:
            self._memory.store(recollection, -result.charges.cpu().numpy(), result.screening)
        return result if self._dispersion is None else self._with_dispersion(self._dispersion, result, positions)

    def _with_dispersion(self, dispersion: Dispersion, result: DFTBResult, positions: Tensor) -> DFTBResult:
        found = dispersion.evaluate(positions.detach().cpu().numpy(), threads_of_loops())
        energies, gradients = (torch.from_numpy(array).to(self.device) for array in found)
        return replace(
            result,
            energies=result.energies + energies,
            gradients=result.gradients + gradients,
            terms={**result.terms, "dispersion": energies},
        )

    def _evaluate_compiled(
        self,
        compute: CompiledFrames,
        positions: Tensor,
        potentials: Tensor,
        start: FloatArray,
        screening: FloatArray | None,
    ) -> DFTBResult | None:
        """The compiled loops on all frames; None where they fail, for torch with its retries."""
        settings = self.settings
        where, potential = (np.ascontiguousarray(tensor.numpy()) for tensor in (positions, potentials))
        limits = settings.scc_tolerance, settings.max_scc_iterations
        try:
            found = compute(where, potential, start, screening, limits, threads_of_loops())
        except np.linalg.LinAlgError:
            return None
        if not np.all(found.residuals <= settings.scc_tolerance):
            return None
        names = [name for name in TERMS if settings.third_order or name != "third_order"]
        terms = {name: torch.from_numpy(found.terms[:, TERMS.index(name)]) for name in names}
        gradients, charges = torch.from_numpy(found.gradients), torch.from_numpy(-found.excess)
        return DFTBResult(
            energies=torch.stack(list(terms.values())).sum(0),
            gradients=gradients,
            charges=charges,
            dipoles=(charges.unsqueeze(-1) * positions).sum(1),
            iterations=torch.from_numpy(found.iterations),
            terms=terms,
            screening=found.screening,
        )

    def _evaluate(
        self, positions: Tensor, potentials: Tensor, start: FloatArray, screening: FloatArray | None
    ) -> DFTBResult:
        """All frames by torch."""
        geometry = self._geometry(positions)
        hamiltonian, overlap = self._builder.matrices(geometry.elements.detach())
        gamma, third = self._gamma_matrices(geometry.gamma.detach())
        problem = SCCProblem(
            hamiltonian=hamiltonian,
            overlap=overlap,
            gamma=gamma,
            third=third,
            potential=potentials,
            atom_of_orbital=self._builder.atom_of_orbital,
            orbitals_of_atom=self._builder.orbitals_of_atom,
            reference=self._reference,
            n_electrons=self.n_electrons,
            temperature=self.settings.electronic_temperature,
        )
        steering = None if screening is None else torch.as_tensor(screening, device=self.device)
        return self._result(
            geometry, problem, self._solve(problem, torch.as_tensor(start, device=self.device), steering)
        )

    def _solve(self, problem: SCCProblem, start: Tensor, screening: Tensor | None) -> SCCSolution:
        try:
            return self_consistent(problem, start, self.settings, self.symbols, screening, self._choice)
        except LinAlgError as error:
            raise ConvergenceError(
                "the overlap or Hamiltonian matrix of the QM region cannot be factorised: the geometry is far from any "
                "molecule. Look at the last frame; a smaller time step may help."
            ) from error

    def _geometry(self, positions: Tensor) -> _Geometry:
        """All functions of the positions, recorded for their gradient."""
        positions = positions.requires_grad_()
        with torch.enable_grad():
            vectors = positions.index_select(1, self._second) - positions.index_select(1, self._first)
            distances = vectors.norm(dim=-1)
            elements = self._builder.elements(vectors / distances.unsqueeze(-1), distances)
            gamma = self._gamma(distances)
            repulsion = self._repulsion(distances).sum(-1)
        return _Geometry(positions, elements, gamma, repulsion)

    def _gamma_matrices(self, pair_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Matrices gamma (B, n, n), and Gamma (B, n, n) with first index the atom whose Hubbard value varies."""
        n = len(self.symbols)
        gamma = torch.diag_embed(self._hubbard).expand(len(pair_values), n, n).clone()
        gamma[:, self._first, self._second] = gamma[:, self._second, self._first] = pair_values[..., 0]
        if not self.settings.third_order:
            return gamma, None
        third = torch.diag_embed(0.5 * self._derivatives).expand(len(pair_values), n, n).clone()
        third[:, self._first, self._second] = pair_values[..., 1] * self._derivatives[self._first]
        third[:, self._second, self._first] = pair_values[..., 2] * self._derivatives[self._second]
        return gamma, third

    def _result(self, geometry: _Geometry, problem: SCCProblem, solution: SCCSolution) -> DFTBResult:
        """Energy, and its gradient by one pass back through the geometry's functions."""
        density, excess = solution.density, solution.excess
        shift = problem.shifts(excess)[:, problem.atom_of_orbital]
        by_overlap = 0.5 * density * (shift.unsqueeze(-1) + shift.unsqueeze(-2)) - solution.energy_weighted
        terms = {"band": (density * problem.hamiltonian).sum((1, 2)), **problem.energies(excess)}
        terms["repulsion"] = geometry.repulsion.detach()
        if problem.temperature > 0.0:
            terms["entropy"] = solution.entropy_term
        outputs = [geometry.elements, geometry.gamma, geometry.repulsion]
        weights = [
            self._builder.element_weights(density, by_overlap),
            self._gamma_weights(excess),
            torch.ones_like(geometry.repulsion),
        ]
        (gradients,) = torch.autograd.grad(outputs, geometry.positions, weights)
        charges = -excess
        return DFTBResult(
            energies=torch.stack(list(terms.values())).sum(0),
            gradients=gradients,
            charges=charges,
            dipoles=(charges.unsqueeze(-1) * geometry.positions.detach()).sum(1),
            iterations=solution.iterations,
            terms=terms,
            screening=solution.screening.cpu().numpy(),
        )

    def _gamma_weights(self, excess: Tensor) -> Tensor:
        """dE/d(gamma, dgamma/dU_a, dgamma/dU_b) of each pair, shape (B, P, 3)."""
        a, b = excess[:, self._first], excess[:, self._second]
        second = a * b
        if not self.settings.third_order:
            return torch.stack([second, torch.zeros_like(a), torch.zeros_like(a)], dim=-1)
        by_a = second * a * self._derivatives[self._first] / 3.0
        by_b = second * b * self._derivatives[self._second] / 3.0
        return torch.stack([second, by_a, by_b], dim=-1)
