"""Times the learned correction beside DFTB on the worked example: a committee of four, one network, and the floor.

    python benchmarks/correction.py          (or: --threads 1 2 --batch 8 --output correction.json)

Frames move a little from step to step as in a simulation. All terms are measured within the same evaluations, which
take turns between the models; medians, per frame. The MM term is left out (`terms = dftb, correction`), so that
nothing runs beside the two. The floor is the time of the networks' matrix products alone.
"""

import argparse
import json
import re
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from run import FRAME_STEP_BOHR, hardware, versions

from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.ml import load_model, save_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "uracil_water"
TERMS = ("dftb", "embedding", "correction")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads of torch (default: 1 2)")
    parser.add_argument("--batch", type=int, default=8, help="frames in one batch (default: 8)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that medians are taken over (default: 15)")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    result = {"hardware": hardware(), "versions": versions(), "batch": options.batch, "rows": []}
    print(f"{result['hardware']['processor']}, batch of {options.batch}; ms per frame")
    print("| threads | model | DFTB | embedding | correction | matrix products alone | correction / DFTB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        one = Path(name) / "one.safetensors"
        save_model(one, load_model(EXAMPLE / "delta.safetensors").member(0))
        models = {"committee of four": EXAMPLE / "delta.safetensors", "one network": one}
        for threads in options.threads:
            for row in measure(Path(name), models, threads, options.batch, options.rounds):
                result["rows"].append(row)
                ms = row["ms_per_frame"]
                cells = [f"{ms[term]:.2f}" for term in (*TERMS, "floor")] + [f"{ms['correction'] / ms['dftb']:.2f}"]
                print(f"| {threads} | {row['model']} | {' | '.join(cells)} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder, models, threads, batch, rounds):
    """Rows of the table for one number of threads."""
    runs = {name: Run(folder, model, threads, batch) for name, model in models.items()}
    for _ in range(rounds + 2):
        for run in runs.values():
            run.step()
    return [{"threads": threads, "model": name, "ms_per_frame": run.medians()} for name, run in runs.items()]


class Run:
    """Frames that move, and the times of the terms."""

    def __init__(self, folder, model, threads, batch):
        text = (EXAMPLE / "box" / "config.toml").read_text()
        text = re.sub(r"(?m)^\[dftb\]$", f"[dftb]\nthreads = {threads}", text).split("[correction]")[0]
        text = re.sub(r'"(system\.\w+)"', rf'"{EXAMPLE / "box"}/\1"', text)
        config = folder / "config.toml"
        config.write_text(f'{text}[correction]\nmodel = "{model}"\n')
        self.loaded = load_potential(read_config(config), terms=("dftb", "correction"))
        self.network, self.n_atoms = load_model(model).network, len(self.loaded.system.qm_symbols)
        system, topology = self.loaded.system, self.loaded.topology
        generator = np.random.default_rng(batch)
        start = topology.positions[system.atom_particles]
        self.positions = start + 0.02 * generator.standard_normal((batch, *start.shape))
        self.velocities = FRAME_STEP_BOHR * generator.standard_normal(self.positions.shape)
        self.cells = np.stack([topology.cell] * batch)
        self.batch = batch
        self.seconds = []

    def step(self):
        self.positions += self.velocities
        self.loaded.potential.evaluate(self.cells, self.positions)
        self.seconds.append({**self.loaded.potential.seconds, "floor": self.floor()})

    def floor(self):
        """The matrix products of all layers, forwards and backwards."""
        network, rows = self.network, self.batch * self.n_atoms
        widths = [network.n_features, *network.hidden, 1]
        pairs = [
            (torch.ones(network.n_members, rows, a).double(), torch.ones(network.n_members, a, b).double())
            for a, b in pairwise(widths)
        ]
        start = time.perf_counter()
        for left, right in pairs:
            torch.bmm(torch.bmm(left, right), right.transpose(1, 2))
        return time.perf_counter() - start

    def medians(self):
        return {
            term: 1000.0 * float(np.median([seconds[term] for seconds in self.seconds[2:]])) / self.batch
            for term in (*TERMS, "floor")
        }


if __name__ == "__main__":
    main()
