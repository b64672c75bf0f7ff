"""The table of `deltaqmmm plot`: mean and error of each property, and the drift of what is conserved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deltaqmmm.analysis.records import FEWEST, Record, Series, conserved_drift
from deltaqmmm.analysis.statistics import PymbarMissingError, mean_and_error
from deltaqmmm.analysis.themes import ENERGY, beads_mean
from deltaqmmm.cli.plot_exchange import HELD, at_temperature, count_swaps, is_exchanged, read_swaps
from deltaqmmm.cli.plot_folder import Found
from deltaqmmm.errors import InputError
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
_FEWEST_TRIES = 10.0


def check_skip(records: Sequence[Record], skip: float | None) -> None:
    """Refuse to skip all there is.

    Raises:
        InputError: Nothing is left for means.
    """
    end = max(record.end for record in records)
    if skip is not None and skip > end and any(record.properties or record.extras for record in records):
        unit = _unit(records[0])
        raise InputError(f"--skip {skip:g}: nothing is left for means: what is written ends at {end:g} {unit}.")


def table(found: Found, skip: float | None) -> Iterator[str]:
    """The lines of the table.

    Args:
        found: What the folder holds.
        skip: Where means begin, on the axis of the records; None for the first fifth.
    """
    records, hints = found.records, list[str]()
    exchanged = len(found.ladder) > 1 and is_exchanged(records)
    if exchanged:
        yield from _by_temperature(found, skip, hints)
    elif found.stride is not None:
        hints.append(
            "A replica has several temperatures, and so have its means: write ensemble_temperature{kelvin} into "
            "<properties> for means by temperature."
        )
    for record in records:
        start, unit = record.start(skip), _unit(record)
        name = f"{record.title}: " if record.title else ""
        if not exchanged:
            yield f"{name}to {record.end:g} {unit}, means from {start:g} {unit} on"
            for what, series, measure in _quantities(record):
                yield from _mean(what, series.after(start).values, measure, hints)
            yield from _drift(record, skip)
        else:
            yield from (f"{record.title:<12}{line}" for line in _drift(record, skip))
    if found.swaps is not None and found.stride is not None:
        yield from _acceptance(found, found.swaps, found.stride, skip)
    yield from dict.fromkeys(hints)


def _unit(record: Record) -> str:
    return "steps" if record.picoseconds is None else "ps"


def _mean(what: str, values: FloatArray, measure: str, hints: list[str]) -> Iterator[str]:
    """The line of a mean; its error only where there are values enough to tell it."""
    if len(values) == 0:
        return
    scatter = count = ""
    if len(values) >= FEWEST:
        try:
            estimate = mean_and_error(values)
            scatter, count = f" +- {estimate.error:.2g}", f"({estimate.n_effective:.0f} independent values)"
        except PymbarMissingError as error:
            hints.append(str(error))
    else:
        count = f"({len(values)} value{'s' if len(values) > 1 else ''}: too few for an error)"
    yield f"  {what:<24} {np.mean(values):>14.6g}{scatter:<12} {measure:<15} {count}".rstrip()


def _by_temperature(found: Found, skip: float | None, hints: list[str]) -> Iterator[str]:
    """Means of what each temperature of the ladder has seen."""
    records, ladder = found.records, np.array(found.ladder)
    end, unit = max(record.end for record in records), _unit(records[0])
    start = end / 5.0 if skip is None else skip
    yield f"{len(records)} replicas to {end:g} {unit}, means by temperature from {start:g} {unit} on"
    quantities = [{what: (series, measure) for what, series, measure in _quantities(one)} for one in records]
    names = dict.fromkeys(what for one in quantities for what in one if what != HELD)
    for place, temperature in enumerate(ladder):
        yield f"{temperature:g} K"
        for what in names:
            measure = next(one[what][1] for one in quantities if what in one)
            series = [one[what][0] if what in one else None for one in quantities]
            yield from _mean(what, at_temperature(records, series, ladder, place).after(start).values, measure, hints)


def _acceptance(found: Found, file: Path, stride: float, skip: float | None) -> Iterator[str]:
    """The share of swaps accepted of each pair of neighbours on the ladder."""
    steps, places = read_swaps(file)
    size = found.records[0].picoseconds or 1.0
    end = max(record.end for record in found.records)
    first = (end / 5.0 if skip is None else skip) / size
    last = max(end / size, float(steps[-1]) + 1.0 if len(steps) else 0.0)
    tries = (last - first) / max(stride, 1.0)
    n_replicas = places.shape[1] if len(steps) else len(found.ladder)
    if n_replicas < 2:
        return
    if tries < _FEWEST_TRIES:
        yield f"swaps accepted: about {tries:.0f} tries of each pair so far, too few for a share"
        return
    swaps = count_swaps(steps, places.reshape(len(steps), n_replicas), first)
    called = found.ladder if len(found.ladder) == n_replicas else range(n_replicas)
    yield f"swaps accepted, of about {tries:.0f} tries of each pair (stride {stride:g})"
    for low, (accepted, estimated) in enumerate(zip(swaps.accepted, swaps.estimated, strict=True)):
        pair = f"{called[low]:g} - {called[low + 1]:g}{' K' if called is found.ladder else ''}"
        # Binomial in the tries, whose number i-PI does not write down.
        yield f"  {pair:<24} {estimated / tries:>14.3f} +- {np.sqrt(estimated) / tries:<8.2g} ({accepted} swaps)"
    if swaps.unclear:
        yield f"  and {swaps.unclear} steps with several swaps of the same replicas, shared out over the pairs"


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


def _drift(record: Record, skip: float | None) -> Iterator[str]:
    if "conserved" not in record.properties:
        return
    found = conserved_drift(record, skip)
    if found is None:
        n = len(record.properties["conserved"].after(record.start(skip)).times)
        yield f"  {'drift of conserved':<24} not told by {n} row{'' if n == 1 else 's'}: it needs {FEWEST}"
        return
    per = f"{ENERGY} per {'step' if record.picoseconds is None else 'ps'}"
    n_atoms = len(record.symbols)
    atoms = f", {found.slope / n_atoms:.3g} per atom" if n_atoms else ""
    yield (
        f"  {'drift of conserved':<24} {found.slope:>14.3g} {per}{atoms}; scatter about it {found.scatter:.2g} {ENERGY}"
    )
