"""The potential with a learned correction: derivatives on every class of atom, invariances, parts, fading, members.

The correction is analytic and rough on purpose: it acts on QM pairs, on QM-MM pairs, and through the effective charges.
"""

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deltaqmmm.committee import CommitteeSettings, Fade
from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.errors import ConfigError, NonFiniteError
from deltaqmmm.mm import OpenMMEngine, OpenMMSettings
from deltaqmmm.potential import Potential
from deltaqmmm.results import Evaluation
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM
from tests.corrections import PairCorrection

N_QM = 12
INNER, OUTER = 5.0 * ANGSTROM, 8.0 * ANGSTROM


def load(data_folder, name, coordinates, n_qm, nonbonded, cutoffs):
    topology = load_topology(
        data_folder / "mm_systems" / name, data_folder / "mm_systems" / coordinates, NonbondedSettings(**nonbonded)
    )
    system = System.from_topology(topology, np.arange(n_qm))
    return SimpleNamespace(
        topology=topology,
        system=system,
        embedding=CutoffEmbedding(system, cutoffs),
        cell=np.eye(3) if topology.cell is None else topology.cell,
        positions=topology.positions[system.atom_particles],
        mm=OpenMMEngine(topology, system, OpenMMSettings(platform="Reference")),
        dftb=DFTBEngine(system.qm_symbols, 0, DFTBSettings(scc_tolerance=1e-12, warm_start=False)),
    )


@pytest.fixture(scope="module")
def box(data_folder, slater_koster_folder):
    """Uracil in a small periodic box of q-SPC/Fw water."""
    nonbonded = {"cutoff": 7.0 * ANGSTROM, "switch_distance": 6.0 * ANGSTROM, "ewald_tolerance": 1e-6}
    return load(data_folder, "uracil_box.prmtop", "uracil_box.rst7", N_QM, nonbonded, CutoffSettings(INNER, OUTER))


@pytest.fixture(scope="module")
def cluster(data_folder, slater_koster_folder):
    """One of twelve water molecules with virtual sites is the QM region; the switch runs through the others."""
    cutoffs = CutoffSettings(2.5 * ANGSTROM, 4.5 * ANGSTROM)
    return load(data_folder, "four_site_water.xml", "four_site_water.pdb", 3, {}, cutoffs)


def evaluate(case, potential, *frames):
    return potential.evaluate(np.stack([case.cell] * len(frames)), np.stack(frames))


def spread_of(case, correction):
    potential = Potential(case.system, None, case.embedding, None, correction)
    return float(evaluate(case, potential, case.positions).extras["committee_energy_spread"][0])


def settings_of(case, name):
    """The committee's mean, or fading half way at the given positions."""
    if name == "mean":
        return CommitteeSettings()
    spread = spread_of(case, PairCorrection())
    return CommitteeSettings(-5.0, True, Fade(0.6 * spread, 1.3 * spread))


def water_at(case, closest, farthest):
    qm = case.positions[:N_QM]
    for oxygen in range(N_QM, len(case.positions), 3):
        if closest < np.linalg.norm(qm - case.positions[oxygen], axis=1).min() < farthest:
            return oxygen
    raise AssertionError("no water there")


def box_atoms(box):
    near = water_at(box, 0.0, 4.0 * ANGSTROM)
    middle = 0.3 * INNER + 0.7 * OUTER
    inside = water_at(box, middle - 1.0, middle + 1.0)
    return {
        "QM carbon": 1,
        "QM hydrogen": 10,
        "near MM oxygen": near,
        "near MM hydrogen": near + 1,
        "reference atom in the switch": inside,
        "hydrogen in the switch": inside + 2,
    }


def differences(case, potential, atoms):
    """Forces against central differences: small, and four times smaller for half the step."""
    forces = evaluate(case, potential, case.positions).forces[0]
    generator = np.random.default_rng(2)
    for name, atom in atoms.items():
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        errors = []
        for h in (4e-3, 2e-3, 1e-3):
            shift = np.zeros_like(case.positions)
            shift[atom] = h * direction
            energies = evaluate(case, potential, case.positions + shift, case.positions - shift).energies
            errors.append(abs(-(energies[0] - energies[1]) / (2 * h) - forces[atom] @ direction))
        assert errors[-1] < 5e-6, (name, errors)
        for coarse, fine in itertools.pairwise(errors):
            assert fine < 1e-9 or coarse / fine == pytest.approx(4.0, rel=0.15), (name, errors)


@pytest.mark.parametrize("name", ["mean", "fading"])
def test_forces_are_the_derivative_of_the_energy_on_every_class_of_atom(box, name):
    settings = settings_of(box, name)
    potential = Potential(box.system, box.mm, box.embedding, box.dftb, PairCorrection(), committee=settings)
    if name == "fading":
        assert 0.1 < evaluate(box, potential, box.positions).extras["correction_scale"][0] < 0.9
    differences(box, potential, box_atoms(box))


@pytest.mark.parametrize("name", ["mean", "fading"])
def test_forces_around_virtual_sites(cluster, name):
    """The correction reaches a virtual site's parents, at full charge and in the switch."""
    system = cluster.system
    assert len(system.virtual_site_sites) == 11
    settings = settings_of(cluster, name)
    potential = Potential(system, None, cluster.embedding, cluster.dftb, PairCorrection(), committee=settings)
    frames = cluster.embedding(torch.tensor(cluster.positions[None]), None)
    full = torch.tensor(system.site_charges)[frames.mm_sites]
    weights = torch.where(full != 0.0, frames.mm_charges / full, 0.0)
    is_virtual = torch.tensor(system.site_atoms)[frames.mm_sites] < 0
    distances = (frames.mm_positions - frames.qm_positions[:, :1]).norm(dim=-1)
    chosen = torch.where(is_virtual & (weights > 0.05) & (weights < 0.95), distances, torch.inf).argmin()
    assert torch.isfinite(distances[0, chosen])
    parents = system.site_parents[list(system.virtual_site_sites).index(int(frames.mm_sites[0, chosen]))]
    atoms = {"QM oxygen": 0, "QM hydrogen": 2}
    atoms |= {f"parent {place} of a virtual site in the switch": atom for place, atom in enumerate(parents)}
    nearest = int(frames.mm_sites[0, distances.argmin()])
    atoms["nearest MM atom"] = int(system.group_references[system.site_groups[nearest]])
    differences(cluster, potential, atoms)


@pytest.mark.parametrize("name", ["mean", "fading"])
def test_strain_derivative(box, name):
    settings = settings_of(box, name)
    potential = Potential(box.system, None, box.embedding, box.dftb, PairCorrection(), committee=settings, virial=True)
    analytic = evaluate(box, potential, box.positions).strain_derivatives[0]
    numerical = np.zeros((3, 3, 2))
    for k, h in enumerate((2e-4, 1e-4)):
        for a, b in np.ndindex(3, 3):
            energies = []
            for sign in (1.0, -1.0):
                deformation = np.eye(3)
                deformation[a, b] += sign * h
                cells, positions = (box.cell @ deformation)[None], (box.positions @ deformation)[None]
                energies.append(potential.evaluate(cells, positions).energies[0])
            numerical[a, b, k] = (energies[0] - energies[1]) / (2 * h)
    errors = np.abs(numerical - analytic[..., None]).max(axis=(0, 1))
    assert errors[1] < 5e-6
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)


def test_invariances_and_newtons_third_law(box):
    potential = Potential(
        box.system, None, box.embedding, box.dftb, PairCorrection(), committee=settings_of(box, "fading")
    )
    expected = evaluate(box, potential, box.positions)
    assert np.abs(expected.forces.sum(axis=1)).max() < 1e-10
    generator = np.random.default_rng(3)
    far = box.positions + generator.integers(-100, 101, box.positions.shape) @ box.cell
    result = evaluate(box, potential, far, box.positions + 3.7)
    for name, values in result.extras.items():
        if name != "scc_iterations":
            np.testing.assert_allclose(values, np.repeat(expected.extras[name], 2, axis=0), atol=1e-9, err_msg=name)
    assert np.abs(result.energies - expected.energies).max() < 1e-9
    assert np.abs(result.forces - expected.forces).max() < 1e-9
    rotation, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    rotated = potential.warm_up((box.cell @ rotation)[None], (box.positions @ rotation)[None])
    assert abs(rotated.energies[0] - expected.energies[0]) < 1e-9
    assert np.abs(rotated.forces[0] - expected.forces[0] @ rotation).max() < 1e-9
    assert rotated.extras["committee_force_spread"] == pytest.approx(expected.extras["committee_force_spread"])


def test_batch_against_single_and_order(box):
    settings = replace(settings_of(box, "fading"), extras=True)
    potential = Potential(box.system, box.mm, box.embedding, box.dftb, PairCorrection(), committee=settings)
    generator = np.random.default_rng(4)
    frames = [box.positions + 0.02 * generator.standard_normal(box.positions.shape) for _ in range(3)]
    batch, backward = evaluate(box, potential, *frames), evaluate(box, potential, *frames[::-1])
    for i, frame in enumerate(frames):
        single = evaluate(box, potential, frame)
        for other, index in ((batch, i), (backward, 2 - i)):
            assert abs(other.energies[index] - single.energies[0]) < 1e-9
            assert np.abs(other.forces[index] - single.forces[0]).max() < 1e-9
            for name, values in single.extras.items():
                if name != "scc_iterations":
                    np.testing.assert_allclose(other.extras[name][index], values[0], atol=1e-9, err_msg=name)


def test_the_sum_of_parts_is_the_whole(box):
    """Every way to serve the terms apart; what is not served is not computed."""
    correction = PairCorrection()
    mm = OpenMMEngine(box.topology, box.system, OpenMMSettings(platform="Reference", virial=True))
    engines = {"mm": mm, "dftb": box.dftb, "correction": correction}

    class Broken:
        n_members = 3

        def evaluate(self, *_):
            raise AssertionError("a term that is not served was computed")

        __call__ = evaluate

    def potential(*terms):
        given = {name: engine if name in terms else None for name, engine in engines.items()}
        embedding = Broken() if terms == ("mm",) else box.embedding
        return Potential(box.system, given["mm"], embedding, given["dftb"], given["correction"], virial=True)

    whole = evaluate(box, potential(*engines), box.positions)
    assert list(whole.terms) == ["mm", "dftb", "correction"]
    np.testing.assert_allclose(sum(whole.terms.values()), whole.energies, atol=1e-12)
    assert list(potential(*engines).terms) == list(engines)
    for parts in (
        [("mm", "dftb"), ("correction",)],
        [("mm",), ("dftb", "correction")],
        [("mm", "correction"), ("dftb",)],
    ):
        results = [evaluate(box, potential(*terms), box.positions) for terms in parts]
        for terms, result in zip(parts, results, strict=True):
            assert tuple(result.terms) == terms
            assert ("qm_charges" in result.extras) == ("dftb" in terms)
            assert ("committee_energy_spread" in result.extras) == ("correction" in terms)
        assert sum(r.energies[0] for r in results) == pytest.approx(whole.energies[0], abs=1e-10)
        np.testing.assert_allclose(sum(r.forces for r in results), whole.forces, atol=1e-10)
        np.testing.assert_allclose(sum(r.strain_derivatives for r in results), whole.strain_derivatives, atol=1e-10)
    alone = potential("correction")
    evaluate(box, alone, box.positions)
    assert set(alone.seconds) == {"embedding", "correction", "total"}
    assert {"mm", "dftb", "correction"} < set(potential_seconds(box, potential(*engines)))


def potential_seconds(box, potential):
    evaluate(box, potential, box.positions)
    return potential.seconds


def test_the_members_average_to_what_is_sent_and_are_potentials_of_their_own(box):
    correction = PairCorrection()
    mm = OpenMMEngine(box.topology, box.system, OpenMMSettings(platform="Reference", virial=True))
    for name in ("mean", "fading"):
        settings = replace(settings_of(box, name), extras=True)
        potential = Potential(box.system, mm, box.embedding, box.dftb, correction, committee=settings, virial=True)
        result = evaluate(box, potential, box.positions)
        extras = result.extras
        np.testing.assert_allclose(extras["committee_pot"].mean(axis=1), result.energies, atol=1e-10)
        np.testing.assert_allclose(extras["committee_force"].mean(axis=1), result.forces, atol=1e-10)
        virial = -result.strain_derivatives.transpose(0, 2, 1)
        np.testing.assert_allclose(extras["committee_virial"].mean(axis=1), virial, atol=1e-10)
    # The last ones fade: against a finite difference of each member's energy.
    plain = evaluate(
        box,
        Potential(box.system, mm, box.embedding, box.dftb, correction, committee=CommitteeSettings(extras=True)),
        box.positions,
    )
    for member in range(3):
        one = PairCorrection()
        one.n_members = 1
        one.by_pair, one.by_charge = (x[member : member + 1] for x in (one.by_pair, one.by_charge))
        alone = evaluate(box, Potential(box.system, mm, box.embedding, box.dftb, one), box.positions)
        assert "committee_energy_spread" not in alone.extras
        assert plain.extras["committee_pot"][0, member] == pytest.approx(alone.energies[0], abs=1e-10)
        np.testing.assert_allclose(plain.extras["committee_force"][0, member], alone.forces[0], atol=1e-10)
        atom, h = 1, 1e-3
        shift = np.zeros_like(box.positions)
        shift[atom, 1] = h
        pair = evaluate(box, potential, box.positions + shift, box.positions - shift).extras["committee_pot"]
        numerical = -(pair[0, member] - pair[1, member]) / (2 * h)
        assert extras["committee_force"][0, member, atom, 1] == pytest.approx(numerical, abs=1e-5)
    assert not plain.extras["committee_virial"].any()


def test_a_strong_disagreement_leads_back_to_the_baseline(box):
    correction = PairCorrection(scale=0.5, offset=-400.0)
    spread = spread_of(box, correction)
    settings = CommitteeSettings(-400.0, True, Fade(0.2 * spread, 0.5 * spread))
    faded = evaluate(
        box, Potential(box.system, None, box.embedding, box.dftb, correction, committee=settings), box.positions
    )
    baseline = evaluate(box, Potential(box.system, None, box.embedding, box.dftb), box.positions)
    assert faded.extras["correction_scale"][0] == 0.0
    assert faded.energies[0] == pytest.approx(baseline.energies[0] - 400.0, abs=1e-10)
    np.testing.assert_allclose(faded.forces, baseline.forces, atol=1e-12)


def test_the_constant_part_can_be_left_out(box):
    results = [
        evaluate(
            box,
            Potential(
                box.system,
                None,
                box.embedding,
                None,
                PairCorrection(offset=offset),
                committee=CommitteeSettings(given, keep),
            ),
            box.positions,
        )
        for offset, given, keep in ((-400.0, -400.0, True), (-400.0, -400.0, False), (0.0, 0.0, True))
    ]
    assert results[0].energies[0] - results[1].energies[0] == pytest.approx(-400.0, abs=1e-10)
    assert results[1].energies[0] == pytest.approx(results[2].energies[0], abs=1e-10)
    np.testing.assert_allclose(results[0].forces, results[1].forces, atol=1e-12)


def test_what_cannot_be_is_refused(box):
    with pytest.raises(ConfigError, match="without terms"):
        Potential(box.system, None, box.embedding, None)
    with pytest.raises(ConfigError, match="two or more"):
        Potential(box.system, None, box.embedding, None, PairCorrection(1), committee=CommitteeSettings(extras=True))

    class NotANumber(PairCorrection):
        def evaluate(self, *arguments):
            result = super().evaluate(*arguments)
            return replace(result, energies=result.energies * np.nan)

    with pytest.raises(NonFiniteError, match="frame 0"):
        evaluate(box, Potential(box.system, None, box.embedding, None, NotANumber()), box.positions)


def test_the_mm_engine_is_waited_for_when_the_correction_fails(box):
    """No evaluation outlives its call."""
    done = []

    class SlowMM:
        def evaluate(self, positions, cells=None):
            time.sleep(0.3)
            done.append(len(positions))
            return Evaluation(np.zeros(len(positions)), np.zeros_like(positions), None, {})

    class Failing(PairCorrection):
        def evaluate(self, *_):
            raise NonFiniteError("no")

    with pytest.raises(NonFiniteError, match="no"):
        evaluate(box, Potential(box.system, SlowMM(), box.embedding, None, Failing()), box.positions)
    assert done == [1]
