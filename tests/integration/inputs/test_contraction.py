"""The case `contraction`: forces on fewer beads and at fewer steps, made of the terms themselves."""

import re

import numpy as np
import pytest

from deltaqmmm.analysis.outputs import bead_files, read_extras, read_properties, read_trajectory
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM
from tests.integration.inputs.case import make_corrected, run

BEADS, STEPS = 3, 4
# hartree/bohr: trajectories have six digits, which is 5e-5 angstrom, and bonds are stiff.
ROUNDING = 2e-4
FORCES = "<trajectory filename='forces' stride='1' format='xyz'> forces </trajectory>"


def prepared(tmp_path, name="contraction"):
    folder = make_corrected("contraction", tmp_path, name=name, beads=BEADS)
    for file in folder.glob("*.xml"):
        text = file.read_text().replace("<simulation ", "<simulation floatformat='%25.16e' ")
        file.write_text(text.replace("</properties>", f"</properties> {FORCES}", 1))
    return folder


def at_end(folder, prefix):
    """Positions, shape (beads, N, 3) in bohr, forces in hartree/bohr, and the cell of the last step."""
    places = [read_trajectory(file) for file in bead_files(folder, prefix, "pos")]
    forces = [read_trajectory(file).values[-1] for file in bead_files(folder, prefix, "forces")]
    return np.array([one.values[-1] for one in places]) * ANGSTROM, np.array(forces), places[0].cells[-1] * ANGSTROM


def terms(folder, *names):
    loaded = load_potential(read_config(folder / "config.toml"), terms=names)
    return lambda positions, cell: loaded.evaluate(np.repeat(cell[None], len(positions), axis=0), positions)


def test_new_gives_the_contracted_socket_its_own_batch(tmp_path):
    folder = make_corrected("contraction", tmp_path, name="eight", beads=8)
    sizes = re.findall(r"<batch_size>\s*(\d+)", (folder / "input.xml").read_text())
    assert sizes == ["8", "4"]
    assert re.findall(r"<batch_size>\s*(\d+)", (folder / "mts.xml").read_text()) == ["8", "8"]


def test_correction_at_the_centroid(tmp_path):
    """Contracted to one bead, each bead has the correction of the centroid; all else is its own."""
    folder = prepared(tmp_path)
    file = folder / "input.xml"
    text = re.sub(r"(forcefield='correction' nbeads=)'\d+'", r"\1'1'", file.read_text())
    before, batch, after = text.rpartition("<batch_size> 3 </batch_size>")
    assert batch
    file.write_text(f"{before}<batch_size> 1 </batch_size>{after}")
    run(folder, STEPS)
    positions, forces, cell = at_end(folder, "run")
    assert len(positions) == BEADS
    assert np.abs(positions - positions.mean(axis=0)).max() > 0.01
    base, correction = terms(folder, "mm", "dftb"), terms(folder, "correction")
    own = correction(positions, cell).forces
    centroid = correction(positions.mean(axis=0)[None], cell)
    expected = base(positions, cell).forces + centroid.forces
    np.testing.assert_allclose(forces, expected, atol=ROUNDING, rtol=0.0)
    assert np.abs(own - centroid.forces).max() > 10.0 * ROUNDING
    table = read_properties(folder / "run.out")
    assert table["pot_component(1)"][-1] == pytest.approx(centroid.energies[0], abs=1e-5)
    assert table["potential"][-1] == pytest.approx(table["pot_component(0)"][-1] + table["pot_component(1)"][-1])
    # The spread of the one frame, for every bead.
    spreads = [read_extras(file)[1][-1, 0] for file in bead_files(folder, "run", "spread")]
    np.testing.assert_allclose(spreads, centroid.extras["committee_energy_spread"][0], rtol=1e-2)


def test_correction_acts_at_outer_steps(tmp_path):
    """One outer step of 1 fs has two inner ones; the correction is asked for once."""
    folder = prepared(tmp_path)
    run(folder, STEPS, input="mts.xml")
    positions, forces, cell = at_end(folder, "mts")
    expected = terms(folder, "mm", "dftb", "correction")(positions, cell).forces
    np.testing.assert_allclose(forces, expected, atol=ROUNDING, rtol=0.0)
    table = read_properties(folder / "mts.out")
    np.testing.assert_allclose(table["time"], np.arange(STEPS + 1.0))
    assert np.ptp(table["conserved"]) < 0.05 * np.ptp(table["potential"])
    frames = [frames_served(file) for file in sorted(folder.glob("driver*.log"))]
    correction, base = sorted(frames)
    # At the start, where all beads are in one place, i-PI asks for one of them.
    assert BEADS * STEPS < correction <= BEADS * (STEPS + 1)
    assert BEADS * 2 * STEPS < base <= BEADS * (2 * STEPS + 1)


def frames_served(log):
    """What a driver says at its end."""
    return int(re.search(r"(\d+) frames", log.read_text())[1])
