"""Figures of the width of a page's text: 16 cm, readable at that size, without pyplot's global state."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deltaqmmm.atomic import write_atomically

WIDTH_CM = 16.0
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6a4c93", "#8d6e63", "#3d5a80", "#9c6644")
FONT_SIZE, SMALL_SIZE = 9.0, 8.0
MAX_POINTS = 4000
"""Points of a line beyond which only some are drawn: more than there are pixels show nothing more."""
_CM = 1.0 / 2.54


def panels(rows: int, columns: int, height_cm: float, width_cm: float = WIDTH_CM) -> tuple[Figure, list[Axes]]:
    """An empty figure with its axes, row by row.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        height_cm: Of the whole figure.
        width_cm: Of the whole figure.
    """
    figure = Figure(figsize=(width_cm * _CM, height_cm * _CM), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes:
        axis.tick_params(labelsize=SMALL_SIZE)
        axis.xaxis.label.set_fontsize(FONT_SIZE)
        axis.yaxis.label.set_fontsize(FONT_SIZE)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axis: Axes, **place: str | int | tuple[float, float]) -> None:
    """A legend in the size that fits, without a frame; none where nothing has a label."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=SMALL_SIZE, frameon=False, **place)  # type: ignore[arg-type]


def save(figure: Figure, file: Path, dpi: int = 200) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    write_atomically(file, image.getvalue())


def thinned(n: int, limit: int = MAX_POINTS) -> slice:
    """The part of n points that is drawn."""
    return slice(None, None, max(1, -(-n // limit)))
