"""Which figures `deltaqmmm plot` draws of PLUMED's bias: hills, free energies, windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from deltaqmmm.analysis import sampling_themes
from deltaqmmm.analysis.records import Record, Series
from deltaqmmm.cli.plot_folder import Found
from deltaqmmm.cli.plot_plumed import (
    Action,
    Profiles,
    find_action,
    free_energies,
    has_rows,
    hill_heights,
    printed_file,
    read_column,
    reweighted,
)
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray

_RESTRAINTS = ("RESTRAINT", "MOVINGRESTRAINT")


def of_plumed(found: Found, skip: float | None) -> tuple[dict[str, Figure], list[str]]:
    """The figures of all inputs of PLUMED.

    Args:
        found: What the folder holds.
        skip: Where the samples of windows begin, on the axis of the records; None for after the first fifth.

    Returns:
        The figures by their names, and what could not be drawn, with the reason.
    """
    drawn: dict[str, Figure] = {}
    notes: list[str] = []
    metad = [(one, action) for one in found.plumed if (action := find_action(one, "METAD")) is not None]
    opes = [(one, action) for one in found.plumed if (action := find_action(one, "OPES_METAD")) is not None]
    for plumed, action in [*metad, *opes]:
        # Several walkers have a figure each.
        name = f"{plumed.stem}_" if len(metad) + len(opes) > 1 else ""
        hills = plumed.parent / action.words.get("FILE", "HILLS") if (plumed, action) in metad else None
        try:
            drawn[f"{name}variable"] = _variable(plumed, action, hills, found.records[0])
        except InputError as error:
            notes.append(str(error))
        try:
            drawn[f"{name}free_energy"] = _free_energy(plumed, action, hills, found.records)
        except InputError as error:
            notes.append(str(error))
    biased = {plumed for plumed, _ in [*metad, *opes]}
    try:
        windows = _windows([one for one in found.plumed if one not in biased], found.records[0], skip)
    except InputError as error:
        notes.append(str(error))
    else:
        drawn |= windows
    return drawn, list(dict.fromkeys(notes))


def _variable(plumed: Path, action: Action, hills: Path | None, record: Record) -> Figure:
    """The collective variable along the simulation, from what PRINT writes, and the heights of the hills."""
    variable, colvar = action.words.get("ARG", "").split(",")[0], printed_file(plumed)
    if not has_rows(colvar):
        raise InputError(f"{colvar}: nothing is written yet of the collective variable.")
    values = _timed(read_column(colvar, variable), record)
    heights = _timed(hill_heights(hills, plumed), record) if hills is not None and has_rows(hills) else None
    return sampling_themes.variable_figure(values, heights, variable, record.time_label)


def _timed(series: Series, record: Record) -> Series:
    """From the number of steps to the axis of the record."""
    return Series(series.times * (record.picoseconds or 1.0), series.values)


def _free_energy(plumed: Path, action: Action, hills: Path | None, records: Sequence[Record]) -> Figure:
    """Of metadynamics from its hills, of OPES from what PRINT writes."""
    if hills is not None:
        if not hills.is_file():
            raise InputError(f"{hills}: no hills yet, and no free energy.")
        variable, profiles = free_energies(hills, plumed)
        return sampling_themes.free_energy_figure(profiles, variable)
    colvar = printed_file(plumed)
    if not colvar.is_file():
        raise InputError(f"{colvar}: is not there yet, and OPES' free energy comes from it.")
    temperature = float(action.words.get("TEMP", records[0].target or 0.0))
    variable = action.words.get("ARG", "")
    return sampling_themes.free_energy_figure(_reweighted(colvar, plumed, variable, temperature), variable)


def _reweighted(colvar: Path, plumed: Path, variable: str, temperature: float) -> Profiles:
    if temperature <= 0.0:
        raise InputError(f"{plumed}: OPES_METAD says no TEMP, and no temperature is known otherwise.")
    return reweighted(colvar, plumed, variable, temperature)


def _windows(inputs: Sequence[Path], record: Record, skip: float | None) -> dict[str, Figure]:
    """The overlap of the windows of umbrella sampling; nothing without restraints."""
    windows: dict[str, FloatArray] = {}
    variable = ""
    for plumed in inputs:
        action = next((one for name in _RESTRAINTS if (one := find_action(plumed, name)) is not None), None)
        if action is None:
            continue
        colvar, variable = printed_file(plumed), action.words.get("ARG", "").split(",")[0]
        if not has_rows(colvar):
            raise InputError(f"{colvar}: nothing is written yet of the window.")
        values = _timed(read_column(colvar, variable), record)
        kept = values.after(float(values.times[-1]) / 5.0 if skip is None else skip).values
        if len(kept) == 0:
            raise InputError(f"{colvar}: nothing is left of the window after {skip:g}.")
        at = action.words.get("AT", action.words.get("AT1", ""))
        label = f"window at {at}"
        windows[label if at and label not in windows else colvar.name] = kept
    return {"windows": sampling_themes.windows_figure(windows, variable)} if windows else {}
