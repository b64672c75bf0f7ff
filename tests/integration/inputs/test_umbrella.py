"""Umbrella sampling: every window has its own restraint, all are one batch, and windows.py makes what is asked for."""

import re
import subprocess
import sys

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.ipi.simulation import parse_input
from deltaqmmm.units import KJ_PER_MOL
from tests.integration.inputs.case import INPUTS, make, run
from tests.integration.inputs.plumed_files import N_H_BONDS, change, colvar, coordinate, edited
from tests.integration.ipi.server import read_properties

CENTRES, KAPPAS = [-0.2, 0.0, 0.3], [100.0, 200.0, 300.0]


def windows(folder, *words):
    done = subprocess.run(
        [sys.executable, folder / "windows.py", *words], capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def for_uracil(folder):
    """What a user does: other atoms in cv.dat, other windows in windows.txt."""
    (near, far) = (f"{name}: DISTANCE ATOMS={a},{b}" for name, (a, b) in zip(("near", "far"), N_H_BONDS, strict=True))
    change(folder / "cv.dat", ("near: .*", near), ("far: .*", far))
    edited(folder / "cv.dat")
    rows = [f"{centre} {kappa}\n" for centre, kappa in zip(CENTRES, KAPPAS, strict=True)]
    (folder / "windows.txt").write_text("# centre kappa\n" + "".join(rows))
    assert windows(folder) == (0, "3 windows\n")
    return folder


def test_what_stands_in_the_folder_is_what_windows_makes(tmp_path):
    folder = make("umbrella", tmp_path, every=None)
    before = {file.name: file.read_text() for file in [*folder.glob("*.dat"), folder / "input.xml"]}
    assert len(before) == 13
    written = [folder / name for name in before]
    times = {file.name: file.stat().st_mtime_ns for file in written}
    assert windows(folder)[0] == 0
    assert {file.name: file.read_text() for file in [*folder.glob("*.dat"), folder / "input.xml"]} == before
    # What has not changed is not written: `deltaqmmm run` would take a newer input.xml for a changed one.
    assert {file.name: file.stat().st_mtime_ns for file in written} == times
    rows = np.loadtxt(INPUTS / "umbrella" / "windows.txt")
    assert re.search(rf"AT1={rows[4, 0]:g} KAPPA1={rows[4, 1]:g}\n", before["plumed_4.dat"])


def test_atoms_of_another_molecule_are_not_run(tmp_path):
    pytest.importorskip("plumed", reason="PLUMED is not installed: pip install --no-deps hillclimber")
    folder = make("umbrella", tmp_path)
    assert "cv.dat: is still that of another molecule" in run(folder, status=1)


@pytest.mark.parametrize("beads", [1, 2])
def test_each_window_has_its_restraint(tmp_path, beads):
    pytest.importorskip("plumed", reason="PLUMED is not installed: pip install --no-deps hillclimber")
    folder = make("umbrella", tmp_path, temperature=310, steps=12)
    change(folder / "input.xml", ("nbeads='1'>\\s*<file", f"nbeads='{beads}'> <file"))
    for_uracil(folder)
    assert not (folder / "plumed_3.dat").exists()
    (size,) = parse_input(folder / "input.xml").iter("batch_size")
    assert int(size.text) == 3 * beads
    for file in folder.glob("plumed_*.dat"):
        change(file, ("STRIDE=5", "STRIDE=1"), ("STEP1=1000", "STEP1=4"))
    change(
        folder / "input.xml",
        (r"<trajectory filename='pos'.*", "<trajectory filename='c' stride='1'> x_centroid{angstrom} </trajectory>"),
    )
    run(folder)
    # All windows are one batch; padding, where one was late, is counted apart.
    steps, frames = map(int, re.findall(r"(\d+) steps, (\d+) frames", (folder / "driver.log").read_text())[-1])
    assert frames >= 13 * 3 * beads - 2 * 3 * beads
    assert steps <= 2 * 14
    for index, (centre, kappa) in enumerate(zip(CENTRES, KAPPAS, strict=True)):
        plumed, table = colvar(folder, f"COLVAR_{index}"), read_properties(folder / f"{index}_run.out")
        assert list(plumed["time"]) == list(range(1, 13))
        frames = np.array([frame.positions for frame in read(folder / f"{index}_run.c.xyz", index=":", format="xyz")])
        np.testing.assert_allclose(plumed["cv"], coordinate(frames)[1:], rtol=0, atol=1e-4)
        # It has grown to its strength after 4 steps; i-PI's bias is that of the ring polymer divided by the number of
        # beads.
        energies = 0.5 * kappa * (coordinate(frames) - centre) ** 2
        np.testing.assert_allclose(plumed["umbrella.bias"][5:], energies[6:], rtol=0, atol=1e-2)
        np.testing.assert_allclose(table["ensemble_bias"][6:], energies[6:] * KJ_PER_MOL, rtol=0, atol=4e-6)


def test_the_profile_of_samples_that_are_known(tmp_path):
    """Gaussian samples in harmonic windows over a parabola: MBAR finds the parabola, and says how sure it is."""
    pytest.importorskip("pymbar", reason="pymbar is not installed: pip install 'deltaqmmm[analysis]'")
    folder = make("umbrella", tmp_path, every=None, temperature=310)
    random, kt, curvature = np.random.default_rng(1), 0.0083144626 * 310.0, 20.0
    for index, (centre, kappa) in enumerate(np.loadtxt(folder / "windows.txt")):
        mean, width = kappa * centre / (kappa + curvature), np.sqrt(kt / (kappa + curvature))
        values = random.normal(mean, width, 2000)
        # Before, the windows are not where they have to be.
        rows = [f" {5 * step + 1} 9.9 0\n" for step in range(300)]
        rows += [f" {5 * step + 1501} {value} 0\n" for step, value in enumerate(values)]
        (folder / f"COLVAR_{index}").write_text("#! FIELDS time cv umbrella.bias\n" + "".join(rows))
    status, said = windows(folder, "profile")
    assert status == 0, said
    assert "overlap of neighbouring windows 0." in said
    x, energy, error = np.loadtxt(folder / "profile.dat").T
    away = energy - 0.5 * curvature * x**2
    away -= away.mean()
    assert np.abs(away[np.abs(x) < 0.9]).max() < 0.6
    assert 0.3 < np.sqrt(np.mean((away / error) ** 2)) < 2.0
    assert (folder / "profile.png").stat().st_size > 10_000


def test_windows_that_were_run_for_too_short(tmp_path):
    folder = make("umbrella", tmp_path, every=None)
    for index in range(10):
        rows = [f" {5 * step} 0.1 0\n" for step in range(1, 301 if index else 401)]
        (folder / f"COLVAR_{index}").write_text("#! FIELDS time cv umbrella.bias\n" + "".join(rows))
    status, said = windows(folder, "profile")
    assert status == 1
    lines = said.splitlines()
    # One for each file; the first window has enough.
    assert [line.split(":")[0] for line in lines] == [f"COLVAR_{index}" for index in range(1, 11)]
    assert (
        "0 samples after the first 1500 steps, which are left out (the last is of step 1500); needed are 5" in lines[0]
    )
    assert "there is no such file" in lines[-1]


def test_windows_that_do_not_reach_each_other(tmp_path):
    pytest.importorskip("pymbar", reason="pymbar is not installed: pip install 'deltaqmmm[analysis]'")
    folder = make("umbrella", tmp_path, every=None)
    for index in range(11):
        rows = [f" {step + 2000} {-0.9 + 1e-3 * step} 0\n" for step in range(100)]
        (folder / f"COLVAR_{index}").write_text("#! FIELDS time cv\n" + "".join(rows))
    status, said = windows(folder, "profile")
    assert status == 1
    assert "no sample in the bins at -1, -0.95" in said
