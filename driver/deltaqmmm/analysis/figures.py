"""Figures of the width of a page's text: 16 cm, readable at that size, without pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure

from deltaqmmm.atomic import write_atomically

WIDTH_CM = 16.0
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6a4c93", "#8d6e63", "#3d5a80", "#9c6644")
FONT_SIZE, SMALL_SIZE = 9.0, 8.0
MAX_POINTS = 4000
"""Points of a line beyond which only some are drawn: more than there are pixels show nothing more."""
MANY = 6
"""Systems beyond which a legend is more than one can read, and colours come from a map with a colour bar."""
_TICKS = 12
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


def legend_above(figure: Figure, axis: Axes, columns: int = 5) -> None:
    """A legend of what an axis shows, above all axes of a figure, where it hides no data."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            fontsize=SMALL_SIZE,
            frameon=False,
            ncols=min(columns, len(labels)),
            loc="outside upper left",
        )


def colours_of_systems(n: int) -> list[str]:
    """Colours of n systems: of the palette, or from a map in their order where they are many."""
    if n <= MANY:
        return list(COLOURS[:n])
    return [to_hex(colormaps["viridis"](0.95 * number / (n - 1))) for number in range(n)]


def distinct_colours(n: int) -> list[str]:
    """Colours of n things, no two the same."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    if n <= 20:
        # Those of "tab20" come in pairs of a dark and a light one: all dark ones first.
        pairs = [to_hex(colour) for colour in colormaps["tab20"](range(20))]
        return (pairs[::2] + pairs[1::2])[:n]
    return [to_hex(colormaps["turbo"](number / (n - 1))) for number in range(n)]


def key_of_systems(figure: Figure, axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """What tells many systems apart, a colour bar, or few, a legend; nothing for one.

    Args:
        figure: To draw on.
        axes: All of the figure; the first has the lines of the legend.
        labels: Of all systems, in the order of `colours_of_systems`.
    """
    n = len(labels)
    if n <= MANY:
        legend_above(figure, axes[0])
        return
    shades = ScalarMappable(Normalize(-0.5, n - 0.5), ListedColormap(colours_of_systems(n)))
    bar = figure.colorbar(shades, ax=list(axes), aspect=40)
    ticks = range(0, n, -(-n // _TICKS))
    bar.set_ticks(list(ticks), labels=[labels[number] for number in ticks])
    bar.ax.tick_params(labelsize=SMALL_SIZE, length=0)


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
