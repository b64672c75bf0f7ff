"""Readers of topology and coordinate files: from a path to OpenMM objects with the file's own names.

Nothing is judged here; `topology.load_topology` decides whether what was read can be used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase.data import covalent_radii
from openmm import app, unit

from deltaqmmm.errors import TopologyError
from deltaqmmm.periodic import minimum_image_shifts
from deltaqmmm.results import FloatArray
from deltaqmmm.units import ANGSTROM, NANOMETRE

_LONGEST_BOND = 1.35
"""Bonds are shorter than this many sums of covalent radii (Cordero et al. 2008, DOI 10.1039/b801115j, from ASE)."""


@dataclass(frozen=True)
class NonbondedSettings:
    """How MM nonbonded interactions are computed (Amber and GROMACS files; an OpenMM XML system brings its own).

    The defaults conserve energy: with the Lennard-Jones switch and this Ewald tolerance nothing jumps by more than
    about 5e-5 of a pair energy when a pair crosses the cutoff.

    Attributes:
        cutoff: Lennard-Jones and direct-space Ewald cutoff, bohr (default 9 angstrom). At most half the cell's width.
        switch_distance: Where Lennard-Jones begins to be switched off (to zero at `cutoff`, with continuous first and
            second derivatives), bohr; None truncates it.
        ewald_tolerance: OpenMM's Ewald error tolerance, dimensionless; sets the splitting and the mesh.
        dispersion_correction: Add the mean-field Lennard-Jones energy beyond the cutoff (a function of the volume).
    """

    cutoff: float = 9.0 * ANGSTROM
    switch_distance: float | None = 8.0 * ANGSTROM
    ewald_tolerance: float = 5.0e-5
    dispersion_correction: bool = True

    def __post_init__(self) -> None:
        """Refuse distances and tolerances that make no sense."""
        if not self.cutoff > 0.0:
            raise TopologyError(
                f"nonbonded cutoff: got {self.cutoff / ANGSTROM:g} angstrom, a positive length is needed"
            )
        if self.switch_distance is not None and not 0.0 < self.switch_distance < self.cutoff:
            raise TopologyError(
                f"Lennard-Jones switch distance: got {self.switch_distance / ANGSTROM:g} angstrom; it must lie "
                f"between 0 and the cutoff ({self.cutoff / ANGSTROM:g} angstrom)"
            )
        if not 0.0 < self.ewald_tolerance < 0.1:
            raise TopologyError(f"Ewald tolerance: got {self.ewald_tolerance:g}; it must lie between 0 and 0.1")


@dataclass(frozen=True)
class Coordinates:
    """What a coordinate file holds.

    Attributes:
        positions: Shape (P, 3), bohr; particles, virtual sites included.
        cell: Shape (3, 3), bohr, rows are lattice vectors; None without a box.
        residue_names: Per particle, as the file writes them; None where the format has none.
        atom_names: Likewise.
        app_topology: OpenMM's topology of a PDB file; None for other formats.
    """

    positions: FloatArray
    cell: FloatArray | None
    residue_names: tuple[str, ...] | None = None
    atom_names: tuple[str, ...] | None = None
    app_topology: app.Topology | None = None


@dataclass(frozen=True)
class RawTopology:
    """A topology as read: OpenMM's objects and the names that the file itself uses.

    Attributes:
        kind: "amber", "gromacs" or "openmm".
        system: The OpenMM system, without rigid water beyond what the file itself asks for.
        app_topology: Elements, residues and bonds.
        bonds: Pairs of covalently bonded massive particles, first index smaller, sorted, each once.
        residue_names: Per particle. OpenMM renames residues (URA becomes U), so the file's names are kept here.
        atom_names: Per particle.
    """

    kind: str
    system: openmm.System
    app_topology: app.Topology
    bonds: tuple[tuple[int, int], ...]
    residue_names: tuple[str, ...]
    atom_names: tuple[str, ...]


def detect_kind(path: Path) -> str:
    """Return "amber", "openmm" or "gromacs" for a topology file, by its content first and its suffix second.

    Raises:
        TopologyError: The file is missing, unreadable or of no known format.
    """
    require_file(path, "topology file")
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            start = stream.read(4096).lstrip()
    except OSError as error:
        raise TopologyError(f"topology file '{path}' cannot be read: {error}") from error
    if start.startswith(("%VERSION", "%FLAG")):
        return "amber"
    if start.startswith("<"):
        return "openmm"
    if path.suffix.lower() == ".top":
        return "gromacs"
    raise TopologyError(
        f"topology file '{path}' is of no known format; needed is an Amber prmtop, a GROMACS .top or an "
        "OpenMM System XML"
    )


def require_file(path: Path, what: str) -> None:
    """Raise TopologyError if `path` is not a file."""
    if not path.is_file():
        raise TopologyError(
            f"{what} '{path}' does not exist (looked in '{path.absolute().parent}'); give the right path"
        )


def read_coordinates(path: Path) -> Coordinates:
    """Read a .gro, a .pdb or else an Amber inpcrd/rst7 file.

    Raises:
        TopologyError: The file is missing or cannot be read.
    """
    require_file(path, "coordinate file")
    suffix = path.suffix.lower()
    if suffix == ".gro":
        gro = _guarded(lambda: app.GromacsGroFile(str(path)), f"GROMACS coordinate file '{path}'")
        return Coordinates(
            _bohr(gro.getPositions(asNumpy=True)),
            _cell(gro.getPeriodicBoxVectors()),
            tuple(gro.residueNames),
            tuple(gro.atomNames),
        )
    if suffix == ".pdb":
        pdb = _guarded(lambda: app.PDBFile(str(path)), f"PDB file '{path}'")
        residue_names, atom_names = _pdb_names(path, pdb.topology)
        return Coordinates(
            _bohr(pdb.getPositions(asNumpy=True)),
            _cell(pdb.topology.getPeriodicBoxVectors()),
            residue_names,
            atom_names,
            pdb.topology,
        )
    inpcrd = _guarded(lambda: app.AmberInpcrdFile(str(path)), f"Amber coordinate file '{path}'")
    return Coordinates(_bohr(inpcrd.getPositions(asNumpy=True)), _cell(inpcrd.boxVectors))


def read_amber(path: Path, coordinates: Coordinates | None, nonbonded: NonbondedSettings) -> RawTopology:
    """Read an Amber prmtop; the coordinate file's box, where there is one, goes before the prmtop's."""
    box = _box_quantity(coordinates)
    what = f"Amber topology file '{path}'"
    prmtop = _guarded(lambda: app.AmberPrmtopFile(str(path), periodicBoxVectors=box), what)
    periodic = prmtop.topology.getPeriodicBoxVectors() is not None
    system = _guarded(
        lambda: prmtop.createSystem(
            nonbondedMethod=app.PME if periodic else app.NoCutoff,
            nonbondedCutoff=_nonbonded_cutoff(nonbonded),
            constraints=None,
            rigidWater=False,
            removeCMMotion=False,
        ),
        what,
    )
    _apply_nonbonded(system, nonbonded, periodic)
    flags = _guarded(lambda: _amber_strings(path, ("ATOM_NAME", "RESIDUE_LABEL")), what)
    residue_names = tuple(flags["RESIDUE_LABEL"][atom.residue.index] for atom in prmtop.topology.atoms())
    atom_names = tuple(flags["ATOM_NAME"][: len(residue_names)])
    return RawTopology(
        "amber", system, prmtop.topology, _listed_bonds(system, prmtop.topology), residue_names, atom_names
    )


def read_gromacs(
    path: Path, coordinates: Coordinates | None, nonbonded: NonbondedSettings, include_dir: Path | None
) -> RawTopology:
    """Read a GROMACS top. OpenMM defines FLEXIBLE, so water files that offer flexible terms under it give those."""
    box = _box_quantity(coordinates)
    what = f"GROMACS topology file '{path}'"
    folder = None if include_dir is None else str(include_dir)
    top = _guarded(lambda: app.GromacsTopFile(str(path), periodicBoxVectors=box, includeDir=folder), what)
    system = _guarded(
        lambda: top.createSystem(
            nonbondedMethod=app.NoCutoff if box is None else app.PME,
            nonbondedCutoff=_nonbonded_cutoff(nonbonded),
            constraints=None,
            rigidWater=False,
            removeCMMotion=False,
        ),
        what,
    )
    _apply_nonbonded(system, nonbonded, box is not None)
    own_residues = tuple(atom.residue.name for atom in top.topology.atoms())
    own_atoms = tuple(atom.name for atom in top.topology.atoms())
    matches = coordinates is not None and len(coordinates.positions) == len(own_atoms)
    residue_names = coordinates.residue_names if coordinates is not None and matches else None
    atom_names = coordinates.atom_names if coordinates is not None and matches else None
    bonds = _listed_bonds(system, top.topology)
    return RawTopology("gromacs", system, top.topology, bonds, residue_names or own_residues, atom_names or own_atoms)


def read_openmm(path: Path, coordinates: Coordinates | None) -> RawTopology:
    """Read a serialised OpenMM System; the PDB file gives names and elements, and its box goes before the system's."""
    if coordinates is None or coordinates.app_topology is None:
        raise TopologyError(
            f"OpenMM system file '{path}' holds no atom names: give a PDB file with the same particles as "
            "coordinate file"
        )
    what = f"OpenMM system file '{path}'"
    system = _guarded(lambda: openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8")), what)
    if not isinstance(system, openmm.System):
        raise TopologyError(f"{what} holds a {type(system).__name__}; needed is a System, as XmlSerializer writes it")
    box = _box_quantity(coordinates)
    if box is not None and system.usesPeriodicBoundaryConditions():
        _guarded(lambda: system.setDefaultPeriodicBoxVectors(*box), what)
    return RawTopology(
        "openmm",
        system,
        coordinates.app_topology,
        _near_bonds(system, coordinates),
        coordinates.residue_names or (),
        coordinates.atom_names or (),
    )


def bond_terms(system: openmm.System) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, force constant) of every bond term; the constant is 1 where the form of the term is free."""
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for index in range(force.getNumBonds()):
                i, j, _, constant = force.getBondParameters(index)
                yield i, j, constant.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
        elif isinstance(force, openmm.CustomBondForce):
            for index in range(force.getNumBonds()):
                i, j, _ = force.getBondParameters(index)
                yield i, j, 1.0
        elif isinstance(force, openmm.CustomCompoundBondForce):
            for index in range(force.getNumBonds()):
                particles = force.getBondParameters(index)[0]
                for a, i in enumerate(particles):
                    for j in particles[a + 1 :]:
                        yield i, j, 1.0


def _listed_bonds(system: openmm.System, topology: app.Topology) -> tuple[tuple[int, int], ...]:
    """Return the bonds that the topology file lists, those of virtual sites left out."""
    return _sorted_bonds(system, [(first.index, second.index) for first, second in topology.bonds()])


def _near_bonds(system: openmm.System, coordinates: Coordinates) -> tuple[tuple[int, int], ...]:
    """Return the bonds of an XML system: candidates from both files that are near enough to be covalent.

    A PDB file's bonds are guessed from names, and bond terms may be restraints or Urey-Bradley terms: only the distance
    tells.
    """
    topology = coordinates.app_topology
    if topology is None or system.getNumParticles() != topology.getNumAtoms():
        return ()
    numbers = np.array([0 if atom.element is None else atom.element.atomic_number for atom in topology.atoms()])
    listed = [(first.index, second.index) for first, second in topology.bonds()]
    listed += [(i, j) for i, j, _ in bond_terms(system)]
    candidates = np.array(_sorted_bonds(system, listed), dtype=np.int64).reshape(-1, 2)
    first, second = candidates[:, 0], candidates[:, 1]
    vectors = coordinates.positions[first] - coordinates.positions[second]
    if coordinates.cell is not None:
        vectors = vectors + minimum_image_shifts(vectors, coordinates.cell) @ coordinates.cell
    radii = covalent_radii[numbers] * ANGSTROM
    near = np.linalg.norm(vectors, axis=1) < _LONGEST_BOND * (radii[first] + radii[second])
    return tuple((int(i), int(j)) for i, j in candidates[near])


def _sorted_bonds(system: openmm.System, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    unique = {(min(pair), max(pair)) for pair in pairs}
    return tuple(pair for pair in sorted(unique) if not any(system.isVirtualSite(i) for i in pair))


def _guarded(action: Callable[[], Any], what: str) -> Any:  # noqa: ANN401 - OpenMM has no type stubs
    """Run an OpenMM reader; whatever it raises on a malformed file becomes a TopologyError that names the file."""
    with warnings.catch_warnings():
        # OpenMM does not close the GROMACS files that it reads.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return action()
        # OpenMM's parsers have no exception of their own: a malformed file ends in any of the built-in ones.
        except Exception as error:  # noqa: BLE001
            message = f"{what} cannot be read: {type(error).__name__}: {str(error).strip()}"
            # Without its traceback the error lets go of OpenMM's open files here.
            raise TopologyError(message) from error.with_traceback(None)


def _nonbonded_cutoff(nonbonded: NonbondedSettings) -> unit.Quantity:
    return nonbonded.cutoff / NANOMETRE * unit.nanometer


def _apply_nonbonded(system: openmm.System, nonbonded: NonbondedSettings, periodic: bool) -> None:
    """Set switch, Ewald tolerance and dispersion correction on every nonbonded force of a periodic system."""
    if not periodic:
        return
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setEwaldErrorTolerance(nonbonded.ewald_tolerance)
            force.setUseDispersionCorrection(nonbonded.dispersion_correction)
        elif isinstance(force, openmm.CustomNonbondedForce):
            force.setUseLongRangeCorrection(nonbonded.dispersion_correction)
        else:
            continue
        force.setUseSwitchingFunction(nonbonded.switch_distance is not None)
        if nonbonded.switch_distance is not None:
            force.setSwitchingDistance(nonbonded.switch_distance / NANOMETRE)


def _bohr(positions: unit.Quantity) -> FloatArray:
    return np.asarray(positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3) * NANOMETRE


def _cell(vectors: unit.Quantity | None) -> FloatArray | None:
    if vectors is None:
        return None
    cell = np.array([vector.value_in_unit(unit.nanometer) for vector in vectors], dtype=np.float64) * NANOMETRE
    # A file without a box may still write one of zeros (a .gro must write something).
    return cell if np.all(np.abs(np.diagonal(cell)) > 0.0) else None


def _box_quantity(coordinates: Coordinates | None) -> unit.Quantity | None:
    if coordinates is None or coordinates.cell is None:
        return None
    return [openmm.Vec3(*(float(x) for x in row)) for row in coordinates.cell / NANOMETRE] * unit.nanometer


def _amber_strings(path: Path, wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the 20a4 string sections of a prmtop, by flag."""
    found: dict[str, list[str]] = {}
    flag = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("%FLAG"):
            flag = line.split()[1]
        elif not line.startswith("%") and flag in wanted:
            padded = line.ljust(4 * ((len(line) + 3) // 4))
            found.setdefault(flag, []).extend(padded[i : i + 4].strip() for i in range(0, len(padded), 4))
    return found


def _pdb_names(path: Path, topology: app.Topology) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return residue and atom names as the PDB file writes them; OpenMM's own where atoms have alternates."""
    residue_names: list[str] = []
    atom_names: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM  ", "HETATM")):
            atom_names.append(line[12:16].strip())
            residue_names.append(line[17:21].strip())
    if len(atom_names) != topology.getNumAtoms():
        residue_names = [atom.residue.name for atom in topology.atoms()]
        atom_names = [atom.name for atom in topology.atoms()]
    return tuple(residue_names), tuple(atom_names)
