"""Frames from files: everything that ASE reads, and i-PI's own xyz, whose comment line ASE would skip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import cellpar_to_cell

from deltaqmmm.errors import FrameError
from deltaqmmm.results import FloatArray
from deltaqmmm.units import ANGSTROM, NANOMETRE

if TYPE_CHECKING:
    from deltaqmmm.system import System

_CELL = re.compile(r"CELL[(\[{](abcABC|H|GENH)[)\]}]:\s*([-+0-9.eE\s]*)")
_QUANTITY = re.compile(r"(\w+)\{\s*(\w+)\s*\}")
_LENGTH_UNITS = {
    "atomic_unit": 1.0,
    "automatic": 1.0,
    "bohr": 1.0,
    "angstrom": ANGSTROM,
    "ase": ANGSTROM,
    "nanometer": NANOMETRE,
}


@dataclass(frozen=True)
class Frame:
    """One frame of a file.

    Attributes:
        symbols: Element of each of the N atoms.
        positions: Shape (N, 3), bohr.
        cell: Lattice vectors as rows, shape (3, 3), bohr; None where the file has none.
        label: For messages: "frame 3 of run.xyz", counted from 0.
        info: What else the file says about the frame: the key=value pairs of an extended xyz file, by name.
    """

    symbols: tuple[str, ...]
    positions: FloatArray
    cell: FloatArray | None
    label: str
    info: Mapping[str, object] = field(default_factory=dict)


def read_frames(file: Path, system: System) -> Iterator[Frame]:
    """Yield the frames of a file, each checked against the system.

    Args:
        file: i-PI's xyz, or any format of ASE (extxyz, xyz, pdb, ...).
        system: What the frames must be of: the same elements in the same order, and a cell if it is periodic.

    Raises:
        FrameError: The file is missing, malformed or empty, or a frame does not fit.
    """
    if not file.is_file():
        raise FrameError(f"{file}: no such file of frames.")
    frames = _read_ipi(file) if is_ipi_xyz(file) else _read_ase(file)
    count = 0
    for frame in frames:
        check_atoms(frame.symbols, system, frame.label)
        if system.periodic and frame.cell is None:
            raise FrameError(
                f'{frame.label} has no cell, and the system is periodic: give frames with a Lattice="..." (extxyz), '
                "CRYST1 (pdb) or CELL (i-PI's xyz)."
            )
        yield frame
        count += 1
    if count == 0:
        raise FrameError(f"{file}: holds no frames.")


def check_atoms(symbols: tuple[str, ...], system: System, label: str) -> None:
    """Compare elements with the system's, in number and order.

    Raises:
        FrameError: They differ; the message names the first atom that does.
    """
    if len(symbols) != system.n_atoms:
        virtual = system.n_particles - system.n_atoms
        note = f" (its {virtual} virtual sites do not belong in a frame)" if virtual else ""
        raise FrameError(f"{label} has {len(symbols)} atoms, and the topology has {system.n_atoms}{note}.")
    for index, (got, needed) in enumerate(zip(symbols, system.symbols, strict=True)):
        if got != needed:
            raise FrameError(
                f"{label}: atom {index} (counted from 0) is {got}, and in the topology it is {needed}: the order "
                "of the atoms must be that of the topology."
            )


def is_ipi_xyz(file: Path) -> bool:
    """Whether a file is an xyz file with i-PI's comment line."""
    if file.suffix.lower() != ".xyz":
        return False
    with file.open(encoding="utf-8", errors="replace") as stream:
        _, comment = stream.readline(), stream.readline()
    return _CELL.search(comment) is not None or "positions{" in comment


def _read_ase(file: Path) -> Iterator[Frame]:
    # A second to import, and most commands read no frames.
    from ase.io import iread

    try:
        for index, atoms in enumerate(iread(file, index=":")):
            cell = np.asarray(atoms.cell.array, dtype=np.float64) * ANGSTROM if atoms.cell.rank == 3 else None
            positions = np.asarray(atoms.positions, dtype=np.float64) * ANGSTROM
            symbols = tuple(chemical_symbols[number] for number in atoms.numbers)
            yield Frame(symbols, positions, cell, f"frame {index} of {file}", dict(atoms.info))
    except FrameError:
        raise
    except Exception as error:
        raise FrameError(f"{file}: ASE cannot read it ({type(error).__name__}: {error}).") from error


def _read_ipi(file: Path) -> Iterator[Frame]:
    with file.open(encoding="utf-8") as stream:
        index = 0
        while (head := _next_line(stream)) is not None:
            yield _ipi_frame(stream, head, f"frame {index} of {file}")
            index += 1


def _next_line(stream: TextIO) -> str | None:
    return next((line for line in stream if line.strip()), None)


def _ipi_frame(stream: TextIO, head: str, label: str) -> Frame:
    """One frame of an i-PI xyz file whose first line has been read."""
    try:
        n_atoms = int(head)
        comment = next(stream)
        lines = [line.split() for line in islice(stream, n_atoms)]
        symbols = tuple(words[0] for words in lines)
        positions = np.array([[float(word) for word in words[1:4]] for words in lines]).reshape(n_atoms, 3)
        cell = _ipi_cell(comment)
    except (ValueError, IndexError, StopIteration) as error:
        raise FrameError(f"{label}: not in the xyz format of i-PI, or cut short ({error}).") from None
    position_unit, cell_unit = _ipi_units(comment, label)
    return Frame(symbols, positions * position_unit, None if cell is None else cell * cell_unit, label)


def _ipi_cell(comment: str) -> FloatArray | None:
    """The lattice vectors as rows, in the file's unit, in i-PI's standard orientation."""
    match = _CELL.search(comment)
    if match is None:
        return None
    numbers = np.array([float(word) for word in match[2].split()])
    if match[1] == "abcABC":
        if len(numbers) < 6:
            raise ValueError("CELL(abcABC) needs 6 numbers")
        cell = cellpar_to_cell(numbers[:6])  # type: ignore[no-untyped-call]
        return np.asarray(cell, dtype=np.float64)
    if len(numbers) < 9:
        raise ValueError(f"CELL({match[1]}) needs 9 numbers")
    # H has the lattice vectors as columns.
    matrix = numbers[:9].reshape(3, 3)
    return matrix.T.copy() if match[1] == "H" else matrix


def _ipi_units(comment: str, label: str) -> tuple[float, float]:
    """Bohr per unit of the positions and of the cell, as a comment like ``positions{angstrom} cell{angstrom}`` says."""
    units = {"positions": 1.0, "cell": 1.0}
    for quantity, unit in _QUANTITY.findall(comment):
        if quantity == "CELL":
            continue
        kind = "positions" if quantity.startswith("x_centroid") else quantity
        if kind not in units:
            raise FrameError(f"{label} holds {quantity}; frames of positions are needed.")
        if unit.lower() not in _LENGTH_UNITS:
            raise FrameError(f"{label}: the unit '{unit}' is unknown; known are {', '.join(_LENGTH_UNITS)}.")
        units[kind] = _LENGTH_UNITS[unit.lower()]
    return units["positions"], units["cell"]
