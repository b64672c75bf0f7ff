"""Reading what i-PI writes: properties, extras and trajectories, also of a run that is still going on.

A last entry that is only half written is left out. Where a step stands in a file twice, as after a kill and a restart,
the later entry counts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TextIO

import numpy as np
from ase.geometry import cellpar_to_cell

from deltaqmmm.analysis.units import to_atomic_units
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import ANGSTROM

_COLUMN = re.compile(r"#\s*(?:column|cols\.)\s+(\d+)(?:-(\d+))?\s+-->\s+(.*?)\s*(?: : .*|:)?$")
_EXTRAS = re.compile(r"#EXTRAS[^#]*#\s*Step:\s+(\d+)")
_STEP = re.compile(r"Step:\s+(\d+)")
_CELL = re.compile(r"CELL[\[({]abcABC[\])}]:((?:\s+[-+\d.eE]+){6})")
_UNIT = re.compile(r"(\w+)\{([^}]*)\}")


@dataclass(frozen=True)
class Trajectory:
    """Frames of one quantity of all atoms, as an xyz file of i-PI holds them.

    Attributes:
        steps: Shape (n,).
        symbols: Of the N atoms, as they stand in the file.
        values: Positions, velocities, forces ..., shape (n, N, 3), in the unit of the file.
        cells: Lattice vectors as rows, shape (n, 3, 3), angstrom.
        quantity: What i-PI calls it, "positions".
        unit: As i-PI calls it, "angstrom"; "" for atomic units.
    """

    steps: IntArray
    symbols: list[str]
    values: FloatArray
    cells: FloatArray
    quantity: str
    unit: str


def read_properties(file: Path) -> dict[str, FloatArray]:
    """Read a properties file.

    Args:
        file: As `<properties>` writes it.

    Returns:
        Each property under its name in the header without the unit, "kinetic_cv" or "kinetic_cv(H)": shape (n,), or
        (n, k) for one of several columns, in the unit of the file (`property_units`). Of a property that stands there
        twice, in two units, the first.

    Raises:
        InputError: The file is missing, has no header, or a row that is not made of the header's columns.
    """
    text = _text(file)
    columns = _columns(text, file)
    width = max(last for _, _, last, _ in columns)
    rows = text[: text.rfind("\n") + 1]
    try:
        table = np.loadtxt(io.StringIO(rows), ndmin=2, dtype=np.float64) if _has_rows(rows) else np.empty((0, width))
    except ValueError as error:
        raise InputError(f"{file}: a row is not made of numbers, or not of as many as the first ({error}).") from None
    if table.shape[1] != width:
        raise InputError(f"{file}: its rows have {table.shape[1]} numbers, and its header names {width} columns.")
    result: dict[str, FloatArray] = {}
    for name, first, last, _ in columns:
        result.setdefault(name, table[:, first - 1] if first == last else table[:, first - 1 : last])
    if "step" in result:
        kept = _latest(np.rint(result["step"]).astype(np.int64))
        result = {name: values[kept] for name, values in result.items()}
    return result


def property_units(file: Path) -> dict[str, str]:
    """The units of a properties file, by the names of `read_properties`: as i-PI calls them, "" for atomic units.

    Raises:
        InputError: The file is missing or has no header.
    """
    units: dict[str, str] = {}
    for name, _, _, unit in _columns(_text(file), file):
        units.setdefault(name, unit)
    return units


def read_extras(file: Path) -> tuple[IntArray, FloatArray]:
    """Read what a driver sent beside energy and forces, of one bead.

    Args:
        file: As `<trajectory extra_type='...'> extras </trajectory>` writes it.

    Returns:
        Steps, shape (n,), and values, shape (n, k): arrays of several rows are flattened.

    Raises:
        InputError: The file is missing, holds no such entries, or something that is not numbers.
    """
    text = _text(file)
    text = text[: text.rfind("\n") + 1]
    marks = list(_EXTRAS.finditer(text))
    if not marks and text.strip():
        raise InputError(f"{file}: no line '#EXTRAS(...)# Step: ...' in it: it is no extras file of i-PI.")
    steps: list[int] = []
    rows: list[FloatArray] = []
    for mark, following in zip_longest(marks, marks[1:]):
        words = text[mark.end() : len(text) if following is None else following.start()].split()
        try:
            row = np.array(words, dtype=np.float64)
        except ValueError:
            raise InputError(
                f"{file}: step {mark[1]} holds '{' '.join(words)[:40]}', which is not numbers. Name one quantity as "
                "extra_type of <trajectory>, not 'raw'."
            ) from None
        if rows and len(row) != len(rows[0]):
            if following is None:
                break
            raise InputError(f"{file}: step {mark[1]} holds {len(row)} numbers, and the first step {len(rows[0])}.")
        if len(row) or following is not None:
            steps.append(int(mark[1]))
            rows.append(row)
    indices = np.array(steps, dtype=np.int64)
    kept = _latest(indices)
    return indices[kept], np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)[kept]


def read_trajectory(file: Path, limit: int | None = None) -> Trajectory:
    """Read an xyz file of i-PI.

    Args:
        file: As `<trajectory format='xyz'>` writes it.
        limit: Number of frames to read, from the first; None for all.

    Raises:
        InputError: The file is missing or is no xyz file of i-PI, or its frames differ in their atoms.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            frames = list(islice(_frames(stream, file), limit))
    except FileNotFoundError:
        raise _missing(file) from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: it is not a text file.") from None
    if not frames:
        return Trajectory(np.empty(0, np.int64), [], np.empty((0, 0, 3)), np.empty((0, 3, 3)), "", "")
    comment, symbols = frames[0][0], frames[0][1]
    for number, (_, others, _) in enumerate(frames):
        if others != symbols:
            raise InputError(f"{file}: frame {number} (counted from 0) has other atoms than the first.")
    units = dict(_UNIT.findall(comment))
    quantity = next((name for name in units if name != "cell"), "positions")
    cell_unit = to_atomic_units(units.get("cell", ""), "length", f"{file}: cell") / ANGSTROM
    found = [_STEP.search(comment) for comment, _, _ in frames]
    steps = np.array([int(mark[1]) if mark else number for number, mark in enumerate(found)], dtype=np.int64)
    kept = _latest(steps)
    return Trajectory(
        steps[kept],
        symbols,
        np.array([values for _, _, values in frames])[kept],
        np.array([_cell(comment, cell_unit) for comment, _, _ in frames])[kept],
        quantity,
        units.get(quantity, ""),
    )


def read_positions(file: Path) -> tuple[IntArray, list[str], FloatArray]:
    """Read positions: steps (n,), symbols of the N atoms, positions in angstrom (n, N, 3), as i-PI wrote them.

    Raises:
        InputError: The file cannot be read, or holds something else than positions.
    """
    read = read_trajectory(file)
    if read.quantity not in ("positions", "x_centroid", ""):
        raise InputError(f"{file}: it holds {read.quantity}, and positions are needed.")
    factor = to_atomic_units(read.unit, "length", f"{file}: positions") / ANGSTROM
    return read.steps, read.symbols, read.values * factor


def bead_files(folder: Path, prefix: str, name: str) -> list[Path]:
    """The files of the beads, in their order: run.pos_0.xyz, run.pos_1.xyz ... of the prefix "run" and the name "pos".

    Returns:
        An empty list if there are none.
    """
    pattern = re.compile(re.escape(f"{prefix}.{name}" if prefix else name) + r"_(\d+)(\.xyz)?")
    found = [(int(match[1]), file) for file in folder.iterdir() if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _missing(file: Path) -> InputError:
    return InputError(f"{file}: there is no such file. Has the run begun, and does its input write it?")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _missing(file) from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: it is not a text file.") from None


def _columns(text: str, file: Path) -> list[tuple[str, int, int, str]]:
    """Name, first and last column, counted from 1, and unit of each property."""
    columns = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if match := _COLUMN.match(line):
            unit = re.search(r"\{([^}]*)\}", match[3])
            name = re.sub(r"\{[^}]*\}", "", match[3]).replace(" ", "")
            columns.append((name, int(match[1]), int(match[2] or match[1]), unit[1].strip() if unit else ""))
    if not columns:
        raise InputError(f"{file}: no header with '# column 1 --> ...' in it: it is no properties file of i-PI.")
    return columns


def _has_rows(text: str) -> bool:
    return any(line.strip() and not line.startswith("#") for line in text.splitlines())


def _latest(steps: IntArray) -> IntArray:
    """The indices of entries whose step does not come again: what a restart wrote anew goes before what it repeats."""
    later = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < later[1:], [True] * min(len(steps), 1)))


def _frames(stream: TextIO, file: Path) -> Iterator[tuple[str, list[str], FloatArray]]:
    number = 0
    while count := stream.readline():
        if not count.strip() and number:
            return
        comment = stream.readline()
        if not comment.endswith("\n"):
            return
        try:
            lines = list(islice(stream, int(count)))
            if len(lines) < int(count) or not lines[-1].endswith("\n"):
                return
            words = [line.split() for line in lines]
            values = np.array([row[1:4] for row in words], dtype=np.float64).reshape(-1, 3)
        except (ValueError, IndexError):
            raise InputError(
                f"{file}: frame {number} (counted from 0) is not of the form 'number of atoms, comment, symbol x y z'."
            ) from None
        yield comment, [row[0] for row in words], values
        number += 1


def _cell(comment: str, factor: float) -> FloatArray:
    match = _CELL.search(comment)
    if match is None:
        return np.zeros((3, 3))
    a, b, c, *angles = (float(word) for word in match[1].split())
    lengths = [a * factor, b * factor, c * factor]
    return np.asarray(cellpar_to_cell([*lengths, *angles]), dtype=np.float64)  # type: ignore[no-untyped-call]
