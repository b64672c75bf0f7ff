"""What a model or the baseline says about labelled frames: total energies and their partial derivatives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltaqmmm.dataset import LabelledFrame
from deltaqmmm.results import FloatArray
from deltaqmmm.training.preparation import pad_frames

if TYPE_CHECKING:
    from torch import Tensor

    from deltaqmmm.ml import Correction


@dataclass(frozen=True, eq=False)
class Predictions:
    """Energies of the QM region in its charges, and their partial derivatives, of F frames.

    Attributes:
        energies: Shape (F,), hartree.
        qm_gradients: Shape (F, n_qm, 3), hartree/bohr.
        mm_gradients: Of each frame, shape (K, 3), hartree/bohr, at fixed effective charges.
    """

    energies: FloatArray
    qm_gradients: FloatArray
    mm_gradients: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class CommitteePredictions:
    """What C members say about F frames.

    Attributes:
        mean: Mean over the members: what a run uses.
        members: Each member.
        energy_spreads: Standard deviation of the members' energies, shape (F,), hartree.
        gradient_spreads: Of the QM atom on which the members disagree most: the root of the summed variances of its
            three gradient components, shape (F,), hartree/bohr.
        seconds_per_frame: Wall time of the whole committee, gradients included, per frame of a full batch.
    """

    mean: Predictions
    members: tuple[Predictions, ...]
    energy_spreads: FloatArray
    gradient_spreads: FloatArray
    seconds_per_frame: float

    @classmethod
    def from_members(cls, members: Sequence[Predictions], seconds_per_frame: float = 0.0) -> CommitteePredictions:
        """Means and spreads of the members; the variances are unbiased, and zero for a single member."""
        energies = np.stack([member.energies for member in members])
        qm_gradients = np.stack([member.qm_gradients for member in members])
        return cls(
            mean=average(members),
            members=tuple(members),
            energy_spreads=np.sqrt(_variance(energies)),
            gradient_spreads=np.sqrt(_variance(qm_gradients).sum(axis=-1)).max(axis=-1, initial=0.0),
            seconds_per_frame=seconds_per_frame,
        )


def average(members: Sequence[Predictions]) -> Predictions:
    """The mean over members."""
    return Predictions(
        energies=np.mean([member.energies for member in members], axis=0),
        qm_gradients=np.mean([member.qm_gradients for member in members], axis=0),
        mm_gradients=tuple(
            np.mean(each, axis=0) for each in zip(*(member.mm_gradients for member in members), strict=True)
        ),
    )


def reference_predictions(frames: Sequence[LabelledFrame]) -> Predictions:
    """The reference labels themselves."""
    return Predictions(
        energies=np.array([frame.reference.energy for frame in frames]),
        qm_gradients=np.array([frame.reference.qm_gradients for frame in frames]),
        mm_gradients=tuple(frame.reference.mm_gradients for frame in frames),
    )


def baseline_predictions(frames: Sequence[LabelledFrame]) -> Predictions:
    """The uncorrected baseline."""
    return Predictions(
        energies=np.array([frame.baseline.energy for frame in frames]),
        qm_gradients=np.array([frame.baseline.qm_gradients for frame in frames]),
        mm_gradients=tuple(frame.baseline.mm_gradients for frame in frames),
    )


def predict(
    correction: Correction, frames: Sequence[LabelledFrame], target: str, batch: int = 8
) -> CommitteePredictions:
    """What a committee says about frames.

    Args:
        correction: The committee, bound to the system of the frames.
        frames: At least one.
        target: "delta": the baseline's label is added. "direct": the committee stands alone.
        batch: Frames evaluated at once.
    """
    results: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    times: list[float] = []
    for first in range(0, len(frames), batch):
        tensors = pad_frames(frames[first : first + batch])
        if first == 0:
            # Pays for what is set up once, and is not timed: a first call of a process may compile for half a minute.
            correction.evaluate(*tensors)
        start = time.perf_counter()
        result = correction.evaluate(*tensors)
        results.append((_numpy(result.energies), _numpy(result.qm_gradients), _numpy(result.mm_gradients)))
        times.append((time.perf_counter() - start) / len(tensors[0]))
    base = baseline_predictions(frames) if target == "delta" else None
    sizes = [len(frame.mm_charges) for frame in frames]
    members = []
    for member in range(correction.n_members):
        energies = np.concatenate([energy[member] for energy, _, _ in results])
        qm_gradients = np.concatenate([gradient[member] for _, gradient, _ in results])
        rows = [row for _, _, gradient in results for row in gradient[member]]
        mm_gradients = [row[:size] for row, size in zip(rows, sizes, strict=True)]
        if base is not None:
            energies, qm_gradients = energies + base.energies, qm_gradients + base.qm_gradients
            mm_gradients = [a + b for a, b in zip(mm_gradients, base.mm_gradients, strict=True)]
        members.append(Predictions(energies, qm_gradients, tuple(mm_gradients)))
    return CommitteePredictions.from_members(members, float(np.median(times)))


def _variance(values: FloatArray) -> FloatArray:
    """Unbiased variance over the first axis; zero if it has one entry."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return np.asarray(values.var(axis=0, ddof=1))


def _numpy(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().numpy().astype(np.float64)
