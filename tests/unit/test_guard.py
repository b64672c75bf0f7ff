import logging
import os

import numpy as np
import pytest
from ase.io import read

from deltaqmmm import guard as guard_module
from deltaqmmm.errors import FrameError, SpreadError
from deltaqmmm.guard import FrameFile, Guard, SpreadLimits
from deltaqmmm.results import Evaluation
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

SYMBOLS = ("O", "H", "H")
CELL = np.array([[20.0, 0.0, 0.0], [3.0, 19.0, 0.0], [1.0, -2.0, 21.0]])


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def evaluation(energy, force=None):
    """Spreads in kJ/mol and kJ/mol/angstrom."""
    energy = np.array(energy) * KJ_PER_MOL
    force = np.zeros(len(energy)) if force is None else np.array(force) * KJ_PER_MOL / ANGSTROM
    extras = {"committee_energy_spread": energy, "committee_force_spread": force}
    return Evaluation(np.zeros(len(energy)), np.zeros((len(energy), 3, 3)), None, {}, extras)


def positions(n_frames, seed=1):
    return np.random.default_rng(seed).normal(size=(n_frames, 3, 3))


def inspect(watch, energy, force=None, seed=1):
    watch.inspect(np.stack([CELL] * len(energy)), positions(len(energy), seed), evaluation(energy, force))


def frame_file(tmp_path, max_frames=10, periodic=True):
    return FrameFile(tmp_path / "above.extxyz", SYMBOLS, periodic=periodic, max_frames=max_frames)


LIMITS = SpreadLimits(energy=2.0 * KJ_PER_MOL, force=5.0 * KJ_PER_MOL / ANGSTROM)


def test_below_the_limits_nothing_happens(tmp_path, caplog):
    watch = Guard(LIMITS, stop=True, frame_file=frame_file(tmp_path))
    inspect(watch, [0.5, 1.999], [4.999, 0.1])
    assert caplog.text == ""
    assert not list(tmp_path.iterdir())
    assert watch.summary() == (
        "Committee spread: at most 2 kJ/mol and 5 kJ/mol/angstrom; 0 of 2 frames above the limits."
    )


@pytest.mark.parametrize(("energy", "force"), [([0.1, 2.1], [0.0, 0.3]), ([0.1, 0.2], [0.0, 5.1])])
def test_either_limit_stops(tmp_path, energy, force):
    watch = Guard(LIMITS, stop=True, frame_file=frame_file(tmp_path))
    inspect(watch, [0.1, 0.1])
    with pytest.raises(SpreadError) as caught:
        inspect(watch, energy, force)
    text = str(caught.value)
    assert "frame 1 (counted from 0) of step 1" in text
    assert f"{energy[1]:g} kJ/mol in the energy and by {force[1]:g} kJ/mol/angstrom" in text
    assert "the limits are 2 kJ/mol of energy and 5 kJ/mol/angstrom of force" in text
    assert "Nothing was sent" in text
    assert len(read(tmp_path / "above.extxyz", index=":")) == 1


def test_without_a_limit_the_other_one_counts():
    watch = Guard(SpreadLimits(force=5.0 * KJ_PER_MOL / ANGSTROM), stop=True)
    inspect(watch, [1e3], [4.0])
    with pytest.raises(SpreadError, match=r"the limits are 5 kJ/mol/angstrom of force"):
        inspect(watch, [0.0], [6.0])


def test_warnings_are_few_and_say_how_many_they_stand_for(caplog):
    clock = Clock()
    watch = Guard(LIMITS, clock=clock)
    for _ in range(4):
        inspect(watch, [3.0, 9.0, 0.1])
        clock.now += 25.0
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "by 9 kJ/mol in the energy" in messages[0]
    assert "frame 1 (counted from 0) of step 0" in messages[0]
    # Two frames in each of the steps 1 and 2.
    assert messages[1].endswith("(4 more frames were above them since the last warning).")
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert watch.n_above == 8


def test_a_faded_frame_says_so(caplog):
    faded = evaluation([3.0])
    extras = {**faded.extras, "correction_scale": np.array([0.25])}
    Guard(LIMITS).inspect(CELL[None], positions(1), Evaluation(faded.energies, faded.forces, None, {}, extras))
    assert "the correction is scaled by 0.250" in caplog.text


def test_the_worst_frame_is_written_as_it_was(tmp_path):
    watch = Guard(LIMITS, frame_file=frame_file(tmp_path), interval=3)
    for step in range(7):
        inspect(watch, [0.1, 3.0 + step, 2.5], [1.0, 2.0, 1.0], seed=step)
    frames = read(tmp_path / "above.extxyz", index=":")
    assert [frame.info["step"] for frame in frames] == [0, 3, 6]
    for frame in frames:
        step = frame.info["step"]
        np.testing.assert_allclose(frame.positions * ANGSTROM, positions(3, step)[1], atol=1e-9)
        np.testing.assert_allclose(frame.cell.array * ANGSTROM, CELL, atol=1e-8)
        assert frame.get_chemical_symbols() == list(SYMBOLS)
        assert frame.pbc.all()
        assert frame.info["batch_index"] == 1
        assert frame.info["energy_spread_kj_per_mol"] == pytest.approx(3.0 + step)
        assert frame.info["force_spread_kj_per_mol_per_angstrom"] == pytest.approx(2.0)


def test_an_isolated_system_has_no_cell(tmp_path):
    frame_file(tmp_path, periodic=False).append(positions(1)[0], np.eye(3))
    frame = read(tmp_path / "above.extxyz")
    assert not frame.pbc.any()
    assert not frame.cell.array.any()


def test_the_number_of_frames_is_limited_over_restarts(tmp_path, caplog):
    for _ in range(3):
        watch = Guard(LIMITS, frame_file=frame_file(tmp_path, max_frames=5))
        for _ in range(2):
            inspect(watch, [3.0])
    assert len(read(tmp_path / "above.extxyz", index=":")) == 5
    assert "as many as [correction] max_frames allows" in caplog.text
    assert "holds 5 frames to label" in watch.summary()


@pytest.mark.parametrize("kept", [1, 3, 60, 130, -1])
def test_a_frame_cut_short_by_a_kill_is_cut_off(tmp_path, kept):
    file = frame_file(tmp_path)
    file.append(positions(1)[0], CELL, step=1)
    whole = file.file.read_bytes()
    file.append(positions(1, 2)[0], CELL, step=2)
    second = file.file.read_bytes()[len(whole) :]
    file.file.write_bytes(whole + second[:kept])
    again = frame_file(tmp_path)
    assert again.n_frames == 1
    assert file.file.read_bytes() == whole
    again.append(positions(1, 3)[0], CELL, step=3)
    assert [frame.info["step"] for frame in read(file.file, index=":")] == [1, 3]


@pytest.mark.parametrize(
    "text", ["not frames at all\n", "3\ncomment\nO 0 0 0\nH 0 0 0\nC 0 0 0\n", "4\ncomment\n" + "O 0 0 0\n" * 4, "30"]
)
def test_a_file_of_something_else_is_not_touched(tmp_path, text):
    (tmp_path / "above.extxyz").write_text(text)
    with pytest.raises(FrameError, match="something else than frames of the 3 atoms"):
        frame_file(tmp_path)
    assert (tmp_path / "above.extxyz").read_text() == text


def test_a_full_disk_leaves_whole_frames_and_the_run(tmp_path, caplog, monkeypatch):
    file = frame_file(tmp_path)
    watch = Guard(LIMITS, frame_file=file)
    inspect(watch, [3.0])
    before = file.file.read_bytes()

    class Full:
        """A file that takes 20 bytes more."""

        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._stream.close()

        def write(self, data):
            return self._stream.write(data[:20])

        def __getattr__(self, name):
            return getattr(self._stream, name)

    opened = type(file.file).open
    monkeypatch.setattr(type(file.file), "open", lambda self, *a, **k: Full(opened(self, *a, **k)))
    inspect(watch, [3.0])
    inspect(watch, [3.0])
    monkeypatch.undo()
    assert file.file.read_bytes() == before
    assert caplog.text.count("No more frames are written") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path, caplog):
    file = frame_file(tmp_path)
    tmp_path.chmod(0o500)
    inspect(Guard(LIMITS, frame_file=file), [3.0])
    tmp_path.chmod(0o700)
    assert "No more frames are written" in caplog.text


def test_the_guard_knows_the_names_of_the_extras():
    assert (guard_module.ENERGY_SPREAD, guard_module.FORCE_SPREAD, guard_module.SCALE) == (
        "committee_energy_spread",
        "committee_force_spread",
        "correction_scale",
    )
