"""Systems that exist already: Amber prmtop + inpcrd/rst7, GROMACS top + gro, OpenMM XML + PDB.

Their files are copied, so that the new folder stands alone; a GROMACS topology is copied with everything it includes in
one file.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.build.options import BuildOptions
from deltaqmmm.build.source import Source, Stages, load_flexible, signed
from deltaqmmm.errors import InputError
from deltaqmmm.results import IntArray
from deltaqmmm.system import parse_selection
from deltaqmmm.topology import Topology
from deltaqmmm.topology_files import detect_kind

_MAX_DEPTH = 20
_COORDINATE_SUFFIXES = {
    "amber": (".rst7", ".inpcrd", ".rst", ".crd", ".restrt", ".ncrst", ".pdb"),
    "gromacs": (".gro", ".pdb"),
    "openmm": (".pdb",),
}
_TOPOLOGY_NAMES = {"amber": "system.prmtop", "gromacs": "system.top", "openmm": "system.xml"}


@dataclass(frozen=True)
class ExistingFiles:
    """The copies in the new folder.

    Attributes:
        kind: "amber", "gromacs" or "openmm".
        topology: File in the new folder.
        coordinates: Likewise.
    """

    kind: str
    topology: Path
    coordinates: Path


def copy_existing(topology: Path, coordinates: Path | None, include_dir: Path | None, folder: Path) -> ExistingFiles:
    """Copy topology and coordinates into `folder` under the names system.*.

    Raises:
        InputError: A file is missing, or the coordinate format does not go with the topology.
    """
    if coordinates is None:
        raise InputError(
            f"The topology {topology} was given without coordinates. Give its rst7, inpcrd, gro or pdb file."
        )
    for path in (topology, coordinates):
        if not path.is_file():
            raise InputError(
                f"The file {path} does not exist. Give the topology and the coordinates of the existing system."
            )
    kind = detect_kind(topology)
    suffix = coordinates.suffix.lower()
    if suffix not in _COORDINATE_SUFFIXES[kind]:
        raise InputError(
            f"{topology} is a topology of kind {kind}; its coordinates must be a file ending in "
            f"{', '.join(_COORDINATE_SUFFIXES[kind])}, not {coordinates.name}."
        )
    new_topology = folder / _TOPOLOGY_NAMES[kind]
    new_coordinates = folder / f"system{suffix}"
    if kind == "gromacs":
        new_topology.write_text("".join(flatten_includes(topology, include_dir)))
    else:
        shutil.copyfile(topology, new_topology)
    shutil.copyfile(coordinates, new_coordinates)
    return ExistingFiles(kind, new_topology, new_coordinates)


def flatten_includes(path: Path, include_dir: Path | None, depth: int = 0) -> list[str]:
    """The lines of a GROMACS topology with every #include replaced by the file it names.

    An include that is not found stays as it is where it stands inside #ifdef (position restraints, for example, that
    are not switched on); the reader of the topology complains if it is needed.

    Raises:
        InputError: A file that is always included is not found, or files include each other in a circle.
    """
    if depth > _MAX_DEPTH:
        raise InputError(
            f"{path}: #include lines are nested more than {_MAX_DEPTH} deep; two files include each other."
        )
    lines: list[str] = []
    conditions = 0
    for line in path.read_text().splitlines(keepends=True):
        conditions += bool(re.match(r"\s*#\s*(ifdef|ifndef|if)\b", line)) - bool(re.match(r"\s*#\s*endif\b", line))
        match = re.match(r'\s*#\s*include\s+["<]([^">]+)[">]', line)
        if match is None:
            lines.append(line if line.endswith("\n") else line + "\n")
            continue
        folders = [path.parent, *([include_dir] if include_dir is not None else [])]
        found = next((folder / match[1] for folder in folders if (folder / match[1]).is_file()), None)
        if found is not None:
            lines += flatten_includes(found, include_dir, depth + 1)
        elif conditions > 0:
            lines.append(line)
        else:
            raise InputError(
                f"{path} includes {match[1]}, which is not in {' or '.join(map(str, folders))}. "
                "Give the folder of the GROMACS force fields (share/gromacs/top) as include folder."
            )
    return lines


def from_existing(options: BuildOptions, folder: Path, stages: Stages) -> Source:
    """Copy an existing system and select its QM region."""
    given = options.topology
    if given is None:
        raise InputError("Nothing to build: give molecules, or the topology and coordinates of an existing system.")
    with stages.stage("topology", f"reading {given}"):
        files = copy_existing(given, options.coordinates, options.include_dir, folder)
        topology = _load(files, given, options)
    selection = parse_selection(options.qm_atoms or None, topology, options.qm_residues)
    charge, notes = options.qm_charge, []
    if charge is None:
        mm_charge = _mm_charge(topology, selection)
        charge = round(mm_charge)
        notes.append(
            f"The charge of the QM region, {signed(charge)} e, is the nearest integer of its MM charges "
            f"({mm_charge:+.3f} e)."
        )
        if abs(mm_charge - charge) > 0.1:
            raise InputError(
                f"The MM charges of the QM region sum to {mm_charge:+.3f} e, not near an integer. Give the charge of "
                "the QM region."
            )
    if files.kind != "amber" and (options.minimise or options.equilibrate_ps):
        notes.append(f"init.xyz holds the relaxed positions; {files.coordinates.name} still holds those given.")
    return Source(
        topology=topology,
        topology_file=files.topology,
        coordinate_file=files.coordinates,
        selection=selection,
        qm_residues=options.qm_residues,
        qm_charge=charge,
        n_ions=0,
        title=f"{given.stem}: QM/MM with i-PI",
        facts=(f"system taken from `{given.name}` ({files.kind})",),
        notes=tuple(notes),
    )


def _load(files: ExistingFiles, given: Path, options: BuildOptions) -> Topology:
    """Load the copies; what is wrong with them is said of the files that were given, as nobody sees the copies.

    Raises:
        InputError: They cannot be used.
    """
    try:
        return load_flexible(files.topology, files.coordinates, options.cutoff_angstrom)
    except InputError as error:
        text = str(error).replace(str(files.topology), str(given))
        raise type(error)(text.replace(str(files.coordinates), str(options.coordinates))) from error


def _mm_charge(topology: Topology, selection: IntArray) -> float:
    """Sum of the MM charges of some atoms and the virtual sites on them, e; atoms that do not exist count nothing."""
    atoms = topology.atom_particles
    chosen = atoms[np.isin(np.arange(len(atoms)), selection)]
    sites = topology.virtual_sites
    on_chosen = sites.particles[np.isin(sites.parents[:, 0], chosen)]
    return float(topology.charges[chosen].sum() + topology.charges[on_chosen].sum())
