"""Replica exchange: every replica gets its own forces, all in one batch; swaps are noted; a killed run goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.cli.plot_exchange import at_temperature
from deltaqmmm.cli.plot_folder import find
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM
from tests.integration.inputs.case import last_positions, make, run, run_command
from tests.integration.ipi.server import IPI, environment, read_properties, wait_until
from tests.integration.ipi.test_processes import last_step, processes_in

LADDER, PATIENCE = [300, 305, 310], 120.0
FORCES = "<trajectory filename='for' stride='1' format='xyz'> forces </trajectory>"


def change(folder, *pairs, file="input.xml"):
    text = (folder / file).read_text()
    for pattern, value in pairs:
        text, count = re.subn(pattern, value, text)
        assert count, pattern
    (folder / file).write_text(text)


def replicas(folder):
    return [read_properties(folder / f"{index}_run.out") for index in range(len(LADDER))]


def trajectory(folder, name, beads=1):
    """Shape (replicas, beads, steps, atoms, 3)."""
    return np.array(
        [
            [
                [frame.positions for frame in read(folder / f"{index}_run.{name}_{bead}.xyz", index=":", format="xyz")]
                for bead in range(beads)
            ]
            for index in range(len(LADDER))
        ]
    )


def test_a_row_is_of_the_temperature_after_the_swap(tmp_path):
    """What sorting by ensemble_temperature rests on: i-PI swaps, scales the velocities, and then writes the row.

    Without forces and thermostat only a swap changes the kinetic energy, by the ratio of the temperatures.
    """
    folder = make("remd", tmp_path, system="malonaldehyde", temperatures=[300, 400, 530], steps=60)
    change(
        folder,
        (r"(?s)<ffsocket.*</ffsocket>", "<ffdirect name='deltaqmmm'> <pes> gas </pes> </ffdirect>"),
        (r"mode='nvt'>", "mode='nve'>"),
        (r"<stride> 20 <", "<stride> 10 <"),
    )
    subprocess.run([sys.executable, IPI, "input.xml"], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)
    tables = replicas(folder)
    kinetic, held = (np.array([table[name] for table in tables]) for name in ("kinetic_md", "ensemble_temperature"))
    swapped = np.diff(held, axis=1) != 0.0
    assert swapped.sum() > 10
    constant = kinetic[:, :1] / held[:, :1]
    np.testing.assert_allclose(kinetic / held, constant * np.ones_like(held), rtol=1e-6)
    # Rows beside a swap, with the temperature of its other side.
    assert (np.abs(kinetic[:, 1:] / held[:, :-1] / constant - 1.0)[swapped] > 0.2).all()
    # The same of the rows that `deltaqmmm plot` takes for each temperature.
    records = find(folder, "input.xml").records
    energies = [record.properties["kinetic_md"] for record in records]
    for number, temperature in enumerate((300.0, 400.0, 530.0)):
        values = at_temperature(records, energies, np.array([300.0, 400.0, 530.0]), number).values
        assert len(values) == 61
        order = np.abs(held - temperature).argmin(axis=0)
        np.testing.assert_allclose(values / values[0], constant[order, 0] / constant[order[0], 0], rtol=1e-6)


@pytest.mark.parametrize(("file", "beads"), [("input.xml", 1), ("beads.xml", 2)])
def test_every_replica_gets_its_own_forces(tmp_path, file, beads):
    folder = make("remd", tmp_path, temperatures=LADDER, beads=2, steps=12)
    batch = len(LADDER) * beads
    assert f"<batch_size> {batch} </batch_size>" in (folder / file).read_text()
    change(
        folder,
        (r"<stride> 20 <", "<stride> 2 <"),
        (r"<checkpoint", FORCES + "<checkpoint"),
        (r"<latency> 1e-2 <", "<latency> 5e-2 <"),
        file=file,
    )
    run(folder, input=file)
    # All frames of a step are one evaluation. Frames that are equal, as those of the start are, are taken for padding.
    log = (folder / "driver.log").read_text()
    steps, frames = map(int, re.findall(r"(\d+) steps, (\d+) frames", log)[-1])
    padding = sum(map(int, re.findall(r"frames \(and (\d+) of padding", log)[-1:]))
    assert frames + padding == batch * steps
    # i-PI splits a batch now and then, on a busy machine more often.
    assert 13 <= steps < 26
    # Some swaps were made, and every temperature is there once at each step.
    tables = replicas(folder)
    temperatures = np.array([table["ensemble_temperature"] for table in tables])
    np.testing.assert_allclose(np.sort(temperatures, axis=0), np.array(LADDER)[:, None] * np.ones((1, 13)), atol=1e-6)
    noted = np.loadtxt(folder / "run.remd_idx", dtype=int, ndmin=2)
    assert len(noted) > 0
    for row in noted:
        # i-PI counts steps from 0: after the first one the outputs say 1.
        np.testing.assert_allclose(temperatures[:, row[0] + 1], np.array(LADDER)[row[1:]], atol=1e-6)
    if beads == 1:
        # What i-PI brings to sort the files by temperature.
        subprocess.run(
            [sys.executable, IPI.with_name("i-pi-remdsort"), file], cwd=folder, check=True, capture_output=True
        )
        sorted_ = [read_properties(folder / f"SRT_{index}_run.out") for index in range(len(LADDER))]
        for temperature, table in zip(LADDER, sorted_, strict=True):
            np.testing.assert_allclose(table["ensemble_temperature"], temperature, atol=1e-6)
    # The forces and energies of the frames that were written, computed again one by one.
    loaded = load_potential(read_config(folder / "config.toml"))
    positions, forces = trajectory(folder, "pos", beads), trajectory(folder, "for", beads)
    last = positions[:, :, -1]
    assert min(np.abs(a - b).max() for i, a in enumerate(last) for b in last[:i]) > 0.01
    cell = cell_of(folder)
    for step in (0, 5, 12):
        for index in range(len(LADDER)):
            frames = positions[index, :, step] * ANGSTROM
            again = loaded.evaluate(np.tile(cell, (beads, 1, 1)), frames)
            # Positions stand in the file with six digits.
            assert tables[index]["potential"][step] == pytest.approx(again.energies.mean(), abs=2e-4)
            np.testing.assert_allclose(forces[index, :, step], again.forces, rtol=0, atol=2e-4)


def cell_of(folder):
    """Rows are lattice vectors, bohr."""
    line = (folder / "init.xyz").read_text().splitlines()[1]
    lengths = [float(word) for word in line.split("CELL(abcABC):")[1].split()[:3]]
    return np.diag(lengths) * ANGSTROM


def test_a_killed_run_goes_on_as_if_it_never_happened(tmp_path):
    """With one replica after the other: random numbers are drawn in one order then."""

    def folder_named(name):
        folder = make("remd", tmp_path, name=name, temperatures=LADDER, steps=30)
        change(
            folder,
            ("<simulation ", "<simulation threading='False' floatformat='%25.17e' "),
            ("<latency> 1e-2 <", "<latency> 1e-4 <"),
            ("<stride> 20 <", "<stride> 3 <"),
            (r"<checkpoint filename='checkpoint' stride='200'", "<checkpoint filename='checkpoint' stride='7'"),
        )
        config = folder / "config.toml"
        config.write_text(config.read_text().replace('platform = "CPU"', 'platform = "Reference"'))
        return folder

    unbroken, broken = folder_named("unbroken"), folder_named("broken")
    run(unbroken)
    process = subprocess.Popen(run_command(broken), env=environment(), stdout=subprocess.DEVNULL)
    wait_until(lambda: last_step(broken / "2_run.out") >= 17, PATIENCE, "the middle of the run")
    all_of_them = processes_in(broken)
    for pid in [process.pid, *all_of_them]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    for place in {place for words in all_of_them.values() for place in re.findall(r"-S (/\S+)/", " ".join(words))}:
        # Nobody was left to remove the socket.
        shutil.rmtree(place)
    wait_until(lambda: not processes_in(broken), PATIENCE, "the end of all")
    killed = last_step(broken / "0_run.out")
    assert 17 <= killed < 30
    assert not (broken / "RESTART").exists()
    said = run(broken)
    assert "goes on from run.checkpoint, at step" in said
    for index, (one, other) in enumerate(zip(replicas(unbroken), replicas(broken), strict=True)):
        assert list(other["step"]) == list(range(31)), index
        # What is left is the SCC, which starts from other charges: 1e-8 e. In kelvin the digits are larger.
        for name, bound in {
            "ensemble_temperature": 1e-9,
            "potential": 1e-9,
            "conserved": 1e-9,
            "temperature": 1e-6,
        }.items():
            np.testing.assert_allclose(other[name], one[name], rtol=0, atol=bound, err_msg=name)
    np.testing.assert_allclose(last_positions(broken), last_positions(unbroken), rtol=0, atol=1e-8)
    # As many digits as i-PI writes, of every step.
    np.testing.assert_allclose(trajectory(broken, "pos"), trajectory(unbroken, "pos"), rtol=0, atol=2e-4)
    swaps = (unbroken / "run.remd_idx").read_text()
    assert (broken / "run.remd_idx").read_text() == swaps
    # Swaps before and after.
    steps = np.loadtxt(unbroken / "run.remd_idx", ndmin=2)[:, 0]
    assert steps.min() < 14
    assert steps.max() > killed
