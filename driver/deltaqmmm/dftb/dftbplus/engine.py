"""The engine: frames of one molecule in external potentials, computed by DFTB+.

DFTB+: Hourahine et al., J. Chem. Phys. 152, 124101 (2020), doi 10.1063/1.5143190. It gives the energy (with sum_a q_a
phi_a), its gradient at fixed potential and the gross charges q_a = dE/dphi_a, as our own engine does; D3 dispersion
is added by the same code. The potential acts on charges of atoms only: methods with atomic multipoles (GFN2-xTB) feel
it through their charges.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.dftb.checks import check_electrons, pair_distances
from deltaqmmm.dftb.dftbplus.hsd import Variation, write_input
from deltaqmmm.dftb.dftbplus.library import find_library
from deltaqmmm.dftb.dftbplus.pool import NOT_COMPUTED, Pool
from deltaqmmm.dftb.dftbplus.process import Answer, Death, Setup
from deltaqmmm.dftb.dftbplus.processed import check_user_input
from deltaqmmm.dftb.dftbplus.retry import SaferSetups
from deltaqmmm.dftb.dftbplus.settings import DFTBPlusSettings
from deltaqmmm.dftb.dftbplus.snapshot import Snapshot
from deltaqmmm.dftb.parameters import MolecularParameters, load_parameters
from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.errors import ConvergenceError, ExternalToolError, FrameError, ParameterError
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    # Its library is only needed where it is asked for.
    from deltaqmmm.dispersion import Dispersion

logger = logging.getLogger(__name__)

POTENTIAL_STEP = 2e-3
"""Hartree/e by which the potential is varied to see whether the charges are the derivative of the energy."""
POSITION_STEP = 2e-3
"""Bohr by which the atoms are moved to see whether the gradient is."""
TOLERANCE = 2e-3
"""Relative to the norm of the charges (but 1 e at least), and of the gradient (but 0.1 hartree/bohr at least): a method
that does not fit is far off, and the default SCC tolerance of DFTB+ is wide."""


WIDE_TOLERANCE = 1e-6
"""SCC tolerance of a user's input beyond which it is warned of; DFTB+'s default is 1e-5."""


@dataclass(frozen=True)
class DFTBPlusResult:
    """Results for B frames of n atoms, atomic units; the fields that `DFTBResult` has too mean the same.

    Attributes:
        energies: Mermin free energies, shape (B,), hartree.
        gradients: dE/dR at fixed external potential, shape (B, n, 3), hartree/bohr.
        charges: Gross charges, shape (B, n), e; equal to dE/dphi.
        dipoles: sum_a q_a R_a, shape (B, 3), e bohr.
        iterations: SCC cycles, shape (B,).
        terms: Parts of the energy, each (B,), hartree: "dftb+", and "dispersion" where it is ours.
    """

    energies: Tensor
    gradients: Tensor
    charges: Tensor
    dipoles: Tensor
    iterations: Tensor
    terms: Mapping[str, Tensor]


class DFTBPlusEngine:
    """DFTB+ for one molecule: elements, charge and settings are fixed, positions and potentials vary."""

    def __init__(
        self,
        symbols: Sequence[str],
        charge: int,
        settings: DFTBSettings,
        program: DFTBPlusSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Find DFTB+, write or read its input, and start the first worker.

        Args:
            symbols: Elements of the n atoms.
            charge: Total charge, e.
            settings: Model, parameters and convergence; not used with an input of the user's own.
            program: How DFTB+ is run.
            device: Where results are wanted; DFTB+ computes on processors.

        Raises:
            ExternalToolError: DFTB+ is missing or cannot start.
            ParameterError: A Slater-Koster file or Hubbard derivative is missing, or the user's input cannot be used.
            TopologyError: The number of electrons is odd or does not fit the basis (without an input of the user's
                own).
        """
        self.symbols, self.charge, self.settings = tuple(symbols), charge, settings
        self.program = program or DFTBPlusSettings()
        self.device = torch.device(device)
        self.library = find_library(self.program.library)
        count = len(self.symbols)
        self._pairs = np.array([(j, i) for i in range(count) for j in range(i)], dtype=np.int64).reshape(-1, 2)
        normal = None
        self._parameters: MolecularParameters | None = None
        self._dispersion: Dispersion | None = None
        if self.program.hsd is None:
            self._parameters = load_parameters(self.symbols, settings)
            n_orbitals = sum((shell + 1) ** 2 for shell in self._parameters.highest_shells)
            check_electrons(round(float(self._parameters.electrons.sum())) - charge, n_orbitals, charge)
            normal = Variation(settings.max_scc_iterations, settings.electronic_temperature)
            if settings.dispersion == "d3bj":
                from deltaqmmm.dispersion import DFTB3, Dispersion

                self._dispersion = Dispersion(self.symbols, DFTB3)
        self._snapshot = None if self.program.hsd is None else Snapshot(self.program.hsd, self.symbols)
        self._to_be_tested = self.program.hsd is not None
        self._safer = SaferSetups(self._setup, normal, self.program.timeout)
        self._pool = Pool(self._setup(normal), self.program.workers, self.program.timeout)
        self._start()

    @property
    def compiled(self) -> bool:
        """Whether nothing is left to the threads of torch, as with our engine's compiled loops: always so."""
        return True

    @property
    def processes(self) -> list[int]:
        """Identifiers of the worker processes that run."""
        return self._pool.processes

    def close(self) -> None:
        """End all worker processes; a further evaluation starts new ones."""
        self._pool.close()

    def _setup(self, variation: Variation | None) -> Setup:
        """The input for a way to solve the SCC, or the user's own for None."""
        program = self.program
        if variation is not None and self._parameters is not None:
            text = write_input(self.symbols, self.charge, self._parameters, self.settings, variation)
            return Setup(self.library, text, threads=program.threads)
        if self._snapshot is None:
            raise ParameterError("there is neither an input of DFTB+ nor settings to write one from.")
        return Setup(self.library, self._snapshot.text, self._snapshot, program.threads)

    def _start(self) -> None:
        hsd, snapshot = self.program.hsd, self._snapshot
        try:
            readiness = self._pool.start()
        except ExternalToolError as error:
            if snapshot is None:
                raise
            hint = " Relative paths that lead out of its folder (..) are not found: write whole ones."
            raise ParameterError(f"{hsd}: {error}{hint if '..' in snapshot.text else ''}") from error
        if hsd is not None:
            try:
                tolerance = check_user_input(
                    hsd, readiness.processed, readiness.n_atoms, readiness.masses, self.symbols, self.charge
                )
            except BaseException:
                self.close()
                raise
            self._take_tolerance(hsd, tolerance)

    def _take_tolerance(self, hsd: Path, tolerance: float | None) -> None:
        """The settings tell the tolerance with which DFTB+ computes."""
        if tolerance is None:
            return
        self.settings = replace(self.settings, scc_tolerance=min(tolerance, 1e-3))
        if tolerance > WIDE_TOLERANCE:
            logger.warning(
                "%s: SCCTolerance = %g e: forces are as inexact, and a run that conserves energy drifts. Our own "
                "engine takes %g.",
                hsd,
                tolerance,
                DFTBSettings().scc_tolerance,
            )

    def evaluate(self, positions: Tensor, potentials: Tensor) -> DFTBPlusResult:
        """Energies, gradients and charges of B frames.

        Args:
            positions: Shape (B, n, 3), bohr.
            potentials: External potential at the atoms, shape (B, n), hartree/e.

        Raises:
            FrameError: There is no frame, positions or potentials are non-finite, or two atoms coincide.
            ConvergenceError: The SCC of a frame did not converge, after the safer retries.
            ExternalToolError: DFTB+ cannot be started, or ended twice on a frame without a word.
            ParameterError: The user's input gives no derivatives of its energy.
        """
        if len(positions) == 0:
            raise FrameError("a batch without frames: at least one is needed.")
        positions, potentials = (tensor.detach().to(self.device, torch.float64) for tensor in (positions, potentials))
        pair_distances(self.symbols, self._pairs, positions, potentials)
        where, potential = (np.ascontiguousarray(tensor.cpu().numpy()) for tensor in (positions, potentials))
        answers = self._answers(where, potential)
        if self._to_be_tested:
            self._test_derivatives(where[0], potential[0], answers[0])
            self._to_be_tested = False
        energies = self._tensor([answer.energy for answer in answers])
        gradients = self._tensor([answer.gradients for answer in answers])
        charges = self._tensor([answer.charges for answer in answers])
        terms = {"dftb+": energies}
        if self._dispersion is not None:
            terms["dispersion"], by_dispersion = map(self._tensor, self._dispersion.evaluate(where))
            gradients = gradients + by_dispersion
        return DFTBPlusResult(
            energies=torch.stack(list(terms.values())).sum(0),
            gradients=gradients,
            charges=charges,
            dipoles=(charges.unsqueeze(-1) * positions).sum(1),
            iterations=torch.tensor([answer.cycles for answer in answers], device=self.device),
            terms=terms,
        )

    def _tensor(self, values: Sequence[float] | Sequence[FloatArray] | FloatArray) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=np.float64), device=self.device)

    def _answers(self, positions: FloatArray, potentials: FloatArray) -> list[Answer]:
        outcomes = self._pool.compute(positions, potentials)
        for frame, outcome in enumerate(outcomes):
            if isinstance(outcome, Death) and not outcome.by_dftbplus and outcome is not NOT_COMPUTED:
                raise ExternalToolError(_failed_twice(frame, outcome))
        answers = []
        for frame, outcome in enumerate(outcomes):
            if isinstance(outcome, Death):
                outcome = self._safer.solve(frame, positions[frame], potentials[frame], outcome)
                if isinstance(outcome, Death):
                    if not outcome.by_dftbplus:
                        raise ExternalToolError(_failed_twice(frame, outcome))
                    raise ConvergenceError(self._report(frame, outcome))
            answers.append(outcome)
        return answers

    def _report(self, frame: int, death: Death) -> str:
        """What went wrong in one frame."""
        residual = "" if death.residual is None else f"residual {death.residual:.2e} e "
        if self.program.hsd is None:
            remedy = (
                "Look at the geometry and the total charge; a finite [dftb] electronic_temperature_kelvin helps where "
                "the gap is small, a larger max_scc_iterations where convergence is slow."
            )
            needed = f"; needed {self.settings.scc_tolerance:.1e} e"
        else:
            remedy = (
                f"Look at the geometry, the total charge, and mixer, filling and MaxSCCIterations in "
                f"{self.program.hsd.name}."
            )
            needed = ""
        return (
            f"the SCC of frame {frame} of the batch did not converge in DFTB+ {self.library.version}: {residual}after "
            f"{death.cycles} cycles, the safer retries included{needed}. The last of them: {death.reason}. {remedy}"
        )

    def _test_derivatives(self, positions: FloatArray, potential: FloatArray, answer: Answer) -> None:
        """See by differences whether charges and gradient of the user's method are derivatives of its energy.

        Args:
            positions: Shape (n, 3), bohr.
            potential: Shape (n,), hartree/e.
            answer: What DFTB+ gives there.

        Raises:
            ParameterError: They are not.
        """
        rng = np.random.default_rng(1)
        along_potential = rng.choice([-1.0, 1.0], size=potential.shape)
        along_positions = rng.standard_normal(positions.shape)
        along_positions /= np.linalg.norm(along_positions)
        signs = np.array([1.0, -1.0, 0.0, 0.0])
        moved = positions + POSITION_STEP * signs[::-1, None, None] * along_positions
        varied = potential + POTENTIAL_STEP * signs[:, None] * along_potential
        up, down, left, right = (found.energy for found in self._answers(moved, varied))
        for name, slope, given, scale in (
            ("charges", (up - down) / (2.0 * POTENTIAL_STEP), answer.charges @ along_potential, 1.0),
            ("gradient", (right - left) / (2.0 * POSITION_STEP), np.sum(answer.gradients * along_positions), 0.1),
        ):
            norm = np.linalg.norm(answer.charges if name == "charges" else answer.gradients)
            if abs(slope - given) > TOLERANCE * max(scale, float(norm)):
                raise ParameterError(
                    f"{self.program.hsd}: the {name} that DFTB+ gives with this input are not the derivative of its "
                    f"energy (along a line {given:.6f}, by differences {slope:.6f}): forces in a run would be wrong. "
                    "The method cannot be combined with an external potential, or its SCC tolerance is too wide."
                )


def _failed_twice(frame: int, death: Death) -> str:
    """What is said of a process that ended without a word from DFTB+."""
    return f"DFTB+ failed twice on frame {frame} of the batch: {death.reason}."
