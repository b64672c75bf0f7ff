"""The compiled loops against torch: every kind of shell, cold and warm, side by side, and where they give up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.units import ANGSTROM

DATA = Path(__file__).parents[2] / "data"
REFERENCE = json.loads((DATA / "dftbplus_reference.json").read_text())["cases"]
MOLECULES = sorted({name.split("/")[0] for name in REFERENCE})
SETTINGS = DFTBSettings(scc_tolerance=1e-11)


def frames(name, n_steps, n_frames=2, size=0.05):
    """Steps of a few frames of a molecule, with potentials that change too."""
    case = REFERENCE[f"{name}/gas"]
    generator = np.random.default_rng(6)
    shape = (n_frames, len(case["symbols"]), 3)
    start = np.array(case["positions_angstrom"]) + size * generator.standard_normal(shape)
    velocity = 0.004 * generator.standard_normal(shape)
    potential = torch.tensor(0.04 * generator.standard_normal(shape[:2]))
    for step in range(n_steps):
        yield torch.tensor(start + step * velocity) * ANGSTROM, potential * np.cos(0.1 * step)


def engines(name, settings=SETTINGS):
    case = REFERENCE[f"{name}/gas"]
    both = [DFTBEngine(case["symbols"], case["charge"], replace(settings, compiled=flag)) for flag in (True, False)]
    assert both[0]._compiled is not None
    assert both[1]._compiled is None
    return both


def assert_equal(found, expected):
    assert torch.allclose(found.energies, expected.energies, rtol=0.0, atol=1e-11)
    assert torch.allclose(found.gradients, expected.gradients, rtol=0.0, atol=1e-9)
    assert torch.allclose(found.charges, expected.charges, rtol=0.0, atol=1e-9)
    assert torch.allclose(found.dipoles, expected.dipoles, rtol=0.0, atol=1e-8)
    assert set(found.terms) == set(expected.terms)
    for name, values in expected.terms.items():
        assert torch.allclose(found.terms[name], values, rtol=0.0, atol=1e-8), name


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("model", ["dftb3", "dftb2"])
def test_along_a_trajectory(name, model):
    compiled, by_torch = engines(name, replace(SETTINGS, model=model))
    for step, frame in enumerate(frames(name, 6)):
        found, expected = compiled.evaluate(*frame), by_torch.evaluate(*frame)
        assert_equal(found, expected)
        # The same method: at most a cycle more or less where a residual is near the tolerance.
        assert int((found.iterations - expected.iterations).abs().max()) <= 1 + (step == 0)
    assert int(found.iterations.max()) < 8


@pytest.mark.parametrize("symbols", [["H", "S", "S", "H"], ["S", "P", "O", "H", "H", "S"]])
def test_pairs_of_atoms_with_d_functions(symbols):
    """Not among the reference molecules. Turning a molecule turns its forces, whatever the blocks of its orbitals."""
    generator = np.random.default_rng(4)
    chain = np.array([[1.9 * atom, 0.8 * (atom % 2), 0.3 * atom] for atom in range(len(symbols))])
    positions = torch.tensor(chain + 0.1 * generator.standard_normal(chain.shape))[None] * ANGSTROM
    potential = torch.tensor(0.02 * generator.standard_normal((1, len(symbols))))
    charge = 1 if "P" in symbols else 0  # closed shells
    compiled, by_torch = (
        DFTBEngine(symbols, charge, replace(SETTINGS, compiled=flag, warm_start=False)) for flag in (True, False)
    )
    found = compiled.evaluate(positions, potential)
    assert_equal(found, by_torch.evaluate(positions, potential))
    rotation = torch.linalg.qr(torch.tensor(generator.standard_normal((3, 3))))[0]
    turned = compiled.evaluate(positions @ rotation, potential)
    assert float((turned.energies - found.energies).abs()) < 1e-10
    assert torch.allclose(turned.gradients, found.gradients @ rotation, rtol=0.0, atol=1e-8)


def test_the_screening_is_that_of_torch():
    compiled, by_torch = engines("dihydrogen_phosphate")
    (frame,) = frames("dihydrogen_phosphate", 1)
    found, expected = compiled.evaluate(*frame), by_torch.evaluate(*frame)
    assert np.abs(expected.screening - np.eye(7)).max() > 0.1
    # Taken from orbitals of different cycles.
    assert np.allclose(found.screening, expected.screening, rtol=0.0, atol=1e-2)


def test_dispersion_is_added():
    compiled, by_torch = engines("benzene", replace(SETTINGS, dispersion="d3bj"))
    for frame in frames("benzene", 2):
        found = compiled.evaluate(*frame)
        assert_equal(found, by_torch.evaluate(*frame))
    assert float(found.terms["dispersion"].max()) < -0.005
    with torch.no_grad():
        assert_equal(compiled.evaluate(*frame), found)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_frames_side_by_side(threads):
    compiled, _ = engines("uracil", replace(SETTINGS, warm_start=False))
    (frame,) = frames("uracil", 1, n_frames=5)
    expected = compiled.evaluate(*frame)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = compiled.evaluate(*frame)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.energies, expected.energies)
    assert torch.equal(found.gradients, expected.gradients)


def test_a_frame_is_the_same_to_the_last_bit_in_any_batch():
    compiled, _ = engines("acetate", replace(SETTINGS, warm_start=False))
    ((positions, potential),) = frames("acetate", 1, n_frames=4)
    together = compiled.evaluate(positions, potential)
    for frame in range(4):
        alone = compiled.evaluate(positions[frame : frame + 1], potential[frame : frame + 1])
        assert torch.equal(alone.gradients[0], together.gradients[frame])


def test_what_does_not_converge_is_left_to_torch_and_its_retries(caplog):
    compiled, by_torch = engines("dihydrogen_phosphate", replace(SETTINGS, max_scc_iterations=5))
    (frame,) = frames("dihydrogen_phosphate", 1)
    found = compiled.evaluate(*frame)
    assert "retrying with careful mixing" in caplog.text
    assert_equal(found, by_torch.evaluate(*frame))


def test_matrices_that_cannot_be_factorised_are_left_to_torch(monkeypatch):
    compiled, by_torch = engines("acetate")
    (frame,) = frames("acetate", 1)

    def fails(*_):
        raise np.linalg.LinAlgError("Matrix is not positive definite.")

    monkeypatch.setattr(compiled, "_compiled", fails)
    assert_equal(compiled.evaluate(*frame), by_torch.evaluate(*frame))


@pytest.mark.parametrize(
    ("symbols", "charge", "settings"),
    [
        (["O", "H", "H"], 0, {"electronic_temperature": 1e-3}),
        (["O", "H", "H"], 0, {"solver": "purification"}),
        (["Zn"], 2, {}),
        (["H", "H"], 2, {}),
    ],
)
def test_what_is_left_to_torch(symbols, charge, settings):
    assert DFTBEngine(symbols, charge, DFTBSettings(**settings))._compiled is None
