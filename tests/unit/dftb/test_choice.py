"""The choice between diagonalisation and purification."""

import logging
from dataclasses import replace

import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings, choice
from deltaqmmm.dftb.choice import SolverChoice
from deltaqmmm.dftb.density import Diagonalisation
from deltaqmmm.dftb.purification import ChargeCycle, Purification
from tests.tracing import TracingRecorder
from tests.unit.dftb.test_density import REFERENCE, frames, posed

CPU = torch.device("cpu")
AUTO = DFTBSettings(solver="auto", compiled=False)
WAYS = [Diagonalisation, Purification]


@pytest.fixture
def problem(monkeypatch):
    """The SCC of three frames of acetate, and their charges."""
    return posed(monkeypatch, "acetate", DFTBSettings(solver="diagonalisation"))


@pytest.fixture
def times(monkeypatch):
    """Seconds that each way seems to take, and how often they were asked for."""
    seconds = dict.fromkeys(WAYS, 1.0)
    calls = []

    def seconds_of(solver, excess, device):
        calls.append((type(solver), device))
        return seconds[type(solver)] * (100.0 if len(calls) <= 2 else 1.0)

    monkeypatch.setattr(choice, "seconds_of", seconds_of)
    return seconds, calls


@pytest.mark.parametrize("faster", WAYS)
def test_the_faster_way_is_taken_and_said_in_one_line(problem, times, caplog, faster):
    caplog.set_level(logging.INFO)
    seconds, calls = times
    seconds[faster] = 0.25
    assert isinstance(SolverChoice(AUTO, CPU)(*problem), faster)
    assert calls == [(way, CPU) for way in WAYS] * choice.REPEATS
    taken = faster.__name__.lower()
    by = {way: f"{1e3 * seconds[way]:.3f} ms by {way.__name__.lower()}" for way in WAYS}
    assert len(caplog.messages) == 1
    assert f"up to 4 frame(s) of 7 atoms, 19 orbitals, on cpu: {taken}, as" in caplog.text
    assert all(words in caplog.text for words in by.values())


def test_it_is_measured_once_for_each_power_of_two(problem, times):
    posed_problem, excess = problem
    seconds, calls = times
    seconds[Purification] = 0.5
    solver_of = SolverChoice(AUTO, CPU)
    for indices in ([0, 1, 2], [0, 1, 2, 0], [0, 1, 2]):
        assert isinstance(solver_of(posed_problem.select(torch.tensor(indices)), excess[indices]), Purification)
    assert len(calls) == 2 * choice.REPEATS
    seconds[Purification] = 2.0
    two = torch.tensor([0, 1])
    assert isinstance(solver_of(posed_problem.select(two), excess[two]), Diagonalisation)
    assert isinstance(solver_of(*problem), Purification), "each size keeps its own"
    assert len(calls) == 4 * choice.REPEATS


@pytest.mark.parametrize(("error", "tolerance"), [(torch.nan, 1e-8), (1e-7, 1e-5), (1e-9, 1e-10)])
def test_a_wrong_purification_never_wins(problem, times, monkeypatch, caplog, error, tolerance):
    caplog.set_level(logging.INFO)
    seconds, calls = times
    seconds[Purification] = 1e-6
    original = ChargeCycle.__call__

    def spoilt(self, *inputs):
        excess, *others = original(self, *inputs)
        excess[1, 0] += error
        return excess, *others

    monkeypatch.setattr(ChargeCycle, "__call__", spoilt)
    assert isinstance(SolverChoice(replace(AUTO, scc_tolerance=tolerance), CPU)(*problem), Diagonalisation)
    assert calls == []
    assert "diagonalisation, as purification differs by" in caplog.text


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (replace(AUTO, electronic_temperature=1e-3), Diagonalisation),
        (replace(AUTO, solver="diagonalisation"), Diagonalisation),
        (replace(AUTO, solver="purification"), Purification),
    ],
)
def test_nothing_is_measured_where_there_is_no_choice(problem, times, settings, kind):
    _, calls = times
    assert isinstance(SolverChoice(settings, CPU)(*problem), kind)
    assert calls == []


def test_times_are_measured(problem, caplog):
    """With the clock itself, and with recorded cycles: they are recorded before anything is timed."""
    caplog.set_level(logging.INFO)
    recorder = TracingRecorder()
    assert isinstance(SolverChoice(AUTO, CPU, recorder)(*problem), tuple(WAYS))
    assert "ms by purification" in caplog.text
    assert recorder.sizes == [3]
    assert recorder.replays == 1 + choice.REPEATS


def test_auto_is_the_default_of_what_torch_computes():
    symbols = REFERENCE["uracil/gas"]["symbols"]
    assert DFTBEngine(symbols, 0, DFTBSettings(compiled=False))._choice._solver == "auto"
    compiled = DFTBEngine(symbols, 0, DFTBSettings())
    assert compiled.compiled
    assert compiled._choice._solver == "diagonalisation", "what the loops fail at is not measured"


@pytest.mark.parametrize("faster", WAYS)
def test_results_do_not_depend_on_the_choice(times, monkeypatch, faster):
    seconds, calls = times
    seconds[faster] = 0.25
    used = []
    original = Purification.__call__
    monkeypatch.setattr(Purification, "__call__", lambda self, excess: used.append(0) or original(self, excess))
    settings = replace(AUTO, scc_tolerance=1e-10)
    symbols = REFERENCE["uracil/gas"]["symbols"]
    engine = DFTBEngine(symbols, 0, settings)
    expected = DFTBEngine(symbols, 0, replace(settings, solver="diagonalisation"))
    for positions, potential in frames(4):
        one, other = (kind.evaluate(positions, potential) for kind in (engine, expected))
        assert torch.allclose(one.energies, other.energies, atol=1e-12)
        assert torch.allclose(one.gradients, other.gradients, atol=1e-9)
    assert len(calls) == 2 * choice.REPEATS, "both frames of the batch, at its first evaluation"
    assert (len(used) > 6) == (faster is Purification)


def test_purification_is_given_up_where_a_gap_closes(times, monkeypatch, caplog):
    seconds, _ = times
    seconds[Purification] = 0.5
    engine = DFTBEngine(REFERENCE["uracil/gas"]["symbols"], 0, AUTO)
    expected = DFTBEngine(engine.symbols, 0, replace(AUTO, solver="diagonalisation"))
    *before, (positions, potential) = frames(3)
    for given in before:
        engine.evaluate(*given)
    original = ChargeCycle.__call__
    calls = []

    def spoilt(self, *inputs):
        calls.append(0)
        excess, *others = original(self, *inputs)
        excess[0] = torch.nan
        return excess, *others

    monkeypatch.setattr(ChargeCycle, "__call__", spoilt)
    for _ in range(2):
        assert torch.allclose(
            engine.evaluate(positions, potential).energies,
            expected.evaluate(positions, potential).energies,
            atol=1e-11,
        )
    assert caplog.text.count("diagonalisation from now on") == 1
    made = len(calls)
    engine.evaluate(positions, potential)
    assert len(calls) == made > 0


@pytest.mark.gpu
def test_both_ways_are_measured_on_a_gpu(caplog):
    caplog.set_level(logging.INFO)
    symbols = REFERENCE["uracil/gas"]["symbols"]
    engine = DFTBEngine(symbols, 0, DFTBSettings(scc_tolerance=1e-10), "cuda")
    expected = DFTBEngine(symbols, 0, DFTBSettings(scc_tolerance=1e-10))
    for positions, potential in frames(4):
        one, other = (kind.evaluate(positions, potential) for kind in (engine, expected))
        assert torch.allclose(one.energies.cpu(), other.energies, atol=1e-11)
        assert torch.allclose(one.gradients.cpu(), other.gradients, atol=1e-9)
    assert caplog.text.count("ms by diagonalisation") == 1
    assert "could not be recorded" not in caplog.text
