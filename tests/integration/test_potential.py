"""The whole potential on a periodic box: forces, strain derivative, invariances; MM on OpenMM's Reference platform."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.dftb.engine import DFTBResult
from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.errors import ConfigError, FrameError, NonFiniteError
from deltaqmmm.mm import OpenMMEngine, OpenMMSettings
from deltaqmmm.potential import Potential
from deltaqmmm.results import Evaluation
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
N_QM = 12
INNER, OUTER = 5.0 * ANGSTROM, 8.0 * ANGSTROM


class NoMM:
    """Leaves the terms that are ours: DFTB in its embedding."""

    def evaluate(self, positions, cells=None):
        zero = np.zeros(len(positions))
        return Evaluation(zero, np.zeros_like(positions), np.zeros((len(positions), 3, 3)), {"mm": zero})

    def interrupt(self):
        pass


class Anion:
    """Charges that do not change, -1 e in all, with a dipole about the origin."""

    device = torch.device("cpu")
    charges = torch.linspace(-0.3, 0.3, N_QM, dtype=torch.float64) - 1.0 / N_QM

    def evaluate(self, positions, potentials):
        return DFTBResult(
            energies=torch.zeros(len(positions), dtype=torch.float64),
            gradients=torch.zeros_like(positions),
            charges=self.charges.expand(len(positions), -1),
            dipoles=self.charges @ positions,
            iterations=torch.ones(len(positions), dtype=torch.int64),
            terms={},
            screening=None,
        )


class Box:
    """Uracil in a small periodic box of q-SPC/Fw water."""

    def __init__(self):
        nonbonded = NonbondedSettings(cutoff=7.0 * ANGSTROM, switch_distance=6.0 * ANGSTROM, ewald_tolerance=1e-6)
        self.topology = load_topology(DATA / "uracil_box.prmtop", DATA / "uracil_box.rst7", nonbonded)
        self.system = System.from_topology(self.topology, np.arange(N_QM))
        self.embedding = CutoffEmbedding(self.system, CutoffSettings(inner=INNER, outer=OUTER))
        self.cell = self.topology.cell
        self.positions = self.topology.positions[self.system.atom_particles]
        self.reference = OpenMMEngine(self.topology, self.system, OpenMMSettings(platform="Reference"))

    def potential(self, mm=None, *, virial=False, **dftb):
        settings = DFTBSettings(**{"scc_tolerance": 1e-12, "warm_start": False} | dftb)
        engine = DFTBEngine(self.system.qm_symbols, 0, settings)
        return Potential(self.system, mm or self.reference, self.embedding, engine, virial=virial)

    def evaluate(self, potential, *frames):
        return potential.evaluate(np.stack([self.cell] * len(frames)), np.stack(frames))

    def water_at(self, closest, farthest):
        """Oxygen index of a water molecule whose distance from the nearest QM atom lies in this range, bohr."""
        qm = self.positions[:N_QM]
        for oxygen in range(N_QM, len(self.positions), 3):
            distance = np.linalg.norm(qm - self.positions[oxygen], axis=1).min()
            if closest < distance < farthest:
                return oxygen
        raise AssertionError("no water there")


@pytest.fixture(scope="module")
def box():
    return Box()


def atoms_of_every_class(box):
    near = box.water_at(0.0, 4.0 * ANGSTROM)
    inside_switch = box.water_at(0.3 * INNER + 0.7 * OUTER - 1.0, 0.3 * INNER + 0.7 * OUTER + 1.0)
    return {
        "QM carbon": 1,
        "QM hydrogen": 10,
        "near MM oxygen": near,
        "near MM hydrogen": near + 1,
        "reference atom in the switch": inside_switch,
        "hydrogen in the switch": inside_switch + 2,
    }


def test_the_classes_of_atoms_are_what_they_say(box):
    atoms = atoms_of_every_class(box)
    frames = box.embedding(*(torch.tensor(x[None]) for x in (box.positions, box.cell)))
    for name, fully in (("near MM oxygen", True), ("reference atom in the switch", False)):
        site = int(np.flatnonzero(box.system.site_atoms == atoms[name])[0])
        weights = frames.mm_charges[frames.mm_sites == site] / box.system.site_charges[site]
        assert bool((weights == 1.0).any()) == fully
        assert fully or bool(((weights > 0.05) & (weights < 0.95)).any())


def test_forces_are_the_derivative_of_the_energy_on_every_class_of_atom(box):
    potential = box.potential()
    forces = box.evaluate(potential, box.positions).forces[0]
    generator = np.random.default_rng(2)
    for name, atom in atoms_of_every_class(box).items():
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        errors = []
        for h in (4e-3, 2e-3, 1e-3, 5e-4):
            shift = np.zeros_like(box.positions)
            shift[atom] = h * direction
            energies = box.evaluate(potential, box.positions + shift, box.positions - shift).energies
            errors.append(abs(-(energies[0] - energies[1]) / (2 * h) - forces[atom] @ direction))
        assert min(errors) < 1e-7, name
        # Central differences: halving h quarters the error.
        for coarse, fine in itertools.pairwise(errors):
            assert coarse / fine == pytest.approx(4.0, rel=0.1), name


def test_strain_derivative_of_our_own_terms(box):
    potential = box.potential(NoMM(), virial=True)
    strain_derivative = box.evaluate(potential, box.positions).strain_derivatives[0]
    numerical = np.zeros((3, 3, 2))
    for k, h in enumerate((2e-4, 1e-4)):
        for a, b in np.ndindex(3, 3):
            energies = []
            for sign in (1.0, -1.0):
                deformation = np.eye(3)
                deformation[a, b] += sign * h
                cell, positions = box.cell @ deformation, box.positions @ deformation
                energies.append(potential.evaluate(cell[None], positions[None]).energies[0])
            numerical[a, b, k] = (energies[0] - energies[1]) / (2 * h)
    errors = np.abs(numerical - strain_derivative[..., None]).max(axis=(0, 1))
    assert errors[1] < 2e-6
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)


def test_strain_derivative_of_the_sum(box):
    mm = OpenMMEngine(box.topology, box.system, OpenMMSettings(platform="Reference", virial=True))
    parts = [box.evaluate(box.potential(engine, virial=True), box.positions) for engine in (mm, NoMM())]
    alone = mm.evaluate(box.positions[None], box.cell[None])
    np.testing.assert_allclose(
        parts[0].strain_derivatives, parts[1].strain_derivatives + alone.strain_derivatives, atol=1e-10
    )


def test_energy_does_not_see_cell_shifts_or_wrapping(box):
    potential = box.potential()
    generator = np.random.default_rng(3)
    expected = box.evaluate(potential, box.positions)
    one = box.positions.copy()
    one[5] += np.array([2, -1, 3]) @ box.cell
    water = box.water_at(0.0, 4.0 * ANGSTROM)
    one[water + 1] -= np.array([0, 4, 1]) @ box.cell
    molecules = box.positions.copy()
    molecules[:N_QM] += np.array([-1, 2, 0]) @ box.cell
    molecules[N_QM:] += np.repeat(generator.integers(-3, 4, (len(molecules[N_QM:]) // 3, 3)), 3, axis=0) @ box.cell
    fractional = box.positions @ np.linalg.inv(box.cell)
    wrapped = (fractional - np.floor(fractional)) @ box.cell
    far = box.positions + generator.integers(-100, 101, box.positions.shape) @ box.cell
    result = box.evaluate(potential, one, molecules, wrapped, far)
    assert np.abs(result.energies - expected.energies).max() < 1e-9
    assert np.abs(result.forces - expected.forces).max() < 1e-9


def test_order_in_the_batch_and_batch_against_single(box):
    potential = box.potential()
    generator = np.random.default_rng(4)
    frames = [box.positions + 0.02 * generator.standard_normal(box.positions.shape) for _ in range(3)]
    batch = box.evaluate(potential, *frames)
    backward = box.evaluate(potential, *frames[::-1])
    assert np.abs(backward.energies[::-1] - batch.energies).max() < 1e-9
    for i, frame in enumerate(frames):
        single = box.evaluate(potential, frame)
        assert abs(single.energies[0] - batch.energies[i]) < 1e-9
        assert np.abs(single.forces[0] - batch.forces[i]).max() < 1e-9


def test_warm_start_does_not_change_energies(box):
    potential = box.potential(warm_start=True, scc_tolerance=1e-8)
    generator = np.random.default_rng(5)
    frames = [box.positions + 0.02 * generator.standard_normal(box.positions.shape) for _ in range(2)]
    first = box.evaluate(potential, *frames)
    again = box.evaluate(potential, *frames)
    assert (again.extras["scc_iterations"] < first.extras["scc_iterations"]).all()
    assert np.abs(again.energies - first.energies).max() < 1e-9


def test_terms_and_extras(box):
    result = box.evaluate(box.potential(), box.positions)
    assert set(result.terms) == {"mm", "dftb"}
    assert sum(result.terms.values()) == pytest.approx(result.energies, abs=1e-12)
    assert result.extras["qm_charges"].shape == (1, N_QM)
    assert result.extras["qm_charges"].sum() == pytest.approx(0.0, abs=1e-9)
    assert result.extras["qm_dipole"].shape == (1, 3)
    assert result.extras["scc_iterations"].shape == (1,)
    assert result.strain_derivatives is None


def test_newtons_third_law(box):
    """Nothing pulls the whole system: also not the embedding's weights."""
    forces = box.evaluate(box.potential(NoMM()), box.positions).forces[0]
    assert np.abs(forces.sum(axis=0)).max() < 1e-10


def test_a_moving_cell_without_virial_is_refused(box):
    potential = box.potential(NoMM())
    potential.warm_up(1.1 * box.cell[None], box.positions[None])
    box.evaluate(potential, box.positions)
    with pytest.raises(FrameError, match="virial = true"):
        potential.evaluate(1.001 * box.cell[None], box.positions[None])
    with_virial = box.potential(NoMM(), virial=True)
    box.evaluate(with_virial, box.positions)
    with_virial.evaluate(1.001 * box.cell[None], box.positions[None])


def test_a_virial_without_that_of_the_mm_term_is_refused(box):
    potential = Potential(box.system, box.reference, box.embedding, Anion(), virial=True)
    with pytest.raises(ConfigError, match="gives no strain derivatives"):
        box.evaluate(potential, box.positions)


def test_non_finite_results_and_inputs_are_errors(box):
    class BrokenMM(NoMM):
        def evaluate(self, positions, cells=None):
            result = super().evaluate(positions, cells)
            return replace(result, energies=result.energies * np.nan)

    with pytest.raises(NonFiniteError, match="frame 0"):
        box.evaluate(box.potential(BrokenMM()), box.positions)
    broken = box.positions.copy()
    broken[100, 1] = np.inf
    with pytest.raises(FrameError):
        box.evaluate(box.potential(NoMM()), broken)
    with pytest.raises(FrameError):
        box.potential(NoMM()).evaluate(np.zeros((1, 3, 3)), box.positions[None])


def test_dipole_of_a_charged_region_is_about_its_centre_of_mass(box):
    """It does not change as the region moves through the box, or is wrapped."""
    potential = Potential(box.system, NoMM(), box.embedding, Anion())
    wrapped = box.positions.copy()
    wrapped[3] += box.cell[0]
    found = box.evaluate(potential, box.positions, box.positions + 30.0, wrapped).extras["qm_dipole"]
    qm, masses = box.positions[:N_QM], box.system.masses[:N_QM]
    expected = Anion.charges.numpy() @ (qm - masses @ qm / masses.sum())
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), atol=1e-10)
