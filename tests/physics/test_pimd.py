"""The quantum kinetic energy of hydrogen grows with the beads, by two estimators; light atoms spread more."""

import itertools

import numpy as np
import pytest

from deltaqmmm.units import KELVIN
from tests.physics.studies import load

pytestmark = pytest.mark.physics
SIGMAS = 4.0


@pytest.fixture(scope="module")
def study():
    return load("pimd")


@pytest.fixture(scope="module")
def numbers(study, tmp_path_factory):
    return study.main(
        tmp_path_factory.mktemp("pimd") / "study", {2: 1600, 4: 1200, 8: 1000, 16: 600}, equilibration=3000
    )


def test_it_grows_with_the_beads(study, numbers):
    classical = 1.5 * 300.0 * KELVIN / study.MILLIELECTRONVOLT
    growing = numbers["kinetic_cv"]
    assert growing[2].mean > classical + 20.0
    for fewer, more in itertools.pairwise(growing.values()):
        assert more.mean - fewer.mean > 2.0 * np.hypot(fewer.error, more.error)
    # Towards the plateau the steps become smaller.
    steps = np.diff([one.mean for one in growing.values()])
    assert steps[-1] < 0.7 * steps[0]


@pytest.mark.parametrize("beads", [2, 4, 8, 16])
def test_two_estimators_agree(numbers, beads):
    virial, thermodynamic = numbers["kinetic_cv"][beads], numbers["kinetic_td"][beads]
    error = np.hypot(virial.error, thermodynamic.error)
    assert error < 0.1 * virial.mean
    assert abs(virial.mean - thermodynamic.mean) < SIGMAS * error


def test_two_beads_have_at_most_twice_the_classical_energy(study, numbers):
    """Of a harmonic oscillator with two beads it is kT/2 (1 + w^2 / (w^2 + 16 (kT)^2)): between one and two times
    kT/2."""
    classical = 1.5 * 300.0 * KELVIN / study.MILLIELECTRONVOLT
    assert classical < numbers["kinetic_cv"][2].mean < 2.0 * classical


def test_hydrogen_spreads_more_than_heavy_atoms(numbers):
    for beads in (8, 16):
        spread = {
            name.removeprefix("spread "): one[beads] for name, one in numbers.items() if name.startswith("spread")
        }
        for heavy in ("C", "N", "O"):
            assert spread["H, all"].mean > 1.8 * spread[heavy].mean
            # A free particle of this mass spreads more: radius of gyration hbar / sqrt(4 m kT), 3 dimensions, many
            # beads.
            assert 0.02 < spread[heavy].mean < 0.10
