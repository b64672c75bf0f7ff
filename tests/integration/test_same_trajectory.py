"""The QM/MM potential over every transport: the same 20 steps of 4 beads, and independence of the SCC's history."""

import re
from pathlib import Path

import numpy as np

from deltaqmmm.build.ipi_input import init_xyz, input_xml
from deltaqmmm.system import System
from deltaqmmm.topology import load_topology
from tests.integration.ipi.server import free_port, unique_name
from tests.integration.pair import run_pair

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
STEPS, BEADS = 20, 4
# QM atoms and waters from near to far.
ATOMS = (*range(12), 12, 13, 50, 51, 200, 341)
COLUMNS = ", ".join(f"atom_x(atom={atom};bead={bead})" for bead in range(BEADS) for atom in ATOMS)

CONFIG = f"""
[system]
topology = "{DATA / "uracil_droplet.prmtop"}"
coordinates = "{DATA / "uracil_droplet.rst7"}"
[qm]
residues = ["URA"]
charge = 0
[dftb]
scc_tolerance = 1e-11
[embedding]
kind = "all"
[mm]
platform = "Reference"
[driver]
threads = 1
"""


def run(folder, mode, batch_size, config=CONFIG):
    """Some positions of all beads at every step, bohr, and the conserved quantities, hartree, with all digits."""
    folder.mkdir()
    (folder / "config.toml").write_text(config)
    topology = load_topology(DATA / "uracil_droplet.prmtop", DATA / "uracil_droplet.rst7")
    system = System.from_topology(topology, np.arange(12))
    (folder / "init.xyz").write_text(init_xyz(system.symbols, topology.positions, None))
    address, port = unique_name("same"), free_port()
    text = input_xml(
        address=address,
        nbeads=BEADS,
        temperature_kelvin=300.0,
        timestep_femtosecond=0.5,
        steps=STEPS,
        ensemble="nvt",
        seed=3,
    )
    place = (
        f"<address> localhost </address> <port> {port} </port>" if mode == "inet" else f"<address> {address} </address>"
    )
    for pattern, value in (
        (r"mode='unix'", f"mode='{mode}'"),
        (r"<address>.*?</address>", place),
        (r"<batch_size>.*?</batch_size>", f"<batch_size> {batch_size} </batch_size>"),
        # i-PI writes six digits of positions into xyz files, and as many as `floatformat` says of properties.
        (r"\[ step.*?\]", f"[ conserved, {COLUMNS} ]"),
        (r"verbosity='medium'", "verbosity='low' floatformat='%25.17e'"),
    ):
        text = re.sub(pattern, value, text)
    (folder / "input.xml").write_text(text)
    flags = {
        "unix": ["-u", "-a", address],
        "shm": ["--shm", "-a", address],
        "inet": ["-a", "localhost", "-p", str(port)],
    }
    run_pair(folder, flags[mode], timeout=150)
    table = np.loadtxt(folder / "run.out")
    assert len(table) == STEPS + 1
    return table[:, 1:], table[:, 0]


def test_every_transport_gives_the_same_trajectory(tmp_path):
    expected, conserved = run(tmp_path / "reference", "unix", BEADS)
    assert np.abs(expected[-1] - expected[0]).max() > 1e-2, "the atoms should have moved"
    for mode, batch_size in (("unix", 1), ("inet", BEADS), ("inet", 1), ("shm", BEADS), ("shm", 1)):
        positions, values = run(tmp_path / f"{mode}{batch_size}", mode, batch_size)
        assert np.abs(positions - expected).max() < 1e-9, (mode, batch_size)
        assert np.abs(values - conserved).max() < 1e-9, (mode, batch_size)
