"""The schema of the dataset file: every array with its type, shape and unit.

Version 1. F frames of n QM atoms; the MM sites of all frames stand one after the other in flat arrays of T rows, those
of frame f in rows ``site_offsets[f]`` to ``site_offsets[f + 1]``. The system has M sites of U types;
X frames failed.

Attributes of the file: ``format`` and ``version``; ``units`` ("atomic units"); ``embedding``, ``level_of_theory`` and
``baseline`` as JSON, each with its SHA-256 (16 digits) as ``..._hash``; ``provenance`` as JSON. Every array has its
unit as the attribute ``unit`` ("1" for pure numbers), is compressed and, unless text, carries checksums.

If the file has the attribute ``mm_gradient_cutoff`` (bohr), the derivatives of sites farther than that from every QM
atom were dropped, and are zero in the file.

Derivatives are partial: at fixed effective charges, and with respect to them (``mm_potentials``). MM positions are
float32 numbers and the labels were computed at exactly these. MM gradients and potentials are float32 rounded to 16
significant bits (8e-6 of the value). All else is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = "deltaqmmm dataset"
VERSION = 1
UNITS = "atomic units"
SIGNIFICANT_BITS = 16

GRADIENT = "hartree/bohr"
POTENTIAL = "hartree/e"


@dataclass(frozen=True)
class Column:
    """One array of the file.

    Attributes:
        path: Where it stands.
        dtype: NumPy type; "text" for UTF-8 of any length.
        shape: Names of its axes.
        unit: Its unit.
        meaning: What it is.
    """

    path: str
    dtype: str
    shape: str
    unit: str
    meaning: str


def _source_columns(group: str, count: str) -> tuple[Column, ...]:
    return (
        Column(f"{group}/identity", "text", f"({count})", "1", "hash of all positions and the cell of the frame"),
        Column(f"{group}/source_file", "text", f"({count})", "1", "file the frame came from"),
        Column(f"{group}/source_index", "i8", f"({count})", "1", "its place in that file, from 0"),
        Column(f"{group}/temperature", "f8", f"({count})", "kelvin", "of the simulation; NaN: unknown"),
        Column(f"{group}/beads", "i8", f"({count})", "1", "number of beads; 0: unknown"),
        Column(f"{group}/bead", "i8", f"({count})", "1", "which bead, from 0; -1: unknown"),
        Column(f"{group}/step", "i8", f"({count})", "1", "step of the simulation; -1: unknown"),
    )


def _label_columns(group: str, method: str) -> tuple[Column, ...]:
    return (
        Column(f"{group}/energies", "f8", "(F)", "hartree", f"{method} energy of the QM region in the charges"),
        Column(f"{group}/qm_gradients", "f8", "(F, n, 3)", GRADIENT, "derivative by the QM positions"),
        Column(f"{group}/mm_gradients", "f4", "(T, 3)", GRADIENT, "derivative by the MM positions at fixed charges"),
        Column(f"{group}/mm_potentials", "f4", "(T)", POTENTIAL, "derivative by the effective charges"),
    )


COLUMNS: tuple[Column, ...] = (
    Column("system/qm_symbols", "text", "(n)", "1", "elements of the QM atoms"),
    Column("system/qm_atoms", "i8", "(n)", "1", "atom numbers of the QM atoms, from 0"),
    Column("system/qm_charge", "i8", "()", "e", "total charge of the QM region"),
    Column("system/type_names", "text", "(U)", "1", "types of MM sites, as residue:atom"),
    Column("system/type_symbols", "text", "(U)", "1", "element of each type, empty for virtual sites"),
    Column("system/site_types", "i4", "(M)", "1", "row of each MM site in the table of types"),
    Column("system/site_charges", "f8", "(M)", "e", "full charges of the MM sites"),
    *_source_columns("frames", "F"),
    Column("frames/qm_positions", "f8", "(F, n, 3)", "bohr", "QM atoms, made whole"),
    Column("frames/site_offsets", "i8", "(F + 1)", "1", "first row of each frame in the flat arrays, and the end"),
    Column("frames/mm_positions", "f4", "(T, 3)", "bohr", "embedded MM sites, periodic images included"),
    Column("frames/mm_charges", "f8", "(T)", "e", "effective charges: group weight times charge"),
    Column("frames/mm_sites", "i4", "(T)", "1", "site number in /system"),
    *_label_columns("reference", "reference"),
    Column("reference/scf_cycles", "i8", "(F)", "1", "cycles of the SCF"),
    Column("reference/seconds", "f8", "(F)", "s", "wall time of the calculation"),
    *_label_columns("baseline", "baseline"),
    Column("baseline/qm_charges", "f8", "(F, n)", "e", "Mulliken charges"),
    *_source_columns("failures", "X"),
    Column("failures/reason", "text", "(X)", "1", "why the frame was passed over"),
)
