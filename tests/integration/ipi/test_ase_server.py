"""ASE's SocketIOCalculator as a second, independent server."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.socketio import SocketIOCalculator
from ase.optimize import BFGS
from ase.units import Bohr, Hartree

from deltaqmmm.ipi import Client, ClientSettings, ExpectedFrames, StopRequest, UnixAddress
from tests.integration.ipi import toy_potential
from tests.integration.ipi.server import unique_name


class ToyCalculator(Calculator):
    """The toy potential without any socket."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        frame = toy_potential.evaluate_one(atoms.cell.array / Bohr, atoms.positions / Bohr)
        stress = frame["strain"].T * Hartree / atoms.get_volume()
        self.results = {
            "energy": (frame["wells"] + frame["springs"] + frame["cell"]) * Hartree,
            "forces": frame["forces"] * Hartree / Bohr,
            "stress": np.array([stress[0, 0], stress[1, 1], stress[2, 2], *_off_diagonal(stress)]),
        }


def _off_diagonal(stress):
    symmetric = 0.5 * (stress + stress.T)
    return symmetric[1, 2], symmetric[0, 2], symmetric[0, 1]


def _atoms():
    positions = toy_potential.origins(4) + np.array(
        [[0.3, -0.2, 0.1], [0.0, 0.4, 0.2], [-0.3, 0.1, 0.0], [0.2, 0.2, -0.4]]
    )
    cell = np.array([[10.0, 0.0, 0.0], [1.5, 9.0, 0.0], [-2.0, 0.7, 11.0]])
    return Atoms("OH2N", positions=positions * Bohr, cell=cell * Bohr, pbc=True)


def _relax(atoms):
    optimizer = BFGS(atoms, logfile=None)
    optimizer.run(fmax=1e-3, steps=40)
    return optimizer.nsteps


def test_relaxation_over_the_socket_equals_the_direct_one():
    name = unique_name("ase")
    reports, outcomes = [], []
    stop = StopRequest()
    client = Client(
        UnixAddress(name),
        toy_potential.evaluate,
        ExpectedFrames(4),
        ClientSettings(wait_seconds=20.0),
        on_step=reports.append,
    )
    thread = threading.Thread(target=lambda: outcomes.append(client.run(stop)))
    direct, served = _atoms(), _atoms()
    direct.calc = ToyCalculator()
    direct_steps = _relax(direct)
    thread.start()
    try:
        with SocketIOCalculator(unixsocket=name, timeout=20.0) as calculator:
            served.calc = calculator
            served_steps = _relax(served)
            stress = served.get_stress()
            energy = served.get_potential_energy()
        thread.join(10.0)
    finally:
        stop.trigger()
        thread.join(10.0)
        stop.close()
    assert served_steps == direct_steps > 5
    np.testing.assert_allclose(served.positions, direct.positions, rtol=0.0, atol=1e-9)
    assert energy == pytest.approx(direct.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(stress, direct.get_stress(), rtol=0.0, atol=1e-9)
    # ASE closes the socket without EXIT.
    assert [outcome.exit_code for outcome in outcomes] == [0]
    assert [report.step for report in reports] == list(range(1, len(reports) + 1))
    assert outcomes[0].n_steps == len(reports) > direct_steps
