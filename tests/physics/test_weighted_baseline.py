"""The weighted baseline inside and outside of the training range. Two minutes."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("weighted_baseline").main(tmp_path_factory.mktemp("weighted") / "study")


def test_settings_are_those_of_the_model(numbers):
    """alpha and the baseline's error of input.xml, from the test frames."""
    calibration, settings = numbers["calibration"], numbers["settings"]
    assert calibration["alpha"] == pytest.approx(settings["alpha"], abs=0.1)
    assert calibration["baseline"] == pytest.approx(settings["baseline"], abs=0.1)


def test_potential_is_that_of_the_formula(numbers):
    # kJ/mol: nine digits of 21 hartree.
    assert max(numbers[name]["formula"] for name in ("300 K", "1200 K")) < 2e-3


def test_the_weight_falls_outside_of_the_training_range(numbers):
    inside, outside = numbers["300 K"], numbers["1200 K"]
    assert inside["weight"] > 0.985
    assert outside["uncertainty"] > 1.8 * inside["uncertainty"]
    assert outside["smallest"] < 0.9
    assert outside["frames"] > 20 > inside["frames"]


# So it was with an earlier committee; the members of the shipped one agree on the bond up to 0.45 angstrom.
@pytest.mark.xfail(reason="from 0.35 to 0.45 angstrom the weight is up to 0.89 with the shipped committee", strict=True)
def test_a_broken_bond_goes_back_to_the_baseline(numbers):
    scan = numbers["scan"]
    far = scan["stretch"] > 0.35
    assert scan["weight"][far].max() < 0.6


def test_a_bond_that_is_far_out_goes_back_to_the_baseline_and_one_that_is_not_does_not(numbers):
    scan = numbers["scan"]
    assert scan["weight"][scan["stretch"] > 0.55].max() < 0.6
    inside = np.abs(scan["stretch"]) < 0.06
    assert scan["weight"][inside].min() > 0.95
