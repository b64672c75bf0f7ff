"""DFTB+ itself: batches over workers, what fails, and memory."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBSettings
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine, DFTBPlusSettings
from deltaqmmm.dftb.dftbplus.hsd import Variation, write_input
from deltaqmmm.dftb.dftbplus.pool import NOT_COMPUTED
from deltaqmmm.dftb.dftbplus.process import Answer, Death, Worker
from deltaqmmm.dftb.dftbplus.retry import SaferSetups
from deltaqmmm.dftb.parameters import load_parameters
from deltaqmmm.dftb.retry import ANNEALING
from deltaqmmm.errors import ConvergenceError, ExternalToolError, FrameError, ParameterError
from tests.processes import ended
from tests.unit.dftb.test_engine import frame, potential

SETTINGS = DFTBSettings(scc_tolerance=1e-10)


def batch(name, count):
    symbols, charge, _ = frame(name)
    positions = torch.stack([frame(name, seed, 0.03)[2] for seed in range(count)])
    return symbols, charge, positions, torch.stack([potential(len(symbols), seed) for seed in range(count)])


def test_workers_share_a_batch(make_engine):
    symbols, charge, positions, phi = batch("uracil", 5)
    engine = make_engine("dftb+", symbols, charge, SETTINGS, workers=3)
    assert len(engine.processes) == 1
    result = engine.evaluate(positions, phi)
    assert len(set(engine.processes)) == 3
    one_by_one = make_engine("dftb+", symbols, charge, SETTINGS)
    for i in range(5):
        alone = one_by_one.evaluate(positions[i : i + 1], phi[i : i + 1])
        assert float((alone.energies - result.energies[i]).abs()) < 1e-11
        assert torch.allclose(alone.gradients[0], result.gradients[i], atol=1e-8)
    pids = engine.processes
    engine.close()
    assert ended(pids)


def test_the_batch_is_completed_where_a_worker_is_killed(make_engine):
    symbols, charge, positions, phi = batch("uracil", 4)
    engine = make_engine("dftb+", symbols, charge, SETTINGS, workers=2)
    expected = engine.evaluate(positions, phi)
    killed = engine.processes[1]
    os.kill(killed, signal.SIGKILL)
    result = engine.evaluate(positions, phi)
    assert torch.allclose(result.energies, expected.energies, rtol=0.0, atol=1e-11)
    assert killed not in engine.processes


def test_a_frame_whose_scc_fails_is_rescued_and_cycles_add_up(make_engine, caplog):
    """Too few cycles for the first attempt; the other frame, which starts next to its solution, needs no rescue."""
    symbols, charge, positions, phi = batch("acetate", 1)
    expected = make_engine("dftb+", symbols, charge, SETTINGS).evaluate(positions, phi)
    needed = int(expected.iterations)
    short = DFTBSettings(scc_tolerance=1e-10, max_scc_iterations=needed - 4)
    engine = make_engine("dftb+", symbols, charge, short)
    result = engine.evaluate(positions, phi)
    assert "SCC is NOT converged" in caplog.text
    assert "retrying with careful mixing" in caplog.text
    assert int(result.iterations) > needed
    assert float((result.energies - expected.energies).abs()) < 1e-11
    assert torch.allclose(result.gradients, expected.gradients, atol=1e-8)


def test_annealing_alone_reaches_the_same_solution(make_engine, monkeypatch):
    symbols, charge, positions, phi = batch("acetate", 1)
    expected = make_engine("dftb+", symbols, charge, SETTINGS).evaluate(positions, phi)
    ladder = SaferSetups._ladder
    monkeypatch.setattr(SaferSetups, "_ladder", lambda self: ladder(self)[1:])
    engine = make_engine("dftb+", symbols, charge, DFTBSettings(scc_tolerance=1e-10, max_scc_iterations=2))
    result = engine.evaluate(positions, phi)
    assert float((result.energies - expected.energies).abs()) < 1e-11
    assert torch.allclose(result.charges, expected.charges, atol=1e-8)


def test_after_a_failure_the_next_frame_is_computed(make_engine, monkeypatch):
    symbols, charge, positions, phi = batch("water", 2)
    expected = make_engine("dftb+", symbols, charge, SETTINGS).evaluate(positions, phi)
    short = DFTBSettings(scc_tolerance=1e-10, max_scc_iterations=int(expected.iterations.min()) - 4)
    engine = make_engine("dftb+", symbols, charge, short)
    before = engine.processes
    with monkeypatch.context() as patched:
        patched.setattr(SaferSetups, "_ladder", lambda self: [])
        with pytest.raises(ConvergenceError, match=r"frame 0 of the batch did not converge in DFTB\+.*SCC is NOT"):
            engine.evaluate(positions, phi)
    assert ended(before)
    assert torch.allclose(engine.evaluate(positions, phi).energies, expected.energies, rtol=0.0, atol=1e-11)


def test_variations_stand_in_the_input(slater_koster_folder):
    symbols, charge, _ = frame("acetate")
    parameters = load_parameters(symbols, SETTINGS)
    start = np.linspace(-0.5, 0.5, len(symbols))
    plain = write_input(symbols, charge, parameters, SETTINGS, Variation(7, 0.0))
    varied = write_input(symbols, charge, parameters, SETTINGS, Variation(7, 0.02, "Anderson {}", "QR {}", start))
    for words in ("MaxSCCIterations = 7", "ThirdOrderFull = Yes", "Charge = -1", "ConvergentSCCOnly"):
        assert (words in plain) == (words != "ConvergentSCCOnly")
    for words in ("Mixer = Anderson {}", "Solver = QR {}", "AllAtomCharges", "Temperature [Hartree] = 0.02"):
        assert words not in plain
        assert any(word.strip().startswith(words.split()[0]) for word in varied.replace("{", "{\n").splitlines())
    dftb2 = write_input(symbols, charge, parameters, DFTBSettings(model="dftb2"), Variation(7, 0.0))
    assert "ThirdOrder" not in dftb2
    assert "HCorrection" not in dftb2


def test_single_precision_is_taken_as_double(make_engine):
    symbols, charge, positions, phi = batch("water", 1)
    engine = make_engine("dftb+", symbols, charge, DFTBSettings(scc_tolerance=1e-10, dispersion="d3bj"))
    positions, phi = positions.float(), phi.float()
    result, expected = engine.evaluate(positions, phi), engine.evaluate(positions.double(), phi.double())
    assert result.energies.dtype == result.dipoles.dtype == result.gradients.dtype == torch.float64
    assert torch.allclose(result.energies, expected.energies, rtol=0.0, atol=1e-11)
    assert torch.allclose(result.dipoles, expected.dipoles, rtol=0.0, atol=1e-9)


def test_a_batch_without_frames_is_refused(make_engine):
    symbols, charge, positions, phi = batch("water", 1)
    engine = make_engine("dftb+", symbols, charge, SETTINGS)
    with pytest.raises(FrameError, match="a batch without frames"):
        engine.evaluate(positions[:0], phi[:0])


def test_the_frame_that_failed_twice_is_told(make_engine, monkeypatch):
    """Not one before it that was left when it was given up."""
    symbols, charge, positions, phi = batch("water", 3)
    engine = make_engine("dftb+", symbols, charge, SETTINGS)
    outcomes = [NOT_COMPUTED, Death("SCC", by_dftbplus=True), Death("gone", by_dftbplus=False)]
    monkeypatch.setattr(engine._pool, "compute", lambda *_: outcomes)
    with pytest.raises(ExternalToolError, match="failed twice on frame 2 of the batch: gone"):
        engine.evaluate(positions, phi)


def test_a_crash_in_a_safer_setup_is_told_as_such():
    """And not as an SCC that does not converge."""
    engine = object.__new__(DFTBPlusEngine)
    engine._pool = SimpleNamespace(compute=lambda *_: [Death("SCC", by_dftbplus=True)])
    engine._safer = SimpleNamespace(solve=lambda *_: Death("gone", by_dftbplus=False))
    with pytest.raises(ExternalToolError, match="failed twice on frame 0 of the batch: gone"):
        engine._answers(np.zeros((1, 3, 3)), np.zeros((1, 3)))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"threads": 0}, {"timeout": 0.0}])
def test_numbers_that_nothing_can_be_run_with(wrong):
    with pytest.raises(ParameterError):
        DFTBPlusSettings(**wrong)


@pytest.mark.slow
def test_memory_is_flat(make_engine, monkeypatch):
    """2,000 evaluations of retinoate in one process: it has what it needs after the first ten."""
    held = []
    receive = Worker.receive

    def watched(self):
        answer = receive(self)
        held.append(answer.memory)
        return answer

    monkeypatch.setattr(Worker, "receive", watched)
    symbols, charge, positions, phi = batch("retinoate", 1)
    engine = make_engine("dftb+", symbols, charge, DFTBSettings())
    pids = engine.processes
    moves = 1e-2 * torch.tensor(np.random.default_rng(2).standard_normal((20, *positions.shape)))
    for step in range(2000):
        engine.evaluate(positions + moves[step % 20], phi)
    assert engine.processes == pids
    assert held[-1] - held[9] < 4 << 20


def test_the_ladder_of_safer_setups(monkeypatch):
    """Careful mixing; then hot electrons that cool down, each from the charges before; the cycles of all add up."""
    seen = []

    def attempt(self, variation, positions, charges):
        seen.append(variation)
        if variation.temperature == 0.0 and variation.start is None:
            return Death("no", by_dftbplus=True, cycles=5, residual=0.1)
        return Answer(-1.0, np.zeros((2, 3)), np.full(2, float(len(seen))), cycles=7, memory=0)

    monkeypatch.setattr(SaferSetups, "_attempt", attempt)
    safer = SaferSetups(lambda variation: None, Variation(100, 0.0), 1.0)
    found = safer.solve(0, np.zeros((2, 3)), np.zeros(2), Death("first", by_dftbplus=True, cycles=100))
    assert [variation.temperature for variation in seen] == [0.0, *ANNEALING, 0.0]
    assert {variation.iterations for variation in seen} == {300}
    assert all("Anderson" in variation.mixer for variation in seen)
    assert [None if variation.start is None else variation.start[0] for variation in seen] == [
        None,
        None,
        2.0,
        3.0,
        4.0,
    ]
    assert found.cycles == 100 + 5 + 4 * 7
    assert found.charges[0] == 5.0


def test_parameters_in_a_folder_with_a_long_path(make_engine, slater_koster_folder, tmp_path):
    """DFTB+ reads file names into texts of a fixed length."""
    folder = tmp_path / ("a" * 100) / ("b" * 100) / ("c" * 100)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(slater_koster_folder)
    symbols, charge, positions, phi = batch("water", 1)
    engine = make_engine("dftb+", symbols, charge, DFTBSettings(parameter_folder=folder))
    assert np.isfinite(float(engine.evaluate(positions, phi).energies))
