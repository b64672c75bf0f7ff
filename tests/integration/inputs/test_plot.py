"""`deltaqmmm plot` of what the real i-PI writes, also while it writes."""

import signal
import subprocess

import pytest
from matplotlib.image import imread

from deltaqmmm.analysis.outputs import read_properties
from deltaqmmm.cli.main import main
from deltaqmmm.units import KJ_PER_MOL
from tests.integration.inputs.case import make, run_command
from tests.integration.ipi.server import environment, wait_until
from tests.integration.ipi.test_processes import last_step

PATIENCE = 120.0


def names(folder):
    """The figures, each with something on it."""
    found = sorted((folder / "figures").glob("*.png"))
    for file in found:
        assert (imread(file)[..., :3].min(axis=2) < 0.9).mean() > 0.002, file
    return [file.stem for file in found]


def test_plot_while_it_runs_and_when_it_was_stopped(tmp_path, capsys):
    pytest.importorskip("pymbar")
    folder = make("pimd", tmp_path, beads=2, steps=100000)
    with subprocess.Popen(run_command(folder, quiet=True), env=environment()) as running:
        try:
            wait_until(lambda: last_step(folder / "run.out") >= 12, PATIENCE, "steps")
            assert main(["plot", str(folder), "--distance", "0-1", "--distance", "4-12"]) == 0
            assert running.poll() is None
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(PATIENCE)
    assert names(folder) == ["distances", "energies", "qm", "quantum_kinetic", "temperature"]
    said = capsys.readouterr().out
    assert "spread" not in said
    assert main(["plot", str(folder), "--skip", "0"]) == 0
    said = capsys.readouterr().out
    # The mean of the table is that of the file: from hartree to kJ/mol.
    mean = read_properties(folder / "run.out")["potential"].mean() / KJ_PER_MOL
    line = next(line.split() for line in said.splitlines() if line.split()[:1] == ["potential"])
    assert float(line[1]) == pytest.approx(mean, rel=1e-5)
    assert line[2] == "+-"
    assert line[4] == "kJ/mol"
