"""Spectra of uracil in water by thermostatted ring-polymer MD. 15 minutes."""

import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return load("trpmd").main(tmp_path_factory.mktemp("trpmd") / "study")


@pytest.mark.parametrize("kind", ["TRPMD", "classical"])
def test_integral_is_the_number_of_degrees_of_freedom(numbers, kind):
    """36, to the accuracy to which the kinetic temperature of the 12 atoms is 300 K."""
    own = numbers[kind]
    assert own["temperature"].mean == pytest.approx(300.0, abs=4.0 * own["temperature"].error)
    assert own["integral"] == pytest.approx(36.0 * own["temperature"].mean / 300.0, rel=0.03)


@pytest.mark.parametrize("band", ["N-H stretch", "C-H stretch", "C=O stretch, infrared"])
def test_peaks_are_those_of_the_modes(numbers, band):
    """Against the quantum transitions along single modes of the gas phase; hydrogen bonds and coupling shift them."""
    assert numbers["TRPMD"][band][0] == pytest.approx(numbers["quantum"][band].mean(), abs=80.0)
    assert numbers["classical"][band][0] == pytest.approx(numbers["harmonic"][band].mean(), abs=100.0)


def test_quantum_nuclei_shift_the_stretches(numbers):
    """N-H: to the red of the harmonic wavenumber. C-H of 3ob is stiffer away from its minimum: to the blue."""
    harmonic = {band: values.mean() for band, values in numbers["harmonic"].items()}
    assert numbers["TRPMD"]["N-H stretch"][0] < harmonic["N-H stretch"] - 30.0
    assert numbers["quantum"]["N-H stretch"].mean() < harmonic["N-H stretch"] - 30.0
    assert numbers["TRPMD"]["C-H stretch"][0] > harmonic["C-H stretch"] + 30.0
    assert numbers["quantum"]["C-H stretch"].mean() > harmonic["C-H stretch"] + 30.0
