"""Which figures `deltaqmmm plot` draws from what it has found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deltaqmmm.analysis import themes
from deltaqmmm.analysis.records import Record, Series, distances
from deltaqmmm.analysis.sampling_themes import walks_figure
from deltaqmmm.cli.plot_bias import of_plumed
from deltaqmmm.cli.plot_exchange import read_swaps
from deltaqmmm.cli.plot_folder import Found
from deltaqmmm.errors import DeltaqmmmError, InputError

CONFIG = "config.toml"
_ENERGIES = ("conserved", "potential", "kinetic_md")


def figures(
    found: Found, pairs: Sequence[tuple[int, int]], skip: float | None = None
) -> tuple[dict[str, Figure], list[str]]:
    """Draw every theme that there is something of.

    Args:
        found: What the folder holds.
        pairs: Atoms whose distances are asked for.
        skip: Where means and drifts begin, on the axis of the records; None for after the first fifth.

    Returns:
        The figures by their names, and what could not be drawn, with the reason.

    Raises:
        InputError: A distance that was asked for cannot be had, or there is nothing to draw.
    """
    records = found.records
    drawn: dict[str, Figure] = {}
    # What was asked for comes first: an error in it ends the command.
    lines = {label: beads for pair in pairs for label, beads in _distances(records, pair)}
    if any(name in record.properties for record in records for name in _ENERGIES):
        drawn["energies"] = themes.energies_figure(records, skip)
    if any("temperature" in record.properties for record in records):
        drawn["temperature"] = themes.temperature_figure(records, found.ladder)
    if any(
        # That of one bead is classical, and a constant.
        name.startswith(("kinetic_cv", "kinetic_td")) and themes.atoms_of(name, record) and np.ptp(series.values) > 0.0
        for record in records
        for name, series in record.properties.items()
    ):
        drawn["quantum_kinetic"] = themes.quantum_kinetic_figure(records, skip)
    if lines:
        drawn["distances"] = themes.distances_figure(lines, records[0].time_label)
    described = [record for record in records if "qm_charges" in record.extras or "qm_dipole" in record.extras]
    atoms = qm_atoms(found.folder) if any("qm_charges" in record.extras for record in described) else []
    for record in described:
        drawn[f"{record.label}_qm" if record.label else "qm"] = themes.qm_figure(record, atoms)
    if any(name in record.extras for record in records for name in themes.COMMITTEE):
        drawn["committee"] = themes.committee_figure(records)
    if found.swaps is not None:
        drawn["walks"] = _walks(found.swaps, found)
    biased, notes = of_plumed(found, skip)
    drawn |= biased
    if not drawn:
        raise InputError(
            f"{found.folder}: nothing to draw. Looked for the properties conserved, potential, temperature, "
            "kinetic_cv, for positions (with --distance), and for the extras qm_charges, qm_dipole, "
            "committee_energy_spread: none is written."
        )
    return drawn, notes


def _distances(records: Sequence[Record], pair: tuple[int, int]) -> Iterator[tuple[str, list[Series]]]:
    for record in records:
        beads = distances(record, pair)
        if beads:
            symbols = [f"{record.symbols[atom]}{atom}" for atom in pair]
            yield f"{record.title} {'–'.join(symbols)}".strip(), beads  # noqa: RUF001 - a dash between two atoms


def _walks(file: Path, found: Found) -> Figure:
    """The walks of replica exchange.

    i-PI writes a row where something was exchanged: the step, and for each replica the number of the ensemble that it
    has from then on.
    """
    steps, places = read_swaps(file)
    if len(steps) == 0:
        places = places.reshape(0, len(found.records))
    last = max([0, *steps[-1:], *(_last_step(record) for record in found.records)])
    # At the first step nothing is exchanged yet.
    first = [record.properties.get("ensemble_temperature") for record in found.records]
    ladder = found.ladder or tuple(sorted(float(one.values[0]) for one in first if one is not None))
    return walks_figure(steps, places, last, ladder if len(ladder) == places.shape[1] else None)


def _last_step(record: Record) -> int:
    return round(record.end / (record.picoseconds or 1.0))


def qm_atoms(folder: Path) -> list[str]:
    """Element and number, from 0, of the QM atoms, by the driver's settings; none where those cannot be had."""
    if not (folder / CONFIG).is_file():
        return []
    from deltaqmmm.config.parts import load_split
    from deltaqmmm.config.reading import read_config

    try:
        _, system = load_split(read_config(folder / CONFIG))
    except DeltaqmmmError:
        return []
    return [f"{system.symbols[atom]}{atom}" for atom in system.qm_atoms]
