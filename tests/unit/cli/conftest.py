from types import SimpleNamespace

import numpy as np
import pytest

from deltaqmmm.results import Evaluation
from deltaqmmm.system import System
from deltaqmmm.topology import load_topology


@pytest.fixture(scope="session")
def droplet(data_folder):
    """Topology and system of uracil in a droplet of water."""
    systems = data_folder / "mm_systems"
    topology = load_topology(systems / "uracil_droplet.prmtop", systems / "uracil_droplet.rst7")
    return SimpleNamespace(topology=topology, system=System.from_topology(topology, range(12), 0))


@pytest.fixture(scope="session")
def three_atoms():
    """As much of a system as frames are checked against: water, periodic, its oxygen QM."""
    return SimpleNamespace(
        symbols=("O", "H", "H"), n_atoms=3, n_particles=3, periodic=True, qm_atoms=np.array([0]), qm_symbols=("O",)
    )


@pytest.fixture
def springs():
    """An evaluation that is easy to differentiate: every atom on an anharmonic spring to the origin."""

    def evaluate(cells, positions):
        energies = np.sum(positions**2 + 0.1 * positions**3, axis=(1, 2))
        return Evaluation(
            energies,
            -(2.0 * positions + 0.3 * positions**2),
            None,
            {"mm": energies * 0.25, "dftb": energies * 0.75},
            {
                "qm_charges": np.full((len(positions), 1), -0.5),
                "qm_dipole": np.ones((len(positions), 3)),
                "scc_iterations": np.full(len(positions), 7),
            },
        )

    return evaluate
