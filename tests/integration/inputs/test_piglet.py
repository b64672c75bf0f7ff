"""PIGLET: its matrices make few beads quantum, the run is one of six beads, and nothing else can be asked for."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.linalg import expm, solve_discrete_lyapunov

from deltaqmmm.analysis.outputs import bead_files, read_positions, read_properties
from deltaqmmm.cli.main import main
from deltaqmmm.units import FEMTOSECOND, KELVIN
from tests.integration.inputs.case import INPUTS, make, run

BEADS, THERMAL = 6, 300.0 * KELVIN
INVERSE_CM = 4.5563352529e-6


def matrices():
    """Drift and covariance of each mode, shapes (6, 9, 9), atomic units."""
    thermostat = ET.parse(INPUTS / "piglet" / "input.xml").find(".//thermostat")
    read = []
    for tag in ("A", "C"):
        numbers = thermostat.findtext(tag).strip().strip("[]").split(",")
        read.append(np.array(numbers, dtype=float).reshape(BEADS, 9, 9))
    return read[0], read[1] * KELVIN


def energies(frequency, step):
    """Kinetic (centroid virial) and potential energy of a harmonic oscillator: stationary covariance of i-PI's BAOAB
    step.

    Each normal mode of the ring polymer is a linear system of position, momentum and 8 momenta of the thermostat.
    """
    drift, covariance = matrices()
    kinetic, potential = 0.5 * THERMAL, 0.0
    for mode in range(BEADS):
        spring = 2.0 * BEADS * THERMAL * np.sin(mode * np.pi / BEADS)
        kick, free, damp = np.eye(10), np.eye(10), np.eye(10)
        kick[1, 0] = -0.5 * step * frequency**2
        angle = 0.5 * step * spring
        free[:2, :2] = [[np.cos(angle), 0.5 * step * np.sinc(angle / np.pi)], [-spring * np.sin(angle), np.cos(angle)]]
        damp[1:, 1:] = expm(-drift[mode] * step)
        noise = np.zeros((10, 10))
        noise[1:, 1:] = covariance[mode] - damp[1:, 1:] @ covariance[mode] @ damp[1:, 1:].T
        after = kick @ free
        spread = solve_discrete_lyapunov(after @ damp @ free @ kick, after @ noise @ after.T)[0, 0]
        potential += 0.5 * frequency**2 * spread / BEADS
        kinetic += 0.5 * frequency**2 * spread / BEADS if mode else 0.0
    return kinetic, potential


@pytest.mark.parametrize("wavenumber", [500.0, 1600.0, 3100.0, 3600.0])
def test_the_matrices_make_six_beads_quantum(wavenumber):
    frequency = wavenumber * INVERSE_CM
    exact = 0.25 * frequency / np.tanh(0.5 * frequency / THERMAL)
    np.testing.assert_allclose(energies(frequency, 0.5 * FEMTOSECOND), exact, rtol=0.01)
    if wavenumber > 3000.0:
        springs = 2.0 * BEADS * THERMAL * np.sin(np.arange(BEADS) * np.pi / BEADS)
        plain = 0.5 * THERMAL * (frequency**2 / (frequency**2 + springs**2)).sum()
        assert plain < 0.7 * exact


def test_a_short_run(tmp_path):
    folder = make("piglet", tmp_path, steps=16)
    run(folder)
    files = bead_files(folder, "run", "pos")
    assert len(files) == BEADS
    beads = np.array([read_positions(file)[2] for file in files])
    spread = np.sqrt(((beads - beads.mean(axis=0)) ** 2).sum(axis=3).mean(axis=0))
    # Hydrogens 8 to 11 and the heavy atoms of uracil.
    assert spread[0].max() < 1e-9
    assert spread[-1, 8:12].mean() > 1.3 * spread[-1, :8].mean() > 0.02
    out, kinetic = read_properties(folder / "run.out"), read_properties(folder / "run.kinetic")
    assert list(out["step"]) == list(range(17))
    assert kinetic["kinetic_cv(8)"][0] == pytest.approx(1.5 * THERMAL, rel=1e-4)
    assert np.mean([kinetic[f"kinetic_cv({atom})"][-1] for atom in range(8, 12)]) > 2.0 * THERMAL
    # The internal modes are hotter than classical ones would be, and the bookkeeping holds.
    assert np.ptp(out["kinetic_md"] + out["potential"]) > 0.1
    assert np.ptp(out["conserved"][4:]) < 0.02
    steps, frames = map(int, re.findall(r"(\d+) steps, (\d+) frames", (folder / "driver.log").read_text())[-1])
    assert frames >= BEADS * 16
    assert steps < 2 * 17


@pytest.mark.parametrize("words", [["--beads", "8"], ["--temperature", "320"]])
def test_what_its_matrices_are_not_for_is_refused(tmp_path, words, capsys):
    assert main(["new", "piglet", str(tmp_path / "x"), "--system", str(INPUTS / "small"), *words]) == 1
    assert "matrices are for" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
