"""The numbers and the figure of README.md: the weighted baseline along runs, and where it ends.

python study.py [FOLDER] [--model MODEL] [--labels DATASET]
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from deltaqmmm.analysis import figures
from deltaqmmm.analysis.outputs import read_extras, read_properties, read_trajectory
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.dataset import read_dataset
from deltaqmmm.ml import load_model
from deltaqmmm.training.judging import judge
from deltaqmmm.training.predictions import predict
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

HERE = Path(__file__).resolve().parent
SMALL = HERE.parent / "small"
EXAMPLE = HERE.parents[1] / "examples" / "uracil_water"
RUNS = {"300 K": 300, "1200 K": 1200}
OXYGEN, CARBON = 0, 1
STRETCHES = np.linspace(-0.2, 1.2, 29)


def main(folder, steps=2000, model=EXAMPLE / "delta.safetensors", labels=EXAMPLE / "test.h5", figure=None):
    """Calibrate alpha, run at two temperatures, and stretch a bond.

    Args:
        folder: Where the runs are, or will be.
        steps: Of each run, 0.5 fs.
        model: The committee, of uracil in water.
        labels: Labelled frames that it has not seen.
        figure: Where the figure goes; None: nowhere.

    Returns:
        Numbers of README.md, kJ/mol.
    """
    folder.mkdir(parents=True, exist_ok=True)
    system = with_dispersion(folder / "system")
    settings = read_settings(HERE / "input.xml")
    runs = {name: simulate(folder / f"t{kelvin}", system, kelvin, steps, model) for name, kelvin in RUNS.items()}
    numbers = {"calibration": calibrate(model, labels), "settings": settings}
    for name, run in runs.items():
        numbers[name] = {
            "uncertainty": run["uncertainty"].mean(),
            "largest": run["uncertainty"].max(),
            "weight": run["weight"].mean(),
            "smallest": run["weight"].min(),
            "above": float(np.mean(run["uncertainty"] > settings["threshold"])),
            "frames": run["frames"],
            "formula": np.abs(run["potential"] - run["formula"]).max(),
            "drift": run["drift"],
        }
    numbers["scan"] = scan(folder / "t300", settings)
    if figure is not None:
        draw(figure, runs, numbers["scan"], settings)
    return numbers


def with_dispersion(folder):
    """The small box with the baseline that the model corrects."""
    if not folder.is_dir():
        shutil.copytree(SMALL, folder)
        text = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(text.replace('dispersion = "none"', 'dispersion = "d3bj"'))
    return folder


def read_settings(file):
    """alpha, and sigma_b and the threshold in kJ/mol, of an input."""
    text = file.read_text()
    names = {"alpha": "alpha", "baseline": "baseline_uncertainty", "threshold": "active_thresh"}
    return {key: float(re.search(rf"<{name}[^>]*>(.*?)<", text)[1]) for key, name in names.items()}


def simulate(folder, system, kelvin, steps, model):
    """A classical run; what i-PI printed of it, energies in kJ/mol."""
    if not folder.is_dir():
        words = ["--system", system, "--model", model, "--beads", "1", "--temperature", kelvin]
        deltaqmmm("new", "weighted_baseline", folder, *words, "-q")
    if not (folder / "run.out").is_file() or read_properties(folder / "run.out")["step"][-1] < steps:
        deltaqmmm("run", folder, "--steps", steps, "-q")
    table = read_properties(folder / "run.out")
    at, weight = read_extras(folder / "run.weight_0")
    uncertainty = read_extras(folder / "run.uncertainty_0")[1]
    sparse, baseline = read_extras(folder / "run.baseline_0")
    members = read_extras(folder / "run.members_0")[1] / KJ_PER_MOL
    text = (folder / "input.xml").read_text()
    sigma_b = read_settings(folder / "input.xml")["baseline"]
    return {
        "time": at * float(re.search(r"<timestep[^>]*>(.*?)<", text)[1]) / 1000.0,
        "weight": weight[:, 0],
        "uncertainty": uncertainty[:, 0] / KJ_PER_MOL,
        "potential": table["potential"][np.searchsorted(table["step"], sparse)] / KJ_PER_MOL,
        "formula": baseline[:, 0] / KJ_PER_MOL + weights(members.std(axis=1, ddof=1), sigma_b) * members.mean(axis=1),
        "frames": len(read_active(folder / "run.active")),
        "drift": np.ptp(table["conserved"][len(table["step"]) // 5 :]) / KJ_PER_MOL,
    }


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def weights(sigma, sigma_b):
    """The weight of the correction at an uncertainty."""
    return sigma_b**2 / (sigma_b**2 + sigma**2)


def read_active(file):
    """The frames of <active_output>: i-PI writes one JSON object after the other, without a line break."""
    text, place, frames = file.read_text(), 0, []
    while place < len(text):
        frame, place = json.JSONDecoder().raw_decode(text, place)
        frames.append(frame)
    return frames


def calibrate(model, labels):
    """alpha of a committee of M from its errors e and spreads s on frames it has not seen.

    alpha^2 = -1/M + (M - 3)/(M - 1) <e^2/s^2>: Imbalzano et al., J. Chem. Phys. 154, 074102 (2021).
    """
    committee, frames = load_model(model), read_dataset(labels)
    judged = judge(committee, frames, "correction", "baseline")
    reference = np.array([frame.reference.energy for frame in frames.frames])
    errors = (judged.model.energies - reference) / KJ_PER_MOL
    baseline = np.array([frame.baseline.energy for frame in frames.frames]) - reference
    table = frames.system
    bound = committee.bind(table.qm_symbols, table.site_symbols, table.site_types, table.site_charges)
    spreads = predict(bound, frames.frames, committee.info.target, 8).energy_spreads / KJ_PER_MOL
    members = committee.n_members
    squared = -1.0 / members + (members - 3) / (members - 1) * np.mean((errors / spreads) ** 2)
    return {
        "alpha": np.sqrt(squared),
        "error": np.sqrt(np.mean(errors**2)),
        "spread": spreads.mean(),
        "baseline": baseline.std() / KJ_PER_MOL,
    }


def scan(folder, settings):
    """A C=O bond stretched in the first frame of a run: energies in kJ/mol, relative to the unstretched frame."""
    loaded = load_potential(read_config(folder / "config.toml"))
    read = read_trajectory(folder / "run.pos_0.xyz")
    start, cell = read.values[0] * ANGSTROM, read.cells[0] * ANGSTROM
    bond = start[OXYGEN] - start[CARBON]
    frames = np.repeat(start[None], len(STRETCHES), axis=0)
    frames[:, OXYGEN] += STRETCHES[:, None] * ANGSTROM * bond / np.linalg.norm(bond)
    result = loaded.evaluate(np.repeat(cell[None], len(frames), axis=0), frames)
    correction = result.terms["correction"] / KJ_PER_MOL
    baseline = result.energies / KJ_PER_MOL - correction
    sigma = settings["alpha"] * result.extras["committee_energy_spread"] / KJ_PER_MOL
    weight = weights(sigma, settings["baseline"])
    at = int(np.argmin(np.abs(STRETCHES)))
    shift = baseline[at] + correction[at]
    return {
        "stretch": STRETCHES,
        "sigma": sigma,
        "weight": weight,
        "baseline": baseline - baseline[at],
        "full": baseline + correction - shift,
        "weighted": baseline + weight * correction - shift,
    }


def draw(file, runs, stretched, settings):
    """Uncertainty and weight along the runs; the stretched bond."""
    figure, (left, middle, right) = figures.panels(1, 3, 6.5)
    for (name, run), colour in zip(runs.items(), figures.COLOURS, strict=False):
        left.semilogy(run["time"], run["uncertainty"], color=colour, linewidth=0.8, label=name)
        middle.plot(run["time"], run["weight"], color=colour, linewidth=0.8, label=name)
    left.axhline(settings["threshold"], color="0.6", linewidth=0.8, linestyle="--")
    left.set_ylabel(r"$\sigma$ (kJ/mol)")
    middle.set_ylabel("weight of the correction")
    for axis in (left, middle):
        axis.set_xlabel("time (ps)")
    figures.legend(middle, loc="lower left")
    for name, label, colour in (("full", "whole", 2), ("weighted", "weighted", 4)):
        used = stretched[name] - stretched["baseline"]
        right.plot(stretched["stretch"], used, color=figures.COLOURS[colour], label=label)
    right.set_xlabel(r"C=O stretched by ($\mathrm{\AA}$)")
    right.set_ylabel("correction (kJ/mol)")
    figures.legend(right)
    figures.save(figure, file)


def report(numbers):
    """Print what README.md says."""
    for key, value in numbers["calibration"].items():
        print(f"calibration: {key} {value:.2f}")
    for name in RUNS:
        print(name, {key: float(f"{value:.3g}") for key, value in numbers[name].items()})
    table = numbers["scan"]
    for row in range(0, len(STRETCHES), 4):
        print(*(f"{key} {table[key][row]:8.3f}" for key in table))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--model", type=Path, default=EXAMPLE / "delta.safetensors")
    parser.add_argument("--labels", type=Path, default=EXAMPLE / "test.h5")
    given = parser.parse_args()
    report(main(given.folder, given.steps, given.model, given.labels, HERE / "figure.png"))
