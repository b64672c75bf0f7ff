"""What training needs of each frame, computed once: symmetry functions do not change while networks learn.

With P the functions of an atom that are linear in what surrounds it (structure, directions, moments), the gradients of
an energy are J^T dE/dP, with J = dP/dR held here. For MM sites the radial functions themselves are held, and only for
sites near the QM region, whose gradients enter the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame
from deltaqmmm.errors import DatasetError
from deltaqmmm.ml import Descriptor, Surroundings

FRAMES_AT_ONCE = 8
SINGLE = torch.float32


@dataclass(frozen=True, eq=False)
class PreparedFrames:
    """F frames, float32 but for the energies. n QM atoms; K sites near the QM region, padded with weight 0.

    Attributes:
        structure: Functions among QM atoms, shape (F, n, G).
        directions: Shape (F, n, D, 3).
        moments: Shape (F, n, R, 4, T).
        jacobian: Derivatives of structure, directions and moments of each atom, one after the other, by all QM
            positions, shape (F, n, P, 3 n).
        values: Radial functions to the near sites, shape (F, n, R, K).
        slopes: Their derivatives by r^2, shape (F, n, R, K).
        vectors: Shape (F, n, 4, K).
        weights: Shape (F, K).
        types: Shape (F, T, K).
        near: 1 for a near site, 0 for padding, shape (F, K).
        energies: Target, shape (F,), hartree, float64.
        qm_gradients: Target, shape (F, n, 3), hartree/bohr.
        mm_gradients: Target at the near sites, shape (F, K, 3), hartree/bohr.
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
    near: Tensor
    energies: Tensor
    qm_gradients: Tensor
    mm_gradients: Tensor

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
        mm_gradient_cutoff: Sites this close to any QM atom are near, bohr.
        on_frames: Called with the number of frames done in each step.

    Raises:
        DatasetError: There are no frames.
    """
    frames = dataset.frames
    if not frames:
        raise DatasetError("the dataset holds no frames.")
    nearness = [_near_sites(frame, mm_gradient_cutoff) for frame in frames]
    width = max(1, max(int(near.sum()) for near in nearness))
    parts = []
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        stop = start + FRAMES_AT_ONCE
        parts.append(_prepare_some(frames[start:stop], nearness[start:stop], width, descriptor, target))
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


def _near_sites(frame: LabelledFrame, cutoff: float) -> Tensor:
    mm = torch.as_tensor(frame.mm_positions, dtype=torch.float64)
    if len(mm) == 0:
        return torch.zeros(0, dtype=torch.bool)
    return torch.cdist(mm, torch.as_tensor(frame.qm_positions, dtype=torch.float64)).min(dim=1).values < cutoff


def _prepare_some(
    frames: Sequence[LabelledFrame], nearness: Sequence[Tensor], width: int, descriptor: Descriptor, target: str
) -> PreparedFrames:
    qm, mm, charges, sites = pad_frames(frames)
    around, _ = descriptor.surroundings(qm, mm, charges, sites)
    labels = [label_of(frame, target) for frame in frames]
    # The near sites come first; what is beyond them in a shorter list has weight 0 and does not count.
    places = torch.zeros(len(frames), width, dtype=torch.int64)
    near = torch.zeros(len(frames), width, dtype=torch.float64)
    gradients = torch.zeros(len(frames), width, 3, dtype=torch.float64)
    for row, (mask, label) in enumerate(zip(nearness, labels, strict=True)):
        indices = mask.nonzero()[:, 0]
        places[row, : len(indices)] = indices
        near[row, : len(indices)] = 1.0
        gradients[row, : len(indices)] = torch.as_tensor(label.mm_gradients, dtype=torch.float64)[indices]
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
        weights=(around.weights.gather(1, places) * near).to(SINGLE),
        types=around.types.gather(2, places[:, None].expand(-1, around.types.shape[1], -1)).to(SINGLE),
        near=near.to(SINGLE),
        energies=torch.tensor([label.energy for label in labels], dtype=torch.float64),
        qm_gradients=torch.tensor([label.qm_gradients.tolist() for label in labels], dtype=SINGLE),
        mm_gradients=gradients.to(SINGLE),
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


def near_surroundings(frames: PreparedFrames) -> Surroundings:
    """The near MM sites, for `Surroundings.pull_back`."""
    return Surroundings(frames.values, frames.slopes, frames.vectors, frames.weights, frames.types)
