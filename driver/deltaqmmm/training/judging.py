"""How good a trained committee is: on test frames, or on the frames that its members have not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltaqmmm.dataset import Dataset, LabelledFrame
from deltaqmmm.errors import DatasetError
from deltaqmmm.ml import CommitteeModel
from deltaqmmm.training.metrics import Metrics, SpreadCheck, check_spreads, compute_metrics
from deltaqmmm.training.predictions import (
    CommitteePredictions,
    Predictions,
    average,
    baseline_predictions,
    predict,
)

BATCH = 8


@dataclass(frozen=True, eq=False)
class Judgement:
    """Errors on some frames.

    Attributes:
        frames: The frames.
        model: What the model says about them.
        baseline: What the baseline says.
        rows: Errors of the baseline, then of the model.
        spreads: Spread and true error; None where they say nothing: one member, or frames that members learned from.
    """

    frames: tuple[LabelledFrame, ...]
    model: Predictions
    baseline: Predictions
    rows: tuple[Metrics, ...]
    spreads: SpreadCheck | None


def judge(model: CommitteeModel, dataset: Dataset, name: str, baseline_name: str) -> Judgement:
    """Judge a committee on frames that no member has seen.

    Args:
        model: The committee.
        dataset: The frames.
        name: What the table calls the model.
        baseline_name: What it calls the baseline.

    Raises:
        DatasetError: There are no frames.
        ModelError: The model does not know the system.
    """
    predictions = _predict(model, dataset, dataset.frames)
    spreads = check_spreads(predictions, dataset.frames) if model.n_members > 1 else None
    return _judgement(model, dataset, dataset.frames, predictions.mean, predictions, (name, baseline_name), spreads)


def judge_held_out(
    model: CommitteeModel, dataset: Dataset, held_out: Sequence[Sequence[int]], name: str, baseline_name: str
) -> Judgement:
    """Judge a committee on its training set: each frame by the mean of only those members that have not learned it.

    Args:
        model: The committee.
        dataset: The training set.
        held_out: For each member the places of the frames that it has not learned.
        name: What the table calls the model.
        baseline_name: What it calls the baseline.

    Raises:
        DatasetError: There are no frames.
    """
    places = sorted({place for member in held_out for place in member})
    frames = tuple(dataset.frames[place] for place in places)
    predictions = _predict(model, dataset, frames)
    members = [[m for m, held in enumerate(held_out) if place in set(held)] for place in places]
    return _judgement(
        model, dataset, frames, held_out_mean(predictions, members), predictions, (name, baseline_name), None
    )


def held_out_mean(predictions: CommitteePredictions, members: Sequence[Sequence[int]]) -> Predictions:
    """The mean over some members only, others for each frame.

    Args:
        predictions: Of F frames.
        members: Numbers of the members to take for each frame; at least one.
    """
    each = [
        average([_only(predictions.members[member], row) for member in chosen]) for row, chosen in enumerate(members)
    ]
    return Predictions(
        energies=np.concatenate([one.energies for one in each]),
        qm_gradients=np.concatenate([one.qm_gradients for one in each]),
        mm_gradients=tuple(one.mm_gradients[0] for one in each),
    )


def _only(predictions: Predictions, row: int) -> Predictions:
    return Predictions(
        predictions.energies[row : row + 1], predictions.qm_gradients[row : row + 1], (predictions.mm_gradients[row],)
    )


def _predict(model: CommitteeModel, dataset: Dataset, frames: Sequence[LabelledFrame]) -> CommitteePredictions:
    if not frames:
        raise DatasetError("There are no frames to judge the model on; at least one is needed.")
    table = dataset.system
    correction = model.bind(table.qm_symbols, table.site_symbols, table.site_types, table.site_charges)
    return predict(correction, frames, model.info.target, BATCH)


def _judgement(
    model: CommitteeModel,
    dataset: Dataset,
    frames: Sequence[LabelledFrame],
    mean: Predictions,
    predictions: CommitteePredictions,
    names: tuple[str, str],
    spreads: SpreadCheck | None,
) -> Judgement:
    baseline = baseline_predictions(frames)
    reach = dataset.mm_gradient_cutoff
    rows = (
        compute_metrics(f"{names[1]}, uncorrected", baseline, frames, remove_offset=True, labelled_within=reach),
        compute_metrics(
            names[0],
            mean,
            frames,
            n_parameters=model.info.n_parameters,
            milliseconds=1e3 * predictions.seconds_per_frame,
            labelled_within=reach,
        ),
    )
    return Judgement(tuple(frames), mean, baseline, rows, spreads)
