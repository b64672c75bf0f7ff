"""Harmonic vibrations of uracil: against DFTB+, and of a true minimum. 40 seconds."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("geometry").main(tmp_path_factory.mktemp("geometry") / "study")


def test_frequencies_are_those_of_dftbplus(numbers):
    assert len(numbers["gas"]) == 30
    np.testing.assert_allclose(numbers["gas"], numbers["dftbplus"], atol=0.5, rtol=0.0)
    assert numbers["displacement_from_dftbplus"] < 5e-4


def test_a_minimum_has_no_imaginary_frequency_and_six_zeros(numbers):
    assert max(numbers["largest_force"].values()) <= 5e-6
    assert numbers["rigid"].max() < 5.0
    assert numbers["gas"].min() > 100.0
    # In water nothing is free: six librations and translations, and the vibrations.
    assert numbers["water"].min() > 20.0
    assert len(numbers["water"]) == 36


def test_water_softens_what_it_binds(numbers):
    """Hydrogen bonds lower the N-H stretches."""
    assert numbers["water"][-2:].mean() < numbers["gas"][-2:].mean() - 3.0
