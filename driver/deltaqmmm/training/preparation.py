"""What training needs of each frame, computed once: symmetry functions do not change while networks learn.

With P the functions of an atom that are linear in what surrounds it (structure, directions, moments), the gradients of
an energy are J^T dE/dP, with J = dP/dR held here. For MM sites the radial functions themselves are held, and only for
the sites whose gradients enter the loss: all that are near the QM region, and of the many farther ones a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame
from deltaqmmm.errors import DatasetError
from deltaqmmm.ml import Descriptor, Shell, pull_back
from deltaqmmm.units import ANGSTROM

FRAMES_AT_ONCE = 2
ALL_WITHIN = 6.0 * ANGSTROM
SINGLE = torch.float32


@dataclass(frozen=True, eq=False)
class PreparedFrames:
    """F frames, float32 but for the energies. n QM atoms; K sites whose gradients count, padded with weight 0.

    Attributes:
        radial_moments: Sums over QM atoms, shape (F, n, R, 1, E).
        angular_moments: Sums over QM atoms with directions, shape (F, n, R', P, E).
        outer_moments: Of the outer shell of MM sites, with other R and P, shape (F, n, R, P, T).
        inner_moments: Of the inner shell, likewise.
        jacobian: Derivatives of these moments of each atom, one after the other, by all QM positions, shape
            (F, n, Q, 3 n).
        outer: To these sites, as many for all frames.
        inner: To the K' of them that are in the inner shell.
        places: Where the sites of the inner shell stand among the K sites, shape (F, K').
        counted: 1 for sites and 0 for padding, shape (F, K).
        energies: Target, shape (F,), hartree, float64.
        qm_gradients: Target, shape (F, n, 3), hartree/bohr.
        mm_gradients: Target at these sites, shape (F, K, 3), hartree/bohr.
        mm_potentials: Target derivatives by the charges of these sites, shape (F, K), hartree/e.
        charge_factors: Derivatives of their weights by their charges, shape (F, K), 1/e.
    """

    radial_moments: Tensor
    angular_moments: Tensor
    outer_moments: Tensor
    inner_moments: Tensor
    jacobian: Tensor
    outer: Shell
    inner: Shell
    places: Tensor
    counted: Tensor
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
        some: dict[str, Any] = {
            name: value.each(lambda tensor: tensor[indices]) if isinstance(value, Shell) else value[indices]
            for name, value in vars(self).items()
        }
        return PreparedFrames(**some)

    @classmethod
    def joined(cls, parts: Sequence[PreparedFrames]) -> PreparedFrames:
        """The frames of all parts; over sites, the last axis of what is of them, they are padded to the longest."""
        every: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            every[field.name] = Shell.joined(values, _join) if isinstance(values[0], Shell) else _join(values)
        return cls(**every)

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `ml.combine` takes."""
        return self.radial_moments, self.angular_moments, self.outer_moments, self.inner_moments

    def pull_back(self, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives by these sites and by their weights, from those by the moments; see `ml.pull_back`."""
        return pull_back(self.outer, self.inner, self.places, outer, inner)


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
    near = max(ALL_WITHIN, descriptor.functions.mm_near_cutoff)
    samples = [_sampled_sites(frame, mm_gradient_cutoff, near) for frame in frames]
    width = max(1, max(map(len, samples)))
    parts = []
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        stop = start + FRAMES_AT_ONCE
        parts.append(_prepare_some(frames[start:stop], samples[start:stop], width, descriptor, target))
        on_frames(len(parts[-1]))
    return PreparedFrames.joined(parts)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other; the last axis, where it is over sites, is padded to the longest."""
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat(
        [
            torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1])) if tensor.dim() > 1 else tensor
            for tensor in tensors
        ]
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


def _sampled_sites(frame: LabelledFrame, cutoff: float, near: float) -> Tensor:
    """Numbers of the sites whose gradients count.

    Within `near` all are taken, farther out one with the probability (`near` / r)^3: there are many, they say much the
    same, and the energy depends least on them.
    """
    if len(frame.mm_positions) == 0:
        return torch.zeros(0, dtype=torch.int64)
    distances, _ = cKDTree(frame.qm_positions).query(frame.mm_positions)
    probabilities = np.minimum(1.0, (near / np.maximum(distances, near)) ** 3)
    # The identity of the frame is the seed: the same sites are taken whatever the dataset around it.
    drawn = np.random.default_rng(int(frame.identity[:15], 16)).random(len(distances))
    return torch.as_tensor(np.flatnonzero((distances < cutoff) & (drawn < probabilities)))


def _prepare_some(
    frames: Sequence[LabelledFrame],
    samples: Sequence[Tensor],
    width: int,
    descriptor: Descriptor,
    target: str,
) -> PreparedFrames:
    qm, mm, charges, sites = pad_frames(frames)
    around, factors = descriptor.surroundings(qm, mm, charges, sites)
    labels = [label_of(frame, target) for frame in frames]
    places = torch.zeros(len(frames), width, dtype=torch.int64)
    counted = torch.zeros(len(frames), width, dtype=torch.float64)
    gradients = torch.zeros(len(frames), width, 3, dtype=torch.float64)
    potentials = torch.zeros(len(frames), width, dtype=torch.float64)
    for row, (indices, label) in enumerate(zip(samples, labels, strict=True)):
        places[row, : len(indices)] = indices
        counted[row, : len(indices)] = 1.0
        gradients[row, : len(indices)] = torch.as_tensor(label.mm_gradients, dtype=torch.float64)[indices]
        potentials[row, : len(indices)] = torch.as_tensor(label.mm_potentials, dtype=torch.float64)[indices]
    neighbours = descriptor.structure(qm)
    own = neighbours.jacobian().flatten(-2)
    moments = around.moments()
    outer = around.outer.at(places, around.outer.weights.gather(1, places) * counted)
    # Where the sites of the inner shell stand among those that count; those that do not count are left out.
    standing = torch.full(charges.shape, -1, dtype=torch.int64)
    for row, indices in enumerate(samples):
        standing[row, indices] = torch.arange(len(indices))
    inner_places = standing.gather(1, around.places)
    counts = inner_places >= 0
    inner = replace(
        around.inner.without_jacobian(),
        values=around.inner.values * counts[:, None, None],
        slopes=around.inner.slopes * counts[:, None, None],
        weights=around.inner.weights * counts,
    )
    return PreparedFrames(
        radial_moments=neighbours.radial.moments().to(SINGLE),
        angular_moments=neighbours.angular.moments().to(SINGLE),
        outer_moments=moments[0].to(SINGLE),
        inner_moments=moments[1].to(SINGLE),
        jacobian=torch.cat([own, *map(_by_all, (around.outer, around.inner))], dim=2).to(SINGLE),
        outer=outer.each(_single),
        inner=inner.each(_single),
        places=inner_places.clamp(min=0),
        counted=counted.to(SINGLE),
        energies=torch.tensor([label.energy for label in labels], dtype=torch.float64),
        qm_gradients=torch.tensor([label.qm_gradients.tolist() for label in labels], dtype=SINGLE),
        mm_gradients=gradients.to(SINGLE),
        mm_potentials=potentials.to(SINGLE),
        charge_factors=factors.gather(1, places).to(SINGLE),
    )


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(SINGLE)


def _by_all(shell: Shell) -> Tensor:
    """Derivatives of the moments by the positions of all QM atoms, shape (F, n, R P T, 3 n)."""
    jacobian = shell.jacobian()
    n_frames, n_atoms = jacobian.shape[:2]
    own = jacobian.flatten(2, 4)
    by_all = own.new_zeros(n_frames, n_atoms, own.shape[2], n_atoms, 3)
    atoms = torch.arange(n_atoms)
    by_all[:, atoms, :, atoms] = own.transpose(0, 1)
    return by_all.flatten(3)
