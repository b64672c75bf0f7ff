"""Metadynamics and OPES: the bias is PLUMED's and acts on the centroid; a killed run goes on as if nothing had been."""

import contextlib
import os
import re
import signal
import subprocess

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.ipi.simulation import read_simulation
from deltaqmmm.units import KJ_PER_MOL
from tests.integration.inputs.case import make, run, run_command
from tests.integration.inputs.plumed_files import N_H_BONDS, change, colvar, coordinate, edited
from tests.integration.ipi.server import environment, read_properties, wait_until
from tests.integration.ipi.test_processes import last_step, processes_in

pytest.importorskip("plumed", reason="PLUMED is not installed: pip install --no-deps hillclimber")

PATIENCE = 120.0


def for_uracil(folder, pace=4):
    """What a user does: other atoms in plumed.dat. And deposits that come soon enough for a test."""
    (near, far) = (f"{name}: DISTANCE ATOMS={a},{b}" for name, (a, b) in zip(("near", "far"), N_H_BONDS, strict=True))
    for name in ("plumed.dat", "opes.dat"):
        change(folder / name, ("near: .*", near), ("far: .*", far))
        edited(folder / name)
        often(folder / name, pace)
    return folder


def often(file, pace):
    text = file.read_text()
    text = re.sub(r"PACE=\d+", f"PACE={pace}", text)
    text = re.sub(r"STATE_WSTRIDE=\d+", f"STATE_WSTRIDE={pace}", text)
    text = re.sub(r"(PRINT .*) STRIDE=\d+ FILE=COLVAR", r"\1 STRIDE=1 FILE=COLVAR FMT=%.10f", text)
    file.write_text(text)


def positions(folder, name):
    return np.array([frame.positions for frame in read(folder / name, index=":", format="xyz")])


def hills_at(hills, step, values):
    """The bias at some values of the coordinate after so many steps, kJ/mol; as PLUMED does it, shifted and cut off."""
    total = np.zeros_like(values)
    cutoff = np.exp(-6.25)
    for time, centre, height in zip(hills["time"], hills["cv"], hills["height"], strict=True):
        if round(time) <= step:
            gaussian = np.exp(-0.5 * ((values - centre) / hills["sigma_cv"][0]) ** 2)
            # HILLS has the heights of the free energy; the bias is lower by (gamma - 1) / gamma.
            stretched = np.where(gaussian > cutoff, (gaussian - cutoff) / (1 - cutoff), 0.0)
            total += height * (1 - 1 / hills["biasf"][0]) * stretched
    return total


def test_atoms_of_another_molecule_are_not_run(tmp_path):
    folder = make("metadynamics", tmp_path)
    said = run(folder, status=1)
    assert "plumed.dat: is still that of another molecule: edit it (the atoms of the collective variable" in said
    assert not (folder / "ipi.log").exists()


@pytest.mark.parametrize(("file", "beads"), [("input.xml", 1), ("beads.xml", 2)])
def test_hills_bias_the_centroid(tmp_path, file, beads):
    folder = for_uracil(make("metadynamics", tmp_path, beads=beads, temperature=310, steps=11))
    # Inputs without beads are classical, whatever is asked for.
    assert f"nbeads='{beads}'" in (folder / file).read_text()
    assert " TEMP=310\n" in (folder / "plumed.dat").read_text()
    run(folder, input=file)
    table, plumed, hills = read_properties(folder / "run.out"), colvar(folder), colvar(folder, "HILLS")
    assert list(plumed["time"]) == list(range(1, 12))
    assert list(np.rint(hills["time"])) == [4, 8]
    # What PLUMED sees is what i-PI writes at that step: the positions, or the centroid.
    frames = positions(folder, "run.pos_0.xyz" if beads == 1 else "run.centroid.xyz")
    np.testing.assert_allclose(plumed["cv"], coordinate(frames)[1:], rtol=0, atol=1e-4)
    # The bias is that of the hills so far. At the step of a hill PLUMED writes it before, i-PI after.
    for index, step in enumerate(plumed["time"]):
        at = plumed["cv"][index : index + 1]
        np.testing.assert_allclose(plumed["metad.bias"][index], hills_at(hills, step - 1, at)[0], atol=1e-4)
        # Of the whole ring polymer divided by the number of beads.
        bias = plumed["low.bias"][index] + plumed["high.bias"][index] + hills_at(hills, step, at)[0]
        np.testing.assert_allclose(table["ensemble_bias"][int(step)], bias * KJ_PER_MOL, atol=1e-7)
    assert np.abs(table["ensemble_bias"][5:]).min() > 1e-4
    if beads == 1:
        # i-PI takes the work of the hills out of its conserved quantity. (Beads that start in one place move too fast
        # at first.)
        assert np.ptp(table["conserved"]) < 2e-4


def test_opes_deposits_kernels_and_keeps_its_states(tmp_path):
    folder = for_uracil(make("metadynamics", tmp_path, temperature=310, steps=9))
    run(folder, input="opes.xml")
    assert " TEMP=310\n" in (folder / "opes.dat").read_text()
    assert list(np.rint(colvar(folder, "KERNELS")["time"])) == [4, 8]
    assert set(np.rint(colvar(folder, "STATES")["time"])) == {4, 8}
    assert (folder / "STATES").read_text().count("#! SET counter") == 2
    assert np.ptp(colvar(folder)["opes.bias"]) > 0.1


@pytest.mark.parametrize(
    ("file", "dat", "tables"),
    [("input.xml", "plumed.dat", ["HILLS"]), ("opes.xml", "opes.dat", ["KERNELS", "STATES"])],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, file, dat, tables):
    unbroken, broken = (make("metadynamics", tmp_path, "malonaldehyde", name=name) for name in ("unbroken", "broken"))
    for folder in (unbroken, broken):
        edited(folder / dat)
        often(folder / dat, 5)
        # The checkpoint is of a step without a deposit (opes.xml says why).
        change(
            folder / file, (r"(<checkpoint .* stride=)'\d+'", r"\1'17'"), ("'medium'", "'medium' floatformat='%25.17e'")
        )
    run(unbroken, 40, input=file)
    # Not while the checkpoint is written, which i-PI does in place.
    kill_everything(broken, 20, file)
    step = read_simulation(broken / "run.checkpoint").step
    assert step in (17, 34)
    assert colvar(broken)["time"][-1] > step
    said = run(broken, 40, input=file)
    assert f"goes on from run.checkpoint, at step {step} of 40" in said
    assert re.search(rf"later than step {step} in .* now stands in before_1/", said)
    assert "Note" not in said
    assert colvar(unbroken)["time"][step] in np.loadtxt(broken / "before_1" / "COLVAR")[:, 0]
    one, other = (read_properties(folder / "run.out") for folder in (unbroken, broken))
    assert list(other["step"]) == list(range(41))
    # The charges that the SCC starts from are not kept: their tolerance, 1e-8, is seen.
    np.testing.assert_allclose(other["potential"], one["potential"], atol=1e-7)
    np.testing.assert_allclose(other["conserved"], one["conserved"], atol=1e-7)
    for name in ("COLVAR", *tables):
        one, other = colvar(unbroken, name), colvar(broken, name)
        for column, values in one.items():
            np.testing.assert_allclose(other[column], values, rtol=1e-6, atol=1e-6, err_msg=f"{name} {column}")


def kill_everything(folder, step, file):
    """A run that is killed, with all that belongs to it at once, after so many steps."""
    log = folder.parent / "killed.log"
    with log.open("w") as stream:
        command = run_command(folder, 100_000, input=file)
        process = subprocess.Popen(command, env=environment(), stdout=stream, stderr=stream)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        wait_until(lambda: process.poll() is not None or last_step(folder / "run.out") > step, PATIENCE, "some steps")
        assert process.poll() is None, log.read_text()
        members = [process.pid, *processes_in(folder)]
        for signal_ in (signal.SIGSTOP, signal.SIGKILL):
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_)
    process.wait()
    wait_until(lambda: not processes_in(folder), PATIENCE, "their end")
