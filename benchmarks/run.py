"""Times one step of the demo box (uracil in 1,000 q-SPC/Fw waters) by term and batch size, beside sander.

    make bench                    (or: python benchmarks/run.py --threads 1 2 --output benchmarks/results.json)

For each number of threads, and for batches of 1, 4 and 16 frames: the time of each term and of a whole evaluation (MM
runs beside the QM side), the floors that no version can beat (OpenMM's MM step alone; LAPACK's symmetric eigensolver
alone, once per SCC cycle and frame), and sander's time per MD step of the same box with DFTB3 and PME. sander of the
AmberTools wheel is serial, so it is compared with one thread. Every figure is a median over rounds in which all
programs take turns.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import deltaqmmm
from deltaqmmm.build import BuildOptions, build_system
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential

BATCHES = (1, 4, 16)
FRAME_STEP_BOHR = 1e-3
SANDER_INPUT = """uracil box, NVE
&cntrl imin=0, nstlim={steps}, dt=0.0005, ntx=1, ntb=1, cut=9.0, ntc=1, ntf=1, jfastw=4, ntpr={steps}, ntwx=0,
ntwr=100000,
  tempi=300.0, ig=1, ntt=0, nscm=0, ifqnt=1 /
&qmmm qmmask=':URA', qmcharge=0, qm_theory='DFTB3', qmcut=9.0, qmshake=0, qm_ewald=1, qm_pme=1, scfconv=1e-8,
  dftb_telec=0.0, dftb_maxiter=100, writepdb=0, verbosity=0 /
"""


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "box"
        build_system(BuildOptions(folder=folder, molecules=("O=c1cc[nH]c(=O)[nH]1",), names=("URA",), water_count=1000))
        result = {"hardware": hardware(), "versions": versions(), "rounds": options.rounds, "rows": []}
        sander = Sander(folder)
        for threads in options.threads:
            result["rows"] += measure(folder, threads, options.rounds, sander if threads == 1 else None)
    show(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nWritten to {options.output}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that medians are taken over (default: 7)")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def hardware():
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return {"processor": model[1] if model else platform.processor(), "cores": os.cpu_count()}


def versions():
    import openmm

    return {"deltaqmmm": deltaqmmm.__version__, "torch": torch.__version__, "openmm": openmm.__version__}


class Sander:
    """sander on the same box; None-like where it is not installed."""

    def __init__(self, folder):
        beside = Path(sys.executable).with_name("sander")
        self.program = str(beside) if beside.is_file() else shutil.which("sander")
        self.folder = folder

    def seconds_per_step(self, steps=20):
        """Wall time of a run with `steps` more steps than another, divided by `steps`: start-up cancels."""
        return (self._wall(steps + 1) - self._wall(1)) / steps

    def _wall(self, steps):
        (self.folder / "sander.in").write_text(SANDER_INPUT.format(steps=steps))
        files = {"-i": "sander.in", "-o": "sander.out", "-p": "system.prmtop", "-c": "system.rst7", "-r": "restart"}
        files |= {"-x": "trajectory", "-inf": "info"}
        words = ["-O", *(word for pair in files.items() for word in pair)]
        start = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([self.program, *words], cwd=self.folder, check=True, capture_output=True, env=environment)
        return time.perf_counter() - start


def measure(folder, threads, rounds, sander):
    """Rows of the table for one number of threads."""
    text = (folder / "config.toml").read_text()
    config = folder / f"threads{threads}.toml"
    config.write_text(re.sub(r"(?m)^threads = .*$", f"threads = {threads}", text))
    loaded = load_potential(read_config(config))
    batches = {size: Trajectory(loaded, size) for size in BATCHES}
    for trajectory in batches.values():
        trajectory.step()
    sander_seconds = []
    for _ in range(rounds):
        for trajectory in batches.values():
            trajectory.record()
        if sander and sander.program:
            sander_seconds.append(sander.seconds_per_step())
    rows = [trajectory.row(threads) for trajectory in batches.values()]
    if sander_seconds:
        median = float(np.median(sander_seconds))
        for row in rows:
            row["sander_ms_per_frame"] = 1000 * median
            row["sander_spread_ms"] = [1000 * min(sander_seconds), 1000 * max(sander_seconds)]
    return rows


class Trajectory:
    """Frames that move a little from step to step, as in a simulation, and the times they took."""

    def __init__(self, loaded, size):
        self.loaded, self.size = loaded, size
        system, topology = loaded.system, loaded.topology
        generator = np.random.default_rng(size)
        start = topology.positions[system.atom_particles]
        self.positions = start + 0.02 * generator.standard_normal((size, *start.shape))
        self.velocities = FRAME_STEP_BOHR * generator.standard_normal(self.positions.shape)
        self.cells = np.stack([topology.cell] * size)
        self.seconds = []
        self.iterations = []

    def step(self):
        self.positions += self.velocities
        return self.loaded.potential.evaluate(self.cells, self.positions)

    def record(self):
        evaluation = self.step()
        start = time.perf_counter()
        evaluation = self.step()
        total = time.perf_counter() - start
        self.iterations.append(int(evaluation.extras["scc_iterations"].sum()))
        self.positions += self.velocities
        start = time.perf_counter()
        self.loaded.mm.evaluate(self.positions, self.cells)
        alone = time.perf_counter() - start
        self.seconds.append(
            {**self.loaded.potential.seconds, "total": total, "mm_alone": alone, "eigensolver": self._eigensolver()}
        )

    def _eigensolver(self):
        """Time of as many diagonalisations of the size of the QM region as the last step did."""
        n = self.loaded.dftb.n_orbitals
        matrices = torch.randn(self.iterations[-1], n, n, dtype=torch.float64)
        matrices = matrices + matrices.transpose(1, 2)
        start = time.perf_counter()
        torch.linalg.eigh(matrices)
        return time.perf_counter() - start

    def row(self, threads):
        medians = {key: 1000 * float(np.median([s[key] for s in self.seconds])) for key in self.seconds[0]}
        totals = [1000 * s["total"] / self.size for s in self.seconds]
        return {
            "threads": threads,
            "batch": self.size,
            "ms": medians,
            "ms_per_frame": medians["total"] / self.size,
            "ms_per_frame_spread": [min(totals), max(totals)],
            "scc_cycles_per_frame": float(np.median(self.iterations)) / self.size,
        }


def show(result):
    machine = result["hardware"]
    print(f"\n{machine['processor']}, {machine['cores']} cores; medians of {result['rounds']} rounds")
    print("ms for the whole batch; the last two columns per frame")
    names = (
        "threads",
        "batch",
        "DFTB",
        "embedding",
        "MM beside",
        "total",
        "MM alone",
        "eigh alone",
        "ours",
        "sander",
        "ratio",
    )
    print("  ".join(f"{name:>10}" for name in names))
    for row in result["rows"]:
        ms = row["ms"]
        values = [
            ms["dftb"],
            ms["embedding"],
            ms["mm"],
            ms["total"],
            ms["mm_alone"],
            ms["eigensolver"],
            row["ms_per_frame"],
        ]
        sander = row.get("sander_ms_per_frame")
        text = [f"{row['threads']:10d}", f"{row['batch']:10d}", *(f"{value:10.1f}" for value in values)]
        text += [f"{sander:10.1f}", f"{sander / row['ms_per_frame']:10.2f}"] if sander else [f"{'-':>10}"] * 2
        print("  ".join(text))


if __name__ == "__main__":
    main()
