"""The claims of the method, tested on this system: how fast errors fall with frames, and with the reach into the water.

Trains one network for each number of training frames and each MM cutoff, Delta and direct, on `train.h5`, and judges
them on `test.h5`; and one, Delta, for each other choice of what tells MM sites apart, and of the functions over MM
sites. What is done is kept in `study_PART.json`, so that an interrupted study goes on. Ends with three tables
(`study.md`) and two figures. On all frames training takes half of the epochs of the committees that are shipped, on
fewer frames more, up to four times as many.

    python study.py direct types functions &  # beside it on another core
    python study.py Delta
    python study.py                 # what is missing of all parts, and the tables
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from deltaqmmm.allocation import keep_freed_memory
from deltaqmmm.atomic import write_atomically
from deltaqmmm.config import read_config
from deltaqmmm.config.training import baseline_name, symmetry_functions, training_settings
from deltaqmmm.dataset import read_dataset
from deltaqmmm.training import Trainer
from deltaqmmm.training.figures import Curve, cutoff_figure, learning_figure, save_figure
from deltaqmmm.training.judging import judge

HERE = Path(__file__).parent
TARGETS = {"Delta": "delta", "direct": "direct"}
EPOCHS = 100
FRAMES = (30, 60, 120, 240)  # and all
CUTOFFS = (4.0, 6.0, 9.0, 14.0)
TYPES = ("none", "charge")  # mm_type_by and mm_weight of box/config.toml
OTHER_TYPES = (("element", "charge"), ("element", "count"), ("none", "count"))
GAUSSIANS = (0, 4)  # mm_radial_functions and mm_near_radial_functions of box/config.toml
OTHER_FUNCTIONS = ((0, 6), (3, 6))  # without Gaussians over all sites there are their potential and field
OPTIONS = ("mm_type_by", "mm_weight", "mm_radial_functions", "mm_near_radial_functions")
COLUMNS = ("energy", "qm_gradients", "near_mm_gradients", "mm_gradients")


class Run(NamedTuple):
    """One network: what it learns, from how many frames, how far it sees the MM sites (angstrom), as what, by what."""

    name: str
    frames: int
    cutoff: float
    mm_type_by: str = TYPES[0]
    mm_weight: str = TYPES[1]
    mm_radial_functions: int = GAUSSIANS[0]
    mm_near_radial_functions: int = GAUSSIANS[1]

    @property
    def key(self):
        """Its name in `study_PART.json`."""
        short = f"{self.name} {self.frames} {self.cutoff:g}"
        return " ".join([short] if self[3:] == TYPES + GAUSSIANS else [short, *map(str, self[3:])])


def parts(longest, every):
    """The runs of each part, from the longest cutoff (angstrom) and the number of all frames."""
    runs = {
        name: [Run(name, frames, longest) for frames in (*FRAMES, every)]
        + [Run(name, every, cutoff) for cutoff in CUTOFFS if cutoff != longest]
        for name in TARGETS
    }
    # Not by name: that would tell the two hydrogens of a water apart.
    types = [Run("Delta", every, longest, *types) for types in OTHER_TYPES]
    return runs | {"types": types, "functions": [Run("Delta", every, longest, *TYPES, *n) for n in OTHER_FUNCTIONS]}


def main():
    torch.set_num_threads(1)
    keep_freed_memory()
    config = read_config(HERE / "box" / "config.toml")
    training, test = read_dataset(HERE / "train.h5"), read_dataset(HERE / "test.h5")
    longest = config.network.mm_cutoff_angstrom
    every = len(training.frames)
    runs = parts(longest, every)
    results = {}
    for part in sys.argv[1:] or runs:
        file = HERE / f"study_{part}.json"
        done = json.loads(file.read_text()) if file.exists() else {}
        for run in tqdm(runs[part], desc=part, unit="network"):
            if run.key not in done:
                done[run.key] = train(config, training, test, run)
                write_atomically(file, (json.dumps(done, indent=1) + "\n").encode())
        results |= done
    if not sys.argv[1:]:
        report(results, runs, longest, every)


def train(config, training, test, run):
    """Train one network and judge it."""
    network = replace(config.network, mm_cutoff_angstrom=run.cutoff, **{name: getattr(run, name) for name in OPTIONS})
    epochs = EPOCHS * min(4, round(len(training.frames) / run.frames))
    settings = training_settings(config, members=1)
    settings = replace(settings, target=TARGETS[run.name], epochs=epochs, patience=epochs)
    # The first frames of the file: they stand there in random order.
    chosen = training.with_frames(training.frames[: run.frames], [])
    start = time.monotonic()
    model = Trainer(chosen, settings, symmetry_functions(replace(config, network=network))).run()
    seconds = time.monotonic() - start
    baseline, row = judge(model, test, run.name, baseline_name(config)).rows
    return {"seconds": seconds, "baseline": baseline.to_json(), "errors": row.to_json()}


def errors_of(result, kind="mae", row="errors"):
    return [result[row][column][kind] for column in COLUMNS]


def report(results, runs, longest, every):
    """Write the tables and the figures."""
    first = results[Run("Delta", every, longest).key]
    errors = "energy | QM gradients | MM within 6 | MM within 14"
    lines = [
        "Errors on the test frames, MAE / RMSE: energies in kJ/mol, gradients in kJ/mol/angstrom; one network each.",
        "",
        f"| model | frames | MM cutoff (angstrom) | {errors} | training (s) |",
        "|---|---|---|---|---|---|---|---|",
        table_row("DFTB3-D3", "-", "-", *cells(first, "baseline"), "-"),
    ]
    for run in (run for name in TARGETS for run in runs[name]):
        result = results[run.key]
        seconds = f"{result['seconds']:.0f}"
        lines.append(table_row(run.name, run.frames, f"{run.cutoff:g}", *cells(result), seconds))
    lines += ["", f"| types of MM sites | weight | {errors} |", "|---|---|---|---|---|---|"]
    for run in (Run("Delta", every, longest), *runs["types"]):
        lines.append(table_row(run.mm_type_by, run.mm_weight, *cells(results[run.key])))
    lines += ["", f"| over all MM sites | Gaussians over near ones | {errors} |", "|---|---|---|---|---|---|"]
    for run in (Run("Delta", every, longest), *runs["functions"]):
        name = f"G1 and {run.mm_radial_functions} Gaussians" if run.mm_radial_functions else "potential and field"
        lines.append(table_row(name, run.mm_near_radial_functions, *cells(results[run.key])))
    write_atomically(HERE / "study.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    baseline = errors_of(first, row="baseline")[:3]
    counts = (*FRAMES, every)
    by_frames = {
        name: Curve(counts, np.array([errors_of(results[Run(name, n, longest).key])[:3] for n in counts]))
        for name in TARGETS
    }
    save_figure(learning_figure(by_frames, baseline), HERE / "figures" / "learning.png")
    by_cutoff = {
        name: Curve(CUTOFFS, np.array([errors_of(results[Run(name, every, c).key])[:3] for c in CUTOFFS]))
        for name in TARGETS
    }
    save_figure(cutoff_figure(by_cutoff, baseline), HERE / "figures" / "cutoff.png")


def cells(result, row="errors"):
    pairs = zip(errors_of(result, "mae", row), errors_of(result, "rmse", row), strict=True)
    return [f"{mae:.3g} / {rmse:.3g}" for mae, rmse in pairs]


def table_row(*entries):
    return f"| {' | '.join(map(str, entries))} |"


if __name__ == "__main__":
    main()
