"""Takes the QM region's own terms out of an OpenMM system, so that what is left is E_MM.

E_MM holds every term among MM particles and the Lennard-Jones terms between QM and MM. It holds no bonded, Coulomb or
Lennard-Jones term inside the QM region and no Coulomb term between QM and MM.
"""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import openmm

from deltaqmmm.errors import TopologyError
from deltaqmmm.results import IntArray
from deltaqmmm.system import System
from deltaqmmm.topology import Topology

BONDED_FORCES = frozenset(
    {
        "HarmonicBondForce",
        "HarmonicAngleForce",
        "PeriodicTorsionForce",
        "RBTorsionForce",
        "CMAPTorsionForce",
        "CustomBondForce",
        "CustomAngleForce",
        "CustomTorsionForce",
        "CustomCompoundBondForce",
    }
)
"""Sums over listed tuples of particles; a term goes if all its particles are QM."""

NONBONDED_FORCES = frozenset({"NonbondedForce", "CustomNonbondedForce"})

DROPPED_FORCES = frozenset(
    {
        "CMMotionRemover",
        "AndersenThermostat",
        "MonteCarloBarostat",
        "MonteCarloAnisotropicBarostat",
        "MonteCarloFlexibleBarostat",
        "MonteCarloMembraneBarostat",
    }
)
"""No energy terms: they act on OpenMM's own dynamics, which i-PI replaces."""

_TERM_LISTS = ("Bonds", "Angles", "Torsions")
_PARTICLE_ATTRIBUTE = re.compile(r"[pab][1-9][0-9]*")
"""How a serialised term names its particles: p1, p2, ...; a1 to a4 and b1 to b4 in a CMAP term."""


def qm_particles(topology: Topology, system: System) -> IntArray:
    """Return the particles of the QM region, ascending: QM atoms and the virtual sites that hang on them."""
    particles = system.atom_particles[system.qm_atoms]
    virtual = topology.virtual_sites
    hanging = virtual.particles[np.isin(virtual.parents, particles).any(axis=1)]
    return np.sort(np.concatenate([particles, hanging]))


def mm_only_system(topology: Topology, system: System) -> openmm.System:
    """Return a copy of the topology's OpenMM system without the QM region's own terms.

    Bonded terms with all particles QM are left out, QM charges are zero, and QM-QM pairs are excluded. A bonded term
    that joins QM and MM particles without a covalent bond (a restraint) stays.

    Where the QM region carries a net MM charge, taking it out leaves a charged periodic MM system; OpenMM then adds a
    uniform neutralising background. Its energy depends on the volume only, not on the positions.

    Raises:
        TopologyError: The system has a kind of force that cannot be split, or a nonbonded exception between QM and MM.
    """
    source = topology.openmm_system
    for force in source.getForces():
        _check_kind(force, topology.periodic)
    qm = {int(particle) for particle in qm_particles(topology, system)}
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(source))
    forces = root.find("Forces")
    for force_element in list(forces) if forces is not None else []:
        kind = force_element.get("type", "")
        if kind in DROPPED_FORCES and forces is not None:
            forces.remove(force_element)
        elif kind in BONDED_FORCES:
            for terms, term, particles in _terms(force_element):
                if qm.issuperset(particles):
                    terms.remove(term)
    result = openmm.XmlSerializer.deserialize(ElementTree.tostring(root, encoding="unicode"))
    for force in result.getForces():
        if isinstance(force, openmm.NonbondedForce):
            _take_out_of_nonbonded(force, qm, topology)
        elif isinstance(force, openmm.CustomNonbondedForce):
            _exclude_in_custom_nonbonded(force, qm)
    return result


def bonded_links(system: openmm.System) -> list[tuple[int, int]]:
    """Return pairs of particles that some bonded term joins (neighbours in its list of particles)."""
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(system))
    links: set[tuple[int, int]] = set()
    for force_element in root.iterfind("Forces/Force"):
        if force_element.get("type") in BONDED_FORCES:
            for _, _, particles in _terms(force_element):
                links.update(itertools.pairwise(particles))
    return sorted((i, j) for i, j in links if i != j)


def has_external_force(system: openmm.System) -> bool:
    """Return whether some force depends on absolute positions."""
    return any(isinstance(force, openmm.CustomExternalForce) for force in system.getForces())


def narrowest_cell(system: openmm.System) -> float:
    """Return the least width of the cell that OpenMM accepts (twice the longest cutoff), nm; 0 without a cutoff."""
    cutoffs: list[float] = [0.0]
    for force in system.getForces():
        if type(force).__name__ in NONBONDED_FORCES and force.usesPeriodicBoundaryConditions():
            cutoffs.append(force.getCutoffDistance()._value)
    return 2.0 * max(cutoffs)


def uses_ewald(system: openmm.System) -> bool:
    """Return whether the system sums Coulomb or dispersion terms on a mesh or in reciprocal space."""
    methods = (openmm.NonbondedForce.Ewald, openmm.NonbondedForce.PME, openmm.NonbondedForce.LJPME)
    nonbonded = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    return any(force.getNonbondedMethod() in methods for force in nonbonded)


def _terms(
    force_element: ElementTree.Element,
) -> Iterator[tuple[ElementTree.Element, ElementTree.Element, tuple[int, ...]]]:
    """Yield (list element, term element, particles) of every term of a serialised bonded force."""
    for name in _TERM_LISTS:
        terms = force_element.find(name)
        for term in list(terms) if terms is not None else []:
            keys = [key for key in term.attrib if _PARTICLE_ATTRIBUTE.fullmatch(key)]
            keys.sort(key=lambda key: (key[0], int(key[1:])))
            if terms is not None:
                yield terms, term, tuple(int(term.attrib[key]) for key in keys)


def _check_kind(force: openmm.Force, periodic: bool) -> None:
    """Refuse kinds of force whose QM part cannot be told from the rest."""
    kind = type(force).__name__
    if kind == "CustomExternalForce":
        if periodic:
            raise TopologyError(
                f"the OpenMM system has a CustomExternalForce ('{force.getEnergyFunction()}'): it depends on absolute "
                "positions, which a periodic system does not keep. Remove it and put the restraint into i-PI"
            )
    elif kind not in BONDED_FORCES | NONBONDED_FORCES | DROPPED_FORCES:
        known = ", ".join(sorted(BONDED_FORCES | NONBONDED_FORCES | {"CustomExternalForce (not periodic)"}))
        raise TopologyError(
            f"the OpenMM system has a {kind}, whose part inside the QM region cannot be taken out. Remove it from the "
            f"system; supported are {known}"
        )


def _take_out_of_nonbonded(force: openmm.NonbondedForce, qm: set[int], topology: Topology) -> None:
    """Set QM charges to zero and exclude every QM-QM pair; refuse exceptions that join QM and MM."""
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise TopologyError(
            "the NonbondedForce has parameter offsets, which are not supported; write the system with the final charges"
        )
    for particle in qm:
        _, sigma, epsilon = force.getParticleParameters(particle)
        force.setParticleParameters(particle, 0.0, sigma, epsilon)
    for index in range(force.getNumExceptions()):
        first, second = force.getExceptionParameters(index)[:2]
        if (first in qm) != (second in qm):
            raise TopologyError(
                f"a nonbonded exception joins {topology.describe(first)} and {topology.describe(second)}, of which one "
                "is QM and one is not. Extend the QM selection to both, or remove the exception"
            )
    for first, second in itertools.combinations(sorted(qm), 2):
        force.addException(first, second, 0.0, 0.1, 0.0, True)


def _exclude_in_custom_nonbonded(force: openmm.CustomNonbondedForce, qm: set[int]) -> None:
    """Exclude every QM-QM pair, as the NonbondedForce does (OpenMM wants the same pairs in both)."""
    present = {tuple(sorted(force.getExclusionParticles(index))) for index in range(force.getNumExclusions())}
    for pair in itertools.combinations(sorted(qm), 2):
        if pair not in present:
            force.addExclusion(*pair)
