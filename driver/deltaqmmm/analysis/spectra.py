"""Vibrational spectra from simulations (velocities, dipoles) and from Hessians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import find_peaks, welch

from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray
from deltaqmmm.units import FEMTOSECOND, KELVIN

INVERSE_CM_PER_INVERSE_FS = 1e15 / 2.99792458e10
"""The wavenumber, cm-1, of one oscillation per femtosecond."""
INVERSE_CM_PER_ATOMIC = INVERSE_CM_PER_INVERSE_FS * FEMTOSECOND / (2.0 * np.pi)
"""The wavenumber, cm-1, of an angular frequency of one atomic unit."""


@dataclass(frozen=True)
class Spectrum:
    """A spectrum.

    Attributes:
        wavenumbers: Equally spaced from 0, shape (n,), cm-1.
        intensities: Per cm-1, shape (n,); what they integrate to, the function that makes them says.
        resolution: Full width at half maximum of a sharp line, cm-1.
    """

    wavenumbers: FloatArray
    intensities: FloatArray
    resolution: float

    def integral(self, low: float = 0.0, high: float = np.inf) -> float:
        """The integral over wavenumbers between two limits, cm-1."""
        inside = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        return float(self.intensities[inside].sum() * self.wavenumbers[1])

    def peak(self, low: float, high: float) -> float:
        """The wavenumber of the highest peak between two limits, cm-1, from a parabola through its three points.

        Raises:
            InputError: There is no peak there.
        """
        places, _ = find_peaks(self.intensities)
        places = [place for place in places if low <= self.wavenumbers[place] <= high]
        if not places:
            raise InputError(f"There is no peak between {low:g} and {high:g} cm-1.")
        top = max(places, key=lambda place: self.intensities[place])
        before, at, after = self.intensities[top - 1 : top + 2]
        shift = 0.5 * (before - after) / (before - 2.0 * at + after)
        return float(self.wavenumbers[top] + shift * self.wavenumbers[1])

    def centre(self, low: float, high: float) -> float:
        """The mean wavenumber between two limits, weighted with the intensities, cm-1."""
        inside = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        weights = self.intensities[inside]
        return float(self.wavenumbers[inside] @ weights / weights.sum())


def vibrational_density(
    velocities: npt.ArrayLike, masses: npt.ArrayLike, temperature: float, interval: float, window: float = 1000.0
) -> Spectrum:
    """The vibrational density of states, from velocities (of a ring polymer: those of its centroids).

    g(nu) = 2 / (k T) sum_i m_i integral <v_i(0) v_i(t)> cos(2 pi c nu t) c dt over all t, nu > 0: the spectrum of
    the mass-weighted velocities, averaged over segments (Welch's method, Hann window). Its integral is sum_i m_i
    <v_i^2> / (k T): the number of degrees of freedom, 3N, if the kinetic temperature of the velocities is T.

    Args:
        velocities: Shape (n, N, 3), atomic units, at equal intervals.
        masses: Shape (N,), electron masses.
        temperature: T, kelvin.
        interval: Between two velocities, femtoseconds.
        window: Length of a segment, femtoseconds: the longer, the sharper, and the more noise.

    Raises:
        InputError: The shapes do not fit, or the series is shorter than a segment.
    """
    values, weights = np.asarray(velocities, dtype=np.float64), np.asarray(masses, dtype=np.float64)
    if values.ndim != 3 or values.shape[1:] != (len(weights), 3):
        raise InputError(f"Velocities of {len(weights)} atoms need the shape (n, {len(weights)}, 3): {values.shape}.")
    wavenumbers, densities, resolution = _power(values, interval, window)
    total = np.einsum("fix,i->f", densities, weights) / (temperature * KELVIN)
    return Spectrum(wavenumbers, total, resolution)


def infrared(dipoles: npt.ArrayLike, interval: float, window: float = 1000.0) -> Spectrum:
    """The infrared spectrum, from dipoles (of a ring polymer: the mean over its beads).

    Proportional to the absorption coefficient times the refractive index, nu^2 integral <mu(0) mu(t)> cos(2 pi c nu t)
    dt = the spectrum of the time derivative of the dipole, averaged over segments (Welch's method, Hann window). For
    thermostatted ring-polymer MD this is the Kubo-transformed correlation function, which takes no quantum correction
    factor: Rossi, Ceriotti and Manolopoulos, J. Chem. Phys. 140, 234116 (2014), DOI 10.1063/1.4883861. Its integral is
    the mean square of the derivative, (e bohr/fs)^2.

    Args:
        dipoles: Shape (n, 3), e bohr, at equal intervals.
        interval: Between two of them, femtoseconds.
        window: Length of a segment, femtoseconds.

    Raises:
        InputError: The shape does not fit, or the series is shorter than a segment.
    """
    values = np.asarray(dipoles, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 3:
        raise InputError(f"Dipoles need the shape (n, 3): got {values.shape}.")
    wavenumbers, densities, resolution = _power(values, interval, window)
    angular = 2.0 * np.pi * wavenumbers / INVERSE_CM_PER_INVERSE_FS
    return Spectrum(wavenumbers, densities.sum(axis=1) * angular**2, resolution)


def _power(values: FloatArray, interval: float, window: float) -> tuple[FloatArray, FloatArray, float]:
    """One-sided power spectra along the first axis, per cm-1, and the width of a line."""
    length = round(window / interval)
    if not 8 <= length <= len(values):
        raise InputError(
            f"A segment of {window:g} fs is {length} intervals of {interval:g} fs, and the series has {len(values)}: "
            "needed are 8 at least, and not more than the series has."
        )
    frequencies, densities = welch(values, fs=1.0 / interval, window="hann", nperseg=length, detrend=False, axis=0)
    # Of a Hann window the full width at half maximum of the squared transform is 1.44 divided by its length.
    resolution = 1.44 / (length * interval) * INVERSE_CM_PER_INVERSE_FS
    return frequencies * INVERSE_CM_PER_INVERSE_FS, densities / INVERSE_CM_PER_INVERSE_FS, resolution


def harmonic_wavenumbers(eigenvalues: npt.ArrayLike) -> FloatArray:
    """Wavenumbers of harmonic vibrations, cm-1; imaginary ones as negative numbers.

    Args:
        eigenvalues: Of the mass-weighted Hessian, atomic units: what i-PI's `vibrations` writes as .eigval.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    result: FloatArray = np.sign(values) * np.sqrt(np.abs(values)) * INVERSE_CM_PER_ATOMIC
    return result


def normal_modes(hessian: npt.ArrayLike, masses: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Harmonic wavenumbers and modes from a Hessian in Cartesian coordinates.

    Args:
        hessian: Shape (3N, 3N), hartree/bohr^2; its symmetric part is taken.
        masses: Shape (N,), electron masses.

    Returns:
        Wavenumbers, ascending, shape (3N,), cm-1, imaginary ones negative; mass-weighted modes as columns, orthonormal,
        shape (3N, 3N).

    Raises:
        InputError: The shapes do not fit.
    """
    matrix, weights = np.asarray(hessian, dtype=np.float64), np.repeat(np.asarray(masses, dtype=np.float64), 3)
    if matrix.shape != (len(weights), len(weights)):
        raise InputError(
            f"The Hessian of {len(weights) // 3} atoms has {len(weights)} rows and columns: {matrix.shape}."
        )
    scaled = 0.5 * (matrix + matrix.T) / np.sqrt(np.outer(weights, weights))
    eigenvalues, modes = np.linalg.eigh(scaled)
    return harmonic_wavenumbers(eigenvalues), np.asarray(modes, dtype=np.float64)
