"""What is taken out of the OpenMM system, kind of force by kind of force, and what is refused."""

import numpy as np
import openmm
import pytest

from deltaqmmm.errors import TopologyError
from deltaqmmm.mm import partition
from deltaqmmm.mm.openmm_engine import OpenMMEngine
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL, NANOMETRE

CHAIN = np.array([[0.0, 0.0, 0.0], [1.4, 0.2, 0.0], [2.0, 1.5, 0.3], [3.4, 1.6, 0.9], [4.0, 2.9, 0.6]]) * ANGSTROM
"""Five bonded carbons, in no special place, bohr."""


def two_chains(custom_nonbonded=False):
    """Two equal chains of five carbons with every kind of bonded force, as one OpenMM system."""
    system = openmm.System()
    nonbonded = openmm.NonbondedForce()
    for i in range(10):
        system.addParticle(12.011)
        nonbonded.addParticle([0.3, -0.5, 0.4, -0.4, 0.2][i % 5], 0.3, 0.4)
    bond, angle, torsion = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    ryckaert, cmap = openmm.RBTorsionForce(), openmm.CMAPTorsionForce()
    custom_bond, custom_angle = openmm.CustomBondForce("k*r^4"), openmm.CustomAngleForce("k*cos(theta)")
    custom_torsion = openmm.CustomTorsionForce("k*cos(theta)^3")
    compound = openmm.CustomCompoundBondForce(3, "k*distance(p1,p2)*distance(p2,p3)")
    custom_bond.addPerBondParameter("k")
    custom_angle.addPerAngleParameter("k")
    custom_torsion.addPerTorsionParameter("k")
    compound.addPerBondParameter("k")
    cmap.addMap(4, list(np.sin(np.arange(16.0))))
    for o in (0, 5):
        for i in range(4):
            bond.addBond(o + i, o + i + 1, 0.15, 2000.0)
        angle.addAngle(o, o + 1, o + 2, 1.9, 300.0)
        torsion.addTorsion(o, o + 1, o + 2, o + 3, 3, 0.4, 5.0)
        ryckaert.addTorsion(o + 1, o + 2, o + 3, o + 4, 1.0, 2.0, -3.0, 0.5, 0.0, 0.2)
        cmap.addTorsion(0, o, o + 1, o + 2, o + 3, o + 1, o + 2, o + 3, o + 4)
        custom_bond.addBond(o, o + 1, [30.0])
        custom_angle.addAngle(o + 1, o + 2, o + 3, [7.0])
        custom_torsion.addTorsion(o, o + 1, o + 2, o + 3, [4.0])
        compound.addBond([o + 2, o + 3, o + 4], [11.0])
    bonds = [(o + i, o + i + 1) for o in (0, 5) for i in range(4)]
    nonbonded.createExceptionsFromBonds(bonds, 0.8, 0.5)
    forces = [bond, angle, torsion, ryckaert, cmap, custom_bond, custom_angle, custom_torsion, compound, nonbonded]
    if custom_nonbonded:
        extra = openmm.CustomNonbondedForce("a1*a2*exp(-r)")
        extra.addPerParticleParameter("a")
        for i in range(10):
            extra.addParticle([1.0 + i % 5])
        for k in range(nonbonded.getNumExceptions()):
            extra.addExclusion(*nonbonded.getExceptionParameters(k)[:2])
        forces.append(extra)
    for force in forces:
        system.addForce(force)
    return system


def plain_energy(system, positions):
    """Return OpenMM's own energy of an unchanged system, hartree."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions / NANOMETRE)
    return context.getState(getEnergy=True).getPotentialEnergy()._value * KJ_PER_MOL


@pytest.mark.parametrize("custom_nonbonded", [False, True])
def test_isolated_qm_region_has_no_energy(from_openmm, custom_nonbonded):
    """Far apart, the energy is the MM chain's alone: half of the two chains' in equal geometry."""
    far = CHAIN + np.array([1e4, 0.0, 0.0])
    case = from_openmm(two_chains(custom_nonbonded), np.vstack([CHAIN, CHAIN + 30.0]), ["C"] * 10, range(5))
    positions = np.vstack([CHAIN, far])
    half = 0.5 * plain_energy(case.topology.openmm_system, positions)
    assert abs(half) > 1e-3
    # the Coulomb terms between the neutral chains, 1e4 bohr apart, are below 1e-11 hartree
    assert case.evaluate(positions).energies[0] == pytest.approx(half, abs=1e-9)
    distorted = np.vstack([CHAIN * 1.3 + np.sin(np.arange(15.0)).reshape(5, 3), far])
    moved = case.evaluate(distorted)
    assert moved.energies[0] == pytest.approx(half, abs=1e-9)
    np.testing.assert_allclose(moved.forces[0, :5], 0.0, atol=1e-9)


@pytest.mark.parametrize("custom_nonbonded", [False, True])
def test_lennard_jones_between_qm_and_mm_stays(from_openmm, custom_nonbonded):
    """Near each other, the cross terms are the pair sum of Lennard-Jones terms; no Coulomb term."""
    near = CHAIN + np.array([0.0, 0.0, 3.2 * ANGSTROM])
    case = from_openmm(two_chains(custom_nonbonded), np.vstack([CHAIN, near]), ["C"] * 10, range(5))
    alone = case.evaluate(np.vstack([CHAIN + 1e4, near])).energies[0]
    together = case.evaluate(np.vstack([CHAIN, near])).energies[0]
    distances = np.linalg.norm(CHAIN[:, None] - near[None], axis=-1) / NANOMETRE
    pairs = 4.0 * 0.4 * ((0.3 / distances) ** 12 - (0.3 / distances) ** 6)
    if custom_nonbonded:
        strengths = np.arange(1.0, 6.0)
        pairs = pairs + strengths[:, None] * strengths * np.exp(-distances)
        # at 1e4 bohr exp(-r / nm) has gone to zero
    assert together - alone == pytest.approx(pairs.sum() * KJ_PER_MOL, abs=1e-9)


def test_thermostats_and_barostats_are_dropped(from_openmm):
    system = two_chains()
    system.addForce(openmm.CMMotionRemover())
    system.addForce(openmm.AndersenThermostat(300.0, 1.0))
    case = from_openmm(system, np.vstack([CHAIN, CHAIN + 9.0]), ["C"] * 10, range(5))
    kinds = {type(force).__name__ for force in partition.mm_only_system(case.topology, case.system).getForces()}
    assert "CMMotionRemover" not in kinds
    assert "AndersenThermostat" not in kinds
    assert "CMAPTorsionForce" in kinds
    # the caller's system is left alone
    assert any(isinstance(force, openmm.CMMotionRemover) for force in case.topology.openmm_system.getForces())


def test_source_system_is_not_changed(box):
    before = openmm.XmlSerializer.serialize(box.topology.openmm_system)
    partition.mm_only_system(box.topology, box.system)
    assert openmm.XmlSerializer.serialize(box.topology.openmm_system) == before


def test_virtual_sites_of_qm_atoms_are_qm(four_site):
    assert partition.qm_particles(four_site.topology, four_site.system).tolist() == [4, 5, 6, 7]


def refused(from_openmm, system, message):
    case = from_openmm(system, np.vstack([CHAIN, CHAIN + 9.0]), ["C"] * 10, range(5))
    with pytest.raises(TopologyError, match=message):
        OpenMMEngine(case.topology, case.system)


def test_unknown_force_is_refused(from_openmm):
    system = two_chains()
    solvent = openmm.GBSAOBCForce()
    for _ in range(10):
        solvent.addParticle(0.1, 0.15, 0.8)
    system.addForce(solvent)
    refused(from_openmm, system, "has a GBSAOBCForce, whose part inside the QM region cannot be taken out")


def test_exception_between_qm_and_mm_is_refused(from_openmm):
    system = two_chains()
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    nonbonded.addException(0, 7, 0.0, 0.1, 0.0)
    refused(from_openmm, system, r"exception joins C in RES 1 .* and C in RES 8 ")


def test_parameter_offsets_are_refused(from_openmm):
    system = two_chains()
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    nonbonded.addGlobalParameter("scale", 1.0)
    nonbonded.addParticleParameterOffset("scale", 8, 0.1, 0.0, 0.0)
    refused(from_openmm, system, "parameter offsets")


def test_external_force_needs_a_system_without_cell(from_openmm):
    """Without a cell absolute positions mean something, and are not shifted."""
    wall = openmm.CustomExternalForce("0.5*(x^2+y^2+z^2)")
    wall.addParticle(9)
    system = two_chains()
    plain = from_openmm(system, np.vstack([CHAIN, CHAIN + 9.0]), ["C"] * 10, range(5))
    system.addForce(wall)
    walled = from_openmm(system, np.vstack([CHAIN, CHAIN + 9.0]), ["C"] * 10, range(5))
    positions = np.vstack([CHAIN, CHAIN + 9.0])
    expected = 0.5 * ((positions[9] / NANOMETRE) ** 2).sum() * KJ_PER_MOL
    difference = walled.evaluate(positions).energies[0] - plain.evaluate(positions).energies[0]
    assert difference == pytest.approx(expected, abs=1e-10)

    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
            force.setCutoffDistance(0.9)
    refused(from_openmm, system, "CustomExternalForce .* depends on absolute positions")
