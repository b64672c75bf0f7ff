"""The figures that a person looks at first, one a theme. Several systems have a colour each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deltaqmmm.analysis.figures import (
    COLOURS,
    MANY,
    SMALL_SIZE,
    colours_of_systems,
    distinct_colours,
    key_of_systems,
    legend,
    panels,
    thinned,
)
from deltaqmmm.analysis.records import Record, Series, conserved_drift
from deltaqmmm.analysis.statistics import PymbarMissingError, mean_and_error, running_mean
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray
from deltaqmmm.units import KELVIN, KJ_PER_MOL

ENERGY = "kJ/mol"
GREY = "0.45"
COMMITTEE = {
    "committee_energy_spread": f"spread of the energy\n({ENERGY})",
    "committee_force_spread": f"largest spread of a force\n({ENERGY}/Å)",
    "committee_uncertainty": f"i-PI's uncertainty\n({ENERGY})",
    "wb_mixing": "i-PI's weight\nof the correction",
}
"""What tells the spread of a committee: our driver's extras, and those of i-PI's own."""
_MOST_ATOMS = 24
"""QM atoms beyond which a legend is more than one can read."""


def energies_figure(records: Sequence[Record], skip: float | None = None) -> Figure:
    """Conserved quantity with its drift, potential and kinetic energy, each without its mean or first value.

    Args:
        records: Of all systems.
        skip: Where the drift begins, on the axis of the records; None for after the first fifth.
    """
    names = [name for name in ("conserved", "potential", "kinetic_md", "kinetic_cv") if _have(records, name)]
    figure, axes = panels(len(names), 1, 1.5 + 3.6 * len(names))
    for name, axis in zip(names, axes, strict=True):
        for colour, record in _coloured(records, name):
            series = record.properties[name]
            shift = series.values[0] if name == "conserved" else series.values.mean()
            _line(axis, series.times, series.values - shift, colour, record.title or None, linewidth=_width(records))
            found = conserved_drift(record, skip) if name == "conserved" else None
            if found is not None:
                axis.plot(found.times, found.line - shift, color="black", linewidth=_width(records), linestyle="--")
                text = _drift_text(record, found.slope) if len(records) == 1 else "dashed: drift"
                axis.set_title(text, fontsize=SMALL_SIZE, loc="right", color=GREY)
        taken = "from first" if name == "conserved" else "from mean"
        axis.set_ylabel(f"{name}\n{taken} ({ENERGY})")
    axes[-1].set_xlabel(records[0].time_label)
    key_of_systems(figure, axes, [record.title for record in records])
    return figure


def temperature_figure(records: Sequence[Record], ladder: Sequence[float] = ()) -> Figure:
    """Temperature, its running mean, and what is asked for.

    Args:
        records: Of all systems.
        ladder: Temperatures of replica exchange, kelvin.
    """
    figure, (axis,) = panels(1, 1, 7.0)
    alone = len(records) == 1
    for colour, record in _coloured(records, "temperature"):
        series = record.properties["temperature"]
        if len(records) <= MANY:
            _line(axis, series.times, series.values, colour, "as written" if alone else None, alpha=0.35)
        label = "running mean" if alone else record.title
        width = 1.6 if len(records) <= MANY else 0.9
        _line(axis, series.times, running_mean(series.values), colour, label, linewidth=width)
        wanted = record.properties.get("ensemble_temperature")
        if alone and record.target is not None and (wanted is None or np.ptp(wanted.values) == 0.0):
            _level(axis, record.target, f"asked for: {record.target:g} K")
    if not alone:
        targets = ladder or [record.target for record in records if record.target is not None]
        for number, target in enumerate(sorted(set(targets))):
            _level(axis, target, None if number else "asked for")
    axis.set_xlabel(records[0].time_label)
    axis.set_ylabel("temperature (K)")
    key_of_systems(figure, [axis], [record.title for record in records])
    return figure


def _level(axis: Axes, height: float, label: str | None) -> None:
    axis.axhline(height, color=GREY, linewidth=0.9, linestyle="--", label=label)


def quantum_kinetic_figure(records: Sequence[Record], skip: float | None = None) -> Figure:
    """Quantum kinetic energy per atom by each estimator that was written, against the classical 3/2 kT.

    Args:
        records: Of all systems.
        skip: Where means begin, on the axis of the records; None for after the first fifth.
    """
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
            text = name if len(records) == 1 else f"{record.title} {name}"
            if count > 1:
                label = name.replace("kinetic_cv", "centroid virial").replace("kinetic_td", "thermodynamic")
                _line(left, series.times, running_mean(values), colour, label if record is records[0] else None)
            later = series.after(record.start(skip)).values / count
            if len(later) == 0:
                continue
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
    for colour, (label, beads) in zip(colours_of_systems(len(lines)), lines.items(), strict=True):
        times, mean = beads_mean([Series(bead.times, bead.values[:, None]) for bead in beads])
        _line(left, times, mean[:, 0], colour, label, linewidth=_width(lines))
        values = np.concatenate([bead.values for bead in beads])
        right.hist(values, bins=40, density=True, histtype="step", color=colour, linewidth=1.2)
    several = any(len(beads) > 1 for beads in lines.values())
    left.set_xlabel(time_label)
    left.set_ylabel("distance, mean over beads (Å)" if several else "distance (Å)")
    right.set_xlabel("distance, all beads (Å)" if several else "distance (Å)")
    right.set_ylabel("probability (1/Å)")
    key_of_systems(figure, [left, right], list(lines))
    return figure


def qm_figure(record: Record, atoms: Sequence[str] = ()) -> Figure:
    """Mulliken charges of the QM atoms and dipole of the QM region, means over the beads.

    Args:
        record: Of the system.
        atoms: What the QM atoms are called, in their order; numbers where it is not known.
    """
    names = [name for name in ("qm_charges", "qm_dipole") if name in record.extras]
    figure, axes = panels(len(names), 1, 1.0 + 6.0 * len(names))
    for name, axis in zip(names, axes, strict=True):
        times, values = beads_mean(record.extras[name])
        if name == "qm_charges":
            n = values.shape[1]
            called = atoms if len(atoms) == n else [f"QM atom {atom}" for atom in range(n)]
            for atom, colour in enumerate(distinct_colours(n)):
                _line(axis, times, values[:, atom], colour, called[atom])
            axis.set_ylabel("Mulliken charge (e)")
            if n <= _MOST_ATOMS:
                legend(axis, ncols=2 if n > 12 else 1, loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            sizes = [np.linalg.norm(bead.values[: len(times)], axis=1) for bead in record.extras[name]]
            _line(axis, times, np.mean(sizes, axis=0), COLOURS[0])
            axis.set_ylabel("dipole of the QM region (debye)")
        if len(record.extras[name]) > 1:
            axis.set_title("mean over beads", fontsize=SMALL_SIZE, loc="right", color=GREY)
    axes[-1].set_xlabel(record.time_label)
    return figure


def committee_figure(records: Sequence[Record]) -> Figure:
    """Spread of the members of a committee, or what follows from it: the worst of the beads."""
    there = [name for name in COMMITTEE if any(name in record.extras for record in records)]
    figure, axes = panels(len(there), 1, 1.0 + 4.5 * len(there))
    several = any(len(beads) > 1 for record in records for name, beads in record.extras.items() if name in there)
    for name, axis in zip(there, axes, strict=True):
        for colour, record in zip(colours_of_systems(len(records)), records, strict=True):
            if name not in record.extras:
                continue
            beads = record.extras[name]
            n = min(len(bead.times) for bead in beads)
            worst = np.min if name == "wb_mixing" else np.max
            largest = worst([bead.values[:n, 0] for bead in beads], axis=0)
            _line(axis, beads[0].times[:n], largest, colour, record.title or None, linewidth=_width(records))
        axis.set_ylabel(COMMITTEE[name])
        axis.ticklabel_format(axis="y", useOffset=False)
        if name != "wb_mixing":
            # A weight is near 1, and its changes would not be seen from 0 on.
            axis.set_ylim(bottom=0.0)
    if several:
        axes[0].set_title("worst bead", fontsize=SMALL_SIZE, loc="right", color=GREY)
    axes[-1].set_xlabel(records[0].time_label)
    key_of_systems(figure, axes, [record.title for record in records])
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
    return f"{text}, {slope / len(record.symbols):.3g} per atom" if record.symbols else text


def _width(lines: Collection[object]) -> float:
    """Of a line: thin where there are many."""
    return 0.9 if len(lines) <= MANY else 0.5


def _all_names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.properties))


def _have(records: Sequence[Record], name: str) -> bool:
    return any(name in record.properties for record in records)


def _coloured(records: Sequence[Record], name: str) -> list[tuple[str, Record]]:
    colours = colours_of_systems(len(records))
    return [(colour, record) for colour, record in zip(colours, records, strict=True) if name in record.properties]


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
