"""The QM side of the potential: DFTB and the learned correction in their embedding, with all derivatives.

The DFTB engine gives its gradient at fixed external potential and dE/dphi, the Mulliken charges; the correction gives
its partial gradients with respect to positions and effective charges. The way back through the embedding joins them,
so that the chain rule through potentials and group weights reaches every atom. A batch that is too large for the
memory of the device is computed in parts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deltaqmmm.committee import (
    Committee,
    CommitteeSettings,
    Correction,
    MemberDeviations,
    combine,
    force_spreads,
    member_deviations,
    on_host,
)
from deltaqmmm.embedding import EmbeddedFrames
from deltaqmmm.errors import DeltaqmmmError, DeviceMemoryError
from deltaqmmm.results import FloatArray

logger = logging.getLogger(__name__)


class Embedding(Protocol):
    """Turns frames into what the QM side sees."""

    def __call__(self, positions: Tensor, cells: Tensor | None, *, by_cells: bool = False) -> EmbeddedFrames:
        """Embed B frames: positions (B, N, 3) and cells (B, 3, 3), bohr; say whether cells are differentiated."""


class QMResult(Protocol):
    """What an engine gives for B frames of n atoms, atomic units; see `dftb.DFTBResult` for the arrays."""

    @property
    def energies(self) -> Tensor:
        """Shape (B,)."""

    @property
    def gradients(self) -> Tensor:
        """At fixed external potential, shape (B, n, 3)."""

    @property
    def charges(self) -> Tensor:
        """The derivatives by the external potential, shape (B, n)."""

    @property
    def dipoles(self) -> Tensor:
        """Shape (B, 3)."""

    @property
    def iterations(self) -> Tensor:
        """SCC cycles, shape (B,)."""


class QMEngine(Protocol):
    """Energy of the QM region in an external potential."""

    @property
    def device(self) -> torch.device:
        """Where its results are."""

    def evaluate(self, positions: Tensor, potentials: Tensor) -> QMResult:
        """Evaluate B frames: positions (B, n_qm, 3), bohr, and potentials (B, n_qm), hartree/e."""


@dataclass(frozen=True)
class QMSideResult:
    """What B frames of N atoms get from DFTB and the correction.

    Attributes:
        forces: Shape (B, N, 3), hartree/bohr.
        strain_derivatives: Shape (B, 3, 3), hartree; None where they are not computed.
        terms: Energies by term, each (B,), hartree.
        extras: What is said beside, each with B rows.
        members: How the members of the committee differ; None where it is not asked for.
        seconds: Wall time by part.
    """

    forces: FloatArray
    strain_derivatives: FloatArray | None
    terms: Mapping[str, FloatArray] = field(default_factory=dict)
    extras: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    members: MemberDeviations | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class QMSide:
    """DFTB and the correction in their embedding."""

    def __init__(
        self,
        embedding: Embedding,
        qm: QMEngine | None,
        correction: Correction | None,
        committee: CommitteeSettings,
        masses: FloatArray,
        *,
        virial: bool,
        device: torch.device | str,
    ) -> None:
        """Join the engines; one that is None is not computed.

        Args:
            embedding: What the QM region sees of its surroundings.
            qm: The QM region.
            correction: What is learned on top of it, or instead of it.
            committee: What is made of the members of the correction.
            masses: Of the n QM atoms, shape (n,), in any unit: dipoles are taken about the centre of mass.
            virial: Compute strain derivatives.
            device: Where all of it computes.
        """
        self._embedding = embedding
        self._qm = qm
        self._correction = correction
        self._committee = committee
        self._virial = virial
        self._device = torch.device(device)
        self._mass_shares = masses / masses.sum()
        self._at_once: int | None = None

    def evaluate(self, positions: FloatArray, cells: FloatArray | None) -> QMSideResult:
        """Evaluate B frames, in parts where they do not fit the memory of the device together.

        Args:
            positions: Shape (B, N, 3), bohr.
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr; None in a system that is not periodic.

        Raises:
            DeviceMemoryError: Not even one frame fits.
            DeltaqmmmError: See `Potential.evaluate`.
        """
        if self._qm is None and self._correction is None:
            strain_derivatives = np.zeros((len(positions), 3, 3)) if self._virial else None
            return QMSideResult(np.zeros(positions.shape), strain_derivatives)
        parts: list[QMSideResult] = []
        before, done = self._at_once, 0
        while done < len(positions):
            part = slice(done, done + (self._at_once or len(positions)))
            try:
                found = self._attempt(positions[part], None if cells is None else cells[part])
            except DeltaqmmmError as error:
                if done == 0:
                    raise
                raise type(error)(
                    f"in the part of the batch from frame {done} on, counted from there: {error}"
                ) from error
            if found is not None:
                parts.append(found)
                done += len(found.forces)
        if self._at_once != before:
            logger.warning(
                "A batch of %d frames does not fit the memory of %s: from now on it is computed in parts of %d.",
                len(positions),
                self._device,
                self._at_once,
            )
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _attempt(self, positions: FloatArray, cells: FloatArray | None) -> QMSideResult | None:
        """The result of some frames; None where they did not fit, and fewer are to be tried."""
        try:
            return self._evaluate(positions, cells)
        except torch.OutOfMemoryError as error:
            if len(positions) == 1:
                raise DeviceMemoryError(
                    f"the QM side of one frame does not fit the memory of {self._device}: {error} Take a card with "
                    "more memory or [dftb] device = 'cpu', or leave it to fewer programs at a time."
                ) from error
        # The error has gone, and with it the references to what filled the memory.
        self._at_once = (len(positions) + 1) // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _evaluate(self, positions: FloatArray, cells: FloatArray | None) -> QMSideResult:
        start = time.perf_counter()
        given = torch.as_tensor(positions, device=self._device)
        given_cells = None if cells is None else torch.as_tensor(cells, device=self._device)
        frames = self._embedding(given, given_cells, by_cells=self._virial)
        back = _WayBack(frames, given, given_cells, self._virial)
        seconds = {"embedding": time.perf_counter() - start}
        by_qm: Tensor | None = None
        by_site = by_charge = by_potential = None
        terms: dict[str, FloatArray] = {}
        extras: dict[str, npt.NDArray[np.generic]] = {}
        members = None
        if self._qm is not None:
            start = time.perf_counter()
            qm = self._qm.evaluate(frames.qm_positions.detach(), frames.potentials.detach())
            by_qm, by_potential = qm.gradients, qm.charges
            terms["dftb"] = on_host(qm.energies)
            extras["qm_charges"], extras["qm_dipole"] = on_host(qm.charges), self._dipoles(frames, qm)
            extras["scc_iterations"] = qm.iterations.cpu().numpy()
            seconds["dftb"] = time.perf_counter() - start
        if self._correction is not None:
            start = time.perf_counter()
            committee = self._correct(self._correction, frames)
            seed, by_site, by_charge = committee.seeds(committee.weights)
            by_qm = seed if by_qm is None else by_qm + seed
            terms["correction"] = committee.energies
            extras.update(_spread_extras(committee))
            if self._committee.extras:
                members = member_deviations(committee, back)
            seconds["correction"] = time.perf_counter() - start
        start = time.perf_counter()
        gradients, by_strain = back(by_qm, by_site, by_charge, by_potential)
        forces = on_host(gradients)
        np.negative(forces, out=forces)
        strain_derivatives = None if by_strain is None else on_host(by_strain)
        seconds["embedding"] += time.perf_counter() - start
        return QMSideResult(forces, strain_derivatives, terms, extras, members, seconds)

    def _dipoles(self, frames: EmbeddedFrames, qm: QMResult) -> FloatArray:
        """About the centre of mass, shape (B, 3): that of a charged region would change as it moves through the box."""
        charges = on_host(qm.charges).sum(axis=1, keepdims=True)
        dipoles: FloatArray = on_host(qm.dipoles) - charges * (self._mass_shares @ on_host(frames.qm_positions))
        return dipoles

    def _correct(self, correction: Correction, frames: EmbeddedFrames) -> Committee:
        result = correction.evaluate(
            frames.qm_positions.detach(), frames.mm_positions.detach(), frames.mm_charges.detach(), frames.mm_sites
        )
        return combine(result, self._committee)


@dataclass(frozen=True)
class _WayBack:
    """From derivatives by what the QM side sees to those by positions (B, N, 3) and, with virial, strains (B, 3, 3)."""

    frames: EmbeddedFrames
    positions: Tensor
    cells: Tensor | None
    virial: bool

    def __call__(
        self,
        by_qm: Tensor | None,
        by_site: Tensor | None,
        by_charge: Tensor | None,
        by_potential: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        by_qm, by_site, by_charge, by_potential = (
            None if one is None else one.to(self.positions) for one in (by_qm, by_site, by_charge, by_potential)
        )
        by_position, by_cell = self.frames.way_back(by_qm, by_site, by_charge, by_potential)
        if not self.virial:
            return by_position, None
        # r -> r (1 + strain), h -> h (1 + strain) at strain zero.
        by_strain = self.positions.mT @ by_position
        if self.cells is not None and by_cell is not None:
            by_strain = by_strain + self.cells.mT @ by_cell
        return by_position, by_strain


def _joined(parts: Sequence[QMSideResult]) -> QMSideResult:
    """The parts of a batch as one."""
    first = parts[0]
    strains = [part.strain_derivatives for part in parts if part.strain_derivatives is not None]
    members = [part.members for part in parts if part.members is not None]
    return QMSideResult(
        forces=np.concatenate([part.forces for part in parts]),
        strain_derivatives=np.concatenate(strains) if strains else None,
        terms={name: np.concatenate([part.terms[name] for part in parts]) for name in first.terms},
        extras={name: np.concatenate([part.extras[name] for part in parts]) for name in first.extras},
        members=MemberDeviations.joined(members) if members else None,
        seconds={name: sum(part.seconds[name] for part in parts) for name in first.seconds},
    )


def _spread_extras(committee: Committee) -> dict[str, npt.NDArray[np.generic]]:
    """What is said of the members of a committee: nothing if it has one."""
    spreads = force_spreads(committee.result)
    if spreads is None or committee.energy_spreads is None:
        return {}
    extras: dict[str, npt.NDArray[np.generic]] = {
        "committee_energy_spread": committee.energy_spreads,
        "committee_force_spread": spreads,
    }
    if committee.scales is not None:
        extras["correction_scale"] = committee.scales
    return extras
