"""The DFTB engine by itself: derivatives, invariances, batches, convergence, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from deltaqmmm.dftb import DFTBEngine, DFTBSettings, retry, scc
from deltaqmmm.dftb import engine as engine_module
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.errors import ConvergenceError, FrameError, ParameterError, TopologyError
from deltaqmmm.units import ANGSTROM, KELVIN

DATA = Path(__file__).parents[2] / "data"
REFERENCE = json.loads((DATA / "dftbplus_reference.json").read_text())["cases"]
TIGHT = {"scc_tolerance": 1e-12, "warm_start": False}


def frame(name, seed=0, size=0.05):
    """Elements, charge and slightly distorted positions (n, 3) in bohr of a reference molecule."""
    case = REFERENCE[f"{name}/gas"]
    shift = size * np.random.default_rng(seed).standard_normal((len(case["symbols"]), 3))
    return case["symbols"], case["charge"], torch.tensor(np.array(case["positions_angstrom"]) + shift) * ANGSTROM


def potential(n, seed=1):
    return torch.tensor(0.05 * np.random.default_rng(seed).standard_normal(n))


def numerical_gradient(function, x, h):
    gradient = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[index] = h
        gradient[index] = (function(x + step) - function(x - step)) / (2 * h)
    return gradient


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("water", DFTBSettings(**TIGHT)),
        ("acetate", DFTBSettings(**TIGHT, model="dftb2")),
        ("dihydrogen_phosphate", DFTBSettings(**TIGHT)),
        ("methanethiol", DFTBSettings(**TIGHT, electronic_temperature=3000 * KELVIN)),
        ("chloromethane", DFTBSettings(**TIGHT, dispersion="d3bj")),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_gradient_is_the_derivative_of_the_energy(name, settings, compiled):
    symbols, charge, positions = frame(name)
    settings = replace(settings, compiled=compiled)
    phi = potential(len(symbols))
    engine = DFTBEngine(symbols, charge, settings)
    gradient = engine.evaluate(positions[None], phi[None]).gradients[0]
    errors = []
    for h in (2e-3, 1e-3, 5e-4, 2.5e-4):
        numerical = numerical_gradient(lambda x: engine.evaluate(x[None], phi[None]).energies[0], positions, h)
        errors.append(float((numerical - gradient).abs().max()))
    assert errors[-1] < 1e-7
    # Central differences: halving h quarters the error.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("route", [{}, {"compiled": False}, {"solver": "purification"}])
@pytest.mark.parametrize("name", ["uracil", "acetate"])
def test_gradient_is_the_derivative_of_the_energy_with_warm_starts(name, route):
    """At the tolerance that runs use: charges that are not converged would show in energies and gradients alike."""
    symbols, charge, positions = frame(name)
    phi = potential(len(symbols))
    engine = DFTBEngine(symbols, charge, DFTBSettings(**route))
    velocity = 0.01 * torch.tensor(np.random.default_rng(8).standard_normal(positions.shape))
    for left in range(8, 0, -1):
        engine.evaluate((positions + left * velocity)[None], phi[None])
    result = engine.evaluate(positions[None], phi[None])
    assert int(result.iterations) <= 5
    cold = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT)).evaluate(positions[None], phi[None])
    assert float((result.energies - cold.energies).abs()) < 1e-13
    assert float((result.gradients - cold.gradients).abs().max()) < 2e-8
    assert float((result.charges - cold.charges).abs().max()) < 2e-8
    numerical = numerical_gradient(lambda x: engine.evaluate(x[None], phi[None]).energies[0], positions, 2.5e-4)
    assert float((numerical - result.gradients[0]).abs().max()) < 1e-7


def test_charges_are_the_derivative_with_respect_to_the_potential():
    symbols, charge, positions = frame("uracil")
    phi = potential(len(symbols))
    engine = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT))
    result = engine.evaluate(positions[None], phi[None])
    numerical = numerical_gradient(lambda p: engine.evaluate(positions[None], p[None]).energies[0], phi, 2e-4)
    assert float((numerical - result.charges[0]).abs().max()) < 1e-7


def test_terms_add_up_and_charges_sum_to_the_total_charge():
    symbols, charge, positions = frame("acetate")
    result = DFTBEngine(symbols, charge, DFTBSettings(dispersion="d3bj")).evaluate(
        positions[None], potential(len(symbols))[None]
    )
    assert float(sum(result.terms.values()) - result.energies) == 0.0
    assert float(result.charges.sum()) == pytest.approx(-1.0, abs=1e-10)
    assert torch.allclose(result.dipoles[0], result.charges[0] @ positions)


def test_invariance_under_translation_rotation_and_permutation():
    symbols, charge, positions = frame("dihydrogen_phosphate")
    phi = potential(len(symbols))
    engine = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT))
    result = engine.evaluate(positions[None], phi[None])
    rotation = torch.linalg.qr(torch.tensor(np.random.default_rng(3).standard_normal((3, 3))))[0]
    moved = engine.evaluate((positions @ rotation + 5.0)[None], phi[None])
    assert float((moved.energies - result.energies).abs()) < 1e-11
    assert torch.allclose(moved.gradients, result.gradients @ rotation, atol=1e-10)
    order = np.random.default_rng(4).permutation(len(symbols))
    permuted = DFTBEngine([symbols[i] for i in order], charge, DFTBSettings(**TIGHT)).evaluate(
        positions[order][None], phi[order][None]
    )
    assert float((permuted.energies - result.energies).abs()) < 1e-11
    assert torch.allclose(permuted.gradients, result.gradients[:, order], atol=1e-10)


@pytest.mark.parametrize("compiled", [True, False])
def test_batch_equals_single_frames_in_any_order(compiled):
    symbols, charge, _ = frame("uracil")
    positions = torch.stack([frame("uracil", seed, 0.02 + 0.02 * seed)[2] for seed in range(5)])
    phi = torch.stack([potential(len(symbols), seed) for seed in range(5)])
    engine = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT, compiled=compiled))
    batch = engine.evaluate(positions, phi)
    assert len(set(batch.iterations.tolist())) > 1, "the frames should leave the batch at different cycles"
    backward = engine.evaluate(positions.flip(0), phi.flip(0))
    assert float((backward.energies.flip(0) - batch.energies).abs().max()) < 1e-11
    for i in range(5):
        single = engine.evaluate(positions[i : i + 1], phi[i : i + 1])
        assert float((single.energies - batch.energies[i]).abs()) < 1e-11
        assert torch.allclose(single.gradients[0], batch.gradients[i], atol=1e-10)


def test_warm_start_saves_cycles_and_changes_nothing():
    symbols, charge, positions = frame("uracil")
    phi = potential(len(symbols))
    cold = DFTBEngine(symbols, charge, DFTBSettings(scc_tolerance=1e-10, warm_start=False))
    warm = DFTBEngine(symbols, charge, DFTBSettings(scc_tolerance=1e-10))
    warm.evaluate(positions[None] + 1e-3, phi[None])
    nearby = positions + 1e-3 * torch.tensor(np.random.default_rng(0).standard_normal(positions.shape))
    first, second = cold.evaluate(nearby[None], phi[None]), warm.evaluate(nearby[None], phi[None])
    assert int(second.iterations) < int(first.iterations)
    assert float((first.energies - second.energies).abs()) < 1e-12
    assert torch.allclose(first.gradients, second.gradients, atol=1e-9)


class PlainMixer(AndersonMixer):
    """Takes the output as the next input."""

    def next(self, charges, residual, fraction=None):
        return charges + residual


def test_anderson_converges_where_plain_mixing_oscillates(monkeypatch):
    """Retinoate: with plain mixing the charges of the conjugated chain slosh for ever."""
    symbols, charge, positions = frame("retinoate")
    phi = torch.zeros(1, len(symbols), dtype=torch.float64)
    captured = []

    def solve(problem, start, *arguments, **options):
        captured.append((problem, start))
        return scc.solve(problem, start, *arguments, **options)

    monkeypatch.setattr(retry, "solve", solve)
    result = DFTBEngine(symbols, charge, DFTBSettings(compiled=False)).evaluate(positions[None], phi)
    assert int(result.iterations) < 30
    problem, start = captured[0]
    plain = scc.solve(problem, start, 1e-8, 300, PlainMixer())
    assert not bool(plain.converged)
    assert float(plain.residual) > 1e-3


@pytest.mark.parametrize("max_scc_iterations", [14, 6])
def test_safer_retries_reach_the_same_solution(caplog, max_scc_iterations):
    symbols, charge, positions = frame("dihydrogen_phosphate")
    phi = potential(len(symbols))
    settings = DFTBSettings(scc_tolerance=1e-10, warm_start=False)
    expected = DFTBEngine(symbols, charge, settings).evaluate(positions[None], phi[None])
    short = replace(settings, max_scc_iterations=max_scc_iterations)
    retried = DFTBEngine(symbols, charge, short).evaluate(positions[None], phi[None])
    assert ("retrying" in caplog.text) == (max_scc_iterations < int(expected.iterations))
    assert float((expected.energies - retried.energies).abs()) < 1e-11


def test_unconverged_scc_is_an_error_with_residual_cycles_and_worst_atom():
    symbols, charge, positions = frame("uracil")
    engine = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT, max_scc_iterations=1))
    with pytest.raises(
        ConvergenceError, match=r"residual \d.*cycles.*Worst atom: \d+ \(\w+\), charge [+-]\d"
    ) as caught:
        engine.evaluate(positions[None], potential(len(symbols))[None])
    assert "frame 0" in str(caught.value)


def test_smearing_of_a_small_gap_conserves_electrons():
    stretched = molecule("N2")
    positions = torch.tensor(stretched.positions * 2.0) * ANGSTROM
    settings = DFTBSettings(**TIGHT, electronic_temperature=5000 * KELVIN)
    result = DFTBEngine(["N", "N"], 0, settings).evaluate(positions[None], torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.charges.abs().max()) < 1e-9
    assert float(result.terms["entropy"]) < -1e-4


def test_single_atom():
    positions = torch.zeros(1, 1, 3, dtype=torch.float64)
    result = DFTBEngine(["Zn"], 2, DFTBSettings()).evaluate(positions, torch.zeros(1, 1, dtype=torch.float64))
    assert float(result.charges) == pytest.approx(2.0)
    assert float(result.gradients.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("symbols", "charge", "settings", "error", "words"),
    [
        (["O", "H", "H"], 1, {}, TopologyError, "odd number"),
        (["H", "H"], -4, {}, TopologyError, "do not fit"),
        (["O", "Xe"], 0, {}, ParameterError, "O-Xe.skf"),
        (["O", "H", "H"], 0, {"parameters": "mio-1-1"}, ParameterError, "Hubbard derivative.*element H"),
        (["O", "H", "H"], 0, {"parameter_folder": Path("/nonexistent")}, ParameterError, "/nonexistent"),
        (["C", "P"], 0, {"parameters": "mio-1-1", "model": "dftb2"}, ParameterError, "C-P.skf.*mio-1-1"),
    ],
)
def test_refusals_at_construction(symbols, charge, settings, error, words):
    with pytest.raises(error, match=words):
        DFTBEngine(symbols, charge, DFTBSettings(**settings))


def test_an_unphysical_repulsion_is_warned_of(caplog):
    """3ob-3-1 ships a P-Cl spline whose exponential head grows with distance."""
    DFTBEngine(["P", "Cl"], 0, DFTBSettings())
    assert "P-Cl.skf grows with distance" in caplog.text
    caplog.clear()
    DFTBEngine(["O", "H", "H"], 0, DFTBSettings())
    assert caplog.text == ""


def test_given_hubbard_derivatives_are_used():
    symbols, charge, positions = frame("water")
    phi = torch.zeros(1, 3, dtype=torch.float64)
    one = DFTBEngine(symbols, charge, DFTBSettings()).evaluate(positions[None], phi)
    other = DFTBEngine(symbols, charge, DFTBSettings(hubbard_derivatives={"O": -0.2})).evaluate(positions[None], phi)
    assert abs(float(one.energies - other.energies)) > 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_positions_are_refused(value):
    symbols, charge, positions = frame("water")
    positions[1, 2] = value
    with pytest.raises(FrameError, match="not finite"):
        DFTBEngine(symbols, charge, DFTBSettings()).evaluate(positions[None], torch.zeros(1, 3, dtype=torch.float64))


def test_coinciding_atoms_are_named():
    symbols, charge, positions = frame("water")
    positions[2] = positions[1] + 1e-3
    with pytest.raises(FrameError, match=r"QM atoms .*\(H\).*\(H\).*apart"):
        DFTBEngine(symbols, charge, DFTBSettings()).evaluate(positions[None], torch.zeros(1, 3, dtype=torch.float64))


def test_far_apart_atoms_feel_no_overlap_and_no_repulsion():
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 40.0]]], dtype=torch.float64)
    settings = DFTBSettings(electronic_temperature=300 * KELVIN)
    result = DFTBEngine(["H", "H"], 0, settings).evaluate(positions, torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.terms["repulsion"]) == 0.0
    assert float(result.gradients.abs().max()) < 1e-12


def test_dispersion_is_attractive_and_zero_without_it():
    symbols, charge, positions = frame("benzene")
    phi = torch.zeros(1, len(symbols), dtype=torch.float64)
    terms = DFTBEngine(symbols, charge, DFTBSettings(dispersion="d3bj")).evaluate(positions[None], phi).terms
    assert -0.05 < float(terms["dispersion"]) < -0.005
    assert "dispersion" not in DFTBEngine(symbols, charge, DFTBSettings()).evaluate(positions[None], phi).terms


def test_closest_distance_is_below_any_bond():
    assert 0.5 * ANGSTROM > engine_module.CLOSEST


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [DFTBSettings(**TIGHT), DFTBSettings(**TIGHT, electronic_temperature=1e-2)])
def test_gpu_equals_cpu(settings):
    symbols, charge, _ = frame("dihydrogen_phosphate")
    positions = torch.stack([frame("dihydrogen_phosphate", seed)[2] for seed in range(4)])
    phi = torch.stack([potential(len(symbols), seed) for seed in range(4)])
    results = [DFTBEngine(symbols, charge, settings, device).evaluate(positions, phi) for device in ("cpu", "cuda")]
    assert float((results[0].energies - results[1].energies.cpu()).abs().max()) < 1e-10
    assert torch.allclose(results[0].gradients, results[1].gradients.cpu(), atol=1e-9)
    assert torch.allclose(results[0].charges, results[1].charges.cpu(), atol=1e-9)
