import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from deltaqmmm.cli.evaluate import evaluate_frames, write_whole
from deltaqmmm.cli.frames import Frame
from deltaqmmm.cli.output import check_output
from deltaqmmm.errors import FrameError, InputError, OutputError
from deltaqmmm.units import BOHR_IN_ANGSTROM, HARTREE_IN_ELECTRONVOLT

FIXED = np.array([9.0, 0.4, 0.1])
CELL = np.diag([20.0, 22.0, 24.0])


def frames(n):
    rng = np.random.default_rng(3)
    return [Frame(("O", "H", "H"), rng.normal(size=(3, 3)), CELL, f"frame {i} of x") for i in range(n)]


def test_results_come_back_from_ase_in_ev_and_angstrom(tmp_path, three_atoms, springs):
    given = frames(3)
    write_whole(tmp_path / "out.xyz", evaluate_frames(given, springs, three_atoms, FIXED, 2))
    back = read(tmp_path / "out.xyz", index=":")
    assert len(back) == 3
    for frame, atoms in zip(given, back, strict=True):
        expected = springs(frame.cell[None], frame.positions[None])
        assert atoms.get_potential_energy() == pytest.approx(expected.energies[0] * HARTREE_IN_ELECTRONVOLT)
        factor = HARTREE_IN_ELECTRONVOLT / BOHR_IN_ANGSTROM
        np.testing.assert_allclose(atoms.get_forces(), expected.forces[0] * factor, atol=2e-8)
        np.testing.assert_allclose(atoms.positions, frame.positions * BOHR_IN_ANGSTROM, atol=2e-8)
        np.testing.assert_allclose(atoms.cell.array, CELL * BOHR_IN_ANGSTROM, rtol=1e-9)
        assert atoms.pbc.all()
        np.testing.assert_allclose(atoms.get_charges(), [-0.5, 0.4, 0.1])
        assert atoms.arrays["qm"].tolist() == [1, 0, 0]
        assert atoms.info["energy_mm"] + atoms.info["energy_dftb"] == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(atoms.info["qm_dipole"], np.full(3, BOHR_IN_ANGSTROM))
        assert atoms.info["scc_iterations"] == 7


def test_stress_is_the_strain_derivative_over_the_volume(three_atoms, springs):
    derivative = np.array([[1.0, 0.5, 0.25], [0.5, 2.0, 0.125], [0.25, 0.125, 3.0]])

    def evaluate(cells, positions):
        plain = springs(cells, positions)
        return type(plain)(plain.energies, plain.forces, derivative[None], plain.terms, plain.extras)

    (atoms,) = evaluate_frames(frames(1), evaluate, three_atoms, FIXED, 1)
    volume = np.linalg.det(CELL * BOHR_IN_ANGSTROM)
    expected = np.array([1.0, 2.0, 3.0, 0.125, 0.25, 0.5]) * HARTREE_IN_ELECTRONVOLT / volume
    np.testing.assert_allclose(atoms.get_stress(), expected)


def test_batches_and_progress(three_atoms, springs):
    sizes, done = [], []

    def evaluate(cells, positions):
        sizes.append(len(positions))
        assert len(cells) == len(positions)
        return springs(cells, positions)

    assert len(list(evaluate_frames(frames(5), evaluate, three_atoms, FIXED, 2, done.append))) == 5
    assert sizes == done == [2, 2, 1]


def test_an_error_names_the_frames(three_atoms):
    def evaluate(cells, positions):
        raise FrameError("atoms collided")

    with pytest.raises(FrameError, match="frame 0 of x and the 1 after it: atoms collided"):
        list(evaluate_frames(frames(2), evaluate, three_atoms, FIXED, 4))


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, three_atoms, springs):
    output = tmp_path / "out.xyz"
    output.write_text("old")

    def evaluate(cells, positions):
        if evaluate.calls == 1:
            raise FrameError("atoms collided")
        evaluate.calls += 1
        return springs(cells, positions)

    evaluate.calls = 0
    with pytest.raises(FrameError):
        write_whole(output, evaluate_frames(frames(2), evaluate, three_atoms, FIXED, 1))
    assert output.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.xyz"]


def test_the_file_is_as_readable_as_any_other(tmp_path, three_atoms, springs):
    plain = tmp_path / "plain"
    plain.touch()
    write_whole(tmp_path / "out.xyz", evaluate_frames(frames(1), springs, three_atoms, FIXED, 1))
    assert (tmp_path / "out.xyz").stat().st_mode == plain.stat().st_mode


def test_a_link_is_followed_and_kept(tmp_path, springs, three_atoms):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.xyz", tmp_path / "out.xyz"
    link.symlink_to(target)
    write_whole(link, evaluate_frames(frames(1), springs, three_atoms, FIXED, 1))
    assert link.is_symlink()
    assert target.read_text().startswith("3\n")


def test_a_full_disk_names_the_output_and_leaves_nothing(tmp_path):
    output = tmp_path / "out.xyz"
    output.write_text("as before")
    atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.7]])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OutputError, match=r"out\.xyz: cannot be written \(File too large\)"):
            write_whole(output, [atoms] * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert output.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [output]


def test_errors_of_the_frames_stay_what_they_are(tmp_path):
    def broken():
        yield Atoms("H")
        raise FileNotFoundError("of the input")

    with pytest.raises(FileNotFoundError, match="of the input"):
        write_whole(tmp_path / "out.xyz", broken())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder that not even root can write in")
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(InputError, match=r"/proc/out\.xyz: nothing can be written in its folder /proc"):
        check_output(Path("/proc/out.xyz"))
    check_output(tmp_path / "out.xyz")
    assert not list(tmp_path.iterdir())
