"""Refusing options that cannot be meant, before anything is computed."""

from __future__ import annotations

import math
from pathlib import Path

from deltaqmmm.build.amber import CHARGE_SCHEMES
from deltaqmmm.build.options import BuildOptions
from deltaqmmm.build.water import find_water_model
from deltaqmmm.errors import InputError

_SHORTEST_CUTOFF = 4.0
_SPARE = 0.5
"""How much longer than twice the cutoff an edge must be, angstrom: the box may shrink under pressure."""


def check_options(options: BuildOptions) -> None:
    """Check everything that can be checked without reading a molecule.

    Raises:
        InputError: An option is impossible, or two exclude each other.
    """
    _check_folder(Path(options.folder), options.overwrite)
    if options.molecules and options.topology is not None:
        raise InputError("Both molecules and an existing topology were given. Give one or the other.")
    if not options.molecules and options.topology is None:
        raise InputError(
            "Nothing to build: give a molecule (SMILES, .mol, .sdf or .mol2), or the topology and coordinates of an "
            "existing system."
        )
    _check_choices(options)
    _check_numbers(options)
    if options.molecules:
        find_water_model(options.water_model)
        _check_box(options)
        if options.qm_atoms:
            raise InputError("qm_atoms is for existing systems. For molecules, name the QM solutes as qm_residues.")
        if options.qm_charge is not None:
            raise InputError("qm_charge is for existing systems. For molecules, give the net charge of each molecule.")
    elif bool(options.qm_atoms) == bool(options.qm_residues):
        raise InputError(
            "An existing system needs its QM region, as residue names (such as URA) or as atom numbers (such as "
            "0-11), not both."
        )


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a folder is to be made there. Give another name.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise InputError(
            f"The folder {folder} exists and is not empty. Give another name, or replace it with --overwrite."
        )
    if overwrite and folder.is_dir():
        here = Path.cwd().resolve()
        if folder.resolve() == here or folder.resolve() in here.parents:
            raise InputError(f"{folder} contains the current folder and cannot be replaced. Give another name.")


def _check_choices(options: BuildOptions) -> None:
    choices = {
        "charge_scheme": (options.charge_scheme, CHARGE_SCHEMES),
        "placement": (options.placement, ("side_by_side", "as_given")),
        "box_shape": (options.box_shape, ("cubic", "orthorhombic")),
        "ensemble": (options.ensemble, ("nvt", "nve")),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"{name} is {value!r}; it can be {' or '.join(known)}.")


def _check_numbers(options: BuildOptions) -> None:
    positive = {
        "nbeads": options.nbeads,
        "steps": options.steps,
        "temperature_kelvin": options.temperature_kelvin,
        "timestep_femtosecond": options.timestep_femtosecond,
        "solute_gap_angstrom": options.solute_gap_angstrom,
    }
    if not (math.isfinite(options.cutoff_angstrom) and options.cutoff_angstrom >= _SHORTEST_CUTOFF):
        raise InputError(
            f"cutoff_angstrom is {options.cutoff_angstrom:g}; at least {_SHORTEST_CUTOFF:g} angstrom are needed."
        )
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value:g}; a positive number is needed.")
    zero_or_more = {
        "salt_molar": options.salt_molar,
        "equilibrate_ps": options.equilibrate_ps,
        "padding_angstrom": options.padding_angstrom,
        "seed": options.seed,
        "threads": options.threads,
    }
    for name, number in zero_or_more.items():
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise InputError(f"{name} is {number:g}; a number of 0 or more is needed.")
    if options.seed >= 2**31:
        raise InputError(f"seed is {options.seed}; a number below 2147483648 is needed.")


def smallest_edge(options: BuildOptions) -> float:
    """The shortest edge that a new box may have, angstrom."""
    return 2.0 * options.cutoff_angstrom + _SPARE


def _check_box(options: BuildOptions) -> None:
    sizes = [options.padding_angstrom is not None, options.water_count is not None, bool(options.box_edges_angstrom)]
    if sum(sizes) > 1:
        raise InputError(
            "The size of the box is given more than once. Give one of padding, number of waters and box edges."
        )
    if options.water_count is not None and options.water_count < 1:
        raise InputError(
            f"{options.water_count} water molecules were asked for; the solute is to be solvated in at least one."
        )
    edges = options.box_edges_angstrom
    if edges and len(edges) not in (1, 3):
        raise InputError(f"{len(edges)} box edges were given; give one (cubic) or three (orthorhombic).")
    smallest = smallest_edge(options)
    if edges and not all(math.isfinite(edge) and edge >= smallest for edge in edges):
        raise InputError(
            f"The box edges are {', '.join(f'{edge:g}' for edge in edges)} angstrom; each must be at least "
            f"{smallest:g} angstrom, as the cutoff of the MM interactions is {options.cutoff_angstrom:g} angstrom."
        )
