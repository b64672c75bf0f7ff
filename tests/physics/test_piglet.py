"""PIGLET: six beads have the kinetic energy of many, and without it they have not."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics
SIGMAS = 4.0
# What the matrices are good to, for a harmonic oscillator: tests/integration/inputs/test_piglet.py.
MATRICES = 0.01


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("piglet").main(
        tmp_path_factory.mktemp("piglet") / "study",
        steps={"pimd": 1000, "piglet": 1600},
        chain={4: 800, 8: 700, 16: 600, 32: 600},
        equilibration=3000,
    )


@pytest.mark.parametrize("name", ["kinetic_cv", "total"])
def test_six_beads_are_as_many(numbers, name):
    few, limit = numbers["piglet"][name], numbers["limit"][name]
    error = np.hypot(few.error, limit.error)
    assert error < 0.08 * limit.mean
    assert abs(few.mean - limit.mean) < SIGMAS * error + MATRICES * limit.mean


@pytest.mark.parametrize("name", ["kinetic_cv", "total"])
def test_without_it_six_beads_are_not_enough(numbers, name):
    plain, few = numbers["pimd 6"][name], numbers["piglet"][name]
    assert few.mean - plain.mean > SIGMAS * np.hypot(few.error, plain.error)
    assert plain.mean < 0.85 * few.mean
