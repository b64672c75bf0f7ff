"""The case `geometry`: a minimum and vibrations of the QM region in frozen water."""

import re

import numpy as np

from deltaqmmm.analysis.outputs import read_properties, read_trajectory
from deltaqmmm.analysis.spectra import harmonic_wavenumbers, normal_modes
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM, DALTON
from tests.integration.inputs.case import make, run

STEPS, N_QM, STEP = 12, 12, 0.005
FREE = (6, 8)  # an oxygen and a hydrogen: enough of a Hessian


def test_qm_region_relaxes_and_the_rest_stays(tmp_path):
    folder = make("geometry", tmp_path, every=None)
    run(folder, STEPS)
    potential = read_properties(folder / "minimise.out")["potential"]
    assert len(potential) == STEPS + 1
    assert (np.diff(potential) <= 0.0).all()
    assert potential[-1] < potential[0] - 5e-3
    positions = read_trajectory(folder / "minimise.pos_0.xyz").values
    moved = np.linalg.norm(positions[-1] - positions[0], axis=1)
    assert moved[:N_QM].min() > 1e-4
    assert moved[N_QM:].max() == 0.0
    forces = read_trajectory(folder / "minimise.forces_0.xyz").values[:, :N_QM]
    assert np.abs(forces[-1]).max() < 0.5 * np.abs(forces[0]).max()


def test_hessian_is_that_of_the_potential(tmp_path):
    """At the checkpoint of the minimisation, with two free atoms."""
    folder = make("geometry", tmp_path, every=None)
    run(folder, 2)
    file = folder / "vibrations.xml"
    text = file.read_text()
    fixed = [atom for atom in range(204) if atom not in FREE]
    text = re.sub(r"<fixatoms>.*?</fixatoms>", f"<fixatoms> {fixed} </fixatoms>", text, flags=re.DOTALL)
    text = re.sub(r"<!-- Where input.xml ended.*?(<file mode='chk'>.*?</file>) -->\s*<file.*?</file>", r"\1", text,
                  flags=re.DOTALL)  # fmt: skip
    file.write_text(text)
    run(folder, input="vibrations.xml")
    hessian = np.loadtxt(folder / "vibrations.phonons.hess")

    loaded = load_potential(read_config(folder / "config.toml"))
    read = read_trajectory(folder / "minimise.pos_0.xyz")
    start, cell = read.values[-1] * ANGSTROM, read.cells[-1] * ANGSTROM
    expected = np.empty((6, 6))
    for row in range(6):
        frames = np.stack([start, start])
        frames[:, FREE[row // 3], row % 3] += [STEP, -STEP]
        forces = loaded.evaluate(np.stack([cell, cell]), frames).forces[:, list(FREE)].reshape(2, 6)
        expected[row] = -(forces[0] - forces[1]) / (2.0 * STEP)
    expected = 0.5 * (expected + expected.T)
    assert np.abs(expected).max() > 0.3
    # The trajectory has nine digits, and forces follow the SCC to 1e-8.
    np.testing.assert_allclose(hessian, expected, atol=2e-4)
    wavenumbers = np.sort(harmonic_wavenumbers(np.loadtxt(folder / "vibrations.phonons.eigval")))
    own, _ = normal_modes(hessian, np.array([15.9994, 1.00794]) * DALTON)
    np.testing.assert_allclose(wavenumbers, own, atol=0.5)
    assert 2500.0 < wavenumbers[-1] < 3500.0
