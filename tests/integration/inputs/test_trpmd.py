"""The case `trpmd`: centroid velocities and bead dipoles, from which the spectra are made."""

import re

import numpy as np

from deltaqmmm.analysis.outputs import bead_files, read_extras, read_properties, read_trajectory
from deltaqmmm.analysis.spectra import infrared, vibrational_density
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM, FEMTOSECOND
from tests.integration.inputs.case import make, run

BEADS, STEPS, N_QM, STEP = 2, 16, 12, 0.5


def test_velocities_and_dipoles(tmp_path):
    folder = make("trpmd", tmp_path, beads=BEADS, steps=STEPS)
    text = (folder / "input.xml").read_text()
    # What makes it TRPMD: no masses but the physical ones, half-critical internal modes, a global thermostat for the
    # centroid.
    assert re.search(r"<thermostat mode='pile_g'>.*?<pile_lambda> 0.5 <", text, re.DOTALL)
    assert "<normal_modes" not in text
    run(folder)

    table = read_properties(folder / "run.velocities")
    velocities = np.stack([table[f"atom_v({atom})"] for atom in range(N_QM)], axis=1)
    assert velocities.shape == (STEPS + 1, N_QM, 3)
    beads = [read_trajectory(file).values for file in bead_files(folder, "run", "pos")]
    assert len(beads) == BEADS
    centroids = np.mean(beads, axis=0)[:, :N_QM] * ANGSTROM
    moved = (centroids[2:] - centroids[:-2]) / (2.0 * STEP * FEMTOSECOND)
    # Central differences lag behind the fastest vibrations by a tenth; thermal velocities are 3e-4 to 1e-3.
    np.testing.assert_allclose(moved, velocities[1:-1], atol=2e-4)
    assert np.abs(velocities).max() > 5e-4

    files = bead_files(folder, "run", "qm_dipole")
    dipoles = np.mean([read_extras(file)[1] for file in files], axis=0)
    assert dipoles.shape == (STEPS + 1, 3)
    loaded = load_potential(read_config(folder / "config.toml"), terms=("dftb",))
    cell = read_trajectory(folder / "run.pos_0.xyz").cells[-1] * ANGSTROM
    last = np.array([bead[-1] for bead in beads]) * ANGSTROM
    expected = loaded.evaluate(np.repeat(cell[None], BEADS, axis=0), last).extras["qm_dipole"].mean(axis=0)
    np.testing.assert_allclose(dipoles[-1], expected, atol=2e-3)
    assert np.linalg.norm(expected) > 0.5

    # Long enough for a spectrum of what there is.
    window = STEPS * STEP
    assert infrared(dipoles, STEP, window).intensities.shape == (4 * STEPS // 2 + 1,)
    assert vibrational_density(velocities, np.full(N_QM, 1e4), 300.0, STEP, window).integral() > 0.0
