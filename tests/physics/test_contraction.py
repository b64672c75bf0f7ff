"""Contraction and multiple time steps of the learned correction against the full calculation. 8 minutes."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("contraction").main(tmp_path_factory.mktemp("contraction") / "study")


def difference(numbers, run, key):
    """From the full calculation, in units of its statistical error."""
    one, full = numbers[run][key], numbers["full"][key]
    return one.mean - full.mean, np.hypot(one.error, full.error)


def test_more_beads_come_nearer_to_the_full_correction(numbers):
    forces = numbers["forces"]
    for group in ("H", "heavy", "MM"):
        errors = [forces[number][group] for number in (1, 2, 4)]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.8 * forces[8][group]
    energies = [abs(forces[number]["energy"]) for number in (1, 2, 4)]
    assert energies[0] > energies[1] > energies[2]


def test_what_contraction_changes_on_the_same_frames(numbers):
    """kJ/mol: of the potential; and of the quantum kinetic energy of a hydrogen, about 15, and of another atom."""
    four = numbers["forces"][4]
    assert -1.6 < four["energy"] < -0.6
    assert -0.4 < four["kinetic H"] < -0.1
    assert abs(four["kinetic heavy"]) < 0.05


@pytest.mark.parametrize("run", ["contracted", "mts"])
def test_averages_are_those_of_the_full_calculation(numbers, run):
    for key in ("kinetic heavy", "length N-H", "length C-H", "length C=O", "width C=O"):
        distance, error = difference(numbers, run, key)
        assert abs(distance) < 4.0 * error, key
    distance, error = difference(numbers, run, "kinetic H")
    known = numbers["forces"][4]["kinetic H"] if run == "contracted" else 0.0
    assert abs(distance - known) < 4.0 * error
    temperature = numbers[run]["temperature"]
    assert abs(temperature.mean - 300.0) < max(4.0 * temperature.error, 6.0)


def test_contracted_and_full_run_side_by_side(numbers):
    """Same start and random numbers: what contraction changes is seen beneath the thermal noise (kJ/mol per atom)."""
    paired = numbers["paired"]
    assert abs(paired["paired kinetic H"].mean - numbers["forces"][4]["kinetic H"]) < 0.25
    assert paired["paired kinetic H"].mean < 0.0
    assert abs(paired["paired kinetic heavy"].mean) < 0.05


def test_conserved_quantity_with_multiple_time_steps(numbers):
    """J/mol per atom and ps, all beads together: a hundredth of k T per bead and ps is 200."""
    assert abs(numbers["full"]["drift"].mean) < 100.0
    assert abs(numbers["mts"]["drift"].mean) < 200.0
    assert numbers["mts"]["fluctuation"] < 2.0 * numbers["full"]["fluctuation"]


def test_something_is_saved(numbers):
    assert numbers["times"]["saving contracted"] > 0.05
    assert numbers["times"]["saving mts"] > 0.1
