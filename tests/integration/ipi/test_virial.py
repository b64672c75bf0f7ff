"""The virial that i-PI uses: sign, transposition and units, in a triclinic cell."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.ipi import toy_potential
from tests.integration.ipi.server import IpiServer, ffdirect, ffsocket, make_input, toy_client, unique_name
from tests.integration.ipi.test_transports import PES

# Columns of h are lattice vectors on i-PI's side; rows are ours.
COLUMNS = np.array([[10.0, 1.5, -2.0], [0.0, 9.0, 0.7], [0.0, 0.0, 11.0]])


@pytest.mark.parametrize("way", ["unix", "shm", "direct"])
def test_virial_in_ipi(tmp_path, way):
    name = unique_name("virial")
    element = ffdirect(PES) if way == "direct" else ffsocket(way, name)
    xml = make_input(element, steps=1, beads=1, properties=("step", "virial_md", "volume", "potential"), ensemble="nve")
    with IpiServer(tmp_path, xml) as server:
        if way == "direct":
            assert server.wait(60) == 0, server.output
        else:
            with toy_client(tmp_path, "--shm" if way == "shm" else "-u", "-a", name) as client:
                assert server.wait(60) == 0, server.output
                assert client.wait(30) == 0, client.output
        table = server.properties()
    positions = np.array([table[f"atom_x(atom={atom};bead=0)"][0] for atom in range(3)])
    cell = COLUMNS.T
    volume = float(np.linalg.det(cell))
    assert table["volume"][0] == pytest.approx(volume, rel=1e-10)
    assert table["potential"][0] == pytest.approx(float(_energy(cell, positions)), rel=1e-10)

    # By finite differences of the energy, with i-PI's convention: h -> (1 + e) h and r -> (1 + e) r for column vectors.
    expected = np.zeros((3, 3))
    step = 1e-5
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1.0, -1.0):
                strain = np.eye(3)
                strain[a, b] += sign * step
                energies.append(_energy((strain @ COLUMNS).T, positions @ strain.T))
            expected[a, b] = -(energies[0] - energies[1]) / (2.0 * step)
    assert abs(expected - expected.T).max() > 0.1 * abs(expected).max(), "a forgotten transposition must show"
    upper = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    wanted = np.array([expected[index] for index in upper]) / volume
    np.testing.assert_allclose(table["virial_md"][0], wanted, rtol=1e-6, atol=1e-6 * abs(wanted).max())


def _energy(cell, positions):
    frame = toy_potential.evaluate_one(cell, positions)
    return frame["wells"] + frame["springs"] + frame["cell"]
