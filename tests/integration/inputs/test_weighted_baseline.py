"""The case `weighted_baseline`: i-PI's potential is that of the formula, from the members it prints."""

import re

import numpy as np
import pytest

from deltaqmmm.analysis.outputs import read_extras, read_properties
from tests.integration.inputs.case import make_corrected, run
from tests.physics.studies import load

SIGMA_B, ALPHA, STEPS, BEADS = 0.5, 4.0, 4, 2  # kJ/mol: so small that the weight is felt
KJ_PER_MOL = 1.0 / 2625.4996
ELEMENT = "<{0} units='kiloj/mol'> {1} </{0}>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_corrected("weighted_baseline", tmp_path_factory.mktemp("runs"), beads=BEADS)
    file = folder / "input.xml"
    text = file.read_text()
    assert text.count(f"<batch_size> {BEADS} </batch_size>") == 2
    for name, value in (("baseline_uncertainty", SIGMA_B), ("active_thresh", 1e-3)):
        text = re.sub(rf"<{name}.*?</{name}>", ELEMENT.format(name, value), text)
    text = re.sub("<alpha>.*?</alpha>", f"<alpha> {ALPHA} </alpha>", text)
    file.write_text(text.replace("<simulation ", "<simulation floatformat='%25.16e' "))
    run(folder, STEPS)
    return folder


def test_the_potential_is_the_formulas(folder):
    expected = []
    for bead in range(BEADS):
        _, baseline = read_extras(folder / f"run.baseline_{bead}")
        _, scaled = read_extras(folder / f"run.members_{bead}")
        _, weight = read_extras(folder / f"run.weight_{bead}")
        _, uncertainty = read_extras(folder / f"run.uncertainty_{bead}")
        assert scaled.shape == (STEPS + 1, 4)
        # The members that i-PI prints are spread by alpha already.
        sigma = scaled.std(axis=1, ddof=1)
        np.testing.assert_allclose(uncertainty[:, 0], sigma, rtol=1e-5)
        share = 1.0 / (1.0 + (sigma / (SIGMA_B * KJ_PER_MOL)) ** 2)
        np.testing.assert_allclose(weight[:, 0], share, rtol=1e-5)
        assert 0.01 < share.min() < share.max() < 0.95
        # The constant part of the model, -394 hartree, is not there.
        assert np.abs(scaled).max() < 0.1
        expected.append(baseline[:, 0] + share * scaled.mean(axis=1))
    potential = read_properties(folder / "run.out")["potential"]
    np.testing.assert_allclose(potential, np.mean(expected, axis=0), atol=1e-7, rtol=0.0)


def test_forces_belong_to_the_energy(folder):
    """Where the weight changes along the way, the conserved quantity still holds."""
    table = read_properties(folder / "run.out")
    assert np.ptp(table["conserved"]) < 0.1 * np.ptp(table["potential"])


def test_active_learning_frames(folder):
    frames = load("weighted_baseline").read_active(folder / "run.active")
    assert len(frames) == BEADS * (STEPS + 1)
    assert all(len(frame["position"]) == 3 * 204 for frame in frames)
    sigma = [read_extras(folder / f"run.uncertainty_{bead}")[1] for bead in range(BEADS)]
    np.testing.assert_allclose(sorted(frame["uncertainty"] for frame in frames), np.sort(np.ravel(sigma)), rtol=1e-5)
