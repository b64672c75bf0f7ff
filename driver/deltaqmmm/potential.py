"""The sum of the terms: E = E_MM(R) + E_DFTB(R_QM; phi) + E_correction(R_QM, {r_j, q_j}), with all derivatives.

This is the only place where terms meet. The MM engine computes in a thread of its own while the QM side runs: OpenMM
releases the interpreter while it works.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from deltaqmmm.committee import CommitteeSettings, Correction
from deltaqmmm.companions import refuse_fork
from deltaqmmm.errors import ConfigError, FrameError, NonFiniteError
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.qm_side import Embedding, QMEngine, QMSide
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.system import System

TERMS = ("mm", "dftb", "correction")
"""The names of the terms."""

SAME_CELL = 1e-8
"""Relative change of a cell below which it counts as constant."""


_PATIENCE_SECONDS = 0.2
"""How long an MM evaluation may go on after an interruption before it is ended."""


class MMEngine(Protocol):
    """Energies and forces of all classical terms."""

    def evaluate(self, positions: FloatArray, cells: FloatArray | None = None) -> Evaluation:
        """Evaluate B frames: positions (B, N, 3) and cells (B, 3, 3), bohr."""

    def interrupt(self) -> None:
        """Have an evaluation that another thread has begun end soon, if need be with an error, as far as it can."""


_MMResult = Future[tuple[Evaluation, float]]
"""An evaluation of the MM term under way, and its seconds."""


class Potential:
    """The QM/MM potential energy and its derivatives for batches of frames.

    Attributes:
        system: The QM/MM split.
        virial: Whether strain derivatives are computed.
        terms: The names of the terms that are computed, of `TERMS`.
        seconds: Wall time of each part of the last evaluation ("mm" runs beside the others).
    """

    def __init__(
        self,
        system: System,
        mm: MMEngine | None,
        embedding: Embedding,
        qm: QMEngine | None,
        correction: Correction | None = None,
        *,
        committee: CommitteeSettings | None = None,
        virial: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Join the engines. A term whose engine is None is not computed.

        Args:
            system: The QM/MM split that all of them were made for.
            mm: The classical terms.
            embedding: What the QM region sees of its surroundings.
            qm: The QM region.
            correction: What is learned on top of it, or instead of it.
            committee: What is made of the members of the correction; by default their mean.
            virial: Compute strain derivatives; the MM engine must do so too.
            device: Where embedding, QM and correction compute.

        Raises:
            ConfigError: There is no term at all, or a single member is to fade or to be shown as a committee.
        """
        engines = dict(zip(TERMS, (mm, qm, correction), strict=True))
        self.terms = tuple(name for name, engine in engines.items() if engine is not None)
        if not self.terms:
            raise ConfigError(f"a potential without terms computes nothing: give one or more of {', '.join(TERMS)}.")
        committee = committee or CommitteeSettings()
        if correction is not None:
            committee.check(correction.n_members)
        self.system = system
        self.virial = virial
        self.seconds: Mapping[str, float] = {}
        self._mm = mm
        self._owner = os.getpid()
        masses = system.masses[system.qm_atoms]
        self._qm_side = QMSide(embedding, qm, correction, committee, masses, virial=virial, device=device)
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
            Energies, the terms "mm", "dftb" and "correction" that are computed (their sum is the energy), forces, and
            strain derivatives where `virial` is set. As extras, with DFTB: "qm_charges" (B, n_qm), "qm_dipole" (B, 3)
            about the centre of mass of the QM region, and "scc_iterations" (B,). With a correction of C > 1 members:
            "committee_energy_spread" (B,), their sample standard deviation, hartree, and "committee_force_spread"
            (B,), hartree/bohr (see `committee.force_spreads`); where it may fade, "correction_scale" (B,); with
            `committee.extras`, "committee_pot" (B, C), "committee_force" (B, C, N, 3) and "committee_virial"
            (B, C, 3, 3), the virial with i-PI's sign and orientation: whole energies, every other term that is
            computed included.

        Raises:
            FrameError: Wrong shapes, non-finite or singular input, colliding atoms, or a cell that changes although the
                virial is not computed.
            ConvergenceError: The SCC failed.
            NonFiniteError: A result is not finite.
            ConfigError: Strain derivatives are wanted, and the MM engine gives none.
            ExternalToolError: A program or process that computes a term fails, or the potential, with an MM engine, was
                made before this process was forked.
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
        with self._mm_beside(positions, cells_or_none) as future:
            qm_side = self._qm_side.evaluate(positions, cells_or_none)
        seconds = dict(qm_side.seconds)
        forces, strain_derivatives = qm_side.forces, qm_side.strain_derivatives
        terms: dict[str, FloatArray] = {}
        if future is not None:
            mm, seconds["mm"] = future.result()
            forces = forces + mm.forces
            if strain_derivatives is not None:
                if mm.strain_derivatives is None:
                    raise ConfigError(
                        "the virial is to be computed, but the MM engine gives no strain derivatives: make it with "
                        "virial = true ([mm] in a configuration file)."
                    )
                strain_derivatives = strain_derivatives + mm.strain_derivatives
            terms["mm"] = mm.energies
        terms.update(qm_side.terms)
        energies = np.sum(list(terms.values()), axis=0)
        _check_finite(energies, forces, strain_derivatives)
        extras = dict(qm_side.extras)
        if qm_side.members is not None:
            extras.update(qm_side.members.extras(energies, forces, strain_derivatives))
        self.seconds = {**seconds, "total": time.perf_counter() - start}
        return Evaluation(energies, forces, strain_derivatives, terms, extras)

    @contextmanager
    def _mm_beside(self, positions: FloatArray, cells: FloatArray | None) -> Iterator[_MMResult | None]:
        """Evaluate the MM term, if there is one, while the block runs; no evaluation outlives it, however it ends."""
        if self._mm is None:
            yield None
            return
        # A forked process lacks the thread, and would wait for it for ever.
        refuse_fork(self._owner, "potential")
        future = self._worker.submit(_timed, self._mm, positions, cells)
        try:
            try:
                yield future
            except Exception:
                wait([future])
                raise
            wait([future])
        finally:
            # Still under way after an interruption alone: where it hangs, this process would not end before it. More
            # than once, for it may just be beginning.
            while wait([future], _PATIENCE_SECONDS).not_done:
                self._mm.interrupt()


def _timed(engine: MMEngine, positions: FloatArray, cells: FloatArray | None) -> tuple[Evaluation, float]:
    start = time.perf_counter()
    evaluation = engine.evaluate(positions, cells)
    return evaluation, time.perf_counter() - start


def _check_finite(energies: FloatArray, forces: FloatArray, strain_derivatives: FloatArray | None) -> None:
    bad = ~np.isfinite(energies) | ~np.isfinite(forces).all(axis=(1, 2))
    if strain_derivatives is not None:
        bad |= ~np.isfinite(strain_derivatives).all(axis=(1, 2))
    if bad.any():
        raise NonFiniteError(
            f"energy, forces or virial of frame {int(np.flatnonzero(bad)[0])} of the batch are not finite; nothing is "
            "sent. Look at that geometry: atoms may have collided."
        )
