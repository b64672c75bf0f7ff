"""How much of a step with i-PI is not physics: i-PI's own work, the wire, packing, extras.

A short path-integral run at constant energy, all beads in one batch, with i-PI and `deltaqmmm drive` as a user starts
them, on the same cores. What is not physics is the time from the end of one evaluation to the beginning of the next.
Beside it the same run with i-PI's own dummy driver, which computes nothing: what i-PI and the wire cost at least.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.measurements import Result
from benchmarks.programs import ProgramFailedError, ProgramMissingError, cores, thread_environment
from benchmarks.systems import ROOT, write_config

N_ATOMS = 4400
STEPS = 100
FIRST_STEPS = 5
LIMIT_SECONDS = 600.0
WAYS = (("unix", 1e-3), ("unix", 1e-4), ("shm", 1e-3))
"""Transport, and i-PI's <latency> in seconds: how long it sleeps before it looks again for frames to hand over. With
the shorter one it often finds a part of the beads and hands over an incomplete batch."""

INPUT = """\
<simulation verbosity='high'>
  <output prefix='run'>
    <properties stride='1' filename='out'>
      [ step, time{{femtosecond}}, conserved, temperature{{kelvin}}, kinetic_md, potential ]
    </properties>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 1 </seed> </prng>
  <ffsocket name='driver' mode='{mode}' pbc='False'>
    <address> {address} </address> <batch_size> {beads} </batch_size> <latency> {latency} </latency>
  </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> {init} </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='driver'/> </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics>
    </motion>
  </system>
</simulation>
"""


def run(session):
    """Time everything."""
    beads = session.pick("batches", (8,), (8,))
    threads = session.pick("threads", (2,), (1,))
    rounds = session.pick("rounds", 3, 1)
    molecules = session.pick("molecules", ("uracil",), ("uracil",))
    atoms = session.pick("atoms", (N_ATOMS,), (N_ATOMS,))
    settings = {"molecules": molecules, "atoms": atoms, "batches": beads, "threads": threads, "rounds": rounds}
    result = Result("wire", settings)
    try:
        programs()
    except ProgramMissingError as error:
        result.missing("i-PI", error)
        return result
    ways = WAYS[:1] if session.options.quick else WAYS
    for key, n_atoms in product(molecules, atoms):
        box = session.box(key, n_atoms)
        for device, n_threads, n_beads, way in product(session.options.devices, threads, beads, ways):
            measure(session, result, box, device, n_threads, n_beads, way, rounds)
    return result


def programs():
    """i-PI and its Python driver.

    Raises:
        ProgramMissingError: They are not there.
    """
    found = []
    for name in ("i-pi", "i-pi-py_driver"):
        beside = Path(sys.executable).with_name(name)
        program = str(beside) if beside.is_file() else shutil.which(name)
        if program is None:
            raise ProgramMissingError(f"{name} is neither beside Python nor on PATH")
        found.append(program)
    return found


def measure(session, result, box, device, threads, beads, way, rounds):
    """Rounds of both drivers, in turn."""
    mode, latency = way
    system = f"{box.molecule.key}, {box.n_atoms} atoms, {mode}, latency {1000.0 * latency:g} ms"
    config = write_config(box, session.folder / "wire.toml", threads=threads, device=device)
    rows = {name: [] for name in ("step in i-PI", "evaluate", "not physics", "step as i-PI tells it")}
    dummies, exchanges = [], []
    with session.bar(f"wire: {system}", 2 * rounds) as bar:
        for _ in range(rounds):
            short = Run(session.folder / "wire", box, mode, latency, beads, threads)
            times, told = short.with_driver(config)
            steps, evaluations, count = by_step(times, beads)
            rows["step in i-PI"] += list(steps)
            rows["evaluate"] += list(evaluations)
            rows["not physics"] += list(steps - evaluations)
            rows["step as i-PI tells it"] += told
            exchanges.append(count)
            bar.update()
            dummies += short.with_dummy()
            bar.update()
    from importlib import metadata

    result.present("i-PI", version=metadata.version("ipi"))
    per_frame = 1000.0 / beads
    common = {"batch": beads, "threads": threads, "device": device}
    facts = {"exchanges_per_step": float(np.mean(exchanges)), "n_atoms": box.n_atoms}
    added = {
        name: result.add("deltaqmmm", name, system, per_frame * np.array(seconds), **common, facts=facts)
        for name, seconds in rows.items()
    }
    dummy = result.add("i-PI", "step with its dummy driver", system, per_frame * np.array(dummies), **common)
    result.ratio(added["not physics"], added["step in i-PI"])
    result.ratio(dummy, added["step in i-PI"])


def by_step(times, beads):
    """Time of each step and of its evaluations, seconds, and the mean number of evaluations in a step.

    i-PI hands over what is queued when it looks: the beads of a step may come in several parts.

    Args:
        times: Beginning, end and number of frames of each evaluation, one row each.
        beads: Frames of a step.
    """
    begins, ends, frames = times.T
    step = ((np.cumsum(frames) - frames) // beads).astype(int)
    firsts = begins[np.concatenate([[True], step[1:] != step[:-1]])]
    seconds = np.bincount(step, ends - begins)
    return np.diff(firsts)[FIRST_STEPS:], seconds[:-1][FIRST_STEPS:], len(times) / (step[-1] + 1)


class Run:
    """A short run of i-PI with some driver."""

    def __init__(self, folder, box, mode, latency, beads, threads):
        self._latency = latency
        self._folder, self._box, self._mode, self._beads, self._threads = folder, box, mode, beads, threads

    def with_driver(self, config):
        """Beginning and end of each evaluation (seconds, one row each), and i-PI's time of each step."""
        times = self._folder / "times"
        command = [sys.executable, "-m", "benchmarks.timed_driver", times, "drive", config, "-a"]
        told = self._run(command, ["--shm" if self._mode == "shm" else "-u"])
        return np.loadtxt(times), told

    def with_dummy(self):
        """i-PI's time of each step with its dummy driver."""
        flags = ["--shm" if self._mode == "shm" else "-u", "-m", "dummy"]
        return self._run([programs()[1], "-a"], flags)

    def _run(self, command, flags):
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        address = f"deltaqmmm_benchmark_{os.getpid()}"
        init = (self._box.folder / "init.xyz").resolve()
        # At this verbosity i-PI tells the time of every step.
        text = INPUT.format(
            steps=STEPS, mode=self._mode, address=address, beads=self._beads, init=init, latency=self._latency
        )
        (self._folder / "input.xml").write_text(text)
        socket = Path(f"/tmp/ipi_{address}")
        with contextlib.ExitStack() as stack:
            server = self._start([programs()[0], "input.xml"], "ipi.log", stack, 1)
            stack.callback(socket.unlink, missing_ok=True)
            self._wait(socket.exists, server, "ipi.log")
            driver = self._start([*command, address, *flags], "driver.log", stack, self._threads)
            self._wait(lambda: server.poll() is not None or driver.poll() is not None, None, "driver.log")
            self._wait(lambda: server.poll() is not None and driver.poll() is not None, None, "driver.log", 60.0)
        if server.returncode or driver.returncode:
            raise ProgramFailedError(f"i-PI or its driver failed:\n{self._tail('ipi.log')}\n{self._tail('driver.log')}")
        found = re.findall(r"MD step +\d+\. t/step: +(\S+)", (self._folder / "ipi.log").read_text())
        if len(found) <= FIRST_STEPS:
            raise ProgramFailedError(f"i-PI told no time per step:\n{self._tail('ipi.log')}")
        return [float(word) for word in found[FIRST_STEPS:]]

    def _start(self, command, log, stack, threads):
        file = stack.enter_context((self._folder / log).open("w"))
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self._folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=thread_environment(threads) | {"PYTHONPATH": path},
        )
        if cores(self._threads) is not None:
            os.sched_setaffinity(process.pid, cores(self._threads))
        stack.callback(end, process)
        return process

    def _wait(self, condition, process, log, seconds=LIMIT_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise ProgramFailedError(f"i-PI and its driver do not get on:\n{self._tail(log)}")
            time.sleep(0.05)

    def _tail(self, log):
        file = self._folder / log
        return "\n".join(file.read_text(errors="replace").splitlines()[-12:]) if file.exists() else ""


def end(process):
    """End a process that we started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tables(result):
    """The tables on the screen."""
    rows = []
    for step in result.find("deltaqmmm", "step in i-PI"):
        here = {"system": step.system, "device": step.device, "threads": step.threads, "batch": step.batch}
        names = ("evaluate", "not physics", "step as i-PI tells it")
        evaluate, rest, told = (result.find("deltaqmmm", name, **here)[0] for name in names)
        dummy = result.find("i-PI", "step with its dummy driver", **here)[0]
        whole = [step.batch * value.median for value in (step, evaluate, rest, told, dummy)]
        first = [step.system, step.device, step.threads, step.batch, step.facts["exchanges_per_step"]]
        rows.append([*first, *whole, rest.median / step.median, dummy.median / step.median])
    headers = ["system", "device", "cores", "beads", "exchanges", "step", "evaluate", "not physics"]
    headers += ["step as i-PI tells it", "i-PI with dummy", "share", "share of dummy"]
    return [("A step of path-integral MD in i-PI, ms for all beads (medians)", headers, rows)]


def draw(result, folder):
    """Bars: physics, the rest, and the dummy."""
    from benchmarks import figures

    found = result.find("deltaqmmm", "step in i-PI")
    if not found:
        return []
    figure, (axis,) = figures.panels(1)
    figure.set_size_inches(figures.WIDTH, 0.9 + 0.75 * len(found))
    labels = []
    for place, step in enumerate(found):
        here = {"system": step.system, "device": step.device, "threads": step.threads, "batch": step.batch}
        physics, rest, dummy = (
            step.batch * result.find(program, name, **here)[0].median
            for program, name in (
                ("deltaqmmm", "evaluate"),
                ("deltaqmmm", "not physics"),
                ("i-PI", "step with its dummy driver"),
            )
        )
        first = place == 0
        axis.barh(place - 0.18, physics, 0.32, color="#0b5fa5", label="evaluation" if first else None)
        axis.barh(place - 0.18, rest, 0.32, left=physics, color="#e0a030", label="everything else" if first else None)
        axis.barh(place + 0.18, dummy, 0.32, color="#777777", label="i-PI with its dummy driver" if first else None)
        axis.text(
            physics + rest, place - 0.18, f" {rest / (physics + rest):.1%} of it no physics", va="center", fontsize=8
        )
        box, ways = step.system.split(" atoms, ")
        labels.append(f"{box} atoms, {step.threads} core(s)\n{ways}")
    axis.set_xlim(0.0, 1.3 * axis.get_xlim()[1])
    axis.set_yticks(range(len(found)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"time per step of all {found[0].batch} beads / ms")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return [figures.save(figure, folder / "wire.png")]
