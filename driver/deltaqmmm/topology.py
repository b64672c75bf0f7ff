"""The molecular topology: particles, bonds, virtual sites and the OpenMM system, from Amber, GROMACS or OpenMM files.

Everything here is flexible: i-PI integrates each bead of each atom freely, so a topology with rigid water or any other
constraint is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from deltaqmmm.errors import TopologyError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.topology_files import (
    Coordinates,
    NonbondedSettings,
    RawTopology,
    bond_terms,
    detect_kind,
    read_amber,
    read_coordinates,
    read_gromacs,
    read_openmm,
)
from deltaqmmm.units import DALTON, NANOMETRE

__all__ = ["NonbondedSettings", "Topology", "VirtualSites", "load_topology"]

_FLEXIBLE_REMEDY = (
    "i-PI has no rigid molecules with several beads, so every bond needs a flexible term. Use a flexible model, for "
    "water q-SPC/Fw: in tleap `loadamberparams frcmod.qspcfw`, `WAT = SPF`, and `set default FlexibleWater on` before "
    "saveamberparm; or let `deltaqmmm build` make the system"
)


@dataclass(frozen=True)
class VirtualSites:
    """Massless charge sites whose position is a function of three parent particles.

    The position of site v is ``sum_k weights[v, k] r_k + cross[v] (r_1 - r_0) x (r_2 - r_0)`` with r_k its parents.

    Attributes:
        particles: Particle index of each site, shape (V,).
        parents: Particle indices of the parents, shape (V, 3); a site with two parents repeats the first with weight 0.
        weights: Dimensionless, shape (V, 3); each row sums to 1.
        cross: Shape (V,), 1/bohr.
    """

    particles: IntArray
    parents: IntArray
    weights: FloatArray
    cross: FloatArray


@dataclass(frozen=True, eq=False)
class Topology:
    """All that does not change in a run. P particles, of which the massive ones are atoms (i-PI sends only those).

    Attributes:
        symbols: Element symbol per particle; "" for a virtual site.
        masses: Shape (P,), electron masses; 0 for virtual sites.
        charges: MM charges, shape (P,), e.
        atom_names: Per particle, as the file writes them.
        residue_names: Per particle, as the file writes them.
        residue_indices: Shape (P,), counted from 0 in file order.
        bonds: Pairs of covalently bonded particles, shape (n, 2), first index smaller, sorted, each once. From an
            OpenMM XML: pairs with a bond term, or bonded in the PDB file, that are near enough there (so no
            Urey-Bradley pair, and no restraint).
        virtual_sites: The massless charge sites.
        openmm_system: Flexible system of all particles, the QM region not yet taken out. Treat as read-only.
        periodic: Whether the system has a periodic cell.
        positions: From the coordinate file, shape (P, 3), bohr; None without one.
        cell: Shape (3, 3), bohr, rows are lattice vectors; None if not periodic.
    """

    symbols: tuple[str, ...]
    masses: FloatArray
    charges: FloatArray
    atom_names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_indices: IntArray
    bonds: IntArray
    virtual_sites: VirtualSites
    openmm_system: openmm.System
    periodic: bool
    positions: FloatArray | None
    cell: FloatArray | None

    @property
    def n_particles(self) -> int:
        """Number of particles P, virtual sites included."""
        return len(self.symbols)

    @property
    def atom_particles(self) -> IntArray:
        """Particle index of each atom, shape (N,): what i-PI sends, in its order."""
        return np.flatnonzero(self.masses > 0.0).astype(np.int64)

    def describe(self, particle: int) -> str:
        """Return a label for messages, such as ``O in WAT 12 (particle 45)``; the residue is counted from 1."""
        residue = f"{self.residue_names[particle]} {self.residue_indices[particle] + 1}"
        return f"{self.atom_names[particle]} in {residue} (particle {particle})"


def load_topology(
    topology_file: Path,
    coordinate_file: Path | None = None,
    nonbonded: NonbondedSettings | None = None,
    include_dir: Path | None = None,
) -> Topology:
    """Read a flexible topology.

    Args:
        topology_file: Amber prmtop, GROMACS .top or serialised OpenMM System (.xml); told apart by content.
        coordinate_file: Amber inpcrd/rst7, .gro or .pdb. Gives positions and cell. An OpenMM XML needs a PDB.
        nonbonded: Cutoffs and Ewald accuracy for Amber and GROMACS files. An XML system is taken as it is.
        include_dir: Where GROMACS include files are searched beside the folder of the topology itself.

    Returns:
        The topology. Periodic systems use particle-mesh Ewald, others no cutoff (except from XML).

    Raises:
        TopologyError: A file is missing, malformed or inconsistent, or the topology has rigid parts.
    """
    kind = detect_kind(Path(topology_file))
    settings = nonbonded or NonbondedSettings()
    coordinates = None if coordinate_file is None else read_coordinates(Path(coordinate_file))
    if kind == "amber":
        raw = read_amber(Path(topology_file), coordinates, settings)
    elif kind == "gromacs":
        raw = read_gromacs(Path(topology_file), coordinates, settings, include_dir)
    else:
        raw = read_openmm(Path(topology_file), coordinates)
    _check_counts(raw, coordinates, topology_file, coordinate_file)
    _check_rigid(raw)
    topology = _assemble(raw, coordinates)
    if kind != "openmm" and topology.periodic:
        _check_cutoff(topology, settings)
    return topology


def _assemble(raw: RawTopology, coordinates: Coordinates | None) -> Topology:
    """Turn OpenMM's objects into arrays in atomic units."""
    system = raw.system
    n_particles = system.getNumParticles()
    periodic = bool(system.usesPeriodicBoundaryConditions())
    masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(n_particles)])
    cell = None
    if periodic:
        vectors = system.getDefaultPeriodicBoxVectors()
        cell = np.array([vector.value_in_unit(unit.nanometer) for vector in vectors]) * NANOMETRE
    return Topology(
        symbols=_symbols(raw, masses),
        masses=masses * DALTON,
        charges=_charges(system),
        atom_names=raw.atom_names,
        residue_names=raw.residue_names,
        residue_indices=np.array([atom.residue.index for atom in raw.app_topology.atoms()], dtype=np.int64),
        bonds=np.array(raw.bonds, dtype=np.int64).reshape(-1, 2),
        virtual_sites=_virtual_sites(raw),
        openmm_system=system,
        periodic=periodic,
        positions=None if coordinates is None else coordinates.positions,
        cell=cell,
    )


def _check_counts(
    raw: RawTopology, coordinates: Coordinates | None, topology_file: Path, coordinate_file: Path | None
) -> None:
    """Refuse a coordinate file that belongs to another topology, and an empty topology."""
    n_particles = raw.system.getNumParticles()
    if n_particles == 0:
        raise TopologyError(f"topology file '{topology_file}' holds no atoms")
    if coordinates is not None and len(coordinates.positions) != n_particles:
        raise TopologyError(
            f"coordinate file '{coordinate_file}' holds {len(coordinates.positions)} particles, but topology file "
            f"'{topology_file}' holds {n_particles}; give the coordinate file that was written with the topology"
        )
    if coordinates is not None and not np.all(np.isfinite(coordinates.positions)):
        raise TopologyError(f"coordinate file '{coordinate_file}' holds positions that are not finite numbers")


def _describe(raw: RawTopology, particle: int) -> str:
    atom = list(raw.app_topology.atoms())[particle]
    return f"residue {raw.residue_names[particle]} {atom.residue.index + 1} (atom {raw.atom_names[particle]})"


def _check_rigid(raw: RawTopology) -> None:
    """Raise TopologyError if anything is constrained, or held together without a flexible term."""
    system = raw.system
    if system.getNumConstraints() > 0:
        first, second, _ = system.getConstraintParameters(0)
        raise TopologyError(
            f"{_describe(raw, first)}: its distance to atom {raw.atom_names[second]} is constrained "
            f"({system.getNumConstraints()} constraints in all): {_FLEXIBLE_REMEDY}"
        )
    elements = [atom.element for atom in raw.app_topology.atoms()]
    terms = {tuple(sorted(pair)): stiffness for *pair, stiffness in bond_terms(system)}
    if raw.kind == "amber":
        hydrogen = app.element.hydrogen
        directed = [direction for pair in terms for direction in (pair, pair[::-1])]
        on_heavy_atom = {i for i, j in directed if elements[j] not in (None, hydrogen)}
        for i, j in terms:
            if elements[i] is elements[j] is hydrogen and {i, j} & on_heavy_atom:
                raise TopologyError(
                    f"{_describe(raw, i)}: rigid three-site water, its hydrogens {raw.atom_names[i]} and "
                    f"{raw.atom_names[j]} are joined by a bond in place of an angle: {_FLEXIBLE_REMEDY}"
                )
    for i, j in raw.bonds:
        if terms.get((i, j), 0.0) == 0.0:
            raise TopologyError(
                f"{_describe(raw, i)}: its bond to atom {raw.atom_names[j]} has no bonded term in the force field: "
                f"{_FLEXIBLE_REMEDY}"
            )


def _symbols(raw: RawTopology, masses: FloatArray) -> tuple[str, ...]:
    """Return element symbols; an atom whose file gives none gets the element of its mass."""
    symbols = []
    for index, atom in enumerate(raw.app_topology.atoms()):
        virtual = raw.system.isVirtualSite(index)
        if virtual != (masses[index] == 0.0):
            raise TopologyError(
                f"{_describe(raw, index)}: mass {masses[index]:g} dalton and {'a' if virtual else 'no'} virtual site; "
                "virtual sites need mass zero and atoms a positive mass"
            )
        element = None if virtual else (atom.element or app.Element.getByMass(masses[index]))
        if element is None and not virtual:
            raise TopologyError(f"{_describe(raw, index)}: no element has its mass, {masses[index]:g} dalton")
        symbols.append("" if element is None else str(element.symbol))
    return tuple(symbols)


def _charges(system: openmm.System) -> FloatArray:
    """Return the MM charges of all particles, shape (P,), e."""
    forces = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    if len(forces) != 1:
        raise TopologyError(f"the OpenMM system has {len(forces)} NonbondedForce objects; exactly one is needed")
    force = forces[0]
    parameters = [force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]
    return np.array([charge.value_in_unit(unit.elementary_charge) for charge in parameters], dtype=np.float64)


def _virtual_sites(raw: RawTopology) -> VirtualSites:
    """Map OpenMM's virtual sites on weights and a cross product."""
    particles: list[int] = []
    parents: list[list[int]] = []
    weights: list[list[float]] = []
    cross: list[float] = []
    for index in range(raw.system.getNumParticles()):
        if not raw.system.isVirtualSite(index):
            continue
        site = raw.system.getVirtualSite(index)
        of_site = [site.getParticle(k) for k in range(site.getNumParticles())]
        cross_weight = 0.0
        if isinstance(site, openmm.TwoParticleAverageSite):
            of_site.append(of_site[0])
            row = [site.getWeight(0), site.getWeight(1), 0.0]
        elif isinstance(site, openmm.ThreeParticleAverageSite):
            row = [site.getWeight(k) for k in range(3)]
        elif isinstance(site, openmm.OutOfPlaneSite):
            row = [1.0 - site.getWeight12() - site.getWeight13(), site.getWeight12(), site.getWeight13()]
            cross_weight = site.getWeightCross() / NANOMETRE
        else:
            raise TopologyError(
                f"{_describe(raw, index)}: virtual site of kind {type(site).__name__} is not supported; needed is "
                "TwoParticleAverageSite, ThreeParticleAverageSite or OutOfPlaneSite (GROMACS virtual_sites2, and "
                "virtual_sites3 of function 1 or 4)"
            )
        if any(raw.system.isVirtualSite(parent) for parent in of_site):
            raise TopologyError(
                f"{_describe(raw, index)}: its parents include another virtual site, which is not supported"
            )
        particles.append(index)
        parents.append(of_site)
        weights.append(row)
        cross.append(cross_weight)
    return VirtualSites(
        np.array(particles, dtype=np.int64),
        np.array(parents, dtype=np.int64).reshape(-1, 3),
        np.array(weights, dtype=np.float64).reshape(-1, 3),
        np.array(cross, dtype=np.float64),
    )


def _check_cutoff(topology: Topology, nonbonded: NonbondedSettings) -> None:
    """Refuse a cutoff beyond half the width of the cell, which OpenMM cannot use."""
    if topology.cell is None:
        return
    narrowest = float(np.min(np.diagonal(topology.cell)))
    if 2.0 * nonbonded.cutoff > narrowest:
        to_angstrom = 10.0 / NANOMETRE
        raise TopologyError(
            f"the nonbonded cutoff, {nonbonded.cutoff * to_angstrom:.3f} angstrom, is more than half the width of the "
            f"cell, {narrowest * to_angstrom:.3f} angstrom; take a shorter cutoff or a larger box"
        )
