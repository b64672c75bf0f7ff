"""The figures, each readable at the width of a page."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

WIDTH = 6.9
COLOURS = {"deltaqmmm": "#0b5fa5", "DFTB+": "#d1495b", "sander": "#d1495b", "OpenMM": "#5b8e3e", "LAPACK": "#777777"}
plt.rcParams.update(
    {"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.color": "0.92", "axes.axisbelow": True}
)


def save(figure, file):
    """Write a figure and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)
    plt.close(figure)
    return file


def panels(count):
    """Panels beside each other, two in a row at most."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 0.6 + 2.5 * rows), squeeze=False, constrained_layout=True
    )
    for axis in axes.ravel()[count:]:
        axis.set_visible(False)
    return figure, list(axes.ravel()[:count])


def line(axis, sizes, measurements, **style):
    """Medians over sizes, with their quartiles."""
    medians = [measurement.median for measurement in measurements]
    quartiles = np.array([np.percentile(measurement.samples, (25, 75)) for measurement in measurements])
    (drawn,) = axis.plot(sizes, medians, **{"marker": "o", "markersize": 3.5, "linewidth": 1.3, **style})
    axis.fill_between(sizes, quartiles[:, 0], quartiles[:, 1], color=drawn.get_color(), alpha=0.15, linewidth=0)


def level(axis, measurement, **style):
    """A horizontal line with its quartiles."""
    low, high = np.percentile(measurement.samples, (25, 75))
    drawn = axis.axhline(measurement.median, **{"linewidth": 1.3, **style})
    axis.axhspan(low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)


def batch_axis(axis, batches):
    """Batch sizes as they are, on a logarithmic axis."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.minorticks_off()
    axis.set_xlabel("frames in one batch")


def time_axis(axis, label="time per frame / ms"):
    """A logarithmic axis of times with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_ylim()
    if high / low < 30.0:
        axis.yaxis.set_minor_formatter(
            matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "235" else "")
        )
    else:
        axis.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axis.set_ylabel(label)


def legend_below(axis, columns):
    """The legend of one panel, under it."""
    if axis.lines:
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, frameon=False, fontsize=8, borderaxespad=0.0
        )
