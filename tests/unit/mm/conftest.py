"""The systems that the MM tests share."""

from pathlib import Path

import numpy as np
import openmm
import pytest

from deltaqmmm.mm import OpenMMEngine, OpenMMSettings
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM

DATA = Path(__file__).parents[2] / "data" / "mm_systems"
SHORT = NonbondedSettings(cutoff=8.0 * ANGSTROM, switch_distance=7.0 * ANGSTROM, ewald_tolerance=1e-5)


class Case:
    """A topology, its split, and the frame that came with it."""

    def __init__(self, topology, qm_atoms):
        self.topology = topology
        self.system = System.from_topology(topology, qm_atoms)
        self.positions = topology.positions[self.system.atom_particles]
        self.cell = topology.cell

    def engine(self, **settings):
        return OpenMMEngine(self.topology, self.system, OpenMMSettings(**{"platform": "Reference", **settings}))

    def evaluate(self, positions=None, cell=None, **settings):
        """Evaluate one frame (or a batch) on the Reference platform."""
        frames = np.array(self.positions if positions is None else positions, ndmin=3)
        cells = None
        if self.topology.periodic:
            cells = np.broadcast_to(self.cell if cell is None else cell, (len(frames), 3, 3))
        return self.engine(**settings).evaluate(frames, cells)


def load_case(name, qm_atoms, coordinates="rst7", topology="prmtop"):
    return Case(load_topology(DATA / f"{name}.{topology}", DATA / f"{name}.{coordinates}", SHORT), qm_atoms)


@pytest.fixture(scope="session")
def box():
    return load_case("uracil_box", range(12))


@pytest.fixture(scope="session")
def droplet():
    return load_case("uracil_droplet", range(12))


@pytest.fixture(scope="session")
def four_site():
    """Four-site water; the second molecule is QM, and with it a virtual site."""
    return load_case("four_site_water", [3, 4, 5], "pdb", "xml")


@pytest.fixture
def from_openmm(tmp_path):
    """Return a function that makes a case from an OpenMM system; every particle is a residue of its own in the PDB."""

    def make(system, positions, elements, qm_atoms):
        lines = []
        if system.usesPeriodicBoundaryConditions():
            lengths = [10.0 * system.getDefaultPeriodicBoxVectors()[k][k]._value for k in range(3)]
            lines.append("CRYST1" + "".join(f"{x:9.3f}" for x in lengths) + "  90.00  90.00  90.00 P 1           1")
        for i, (position, element) in enumerate(zip(np.asarray(positions) / ANGSTROM, elements, strict=True)):
            x, y, z = position
            lines.append(
                f"HETATM{i + 1:5d} {element:^4s} RES A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"  1.00  0.00          {element:>2s}"
            )
        (tmp_path / "system.pdb").write_text("\n".join([*lines, "END", ""]))
        (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        return Case(load_topology(tmp_path / "system.xml", tmp_path / "system.pdb"), qm_atoms)

    return make
