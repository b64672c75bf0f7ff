"""From a frame of the whole system to what is labelled, and the baseline's label of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.dataset import EnergyLabel, Source
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.embedding.pairs import charge_potentials
from deltaqmmm.errors import NonFiniteError
from deltaqmmm.qm_side import QMEngine
from deltaqmmm.results import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class EmbeddedFrame:
    """One frame as the QM side sees it: see `dataset.LabelledFrame` for the arrays."""

    identity: str
    source: Source
    qm_positions: FloatArray
    mm_positions: FloatArray
    mm_charges: FloatArray
    mm_sites: IntArray

    def renamed(self, source: Source) -> EmbeddedFrame:
        """The same frame from another source."""
        return replace(self, source=source)


def embed(
    embedding: CutoffEmbedding, positions: FloatArray, cell: FloatArray | None, identity: str, source: Source
) -> EmbeddedFrame:
    """Embed a frame exactly as a run does, and round the positions of the sites to float32.

    Args:
        embedding: The embedding of the run.
        positions: All atoms, shape (N, 3), bohr.
        cell: Lattice vectors as rows, shape (3, 3), bohr, or None.
        identity: Hash of the frame.
        source: Where it comes from.

    Raises:
        FrameError: The frame cannot be embedded.
    """
    cells = None if cell is None else torch.as_tensor(cell, dtype=torch.float64)[None]
    frames = embedding(torch.as_tensor(positions, dtype=torch.float64)[None], cells)
    kept = frames.mm_sites[0].cpu().numpy() >= 0
    return EmbeddedFrame(
        identity=identity,
        source=source,
        qm_positions=_numpy(frames.qm_positions[0]),
        mm_positions=_numpy(frames.mm_positions[0])[kept].astype(np.float32).astype(np.float64),
        mm_charges=_numpy(frames.mm_charges[0])[kept],
        mm_sites=np.asarray(frames.mm_sites[0].cpu().numpy(), dtype=np.int64)[kept],
    )


def label_baseline(engine: QMEngine, blur_width: float, frame: EmbeddedFrame) -> tuple[EnergyLabel, FloatArray]:
    """The baseline's energy and derivatives at fixed effective charges, and its Mulliken charges (n_qm,).

    Args:
        engine: The DFTB engine of the run.
        blur_width: Width of the Gaussian MM charges, bohr.
        frame: The frame.

    Raises:
        ConvergenceError: The SCC did not converge.
        FrameError: QM atoms have collided.
        NonFiniteError: A result is not finite.
    """
    leaves = [
        torch.as_tensor(array, device=engine.device)[None].requires_grad_()
        for array in (frame.qm_positions, frame.mm_positions, frame.mm_charges)
    ]
    potentials, _ = charge_potentials(leaves[0], leaves[1], leaves[2], blur_width)
    result = engine.evaluate(leaves[0], potentials)
    by_qm, by_mm, by_charge = torch.autograd.grad(potentials, leaves, result.charges)
    label = EnergyLabel(
        energy=float(result.energies[0]),
        qm_gradients=_numpy(result.gradients[0] + by_qm[0]),
        mm_gradients=_numpy(by_mm[0]),
        mm_potentials=_numpy(by_charge[0]),
    )
    if not label.is_finite():
        raise NonFiniteError("the energy or a gradient of the baseline is not finite")
    return label, _numpy(result.charges[0])


def _numpy(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
