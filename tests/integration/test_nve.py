"""Conservation of energy through i-PI: the worked example at constant energy, without and with its model."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.build.ipi_input import input_xml
from tests.integration.ipi.server import unique_name
from tests.integration.pair import run_pair

EXAMPLE = Path(__file__).parents[2] / "examples" / "uracil_water"
STEPS, STEP_FEMTOSECOND = 4000, 0.25
DRIFT = 5e-7
INNER, OUTER = 12.0, 14.0
N_ATOMS = 3012


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("nve"), corrected=False)


@pytest.mark.slow
def test_energy_is_conserved_for_one_picosecond(plain):
    """Drift of the conserved quantity below 5e-7 hartree per atom and ps, with waters crossing the switch."""
    check(plain)


@pytest.mark.slow
def test_a_learned_correction_conserves_energy_as_well(plain, tmp_path_factory):
    """From the same start with the committee of the worked example: within the same bound, no worse oscillations."""
    # Half as long, to save time: the error of a drift is still well below the bound.
    steps = STEPS // 2
    corrected = run(tmp_path_factory.mktemp("nve"), corrected=True, steps=steps)
    check(corrected, steps=steps)
    assert np.ptp(corrected[0][:, 2]) < 1.5 * np.ptp(plain[0][: steps + 1, 2])
    # Not the same forces, but for the constant part of the energies much the same potential.
    difference = corrected[0][:, 5] - plain[0][: steps + 1, 5]
    assert np.ptp(difference) > 1e-4


def run(folder, *, corrected, steps=STEPS):
    """Properties of each step, and how many water molecules passed the switch."""
    shutil.copytree(EXAMPLE / "box", folder, dirs_exist_ok=True)
    text = (folder / "config.toml").read_text()
    head, correction = text.split("[correction]")
    assert "delta.safetensors" in correction
    model = f'[correction]\nmodel = "{EXAMPLE / "delta.safetensors"}"\n'
    (folder / "config.toml").write_text(head + (model if corrected else ""))
    address = unique_name("nve")
    text = input_xml(
        address=address,
        nbeads=1,
        temperature_kelvin=300.0,
        timestep_femtosecond=STEP_FEMTOSECOND,
        steps=steps,
        ensemble="nve",
        seed=5,
    )
    text = text.replace("verbosity='medium'", "verbosity='low' floatformat='%20.12e'")
    (folder / "input.xml").write_text(text)
    run_pair(folder, ["-u", "-a", address], timeout=1800)
    return np.loadtxt(folder / "run.out"), crossings(folder)


def check(found, steps=STEPS):
    table, crossed = found
    assert len(table) == steps + 1
    time, conserved, potential = table[:, 1] / 1000.0, table[:, 2], table[:, 5]
    slope = np.polyfit(time, conserved, 1)[0] / N_ATOMS
    # The conserved quantity also oscillates with the time step; the drift is what remains over the whole run. How well
    # it is known follows from those of the quarters.
    quarters = zip(np.array_split(time, 4), np.array_split(conserved, 4), strict=True)
    each = [np.polyfit(*quarter, 1)[0] / N_ATOMS for quarter in quarters]
    error = np.std(each, ddof=1) / 2.0
    print(f"drift {slope:.2e} +- {error:.1e} hartree/atom/ps, range {np.ptp(conserved):.2e} hartree")
    assert abs(slope) < DRIFT
    assert np.ptp(potential) > 100 * np.ptp(conserved), "energy should have flowed between kinetic and potential"
    assert crossed >= 10


def crossings(folder):
    """How many water molecules pass the middle of the switch in the trajectory, by the nearest QM atom."""
    inside = []
    edge = np.array(
        re.search(r"CELL\(abcABC\): +(\S+) +(\S+) +(\S+)", (folder / "init.xyz").read_text()).groups(), float
    )
    for positions in frames(folder / "run.pos_0.xyz", N_ATOMS):
        oxygens = positions[12::3]
        separation = oxygens[:, None] - positions[None, :12]
        separation -= edge * np.round(separation / edge)
        nearest = np.linalg.norm(separation, axis=2).min(axis=1)
        inside.append(nearest < 0.5 * (INNER + OUTER))
    changed = np.array(inside)[1:] != np.array(inside)[:-1]
    return int(changed.any(axis=0).sum())


def frames(path, n_atoms):
    lines = path.read_text().splitlines()
    for start in range(0, len(lines), n_atoms + 2):
        yield np.array([[float(word) for word in line.split()[1:]] for line in lines[start + 2 : start + 2 + n_atoms]])
