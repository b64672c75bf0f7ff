"""Every rung of the SCC's ladder of retries, by itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings, retry, scc
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.units import ANGSTROM

DATA = Path(__file__).parents[2] / "data"
CASE = json.loads((DATA / "dftbplus_reference.json").read_text())["cases"]["acetate/gas"]


@pytest.fixture
def problem(monkeypatch):
    """The SCC of two frames of acetate, as the engine poses it, and its solution."""
    captured = []

    def solve(problem, start, *arguments, **options):
        captured.append((problem, start))
        return scc.solve(problem, start, *arguments, **options)

    monkeypatch.setattr(retry, "solve", solve)
    positions = torch.tensor(np.array(CASE["positions_angstrom"])) * ANGSTROM
    frames = torch.stack([positions, 1.02 * positions])
    settings = DFTBSettings(scc_tolerance=1e-10, compiled=False)
    result = DFTBEngine(CASE["symbols"], -1, settings).evaluate(frames, torch.zeros(2, 7, dtype=torch.float64))
    posed, start = captured[0]
    return posed, start, settings, result


@pytest.mark.parametrize("rung", ["_careful", "_annealed"])
def test_each_retry_reaches_the_same_charges(problem, rung):
    posed, start, settings, result = problem
    solution = getattr(retry, rung)(posed, torch.zeros_like(start), settings)
    assert bool(solution.converged.all())
    assert torch.allclose(-solution.excess, result.charges, atol=1e-8)


def test_only_failed_frames_are_retried_and_their_cycles_add_up(problem, monkeypatch):
    """The first attempt is made to fail for the second frame alone."""
    posed, start, settings, result = problem
    attempts = []

    def failing(problem, begin, *arguments, **options):
        solution = scc.solve(problem, begin, *arguments, **options)
        attempts.append(len(begin))
        if len(attempts) == 1:
            solution.converged[1] = False
            solution.excess[1] = 7.0
        return solution

    monkeypatch.setattr(retry, "solve", failing)
    solution = retry.self_consistent(posed, start, settings, CASE["symbols"])
    assert attempts == [2, 1]
    assert torch.allclose(-solution.excess, result.charges, atol=1e-8)
    assert int(solution.iterations[1]) > int(solution.iterations[0])


def test_several_failed_frames_return_to_their_own_places(problem, monkeypatch):
    posed, start, settings, result = problem
    first = []

    def failing(problem, begin, *arguments, **options):
        solution = scc.solve(problem, begin, *arguments, **options)
        if not first:
            first.append(True)
            solution.converged[:] = False
            solution.excess[:] = 7.0
        return solution

    monkeypatch.setattr(retry, "solve", failing)
    solution = retry.self_consistent(posed, start, settings, CASE["symbols"])
    assert float((result.charges[0] - result.charges[1]).abs().max()) > 1e-3, "the frames should differ"
    assert torch.allclose(-solution.excess, result.charges, atol=1e-8)


def test_the_mixer_forgets_frames_that_left():
    mixer = AndersonMixer()
    generator = np.random.default_rng(0)
    charges, residuals = (torch.tensor(generator.standard_normal((2, 3, 4))) for _ in range(2))
    mixer.next(charges[0], residuals[0])
    mixer.keep(torch.tensor([False, True, True]))
    both = mixer.next(charges[1][1:], residuals[1][1:])
    alone = AndersonMixer()
    alone.next(charges[0][2:], residuals[0][2:])
    assert torch.allclose(alone.next(charges[1][2:], residuals[1][2:]), both[1:])
