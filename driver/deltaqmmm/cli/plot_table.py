"""The table of `deltaqmmm plot`: mean and error of each property, and the drift of what is conserved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deltaqmmm.analysis.records import Record, Series
from deltaqmmm.analysis.statistics import PymbarMissingError, drift, mean_and_error
from deltaqmmm.analysis.themes import ENERGY, beads_mean
from deltaqmmm.results import FloatArray

_UNITS = {"temperature": "K", "ensemble_temperature": "K", "r_gyration": "angstrom"}
_ENERGIES = ("conserved", "potential", "kinetic", "ensemble_bias", "pot_component", "spring", "bead_potentials")
_EXTRAS = {
    "qm_dipole": "debye",
    "committee_energy_spread": ENERGY,
    "committee_force_spread": f"{ENERGY}/angstrom",
    "committee_uncertainty": ENERGY,
    "wb_mixing": "",
    "scc_iterations": "",
}


def table(records: Sequence[Record], skip: float | None) -> Iterator[str]:
    """The lines of the table.

    Args:
        records: Of all systems.
        skip: Where means begin, on the axis of the records; None for the first fifth.
    """
    hint = ""
    for record in records:
        start = record.end / 5.0 if skip is None else skip
        unit = "steps" if record.picoseconds is None else "ps"
        name = f"{record.label}: " if record.label else ""
        yield f"{name}to {record.end:g} {unit}, means from {start:g} {unit} on"
        for what, series, measure in _quantities(record):
            values = series.after(start).values
            if len(values) == 0:
                continue
            try:
                estimate = mean_and_error(values) if len(values) > 1 else None
                scatter = "" if estimate is None else f" +- {estimate.error:.2g}"
                count = "" if estimate is None else f"({estimate.n_effective:.0f} independent values)"
            except PymbarMissingError as error:
                scatter, count, hint = "", "", str(error)
            yield f"  {what:<24} {np.mean(values):>14.6g}{scatter:<12} {measure:<15} {count}".rstrip()
        yield from _drift(record, start, unit)
    if hint:
        yield hint


def _quantities(record: Record) -> Iterator[tuple[str, Series, str]]:
    """Name, series and unit of what has a mean."""
    for name, series in record.properties.items():
        if name == "conserved" or not np.isfinite(series.values).all():
            continue
        unit = next((_UNITS[key] for key in _UNITS if name.startswith(key)), "")
        unit = ENERGY if name.startswith(_ENERGIES) else unit
        if series.values.ndim == 1:
            yield name, series, unit
    for name, unit in _EXTRAS.items():
        if name in record.extras:
            beads = record.extras[name]
            times, values = beads_mean([Series(bead.times, _size(bead.values)[:, None]) for bead in beads])
            yield name, Series(times, values[:, 0]), unit


def _size(values: FloatArray) -> FloatArray:
    size: FloatArray = np.linalg.norm(values, axis=1)
    return size


def _drift(record: Record, start: float, unit: str) -> Iterator[str]:
    series = record.properties.get("conserved")
    if series is None:
        return
    part = series.after(start)
    if len(part.times) < 2 or np.ptp(part.times) == 0.0:
        return
    slope = drift(part.times, part.values)
    per = f"{ENERGY} per {'step' if unit == 'steps' else 'ps'}"
    n_atoms = len(record.symbols)
    atoms = f", {slope / n_atoms:.3g} per atom" if n_atoms else ""
    yield f"  {'drift of conserved':<24} {slope:>14.3g} {per}{atoms}; scatter about it {_scatter(part):.2g} {ENERGY}"


def _scatter(series: Series) -> float:
    """Root-mean-square deviation from the straight line."""
    times = series.times - series.times.mean()
    slope = drift(series.times, series.values)
    return float(np.std(series.values - slope * times))
