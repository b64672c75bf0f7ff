"""The numbers and the figure of this case's README: drivers that join and leave change nothing but the time.

    python study.py [FOLDER]

Uracil in 64 waters (../small), 8 beads, i-PI and up to three drivers over TCP on this machine, which stand for those of
other nodes. A few minutes; what is finished is not done again.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.analysis.figures import COLOURS, legend, panels, save
from deltaqmmm.analysis.outputs import bead_files, read_positions, read_properties
from deltaqmmm.cli.main import main as deltaqmmm

HERE = Path(__file__).resolve().parent
BEADS, STEPS = 8, 160
_ASSIGNED = re.compile(r"Assigning batch of (\d+) request.s. to client \('[\d.]+', (\d+)\)")
_LIMIT = 1800.0


@dataclass(frozen=True)
class Plan:
    """What a driver does.

    Attributes:
        joins: It starts after this step.
        leaves: It gets SIGTERM after this step; None to stay to the end.
    """

    joins: int
    leaves: int | None = None


ALONE = (Plan(0),)
CHANGING = (Plan(0, STEPS * 5 // 8), Plan(STEPS // 8), Plan(STEPS * 2 // 8, STEPS * 6 // 8))


def make(folder: Path) -> int:
    """Make the folder of a run, on a free port, which is returned."""
    words = ["new", "cluster", folder, "--system", HERE.parent / "small", "--beads", BEADS, "--steps", STEPS, "--quiet"]
    if deltaqmmm([str(word) for word in words]) != 0:
        raise RuntimeError(f"{folder} could not be made")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = int(probe.getsockname()[1])
    file = folder / "input.xml"
    text = re.sub(r"<port>.*?</port>", f"<port> {port} </port>", file.read_text())
    text = text.replace("verbosity='medium'", "verbosity='high' floatformat='%25.17e'")
    text = re.sub(r"(<properties[^>]*stride=)'\d+'", r"\1'1'", text)
    file.write_text(re.sub(r"(<trajectory[^>]*stride=)'\d+'", r"\1'10'", text))
    config = folder / "config.toml"
    config.write_text(re.sub(r"threads = \d+", "threads = 1", config.read_text()))
    return port


def simulate(folder: Path, plans: tuple[Plan, ...]) -> None:
    """Run i-PI with drivers that come and go, unless that is done.

    Raises:
        RuntimeError: i-PI failed, or took too long.
    """
    if (folder / "RESTART").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    port = make(folder)
    limit = time.monotonic() + _LIMIT
    with ExitStack() as stack:

        def start(command: list[str], log: str) -> subprocess.Popen[bytes]:
            stream = stack.enter_context((folder / log).open("w"))
            process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
            stack.callback(process.kill)
            return process

        server = start([sys.executable, str(Path(sys.executable).with_name("i-pi")), "input.xml"], "ipi.log")
        drive = [sys.executable, "-m", "deltaqmmm.cli.main", "drive", "config.toml", "-a", "localhost", "-p", str(port)]
        drivers: dict[int, subprocess.Popen[bytes]] = {}
        while server.poll() is None:
            step = last_step(folder / "run.out")
            for number, plan in enumerate(plans):
                if number not in drivers and step >= plan.joins - (plan.joins == 0):
                    others = list(drivers.values())
                    drivers[number] = start([*drive, "--wait", "600"], f"driver_{number}.log")
                    wait_for(folder / f"driver_{number}.log", others, limit)
                if plan.leaves is not None and step >= plan.leaves and number in drivers:
                    drivers[number].send_signal(signal.SIGTERM)
            if time.monotonic() > limit:
                raise RuntimeError(f"{folder}: not done after {_LIMIT:g} s")
            time.sleep(0.05)
        for driver in drivers.values():
            driver.wait(60.0)
        if server.returncode != 0 or not (folder / "RESTART").exists():
            raise RuntimeError(f"{folder}: i-PI failed, see its ipi.log")


def wait_for(log: Path, others: list[subprocess.Popen[bytes]], limit: float) -> None:
    """Hold the other drivers until a new one is there: it takes seconds to start, in which this small system does many
    steps."""
    for other in others:
        other.send_signal(signal.SIGSTOP)
    while "Connected to" not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.05)
    for other in others:
        other.send_signal(signal.SIGCONT)


def last_step(file: Path) -> int:
    """The last step that is written; -1 before the first."""
    if not file.exists():
        return -1
    rows = [line for line in file.read_text().splitlines(keepends=True) if line[0] != "#" and line.endswith("\n")]
    return round(float(rows[-1].split()[0])) if rows else -1


def differences(one: Path, other: Path) -> dict[str, float]:
    """Largest differences of two runs: potential energy, hartree, and positions of the beads, angstrom."""
    energies = [read_properties(folder / "run.out")["potential"] for folder in (one, other)]
    positions = [
        np.array([read_positions(file)[2] for file in bead_files(folder, "run", "pos")]) for folder in (one, other)
    ]
    return {
        "energy": float(np.abs(energies[0] - energies[1]).max()),
        "position": float(np.abs(positions[0] - positions[1]).max()),
    }


def served(log: Path) -> list[list[int]]:
    """Beads that each driver got, in the order in which they came, in each step: shape (drivers, steps)."""
    found: dict[str, list[int]] = {}
    total = 0
    for match in _ASSIGNED.finditer(log.read_text()):
        counts = found.setdefault(match[2], [0] * (STEPS + 1))
        # A batch whose driver left is sent again: the last step may come to more.
        counts[min(total // BEADS, STEPS)] += int(match[1])
        total += int(match[1])
    return list(found.values())


def main(folder: Path, figure: Path | None = None) -> dict[str, float]:
    """Simulate and analyse.

    Args:
        folder: Where to work.
        figure: Where to draw; None for not at all.

    Returns:
        The `differences` between a run with one driver and one with three that come and go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    simulate(folder / "alone", ALONE)
    simulate(folder / "changing", CHANGING)
    if figure is not None:
        draw(folder / "changing", figure)
    return differences(folder / "alone", folder / "changing")


def draw(folder: Path, file: Path) -> None:
    """Beads that each driver served, step by step."""
    figure, (axis,) = panels(1, 1, 6.0)
    steps, bottom = np.arange(STEPS + 1), np.zeros(STEPS + 1)
    for number, counts in enumerate(served(folder / "ipi.log")):
        # The last is made longer by what a driver that left had not given back.
        axis.bar(steps[:-1], counts[:-1], 1.0, bottom[:-1], color=COLOURS[number], label=f"driver {number + 1}")
        bottom += counts
    axis.set_xlabel("step")
    axis.set_ylabel("beads served")
    axis.set_xlim(0.0, STEPS)
    axis.set_ylim(0.0, 1.35 * BEADS)
    axis.set_yticks(range(0, BEADS + 1, 2))
    legend(axis, loc="upper center", ncols=3)
    save(figure, file)


if __name__ == "__main__":
    work = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "study"
    numbers = main(work, figure=HERE / "figure.png")
    print(f"{STEPS} steps with one driver, and with three that come and go: potential energies differ by at most")
    print(f"{numbers['energy']:.1e} hartree, positions by {numbers['position']:.1e} angstrom")
    print("beads served by each:", [sum(counts) for counts in served(work / "changing" / "ipi.log")])
