"""The claims of the method, tested on this system: how fast errors fall with frames, and with the reach into the water.

Trains one network for each number of training frames and each MM cutoff, Delta and direct, on `train.h5`, and judges
them on `test.h5`. What is done is kept in `study_MODEL.json`, so that an interrupted study goes on. Ends with a table
(`study.md`) and two figures. On all frames training takes half of the epochs of the committees that are shipped, on
fewer frames more, up to four times as many.

    python study.py direct &        # beside it on another core
    python study.py Delta
    python study.py                 # what is missing of both, and the table
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

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
COLUMNS = ("energy", "qm_gradients", "near_mm_gradients", "mm_gradients")


def main():
    torch.set_num_threads(1)
    keep_freed_memory()
    config = read_config(HERE / "box" / "config.toml")
    training, test = read_dataset(HERE / "train.h5"), read_dataset(HERE / "test.h5")
    longest = config.network.mm_cutoff_angstrom
    every = len(training.frames)
    results = {}
    for name in sys.argv[1:] or TARGETS:
        file = HERE / f"study_{name}.json"
        done = json.loads(file.read_text()) if file.exists() else {}
        runs = [(frames, longest) for frames in (*FRAMES, every)]
        runs += [(every, cutoff) for cutoff in CUTOFFS if cutoff != longest]
        for frames, cutoff in tqdm(runs, desc=name, unit="network"):
            key = f"{name} {frames} {cutoff:g}"
            if key not in done:
                done[key] = train(config, training, test, name, frames, cutoff)
                write_atomically(file, (json.dumps(done, indent=1) + "\n").encode())
        results |= done
    if not sys.argv[1:]:
        report(results, longest, every)


def train(config, training, test, name, frames, cutoff):
    """Train one network and judge it."""
    network = replace(config.network, mm_cutoff_angstrom=cutoff)
    epochs = EPOCHS * min(4, round(len(training.frames) / frames))
    settings = training_settings(config, members=1)
    settings = replace(settings, target=TARGETS[name], epochs=epochs, patience=epochs)
    # The first frames of the file: they stand there in random order.
    chosen = training.with_frames(training.frames[:frames], [])
    start = time.monotonic()
    model = Trainer(chosen, settings, symmetry_functions(replace(config, network=network))).run()
    seconds = time.monotonic() - start
    baseline, row = judge(model, test, name, baseline_name(config)).rows
    return {"seconds": seconds, "baseline": baseline.to_json(), "errors": row.to_json()}


def errors_of(result, kind="mae", row="errors"):
    return [result[row][column][kind] for column in COLUMNS]


def report(results, longest, every):
    """Write the table and the figures."""
    first = next(iter(results.values()))
    lines = [
        "Errors on the test frames, MAE / RMSE: energies in kJ/mol, gradients in kJ/mol/angstrom; one network each.",
        "",
        "| model | frames | MM cutoff (angstrom) | energy | QM gradients | MM within 6 | MM within 14 | training (s) |",
        "|---|---|---|---|---|---|---|---|",
        table_row("DFTB3-D3", "-", "-", first, "baseline", "-"),
    ]
    for key, result in results.items():
        name, frames, cutoff = key.split()
        lines.append(table_row(name, frames, cutoff, result, "errors", f"{result['seconds']:.0f}"))
    write_atomically(HERE / "study.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    baseline = errors_of(first, row="baseline")[:3]
    counts = (*FRAMES, every)
    by_frames = {
        name: Curve(counts, np.array([errors_of(results[f"{name} {n} {longest:g}"])[:3] for n in counts]))
        for name in TARGETS
    }
    save_figure(learning_figure(by_frames, baseline), HERE / "figures" / "learning.png")
    by_cutoff = {
        name: Curve(CUTOFFS, np.array([errors_of(results[f"{name} {every} {c:g}"])[:3] for c in CUTOFFS]))
        for name in TARGETS
    }
    save_figure(cutoff_figure(by_cutoff, baseline), HERE / "figures" / "cutoff.png")


def table_row(name, frames, cutoff, result, row, seconds):
    pairs = zip(errors_of(result, "mae", row), errors_of(result, "rmse", row), strict=True)
    cells = [f"{mae:.3g} / {rmse:.3g}" for mae, rmse in pairs]
    return f"| {name} | {frames} | {cutoff} | {' | '.join(cells)} | {seconds} |"


if __name__ == "__main__":
    main()
