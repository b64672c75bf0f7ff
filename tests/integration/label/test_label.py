"""`deltaqmmm label` as a user runs it, on one QM water in a droplet; killed and resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

pytest.importorskip("pyscf", reason="reference labels need PySCF: pip install 'deltaqmmm[reference]'")

from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.dataset import read_dataset
from deltaqmmm.units import BOHR_IN_ANGSTROM
from tests.processes import children, ended

CONFIG = """\
[system]
topology = "{systems}/uracil_droplet.prmtop"
coordinates = "{systems}/uracil_droplet.rst7"
[qm]
atoms = "12-14"
[embedding]
inner_angstrom = 5.0
outer_angstrom = 8.0
charge_blur_angstrom = {blur}
[mm]
platform = "Reference"
[reference]
functional = "{functional}"
basis = "{basis}"
dispersion = "none"
density_fitting = false
max_scf_cycles = {cycles}
"""


@pytest.fixture
def work(tmp_path, data_folder):
    """A folder with config.toml and five frames, and the potential of the configuration."""

    def configure(functional="hf", basis="sto-3g", blur=0.0, cycles=60):
        systems = data_folder / "mm_systems"
        text = CONFIG.format(systems=systems, functional=functional, basis=basis, blur=blur, cycles=cycles)
        (tmp_path / "config.toml").write_text(text)
        return tmp_path / "config.toml"

    loaded = load_potential(read_config(configure()))
    positions = loaded.topology.positions[loaded.system.atom_particles]
    rng = np.random.default_rng(8)
    frames = [positions + rng.normal(scale=0.03, size=positions.shape) for _ in range(5)]
    atoms = [
        Atoms(
            list(loaded.system.symbols),
            frame * BOHR_IN_ANGSTROM,
            info={"temperature_kelvin": 400.0, "beads": 8, "bead": n, "step": 10 * n},
        )
        for n, frame in enumerate(frames)
    ]
    write(tmp_path / "frames.extxyz", atoms)
    return SimpleNamespace(
        folder=tmp_path, configure=configure, frames=tmp_path / "frames.extxyz", output=tmp_path / "out.h5"
    )


def label(work, *flags, frames=None):
    arguments = ["label", work.folder / "config.toml", *(frames or [work.frames]), "-o", work.output]
    return main([str(word) for word in [*arguments, "--processes", "2", "-q", *flags]])


def labelled(work):
    return read_dataset(work.output)


@pytest.mark.parametrize("blur", [0.0, 0.4])
def test_labels_are_of_what_a_run_computes(work, blur):
    """The label's partial derivatives and the embedding's chain rule make up the forces of the run."""
    file = work.configure(blur=blur)
    assert label(work) == 0
    dataset = labelled(work)
    assert len(dataset.frames) == 5
    assert os.listdir(work.folder).count("out.h5.parts") == 0
    loaded = load_potential(read_config(file))
    from deltaqmmm.cli.frames import read_frames

    for raw, frame in zip(read_frames(work.frames, loaded.system), dataset.frames, strict=True):
        assert (frame.source.temperature, frame.source.beads, frame.source.file) == (400.0, 8, "frames.extxyz")
        assert frame.source.step == 10 * frame.source.index == 10 * frame.source.bead
        leaf = torch.tensor(raw.positions)[None].requires_grad_()
        embedded = loaded.embedding(leaf, None)
        n_sites = embedded.mm_charges.shape[1]
        assert 100 < n_sites < len(loaded.system.site_charges)
        np.testing.assert_array_equal(frame.mm_sites, embedded.mm_sites[0])
        np.testing.assert_array_equal(frame.mm_charges, embedded.mm_charges[0].detach())
        np.testing.assert_allclose(frame.mm_positions, embedded.mm_positions[0].detach(), atol=5e-6)
        assert np.abs(frame.mm_charges).min() < 0.9 * np.abs(frame.mm_charges).max()
        baseline = frame.baseline
        (gradients,) = torch.autograd.grad(
            [embedded.qm_positions, embedded.mm_positions, embedded.mm_charges],
            leaf,
            [torch.tensor(g)[None] for g in (baseline.qm_gradients, baseline.mm_gradients, baseline.mm_potentials)],
        )
        whole = loaded.potential.warm_up(np.eye(3)[None], raw.positions[None])
        classical = loaded.mm.evaluate(raw.positions[None], None)
        assert baseline.energy == pytest.approx(whole.terms["dftb"][0], abs=1e-6)
        np.testing.assert_allclose(-gradients[0], whole.forces[0] - classical.forces[0], atol=2e-6)
        np.testing.assert_allclose(frame.baseline_charges, whole.extras["qm_charges"][0], atol=1e-6)
        # HF/STO-3G and DFTB3 agree on what a water molecule is, roughly: not swapped, not of another sign.
        for one, two in ((frame.reference.mm_gradients, baseline.mm_gradients),):
            assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.9
        assert np.corrcoef(frame.reference.mm_potentials, baseline.mm_potentials)[0, 1] > 0.9


def test_a_kill_loses_and_doubles_nothing(work):
    copies = []
    from ase.io import read

    rng = np.random.default_rng(1)
    for atoms in read(work.frames, index=":") * 3:
        moved = atoms.copy()
        moved.positions += rng.normal(scale=0.01, size=moved.positions.shape)
        copies.append(moved)
    write(work.frames, copies)
    # This takes long enough to be killed in the middle.
    work.configure("b3lyp", "6-31g")
    command = [Path(sys.executable).with_name("deltaqmmm"), "label", "config.toml", work.frames.name]
    command += ["-o", "out.h5", "--processes", "2"]
    parts = work.folder / "out.h5.parts"
    for wanted in (2, 4):
        process = subprocess.Popen(command, cwd=work.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda wanted=wanted: len(list(parts.glob("*.h5"))) >= wanted)
            # Another process on the same output is refused while this one works.
            workers = children(process.pid)
            assert len(workers) == 2
            if wanted == 2:
                process.send_signal(signal.SIGSTOP)
                second = subprocess.run(command, cwd=work.folder, capture_output=True, text=True, check=False)
                assert second.returncode == 1
                assert "another process is labelling" in second.stderr
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            assert ended(workers)
        finally:
            process.kill()
            process.wait(10)
        assert not work.output.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.h5")}
    assert 4 <= len(kept) < len(copies)
    # The next one is asked to stop, and writes what is done.
    process = subprocess.Popen(command, cwd=work.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(list(parts.glob("*.h5"))) > len(kept))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait(10)
    assert len(kept) < len(labelled(work).frames) < len(copies)
    assert all((parts / name).stat().st_mtime_ns == written for name, written in kept.items())
    assert label(work) == 0
    dataset = labelled(work)
    assert [frame.source.index for frame in dataset.frames] == list(range(len(copies)))
    assert len({frame.identity for frame in dataset.frames}) == len(copies)
    assert not parts.exists()
    os.rename(work.output, work.folder / "resumed.h5")
    # Of those that were at work when it was killed, and some more.
    write(work.frames, copies[:8])
    assert label(work) == 0
    for one, two in zip(dataset.frames[:8], labelled(work).frames, strict=True):
        assert one.identity == two.identity
        assert one.reference.energy == pytest.approx(two.reference.energy, abs=1e-7)
        assert one.baseline.energy == pytest.approx(two.baseline.energy, abs=1e-7)


def test_a_dataset_grows_and_twins_count_once(work, capsys):
    from ase.io import read

    atoms = read(work.frames, index=":")
    write(work.folder / "first.extxyz", [atoms[1], atoms[1]])
    assert label(work, frames=[work.folder / "first.extxyz"]) == 0
    seconds = labelled(work).frames[0].seconds
    assert label(work, frames=[work.frames, work.folder / "first.extxyz"]) == 0
    dataset = labelled(work)
    assert [frame.source.index for frame in dataset.frames] == [0, 0, 2, 3, 4]
    assert dataset.frames[1].seconds == seconds
    # Another level of theory is refused, and names both.
    work.configure("b3lyp")
    assert label(work) == 1
    message = capsys.readouterr().err
    assert '"hf" there' in message
    assert '"b3lyp" here' in message
    assert len(labelled(work).frames) == 5


def test_a_charge_that_is_not_the_force_fields_is_warned_of(work, capsys):
    """Before anything is computed; here with a charge that leaves an electron alone, so that nothing else is done."""
    config = work.configure()
    config.write_text(config.read_text().replace('atoms = "12-14"', 'atoms = "12-14"\ncharge = 2'))
    arguments = ["label", str(config), str(work.frames), "-o", str(work.output), "--processes", "1"]
    assert main(arguments) == 0
    assert "WARNING: the force field gives the QM region +0.00 e, and [qm] charge is +2" in capsys.readouterr().err


def test_failures_are_recorded_and_passed_over(work, capsys):
    from ase.io import read

    atoms = read(work.frames, index=":")
    # Both hydrogens of the QM water far away: no SCC and no SCF.
    atoms[2].positions[13] += 0.05
    atoms[2].positions[14] = atoms[2].positions[13] + 1e-4
    write(work.frames, atoms)
    assert label(work) == 0
    dataset = labelled(work)
    assert [frame.source.index for frame in dataset.frames] == [0, 1, 3, 4]
    (failure,) = dataset.failures
    assert failure.source.index == 2
    assert "apart" in failure.reason
    assert main(["info", str(work.output)]) == 0
    assert "frame 2 of frames.extxyz: baseline: QM atoms" in capsys.readouterr().out


def test_an_scf_that_never_converges(work, capsys):
    work.configure(cycles=1)
    assert label(work) == 1
    dataset = labelled(work)
    assert (len(dataset.frames), len(dataset.failures)) == (0, 5)
    assert all("did not converge" in failure.reason for failure in dataset.failures)
    # Failed frames are not tried again unless asked for; cycles are no part of the level of theory.
    work.configure(cycles=60)
    assert label(work) == 1
    assert label(work, "--retry-failed") == 0
    dataset = labelled(work)
    assert (len(dataset.frames), len(dataset.failures)) == (5, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda work: work.frames.write_text("3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"), "has 3 atoms"),
        (lambda work: work.configure("pbe9"), "pbe9"),
        (lambda work: work.output.mkdir(), "is a folder"),
        (lambda work: work.output.write_text("x"), "no dataset"),
    ],
)
def test_bad_input_is_one_clear_error(work, capsys, spoil, message):
    spoil(work)
    assert label(work) == 1
    assert message in capsys.readouterr().err
    assert not (work.folder / "out.h5.parts").exists()


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
