"""The QM/MM potential over every transport: the same 20 steps of 4 beads, and independence of the SCC's history."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from deltaqmmm.build.ipi_input import init_xyz, input_xml
from deltaqmmm.system import System
from deltaqmmm.topology import load_topology
from tests.integration.ipi.server import free_port, unique_name

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
BIN = Path(sys.executable).parent
STEPS, BEADS = 20, 4

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


def run(folder, mode, batch_size):
    """Positions of all beads at the last step, angstrom, and the conserved quantities, hartree."""
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG)
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
        (r"stride='\d+'", "stride='1'"),
        (r"verbosity='medium'", "verbosity='low' floatformat='%25.17e'"),
    ):
        text = re.sub(pattern, value, text)
    (folder / "input.xml").write_text(text)
    flags = {
        "unix": ["-u", "-a", address],
        "shm": ["--shm", "-a", address],
        "inet": ["-a", "localhost", "-p", str(port)],
    }
    with (folder / "ipi.log").open("w") as log:
        processes = [subprocess.Popen([BIN / "i-pi", "input.xml"], cwd=folder, stdout=log, stderr=log)]
        command = [BIN / "deltaqmmm", "drive", "config.toml", *flags[mode], "--quiet"]
        processes.append(subprocess.Popen(command, cwd=folder))
        try:
            codes = [process.wait(150) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert codes == [0, 0], (folder / "ipi.log").read_text()[-2000:]
    beads = [last_frame(folder / f"run.pos_{bead}.xyz", len(system.symbols)) for bead in range(BEADS)]
    return np.array(beads), np.loadtxt(folder / "run.out")[:, 2]


def last_frame(path, n_atoms):
    lines = path.read_text().splitlines()[-n_atoms:]
    return np.array([[float(word) for word in line.split()[1:]] for line in lines])


def test_every_transport_gives_the_same_trajectory(tmp_path):
    expected, conserved = run(tmp_path / "reference", "unix", BEADS)
    start = run_start(tmp_path / "reference")
    assert np.abs(expected - start).max() > 1e-2, "the atoms should have moved"
    for mode, batch_size in (("unix", 1), ("inet", BEADS), ("inet", 1), ("shm", BEADS), ("shm", 1)):
        positions, values = run(tmp_path / f"{mode}{batch_size}", mode, batch_size)
        assert np.abs(positions - expected).max() < 1e-9, (mode, batch_size)
        assert np.abs(values - conserved).max() < 1e-9, (mode, batch_size)


def run_start(folder):
    return last_frame(folder / "init.xyz", int((folder / "init.xyz").read_text().split(maxsplit=1)[0]))
