"""The MM engine against independent sums, finite differences, and the invariances that a frame from i-PI needs."""

import itertools
import threading
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from deltaqmmm.errors import ConfigError, FrameError, NonFiniteError
from deltaqmmm.mm import OpenMMEngine, OpenMMSettings, platforms
from deltaqmmm.mm.mesh import set_mesh
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL, NANOMETRE

DATA = Path(__file__).parents[2] / "data" / "mm_systems"
URACIL = range(12)


def openmm_energy(system, positions, cell=None):
    """Return the energy (hartree) that plain OpenMM gives on the Reference platform."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    if cell is not None:
        context.setPeriodicBoxVectors(*(cell / NANOMETRE))
    context.setPositions(positions / NANOMETRE)
    context.computeVirtualSites()
    return context.getState(getEnergy=True).getPotentialEnergy()._value * KJ_PER_MOL


def parameters(system):
    """Return charges (e), sigma (bohr) and epsilon (hartree) of all particles."""
    force = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    values = [force.getParticleParameters(i) for i in range(force.getNumParticles())]
    charge, sigma, epsilon = np.array([[entry._value for entry in value] for value in values]).T
    return charge, sigma * NANOMETRE, epsilon * KJ_PER_MOL


def test_droplet_is_the_sum_of_its_terms(droplet):
    """All pairs and all flexible water terms, written out in numpy."""
    charge, sigma, epsilon = parameters(droplet.topology.openmm_system)
    positions = droplet.positions
    molecule = np.concatenate([np.zeros(12, dtype=int), np.repeat(np.arange(1, (len(positions) - 12) // 3 + 1), 3)])
    i, j = np.triu_indices(len(positions), 1)
    other = molecule[i] != molecule[j]
    i, j = i[other], j[other]
    distance = np.linalg.norm(positions[i] - positions[j], axis=1)
    ratio = (0.5 * (sigma[i] + sigma[j]) / distance) ** 6
    energy = np.sum(4.0 * np.sqrt(epsilon[i] * epsilon[j]) * (ratio**2 - ratio))
    both_mm = (molecule[i] > 0) & (molecule[j] > 0)
    energy += np.sum((charge[i] * charge[j] / distance)[both_mm])
    # q-SPC/Fw: 2 x 529.58 kcal/mol/A^2 about 1 A, 2 x 37.95 kcal/mol/rad^2 about 112 degrees (DOI 10.1063/1.2386157)
    kcal = 4.184 * KJ_PER_MOL
    water = positions[12:].reshape(-1, 3, 3)
    arms = water[:, 1:] - water[:, :1]
    lengths = np.linalg.norm(arms, axis=2)
    energy += np.sum(529.58 * kcal * (lengths / ANGSTROM - 1.0) ** 2)
    cosine = np.einsum("ij,ij->i", arms[:, 0], arms[:, 1]) / lengths.prod(axis=1)
    energy += np.sum(37.95 * kcal * (np.arccos(cosine) - np.radians(112.0)) ** 2)
    result = droplet.evaluate()
    # OpenMM's Coulomb constant has ten digits
    assert result.energies[0] == pytest.approx(energy, abs=2e-6)
    assert result.terms["mm"][0] == result.energies[0]
    assert list(result.terms) == ["mm"]
    assert result.strain_derivatives is None


def test_box_is_the_whole_minus_the_uracil(box):
    """E_MM = the whole system with uncharged uracil, minus an uncharged uracil alone."""
    whole = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(box.topology.openmm_system))
    nonbonded = next(force for force in whole.getForces() if isinstance(force, openmm.NonbondedForce))
    for i in URACIL:
        _, sigma, epsilon = nonbonded.getParticleParameters(i)
        nonbonded.setParticleParameters(i, 0.0, sigma, epsilon)
    for k in range(nonbonded.getNumExceptions()):
        i, j, _, sigma, epsilon = nonbonded.getExceptionParameters(k)
        if i < 12:
            nonbonded.setExceptionParameters(k, i, j, 0.0, sigma, epsilon)
    # the uracil alone, without cutoff: only its own terms
    prmtop = app.AmberPrmtopFile(str(DATA / "uracil_box.prmtop"))
    alone = prmtop.createSystem(nonbondedMethod=app.NoCutoff, rigidWater=False, removeCMMotion=False)
    nonbonded = next(force for force in alone.getForces() if isinstance(force, openmm.NonbondedForce))
    for i in range(alone.getNumParticles()):
        _, sigma, epsilon = nonbonded.getParticleParameters(i)
        nonbonded.setParticleParameters(i, 0.0, sigma, epsilon if i < 12 else 0.0)
    for k in range(nonbonded.getNumExceptions()):
        i, j, _, sigma, epsilon = nonbonded.getExceptionParameters(k)
        nonbonded.setExceptionParameters(k, i, j, 0.0, sigma, epsilon)
    water_free = openmm.System()
    for i in range(12):
        water_free.addParticle(alone.getParticleMass(i))
    for force in alone.getForces():
        water_free.addForce(only_first(force, 12))
    whole_positions = box.engine()._alone._imager(box.positions, box.cell)
    set_mesh(whole, box.cell.diagonal() / NANOMETRE)
    expected = openmm_energy(whole, whole_positions, box.cell) - openmm_energy(water_free, whole_positions[:12])
    assert box.evaluate().energies[0] == pytest.approx(expected, abs=1e-9)


def only_first(force, n):
    """Return a copy of an Amber force with only the terms of the first n particles."""
    copy = type(force)()
    if isinstance(force, openmm.NonbondedForce):
        for i in range(n):
            copy.addParticle(*force.getParticleParameters(i))
        terms = [force.getExceptionParameters(k) for k in range(force.getNumExceptions())]
        add, size = copy.addException, 2
    elif isinstance(force, openmm.HarmonicBondForce):
        terms = [force.getBondParameters(k) for k in range(force.getNumBonds())]
        add, size = copy.addBond, 2
    elif isinstance(force, openmm.HarmonicAngleForce):
        terms = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
        add, size = copy.addAngle, 3
    else:
        terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
        add, size = copy.addTorsion, 4
    for term in terms:
        if all(particle < n for particle in term[:size]):
            add(*term)
    return copy


@pytest.mark.parametrize("kind", [("top", "gro"), ("xml", "pdb")])
def test_formats_give_the_same_energy(box, kind):
    settings = NonbondedSettings(cutoff=8.0 * ANGSTROM, switch_distance=7.0 * ANGSTROM, ewald_tolerance=1e-5)
    topology = load_topology(DATA / f"uracil_box.{kind[0]}", DATA / f"uracil_box.{kind[1]}", settings)
    system = System.from_topology(topology, URACIL)
    engine = OpenMMEngine(topology, system, OpenMMSettings("Reference"))
    result = engine.evaluate(box.positions[None], box.cell[None])
    expected = box.evaluate()
    # charges and force constants are written with six or more digits
    assert result.energies[0] == pytest.approx(expected.energies[0], abs=1e-5)
    np.testing.assert_allclose(result.forces, expected.forces, atol=1e-6)


def differences(case, atom, axis, step, cell=None, positions=None):
    """Return the central difference estimate of one force component."""
    base = case.positions if positions is None else positions
    frames = np.repeat(base[None], 2, axis=0)
    frames[0, atom, axis] += step
    frames[1, atom, axis] -= step
    forward, backward = case.evaluate(frames, cell).energies
    return -(forward - backward) / (2.0 * step)


@pytest.mark.parametrize("name", ["box", "droplet", "four_site"])
def test_forces_are_the_gradient(request, name):
    """QM and MM atoms: the error of central differences falls as h^2 (a factor of 100 for a step ten times smaller)."""
    case = request.getfixturevalue(name)
    forces = case.evaluate().forces[0]
    qm = int(case.system.qm_atoms[0])
    # an oxygen and a hydrogen near the QM region, and a molecule far from it
    distance = np.linalg.norm(case.positions - case.positions[qm], axis=1)
    distance[case.system.qm_atoms] = np.inf
    near = int(np.argmin(distance))
    distance[case.system.qm_atoms] = 0.0
    far = int(np.argmax(distance))
    for atom, axis in itertools.product([qm, near, far], [0, 2]):
        coarse = abs(differences(case, atom, axis, 1e-2) - forces[atom, axis])
        fine = abs(differences(case, atom, axis, 1e-3) - forces[atom, axis])
        assert fine < coarse / 50.0 or fine < 2e-9
        assert abs(differences(case, atom, axis, 2e-4) - forces[atom, axis]) < 1e-7


def test_forces_on_a_molecule_across_the_boundary(box):
    """Wrapped atom by atom, with bonds that cross the cell's faces."""
    wrapped = box.positions - np.floor(box.positions @ np.linalg.inv(box.cell)) @ box.cell
    broken = [
        (int(i), int(j))
        for i, j in box.topology.bonds
        if i >= 12 and np.abs(wrapped[i] - wrapped[j]).max() > 5.0 * ANGSTROM
    ]
    assert len(broken) > 5
    forces = box.evaluate(wrapped).forces[0]
    np.testing.assert_allclose(forces, box.evaluate().forces[0], atol=1e-10)
    for atom in broken[0]:
        assert differences(box, atom, 1, 1e-3, positions=wrapped) == pytest.approx(forces[atom, 1], abs=1e-7)


@pytest.mark.parametrize("largest", [1, 500])
def test_whole_cell_shifts_of_single_atoms(box, largest):
    generator = np.random.default_rng(11)
    expected = box.evaluate()
    for _ in range(2):
        shifts = generator.integers(-largest, largest + 1, size=box.positions.shape)
        result = box.evaluate(box.positions + shifts @ box.cell)
        assert abs(result.energies[0] - expected.energies[0]) < 1e-9
        np.testing.assert_allclose(result.forces, expected.forces, rtol=0, atol=1e-9)


def test_translation_of_everything(box, droplet):
    shift = np.array([3.1, -7.7, 11.3])
    # the Ewald mesh does not move with the atoms: its error is 1e-5 of the energy of a pair or less
    assert box.evaluate(box.positions + shift).energies[0] == pytest.approx(box.evaluate().energies[0], abs=2e-6)
    assert abs(droplet.evaluate(droplet.positions + shift).energies[0] - droplet.evaluate().energies[0]) < 1e-10


def test_another_basis_of_the_lattice_and_another_orientation(box):
    """A sheared and rotated cell, right- and left-handed: energy, turned forces, turned strain derivative."""
    generator = np.random.default_rng(2)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    expected = box.evaluate(virial=True)
    for basis in ([[1, 1, 0], [0, 1, 0], [2, 0, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]]):
        cell = np.array(basis) @ box.cell @ rotation
        result = box.evaluate(box.positions @ rotation, cell, virial=True)
        # the mesh points are elsewhere, so the mesh error (below 1e-6 hartree) differs
        assert result.energies[0] == pytest.approx(expected.energies[0], abs=1e-6)
        np.testing.assert_allclose(result.forces[0], expected.forces[0] @ rotation, atol=1e-6)
        turned = rotation.T @ expected.strain_derivatives[0] @ rotation
        np.testing.assert_allclose(result.strain_derivatives[0], turned, atol=2e-3)


def test_batch_equals_single_frames(box):
    generator = np.random.default_rng(4)
    frames = box.positions + generator.normal(scale=0.02, size=(3, *box.positions.shape))
    scales = np.array([1.0, 1.01, 0.998])[:, None, None]
    engine = box.engine()
    batch = engine.evaluate(frames * scales, box.cell * scales)
    for order in ([2, 0, 1], [1]):
        part = engine.evaluate((frames * scales)[order], (box.cell * scales)[order])
        np.testing.assert_array_equal(part.energies, batch.energies[order])
        np.testing.assert_array_equal(part.forces, batch.forces[order])
    assert len(set(batch.energies)) == 3


def test_virtual_sites_give_openmms_energy_and_sum_rules(four_site):
    """The QM molecule's virtual site has lost its charge; the others' forces reach their parents."""
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(four_site.topology.openmm_system))
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for i in range(4, 8):
                _, sigma, epsilon = force.getParticleParameters(i)
                force.setParticleParameters(i, 0.0, sigma, epsilon)
        elif isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                i, j, length, _ = force.getBondParameters(k)
                if i in range(4, 8):
                    force.setBondParameters(k, i, j, length, 0.0)
        elif isinstance(force, openmm.HarmonicAngleForce):
            i, j, k, angle, _ = force.getAngleParameters(1)
            assert j == 4
            force.setAngleParameters(1, i, j, k, angle, 0.0)
    particles = np.zeros((four_site.topology.n_particles, 3))
    particles[four_site.system.atom_particles] = four_site.positions
    result = four_site.evaluate()
    assert result.forces.shape == (1, 36, 3)
    assert result.energies[0] == pytest.approx(openmm_energy(system, particles), abs=1e-11)
    np.testing.assert_allclose(result.forces[0].sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.cross(four_site.positions, result.forces[0]).sum(axis=0), 0.0, atol=1e-11)
    # only the oxygen of the QM molecule has Lennard-Jones terms
    np.testing.assert_allclose(result.forces[0, 4:6], 0.0, atol=1e-15)
    assert np.abs(result.forces[0, 3]).max() > 1e-4


def test_strain_derivative_of_a_droplet_is_its_virial(droplet):
    """Without a cell, dE/d(strain)_ab is minus the sum of r_a F_b."""
    result = droplet.evaluate(virial=True)
    exact = -np.einsum("ia,ib->ab", droplet.positions, result.forces[0])
    np.testing.assert_allclose(exact, exact.T, atol=1e-9)
    np.testing.assert_allclose(result.strain_derivatives[0], exact, atol=2e-6)
    coarse = droplet.evaluate(virial=True, strain_step=1e-3).strain_derivatives[0]
    ratio = np.abs(coarse - exact).max() / np.abs(result.strain_derivatives[0] - exact).max()
    assert 50.0 < ratio < 200.0


def lennard_jones_fluid():
    """108 argon atoms near an fcc lattice in a skewed box, cutoff with switch; no dispersion correction."""
    sigma, epsilon, cutoff, switch = 0.34, 0.996, 0.8, 0.6
    cell = np.array([[1.7, 0.0, 0.0], [0.2, 1.7, 0.0], [-0.3, 0.25, 1.7]])
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    lattice = np.array(list(itertools.product(range(3), repeat=3)))
    fractional = (lattice[:, None] + corners).reshape(-1, 3) / 3.0
    positions = fractional @ cell + np.random.default_rng(9).normal(scale=0.015, size=(108, 3))
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*cell)
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(cutoff)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(switch)
    force.setUseDispersionCorrection(False)
    for _ in range(108):
        system.addParticle(39.948)
        force.addParticle(0.0, sigma, epsilon)
    system.addForce(force)

    def pair(distance):
        x = np.clip((distance - switch) / (cutoff - switch), 0.0, 1.0)
        ratio = (sigma / distance) ** 6
        return 4.0 * epsilon * (ratio**2 - ratio) * (1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2))

    return system, positions, cell, pair


def test_strain_derivative_of_a_lennard_jones_fluid(from_openmm):
    """A periodic, skewed box against the pair sum of r_a r_b / r dv/dr over minimum images."""
    system, positions, cell, pair = lennard_jones_fluid()
    # the PDB's box is orthorhombic here: the frame brings its own cell
    case = from_openmm(system, positions * NANOMETRE, ["AR"] * 108, [0])
    result = case.evaluate(positions * NANOMETRE, cell * NANOMETRE, virial=True, strain_step=1e-4)
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ cell
    vectors = positions[:, None, None] - positions[None, :, None] + images
    vectors = vectors[np.triu_indices(108, 1)].reshape(-1, 3)
    distances = np.linalg.norm(vectors, axis=1)
    vectors, distances = vectors[distances < 0.8], distances[distances < 0.8]
    assert result.energies[0] == pytest.approx(pair(distances).sum() * KJ_PER_MOL, abs=1e-10)
    slopes = (pair(distances + 1e-5) - pair(distances - 1e-5)) / 2e-5
    exact = np.einsum("pa,pb->ab", vectors, vectors * (slopes / distances)[:, None]) * KJ_PER_MOL
    np.testing.assert_allclose(result.strain_derivatives[0], exact, atol=3e-7)
    assert np.abs(exact).max() > 1e-3


def test_strain_derivative_of_the_box_with_ewald_sums(box):
    """The default step against a tight Ewald tolerance and a smaller step; 1e-3 hartree here is a pressure of 8 bar."""
    tight = NonbondedSettings(cutoff=8.0 * ANGSTROM, switch_distance=7.0 * ANGSTROM, ewald_tolerance=1e-7)
    topology = load_topology(DATA / "uracil_box.prmtop", DATA / "uracil_box.rst7", tight)
    engine = OpenMMEngine(topology, box.system, OpenMMSettings("Reference", virial=True, strain_step=2e-4))
    reference = engine.evaluate(box.positions[None], box.cell[None]).strain_derivatives
    np.testing.assert_allclose(box.evaluate(virial=True).strain_derivatives, reference, atol=1.5e-3)


def test_cpu_platform_is_near_the_reference(box):
    expected = box.evaluate(virial=True)
    result = box.evaluate(platform="CPU", threads=1, virial=True)
    assert result.energies[0] == pytest.approx(expected.energies[0], abs=1e-4)
    np.testing.assert_allclose(result.forces, expected.forces, atol=1e-5)
    np.testing.assert_allclose(result.strain_derivatives, expected.strain_derivatives, atol=1e-2)
    far_away = box.evaluate(box.positions + 1000 * box.cell[0], platform="CPU", threads=1)
    np.testing.assert_allclose(far_away.forces, result.forces, atol=1e-6)


def test_threads_take_turns(droplet):
    """Two threads on one engine: every result belongs to its own frame."""
    engine = droplet.engine(platform="CPU", threads=1)
    frames = [droplet.positions[None] * scale for scale in (1.0, 1.02)]
    expected = [engine.evaluate(frame).energies[0] for frame in frames]
    wrong = []

    def work(number):
        for _ in range(20):
            if engine.evaluate(frames[number]).energies[0] != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        # OpenMM hangs where two threads are in one context.
        thread.join(timeout=60.0)
        assert not thread.is_alive()
    assert expected[0] != expected[1]
    assert not wrong


def test_restraint_between_molecules_survives_shifts(from_openmm):
    """A bonded term between molecules that no bond joins acts on the nearest image."""
    system, positions, cell, _ = lennard_jones_fluid()
    restraint = openmm.HarmonicBondForce()
    restraint.addBond(3, 40, 0.2, 500.0)
    system.addForce(restraint)
    case = from_openmm(system, positions * NANOMETRE, ["AR"] * 108, [0])
    expected = case.evaluate(positions * NANOMETRE, cell * NANOMETRE).energies[0]
    shifts = np.random.default_rng(1).integers(-4, 5, size=(108, 3))
    shifted = case.evaluate((positions + shifts @ cell) * NANOMETRE, cell * NANOMETRE).energies[0]
    assert abs(shifted - expected) < 1e-9


def test_auto_takes_a_platform_that_is_there(droplet):
    assert droplet.engine(platform="auto").platform in ("CUDA", "HIP", "OpenCL", "CPU")
    assert droplet.engine(platform="Reference").platform == "Reference"


@pytest.mark.parametrize("threads", [None, 2])
def test_auto_goes_on_where_a_platform_does_not_start(box, monkeypatch, threads):
    """Wherever it fails: also in what is done for the Ewald mesh before."""
    real = openmm.Context

    def context(system, integrator, platform, properties):
        if platform.getName() != "Reference":
            raise openmm.OpenMMException("no such instructions")
        return real(system, integrator, platform, properties)

    monkeypatch.setattr(openmm, "Context", context)
    platforms._fix_mesh_threads.cache_clear()
    assert box.engine(platform="auto", threads=threads).platform == "Reference"
    with pytest.raises(ConfigError, match="'CPU' does not start: no such instructions"):
        box.engine(platform="CPU", threads=threads)


def test_platform_that_is_not_there(droplet):
    with pytest.raises(ConfigError, match=r"platform 'Quantum' is not available; here are Reference, CPU"):
        droplet.engine(platform="Quantum")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "half"}, "got 'half'; needed is one of single, mixed, double"),
        ({"threads": 0}, "got 0; needed is at least 1"),
        ({"platform": "CPU", "precision": "double"}, "single precision only"),
        ({"strain_step": 0.5}, "between 0 and 0.01"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        OpenMMSettings(**settings)


def test_bad_frames(box, droplet):
    engine = box.engine()
    frame, cell = box.positions[None], box.cell[None]
    with pytest.raises(FrameError, match="carry no cells"):
        engine.evaluate(frame, None)
    with pytest.raises(FrameError, match="has 578 atoms, but the topology has 579"):
        engine.evaluate(frame[:, :-1], cell)
    with pytest.raises(FrameError, match=r"got cells of shape \(2, 3, 3\) for 1 frames"):
        engine.evaluate(frame, np.repeat(cell, 2, axis=0))
    with pytest.raises(FrameError, match="not finite"):
        engine.evaluate(np.where(np.arange(579)[None, :, None] == 7, np.nan, frame), cell)
    with pytest.raises(FrameError, match="singular"):
        engine.evaluate(frame, cell * np.array([1.0, 1.0, 0.0])[:, None])
    with pytest.raises(FrameError, match=r"MM cutoff of 8.000 angstrom needs 16.000"):
        engine.evaluate(frame, 0.8 * cell)
    with pytest.raises(FrameError, match=r"grown beyond 1.25 times the cell of the topology"):
        engine.evaluate(frame, 1.4 * cell)
    # i-PI sends a cell for a droplet too: it is not used
    with_cell = droplet.engine().evaluate(droplet.positions[None], np.eye(3)[None])
    assert with_cell.energies[0] == droplet.evaluate().energies[0]


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_overlapping_atoms_are_an_error(droplet, platform):
    positions = droplet.positions.copy()
    positions[15] = positions[12]
    with pytest.raises(NonFiniteError, match="MM"):
        droplet.evaluate(positions, platform=platform)


def test_units_of_a_single_bond(from_openmm):
    """One harmonic bond between two MM atoms: energy and force by hand."""
    system = openmm.System()
    bond, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    for _ in range(3):
        system.addParticle(39.948)
        nonbonded.addParticle(0.0, 0.1, 0.0)
    bond.addBond(1, 2, 0.2 * unit.nanometer, 1000.0 * unit.kilojoule_per_mole / unit.nanometer**2)
    system.addForce(bond)
    system.addForce(nonbonded)
    positions = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.0]]) * NANOMETRE
    case = from_openmm(system, positions, ["AR"] * 3, [0])
    result = case.evaluate(positions)
    assert result.energies[0] * 2625.4996394791 == pytest.approx(0.5 * 1000.0 * 0.05**2, rel=1e-9)
    assert result.forces[0, 1, 0] == pytest.approx(1000.0 * 0.05 / 2625.4996394791 * 0.0529177210544, rel=1e-9)
    np.testing.assert_allclose(result.forces[0, 2], -result.forces[0, 1])
