"""Equipartition: QM and MM atoms have the same temperature, with both thermostats."""

import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics
# A chance of 1 in 15,000 for each of the numbers that are right.
SIGMAS = 4.0


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("nvt").main(tmp_path_factory.mktemp("nvt") / "study", {"svr": 8000, "gle": 6000}, skip=1.0)


@pytest.mark.parametrize("name", ["svr", "gle"])
def test_qm_and_mm_atoms_have_the_temperature(numbers, name):
    one = numbers[name]
    for group, largest in ((one.qm, 30.0), (one.mm, 12.0)):
        assert group.error < largest
        assert abs(group.mean - 300.0) < SIGMAS * group.error


@pytest.mark.parametrize("name", ["svr", "gle"])
def test_what_is_conserved_does_not_drift(numbers, name):
    # kT is 2.5 kJ/mol.
    assert abs(numbers[name].drift) < 0.01
