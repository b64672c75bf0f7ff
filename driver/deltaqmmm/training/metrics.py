"""Errors of predictions on labelled frames, in kJ/mol and kJ/mol/angstrom, and the table that shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial import cKDTree

from deltaqmmm.dataset import LabelledFrame
from deltaqmmm.errors import DatasetError
from deltaqmmm.results import FloatArray
from deltaqmmm.training.predictions import CommitteePredictions, Predictions, reference_predictions
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

GRADIENT_UNIT = KJ_PER_MOL / ANGSTROM
NEAR = 6.0 * ANGSTROM
FAR = 14.0 * ANGSTROM
"""MM gradients are judged on the sites within these distances of the nearest QM atom, bohr."""

OFFSET_NOTE = (
    "Energies of the uncorrected baseline have another zero: the best constant is taken off, the median of the errors "
    "for the MAE and their mean for the RMSE. From the models nothing is taken off."
)


@dataclass(frozen=True)
class Errors:
    """Mean absolute error and root mean square error; NaN where there is nothing to judge."""

    mae: float
    rmse: float

    @classmethod
    def of(cls, differences: FloatArray) -> Errors:
        """Of any number of differences."""
        if differences.size == 0:
            return cls(math.nan, math.nan)
        return cls(float(np.abs(differences).mean()), float(np.sqrt((differences**2).mean())))

    def __str__(self) -> str:
        return "-" if math.isnan(self.mae) else f"{_figures(self.mae)} / {_figures(self.rmse)}"


@dataclass(frozen=True)
class Metrics:
    """How well one model does on one set of frames.

    Attributes:
        model: What the table calls it.
        n_frames: Number of frames.
        energy: Of the energies, kJ/mol.
        qm_gradients: Of the components of the QM gradients, kJ/mol/angstrom.
        near_mm_gradients: Of the components of the gradients on MM sites within 6 angstrom of the nearest QM atom, at
            fixed effective charges, kJ/mol/angstrom.
        mm_gradients: The same within 14 angstrom.
        n_parameters: Of one member; None if it has none.
        milliseconds: Wall time per frame; None if unknown.
    """

    model: str
    n_frames: int
    energy: Errors
    qm_gradients: Errors
    near_mm_gradients: Errors
    mm_gradients: Errors
    n_parameters: int | None = None
    milliseconds: float | None = None

    def row(self) -> list[str]:
        """The cells of the table."""
        errors = (self.energy, self.qm_gradients, self.near_mm_gradients, self.mm_gradients)
        parameters = "-" if self.n_parameters is None else f"{self.n_parameters:,}"
        milliseconds = "-" if self.milliseconds is None else _figures(self.milliseconds)
        return [self.model, *(str(error) for error in errors), parameters, milliseconds]

    def to_json(self) -> dict[str, object]:
        """As plain values; None where there is nothing to judge."""
        values = asdict(self)
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = {kind: None if math.isnan(error) else error for kind, error in value.items()}
        return values


HEADER = (
    "model",
    "energy (kJ/mol)",
    "QM gradients (kJ/mol/angstrom)",
    "MM gradients within 6 angstrom (kJ/mol/angstrom)",
    "MM gradients within 14 angstrom (kJ/mol/angstrom)",
    "parameters",
    "ms per frame",
)


def compute_metrics(
    model: str,
    predictions: Predictions,
    frames: Sequence[LabelledFrame],
    *,
    remove_offset: bool = False,
    n_parameters: int | None = None,
    milliseconds: float | None = None,
    labelled_within: float = math.inf,
) -> Metrics:
    """Errors of predictions against the reference labels.

    Args:
        model: What the table calls it.
        predictions: Of these frames.
        frames: At least one.
        remove_offset: Take the best constant off the energy errors: their median for the MAE, their mean for the RMSE.
        n_parameters: For the table.
        milliseconds: For the table.
        labelled_within: Distance from the QM region to which MM gradients are labelled, bohr; errors that would need
            labels from farther away are NaN.

    Raises:
        DatasetError: There are no frames.
    """
    if not frames:
        raise DatasetError("There are no frames to compute errors on; at least one is needed.")
    reference = reference_predictions(frames)

    def within(cutoff: float) -> Errors:
        if cutoff > labelled_within * (1.0 + 1e-9):
            return Errors(math.nan, math.nan)
        return Errors.of(mm_gradient_errors(predictions, frames, cutoff) / GRADIENT_UNIT)

    energy = energy_errors(predictions, frames) / KJ_PER_MOL
    from_median, from_mean = (energy - np.median(energy), energy - energy.mean()) if remove_offset else (energy, energy)
    return Metrics(
        model=model,
        n_frames=len(frames),
        energy=Errors(Errors.of(from_median).mae, Errors.of(from_mean).rmse),
        qm_gradients=Errors.of((predictions.qm_gradients - reference.qm_gradients) / GRADIENT_UNIT),
        near_mm_gradients=within(NEAR),
        mm_gradients=within(FAR),
        n_parameters=n_parameters,
        milliseconds=milliseconds,
    )


def energy_errors(predictions: Predictions, frames: Sequence[LabelledFrame]) -> FloatArray:
    """Prediction minus reference, shape (F,), hartree."""
    return np.asarray(predictions.energies - np.array([frame.reference.energy for frame in frames]))


def mm_gradient_errors(predictions: Predictions, frames: Sequence[LabelledFrame], cutoff: float) -> FloatArray:
    """Prediction minus reference on the sites within a distance (bohr) of the QM region, shape (sites, 3)."""
    differences = [np.zeros((0, 3))]
    for gradients, frame in zip(predictions.mm_gradients, frames, strict=True):
        differences.append((gradients - frame.reference.mm_gradients)[near_sites(frame, cutoff)])
    return np.concatenate(differences)


def near_sites(frame: LabelledFrame, cutoff: float) -> npt.NDArray[np.bool_]:
    """Which MM sites lie within a distance (bohr) of the nearest QM atom, shape (K,), boolean."""
    if len(frame.mm_positions) == 0:
        return np.zeros(0, dtype=bool)
    distances, _ = cKDTree(frame.qm_positions).query(frame.mm_positions)
    return np.asarray(distances <= cutoff)


@dataclass(frozen=True)
class Correlation:
    """How the spread of a committee goes with its true error, over frames; NaN where it has no meaning."""

    pearson: float
    spearman: float

    def __str__(self) -> str:
        if math.isnan(self.pearson):
            return "undefined"
        return f"Pearson {self.pearson:.2f}, Spearman {self.spearman:.2f}"


def correlate(spreads: FloatArray, errors: FloatArray) -> Correlation:
    """Pearson and Spearman correlation of spreads with absolute errors, shape (F,) each."""
    errors = np.abs(errors)
    if len(errors) < 3 or np.ptp(spreads) == 0.0 or np.ptp(errors) == 0.0:
        return Correlation(math.nan, math.nan)
    return Correlation(
        float(stats.pearsonr(spreads, errors).statistic), float(stats.spearmanr(spreads, errors).statistic)
    )


@dataclass(frozen=True, eq=False)
class SpreadCheck:
    """Spreads of a committee beside its true errors, of F frames.

    Attributes:
        energy_spreads: Shape (F,), kJ/mol.
        energy_errors: Absolute error of the mean, shape (F,), kJ/mol.
        gradient_spreads: Largest on any QM atom, shape (F,), kJ/mol/angstrom.
        gradient_errors: Largest error vector on any QM atom, shape (F,), kJ/mol/angstrom.
        energy: Correlation of the first two.
        gradient: Correlation of the last two.
    """

    energy_spreads: FloatArray
    energy_errors: FloatArray
    gradient_spreads: FloatArray
    gradient_errors: FloatArray
    energy: Correlation
    gradient: Correlation


def check_spreads(predictions: CommitteePredictions, frames: Sequence[LabelledFrame]) -> SpreadCheck:
    """Hold the spreads of a committee against its true errors."""
    mean, reference = predictions.mean, reference_predictions(frames)
    energies = np.abs(energy_errors(mean, frames)) / KJ_PER_MOL
    gradients = np.linalg.norm(mean.qm_gradients - reference.qm_gradients, axis=-1).max(axis=-1) / GRADIENT_UNIT
    energy_spreads = predictions.energy_spreads / KJ_PER_MOL
    gradient_spreads = predictions.gradient_spreads / GRADIENT_UNIT
    return SpreadCheck(
        energy_spreads,
        energies,
        gradient_spreads,
        gradients,
        correlate(energy_spreads, energies),
        correlate(gradient_spreads, gradients),
    )


def metrics_table(rows: Sequence[Metrics]) -> str:
    """The errors as a Markdown table that also reads well as plain text; every error as MAE / RMSE."""
    cells = [list(HEADER), *(row.row() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]

    def render(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        return f"| {' | '.join([first, *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([render(cells[0]), render(rule), *(render(line) for line in cells[1:])])


def _figures(value: float) -> str:
    """Three significant figures, without an exponent where that is readable."""
    if value == 0.0 or 1e-4 <= abs(value) < 1000.0:
        decimals = 2 if value == 0.0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1e-4 else f"{value:,.0f}"
