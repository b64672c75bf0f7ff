"""Following property files as i-PI writes them."""

import pytest

from deltaqmmm.ipi import progress
from deltaqmmm.ipi.progress import PropertyFile, Watch

HEAD = """\
# column   1     --> step  : The current simulation time step.
# cols.    2-4   --> atom_x(atom=0;bead=0) : The position (x,y,z) of a particle.
# column   5     --> temperature : The current temperature.
# column   6     --> conserved{electronvolt} : The value of the conserved energy quantity per bead.
# column   7     --> temperature(nm=0){kelvin} : The current temperature.
"""


def row(step, conserved, temperature):
    return f"  {step:.8e}  0.1 0.2 0.3   {temperature:.8e}  {conserved:.8e}   1.0\n"


def test_what_is_new_is_taken_in(tmp_path):
    file = PropertyFile(tmp_path / "run.out")
    assert not file.read()
    assert file.step == -1
    file.path.write_text(HEAD)
    assert file.read()
    assert not file.read()
    assert (file.step, file.temperature, file.conserved, file.drift) == (-1, None, None, None)
    with file.path.open("a") as stream:
        stream.write(row(0, -5.0, 9.5e-4) + row(1, -5.25, 9.5e-4))
        stream.flush()
        assert file.read()
        assert (file.step, file.conserved, file.drift, file.unit) == (1, -5.25, -0.25, "electronvolt")
        # Atomic units of temperature are hartree.
        assert file.temperature == pytest.approx(299.99, abs=0.02)
        # A line that is not yet complete does not count.
        line = row(2, -4.0, 9.5e-4)
        stream.write(line[:-1])
        stream.flush()
        assert file.read()
        assert file.step == 1
        stream.write("\n")
        stream.flush()
        assert file.read()
        assert (file.step, file.drift) == (2, 1.0)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_pieces_of_any_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(progress, "_BLOCK", block)
    file = PropertyFile(tmp_path / "run.out")
    file.path.write_text(HEAD + "".join(row(step, step / 10, 1e-3) for step in range(30)))
    file.read()
    assert (file.step, file.drift) == (29, pytest.approx(2.9))


def test_a_new_file_of_the_same_name(tmp_path):
    file = PropertyFile(tmp_path / "run.out")
    file.path.write_text(HEAD + row(50, -5.0, 1e-3))
    file.read()
    assert file.step == 50
    file.path.rename(tmp_path / "#run.out#0#")
    file.path.write_text(HEAD + row(0, -3.0, 1e-3) + row(1, -3.5, 1e-3) + row(2, -3.0, 1e-3))
    file.read()
    assert (file.step, file.drift) == (2, 0.0)
    file.path.write_text(HEAD + row(0, -3.0, 1e-3))
    file.read()
    assert file.step == 0


def test_steps_of_a_file_without_steps(tmp_path):
    file = PropertyFile(tmp_path / "run.out", stride=20)
    file.path.write_text("# column   1     --> potential : The energy.\n 1.0\n 2.0\n 3.0\n")
    file.read()
    assert (file.step, file.temperature, file.conserved) == (40, None, None)


def test_nonsense_is_no_number(tmp_path):
    file = PropertyFile(tmp_path / "run.out")
    file.path.write_text(HEAD + "  nan\n")
    file.read()
    assert (file.step, file.temperature, file.conserved) == (0, None, None)


def test_the_slowest_system_counts(tmp_path):
    files = [PropertyFile(tmp_path / name, system=system) for name, system in (("a", ""), ("b", ""), ("c", "hot"))]
    watch = Watch(files)
    assert watch.step == -1
    assert watch.summary() == ""
    files[0].path.write_text(HEAD + row(0, -5.0, 3e-4) + row(8, -5.5, 3e-4))
    files[1].path.write_text("# column   1     --> step\n 10.0\n")
    watch.look()
    assert watch.step == -1
    assert watch.summary() == "95 K, conserved -5.50000 electronvolt, drift -0.5"
    files[2].path.write_text(HEAD + row(0, -5.0, 6e-4) + row(9, -4.0, 6e-4))
    watch.look()
    assert watch.step == 9
    assert watch.summary() == "95 to 189 K, largest drift +1 electronvolt"
    assert Watch([]).step == -1


def test_stillness(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file, log = PropertyFile(tmp_path / "run.out"), tmp_path / "driver.log"
    watch = Watch([file], [log])
    watch.look()
    now[0] = 10.0
    watch.look()
    assert watch.seconds_still() == 10.0
    # A driver that tells something lives, though i-PI writes seldom.
    log.write_text("20 steps")
    watch.look()
    assert watch.seconds_still() == 0.0
    now[0] = 15.0
    watch.look()
    assert watch.seconds_still() == 5.0
    file.path.write_text(HEAD)
    watch.look()
    assert watch.seconds_still() == 0.0
