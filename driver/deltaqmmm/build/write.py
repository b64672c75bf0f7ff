"""The files of a folder that deltaqmmm itself reads: config.toml, rst7 and README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltaqmmm.build.ipi_input import cell_parameters
from deltaqmmm.results import FloatArray
from deltaqmmm.units import ANGSTROM

FIRST_COMMANDS = (
    ("deltaqmmm check config.toml", "forces against finite differences, times"),
    ("deltaqmmm run .", "i-PI and the driver; Ctrl-C, and the same command goes on"),
    ("deltaqmmm plot .", "figures of what there is so far"),
    ("deltaqmmm new CASE FOLDER --system .", "another method for this system; deltaqmmm new --list names them"),
)
"""What a user does first in a folder that was built, and what each command does."""

_CONFIG = """\
# Settings of the deltaqmmm driver for this folder. Paths are relative to this file.

[system]
topology = {topology:<27} # force field of the whole system; MM charges of QM atoms are not used
coordinates = {coordinates:<24} # fixes the order of the atoms and the cell; i-PI starts from init.xyz

[qm]
{selection:<38} # the QM region: whole molecules
{charge:<38} # its total charge, e

[dftb]
model = "dftb3"                        # "dftb3" (full third order) or "dftb2"
parameters = "3ob-3-1"                 # Slater-Koster set, found by its name
dispersion = "none"                    # "none" or "d3bj"
electronic_temperature_kelvin = 0.0    # Fermi smearing of the occupations
scc_tolerance = 1e-8                   # largest change of a Mulliken charge at convergence, e
device = "cpu"                         # torch device: "cpu", "cuda" or "auto"

[embedding]
{embedding}
[mm]
platform = "CPU"                       # OpenMM platform: "CPU", "CUDA", "auto", ...
{cutoff:<38} # Lennard-Jones and direct Ewald cutoff; at most half the box
{switch}virial = false                         # true for constant-pressure runs

[driver]
{threads:<38} # CPU threads; 0: all that the driver is given
"""

EMBEDDING_OUTER_ANGSTROM = 14.0
"""How far the embedding of a new folder reaches."""

_CUTOFF_EMBEDDING = f"""\
kind = "cutoff"                        # MM molecules polarise the QM region by their distance from it:
inner_angstrom = 12.0                  # fully up to here,
outer_angstrom = {EMBEDDING_OUTER_ANGSTROM:<21} # and, with a smooth switch, not at all beyond here
"""
_FULL_EMBEDDING = """\
kind = "all"                           # no cutoff: every MM charge polarises the QM region
"""


def config_toml(
    *,
    topology: str,
    coordinates: str,
    qm_residues: Sequence[str],
    qm_atoms: str,
    qm_charge: int,
    periodic: bool,
    cutoff_angstrom: float,
    switch_angstrom: float | None,
    threads: int,
) -> str:
    """The driver's configuration, with a comment on each line. `qm_atoms` is used where `qm_residues` is empty.

    `switch_angstrom` is None where the driver's default is right.
    """
    if qm_residues:
        selection = "residues = [" + ", ".join(f'"{name}"' for name in qm_residues) + "]"
    else:
        selection = f'atoms = "{qm_atoms}"'
    line = f"switch_angstrom = {switch_angstrom!r}"
    return _CONFIG.format(
        topology=f'"{topology}"',
        coordinates=f'"{coordinates}"',
        selection=selection,
        charge=f"charge = {qm_charge}",
        embedding=_CUTOFF_EMBEDDING if periodic else _FULL_EMBEDDING,
        cutoff=f"cutoff_angstrom = {float(cutoff_angstrom)!r}",
        switch="" if switch_angstrom is None else f"{line:<38} # where Lennard-Jones begins to be switched off\n",
        threads=f"threads = {threads}",
    )


def write_rst7(path: Path, positions: FloatArray, cell: FloatArray | None) -> None:
    """Write an Amber restart file: positions, shape (P, 3), and cell, shape (3, 3), both in bohr."""
    values = (positions / ANGSTROM).reshape(-1)
    lines = ["made by deltaqmmm build", f"{len(positions):5d}"]
    lines += ["".join(f"{value:12.7f}" for value in values[start : start + 6]) for start in range(0, len(values), 6)]
    if cell is not None:
        lengths, angles = cell_parameters(cell)
        lines.append("".join(f"{value:12.7f}" for value in [*(lengths / ANGSTROM), *angles]))
    path.write_text("\n".join(lines) + "\n")


def readme(
    title: str, facts: Sequence[str], notes: Sequence[str], address: str, files: Sequence[tuple[str, str]]
) -> str:
    """A short README of the folder.

    Args:
        title: Heading.
        facts: What is in the box, one line each.
        notes: What was assumed, one line each.
        address: Address of the socket.
        files: Names of the files with what each is.
    """
    table = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in files)
    first = "\n".join(f"{command:<37} # {what}" for command, what in FIRST_COMMANDS)
    parts = [
        f"# {title}\n",
        "\n".join(f"- {fact}" for fact in facts),
        "\n## Run\n",
        "In this folder:\n",
        f"```sh\n{first}\n```\n",
        "Results: `run.out` (temperature, energies), `run.pos_*.xyz` (a file per bead), `run.qm_charges_*`. Length, "
        "beads, temperature and thermostat are set in `input.xml`.\n",
        "By hand, in place of `deltaqmmm run`:\n",
        f"```sh\ni-pi input.xml > i-pi.log &\ndeltaqmmm drive config.toml -u -a {address}\n```\n",
        f"## Files\n\n| file | what it is |\n|---|---|\n{table}",
    ]
    if notes:
        parts.append("\n## Notes\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n".join(parts) + "\n"
