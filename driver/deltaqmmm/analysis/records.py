"""What one system of a simulation has written so far, in the units that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deltaqmmm.analysis.outputs import property_units, read_extras, read_properties, read_trajectory
from deltaqmmm.analysis.statistics import drift
from deltaqmmm.analysis.units import to_atomic_units
from deltaqmmm.errors import InputError
from deltaqmmm.periodic import minimum_image_shifts
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import ANGSTROM, E_BOHR_IN_DEBYE, FEMTOSECOND, KELVIN, KJ_PER_MOL

PICOSECOND = 1000.0 * FEMTOSECOND
FEWEST = 5
"""Rows that a drift or an error needs."""
_ENERGIES = re.compile(r"(conserved|potential|kinetic_(?!tens|ij)|ensemble_bias|pot_component|spring|bead_potentials)")
_TEMPERATURES = re.compile(r"(ensemble_)?temperature")
_LENGTHS = re.compile(r"r_gyration")
_EXTRAS = {
    "qm_dipole": E_BOHR_IN_DEBYE,
    "committee_energy_spread": 1.0 / KJ_PER_MOL,
    "committee_force_spread": ANGSTROM / KJ_PER_MOL,
    # i-PI's own <ffcommittee>.
    "committee_uncertainty": 1.0 / KJ_PER_MOL,
}


@dataclass(frozen=True)
class Series:
    """A quantity along a simulation.

    Attributes:
        times: Shape (n,), in picoseconds; steps where the simulation has no time step.
        values: Shape (n,) or (n, k).
    """

    times: FloatArray
    values: FloatArray

    def after(self, start: float) -> Series:
        """The part that begins at a time."""
        kept = self.times >= start
        return Series(self.times[kept], self.values[kept])


@dataclass(frozen=True)
class Record:
    """What a system has written.

    Attributes:
        label: The prefix of its files; "" if there is one system only.
        picoseconds: Of a step; None where the simulation has no time step.
        target: Temperature that is asked for, kelvin; None if it is not known.
        symbols: Of its atoms; none where no positions are written.
        properties: By i-PI's name: energies in kJ/mol, temperatures in kelvin, radii of gyration in angstrom, all else
            as it was written.
        extras: By name, of each bead: dipoles in debye, spreads of a committee in kJ/mol and angstrom, all else as it
            was sent.
        positions: The xyz files of the beads.
        kind: What the system is: "replica", "window".
    """

    label: str = ""
    picoseconds: float | None = None
    target: float | None = None
    symbols: Sequence[str] = ()
    properties: Mapping[str, Series] = field(default_factory=dict)
    extras: Mapping[str, Sequence[Series]] = field(default_factory=dict)
    positions: Sequence[Path] = ()
    kind: str = "system"

    @property
    def title(self) -> str:
        """What people read: a label that is a mere number says of what."""
        return f"{self.kind} {self.label}" if self.label.isdigit() else self.label

    @property
    def end(self) -> float:
        """The last time of anything with a mean."""
        series = [*self.properties.values(), *(bead for beads in self.extras.values() for bead in beads)]
        return max((float(one.times[-1]) for one in series if len(one.times)), default=0.0)

    def start(self, skip: float | None) -> float:
        """Where means and drifts begin: at `skip`, or after the first fifth."""
        return self.end / 5.0 if skip is None else skip

    @property
    def time_label(self) -> str:
        """Of a time axis."""
        return "step" if self.picoseconds is None else "time (ps)"


@dataclass(frozen=True)
class Drift:
    """The straight line through the conserved quantity.

    Attributes:
        slope: kJ/mol per picosecond, or per step where the simulation has no time step.
        scatter: Root-mean-square deviation from the line, kJ/mol.
        times: Of the rows that count, shape (n,).
        line: The line there, kJ/mol, shape (n,).
    """

    slope: float
    scatter: float
    times: FloatArray
    line: FloatArray


def conserved_drift(record: Record, skip: float | None) -> Drift | None:
    """The drift of what is conserved; None where fewer than `FEWEST` rows tell it.

    Args:
        record: Of the system.
        skip: Where it begins, on the axis of the record; None for after the first fifth.
    """
    series = record.properties.get("conserved")
    part = None if series is None else series.after(record.start(skip))
    if part is None or len(part.times) < FEWEST or np.ptp(part.times) == 0.0:
        return None
    slope = drift(part.times, part.values)
    line = part.values.mean() + slope * (part.times - part.times.mean())
    return Drift(slope, float(np.std(part.values - line)), part.times, line)


def load_properties(file: Path, stride: int, picoseconds: float | None) -> dict[str, Series]:
    """Read a properties file as series.

    Args:
        file: As i-PI writes it.
        stride: Steps between its rows, for a file that tells neither time nor step.
        picoseconds: Of a step; None for steps as times.

    Raises:
        InputError: The file cannot be read.
    """
    read, units = read_properties(file), property_units(file)
    n = len(next(iter(read.values())))
    steps = read.pop("step", np.arange(n, dtype=np.float64) * stride)
    clock = read.pop("time", None)
    if picoseconds is None:
        times = steps
    elif clock is None:
        times = steps * picoseconds
    else:
        times = clock * (to_atomic_units(units["time"], "time", f"{file}: time") / PICOSECOND)
    return {name: Series(times, values * _factor(name, units[name], file)) for name, values in read.items()}


def load_extras(files: Sequence[Path], name: str, picoseconds: float | None) -> list[Series]:
    """Read extras of all beads as series.

    Raises:
        InputError: A file cannot be read.
    """
    series = []
    for file in files:
        steps, values = read_extras(file)
        series.append(Series(_times(steps, picoseconds), values * _EXTRAS.get(name, 1.0)))
    return series


def distances(record: Record, pair: tuple[int, int]) -> list[Series]:
    """The distance of two atoms along a simulation, at their nearest images, for each bead.

    Args:
        record: Of the system.
        pair: The atoms, counted from 0.

    Returns:
        Angstrom.

    Raises:
        InputError: There are no positions, or no such atoms.
    """
    if not record.positions:
        raise InputError(
            f"--distance {pair[0]}-{pair[1]}: no positions are written: the input needs "
            "<trajectory filename='pos' format='xyz'> positions{angstrom} </trajectory>."
        )
    result = []
    for file in record.positions:
        read = read_trajectory(file)
        n_atoms = len(read.symbols)
        if len(read.steps) == 0:
            continue
        if max(pair) >= n_atoms or pair[0] == pair[1]:
            raise InputError(
                f"--distance {pair[0]}-{pair[1]}: two different atoms from 0 to {n_atoms - 1} are needed; {file.name} "
                f"has {n_atoms}."
            )
        factor = to_atomic_units(read.unit, "length", f"{file}: positions") / ANGSTROM
        vectors = (read.values[:, pair[1]] - read.values[:, pair[0]]) * factor
        if abs(np.linalg.det(read.cells[0])) > 0.0:
            vectors = vectors + (minimum_image_shifts(vectors[:, None], read.cells) @ read.cells)[:, 0]
        result.append(Series(_times(read.steps, record.picoseconds), np.linalg.norm(vectors, axis=1)))
    return result


def _times(steps: IntArray, picoseconds: float | None) -> FloatArray:
    return steps.astype(np.float64) * (picoseconds or 1.0)


def _factor(name: str, unit: str, file: Path) -> float:
    """Into the units of `Record.properties`."""
    what = f"{file}: {name}"
    if _ENERGIES.match(name):
        return to_atomic_units(unit, "energy", what) / KJ_PER_MOL
    if _TEMPERATURES.match(name):
        return to_atomic_units(unit, "temperature", what) / KELVIN
    if _LENGTHS.match(name):
        return to_atomic_units(unit, "length", what) / ANGSTROM
    return 1.0
