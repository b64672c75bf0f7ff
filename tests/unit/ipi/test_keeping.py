"""The copy of the last whole checkpoint."""

import os

import pytest

from deltaqmmm.errors import OutputError
from deltaqmmm.ipi import keeping
from deltaqmmm.ipi.keeping import SECONDS_BETWEEN_COPIES, CheckpointKeeper
from deltaqmmm.ipi.restart import find_checkpoint, old_files
from deltaqmmm.ipi.simulation import read_simulation

INPUT = """\
<simulation>
  <output prefix='run'> <checkpoint filename='chk' overwrite='True'/> </output> <step> {step} </step>
</simulation>
"""


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def start(tmp_path):
    (tmp_path / "input.xml").write_text(INPUT.format(step=0))
    return read_simulation(tmp_path / "input.xml")


def write(folder, step, time, cut=None):
    (folder / "run.chk").write_text(INPUT.format(step=step)[:cut])
    os.utime(folder / "run.chk", (time, time))


def test_a_kill_in_the_middle_of_a_checkpoint(tmp_path, start, clock):
    keeper = CheckpointKeeper(tmp_path, start, lambda: clock[0])
    keeper.look()
    assert not list(tmp_path.glob("*.kept"))
    write(tmp_path, 10, 1000)
    keeper.look()
    found = find_checkpoint(tmp_path, start)
    assert (found.simulation.file.name, found.simulation.step) == ("run.chk", 10)
    # Of what is half written no copy is made, and the one before is found.
    clock[0] += SECONDS_BETWEEN_COPIES
    for cut in (0, 30, -3):
        write(tmp_path, 20, 2000, cut)
        keeper.look()
        found = find_checkpoint(tmp_path, start)
        assert (found.simulation.file.name, found.simulation.step) == ("run.chk.kept", 10)
        assert [file.name for file in found.unreadable] == ["run.chk"]
    write(tmp_path, 20, 2000)
    keeper.look()
    (tmp_path / "run.chk").write_text("")
    assert find_checkpoint(tmp_path, start).simulation.step == 20
    # It goes with the others when a run begins anew.
    assert {file.name for file in old_files(tmp_path, start, start)} == {"run.chk", "run.chk.kept"}


def test_not_all_are_copied(tmp_path, start, clock):
    keeper = CheckpointKeeper(tmp_path, start, lambda: clock[0])
    for step, seconds, kept in ((10, 0.0, 10), (20, 1.0, 10), (30, SECONDS_BETWEEN_COPIES, 30)):
        clock[0] = seconds
        write(tmp_path, step, step)
        keeper.look()
        assert read_simulation(tmp_path / "run.chk.kept").step == kept


def test_no_room(tmp_path, start, monkeypatch):
    def fail(*_):
        raise OutputError("the disk is full")

    monkeypatch.setattr(keeping, "write_atomically", fail)
    write(tmp_path, 10, 1000)
    CheckpointKeeper(tmp_path, start).look()
    assert not list(tmp_path.glob("*.kept"))
