"""Classical MD at constant temperature: what the outputs say, and other cases that start from it."""

import re

import numpy as np
import pytest
from ase.data import atomic_masses, atomic_numbers

from deltaqmmm.analysis.outputs import bead_files, read_extras, read_positions, read_properties, read_trajectory
from deltaqmmm.units import ANGSTROM, DALTON, KELVIN
from tests.integration.inputs.case import make, run

N_QM, STEPS = 12, 40


def momenta(folder):
    """Of the last step, shape (N, 3), atomic units."""
    text = re.search(r"<p shape='[^']*'>\s*\[(.*?)\]", (folder / "RESTART").read_text(), re.DOTALL)[1]
    return np.array(text.split(","), dtype=float).reshape(-1, 3)


@pytest.mark.parametrize(("file", "prefix"), [("input.xml", "run"), ("gle.xml", "gle")])
def test_both_thermostats(tmp_path, file, prefix):
    folder = make("nvt", tmp_path, steps=STEPS)
    run(folder, input=file)
    out, groups = read_properties(folder / f"{prefix}.out"), read_properties(folder / f"{prefix}.groups")
    assert list(out["step"]) == list(range(STEPS + 1))
    # The thermostat does something, and what it does is accounted for.
    assert np.ptp(out["kinetic_md"] + out["potential"]) > 1e-3
    assert np.ptp(out["conserved"]) < 5e-4
    # The kinetic energies of the QM atoms, from the momenta of the checkpoint.
    symbols = read_trajectory(folder / f"{prefix}.pos_0.xyz", limit=1).symbols
    masses = atomic_masses[[atomic_numbers[symbol] for symbol in symbols]] * DALTON
    kinetic = 0.5 * (momenta(folder) ** 2).sum(axis=1) / masses
    # ASE's masses and i-PI's have four digits in common.
    written = np.array([groups[f"kinetic_md({atom})"][-1] for atom in range(N_QM)])
    np.testing.assert_allclose(written, kinetic[:N_QM], rtol=1e-3)
    assert groups["kinetic_md"][-1] == pytest.approx(kinetic.sum(), rel=1e-3)
    # Nothing moves as a whole with velocity rescaling, nor with the GLE.
    assert np.abs(momenta(folder).sum(axis=0)).max() < 1e-5
    assert out["temperature"][-1] == pytest.approx(2.0 * kinetic.sum() / (3 * (len(symbols) - 1) * KELVIN), rel=1e-3)


def test_charges_and_dipole_belong_to_the_positions(tmp_path):
    folder = make("nvt", tmp_path, steps=4)
    run(folder)
    steps, charges = read_extras(folder / "run.qm_charges_0")
    dipoles = read_extras(folder / "run.qm_dipole_0")[1]
    positions = read_positions(folder / "run.pos_0.xyz")[2][:, :N_QM] * ANGSTROM
    assert list(steps) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(charges.sum(axis=1), 0.0, atol=1e-6)
    # Uracil is whole in small/. Positions are written with six digits.
    np.testing.assert_allclose(np.einsum("fa,fax->fx", charges, positions), dipoles, atol=2e-3)


@pytest.mark.parametrize("beads", [1, 2])
def test_other_cases_start_from_its_checkpoint(tmp_path, beads):
    """As its README says."""
    before = make("nvt", tmp_path, steps=6)
    run(before)
    after = make("pimd", tmp_path, beads=beads, steps=1)
    text = (after / "input.xml").read_text()
    changed, count = re.subn(r"<file mode='xyz'>[^<]*</file>", "<file mode='chk'> ../nvt/RESTART </file>", text)
    assert count == 1
    (after / "input.xml").write_text(changed)
    run(after)
    last = read_positions(before / "run.pos_0.xyz")[2][-1]
    for file in bead_files(after, "run", "pos"):
        np.testing.assert_allclose(read_positions(file)[2][0], last, atol=2e-4)
    assert len(bead_files(after, "run", "pos")) == beads
