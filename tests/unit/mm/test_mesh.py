"""The mesh of the Ewald sum: as precise as OpenMM's own where it counts, and coarser."""

import math

import numpy as np
import openmm
import pytest

from deltaqmmm.mm.mesh import LEAST, fast_length, set_mesh
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM, NANOMETRE


def nonbonded(system):
    return next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))


def box(data_folder, tolerance):
    folder = data_folder / "mm_systems"
    settings = NonbondedSettings(cutoff=8.9 * ANGSTROM, switch_distance=8.0 * ANGSTROM, ewald_tolerance=tolerance)
    return load_topology(folder / "uracil_box.prmtop", folder / "uracil_box.rst7", settings)


def forces(topology, system, parameters=None):
    """Coulomb forces of the Reference platform, kJ/mol/nm, and the mesh."""
    force = nonbonded(system)
    if parameters:
        force.setPMEParameters(*parameters)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(topology.positions / NANOMETRE)
    found = context.getState(getForces=True).getForces(asNumpy=True)._value
    return np.array(found), force.getPMEParametersInContext(context)


def copy_of(system):
    return openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))


@pytest.mark.parametrize("tolerance", [5e-5, 1e-5])
def test_the_error_of_the_forces_stays_that_of_the_cutoff(data_folder, tolerance):
    topology = box(data_folder, tolerance)
    lengths = topology.cell.diagonal() / NANOMETRE
    chosen = copy_of(topology.openmm_system)
    set_mesh(chosen, lengths)
    exact, _ = forces(topology, copy_of(topology.openmm_system), (5.5, 96, 96, 96))
    ours, mesh = forces(topology, chosen)
    theirs, their_mesh = forces(topology, copy_of(topology.openmm_system))
    assert math.isclose(mesh[0], their_mesh[0], rel_tol=1e-12), "the same splitting"
    assert max(mesh[1:]) < 0.9 * max(their_mesh[1:])
    errors = [np.sqrt(np.mean((found - exact) ** 2)) for found in (ours, theirs)]
    assert errors[0] < 1.05 * errors[1]


def test_a_mesh_that_the_system_brings_is_kept(data_folder):
    system = box(data_folder, 5e-5).openmm_system
    nonbonded(system).setPMEParameters(3.0, 40, 41, 42)
    set_mesh(system, np.full(3, 2.0))
    assert nonbonded(system).getPMEParameters()[1:] == [40, 41, 42]


def test_other_methods_are_left_alone(data_folder):
    system = box(data_folder, 5e-5).openmm_system
    nonbonded(system).setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    set_mesh(system, np.full(3, 2.0))
    assert nonbonded(system).getPMEParameters()[1:] == [0, 0, 0]


def test_fast_lengths():
    assert [fast_length(n) for n in (1, 7, 11, 13, 29, 47, 58, 97)] == [LEAST, 7, 12, 14, 30, 48, 60, 98]
