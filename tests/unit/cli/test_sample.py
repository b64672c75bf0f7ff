"""The plan that `deltaqmmm sample` makes of its options, and what it refuses before any work."""

import re
from argparse import Namespace
from xml.etree import ElementTree

import numpy as np
import pytest
from ase.io import read, write

from deltaqmmm.cli import sample, sample_folders, sample_frames
from deltaqmmm.cli.frames import read_frames
from deltaqmmm.cli.main import main, make_parser
from deltaqmmm.config import read_config
from deltaqmmm.errors import FrameError, InputError
from deltaqmmm.ipi.processes import threads_environment
from deltaqmmm.units import ANGSTROM


def options(*words):
    return make_parser().parse_args(["sample", "config.toml", "-o", "out.xyz", *map(str, words)])


def plans(*words):
    return sample.make_plans(options(*words))


def write_text(file, text):
    file.write_text(text)
    return file


def test_all_combinations():
    found = plans("--temperatures", 300, 400.5, "--beads", 1, 8)
    assert [plan.name for plan in found] == ["300K_1", "300K_8", "400.5K_1", "400.5K_8"]
    assert [plan.steps for plan in found] == [10_000, 2_000, 10_000, 2_000]
    # A frame every 10 fs, after 500 fs classical and 100 fs with beads.
    assert [plan.stride for plan in found] == [20] * 4
    assert [plan.n_candidates for plan in found] == [451, 8 * 91, 451, 8 * 91]
    assert len({plan.seed for plan in found}) == 4
    root = ElementTree.fromstring(found[3].input_text())
    assert root.find(".//initialize").get("nbeads") == "8"
    assert root.find(".//batch_size").text.strip() == "8"
    assert root.find(".//ensemble/temperature").text.strip() == "400.5"
    assert root.find(".//total_steps").text.strip() == "2000"
    assert root.find(".//trajectory[@filename='pos']").get("stride") == "20"
    assert int(root.find(".//seed").text) == found[3].seed


def test_lengths_for_each_number_of_beads():
    found = plans("--beads", 1, 4, "--picoseconds", 2, 0.5, "--discard", 100, 0, "--timestep", 0.25, "--every", 5)
    assert [plan.steps for plan in found] == [8000, 2000]
    assert [plan.stride for plan in found] == [20, 20]
    # The start structure is no candidate.
    assert [plan.first for plan in found] == [20, 1]
    assert [plan.n_candidates for plan in found] == [381, 4 * 100]
    (one,) = plans("--steps", 100, "--discard", 12, "--every", 5)
    assert (one.steps, one.first, one.n_candidates) == (100, 3, 8)


def test_another_condition_changes_no_other_run():
    assert plans("--temperatures", 300)[0] == plans("--temperatures", 350, 300)[1]
    assert plans("--seed", 1)[0].seed != plans("--seed", 2)[0].seed


def test_replicas():
    found = plans("--replicas", 3, "--beads", 1, 2)
    assert [plan.name for plan in found] == [f"300K_{beads}_{replica}" for replica in (1, 2, 3) for beads in (1, 2)]
    assert len({plan.seed for plan in found}) == 6
    assert [plan.seed for plan in found[:2]] == [plan.seed for plan in plans("--beads", 1, 2)]


def test_runs_take_the_start_structures_in_turn(sampled, configure, tmp_path):
    first = sample_frames.start_texts(sampled, None, 1)[0]
    atoms = read(write_text(tmp_path / "init.xyz", first))
    atoms.set_cell(sampled.topology.cell / ANGSTROM)
    atoms.pbc = True
    shifted = [atoms.copy() for _ in range(3)]
    for shift, copied in enumerate(shifted):
        copied.positions += 0.1 * shift
    write(tmp_path / "starts.extxyz", shifted)
    # No more are read than there are runs.
    assert len(sample_frames.start_texts(sampled, tmp_path / "starts.extxyz", 2)) == 2
    starts = sample_frames.start_texts(sampled, tmp_path / "starts.extxyz", 9)
    assert len(set(starts)) == 3
    found = plans("--replicas", 2, "--beads", 1, 2)
    with sample_folders.RunFolder(tmp_path / "runs", found, starts, configure()) as runs:
        made = [(runs.make(plan) / "init.xyz").read_text() for plan in found]
    assert made == [starts[0], starts[1], starts[2], starts[0]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperatures", 300, -5], "--temperatures -5: a positive number"),
        (["--temperatures", "nan"], "--temperatures nan"),
        (["--temperatures", 300, 300], "stands there twice"),
        (["--beads", 4, 4], "--beads 4 4: a value stands there twice"),
        (["--timestep", 0], "--timestep 0"),
        (["--every", 0], "--every 0"),
        (["--every", 0.7], "--every 0.7: a multiple of the time step, 0.5 fs"),
        (["--every", 0.1], "multiple of the time step"),
        (["--picoseconds", -1], "--picoseconds -1"),
        (["--discard", -1], "--discard -1: zero or a positive"),
        (["--discard", 5000.5], "first 5000.5 are left out"),
        (["--steps", 900], "nothing remains to choose from"),
        (["--beads", 1, 2, "--steps", 1, 2, 3], "--steps has 3 values: one is needed, or one for each of --beads"),
        (["--seed", -1], "--seed -1"),
        (["--stall", 0], "--stall 0"),
    ],
)
def test_bad_numbers(words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        plans(*words)


@pytest.mark.parametrize("words", [["--beads", 0], ["--count", -1], ["--steps", 0], ["--steps", 9, "--picoseconds", 1]])
def test_usage(words, capsys):
    with pytest.raises(SystemExit) as ending:
        options(*words)
    assert ending.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_more_frames_than_candidates():
    found = plans("--beads", 1, 2, "--steps", 1100)
    sample.check_count(12, found)
    with pytest.raises(InputError, match=r"--count 13: 7 frames .* 300K_1 has 6"):
        sample.check_count(13, found)


def test_nothing_is_done_without_ipi_or_with_an_output(tmp_path, monkeypatch, capsys):
    arguments = ["sample", str(tmp_path / "config.toml"), "-o", str(tmp_path / "out.xyz")]
    assert main(arguments) == 1
    assert "config.toml" in capsys.readouterr().err
    monkeypatch.setattr("deltaqmmm.ipi.processes.sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(arguments) == 1
    assert "pip install 'deltaqmmm[demo]'" in capsys.readouterr().err
    (tmp_path / "out.xyz").touch()
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.xyz"]


def test_cores_are_shared(monkeypatch):
    def config(driver=0, mm=0, dftb=1):
        return Namespace(driver=Namespace(threads=driver), mm=Namespace(threads=mm), dftb=Namespace(threads=dftb))

    monkeypatch.setattr(sample, "available_cores", lambda: 16)
    assert sample.shared_cores(config(), 4, None) == (4, 4)
    assert sample.shared_cores(config(), 40, None) == (16, 1)
    assert sample.shared_cores(config(driver=8), 40, None) == (2, 8)
    assert sample.shared_cores(config(driver=8, mm=4), 40, None) == (4, 4)
    assert sample.shared_cores(config(driver=99), 4, None) == (1, 16)
    assert sample.shared_cores(config(), 40, 3) == (3, 5)
    assert threads_environment(3)["OPENMM_CPU_THREADS"] == "3"


CONFIG = """
[system]
topology = "{systems}/uracil_{kind}.prmtop"
{coordinates}
[qm]
residues = ["URA"]
[embedding]
inner_angstrom = 5.0
outer_angstrom = 7.0
[mm]
cutoff_angstrom = {cutoff}
"""


@pytest.fixture
def configure(tmp_path, data_folder):
    def make(kind="box", coordinates=True, cutoff=7.0, more=""):
        systems = data_folder / "mm_systems"
        line = f'coordinates = "{systems}/uracil_{kind}.rst7"' if coordinates else ""
        file = tmp_path / "config.toml"
        file.write_text(CONFIG.format(systems=systems, kind=kind, coordinates=line, cutoff=cutoff) + more)
        return read_config(file)

    return make


@pytest.fixture
def sampled(configure, slater_koster_folder):
    return sample_frames.SampledSystem.load(configure())


def test_start_from_the_configuration(sampled, tmp_path):
    (tmp_path / "init.xyz").write_text(sample_frames.start_texts(sampled, None, 1)[0])
    (frame,) = read_frames(tmp_path / "init.xyz", sampled.system)
    np.testing.assert_allclose(frame.positions, sampled.topology.positions, atol=1e-7)
    np.testing.assert_allclose(frame.cell, sampled.topology.cell, atol=1e-6)


def test_a_start_that_lies_askew_is_turned(sampled, tmp_path):
    (tmp_path / "init.xyz").write_text(sample_frames.start_texts(sampled, None, 1)[0])
    atoms = read(tmp_path / "init.xyz")
    cell = sampled.topology.cell / ANGSTROM
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    atoms.set_cell(cell @ rotation)
    atoms.positions = atoms.positions @ rotation
    atoms.pbc = True
    atoms.write(tmp_path / "askew.extxyz")
    (tmp_path / "again.xyz").write_text(sample_frames.start_texts(sampled, tmp_path / "askew.extxyz", 1)[0])
    (frame,) = read_frames(tmp_path / "again.xyz", sampled.system)
    np.testing.assert_allclose(frame.positions, sampled.topology.positions, atol=1e-6)
    atoms.set_cell((cell @ rotation)[[1, 0, 2]])
    atoms.write(tmp_path / "left.extxyz")
    with pytest.raises(FrameError, match="left-handed"):
        sample_frames.start_texts(sampled, tmp_path / "left.extxyz", 1)


def test_no_start(configure, slater_koster_folder):
    sampled = sample_frames.SampledSystem.load(configure("droplet", coordinates=False))
    with pytest.raises(InputError, match=r"names no \[system\] coordinates to start from"):
        sample_frames.start_texts(sampled, None, 1)


def test_what_the_forces_depend_on(configure):
    base = sample_folders.potential_identity(configure())
    assert sample_folders.potential_identity(configure(more="threads = 2\n[driver]\nthreads = 3\n")) == base
    assert sample_folders.potential_identity(configure(more="[reference]\nbasis = 'sto-3g'\n")) == base
    assert sample_folders.potential_identity(configure(cutoff=6.0)) != base
    assert sample_folders.potential_identity(configure("droplet")) != base


def test_a_folder_of_someone_else_is_left_alone(configure, tmp_path):
    (plan,) = plans()
    runs = sample_folders.RunFolder(tmp_path / "runs", [plan], ["start"], configure())
    with runs:
        assert not runs.is_complete(plan)
        runs.place(plan).mkdir()
        (runs.place(plan) / "thesis.tex").touch()
        with pytest.raises(InputError, match="stands in the way"):
            runs.is_complete(plan)
        with (
            pytest.raises(InputError, match="another process is sampling there"),
            sample_folders.RunFolder(tmp_path / "runs", [plan], ["start"], configure()),
        ):
            pass
    assert (runs.place(plan) / "thesis.tex").exists()


def test_a_finished_run_with_other_settings_is_refused(configure, tmp_path):
    (plan,) = plans()
    (longer,) = plans("--steps", 20_000)
    with sample_folders.RunFolder(tmp_path / "runs", [plan], ["start"], configure()) as runs:
        place = runs.make(plan)
        # Nothing is lost with a run that was not finished.
        assert not runs.is_complete(longer)
        (place / "complete.json").touch()
        assert runs.is_complete(plan)
        with pytest.raises(InputError, match=r"other settings: steps 10000 there and 20000 here"):
            runs.is_complete(longer)
    with (
        sample_folders.RunFolder(tmp_path / "runs", [plan], "another", configure()) as runs,
        pytest.raises(InputError, match="start structure"),
    ):
        runs.is_complete(plan)
    with (
        sample_folders.RunFolder(tmp_path / "runs", [plan], "start", configure("droplet")) as runs,
        pytest.raises(InputError, match="potential"),
    ):
        runs.is_complete(plan)
