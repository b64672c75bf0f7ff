"""The figures that a person looks at first, one a theme. Several systems have a colour each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deltaqmmm.analysis.figures import COLOURS, FONT_SIZE, SMALL_SIZE, legend, panels, thinned
from deltaqmmm.analysis.records import Record, Series
from deltaqmmm.analysis.statistics import PymbarMissingError, drift, mean_and_error, running_mean
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import KELVIN, KJ_PER_MOL

ENERGY = "kJ/mol"
GREY = "0.45"
COMMITTEE = {
    "committee_energy_spread": f"spread of the energy\n({ENERGY})",
    "committee_force_spread": f"largest spread of a force\n({ENERGY}/Å)",
    "committee_uncertainty": f"uncertainty, <ffcommittee>\n({ENERGY})",
    "wb_mixing": "weight of the correction,\n<ffcommittee>",
}
"""What tells the spread of a committee: our driver's extras, and those of i-PI's own."""
MANY = 8
"""Systems beyond which a legend is more than one can read."""


def energies_figure(records: Sequence[Record]) -> Figure:
    """Conserved quantity with its drift, potential and kinetic energy, each without its mean or first value."""
    names = [name for name in ("conserved", "potential", "kinetic_md", "kinetic_cv") if _have(records, name)]
    figure, axes = panels(len(names), 1, 1.5 + 3.6 * len(names))
    for name, axis in zip(names, axes, strict=True):
        for colour, record in _coloured(records, name):
            series = record.properties[name]
            shift = series.values[0] if name == "conserved" else series.values.mean()
            _line(axis, series.times, series.values - shift, colour, record.label or None)
            if name == "conserved" and len(series.times) > 1:
                slope = drift(series.times, series.values)
                middle = series.values.mean() - shift
                fit = middle + slope * (series.times - series.times.mean())
                axis.plot(series.times, fit, color="black", linewidth=1.0, linestyle="--")
                text = _drift_text(record, slope) if len(records) == 1 else "dashed: drift"
                axis.set_title(text, fontsize=SMALL_SIZE, loc="right", color=GREY)
        taken = "from first" if name == "conserved" else "from mean"
        axis.set_ylabel(f"{name}\n{taken} ({ENERGY})")
    axes[-1].set_xlabel(records[0].time_label)
    _legend_of_systems(axes[0], records)
    return figure


def temperature_figure(records: Sequence[Record]) -> Figure:
    """Temperature, its running mean, and what is asked for."""
    figure, (axis,) = panels(1, 1, 7.0)
    for colour, record in _coloured(records, "temperature"):
        series = record.properties["temperature"]
        alone = len(records) == 1
        if len(records) <= MANY:
            _line(axis, series.times, series.values, colour, "each step" if alone else None, alpha=0.35)
        label = "running mean" if alone else record.label
        _line(axis, series.times, running_mean(series.values), colour, label, linewidth=1.6)
        wanted = record.properties.get("ensemble_temperature")
        if record.target is not None and (wanted is None or np.ptp(wanted.values) == 0.0):
            axis.axhline(record.target, color=GREY if alone else colour, linewidth=0.9, linestyle="--")
            if alone:
                axis.plot([], [], color=GREY, linewidth=0.9, linestyle="--", label=f"asked for: {record.target:g} K")
    axis.set_xlabel(records[0].time_label)
    axis.set_ylabel("temperature (K)")
    if len(records) <= MANY:
        legend(axis, ncols=3, loc="upper right")
    return figure


def quantum_kinetic_figure(records: Sequence[Record]) -> Figure:
    """Quantum kinetic energy per atom by each estimator that was written, against the classical 3/2 kT."""
    figure, (left, right) = panels(1, 2, 7.5)
    names = [name for name in _all_names(records) if name.startswith(("kinetic_cv", "kinetic_td"))]
    position = 0
    ticks = []
    for name in names:
        for record in records:
            series, count = record.properties.get(name), atoms_of(name, record)
            if series is None or not count:
                continue
            colour = COLOURS[0] if name.startswith("kinetic_cv") else COLOURS[1]
            values = series.values / count
            text = name if len(records) == 1 else f"{record.label} {name}"
            if count > 1:
                label = name.replace("kinetic_cv", "centroid virial").replace("kinetic_td", "thermodynamic")
                _line(left, series.times, running_mean(values), colour, label if record is records[0] else None)
            later = values[len(values) // 5 :]
            right.errorbar(later.mean(), position, xerr=_error(later), fmt="o", color=colour, markersize=4, capsize=2)
            ticks.append(text)
            position += 1
    for target in sorted({record.target for record in records if record.target is not None}):
        classical = 1.5 * target * KELVIN / KJ_PER_MOL
        left.axhline(classical, color=GREY, linewidth=0.9, linestyle="--", label=f"classical, {target:g} K")
        right.axvline(classical, color=GREY, linewidth=0.9, linestyle="--")
    left.set_xlabel(records[0].time_label)
    left.set_ylabel(f"running mean per atom ({ENERGY})")
    left.set_ylim(bottom=0.0)
    right.set_xlabel(f"mean per atom ({ENERGY})")
    right.set_xlim(left=0.0)
    right.set_yticks(range(position), ticks, fontsize=7)
    right.invert_yaxis()
    legend(left, loc="best")
    return figure


def distances_figure(lines: Mapping[str, Sequence[Series]], time_label: str) -> Figure:
    """Distances along the simulation, the mean of the beads, and their distribution over all beads."""
    figure, (left, right) = panels(1, 2, 7.0)
    for number, (label, beads) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        n = min(len(bead.times) for bead in beads)
        _line(left, beads[0].times[:n], np.mean([bead.values[:n] for bead in beads], axis=0), colour, label)
        values = np.concatenate([bead.values for bead in beads])
        right.hist(values, bins=40, density=True, histtype="step", color=colour, linewidth=1.2)
    left.set_xlabel(time_label)
    left.set_ylabel("distance (Å)")
    right.set_xlabel("distance (Å)")
    right.set_ylabel("probability (1/Å)")
    legend(left, loc="best")
    return figure


def qm_figure(record: Record) -> Figure:
    """Mulliken charges of the QM atoms and dipole of the QM region, means over the beads."""
    names = [name for name in ("qm_charges", "qm_dipole") if name in record.extras]
    figure, axes = panels(len(names), 1, 1.0 + 6.0 * len(names))
    for name, axis in zip(names, axes, strict=True):
        times, values = beads_mean(record.extras[name])
        if name == "qm_charges":
            for atom in range(values.shape[1]):
                colour, dashed = COLOURS[atom % len(COLOURS)], atom >= len(COLOURS)
                _line(axis, times, values[:, atom], colour, f"QM atom {atom}", linestyle="--" if dashed else "-")
            axis.set_ylabel("Mulliken charge (e)")
            if values.shape[1] <= 3 * MANY:
                legend(axis, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            sizes = [np.linalg.norm(bead.values[: len(times)], axis=1) for bead in record.extras[name]]
            _line(axis, times, np.mean(sizes, axis=0), COLOURS[0], "mean of the beads" if len(sizes) > 1 else None)
            axis.set_ylabel("dipole of the QM region (debye)")
    axes[-1].set_xlabel(record.time_label)
    return figure


def committee_figure(records: Sequence[Record]) -> Figure:
    """Spread of the members of a committee, or what follows from it: the worst of the beads."""
    there = [name for name in COMMITTEE if any(name in record.extras for record in records)]
    figure, axes = panels(len(there), 1, 1.0 + 4.5 * len(there))
    for name, axis in zip(there, axes, strict=True):
        for number, record in enumerate(records):
            if name not in record.extras:
                continue
            beads = record.extras[name]
            n = min(len(bead.times) for bead in beads)
            worst = np.min if name == "wb_mixing" else np.max
            largest = worst([bead.values[:n, 0] for bead in beads], axis=0)
            _line(axis, beads[0].times[:n], largest, COLOURS[number % len(COLOURS)], record.label or None)
        axis.set_ylabel(COMMITTEE[name])
        axis.set_ylim(bottom=0.0)
    axes[-1].set_xlabel(records[0].time_label)
    _legend_of_systems(axes[0], records)
    return figure


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
    for replica in range(n_replicas):
        colour = COLOURS[replica % len(COLOURS)]
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
    figure.legend(
        *left.get_legend_handles_labels(), fontsize=SMALL_SIZE, frameon=False, ncols=4, loc="outside upper left"
    )
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


def beads_mean(beads: Sequence[Series]) -> tuple[FloatArray, FloatArray]:
    """Times, and values averaged over the beads, as far as all of them are written."""
    n = min(len(bead.times) for bead in beads)
    return beads[0].times[:n], np.mean([bead.values[:n] for bead in beads], axis=0)


def atoms_of(name: str, record: Record) -> int:
    """How many atoms a property is of; 0 where it is not known.

    Args:
        name: "kinetic_cv" of all, "kinetic_cv(H)" of an element, "kinetic_cv(8)" of one atom.
        record: Of the system.
    """
    if "(" not in name:
        return len(record.symbols)
    selection = name.split("(")[1].rstrip(")").split(";")[0].removeprefix("atom=")
    return 1 if selection.isdigit() else list(record.symbols).count(selection)


def _error(values: FloatArray) -> float | None:
    """Of the mean; None where it cannot be told."""
    try:
        return mean_and_error(values).error
    except (PymbarMissingError, InputError):
        return None


def _drift_text(record: Record, slope: float) -> str:
    unit = f"{ENERGY} per step" if record.picoseconds is None else f"{ENERGY} per ps"
    text = f"drift {slope:.3g} {unit}"
    return f"{text}, {slope / len(record.symbols):.2g} per atom" if record.symbols else text


def _all_names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.properties))


def _have(records: Sequence[Record], name: str) -> bool:
    return any(name in record.properties for record in records)


def _coloured(records: Sequence[Record], name: str) -> list[tuple[str, Record]]:
    return [
        (COLOURS[number % len(COLOURS)], record) for number, record in enumerate(records) if name in record.properties
    ]


def _line(
    axis: Axes,
    x: FloatArray,
    y: FloatArray,
    colour: str,
    label: str | None = None,
    *,
    linewidth: float = 0.9,
    linestyle: str = "-",
    alpha: float = 1.0,
) -> None:
    part = thinned(len(x))
    axis.plot(x[part], y[part], color=colour, label=label, linewidth=linewidth, linestyle=linestyle, alpha=alpha)


def _legend_of_systems(axis: Axes, records: Sequence[Record]) -> None:
    if 1 < len(records) <= MANY:
        legend(axis, ncols=4, loc="best")
