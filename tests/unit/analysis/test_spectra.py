"""Spectra of motions whose frequencies are known."""

import numpy as np
import pytest

from deltaqmmm.analysis.spectra import (
    INVERSE_CM_PER_ATOMIC,
    INVERSE_CM_PER_INVERSE_FS,
    Spectrum,
    harmonic_wavenumbers,
    infrared,
    normal_modes,
    vibrational_density,
)
from deltaqmmm.errors import InputError
from deltaqmmm.units import ATOMIC_TIME_IN_FEMTOSECOND, KELVIN

LIGHT = 2.99792458e-5  # cm/fs
INTERVAL, N = 1.0, 8000


def waves(wavenumber, phase=0.0):
    return np.cos(2.0 * np.pi * LIGHT * wavenumber * INTERVAL * np.arange(N) + phase)


def test_constants():
    assert pytest.approx(1.0 / LIGHT) == INVERSE_CM_PER_INVERSE_FS
    # One radian per atomic unit of time is a hartree: 219474.631 cm-1.
    assert pytest.approx(219474.6313632, rel=1e-9) == INVERSE_CM_PER_ATOMIC
    assert pytest.approx(1.0 / (2.0 * np.pi * LIGHT * ATOMIC_TIME_IN_FEMTOSECOND)) == INVERSE_CM_PER_ATOMIC


@pytest.mark.parametrize("wavenumber", [412.0, 1713.3, 3271.8])
def test_a_line_stands_where_it_belongs(wavenumber):
    velocities = np.zeros((N, 2, 3))
    velocities[:, 1, 2] = waves(wavenumber)
    spectrum = vibrational_density(velocities, [1.0, 1.0], 300.0, INTERVAL)
    assert spectrum.peak(100.0, 4000.0) == pytest.approx(wavenumber, abs=3.0)
    assert spectrum.centre(wavenumber - 150.0, wavenumber + 150.0) == pytest.approx(wavenumber, abs=1.0)
    half = spectrum.wavenumbers[spectrum.intensities > 0.5 * spectrum.intensities.max()]
    assert np.ptp(half) <= spectrum.resolution
    light = infrared(velocities[:, 1], INTERVAL)
    assert light.peak(100.0, 4000.0) == pytest.approx(wavenumber, abs=6.0)


def test_integral_counts_degrees_of_freedom():
    """White velocities at the temperature: each degree of freedom counts once, whatever its mass."""
    generator = np.random.default_rng(1)
    masses, temperature = np.array([1837.0, 21875.0, 29157.0]), 300.0
    scale = np.sqrt(temperature * KELVIN / masses)[None, :, None]
    velocities = generator.normal(size=(20000, 3, 3)) * scale
    spectrum = vibrational_density(velocities, masses, temperature, INTERVAL, window=200.0)
    assert spectrum.integral() == pytest.approx(9.0, rel=0.02)
    half = 0.5 * spectrum.wavenumbers[-1]
    assert spectrum.integral(high=half) == pytest.approx(4.5, rel=0.03)
    hot = vibrational_density(1.1 * velocities, masses, temperature, INTERVAL, window=200.0)
    assert hot.integral() == pytest.approx(1.21 * spectrum.integral(), rel=1e-12)


def test_window_length_sets_the_resolution():
    velocities = np.zeros((N, 1, 3))
    velocities[:, 0, 0] = waves(1600.0) + waves(1640.0, 1.0)

    def peaks(window):
        spectrum = vibrational_density(velocities, [1.0], 300.0, INTERVAL, window)
        inside = (spectrum.wavenumbers > 1550.0) & (spectrum.wavenumbers < 1690.0)
        values = spectrum.intensities[inside]
        tops = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:]) & (values[1:-1] > 0.3 * values.max())
        return np.sum(tops)

    assert peaks(4000.0) == 2
    assert peaks(500.0) == 1


def test_infrared_is_that_of_the_derivative():
    """Two waves of one amplitude: intensities as the squares of their frequencies, and the mean square of d mu/dt."""
    dipoles = np.zeros((N, 3))
    dipoles[:, 0], dipoles[:, 1] = waves(1000.0), 5.0 + waves(3000.0)
    spectrum = infrared(dipoles, INTERVAL)
    low, high = spectrum.integral(900.0, 1100.0), spectrum.integral(2900.0, 3100.0)
    assert high / low == pytest.approx(9.0, rel=1e-2)
    angular = 2.0 * np.pi * LIGHT * 1000.0
    assert low == pytest.approx(0.5 * angular**2, rel=1e-2)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="shape"):
        vibrational_density(np.zeros((50, 2, 3)), [1.0], 300.0, 1.0)
    with pytest.raises(InputError, match="the series has 50"):
        vibrational_density(np.zeros((50, 2, 3)), [1.0, 1.0], 300.0, 1.0)
    with pytest.raises(InputError, match=r"shape \(n, 3\)"):
        infrared(np.zeros((50, 2)), 1.0)
    with pytest.raises(InputError, match="no peak"):
        Spectrum(np.arange(5.0), np.ones(5), 1.0).peak(0.0, 5.0)
    with pytest.raises(InputError, match="6 rows"):
        normal_modes(np.eye(3), [1.0, 1.0])


def test_normal_modes_of_two_atoms():
    """Masses 2 and 3 on a spring k: sqrt(k / 1.2) along the bond, all else zero; a negative constant is imaginary."""
    hessian = np.zeros((6, 6))
    hessian[0, 0] = hessian[3, 3] = 0.7
    hessian[0, 3], hessian[3, 0] = -0.6, -0.8  # as finite differences leave it: not quite symmetric
    wavenumbers, modes = normal_modes(hessian, [2.0, 3.0])
    assert wavenumbers[-1] == pytest.approx(np.sqrt(0.7 / 1.2) * INVERSE_CM_PER_ATOMIC)
    np.testing.assert_allclose(wavenumbers[:5], 0.0, atol=1e-2)
    np.testing.assert_allclose(modes.T @ modes, np.eye(6), atol=1e-12)
    # Along the bond the displacements are opposite, and heavier atoms move less.
    displacement = modes[:, -1] / np.sqrt([2.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    assert displacement[0] / displacement[3] == pytest.approx(-1.5)
    assert harmonic_wavenumbers([-1e-4])[0] == pytest.approx(-0.01 * INVERSE_CM_PER_ATOMIC)


def test_translation_counts_too():
    """A constant velocity is a line at zero, as wide as the window has it, with its whole kinetic energy."""
    velocities = np.zeros((N, 1, 3))
    velocities[:, 0, 0] = np.sqrt(300.0 * KELVIN / 1837.0)
    spectrum = vibrational_density(velocities, [1837.0], 300.0, INTERVAL)
    assert spectrum.integral() == pytest.approx(1.0, rel=1e-6)
    assert spectrum.integral(high=100.0) == pytest.approx(1.0, rel=1e-3)
