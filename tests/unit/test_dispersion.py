"""Dispersion of batches of frames, against the textbook's formula and by differences."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from deltaqmmm import dispersion
from deltaqmmm.dispersion import DFTB3, Dispersion
from deltaqmmm.errors import FrameError, ParameterError

SYMBOLS = "C", "O", "H", "H", "S", "N", "Br"


def make_positions():
    """From crowded to far apart: coordination numbers between those of the reference systems, and far from them."""
    steps = np.random.default_rng(3).normal(size=(4, len(SYMBOLS), 3))
    return np.array([1.5, 3.0, 6.0, 40.0])[:, None, None] * steps


def test_two_atoms_far_apart():
    """-s6 C6 / (r^6 + f^6) - s8 C8 / (r^8 + f^8) with f = a1 sqrt(C8 / C6) + a2, and C8 = 3 C6 Q^2.

    Argon has one reference system: C6 = 64.6462 and Q = 3.4468, atomic units (doi 10.1063/1.3382344).
    """
    r = np.array([7.0, 9.0, 20.0])
    positions = np.zeros((3, 2, 3))
    positions[:, 1, 0] = r
    energies, gradients = Dispersion(("Ar", "Ar"), DFTB3).evaluate(positions)
    c6 = 64.6462
    ratio = 3.0 * 3.4468**2
    radius = DFTB3["a1"] * np.sqrt(ratio) + DFTB3["a2"]
    expected = -c6 / (r**6 + radius**6) - DFTB3["s8"] * ratio * c6 / (r**8 + radius**8)
    np.testing.assert_allclose(energies, expected, rtol=1e-4)
    assert (gradients[:, 1, 0] > 0.0).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_is_its_frames(threads, monkeypatch):
    monkeypatch.setattr(dispersion, "WORTH_THREADS", 1)
    positions, own = make_positions(), Dispersion(SYMBOLS, DFTB3)
    energies, gradients = own.evaluate(positions, threads)
    assert (energies[:3] < -1e-7).all()
    for frame in (3, 0, 2, 1):
        energy, gradient = own.evaluate(positions[frame : frame + 1])
        np.testing.assert_array_equal(energy, energies[frame : frame + 1])
        np.testing.assert_array_equal(gradient, gradients[frame : frame + 1])


def test_gradients_are_the_derivatives():
    positions, own = make_positions()[:3], Dispersion(SYMBOLS, "pbe0")
    gradients = own.evaluate(positions)[1]
    moves = np.zeros((3 * len(SYMBOLS), len(SYMBOLS), 3))
    moves.reshape(len(moves), -1)[:] = 1e-3 * np.eye(len(moves))
    for frame, gradient in zip(positions, gradients, strict=True):
        forwards, backwards = (own.evaluate(frame + sign * moves)[0] for sign in (1, -1))
        np.testing.assert_allclose(gradient.ravel(), (forwards - backwards) / 2e-3, rtol=1e-5, atol=1e-9)


def test_one_atom_has_none():
    energies, gradients = Dispersion(("Na",), DFTB3).evaluate(np.zeros((2, 1, 3)))
    assert not energies.any()
    assert not gradients.any()
    assert Dispersion(SYMBOLS, DFTB3).evaluate(np.zeros((0, len(SYMBOLS), 3)))[0].shape == (0,)


def test_bad_input():
    with pytest.raises(ParameterError, match='functional "pbe9"'):
        Dispersion(SYMBOLS, "pbe9")
    with pytest.raises(ParameterError, match="no coefficients for Rf"):
        Dispersion(("Rf", "H"), DFTB3)
    own, coincide = Dispersion(SYMBOLS, DFTB3), make_positions()
    coincide[2, 3] = coincide[2, 4]
    with pytest.raises(FrameError, match="frame 2 of the batch: Too close"):
        own.evaluate(coincide)
    # And goes on.
    assert own.evaluate(make_positions())[0][0] < 0.0


def test_the_first_batch_of_a_process_on_threads():
    """The library fills a table that all threads share when it is first used."""
    program = """
import numpy as np
from deltaqmmm.dispersion import DFTB3, Dispersion
positions = np.random.default_rng(3).normal(scale=12.0, size=(8, 40, 3))
own = Dispersion(["C", "H", "N", "O"] * 10, DFTB3)
(several, _), (one, _) = own.evaluate(positions, 8), own.evaluate(positions)
print(np.array_equal(several, one))
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"


def test_starts_quickly():
    """No command waits for libraries that it does not need."""
    program = """
import sys
import deltaqmmm.cli.drive, deltaqmmm.config.loading
print(*({'dftd3', 'torch._dynamo', 'ase.io'} & set(sys.modules)))
import deltaqmmm.dispersion
print(*({'dftd3', 'torch._dynamo', 'ase.io'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "dftd3"]
