"""`deltaqmmm run` as a user runs it: real i-PI and drivers, on one QM water in a droplet; ends, kills, and going on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.cli import run_group
from deltaqmmm.cli.main import main
from deltaqmmm.cli.run_checks import alone_in
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.processes import Program
from deltaqmmm.ipi.restart import find_checkpoint
from deltaqmmm.ipi.simulation import read_simulation
from deltaqmmm.topology import load_topology
from tests.integration.droplet import ONE_WATER
from tests.integration.ipi.server import environment, free_port, read_properties, unique_name, wait_until
from tests.integration.ipi.test_processes import PATIENCE, last_step, one_with, processes_in

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

INPUT = """\
<simulation verbosity='low' floatformat='%25.17e'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, time, conserved, temperature{{kelvin}}, potential ] </properties>
    <trajectory filename='pos' stride='1' format='xyz'> positions{{angstrom}} </trajectory>
    <trajectory filename='qm_charges' stride='2' extra_type='{extra}'> extras </trajectory>
    <checkpoint filename='checkpoint' stride='4' overwrite='True'/>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 31415 </seed> </prng>
  {forcefields}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> {forces} </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.25 </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 20 </tau> </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""
LONG = 100_000


def ffsocket(name="deltaqmmm", mode="unix", address="w", port=31415, beads=1):
    batch = f"<batch_size> {beads} </batch_size>" if beads > 1 else ""
    return (
        f"<ffsocket name='{name}' mode='{mode}'> <address> {address} </address> <port> {port} </port> "
        f"<latency> 1e-4 </latency> {batch} </ffsocket>"
    )


@pytest.fixture
def work(tmp_path, data_folder, slater_koster_folder):
    """A folder to run in; at the end no process and no socket may be left."""
    systems = data_folder / "mm_systems"
    topology = load_topology(systems / "uracil_droplet.prmtop", systems / "uracil_droplet.rst7")
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "config.toml").write_text(ONE_WATER.format(systems=systems))
    (folder / "init.xyz").write_text(init_xyz(topology.symbols, topology.positions, None))

    def write(forcefields=None, names=("deltaqmmm",), steps=LONG, beads=1, extra="qm_charges"):
        forces = " ".join(f"<force forcefield='{name}'/>" for name in names)
        (folder / "input.xml").write_text(
            INPUT.format(forcefields=forcefields or ffsocket(), forces=forces, steps=steps, beads=beads, extra=extra)
        )

    before = set(Path("/tmp").glob("ipi_*"))
    yield SimpleNamespace(folder=folder, write=write, table=folder / "run.out")
    left = processes_in(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    # Other tests may run at the same time: only what is of this folder counts.
    assert not [place for place in set(Path("/tmp").glob("ipi_*")) - before if place in sockets_seen]
    sockets_seen.clear()


sockets_seen = set()


def run(work, *flags):
    return main(["run", str(work.folder), *map(str, flags)])


def start(work, *flags):
    """In a process of its own, until it has made some steps."""
    command = [sys.executable, "-m", "deltaqmmm.cli.main", "run", str(work.folder), *map(str, flags)]
    with (work.folder.parent / "run.log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    wait_until(lambda: process.poll() is not None or last_step(work.table) >= 3, PATIENCE, "three steps")
    assert process.poll() is None, said(work)
    words = [" ".join(command) for command in processes_in(work.folder).values()]
    places = {Path(place) for command in words for place in re.findall(r"-S (/\S+)/", command)}
    assert places
    assert all(place.is_dir() for place in places)
    sockets_seen.update(places)
    return process


def said(work):
    return (work.folder.parent / "run.log").read_text()


def rows(work):
    return read_properties(work.table)


def positions(work, name="run.pos_0.xyz"):
    return np.array([frame.positions for frame in read(work.folder / name, index=":", format="xyz")])


def test_to_the_end_and_further(work, capsys):
    work.write(steps=3, beads=2, forcefields=ffsocket(beads=2))
    assert run(work) == 0
    out = capsys.readouterr().out
    assert "begins with input.xml, 3 steps" in out
    assert "Finished: 3 steps" in out
    assert list(rows(work)["step"]) == [0, 1, 2, 3]
    # The prefix of the sockets of that run is not kept: `i-pi RESTART` works by hand.
    assert "sockets_prefix" not in (work.folder / "RESTART").read_text()
    # Finished is finished, until more is asked for.
    assert run(work) == 0
    out = capsys.readouterr().out
    assert "finished, RESTART is at step 3 of 3" in out
    assert "--steps 6` goes on" in out
    assert run(work, "--steps", 3) == 1
    assert run(work, "--steps", 5, "-q") == 0
    assert capsys.readouterr().out == ""
    assert list(rows(work)["step"]) == [0, 1, 2, 3, 4, 5]
    assert len(positions(work)) == len(positions(work, "run.pos_1.xyz")) == 6
    assert read_simulation(work.folder / "RESTART").total_steps == 5
    assert not list(work.folder.glob("before_*"))
    assert (work.folder / "#ipi.log#0#").exists()


def test_ctrl_c_and_on_is_as_if_it_never_happened(work, capsys):
    work.write()
    process = start(work)
    assert run(work) == 1
    assert "another `deltaqmmm run` is at work there" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not processes_in(work.folder)
    stopped = find_checkpoint(work.folder, read_simulation(work.folder / "input.xml")).simulation.step
    assert stopped >= 3
    assert f"Stopped at step {stopped} of {LONG}; `deltaqmmm run {work.folder}` goes on from there" in said(work)
    assert "i-PI sent EXIT" in (work.folder / "driver.log").read_text()
    assert run(work, "--steps", stopped + 3) == 0
    assert f"goes on from RESTART, at step {stopped} of {stopped + 3}" in capsys.readouterr().out
    assert list(rows(work)["step"]) == list(range(stopped + 4))
    broken, energies = positions(work), rows(work)["conserved"]
    # Beginning anew keeps what is there.
    assert run(work, "--fresh", "--steps", stopped + 3) == 0
    assert "of an earlier run now stand in before_1/" in capsys.readouterr().out
    assert (work.folder / "before_1" / "run.out").exists()
    assert (work.folder / "before_1" / "RESTART").exists()
    assert not list(work.folder.glob("#*"))
    np.testing.assert_allclose(positions(work), broken, atol=1e-9)
    np.testing.assert_allclose(rows(work)["conserved"], energies, atol=1e-9)


def test_a_driver_dies(work):
    work.write()
    process = start(work, "--drivers", 2)
    assert len([words for words in processes_in(work.folder).values() if "drive" in words]) == 2
    os.kill(min(pid for pid, words in processes_in(work.folder).items() if "drive" in words), signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    assert not processes_in(work.folder)
    text = said(work)
    assert re.search(r"deltaqmmm run: the driver [12] ended with status -9; .*/driver_[12].log ends with\n", text)
    assert re.search(r"All are ended, at step \d+ of .* goes on from there \(RESTART\)", text)
    assert find_checkpoint(work.folder, read_simulation(work.folder / "input.xml")).simulation.step >= 3


def test_ipi_dies_and_no_step_is_written_twice(work, capsys):
    work.write()
    process = start(work)
    wait_until(lambda: last_step(work.table) >= 6, PATIENCE, "steps after a checkpoint")
    os.kill(one_with(work.folder, "i-pi"), signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    assert not processes_in(work.folder)
    text = said(work)
    assert "i-PI ended with status -9; " in text
    assert "goes on from there (run.checkpoint)" in text
    # As if it had been killed in the middle of a line.
    last = last_step(work.table)
    with work.table.open("a") as stream:
        stream.write("  1.0000")
    step = read_simulation(work.folder / "run.checkpoint").step
    assert step % 4 == 0
    assert run(work, "--steps", last + 2) == 0
    out = capsys.readouterr().out
    assert f"goes on from run.checkpoint, at step {step} of {last + 2}" in out
    assert "now stands in before_1/" in out
    assert list(rows(work)["step"]) == list(range(last + 3))
    assert len(positions(work)) == last + 3
    marks = re.findall(r"Step:\s+(\d+)", (work.folder / "run.qm_charges_0").read_text())
    assert [int(mark) for mark in marks] == list(range(0, last + 3, 2))
    assert (work.folder / "before_1" / "run.out").read_text().endswith("\n  1.0000")


def is_free(folder):
    try:
        with alone_in(folder):
            return True
    except InputError:
        return False


def test_the_owner_dies(work):
    work.write()
    process = start(work)
    process.kill()
    process.wait()
    wait_until(lambda: not processes_in(work.folder), PATIENCE, "the end of all processes")
    assert not any(place.exists() for place in sockets_seen)
    # i-PI was ended in order, and the folder is free.
    assert (work.folder / "RESTART").exists()
    # The lock goes with the last descriptor, a moment after the command of a process that ends is no longer there.
    wait_until(lambda: is_free(work.folder), PATIENCE, "the end of the lock")


def test_two_sockets_with_terms_are_one_potential(work, capsys):
    work.write(steps=2)
    assert run(work) == 0
    whole = rows(work)["potential"]
    parts = ffsocket("mm", address="m") + ffsocket("dftb", mode="inet", address="localhost", port=free_port())
    work.write(parts, ("mm", "dftb"), steps=2)
    assert run(work) == 1
    message = capsys.readouterr().err
    assert "RESTART: is not of input.xml: modes of <ffsocket>" in message
    assert "--fresh" in message
    assert run(work, "--fresh") == 0
    np.testing.assert_allclose(rows(work)["potential"], whole, atol=1e-9)
    assert "terms      mm only" in (work.folder / "driver_mm.log").read_text()
    assert "terms      dftb only" in (work.folder / "driver_dftb.log").read_text()


def test_shared_memory_inside_a_committee(work):
    # i-PI ignores the prefix of sockets inside another force field.
    names = [unique_name("run"), unique_name("run")]
    members = "".join(ffsocket(f"member{n}", mode="shm", address=name) for n, name in enumerate(names))
    work.write(f"<ffcommittee name='deltaqmmm'> {members} </ffcommittee>", steps=2, extra="committee_pot")
    sockets = [Path("/tmp/ipi_" + name) for name in names]
    sockets[0].touch()
    assert run(work) == 1
    sockets[0].unlink()
    assert run(work) == 0
    assert not any(socket.exists() for socket in sockets)
    assert list(rows(work)["step"]) == [0, 1, 2]


def test_ipi_alone(work, capsys):
    shutil.rmtree(work.folder)
    work.folder.mkdir()
    (work.folder / "init.xyz").write_text(init_xyz(["Ar", "Ar"], np.array([[0.0, 0.0, 0.0], [7.5, 0.0, 0.0]]), None))
    text = INPUT.format(
        forcefields="<fflj name='lj'> <parameters> { eps: 0.0004, sigma: 6.4, cutoff: 20 } </parameters> </fflj>",
        forces="<force forcefield='lj'/>",
        steps=LONG,
        beads=1,
        extra="raw",
    )
    (work.folder / "input.xml").write_text(text)

    def touch_exit():
        # i-PI's own way to be ended.
        wait_until(lambda: last_step(work.table) > 3, PATIENCE, "some steps")
        (work.folder / "EXIT").touch()

    stopper = threading.Thread(target=touch_exit)
    stopper.start()
    assert run(work) == 0
    stopper.join()
    out = capsys.readouterr().out
    assert re.search(r"i-PI ended by itself at step \d+ of \d+ .*EXIT.*; `deltaqmmm run \S+` goes on from there", out)
    assert run(work) == 1
    assert "i-PI ends as soon as it sees this file: remove it" in capsys.readouterr().err


def test_a_stall(work, capsys, monkeypatch):
    monkeypatch.setattr(run_group, "GRACE_SECONDS", 1.0)
    idle = [Program("the driver", ["sleep", "600"], "driver.log")]
    monkeypatch.setattr(run_group, "make_drivers", lambda *_: idle)
    work.write()
    assert run(work, "--stall", 4) == 1
    message = capsys.readouterr().err
    assert "nothing has happened for 4 s (--stall), and all were ended, at step 0 of 100000" in message
    assert "ipi.log ends with" in message


def test_a_start_that_fails(work, capsys):
    work.write("<ffsocket name='deltaqmmm' mode='unix'> <adress> x </adress> </ffsocket>")
    assert run(work) == 1
    message = capsys.readouterr().err
    assert "i-PI ended with status 1; " in message
    assert "adress" in message
    work.write()
    config = work.folder / "config.toml"
    config.write_text(config.read_text() + "[dftb]\nparameters = 'nowhere'\n")
    assert run(work) == 1
    message = capsys.readouterr().err
    assert "the driver ended with status 1; " in message
    assert "nowhere" in message
    assert not processes_in(work.folder)
