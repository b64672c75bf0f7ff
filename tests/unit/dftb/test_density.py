"""Densities by diagonalisation and by purification, their response, and the Newton step made of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings, retry, scc
from deltaqmmm.dftb.density import Diagonalisation
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.dftb.occupation import fermi, slopes
from deltaqmmm.dftb.purification import Purification, occupied_projector
from deltaqmmm.errors import ParameterError
from deltaqmmm.units import ANGSTROM, KELVIN

DATA = Path(__file__).parents[2] / "data"
REFERENCE = json.loads((DATA / "dftbplus_reference.json").read_text())["cases"]


def posed(monkeypatch, name, settings):
    """The SCC of three distorted frames as the engine poses it, and their converged charges."""
    case = REFERENCE[f"{name}/gas"]
    captured, settings = [], replace(settings, compiled=False)

    def solve(problem, start, *arguments, **options):
        captured.append(problem)
        return scc.solve(problem, start, *arguments, **options)

    monkeypatch.setattr(retry, "solve", solve)
    generator = np.random.default_rng(3)
    n = len(case["symbols"])
    positions = np.array(case["positions_angstrom"]) + 0.03 * generator.standard_normal((3, n, 3))
    potentials = torch.tensor(0.05 * generator.standard_normal((3, n)))
    result = DFTBEngine(case["symbols"], case["charge"], settings).evaluate(
        torch.tensor(positions) * ANGSTROM, potentials
    )
    return captured[0], -result.charges


def numerical_jacobian(function, x, h):
    """d function_a / d x_b of each frame, shape (B, n, n)."""
    columns = []
    for b in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, b] = h
        columns.append((function(x + step) - function(x - step)) / (2.0 * h))
    return torch.stack(columns, dim=2)


@pytest.mark.parametrize("name", ["uracil", "dihydrogen_phosphate"])
@pytest.mark.parametrize("temperature", [0.0, 5000.0])
def test_the_response_is_the_derivative_of_the_charges(monkeypatch, name, temperature):
    settings = DFTBSettings(scc_tolerance=1e-11, electronic_temperature=temperature * KELVIN)
    problem, excess = posed(monkeypatch, name, settings)

    def charges(potential):
        return Diagonalisation.of(replace(problem, potential=potential))(excess).excess

    # The shift that an electron feels is minus the potential.
    numerical = -numerical_jacobian(charges, problem.potential, 1e-5)
    response = Diagonalisation.of(problem)(excess).response()
    assert float(response.abs().max()) > 0.5
    assert float((response - numerical).abs().max()) < 1e-6
    assert float(response.sum(dim=1).abs().max()) < 1e-9, "potentials make no electrons"


def test_the_response_of_degenerate_orbitals_is_finite():
    eigenvalues = torch.tensor([[-1.0, -0.5, -0.5, -0.5 + 1e-9, -0.49]], dtype=torch.float64)
    occupations, _ = fermi(5, eigenvalues, 0.01)
    numerical = (occupations[:, 4] - occupations[:, 1]) / 0.01
    found = slopes(eigenvalues, occupations, 0.01)
    assert bool((found <= 0.0).all())
    assert float(found[0, 4, 1]) == pytest.approx(float(numerical), rel=1e-12)
    filling = 0.5 * occupations[0, 1]
    assert float(found[0, 1, 3]) == pytest.approx(float(-2.0 * filling * (1.0 - filling) / 0.01), rel=1e-6)


@pytest.mark.parametrize("model", ["dftb3", "dftb2"])
def test_the_kernel_is_the_derivative_of_the_shifts(monkeypatch, model):
    problem, excess = posed(monkeypatch, "uracil", DFTBSettings(model=model))
    numerical = numerical_jacobian(problem.shifts, excess, 1e-4)
    assert float((problem.kernel(excess) - numerical).abs().max()) < 1e-9


def test_newton_converges_quadratically_near_the_solution(monkeypatch):
    """From 1e-3 e away, with the exact inverse dielectric matrix: the residual is squared by a step."""
    problem, excess = posed(monkeypatch, "uracil", DFTBSettings(scc_tolerance=1e-12))
    solver = Diagonalisation.of(problem)
    density = solver(excess)
    screening = scc.inverse_dielectric_matrix(density.response(), problem.kernel(excess))
    start = excess + 1e-3 * torch.tensor(np.random.default_rng(0).standard_normal(excess.shape))
    start -= start.mean(dim=1, keepdim=True) - excess.mean(dim=1, keepdim=True)
    residual = solver(start).excess - start
    step = start + (screening @ residual[..., None]).squeeze(-1)
    left = solver(step).excess - step
    assert float(residual.abs().max()) > 1e-3
    assert float(left.abs().max()) < 1e-5


def test_newton_needs_fewer_cycles_than_mixing(monkeypatch):
    problem, excess = posed(monkeypatch, "retinoate", DFTBSettings())
    start = excess + 1e-4 * torch.tensor(np.random.default_rng(0).standard_normal(excess.shape))
    mixed = scc.solve(problem, start, 1e-8, 100, AndersonMixer())
    newton = scc.solve(problem, start, 1e-8, 100, AndersonMixer(), newton=True)
    assert int(mixed.iterations.min()) >= 2 * int(newton.iterations.max())
    assert torch.allclose(mixed.excess, newton.excess, atol=1e-7)


def test_frames_hand_on_a_fresh_screening_when_the_old_one_steered_badly(monkeypatch):
    problem, excess = posed(monkeypatch, "uracil", DFTBSettings(scc_tolerance=1e-10))
    right = scc.solve(problem, excess, 1e-8, 100, AndersonMixer(), newton=True).screening
    wrong = 1.5 * right
    wrong[0] = right[0]
    start = excess + 1e-4 * torch.tensor(np.random.default_rng(0).standard_normal(excess.shape))
    solution = scc.solve(problem, start, 1e-9, 100, AndersonMixer(), newton=True, screening=wrong)
    assert int(solution.iterations[0]) <= scc.REFRESHED_ABOVE < int(solution.iterations[1:].min())
    assert torch.equal(solution.screening[0], right[0])
    assert torch.allclose(solution.screening[1:], right[1:], atol=1e-3)


def test_purification_gives_the_projector_of_the_lowest_orbitals():
    matrices = torch.tensor(np.random.default_rng(5).standard_normal((6, 20, 20)))
    matrices = matrices + matrices.mT
    for n in (1, 7, 19):
        vectors = torch.linalg.eigh(matrices).eigenvectors[..., :n]
        assert torch.allclose(occupied_projector(matrices, n), vectors @ vectors.mT, atol=1e-10)


def test_a_closed_gap_is_not_purified():
    matrices = torch.diag_embed(torch.tensor([[-2.0, -1.0, -1.0, 3.0], [-2.0, -1.0, 1.0, 3.0]], dtype=torch.float64))
    found = occupied_projector(matrices, 2)
    assert bool(torch.isnan(found[0]).all())
    assert torch.allclose(found[1], torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)), atol=1e-12)


def test_purification_equals_diagonalisation(monkeypatch):
    problem, excess = posed(monkeypatch, "dihydrogen_phosphate", DFTBSettings())
    both = [solver.of(problem)(excess) for solver in (Diagonalisation, Purification)]
    assert torch.allclose(both[0].excess, both[1].excess, atol=1e-12)
    for one, other in zip(both[0].matrices(), both[1].matrices(), strict=True):
        assert torch.allclose(one, other, atol=1e-11)
    some = torch.tensor([True, False, True])
    assert torch.allclose(both[1].select(some).response(), both[0].response()[some], atol=1e-10)


def frames(n_frames):
    case = REFERENCE["uracil/gas"]
    generator = np.random.default_rng(2)
    start, velocity = np.array(case["positions_angstrom"]), 0.004 * generator.standard_normal((2, 12, 3))
    potential = torch.tensor(0.03 * generator.standard_normal((2, 12)))
    for step in range(n_frames):
        yield torch.tensor(start + step * velocity) * ANGSTROM, potential * np.cos(0.1 * step)


def test_a_trajectory_by_purification(monkeypatch):
    """Through the engine, warm starts and frames that leave the batch included."""
    calls = []
    original = Purification.__call__
    monkeypatch.setattr(Purification, "__call__", lambda self, excess: calls.append(0) or original(self, excess))
    engines = [
        DFTBEngine(REFERENCE["uracil/gas"]["symbols"], 0, DFTBSettings(scc_tolerance=1e-10, solver=solver))
        for solver in ("diagonalisation", "purification")
    ]
    for positions, potential in frames(4):
        one, other = (engine.evaluate(positions, potential) for engine in engines)
        assert torch.allclose(one.energies, other.energies, atol=1e-12)
        assert torch.allclose(one.gradients, other.gradients, atol=1e-9)
    assert len(calls) >= 6, "three warm frames of at least two cycles"


def test_a_cold_start_makes_orbitals_in_its_first_cycle_only(monkeypatch):
    """Their response is needed there, and a purification before it would be for nothing."""
    calls = []
    original = Purification.__call__
    monkeypatch.setattr(Purification, "__call__", lambda self, excess: calls.append(0) or original(self, excess))
    engine = DFTBEngine(REFERENCE["uracil/gas"]["symbols"], 0, DFTBSettings(warm_start=False, solver="purification"))
    positions, potential = next(frames(1))
    found = engine.evaluate(positions[:1], potential[:1])
    assert len(calls) == int(found.iterations[0]) - 1 > 2
    again = DFTBEngine(engine.symbols, 0, DFTBSettings(warm_start=False)).evaluate(positions[:1], potential[:1])
    assert torch.allclose(found.energies, again.energies, atol=1e-11)


def test_frames_that_cannot_be_purified_are_diagonalised(monkeypatch, caplog):
    engine = DFTBEngine(REFERENCE["uracil/gas"]["symbols"], 0, DFTBSettings(solver="purification"))
    *before, (positions, potential) = frames(3)
    for frame in before:
        engine.evaluate(*frame)
    original = Purification.__call__

    def spoilt(self, excess):
        density = original(self, excess)
        if len(excess) == 2:
            density.excess[0] = torch.nan
        return density

    monkeypatch.setattr(Purification, "__call__", spoilt)
    found = engine.evaluate(positions, potential)
    expected = DFTBEngine(engine.symbols, 0, DFTBSettings()).evaluate(positions, potential)
    assert "1 frame(s) not converged; retrying" in caplog.text
    assert torch.allclose(found.energies, expected.energies, atol=1e-11)
    assert int(found.iterations[0]) > int(found.iterations[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "guessing"}, "solver 'guessing' is unknown: choose one of auto, diagonalisation, purification"),
        ({"solver": "purification", "electronic_temperature": 1e-3}, "whole occupations only"),
    ],
)
def test_solvers_that_are_refused(settings, words):
    with pytest.raises(ParameterError, match=words):
        DFTBSettings(**settings)
