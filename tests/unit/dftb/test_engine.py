"""The DFTB engine by itself: derivatives, invariances, batches, convergence, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings, retry, scc
from deltaqmmm.dftb.checks import CLOSEST
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.errors import ConvergenceError
from deltaqmmm.units import ANGSTROM

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


def test_unconverged_scc_is_an_error_with_residual_cycles_and_worst_atom():
    symbols, charge, positions = frame("uracil")
    engine = DFTBEngine(symbols, charge, DFTBSettings(**TIGHT, max_scc_iterations=1))
    with pytest.raises(
        ConvergenceError, match=r"residual \d.*cycles.*Worst atom: \d+ \(\w+\), charge [+-]\d"
    ) as caught:
        engine.evaluate(positions[None], potential(len(symbols))[None])
    assert "frame 0" in str(caught.value)


def test_single_atom():
    positions = torch.zeros(1, 1, 3, dtype=torch.float64)
    result = DFTBEngine(["Zn"], 2, DFTBSettings()).evaluate(positions, torch.zeros(1, 1, dtype=torch.float64))
    assert float(result.charges) == pytest.approx(2.0)
    assert float(result.gradients.abs().max()) == 0.0


def test_closest_distance_is_below_any_bond():
    assert 0.5 * ANGSTROM > CLOSEST


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        DFTBSettings(**TIGHT),
        DFTBSettings(**TIGHT, solver="diagonalisation"),
        DFTBSettings(**TIGHT, solver="purification"),
        DFTBSettings(**TIGHT, electronic_temperature=1e-2),
    ],
)
def test_gpu_equals_cpu(settings):
    symbols, charge, _ = frame("dihydrogen_phosphate")
    positions = torch.stack([frame("dihydrogen_phosphate", seed)[2] for seed in range(4)])
    phi = torch.stack([potential(len(symbols), seed) for seed in range(4)])
    results = [DFTBEngine(symbols, charge, settings, device).evaluate(positions, phi) for device in ("cpu", "cuda")]
    assert float((results[0].energies - results[1].energies.cpu()).abs().max()) < 1e-10
    assert torch.allclose(results[0].gradients, results[1].gradients.cpu(), atol=1e-9)
    assert torch.allclose(results[0].charges, results[1].charges.cpu(), atol=1e-9)
