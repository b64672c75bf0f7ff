"""The path of the proton in malonaldehyde by a nudged elastic band, and its instanton (ipi_inputs/reaction)."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return load("reaction").main(tmp_path_factory.mktemp("reaction"))


def test_the_barrier(found):
    # With the coordinate held by a spring and everything else minimised, without i-PI: 11.007 kJ/mol.
    assert found["barrier"] == pytest.approx(11.007, abs=0.01)
    assert np.argmax(found["energies"]) == len(found["energies"]) // 2


def test_the_path_is_symmetric(found):
    np.testing.assert_allclose(found["energies"], found["energies"][::-1], atol=0.02)
    np.testing.assert_allclose(found["coordinate"], -found["coordinate"][::-1], atol=1e-3)
    assert abs(found["coordinate"][len(found["coordinate"]) // 2]) < 1e-3


def test_the_highest_image_is_a_saddle_point_of_first_order(found):
    assert len(found["imaginary"]["saddle"]) == 1
    assert found["imaginary"]["saddle"][0] == pytest.approx(-913, abs=5)
    assert len(found["imaginary"]["minimum"]) == 0
    assert max(values.max() for values in found["rigid"].values()) < 10.0


def test_the_instanton_cuts_the_corner(found):
    """The heavy atoms move less than on the path of least energy: the oxygens come less close, and the barrier is
    higher."""
    path, saddle = found["instanton"], found["oxygens"][1]
    assert path["oxygens"].min() > saddle + 0.02
    assert path["energies"].max() > found["barrier"] + 0.5
    np.testing.assert_allclose(path["energies"], path["energies"][::-1], atol=0.02)
    # It turns back before the minima.
    assert 0.3 < np.abs(path["coordinate"]).max() < 0.6


def test_the_zero_point_energy_of_the_proton_lowers_the_barrier(found):
    assert found["zero_point"] == pytest.approx(-9.84, abs=0.1)
