"""What training needs of each frame, computed once: symmetry functions do not change while networks learn.

With P the functions of an atom that are linear in what surrounds it (structure, directions, moments), the gradients of
an energy are J^T dE/dP, with J = dP/dR held here. For MM sites the radial functions themselves are held, and only for
the sites whose gradients enter the loss: all that are near the QM region, and of the many farther ones a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.autograd import forward_ad

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame
from deltaqmmm.errors import DatasetError
from deltaqmmm.ml import Descriptor, Surroundings
from deltaqmmm.units import ANGSTROM

FRAMES_AT_ONCE = 8
ALL_WITHIN = 6.0 * ANGSTROM
SINGLE = torch.float32


@dataclass(frozen=True, eq=False)
class PreparedFrames:
    """F frames, float32 but for the energies. n QM atoms; K sites whose gradients count, padded with weight 0.

    Attributes:
        structure: Functions among QM atoms, shape (F, n, G).
        directions: Shape (F, n, D, 3).
        moments: Shape (F, n, R, 4, T).
        jacobian: Derivatives of structure, directions and moments of each atom, one after the other, by all QM
            positions, shape (F, n, P, 3 n).
        values: Radial functions to these sites, shape (F, n, R, K).
        slopes: Their derivatives by r^2, shape (F, n, R, K).
        vectors: Shape (F, n, 4, K).
        weights: Shape (F, K).
        types: Shape (F, T, K).
        importance: How many sites each one stands for, shape (F, K); 0 for padding.
        energies: Target, shape (F,), hartree, float64.
        qm_gradients: Target, shape (F, n, 3), hartree/bohr.
        mm_gradients: Target at these sites, shape (F, K, 3), hartree/bohr.
        mm_potentials: Target derivatives by the charges of these sites, shape (F, K), hartree/e.
        charge_factors: Derivatives of their weights by their charges, shape (F, K), 1/e.
    """

    structure: Tensor
    directions: Tensor
    moments: Tensor
    jacobian: Tensor
    values: Tensor
    slopes: Tensor
    vectors: Tensor
    weights: Tensor
    types: Tensor
    importance: Tensor
    energies: Tensor
    qm_gradients: Tensor
    mm_gradients: Tensor
    mm_potentials: Tensor
    charge_factors: Tensor

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.energies)

    def take(self, indices: Tensor) -> PreparedFrames:
        """Some of the frames."""
        return PreparedFrames(*(getattr(self, field.name)[indices] for field in fields(self)))


def prepare(
    dataset: Dataset,
    descriptor: Descriptor,
    target: str,
    mm_gradient_cutoff: float,
    on_frames: Callable[[int], None] = lambda count: None,
) -> PreparedFrames:
    """Compute all frames of a dataset.

    Args:
        dataset: Labelled frames.
        descriptor: The symmetry functions of its system, in float64.
        target: "delta" or "direct".
        mm_gradient_cutoff: Sites this close to any QM atom count, bohr.
        on_frames: Called with the number of frames done in each step.

    Raises:
        DatasetError: There are no frames.
    """
    frames = dataset.frames
    if not frames:
        raise DatasetError("the dataset holds no frames.")
    samples = [_sampled_sites(frame, mm_gradient_cutoff) for frame in frames]
    width = max(1, max(len(places) for places, _ in samples))
    parts = []
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        stop = start + FRAMES_AT_ONCE
        parts.append(_prepare_some(frames[start:stop], samples[start:stop], width, descriptor, target))
        on_frames(len(parts[-1]))
    return PreparedFrames(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(PreparedFrames))
    )


def label_of(frame: LabelledFrame, target: str) -> EnergyLabel:
    """What a network has to learn of a frame: the reference, or its difference to the baseline."""
    if target == "direct":
        return frame.reference
    return EnergyLabel(
        energy=frame.reference.energy - frame.baseline.energy,
        qm_gradients=frame.reference.qm_gradients - frame.baseline.qm_gradients,
        mm_gradients=frame.reference.mm_gradients - frame.baseline.mm_gradients,
        mm_potentials=frame.reference.mm_potentials - frame.baseline.mm_potentials,
    )


def pad_frames(frames: Sequence[LabelledFrame]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return QM positions (B, n, 3), MM positions (B, K, 3), charges (B, K) and sites (B, K); padding is far away."""
    width = max(1, max(len(frame.mm_charges) for frame in frames))
    qm = torch.stack([torch.as_tensor(frame.qm_positions, dtype=torch.float64) for frame in frames])
    positions = torch.full((len(frames), width, 3), 1e4, dtype=torch.float64)
    charges = torch.zeros(len(frames), width, dtype=torch.float64)
    sites = torch.full((len(frames), width), -1, dtype=torch.int64)
    for row, frame in enumerate(frames):
        count = len(frame.mm_charges)
        positions[row, :count] = torch.as_tensor(frame.mm_positions, dtype=torch.float64)
        charges[row, :count] = torch.as_tensor(frame.mm_charges, dtype=torch.float64)
        sites[row, :count] = torch.as_tensor(frame.mm_sites, dtype=torch.int64)
    return qm, positions, charges, sites


def _sampled_sites(frame: LabelledFrame, cutoff: float) -> tuple[Tensor, Tensor]:
    """Numbers of the sites whose gradients count, and how many sites each one stands for.

    Within `ALL_WITHIN` all are taken, farther out one with the probability (`ALL_WITHIN` / r)^3: there are many, and
    they say much the same.
    """
    if len(frame.mm_positions) == 0:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    distances, _ = cKDTree(frame.qm_positions).query(frame.mm_positions)
    probabilities = np.minimum(1.0, (ALL_WITHIN / np.maximum(distances, ALL_WITHIN)) ** 3)
    # The identity of the frame is the seed: the same sites are taken whatever the dataset around it.
    drawn = np.random.default_rng(int(frame.identity[:15], 16)).random(len(distances))
    taken = np.flatnonzero((distances < cutoff) & (drawn < probabilities))
    return torch.as_tensor(taken), torch.as_tensor(1.0 / probabilities[taken])


def _prepare_some(
    frames: Sequence[LabelledFrame],
    samples: Sequence[tuple[Tensor, Tensor]],
    width: int,
    descriptor: Descriptor,
    target: str,
) -> PreparedFrames:
    qm, mm, charges, sites = pad_frames(frames)
    around, factors = descriptor.surroundings(qm, mm, charges, sites)
    labels = [label_of(frame, target) for frame in frames]
    places = torch.zeros(len(frames), width, dtype=torch.int64)
    importance = torch.zeros(len(frames), width, dtype=torch.float64)
    gradients = torch.zeros(len(frames), width, 3, dtype=torch.float64)
    potentials = torch.zeros(len(frames), width, dtype=torch.float64)
    for row, ((indices, counts), label) in enumerate(zip(samples, labels, strict=True)):
        places[row, : len(indices)] = indices
        importance[row, : len(indices)] = counts
        gradients[row, : len(indices)] = torch.as_tensor(label.mm_gradients, dtype=torch.float64)[indices]
        potentials[row, : len(indices)] = torch.as_tensor(label.mm_potentials, dtype=torch.float64)[indices]
    structure, directions, jacobian = _structure_jacobian(descriptor, qm)
    moments = around.moments()
    own = around.jacobian().reshape(len(frames), qm.shape[1], -1, 3)
    by_all = own.new_zeros(len(frames), qm.shape[1], own.shape[2], qm.shape[1], 3)
    atoms = torch.arange(qm.shape[1])
    by_all[:, atoms, :, atoms] = own.transpose(0, 1)
    by_all = by_all.reshape(*by_all.shape[:3], -1)
    chosen = places[:, None, None]
    n_qm, n_radial = around.values.shape[1:3]
    return PreparedFrames(
        structure=structure.to(SINGLE),
        directions=directions.to(SINGLE),
        moments=moments.to(SINGLE),
        jacobian=torch.cat([jacobian, by_all], dim=2).to(SINGLE),
        values=around.values.gather(3, chosen.expand(-1, n_qm, n_radial, -1)).to(SINGLE),
        slopes=around.slopes.gather(3, chosen.expand(-1, n_qm, n_radial, -1)).to(SINGLE),
        vectors=around.vectors.gather(3, chosen.expand(-1, n_qm, 4, -1)).to(SINGLE),
        weights=(around.weights.gather(1, places) * (importance > 0.0)).to(SINGLE),
        types=around.types.gather(2, places[:, None].expand(-1, around.types.shape[1], -1)).to(SINGLE),
        importance=importance.to(SINGLE),
        energies=torch.tensor([label.energy for label in labels], dtype=torch.float64),
        qm_gradients=torch.tensor([label.qm_gradients.tolist() for label in labels], dtype=SINGLE),
        mm_gradients=gradients.to(SINGLE),
        mm_potentials=potentials.to(SINGLE),
        charge_factors=factors.gather(1, places).to(SINGLE),
    )


def _structure_jacobian(descriptor: Descriptor, qm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Functions among QM atoms, directions, and the derivatives of both by QM positions, shape (F, n, G + 3 D, 3 n)."""
    n_frames, n_atoms = qm.shape[:2]
    structure, directions = descriptor.structure(qm)
    columns = []
    # Forward mode: one pass for each coordinate, of which there are far fewer than functions.
    for coordinate in range(3 * n_atoms):
        tangent = torch.zeros(3 * n_atoms, dtype=qm.dtype)
        tangent[coordinate] = 1.0
        with forward_ad.dual_level():
            along = tangent.reshape(1, n_atoms, 3).expand_as(qm).contiguous()
            dual = forward_ad.make_dual(qm, along)  # type: ignore[no-untyped-call]
            unpacked = map(forward_ad.unpack_dual, descriptor.structure(dual))
            outputs = [output.tangent for output in unpacked]
        columns.append(torch.cat([output.reshape(n_frames, n_atoms, -1) for output in outputs], dim=2))
    return structure, directions, torch.stack(columns, dim=-1)


def sampled_surroundings(frames: PreparedFrames) -> Surroundings:
    """The MM sites that count, for `Surroundings.pull_back`."""
    return Surroundings(frames.values, frames.slopes, frames.vectors, frames.weights, frames.types)
