"""Drivers over TCP that join and leave, the SLURM scripts with a stand-in for srun, and shared memory."""

import os
import re
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from deltaqmmm.ipi.simulation import read_simulation
from tests.integration.inputs.case import last_positions, make, run, run_command
from tests.integration.ipi.server import IPI, Process, free_port, read_properties, wait_until
from tests.integration.ipi.test_processes import last_step

BEADS, STEPS, PATIENCE = 8, 30, 120.0
DRIVE = [sys.executable, "-P", "-m", "deltaqmmm.cli.main", "drive", "config.toml"]
# What srun does, on this machine: every task a process, its output in a file of its own, signals passed on.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do
    case $1 in --ntasks=*) N=${1#*=} ;; --output=*) OUT=${1#*=} ;; esac
    shift
done
trap 'kill -TERM $(jobs -p) 2>/dev/null' TERM
for ((t = 0; t < N; t++)); do "$@" >> "${OUT/\\%t/$t}" 2>&1 & done
while [ -n "$(jobs -pr)" ]; do wait; done
"""


@pytest.fixture
def work(tmp_path):
    """The case on a port of its own, with double precision in MM, so that a driver makes no difference."""

    def make_one(name, steps, every=1, **options):
        folder = make("cluster", tmp_path, name=name, steps=steps, beads=BEADS, every=every, **options)
        port = free_port()
        for file in folder.glob("*.xml"):
            text = file.read_text().replace("<simulation ", "<simulation floatformat='%25.17e' ")
            file.write_text(re.sub("<port> .*? </port>", f"<port> {port} </port>", text))
        config = folder / "config.toml"
        config.write_text(config.read_text().replace('platform = "CPU"', 'platform = "Reference"'))
        return SimpleNamespace(folder=folder, port=port, table=folder / "run.out")

    return make_one


def server(here):
    return Process([sys.executable, IPI, "input.xml"], here.folder, "ipi.log")


def driver(here, name):
    return Process([*DRIVE, "-a", "localhost", "-p", here.port], here.folder, f"{name}.log")


def frames(process):
    """Evaluations and frames that a driver has served, as it says at its end."""
    found = re.findall(r"(\d+) steps, (\d+) frames", process.output)
    return tuple(map(int, found[-1]))


def test_drivers_join_and_leave(work):
    alone = work("alone", steps=STEPS)
    with server(alone) as ipi, driver(alone, "a") as only:
        assert ipi.wait(PATIENCE) == only.wait(PATIENCE) == 0
    # Four batches of two beads a step. Frames that are equal, as the beads of the start are, are taken for padding.
    assert frames(only)[0] >= 4 * (STEPS + 1)
    assert 8 * STEPS - 4 <= frames(only)[1] <= 8 * (STEPS + 1)

    here = work("shared", steps=STEPS)
    with server(here) as ipi, driver(here, "a") as first:
        wait_until(lambda: last_step(here.table) >= 6, PATIENCE, "steps of one driver")
        # So that the second is there before the first is done.
        first.signal(signal.SIGSTOP)
        with driver(here, "b") as second:
            second.wait_for_output("Connected to", PATIENCE)
            first.signal(signal.SIGCONT)
            joined = last_step(here.table)
            wait_until(lambda: last_step(here.table) >= joined + 6, PATIENCE, "steps of two drivers")
            left = last_step(here.table)
            first.signal(signal.SIGTERM)
            assert first.wait(PATIENCE) == 128 + signal.SIGTERM
            assert "Stopped by signal 15" in first.output
            assert ipi.wait(PATIENCE) == second.wait(PATIENCE) == 0
    assert 6 <= joined < left < STEPS
    # Each had its part, and nothing was computed for nothing.
    served, joining = frames(first)[1], frames(second)[1]
    assert 8 * STEPS - 4 <= served + joining <= 8 * STEPS + 10
    assert served > 8 * joined
    assert 8 * (STEPS - left - 1) < joining < 8 * (STEPS - joined)
    old, new = read_properties(alone.table), read_properties(here.table)
    assert list(new["step"]) == list(range(STEPS + 1))
    np.testing.assert_allclose(new["potential"], old["potential"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(new["conserved"], old["conserved"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(last_positions(here.folder), last_positions(alone.folder), rtol=0, atol=1e-8)


def test_shared_memory(work):
    """As with two drivers over TCP, which start as fast as the machine lets them: that run goes on until both serve."""
    other = work("tcp", steps=100_000)
    logs = [other.folder / f"driver_{n}.log" for n in (1, 2)]
    with Process(run_command(other.folder, drivers=2), other.folder, "run.log") as process:
        for log in logs:
            wait_until(lambda log=log: log.exists() and "Connected to" in log.read_text(), PATIENCE, log.name)
        connected = last_step(other.table)
        wait_until(lambda: last_step(other.table) >= connected + 3, PATIENCE, "steps of two drivers")
        process.signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 128 + signal.SIGINT
    steps = read_simulation(other.folder / "RESTART").step
    here = work("shm", steps=steps)
    said = run(here.folder, input="shm.xml")
    assert f"Finished: {steps} steps" in said
    log = (here.folder / "driver.log").read_text()
    # All beads at once; a batch that is split makes one more.
    assert steps + 1 <= int(re.findall(r"(\d+) steps, \d+ frames", log)[-1]) <= steps + 4
    assert len(list(here.folder.glob("run.pos_*.xyz"))) == BEADS
    one, two = read_properties(here.table), read_properties(other.table)
    assert list(one["step"]) == list(two["step"]) == list(range(steps + 1))
    np.testing.assert_allclose(one["potential"], two["potential"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(last_positions(here.folder), last_positions(other.folder), rtol=0, atol=1e-9)


def jobs(here):
    """A function that runs a script as SLURM does, with a stand-in for srun; i-PI's process id goes to ipi.pid."""
    bin_ = here.folder / "bin"
    bin_.mkdir()
    for name, text in {
        "srun": SRUN,
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "i-pi": f'#!/bin/bash\necho $$ > ipi.pid\nexec {sys.executable} {IPI} "$@"\n',
        "deltaqmmm": f'#!/bin/bash\nexec {sys.executable} -P -m deltaqmmm.cli.main "$@"\n',
    }.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    slurm = [f"PATH={bin_}:{os.environ['PATH']}", f"PORT={here.port}", "HOST=localhost"]
    return lambda script, *variables: Process(["env", *slurm, *variables, "bash", script], here.folder, f"{script}.log")


def end_at(checkpoint, step):
    """Let what goes on from a checkpoint end at a step."""
    text = checkpoint.read_text()
    checkpoint.write_text(re.sub(r"<total_steps>.*?</total_steps>", f"<total_steps> {step} </total_steps>", text))


def test_the_job_and_its_continuation(work):
    """job.sbatch as SLURM runs it: SIGTERM before the time is up, and the next job goes on; drivers.sbatch joins."""
    here = work("job", steps=100_000)
    job = jobs(here)
    with job("drivers.sbatch") as early:
        assert early.wait(PATIENCE) == 1
    assert "there is no server.address here" in early.output
    with job("job.sbatch", "DRIVERS=1") as first:
        wait_until((here.folder / "server.address").exists, PATIENCE, "the address")
        with job("drivers.sbatch", "DRIVERS=1", "SLURM_JOB_ID=7") as more:
            wait_until(lambda: last_step(here.table) >= 4, PATIENCE, "steps")
            for log in (here.folder / "driver-0.log", here.folder / "driver-7-0.log"):
                wait_until(lambda log=log: log.exists() and "Connected to" in log.read_text(), PATIENCE, log.name)
            # i-PI has spoken to a driver that is connected when it next asks for forces.
            connected = last_step(here.table)
            wait_until(lambda: last_step(here.table) >= connected + 3, PATIENCE, "steps of two drivers")
            first.signal(signal.SIGTERM)
            assert first.wait(PATIENCE) == more.wait(PATIENCE) == 0, (here.folder / "ipi.log").read_text()[-1000:]
    assert "begins with input.xml; 1 drivers" in first.output
    assert "i-PI sent EXIT" in (here.folder / "driver-0.log").read_text()
    assert not (here.folder / "server.address").exists()
    done = last_step(here.table)
    restart = here.folder / "RESTART"
    # On all interfaces of the node, which the input that is tried on one machine does not open.
    assert "<address> 127.0.0.1 </address>" in (here.folder / "input.xml").read_text()
    assert re.search(r"<address>\s*0\.0\.0\.0\s*</address>", restart.read_text())
    end_at(restart, done + 3)
    with job("job.sbatch", "DRIVERS=1") as second:
        assert second.wait(PATIENCE) == 0
    assert "begins with RESTART" in second.output
    assert list(read_properties(here.table)["step"]) == list(range(done + 4))
    assert not list(here.folder.glob(".start-*"))


def test_a_job_that_is_killed_goes_on_without_repeating_a_step(work):
    """SIGKILL leaves outputs that are further than the checkpoint, to which i-PI appends."""
    every = 20
    here = work("killed", steps=100_000)
    source = here.folder / "input.xml"
    source.write_text(re.sub(r"(<checkpoint [^>]*stride=)'\d+'", rf"\1'{every}'", source.read_text()))
    job = jobs(here)
    with job("job.sbatch", "DRIVERS=1") as first:
        wait_until(lambda: last_step(here.table) >= every + 3, PATIENCE, "steps after a checkpoint")
        os.kill(int((here.folder / "ipi.pid").read_text()), signal.SIGKILL)
        assert first.wait(PATIENCE) == 128 + signal.SIGKILL
    assert not (here.folder / "RESTART").exists()
    checkpoint = here.folder / "run.checkpoint"
    at = read_simulation(checkpoint).step
    assert every <= at < last_step(here.table)
    end_at(checkpoint, at + 6)
    with job("job.sbatch", "DRIVERS=1") as second:
        assert second.wait(PATIENCE) == 0, second.output
    assert "begins with run.checkpoint" in second.output
    assert f"What is later than step {at} in " in second.output
    steps = list(range(at + 7))
    assert list(read_properties(here.table)["step"]) == steps
    trajectory = (here.folder / "run.pos_0.xyz").read_text()
    assert [int(step) for step in re.findall(r"Step:\s+(\d+)", trajectory)] == steps
    # What was cut off is kept.
    rows = (here.folder / "before_1" / "run.out").read_text().splitlines()
    assert round(float(rows[0].split()[0])) == at + 1
