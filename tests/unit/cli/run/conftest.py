"""A folder that `deltaqmmm run` can run, and ways to spoil it."""

import os
import re
from types import SimpleNamespace

import pytest

from deltaqmmm.cli import run_group
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.ipi.simulation import read_simulation
from tests.unit.cli.run.inputs import CHECKPOINT, CONFIG, INPUT, ffsocket


@pytest.fixture
def work(tmp_path, data_folder):
    """A folder that can be run, and ways to spoil it."""
    folder = tmp_path / "w"
    folder.mkdir()
    systems = data_folder / "mm_systems"
    (folder / "init.xyz").write_text("342\n\n" + "H 0 0 0\n" * 342)

    def config(more=""):
        (folder / "config.toml").write_text(CONFIG.format(topology=systems / "uracil_droplet.prmtop", more=more))
        return read_config(folder / "config.toml")

    def write(forcefields=None, init="init.xyz", mode="xyz", name="input.xml"):
        text = INPUT.format(forcefields=ffsocket() if forcefields is None else forcefields, init=init, mode=mode)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
        return read_simulation(folder / name)

    def checkpoint(name, step, time=1_000_000_100):
        (folder / name).write_text(
            CHECKPOINT.format(step=step, more="<system><beads natoms='342'/></system>" + ffsocket())
        )
        os.utime(folder / name, (time, time))

    config()
    write()
    return SimpleNamespace(folder=folder, config=config, write=write, checkpoint=checkpoint)


@pytest.fixture
def fails(work, capsys, monkeypatch):
    """Runs the command, which must end with one message before anything is started."""

    def start(*_):
        raise AssertionError("something was started")

    monkeypatch.setattr(run_group.Group, "start", start)

    def fails(message, *flags):
        assert main(["run", str(work.folder), *flags]) == 1
        captured = capsys.readouterr()
        assert re.search(message, captured.err), captured.err
        assert captured.err.startswith("deltaqmmm run: ")
        assert captured.err.count("\n") == 1
        assert not list(work.folder.glob("*.log"))
        return captured

    return fails
