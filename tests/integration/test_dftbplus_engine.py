"""DFTB+ as the engine of the driver: the whole potential, runs with i-PI, the comparison, and ends of all kinds."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from deltaqmmm.build.ipi_input import init_xyz, input_xml
from deltaqmmm.cli.console import describe
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.labels import label_settings
from deltaqmmm.config.loading import load_potential
from deltaqmmm.config.training import baseline_name
from deltaqmmm.system import System
from deltaqmmm.topology import load_topology
from deltaqmmm.units import BOHR_IN_ANGSTROM
from tests.integration.ipi.server import unique_name
from tests.integration.pair import BIN
from tests.integration.test_same_trajectory import BEADS, CONFIG, DATA, run
from tests.processes import children, ended, running

pytestmark = pytest.mark.usefixtures("dftbplus")


def with_engine(*lines, text=CONFIG):
    """A configuration with DFTB+ and further lines in [dftb]."""
    return text.replace("[dftb]\n", "\n".join(["[dftb]", 'engine = "dftb+"', *lines, ""]))


def lines_in(file):
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.fixture
def topology():
    return load_topology(DATA / "uracil_droplet.prmtop", DATA / "uracil_droplet.rst7")


@pytest.fixture
def system(topology):
    return System.from_topology(topology, np.arange(12))


@pytest.fixture
def frames(tmp_path, topology, system):
    """Three frames of the droplet in a file."""
    generator = np.random.default_rng(4)
    positions = topology.positions[system.atom_particles] * BOHR_IN_ANGSTROM
    moved = [positions + 0.02 * generator.standard_normal(positions.shape) for _ in range(3)]
    write(tmp_path / "frames.extxyz", [Atoms(list(system.symbols), positions=one) for one in moved])
    return tmp_path / "frames.extxyz"


def evaluate(folder, frames, name, text):
    """Frames with energies and forces, by the command."""
    (folder / f"{name}.toml").write_text(text)
    output = folder / f"{name}.extxyz"
    assert main(["evaluate", str(folder / f"{name}.toml"), str(frames), "-o", str(output), "-q"]) == 0
    return read(output, index=":")


@pytest.mark.parametrize("dispersion", ["none", "d3bj"])
def test_the_whole_potential_is_the_same(tmp_path, frames, dispersion):
    line = f'dispersion = "{dispersion}"'
    ours = evaluate(tmp_path, frames, "ours", CONFIG.replace("[dftb]\n", f"[dftb]\n{line}\n"))
    theirs = evaluate(tmp_path, frames, "theirs", with_engine(line, "threads = 2"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-8)
        assert np.abs(one.get_forces() - other.get_forces()).max() < 1e-5
        assert np.abs(one.get_charges() - other.get_charges()).max() < 1e-8
        assert other.info["scc_iterations"] > 3


def test_what_is_said_of_it_and_what_a_label_means(tmp_path, dftbplus):
    (tmp_path / "config.toml").write_text(with_engine("threads = 2"))
    (tmp_path / "builtin.toml").write_text(CONFIG)
    loaded = load_potential(read_config(tmp_path / "config.toml"))
    assert f"DFTB3 3ob-3-1, DFTB+ {dftbplus.version} in 2 processes, {dftbplus.file}" in describe(loaded)
    labels = [label_settings(read_config(tmp_path / name), loaded.system) for name in ("config.toml", "builtin.toml")]
    assert labels[0] == labels[1], "both engines compute the same method, so a model of one fits the other"


HSD = """
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = 1e-11
  ThirdOrderFull = Yes
  HubbardDerivs {{ H = -0.1857; C = -0.1492; N = -0.1535; O = -0.1575 }}
  HCorrection = Damping {{ Exponent = 4.0 }}
  MaxAngularMomentum {{ H = "s"; C = "p"; N = "p"; O = "p" }}
  SlaterKosterFiles = Type2FileNames {{ Prefix = "{folder}/"; Separator = "-"; Suffix = ".skf" }}
}}
Analysis {{ CalculateForces = Yes }}
ParserOptions {{ ParserVersion = 12 }}
"""


def test_an_input_of_the_user(tmp_path, frames, slater_koster_folder):
    (tmp_path / "mine.hsd").write_text(HSD.format(folder=slater_koster_folder))
    given = with_engine('hsd = "mine.hsd"', text=CONFIG.replace("scc_tolerance = 1e-11\n", ""))
    ours, theirs = evaluate(tmp_path, frames, "ours", CONFIG), evaluate(tmp_path, frames, "theirs", given)
    for one, other in zip(ours, theirs, strict=True):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-8)
        assert np.abs(one.get_forces() - other.get_forces()).max() < 1e-5
    loaded = load_potential(read_config(tmp_path / "theirs.toml"))
    assert "as mine.hsd says, DFTB+" in describe(loaded)
    baselines = [label_settings(read_config(tmp_path / f"{name}.toml"), loaded.system) for name in ("ours", "theirs")]
    assert baselines[0] != baselines[1], "what the file says is not known"
    assert baseline_name(loaded.config) == "DFTB+ (mine.hsd)"


def test_forces_are_checked_by_the_command(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(with_engine())
    assert main(["check", str(tmp_path / "config.toml"), "--atoms", "1"]) == 0
    assert "All forces agree" in capsys.readouterr().out


def test_compare_prints_a_table_and_writes_a_figure(tmp_path, frames, capsys):
    (tmp_path / "config.toml").write_text(CONFIG)
    figure = tmp_path / "figure.png"
    words = ["compare", str(tmp_path / "config.toml"), str(frames), "-o", str(figure), "--batch", "2", "-q"]
    assert main(words) == 0
    output = capsys.readouterr().out
    rows = {line.split("  ")[1].strip(): line.split() for line in output.splitlines() if line.startswith("  ")}
    assert "Differences on 3 frames" in output
    assert 0.0 < float(rows["energy"][2]) < 1e-9
    assert 0.0 < float(rows["charges"][2]) < 1e-8
    assert 0.0 < float(rows["forces, QM atoms"][4]) < 1e-6
    assert 0.0 < float(rows["forces, MM atoms"][4]) < 1e-8
    assert float(rows["builtin"][1]) > 0.0
    assert float(rows["dftb+"][2]) > 3.0, "SCC cycles"
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["figure.pdf", "figure"])
def test_compare_writes_nothing_but_png(tmp_path, frames, capsys, name):
    (tmp_path / "config.toml").write_text(CONFIG)
    assert main(["compare", str(tmp_path / "config.toml"), str(frames), "-o", str(tmp_path / name), "-q"]) != 0
    assert f"{name}: the figure is written as PNG" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_compare_warns_where_the_methods_are_others(tmp_path, frames, capsys, slater_koster_folder):
    (tmp_path / "mine.hsd").write_text(HSD.format(folder=slater_koster_folder))
    text = with_engine('hsd = "mine.hsd"', text=CONFIG.replace("scc_tolerance = 1e-11\n", ""))
    (tmp_path / "config.toml").write_text(text)
    words = ["compare", str(tmp_path / "config.toml"), str(frames), "-o", str(tmp_path / "figure.png"), "-q"]
    assert main(words) == 0
    assert "Warning: DFTB+ computes what mine.hsd says, and the builtin engine DFTB3 3ob" in capsys.readouterr().out


def test_either_engine_gives_the_same_trajectory(tmp_path):
    """20 steps of 4 beads through i-PI."""
    expected, conserved = run(tmp_path / "ours", "unix", BEADS)
    positions, values = run(tmp_path / "theirs", "unix", BEADS, with_engine("workers = 2"))
    assert np.abs(expected[-1] - expected[0]).max() > 1e-2, "the atoms should have moved"
    assert np.abs(positions - expected).max() < 1e-7
    assert np.abs(values - conserved).max() < 1e-7


def test_an_scc_that_fails_ends_the_command_and_leaves_nothing(tmp_path, frames):
    """No charges are as exact as this tolerance: the safer set-ups fail too."""
    (tmp_path / "config.toml").write_text(with_engine("max_scc_iterations = 5", text=CONFIG.replace("1e-11", "1e-30")))
    done = subprocess.run(
        [sys.executable, "-m", "deltaqmmm.cli.main", "evaluate", "config.toml", frames, "-o", "out.extxyz"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "the SCC of frame 0 of the batch did not converge in DFTB+" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.extxyz").exists()
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))


@pytest.fixture
def pair(tmp_path, topology, system):
    """i-PI and a driver with two workers under way: (i-PI, driver, pids of the workers)."""
    processes = []

    def start(steps, *lines, wait=True):
        address = unique_name("dftbp")
        (tmp_path / "config.toml").write_text(with_engine("workers = 2", *lines))
        (tmp_path / "init.xyz").write_text(init_xyz(system.symbols, topology.positions, None))
        text = input_xml(
            address=address,
            nbeads=2,
            temperature_kelvin=300.0,
            timestep_femtosecond=0.5,
            steps=steps,
            ensemble="nvt",
            seed=3,
        )
        (tmp_path / "input.xml").write_text(text)
        with (tmp_path / "log").open("w") as log:
            processes.append(subprocess.Popen([BIN / "i-pi", "input.xml"], cwd=tmp_path, stdout=log, stderr=log))
            command = [sys.executable, "-m", "deltaqmmm.cli.main", "drive", "config.toml", "-u", "-a", address]
            processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        deadline = time.monotonic() + 120.0
        while wait and lines_in(tmp_path / "run.out") < 12:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert processes[1].poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        return *processes, children(processes[1].pid)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_run_goes_on_where_a_worker_is_killed(tmp_path, pair):
    ipi, driver, workers = pair(60)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert driver.wait(120) == 0
    assert ipi.wait(60) == 0
    assert "ended by the signal SIGKILL (by hand, or for want of memory). Once more." in (tmp_path / "log").read_text()
    assert ended(workers)


def test_no_worker_outlives_a_driver_that_is_killed(pair):
    _, driver, workers = pair(100_000)
    assert all(map(running, workers))
    driver.kill()
    driver.wait()
    assert ended(workers)


@pytest.mark.slow
def test_a_run_goes_on_where_every_first_attempt_fails(tmp_path, pair):
    """Too few cycles from neutral atoms: careful mixing finds the charges, in processes of its own."""
    ipi, driver, _ = pair(3, "max_scc_iterations = 14", wait=False)
    assert driver.wait(300) == 0
    assert ipi.wait(60) == 0
    assert "retrying with careful mixing" in (tmp_path / "log").read_text()
