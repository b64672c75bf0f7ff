"""`deltaqmmm sample` as a user runs it, on one QM water in a droplet: real i-PI, beads, kills."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.cli.frames import read_frames
from deltaqmmm.cli.label import read_all, source_of
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.parts import load_split
from deltaqmmm.units import ANGSTROM
from tests.integration.droplet import ONE_WATER
from tests.integration.ipi.server import environment, wait_until
from tests.integration.ipi.test_processes import PATIENCE, last_step, one_with, processes_in

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

FLAGS = ["--temperatures", 320, "--beads", 1, 2, "--discard", 3, "--every", 1, "-q"]


@pytest.fixture
def work(tmp_path, data_folder, slater_koster_folder):
    config = tmp_path / "config.toml"
    config.write_text(ONE_WATER.format(systems=data_folder / "mm_systems"))
    yield SimpleNamespace(folder=tmp_path, config=config, runs=tmp_path / "out.runs", output=tmp_path / "out.xyz")
    for pid in processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def words(work, *flags, output=None):
    return [str(word) for word in ["sample", work.config, "-o", output or work.output, *FLAGS, *flags]]


def start(work, *flags):
    command = [sys.executable, "-m", "deltaqmmm.cli.main", *words(work, *flags)]
    with (work.folder / "sample.log").open("a") as log:
        return subprocess.Popen(command, env=environment(), stdout=log, stderr=log)


def sockets(work):
    """The folders of the sockets of all runs that go on."""
    commands = [" ".join(command) for command in processes_in(work.folder).values()]
    return {Path(place) for command in commands for place in re.findall(r"-S (/\S+)/", command)}


def test_frames_for_labels(work, capsys):
    steps = ["--steps", 16, 10]
    assert main(words(work, *steps, "--count", 7)) == 0
    assert not processes_in(work.folder)
    atoms = read(work.output, index=":")
    # 320K_1: steps 6, 8, ..., 16; 320K_2: 6, 8, 10 of two beads.
    assert [frame.info["run"] for frame in atoms] == ["out_320K_1"] * 4 + ["out_320K_2"] * 3
    assert len({(frame.info["run"], frame.info["bead"], frame.info["step"]) for frame in atoms}) == 7
    assert all(frame.info["temperature_kelvin"] == 320.0 for frame in atoms)
    _, system = load_split(read_config(work.config))
    for frame in atoms:
        beads = frame.info["beads"]
        assert frame.info["run"].endswith(f"_{beads}")
        file = work.runs / f"320K_{beads}" / f"run.pos_{frame.info['bead']}.xyz"
        origin = list(read_frames(file, system))
        assert len(origin) == (9 if beads == 1 else 6)
        assert 6 <= frame.info["step"] <= (16 if beads == 1 else 10)
        at = frame.info["step"] // 2
        np.testing.assert_allclose(frame.positions, origin[at].positions / ANGSTROM, atol=1e-7)
        assert not frame.pbc.any()
    assert {frame.info["bead"] for frame in atoms[4:]} == {0, 1}
    # What `label` makes of them.
    raw = read_all([work.output], system)
    assert len({frame.identity for frame in raw}) == 7
    for index, (frame, given) in enumerate(zip(read_frames(work.output, system), atoms, strict=True)):
        source = source_of(work.output, index, frame)
        assert (source.temperature, source.beads) == (320.0, given.info["beads"])
        assert (source.bead, source.step) == (given.info["bead"], given.info["step"])

    # The output is not written over, and the runs serve another choice.
    before = {file: file.stat().st_mtime_ns for file in work.runs.glob("*/run.*")}
    assert main(words(work, *steps)) == 1
    assert "exists already" in capsys.readouterr().err
    second = work.folder / "second.xyz"
    more = ["--folder", work.runs, "--avoid", work.output]
    assert main(words(work, *steps, *more, "--count", 4, output=second)) == 0
    both = [*atoms, *read(second, index=":")]
    assert len({(frame.info["run"], frame.info["bead"], frame.info["step"]) for frame in both}) == 11
    # All 6 frames of the first run are chosen now.
    assert (
        main(words(work, *steps, *more[:3], work.output, second, "--count", 1, output=work.folder / "third.xyz")) == 1
    )
    assert "0 of its 6 are not in the --avoid files" in capsys.readouterr().err
    assert main(words(work, *steps, *more[:2], "--pick", "random", "--count", 6, output=work.folder / "r.xyz")) == 0
    assert len(read(work.folder / "r.xyz", index=":")) == 6
    assert {file: file.stat().st_mtime_ns for file in work.runs.glob("*/run.*")} == before
    # Other settings do not mix with finished runs.
    assert main(words(work, "--steps", 18, 10, "--folder", work.runs, "--count", 2, output=work.folder / "x.xyz")) == 1
    assert "steps 16 there and 18 here" in capsys.readouterr().err
    assert not list(work.folder.glob(".*"))


def test_a_kill_and_another_run(work):
    steps = ["--steps", 8, 100_000, "--parallel", 2, "--count", 4]
    process = start(work, *steps)
    try:
        done = work.runs / "320K_1" / "complete.json"
        table = work.runs / "320K_2" / "run.out"
        wait_until(lambda: done.exists() and last_step(table) > 1, PATIENCE, "one run complete and one under way")
        places = sockets(work)
        assert places
        assert all(place.exists() for place in places)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_in(work.folder), PATIENCE, "the end of i-PI and the driver")
    assert not any(place.exists() for place in places)
    assert not (work.runs / "320K_2" / "complete.json").exists()
    assert not work.output.exists()
    kept = done.stat().st_mtime_ns
    # Nothing was finished with so many steps, so fewer are no other settings.
    assert main(words(work, "--steps", 8, 8, "--count", 4)) == 0
    assert done.stat().st_mtime_ns == kept
    assert json.loads((work.runs / "320K_2" / "run.json").read_text())["steps"] == 8
    assert len(read(work.output, index=":")) == 4


def test_a_killed_run_goes_on_where_it_was(work):
    """From i-PI's checkpoint, written every 100 steps, and as if nothing had happened; so it does once it is at its
    end."""
    flags = ["--beads", 2, "--steps", 360, "--count", 4]
    assert main(words(work, *flags, "--folder", work.folder / "unbroken", output=work.folder / "unbroken.xyz")) == 0
    table = work.runs / "320K_2" / "run.out"
    process = start(work, *flags)
    try:
        wait_until(lambda: last_step(table) > 110, PATIENCE, "the first checkpoint")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_in(work.folder), PATIENCE, "the end of i-PI and the driver")
    assert last_step(table) < 350
    assert main(words(work, *flags)) == 0
    log = (work.runs / "320K_2" / "ipi.log").read_text()
    assert re.findall(r"timings at MD step +(\d+)", log)[0] in ("200", "300")
    assert_same_runs(work, 181)
    # Killed between the end of i-PI and the mark of a finished run.
    (work.runs / "320K_2" / "complete.json").unlink()
    work.output.unlink()
    assert main(words(work, *flags)) == 0
    assert_same_runs(work, 181)


def assert_same_runs(work, frames):
    for name in ("run.pos_0.xyz", "run.pos_1.xyz"):
        one, other = (read(place / "320K_2" / name, index=":") for place in (work.folder / "unbroken", work.runs))
        assert len(one) == len(other) == frames
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-5)
    for a, b in zip(read(work.folder / "unbroken.xyz", index=":"), read(work.output, index=":"), strict=True):
        assert (a.info["bead"], a.info["step"]) == (b.info["bead"], b.info["step"])


def test_a_stop_and_a_driver_that_dies(work):
    steps = ["--steps", 8, 100_000, "--parallel", 1, "--count", 4]
    process = start(work, *steps)
    try:
        # The longest begins.
        table = work.runs / "320K_2" / "run.out"
        wait_until(lambda: last_step(table) > 1, PATIENCE, "some steps")
        places = sockets(work)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130
        assert not processes_in(work.folder)
        assert not any(place.exists() for place in places)
        table.unlink()
        process = start(work, *steps)
        wait_until(lambda: last_step(table) > 1, PATIENCE, "some steps")
        os.kill(one_with(work.runs / "320K_2", "config.toml"), signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
        process.wait()
    assert not processes_in(work.folder)
    message = (work.folder / "sample.log").read_text()
    assert "1 of 2 runs failed" in message
    assert "320K_2: the driver ended with status -9" in message
    # The other one was finished all the same.
    assert (work.runs / "320K_1" / "complete.json").exists()
    assert not (work.runs / "320K_2" / "complete.json").exists()
    assert not work.output.exists()
