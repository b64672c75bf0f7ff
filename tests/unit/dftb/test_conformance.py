"""What every engine of the QM region must do: ours, compiled and by torch, and DFTB+.

A test takes `make`, which makes an engine of the kind that it is run with.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from deltaqmmm.dftb import DFTBSettings
from deltaqmmm.errors import ConvergenceError, FrameError, ParameterError, TopologyError
from deltaqmmm.units import ANGSTROM, KELVIN
from tests.engines import KINDS
from tests.unit.dftb.test_engine import TIGHT, frame, numerical_gradient, potential


@pytest.fixture(params=KINDS)
def make(request, make_engine):
    """make(symbols, charge, settings)."""

    def of_kind(symbols, charge, settings):
        return make_engine(request.param, symbols, charge, settings)

    of_kind.kind = request.param
    return of_kind


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
def test_gradient_is_the_derivative_of_the_energy(make, name, settings):
    if make.kind == "replayed" and name != "water":
        pytest.skip("traces of recorded cycles are slow: water stands for all")
    symbols, charge, positions = frame(name)
    phi = potential(len(symbols))
    engine = make(symbols, charge, settings)
    gradient = engine.evaluate(positions[None], phi[None]).gradients[0]
    errors = []
    for h in (2e-3, 1e-3, 5e-4, 2.5e-4):
        numerical = numerical_gradient(lambda x: engine.evaluate(x[None], phi[None]).energies[0], positions, h)
        errors.append(float((numerical - gradient).abs().max()))
    assert errors[-1] < 1e-7
    # Central differences: halving h quarters the error.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)


def test_charges_are_the_derivative_with_respect_to_the_potential(make):
    symbols, charge, positions = frame("uracil")
    phi = potential(len(symbols))
    engine = make(symbols, charge, DFTBSettings(**TIGHT))
    result = engine.evaluate(positions[None], phi[None])
    numerical = numerical_gradient(lambda p: engine.evaluate(positions[None], p[None]).energies[0], phi, 2e-4)
    assert float((numerical - result.charges[0]).abs().max()) < 1e-7


def test_terms_add_up_and_charges_sum_to_the_total_charge(make):
    symbols, charge, positions = frame("acetate")
    result = make(symbols, charge, DFTBSettings(dispersion="d3bj")).evaluate(
        positions[None], potential(len(symbols))[None]
    )
    assert float(sum(result.terms.values()) - result.energies) == 0.0
    assert float(result.charges.sum()) == pytest.approx(-1.0, abs=1e-10)
    assert torch.allclose(result.dipoles[0], result.charges[0] @ positions)


def test_invariance_under_translation_rotation_and_permutation(make):
    symbols, charge, positions = frame("dihydrogen_phosphate")
    phi = potential(len(symbols))
    engine = make(symbols, charge, DFTBSettings(**TIGHT))
    result = engine.evaluate(positions[None], phi[None])
    rotation = torch.linalg.qr(torch.tensor(np.random.default_rng(3).standard_normal((3, 3))))[0]
    moved = engine.evaluate((positions @ rotation + 5.0)[None], phi[None])
    assert float((moved.energies - result.energies).abs()) < 1e-11
    assert torch.allclose(moved.gradients, result.gradients @ rotation, atol=1e-10)
    order = np.random.default_rng(4).permutation(len(symbols))
    permuted = make([symbols[i] for i in order], charge, DFTBSettings(**TIGHT)).evaluate(
        positions[order][None], phi[order][None]
    )
    assert float((permuted.energies - result.energies).abs()) < 1e-11
    assert torch.allclose(permuted.gradients, result.gradients[:, order], atol=1e-10)


def test_batch_equals_single_frames_in_any_order(make):
    symbols, charge, _ = frame("uracil")
    positions = torch.stack([frame("uracil", seed, 0.02 + 0.02 * seed)[2] for seed in range(5)])
    phi = torch.stack([potential(len(symbols), seed) for seed in range(5)])
    engine = make(symbols, charge, DFTBSettings(**TIGHT))
    batch = engine.evaluate(positions, phi)
    assert len(set(batch.iterations.tolist())) > 1, "the frames should leave the batch at different cycles"
    backward = engine.evaluate(positions.flip(0), phi.flip(0))
    assert float((backward.energies.flip(0) - batch.energies).abs().max()) < 1e-11
    for i in range(5):
        single = engine.evaluate(positions[i : i + 1], phi[i : i + 1])
        assert float((single.energies - batch.energies[i]).abs()) < 1e-11
        assert torch.allclose(single.gradients[0], batch.gradients[i], atol=1e-10)


@pytest.mark.parametrize("max_scc_iterations", [14, 6])
def test_safer_retries_reach_the_same_solution(make, caplog, max_scc_iterations):
    symbols, charge, positions = frame("dihydrogen_phosphate")
    phi = potential(len(symbols))
    settings = DFTBSettings(scc_tolerance=1e-10, warm_start=False)
    expected = make(symbols, charge, settings).evaluate(positions[None], phi[None])
    short = replace(settings, max_scc_iterations=max_scc_iterations)
    retried = make(symbols, charge, short).evaluate(positions[None], phi[None])
    assert ("retrying" in caplog.text) == (max_scc_iterations < int(expected.iterations))
    assert float((expected.energies - retried.energies).abs()) < 1e-11


def test_unconverged_scc_is_an_error_with_frame_residual_and_cycles(make):
    """No sum of products of charges is as exact as this tolerance."""
    symbols, charge, positions = frame("water")
    engine = make(symbols, charge, DFTBSettings(scc_tolerance=1e-30, max_scc_iterations=5))
    phi = potential(len(symbols))
    with pytest.raises(ConvergenceError, match=r"SCC of frame 0 of the batch did not converge.*residual \d.*cycles"):
        engine.evaluate(positions[None], phi[None])


def test_smearing_of_a_small_gap_conserves_electrons(make):
    stretched = molecule("N2")
    positions = torch.tensor(stretched.positions * 2.0) * ANGSTROM
    settings = DFTBSettings(**TIGHT, electronic_temperature=5000 * KELVIN)
    result = make(["N", "N"], 0, settings).evaluate(positions[None], torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.charges.abs().max()) < 1e-9
    cold = make(["N", "N"], 0, DFTBSettings(**TIGHT)).evaluate(positions[None], torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.energies - cold.energies) < -1e-4, "the entropy should lower the free energy"


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
def test_refusals_at_construction(make, symbols, charge, settings, error, words):
    with pytest.raises(error, match=words):
        make(symbols, charge, DFTBSettings(**settings))


def test_an_unphysical_repulsion_is_warned_of(make, caplog):
    """3ob-3-1 ships a P-Cl spline whose exponential head grows with distance."""
    make(["P", "Cl"], 0, DFTBSettings())
    assert "P-Cl.skf grows with distance" in caplog.text
    caplog.clear()
    make(["O", "H", "H"], 0, DFTBSettings())
    assert caplog.text == ""


def test_given_hubbard_derivatives_are_used(make):
    symbols, charge, positions = frame("water")
    phi = torch.zeros(1, 3, dtype=torch.float64)
    one = make(symbols, charge, DFTBSettings()).evaluate(positions[None], phi)
    other = make(symbols, charge, DFTBSettings(hubbard_derivatives={"O": -0.2})).evaluate(positions[None], phi)
    assert abs(float(one.energies - other.energies)) > 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_positions_are_refused(make, value):
    symbols, charge, positions = frame("water")
    positions[1, 2] = value
    with pytest.raises(FrameError, match="not finite"):
        make(symbols, charge, DFTBSettings()).evaluate(positions[None], torch.zeros(1, 3, dtype=torch.float64))


def test_coinciding_atoms_are_named(make):
    symbols, charge, positions = frame("water")
    positions[2] = positions[1] + 1e-3
    with pytest.raises(FrameError, match=r"QM atoms .*\(H\).*\(H\).*apart"):
        make(symbols, charge, DFTBSettings()).evaluate(positions[None], torch.zeros(1, 3, dtype=torch.float64))


def test_far_apart_atoms_feel_no_overlap_and_no_repulsion(make):
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 40.0]]], dtype=torch.float64)
    settings = DFTBSettings(electronic_temperature=300 * KELVIN)
    result = make(["H", "H"], 0, settings).evaluate(positions, torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.gradients.abs().max()) < 1e-12


def test_dispersion_is_attractive_and_zero_without_it(make):
    symbols, charge, positions = frame("benzene")
    phi = torch.zeros(1, len(symbols), dtype=torch.float64)
    terms = make(symbols, charge, DFTBSettings(dispersion="d3bj")).evaluate(positions[None], phi).terms
    assert -0.05 < float(terms["dispersion"]) < -0.005
    assert "dispersion" not in make(symbols, charge, DFTBSettings()).evaluate(positions[None], phi).terms
