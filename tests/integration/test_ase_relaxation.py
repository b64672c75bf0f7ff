"""The driver under ASE's SocketIOCalculator, a second and independent server."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.socketio import SocketIOCalculator
from ase.optimize import FIRE
from ase.units import Bohr, Hartree

from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from tests.integration.ipi.server import unique_name

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
STEPS = 6

CONFIG = f"""
[system]
topology = "{DATA / "uracil_droplet.prmtop"}"
coordinates = "{DATA / "uracil_droplet.rst7"}"
[qm]
residues = ["URA"]
[dftb]
scc_tolerance = 1e-10
[embedding]
kind = "all"
[mm]
platform = "Reference"
"""


class DirectCalculator(Calculator):
    """The same potential without a socket."""

    implemented_properties = ("energy", "forces")

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        evaluation = self.potential.evaluate(np.zeros((1, 3, 3)), atoms.positions[None] / Bohr)
        self.results = {
            "energy": evaluation.energies[0] * Hartree,
            "forces": evaluation.forces[0] * Hartree / Bohr,
        }


def relax(atoms):
    FIRE(atoms, logfile=None).run(fmax=1e-6, steps=STEPS)
    return atoms.positions.copy(), atoms.get_potential_energy()


def test_relaxation_over_the_socket_equals_the_direct_one(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    loaded = load_potential(read_config(tmp_path / "config.toml"))
    atoms = Atoms(loaded.system.symbols, loaded.topology.positions * Bohr)
    start = atoms.get_positions()
    direct = atoms.copy()
    direct.calc = DirectCalculator(loaded.potential)
    expected, energy = relax(direct)
    assert np.abs(expected - start).max() > 1e-3

    address = unique_name("ase")
    command = [Path(sys.executable).with_name("deltaqmmm"), "drive", "config.toml", "-u", "-a", address, "--quiet"]
    driver = subprocess.Popen(command, cwd=tmp_path)
    try:
        with SocketIOCalculator(unixsocket=address, timeout=120) as calculator:
            atoms.calc = calculator
            positions, over_socket = relax(atoms)
        assert driver.wait(30) == 0
    finally:
        driver.kill()
        driver.wait()
    assert np.abs(positions - expected).max() < 1e-9
    assert abs(over_socket - energy) < 1e-8
