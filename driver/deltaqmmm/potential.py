"""The sum of the terms: E = E_MM(R) + E_DFTB(R_QM; phi), with all derivatives.

This is the only place where terms meet. The MM engine computes in a thread of its own while the QM side runs: OpenMM
releases the interpreter while it works. The DFTB engine gives its gradient at fixed external potential and dE/dphi,
the Mulliken charges; automatic differentiation of the embedding joins them, so that the chain rule through potentials
and group weights reaches every atom.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.dftb import DFTBResult
from deltaqmmm.embedding import EmbeddedFrames
from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.system import System

SAME_CELL = 1e-8
"""Relative change of a cell below which it counts as constant."""


class MMEngine(Protocol):
    """Energies and forces of all classical terms."""

    def evaluate(self, positions: FloatArray, cells: FloatArray | None = None) -> Evaluation:
        """Evaluate B frames: positions (B, N, 3) and cells (B, 3, 3), bohr."""


class Embedding(Protocol):
    """Turns frames into what the QM side sees."""

    def __call__(self, positions: Tensor, cells: Tensor | None) -> EmbeddedFrames:
        """Embed B frames, differentiably: positions (B, N, 3) and cells (B, 3, 3), bohr."""


class QMEngine(Protocol):
    """Energy of the QM region in an external potential."""

    def evaluate(self, positions: Tensor, potentials: Tensor) -> DFTBResult:
        """Evaluate B frames: positions (B, n_qm, 3), bohr, and potentials (B, n_qm), hartree/e."""


class Potential:
    """The QM/MM potential energy and its derivatives for batches of frames.

    Attributes:
        system: The QM/MM split.
        virial: Whether strain derivatives are computed.
        seconds: Wall time of each part of the last evaluation ("mm" runs beside the others).
    """

    def __init__(
        self,
        system: System,
        mm: MMEngine,
        embedding: Embedding,
        qm: QMEngine,
        *,
        virial: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Join the engines.

        Args:
            system: The QM/MM split that all of them were made for.
            mm: The classical terms.
            embedding: What the QM region sees of its surroundings.
            qm: The QM region.
            virial: Compute strain derivatives; the MM engine must do so too.
            device: Where embedding and QM compute.
        """
        self.system = system
        self.virial = virial
        self.seconds: Mapping[str, float] = {}
        self._mm = mm
        self._embedding = embedding
        self._qm = qm
        self._device = torch.device(device)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mm")
        self._cells: FloatArray | None = None

    def warm_up(self, cells: FloatArray, positions: FloatArray) -> Evaluation:
        """Evaluate once without remembering the cells, so that what is made on first use is ready before a run."""
        return self._evaluate(cells, positions)

    def start_again(self) -> None:
        """Forget the cell of the run so far: the next frames may come from another server."""
        self._cells = None

    def evaluate(self, cells: FloatArray, positions: FloatArray) -> Evaluation:
        """Evaluate B frames.

        Args:
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr; not used where the system is not periodic.
            positions: Shape (B, N, 3), bohr, in i-PI's atom order, wrapped or not.

        Returns:
            Energies with the terms "mm" and "dftb" (their sum is the energy), forces, strain derivatives where
            `virial` is set, and as extras "qm_charges" (B, n_qm), "qm_dipole" (B, 3) and "scc_iterations" (B,).

        Raises:
            FrameError: Wrong shapes, non-finite or singular input, colliding atoms, or a cell that changes although the
                virial is not computed.
            ConvergenceError: The SCC failed.
            NonFiniteError: A result is not finite.
        """
        if self.system.periodic and not self.virial:
            self._check_constant_cell(check_cell(cells))
        return self._evaluate(cells, positions)

    def _check_constant_cell(self, cells: FloatArray) -> None:
        """Without a virial only constant volume makes sense, and a barostat shows itself by its moving cell."""
        if self._cells is None:
            self._cells = cells.copy()
        # Replicas may have cells of their own, all of them there in the first batch.
        change = np.abs(cells[:, None] - self._cells[None]).max(axis=(2, 3)).min(axis=1)
        if np.any(change > SAME_CELL * np.abs(self._cells).max()):
            raise FrameError(
                f"the cell changed by {change.max():.3g} bohr during the run, but the virial is not computed: a "
                "barostat would be driven by a wrong pressure. Set virial = true under [mm] (12 more MM energies per "
                "frame), also for replicas in different cells, or keep the cell fixed."
            )

    def _evaluate(self, cells: FloatArray, positions: FloatArray) -> Evaluation:
        positions = check_positions(positions, self.system.n_atoms)
        cells_or_none = check_cell(cells) if self.system.periodic else None
        start = time.perf_counter()
        future = self._worker.submit(self._timed_mm, positions, cells_or_none)
        try:
            qm, forces, strain_derivatives, seconds = self._qm_part(positions, cells_or_none)
        finally:
            # Also when the QM side failed: no evaluation may outlive its call.
            future.exception()
        mm, seconds_mm = future.result()
        energies = mm.energies + _numpy(qm.energies)
        forces = forces + mm.forces
        if strain_derivatives is not None and mm.strain_derivatives is not None:
            strain_derivatives = strain_derivatives + mm.strain_derivatives
        _check_finite(energies, forces, strain_derivatives)
        self.seconds = {**seconds, "mm": seconds_mm, "total": time.perf_counter() - start}
        return Evaluation(
            energies=energies,
            forces=forces,
            strain_derivatives=strain_derivatives,
            terms={"mm": mm.energies, "dftb": _numpy(qm.energies)},
            extras={
                "qm_charges": _numpy(qm.charges),
                "qm_dipole": _numpy(qm.dipoles),
                "scc_iterations": qm.iterations.cpu().numpy(),
            },
        )

    def _timed_mm(self, positions: FloatArray, cells: FloatArray | None) -> tuple[Evaluation, float]:
        start = time.perf_counter()
        evaluation = self._mm.evaluate(positions, cells)
        return evaluation, time.perf_counter() - start

    def _qm_part(
        self, positions: FloatArray, cells: FloatArray | None
    ) -> tuple[DFTBResult, FloatArray, FloatArray | None, dict[str, float]]:
        """The QM region in its embedding: result, forces (B, N, 3), strain derivatives (B, 3, 3) and wall times."""
        start = time.perf_counter()
        leaf = torch.as_tensor(positions, device=self._device).requires_grad_()
        leaves = [leaf]
        embedded_positions: Tensor = leaf
        embedded_cells = None if cells is None else torch.as_tensor(cells, device=self._device)
        if self.virial:
            # r -> r (1 + strain), h -> h (1 + strain) at strain zero.
            strain = torch.zeros(len(leaf), 3, 3, dtype=leaf.dtype, device=self._device).requires_grad_()
            leaves.append(strain)
            embedded_positions = leaf + leaf @ strain
            if embedded_cells is not None:
                embedded_cells = embedded_cells + embedded_cells @ strain
        frames = self._embedding(embedded_positions, embedded_cells)
        embedded = time.perf_counter()
        qm = self._qm.evaluate(frames.qm_positions, frames.potentials)
        computed = time.perf_counter()
        gradients = torch.autograd.grad(
            [frames.qm_positions, frames.potentials],
            leaves,
            [qm.gradients.to(self._device), qm.charges.to(self._device)],
        )
        forces = -_numpy(gradients[0])
        strain_derivatives = _numpy(gradients[1]) if self.virial else None
        end = time.perf_counter()
        seconds = {"embedding": (embedded - start) + (end - computed), "dftb": computed - embedded}
        return qm, forces, strain_derivatives, seconds


def _numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().numpy()
    return array


def _check_finite(energies: FloatArray, forces: FloatArray, strain_derivatives: FloatArray | None) -> None:
    bad = ~np.isfinite(energies) | ~np.isfinite(forces).all(axis=(1, 2))
    if strain_derivatives is not None:
        bad |= ~np.isfinite(strain_derivatives).all(axis=(1, 2))
    if bad.any():
        raise NonFiniteError(
            f"energy, forces or virial of frame {int(np.flatnonzero(bad)[0])} of the batch are not finite; nothing is "
            "sent. Look at that geometry: atoms may have collided."
        )
