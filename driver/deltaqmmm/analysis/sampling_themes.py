"""Figures of what drives a simulation over its barriers: replica exchange, hills, windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deltaqmmm.analysis.figures import (
    COLOURS,
    FONT_SIZE,
    MANY,
    SMALL_SIZE,
    colours_of_systems,
    key_of_systems,
    legend,
    legend_above,
    panels,
    thinned,
)
from deltaqmmm.analysis.records import Series
from deltaqmmm.analysis.themes import ENERGY
from deltaqmmm.results import FloatArray, IntArray

_BINS = 60


def walks_figure(steps: IntArray, places: IntArray, last: int, temperatures: Sequence[float] | None) -> Figure:
    """Which temperature each replica has, along the simulation, and for which part of it.

    Args:
        steps: Of the exchanges, shape (n,).
        places: Number of the temperature of each of R replicas from each of these steps on, shape (n, R).
        last: The last step of the simulation.
        temperatures: Kelvin, shape (R,); None if they are not known.
    """
    n_replicas = places.shape[1]
    steps = np.concatenate([[0], steps, [last]])
    places = np.concatenate([np.arange(n_replicas)[None], places, places[-1:] if len(places) else [range(n_replicas)]])
    figure, (left, right) = panels(1, 2, 7.5)
    colours = colours_of_systems(n_replicas)
    for replica in range(n_replicas):
        colour = colours[replica]
        # Side by side, or the last would hide the others.
        shift = 0.5 * (replica / max(n_replicas - 1, 1) - 0.5)
        label = f"replica {replica}" if n_replicas <= MANY else None
        left.step(steps, places[:, replica] + shift, where="post", color=colour, linewidth=0.9, label=label)
    labels = [str(one) if temperatures is None else f"{temperatures[one]:.0f}" for one in range(n_replicas)]
    left.set_yticks(range(n_replicas), labels)
    left.set_xlabel("step")
    left.set_ylabel("replica's temperature" + ("" if temperatures is None else " (K)"))
    share = np.zeros((n_replicas, n_replicas))
    for place, length in zip(places[:-1], np.diff(steps), strict=True):
        share[np.arange(n_replicas), place] += length
    share /= max(float(steps[-1]), 1.0)
    image = right.imshow(share.T, origin="lower", cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    right.set_xticks(range(n_replicas))
    right.set_yticks(range(n_replicas), labels)
    right.set_xlabel("replica")
    bar = figure.colorbar(image, ax=right)
    bar.set_label("part of the time", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    legend_above(figure, left)
    return figure


def free_energy_figure(profiles: Mapping[str, tuple[FloatArray, FloatArray]], variable: str) -> Figure:
    """Free-energy profiles along a collective variable, as they grew: the last one dark.

    Args:
        profiles: By label, in the order of time: collective variable and free energy in kJ/mol, both of shape (n,).
        variable: Name of the collective variable.
    """
    figure, (axis,) = panels(1, 1, 8.0)
    for number, (label, (x, y)) in enumerate(profiles.items()):
        last = number == len(profiles) - 1
        shade = 0.8 - 0.55 * number / max(len(profiles) - 1, 1)
        colour = COLOURS[0] if last else str(shade)
        axis.plot(x, y, color=colour, linewidth=1.8 if last else 0.9, label=label, zorder=2 + last)
    axis.set_xlabel(f"{variable} (PLUMED's unit)")
    axis.set_ylabel(f"free energy ({ENERGY})")
    legend(axis, loc="best")
    return figure


def variable_figure(values: Series, hills: Series | None, variable: str, time_label: str) -> Figure:
    """A collective variable along a simulation, and the heights of the hills on it.

    Args:
        values: Of the variable, in PLUMED's unit, shape (n,).
        hills: Their heights in kJ/mol, shape (n,); None where there are none.
        variable: Its name.
        time_label: Of the axis of times.
    """
    rows = 1 if hills is None else 2
    figure, axes = panels(rows, 1, 1.0 + 4.5 * rows)
    part = thinned(len(values.times))
    axes[0].plot(values.times[part], values.values[part], ".", color=COLOURS[0], markersize=2)
    axes[0].set_ylabel(f"{variable}\n(PLUMED's unit)")
    if hills is not None:
        axes[1].plot(hills.times, hills.values, color=COLOURS[1], linewidth=0.9, marker=".", markersize=3)
        axes[1].set_ylabel(f"height in HILLS\n({ENERGY})")
        axes[1].set_ylim(bottom=0.0)
        axes[1].sharex(axes[0])
    axes[-1].set_xlabel(time_label)
    return figure


def windows_figure(windows: Mapping[str, FloatArray], variable: str) -> Figure:
    """Where the windows of umbrella sampling have been: neighbours must overlap.

    Args:
        windows: By label, values of the variable that count, in PLUMED's unit, shape (n,).
        variable: Its name.
    """
    figure, (axis,) = panels(1, 1, 7.0)
    together = np.concatenate(list(windows.values()))
    edges = np.linspace(together.min(), together.max(), 4 * _BINS + 1)
    # As wide as serves the narrowest window, for all of them the same.
    narrow = min((float(np.std(one)) for one in windows.values() if np.ptp(one) > 0.0), default=0.0)
    if narrow > 0.0:
        edges = np.linspace(edges[0], edges[-1], int(np.clip(np.ptp(edges) / (0.5 * narrow), 20, 4 * _BINS)) + 1)
    for colour, (label, values) in zip(colours_of_systems(len(windows)), windows.items(), strict=True):
        axis.hist(values, edges.tolist(), density=True, histtype="stepfilled", color=colour, alpha=0.15)
        axis.hist(values, edges.tolist(), density=True, histtype="step", color=colour, linewidth=0.9, label=label)
    axis.set_xlabel(f"{variable} (PLUMED's unit)")
    axis.set_ylabel("probability density")
    axis.set_yticks([])
    key_of_systems(figure, [axis], list(windows))
    return figure
