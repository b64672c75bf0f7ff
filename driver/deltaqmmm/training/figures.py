"""Figures of a training and of a model: parity, loss and learning curves, cutoffs, spreads.

Every function returns a matplotlib `Figure` that belongs to nobody else (no pyplot state); `save_figure` writes it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from deltaqmmm.atomic import write_atomically
from deltaqmmm.dataset import LabelledFrame
from deltaqmmm.results import FloatArray
from deltaqmmm.training.metrics import GRADIENT_UNIT, NEAR, SpreadCheck, near_sites
from deltaqmmm.training.predictions import Predictions, reference_predictions
from deltaqmmm.units import KJ_PER_MOL

WIDTH = 6.5
"""Width of a figure, inches: that of a page's text."""
GRADIENT = r"kJ mol$^{-1}$ Å$^{-1}$"
ENERGY = r"kJ mol$^{-1}$"
QUANTITIES = (f"energy\n({ENERGY})", f"QM gradient\n({GRADIENT})", f"MM gradient, 6 Å\n({GRADIENT})")
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6a4c93", "#8d6e63", "#3d5a80", "#9c6644")
BASELINE_COLOUR = "0.65"
MAX_POINTS = 20000
"""Points of a scatter plot beyond which a fixed random part is drawn: the figures in the legend hold for all."""
_SIZES = {"font": 8.0, "legend": 7.0}


def save_figure(figure: Figure, file: Path, dpi: int = 200) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    image = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(image, format="png", dpi=dpi)
    write_atomically(file, image.getvalue())


def parity_figure(
    frames: Sequence[LabelledFrame],
    model: Predictions,
    baseline: Predictions | None,
    name: str = "model",
    baseline_name: str = "baseline",
) -> Figure:
    """Predicted against reference: energies, QM gradients, MM gradients within 6 angstrom of the QM region.

    Energies are drawn from the mean of the reference; from those of the baseline the mean error is taken off.
    """
    figure, axes = _panels(1, 3, 2.45)
    reference = _components(reference_predictions(frames), frames)
    ours = _components(model, frames)
    theirs = None if baseline is None else _components(baseline, frames)
    zero = reference[0].mean()
    for column, (axis, x, y) in enumerate(zip(axes, reference, ours, strict=True)):
        shift = zero if column == 0 else 0.0
        drawn = [(x - shift, y - shift, name, COLOURS[0])]
        if theirs is not None:
            other = theirs[column]
            offset = (other - x).mean() if column == 0 and len(x) else 0.0
            drawn.insert(0, (x - shift, other - shift - offset, baseline_name, BASELINE_COLOUR))
        _parity_panel(axis, drawn)
        title = QUANTITIES[column]
        axis.set_title(title.split("\n")[0], fontsize=_SIZES["font"])
        unit = ENERGY if column == 0 else GRADIENT
        axis.set_xlabel(f"reference ({unit})")
        axis.set_ylabel(f"predicted ({unit})")
    return figure


def loss_figure(
    epochs: Sequence[int], learning_rates: Sequence[float], training: FloatArray, validation: FloatArray
) -> Figure:
    """Errors against the epoch: one colour per member, training dashed and validation solid.

    Args:
        epochs: E numbers, from 1.
        learning_rates: Of each epoch; where it drops a vertical line is drawn.
        training: RMSE of energies (kJ/mol), QM and MM gradients (kJ/mol/angstrom), shape (E, C, 3).
        validation: The same on the validation frames.
    """
    figure, axes = _panels(1, 3, 2.5)
    rates = np.asarray(learning_rates, dtype=float)
    drops = [epochs[i] for i in range(1, len(rates)) if rates[i] < rates[i - 1] * (1.0 - 1e-9)]
    for column, axis in enumerate(axes):
        # A schedule that falls with every epoch has no drops to mark.
        for count, epoch in enumerate(drops if len(drops) <= len(epochs) / 4 else []):
            label = "rate drops" if count == 0 else None
            axis.axvline(epoch, color="0.8", linewidth=0.7, label=label, zorder=0)
        for member in range(training.shape[1]):
            colour = COLOURS[member % len(COLOURS)]
            axis.plot(epochs, validation[:, member, column], color=colour, linewidth=1.0)
            axis.plot(epochs, training[:, member, column], color=colour, linewidth=0.8, linestyle=(0, (3, 1.5)))
        axis.plot([], [], color="0.3", linewidth=1.0, label="validation")
        axis.plot([], [], color="0.3", linewidth=0.8, linestyle=(0, (3, 1.5)), label="training")
        _log_axis(axis, "y")
        if len(epochs) > 1:
            _log_axis(axis, "x")
        axis.set_xlabel("epoch")
        axis.set_ylabel("RMSE, " + QUANTITIES[column])
    axes[0].legend(fontsize=_SIZES["legend"], frameon=False, loc="lower left")
    return figure


@dataclass(frozen=True)
class Curve:
    """Errors of one model against something.

    Attributes:
        values: Where it was tried, shape (V,): numbers of frames, or cutoffs in angstrom.
        errors: Energy (kJ/mol), QM gradient and MM gradient (kJ/mol/angstrom) errors, shape (V, 3).
    """

    values: Sequence[float]
    errors: FloatArray


def learning_figure(
    curves: Mapping[str, Curve], baseline: Sequence[float] | None = None, error_name: str = "MAE"
) -> Figure:
    """Errors against the number of training frames, for several models.

    Args:
        curves: By name of the model.
        baseline: Its three errors, drawn as a line; None leaves it out.
        error_name: What the errors are.
    """
    return _curves_figure(curves, baseline, error_name, "training frames", logarithmic=True)


def cutoff_figure(
    curves: Mapping[str, Curve], baseline: Sequence[float] | None = None, error_name: str = "MAE"
) -> Figure:
    """Errors against the MM cutoff of the network (angstrom), for several models; arguments as `learning_figure`."""
    return _curves_figure(curves, baseline, error_name, "MM cutoff of the network (Å)", logarithmic=False)


def spread_figure(check: SpreadCheck) -> Figure:
    """The committee's spread against its true error, frame by frame: energies, and the worst QM atom."""
    figure, axes = _panels(1, 2, 2.9)
    drawn = (
        (check.energy_spreads, check.energy_errors, check.energy, "energy", ENERGY),
        (check.gradient_spreads, check.gradient_errors, check.gradient, "largest QM gradient", GRADIENT),
    )
    for axis, (spreads, errors, correlation, name, unit) in zip(axes, drawn, strict=True):
        shown = (spreads > 0.0) & (errors > 0.0)
        axis.scatter(spreads[shown], errors[shown], s=9, color=COLOURS[0], alpha=0.6, linewidths=0)
        if shown.any():
            low = min(spreads[shown].min(), errors[shown].min()) / 1.5
            high = max(spreads[shown].max(), errors[shown].max()) * 1.5
            axis.plot([low, high], [low, high], color="0.3", linewidth=0.7, label="error = spread")
            axis.set(xlim=(low, high), ylim=(low, high))
            _log_axis(axis, "x")
            _log_axis(axis, "y")
            axis.legend(fontsize=_SIZES["legend"], frameon=False, loc="upper left")
        axis.set_aspect("equal", adjustable="box")
        axis.set_title(f"{name}\n{correlation}", fontsize=_SIZES["font"])
        axis.set_xlabel(f"committee spread ({unit})")
        axis.set_ylabel(f"true error ({unit})")
    return figure


def _curves_figure(
    curves: Mapping[str, Curve], baseline: Sequence[float] | None, error_name: str, label: str, *, logarithmic: bool
) -> Figure:
    figure, axes = _panels(1, 3, 2.4)
    ticks = sorted({value for curve in curves.values() for value in curve.values})
    for column, axis in enumerate(axes):
        if baseline is not None:
            axis.axhline(baseline[column], color=BASELINE_COLOUR, linewidth=1.2, label="baseline")
        for number, (name, curve) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(curve.values, curve.errors[:, column], "o-", color=colour, markersize=3.5, label=name)
        _log_axis(axis, "y")
        if logarithmic:
            axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45 if len(ticks) > 4 else 0)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(label)
        axis.set_ylabel(f"{error_name}, {QUANTITIES[column]}")
    axes[0].legend(fontsize=_SIZES["legend"], frameon=False)
    return figure


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="tight")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.tick_params(which="both", labelsize=_SIZES["legend"], width=0.6)
        axis.xaxis.label.set_size(_SIZES["font"])
        axis.yaxis.label.set_size(_SIZES["font"])
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def _components(predictions: Predictions, frames: Sequence[LabelledFrame]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energies (kJ/mol), components of QM gradients and of near MM gradients (kJ/mol/angstrom), flat."""
    near = [np.zeros(0)]
    for gradients, frame in zip(predictions.mm_gradients, frames, strict=True):
        near.append(gradients[near_sites(frame, NEAR)].ravel())
    return (
        predictions.energies / KJ_PER_MOL,
        predictions.qm_gradients.ravel() / GRADIENT_UNIT,
        np.concatenate(near) / GRADIENT_UNIT,
    )


def _parity_panel(axis: Axes, drawn: Sequence[tuple[FloatArray, FloatArray, str, str]]) -> None:
    limits: list[float] = []
    for x, y, name, colour in drawn:
        if not len(x):
            continue
        error = math.sqrt(float(np.mean((y - x) ** 2)))
        part = np.random.default_rng(0).permutation(len(x))[:MAX_POINTS]
        axis.scatter(
            x[part], y[part], s=4, color=colour, linewidths=0, alpha=0.6, rasterized=True, label=f"{name}: {error:.3g}"
        )
        limits += [x.min(), x.max(), y.min(), y.max()]
    if limits:
        margin = 0.05 * (max(limits) - min(limits)) or 1.0
        span = (min(limits) - margin, max(limits) + margin)
        axis.plot(span, span, color="0.2", linewidth=0.6, zorder=3)
        axis.set(xlim=span, ylim=span)
        axis.legend(
            title="RMSE", title_fontsize=_SIZES["legend"], fontsize=_SIZES["legend"], frameon=False, loc="upper left",
            handletextpad=0.1, borderpad=0.1, borderaxespad=0.2, markerscale=2.0,
        )  # fmt: skip
    axis.set_aspect("equal", adjustable="box")


def _log_axis(axis: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers, at 1, 2 and 5 of each decade or at the decades alone."""
    side = axis.yaxis if which == "y" else axis.xaxis
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    low, high = side.get_view_interval()
    few = 0.0 < low < high < 100.0 * low
    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())
