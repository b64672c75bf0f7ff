"""Which figures `deltaqmmm plot` draws from what it has found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deltaqmmm.analysis import themes
from deltaqmmm.analysis.records import Record, Series, distances
from deltaqmmm.cli.plot_folder import Found
from deltaqmmm.cli.plot_plumed import Profiles, find_action, free_energies, reweighted
from deltaqmmm.errors import InputError
from deltaqmmm.results import IntArray

_ENERGIES = ("conserved", "potential", "kinetic_md")


def figures(found: Found, pairs: Sequence[tuple[int, int]]) -> tuple[dict[str, Figure], list[str]]:
    """Draw every theme that there is something of.

    Args:
        found: What the folder holds.
        pairs: Atoms whose distances are asked for.

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
        drawn["energies"] = themes.energies_figure(records)
    if any("temperature" in record.properties for record in records):
        drawn["temperature"] = themes.temperature_figure(records)
    if any(
        # That of one bead is classical, and a constant.
        name.startswith(("kinetic_cv", "kinetic_td")) and themes.atoms_of(name, record) and np.ptp(series.values) > 0.0
        for record in records
        for name, series in record.properties.items()
    ):
        drawn["quantum_kinetic"] = themes.quantum_kinetic_figure(records)
    if lines:
        drawn["distances"] = themes.distances_figure(lines, records[0].time_label)
    for record in records:
        if "qm_charges" in record.extras or "qm_dipole" in record.extras:
            drawn[f"{record.label}_qm" if record.label else "qm"] = themes.qm_figure(record)
    if any(name in record.extras for record in records for name in themes.COMMITTEE):
        drawn["committee"] = themes.committee_figure(records)
    if found.swaps is not None:
        drawn["walks"] = _walks(found.swaps, found)
    notes = []
    for plumed in found.plumed:
        try:
            profile = _free_energy(plumed, records)
        except InputError as error:
            notes.append(str(error))
            continue
        if profile is not None:
            drawn["free_energy"] = profile
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
            yield f"{record.label} {'–'.join(symbols)}".strip(), beads  # noqa: RUF001 - a dash between two atoms


def _walks(file: Path, found: Found) -> Figure:
    """The walks of replica exchange.

    i-PI writes a row where something was exchanged: the step, and for each replica the number of the ensemble that it
    has from then on.
    """
    steps, places = read_swaps(file)
    last = max([0, *steps[-1:], *(_last_step(record) for record in found.records)])
    # At the first step nothing is exchanged yet.
    first = [record.properties.get("ensemble_temperature") for record in found.records]
    ladder = found.ladder or tuple(sorted(float(one.values[0]) for one in first if one is not None))
    return themes.walks_figure(steps, places, last, ladder if len(ladder) == places.shape[1] else None)


def _last_step(record: Record) -> int:
    return round(record.end / (record.picoseconds or 1.0))


def read_swaps(file: Path) -> tuple[IntArray, IntArray]:
    """Steps (n,) and the number of the ensemble of each replica (n, R) from a swap file of i-PI.

    Raises:
        InputError: It holds something else.
    """
    text = file.read_text(encoding="utf-8")
    try:
        table = np.loadtxt(text[: text.rfind("\n") + 1].splitlines(), ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{file}: is no swap file of i-PI's replica exchange: {error}.") from None
    integers = table.astype(np.int64)
    return integers[:, 0], integers[:, 1:]


def _free_energy(plumed: Path, records: Sequence[Record]) -> Figure | None:
    """Of the metadynamics or OPES of an input of PLUMED; None if it has neither."""
    if (metad := find_action(plumed, "METAD")) is not None:
        hills = plumed.parent / metad.words.get("FILE", "HILLS")
        if not hills.is_file():
            raise InputError(f"{hills}: there are no hills yet, and no free energy.")
        variable, profiles = free_energies(hills, plumed)
        return themes.free_energy_figure(profiles, variable)
    if (opes := find_action(plumed, "OPES_METAD")) is not None:
        printed = find_action(plumed, "PRINT")
        colvar = plumed.parent / ("COLVAR" if printed is None else printed.words.get("FILE", "COLVAR"))
        if not colvar.is_file():
            raise InputError(f"{colvar}: is not there yet, and OPES' free energy comes from it.")
        temperature = float(opes.words.get("TEMP", records[0].target or 0.0))
        variable = opes.words.get("ARG", "")
        return themes.free_energy_figure(_reweighted(colvar, plumed, variable, temperature), variable)
    return None


def _reweighted(colvar: Path, plumed: Path, variable: str, temperature: float) -> Profiles:
    if temperature <= 0.0:
        raise InputError(f"{plumed}: OPES_METAD says no TEMP, and no temperature is known otherwise.")
    return reweighted(colvar, plumed, variable, temperature)
