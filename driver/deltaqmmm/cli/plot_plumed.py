"""Free energies of metadynamics from PLUMED's own `sum_hills`, and of OPES from the bias in its COLVAR file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.analysis.records import Series
from deltaqmmm.cli.plot_exchange import latest
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray
from deltaqmmm.units import KCAL_PER_MOL, KELVIN, KJ_PER_MOL

PARTS = 5
"""Profiles that show how the free energy grew."""
Profiles = dict[str, tuple[FloatArray, FloatArray]]
_TIMEOUT, _BINS = 300.0, 300
_REACH = 3.0
"""Widths of a hill that are drawn beyond the outermost."""
_ENERGY_UNITS = {"": 1.0, "kj/mol": 1.0, "j/mol": 1e-3, "kcal/mol": KCAL_PER_MOL / KJ_PER_MOL}


@dataclass(frozen=True)
class Action:
    """An action of PLUMED's input.

    Attributes:
        label: Its name.
        words: Its keywords: "FILE" and what is given to it.
    """

    label: str
    words: Mapping[str, str]


def find_action(plumed: Path, name: str) -> Action | None:
    """The first action of a kind in an input of PLUMED; None if there is none."""
    # An action of several lines stands between "..." and "...".
    text = re.sub(
        r"\.\.\.\s*\n(.*?)\n\s*\.\.\.[^\n]*", lambda found: found[1].replace("\n", " "), _text(plumed), flags=re.DOTALL
    )
    for line in text.splitlines():
        words = line.split()
        label = words.pop(0).rstrip(":") if words and words[0].endswith(":") else ""
        if words and words[0] == name:
            given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            return Action(given.get("LABEL", label), given)
    return None


def free_energies(hills: Path, plumed: Path) -> tuple[str, Profiles]:
    """The free energy along the collective variable, from a growing part of the hills.

    Args:
        hills: As METAD writes it; of well-tempered metadynamics PLUMED scales the heights.
        plumed: The input, for its unit of energy.

    Returns:
        Name of the collective variable, and by "20 %" to "100 %" of the hills its values and the free energy in kJ/mol,
        the lowest at zero.

    Raises:
        InputError: PLUMED is missing or fails, or there are several collective variables.
    """
    if not has_rows(hills):
        raise InputError(f"{hills}: no hills yet, and no free energy.")
    names = _fields(hills)
    if sum(name.startswith("sigma_") for name in names) != 1:
        raise InputError(f"{hills}: profiles are drawn along one collective variable, and this has several.")
    # A hill that is only half written is none.
    lines = hills.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = lines if lines and lines[-1].endswith("\n") else lines[:-1]
    rows = [line for line in lines if not line.startswith("#") and line.strip()]
    if len(rows) < PARTS:
        raise InputError(f"{hills}: {len(rows)} hills, and at least {PARTS} are needed.")
    head = [line for line in lines if line.startswith("#!")]
    factor = _energy_unit(plumed)
    column, width = names.index(names[1]), names.index(f"sigma_{names[1]}")
    table = np.loadtxt(rows, ndmin=2)
    reach = _REACH * float(table[:, width].max())
    bounds = float(table[:, column].min()) - reach, float(table[:, column].max()) + reach
    profiles: Profiles = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in range(1, PARTS + 1):
            # Written anew, for `--stride` counts hills in the whole file and numbers its files by their own rule.
            n = len(rows) * part // PARTS
            # A restart writes the header again.
            (Path(folder) / "HILLS").write_text("".join([*dict.fromkeys(head), *rows[:n]]), encoding="utf-8")
            _sum_hills(Path(folder), hills, bounds)
            table = np.loadtxt(Path(folder) / "fes.dat", ndmin=2)
            profiles[f"{100 * part // PARTS} % of {len(rows)} hills"] = (table[:, 0], table[:, 1] * factor)
    return names[1], profiles


def reweighted(colvar: Path, plumed: Path, variable: str, temperature: float, bins: int = 60) -> Profiles:
    """The free energy along a collective variable from a biased run, each point with the weight exp(bias / kT).

    So OPES gives it (Invernizzi and Parrinello, J. Phys. Chem. Lett. 11, 2731 (2020), DOI 10.1021/acs.jpclett.0c00497):
    its bias hardly changes once it has settled. All columns `*.bias`, of walls too, are taken off.

    Args:
        colvar: What PRINT writes.
        plumed: The input, for its unit of energy.
        variable: Name of the column.
        temperature: Kelvin.
        bins: Of the histogram.

    Returns:
        As `free_energies`; places that were not visited are not a number.

    Raises:
        InputError: The file lacks the collective variable or the bias, or is too short.
    """
    names = _fields(colvar)
    biases = [column for column, name in enumerate(names) if name.endswith(".bias")]
    if variable not in names or not biases:
        raise InputError(f"{colvar}: has no columns {variable} and *.bias: PRINT them (ARG={variable},*.bias).")
    table = _table(colvar, len(names))
    if len(table) < 10 * PARTS:
        raise InputError(f"{colvar}: {len(table)} rows, and at least {10 * PARTS} are needed.")
    values = table[:, names.index(variable)]
    bias = table[:, biases].sum(axis=1) * _energy_unit(plumed) * KJ_PER_MOL
    edges = np.linspace(values.min(), values.max(), bins + 1)
    thermal = temperature * KELVIN
    profiles: Profiles = {}
    for part in range(1, PARTS + 1):
        n = len(values) * part // PARTS
        weights = np.exp((bias[:n] - bias[:n].max()) / thermal)
        density = np.histogram(values[:n], edges, weights=weights)[0]
        with np.errstate(divide="ignore"):
            profile = np.where(density > 0.0, -thermal * np.log(density), np.nan) / KJ_PER_MOL
        label = f"{100 * part // PARTS} % of {len(values)} frames"
        profiles[label] = (0.5 * (edges[1:] + edges[:-1]), profile - np.nanmin(profile))
    return profiles


def has_rows(file: Path) -> bool:
    """Whether a file of PLUMED is there and has a whole row."""
    if not file.is_file():
        return False
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return any(line.endswith("\n") and line.strip() and not line.startswith("#") for line in lines)


def read_column(file: Path, name: str) -> Series:
    """A column of a file of PLUMED, against the number of steps, which is what PLUMED calls time in i-PI.

    Raises:
        InputError: There is no such column, or the rows cannot be read.
    """
    names = _fields(file)
    if name not in names or names[0] != "time":
        raise InputError(f"{file}: has no columns time and {name}: PRINT ARG={name},... writes them.")
    table = _table(file, len(names))
    return Series(table[:, 0], table[:, names.index(name)])


def hill_heights(hills: Path, plumed: Path) -> Series:
    """Heights of the hills in kJ/mol, against the number of steps."""
    heights = read_column(hills, "height")
    return Series(heights.times, heights.values * _energy_unit(plumed))


def printed_file(plumed: Path) -> Path:
    """Where the first PRINT of an input writes."""
    printed = find_action(plumed, "PRINT")
    return plumed.parent / ("COLVAR" if printed is None else printed.words.get("FILE", "COLVAR"))


def _table(file: Path, columns: int) -> FloatArray:
    text = file.read_text(encoding="utf-8")
    try:
        table = np.loadtxt(text[: text.rfind("\n") + 1].splitlines(), ndmin=2)
    except ValueError as error:
        raise InputError(f"{file}: is no table of PLUMED: {error}.") from None
    return latest(table) if len(table) else np.zeros((0, columns))


def _sum_hills(folder: Path, hills: Path, bounds: tuple[float, float]) -> None:
    beside = Path(sys.executable).with_name("plumed")
    program = str(beside) if beside.is_file() else shutil.which("plumed")
    if program is None:
        raise InputError(
            f"{hills}: its free energy needs the program `plumed`, which is not on the PATH: install PLUMED "
            "(`pip install --no-deps hillclimber`, or conda-forge's plumed)."
        )
    command = [program, "sum_hills", "--hills", "HILLS", "--outfile", "fes.dat", "--mintozero"]
    command += ["--min", f"{bounds[0]:.6f}", "--max", f"{bounds[1]:.6f}", "--bin", str(_BINS)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{hills}: `plumed sum_hills` did not run: {error}.") from None
    if done.returncode != 0 or not (folder / "fes.dat").is_file():
        said = (done.stderr + done.stdout).strip().splitlines()
        raise InputError(f"{hills}: `plumed sum_hills` failed: {said[-1] if said else 'it said nothing'}.")


def _fields(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as stream:
        first = stream.readline().split()
    if first[:2] != ["#!", "FIELDS"]:
        raise InputError(f"{file}: its first line is not '#! FIELDS ...': it is no file of PLUMED.")
    return first[2:]


def _text(file: Path) -> str:
    return re.sub(r"#.*", "", file.read_text(encoding="utf-8"))


def _energy_unit(plumed: Path) -> float:
    """What an energy of PLUMED is multiplied with to be in kJ/mol."""
    units = find_action(plumed, "UNITS")
    unit = "" if units is None else units.words.get("ENERGY", "").lower()
    if unit in _ENERGY_UNITS:
        return _ENERGY_UNITS[unit]
    try:
        return float(unit)
    except ValueError:
        raise InputError(f"{plumed}: UNITS ENERGY={unit} is not known here.") from None
