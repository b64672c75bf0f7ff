"""The numbers and the figure of README.md: contraction and multiple time stepping against the full calculation.

python study.py [FOLDER] [--steps N] [--model MODEL]
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from ipi.utils.nmtransform import nm_rescale

from deltaqmmm.analysis import figures
from deltaqmmm.analysis.outputs import bead_files, read_properties, read_trajectory
from deltaqmmm.analysis.statistics import Estimate, drift, mean_and_error
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

HERE = Path(__file__).resolve().parent
SMALL = HERE.parent / "small"
MODEL = HERE.parents[1] / "examples" / "uracil_water" / "delta.safetensors"
BEADS, CONTRACTED = 8, 4
HEAVY, HYDROGEN = range(8), range(8, 12)
N_QM, N_ATOMS = 12, 204
BONDS = {"N-H": ((4, 10), (7, 11)), "C-H": ((2, 8), (3, 9)), "C=O": ((1, 0), (5, 6))}
RUNS = ("full", "contracted", "mts")
PER_ANGSTROM = ANGSTROM / KJ_PER_MOL
DISCARDED = 0.3  # ps, while the ring polymers spread
STEP = 0.5  # fs, of the inner steps


def main(folder, steps=2000, model=MODEL, figure=None):
    """Three runs from the same start, and contracted forces on the frames of the first.

    Args:
        folder: Where the runs are, or will be.
        steps: Of 0.5 fs each; half as many outer steps.
        model: The committee, of uracil in water.
        figure: Where the figure goes; None: nowhere.

    Returns:
        Numbers of README.md; energies in kJ/mol, forces in kJ/mol/angstrom, times in ms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    system = with_dispersion(folder / "system")
    for name in RUNS:
        simulate(folder / name, name, system, steps, model)
    numbers = {name: averages(folder / name, "mts" if name == "mts" else "run") for name in RUNS}
    frames, cells = bead_frames(folder / "full")
    numbers["forces"] = contraction_errors(folder / "full", frames, cells)
    numbers["paired"] = paired(folder)
    numbers["times"] = times(folder / "full", frames, cells)
    if figure is not None:
        draw(figure, folder, numbers)
    return numbers


def with_dispersion(folder):
    """The small box with the baseline that the model corrects."""
    if not folder.is_dir():
        shutil.copytree(SMALL, folder)
        text = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(text.replace('dispersion = "none"', 'dispersion = "d3bj"'))
    return folder


def simulate(folder, name, system, steps, model):
    """Make and run one of the three; the kinetic energy of each QM atom is printed too."""
    if not folder.is_dir():
        deltaqmmm("new", "contraction", folder, "--system", system, "--model", model, "--beads", BEADS, "-q")
        columns = ", ".join(f"kinetic_cv({atom})" for atom in range(N_QM))
        for file in folder.glob("*.xml"):
            text = file.read_text().replace("kinetic_cv,", f"kinetic_cv, {columns},")
            if name == "full":
                text = text.replace(f"'correction' nbeads='{CONTRACTED}'", "'correction'")
                text = re.sub(r"<batch_size>.*?</batch_size>", f"<batch_size> {BEADS} </batch_size>", text)
            file.write_text(text)
    prefix, total = ("mts", steps // 2) if name == "mts" else ("run", steps)
    out = folder / f"{prefix}.out"
    if not out.is_file() or read_properties(out)["step"][-1] < total:
        deltaqmmm("run", folder, "--input", "mts.xml" if name == "mts" else "input.xml", "--steps", total, "-q")


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def averages(folder, prefix):
    """Means with errors over a run."""
    table = read_properties(folder / f"{prefix}.out")
    picoseconds = table["time"] / 1000.0
    kept = picoseconds > DISCARDED
    kinetic = np.array([table[f"kinetic_cv({atom})"] for atom in range(N_QM)]) / KJ_PER_MOL
    conserved = table["conserved"] / KJ_PER_MOL
    result = {
        "kinetic H": mean_and_error(kinetic[list(HYDROGEN)].mean(axis=0)[kept]),
        "kinetic heavy": mean_and_error(kinetic[list(HEAVY)].mean(axis=0)[kept]),
        "potential": mean_and_error(table["potential"][kept] / KJ_PER_MOL),
        "temperature": mean_and_error(table["temperature"][kept]),
        "drift": drift_of(picoseconds[kept], conserved[kept]),
        "fluctuation": float(np.std(conserved[kept] - np.polyval(np.polyfit(picoseconds[kept], conserved[kept], 1),
                                                                 picoseconds[kept]))),
    }  # fmt: skip
    for name, (length, _) in bond_lengths(folder, prefix).items():
        result[f"length {name}"] = mean_and_error(length.mean(axis=(1, 2)))
        result[f"width {name}"] = mean_and_error(length.std(axis=(1, 2)))
    return result


def drift_of(picoseconds, conserved):
    """Of the conserved quantity of all beads, J/mol per atom and ps, with the error from four quarters."""
    quarters = np.array_split(np.arange(len(conserved)), 4)
    slopes = [1000.0 * drift(picoseconds[part], conserved[part]) / N_ATOMS for part in quarters]
    whole = 1000.0 * drift(picoseconds, conserved) / N_ATOMS
    return Estimate(whole, float(np.std(slopes, ddof=1) / 2.0), 4.0)


def paired(folder):
    """Contracted minus full, step by step: both runs have the same random numbers, and stay near each other."""
    full, contracted = (read_properties(folder / name / "run.out") for name in ("full", "contracted"))
    n = min(len(full["step"]), len(contracted["step"]))
    kept = full["time"][:n] / 1000.0 > DISCARDED
    groups = {"paired kinetic H": HYDROGEN, "paired kinetic heavy": HEAVY}
    found = {}
    for name, atoms in groups.items():
        series = [np.mean([run[f"kinetic_cv({atom})"][:n] for atom in atoms], axis=0) for run in (contracted, full)]
        found[name] = mean_and_error((series[0] - series[1])[kept] / KJ_PER_MOL)
    found["paired potential"] = mean_and_error((contracted["potential"][:n] - full["potential"][:n])[kept] / KJ_PER_MOL)
    return found


def bond_lengths(folder, prefix):
    """Of each kind: lengths, shape (n, beads, bonds), angstrom, without the first part, and all as one array."""
    beads = [read_trajectory(file) for file in bead_files(folder, prefix, "pos")]
    step = (2.0 if prefix == "mts" else 1.0) * STEP / 1000.0
    kept = beads[0].steps * step > DISCARDED
    positions = np.stack([bead.values[kept] for bead in beads], axis=1)
    found = {}
    for name, pairs in BONDS.items():
        first, second = np.array(pairs).T
        length = np.linalg.norm(positions[:, :, first] - positions[:, :, second], axis=-1)
        found[name] = (length, length.ravel())
    return found


def bead_frames(folder, count=40):
    """Frames of all beads, shape (n, beads, N, 3), bohr, and their cells, evenly from the second part of a run."""
    beads = [read_trajectory(file) for file in bead_files(folder, "run", "pos")]
    positions = np.stack([bead.values for bead in beads], axis=1) * ANGSTROM
    chosen = np.unique(np.linspace(len(positions) // 4, len(positions) - 1, count).astype(int))
    return positions[chosen], beads[0].cells[chosen] * ANGSTROM


def contraction_errors(folder, frames, cells):
    """By the number of beads: what contraction changes on the same frames; with all beads the correction itself.

    RMS of one component of the force on an atom by group, mean and standard deviation of the potential, and the mean
    of the quantum kinetic energy per atom.
    """
    loaded = load_potential(read_config(folder / "config.toml"), terms=("correction",))

    def correction(positions, cell):
        result = loaded.evaluate(np.repeat(cell[None], len(positions), axis=0), np.ascontiguousarray(positions))
        return result.energies.mean() / KJ_PER_MOL, result.forces * PER_ANGSTROM

    full = [correction(*frame) for frame in zip(frames, cells, strict=True)]
    groups = {"H": list(HYDROGEN), "heavy": list(HEAVY), "MM": list(range(N_QM, N_ATOMS))}
    table = {BEADS: {name: rms([forces[:, atoms] for _, forces in full]) for name, atoms in groups.items()}}
    for number in (1, 2, 4):
        change = nm_rescale(BEADS, number)
        differences, energies, kinetic = [], [], []
        for positions, cell, (energy, forces) in zip(frames, cells, full, strict=True):
            contracted = change.b1tob2(positions.reshape(BEADS, -1)).reshape(number, -1, 3)
            fewer_energy, fewer = correction(contracted, cell)
            spread = change.b2tob1(fewer.reshape(number, -1)).reshape(forces.shape)
            differences.append(spread - forces)
            energies.append(fewer_energy - energy)
            # Centroid-virial estimator, kJ/mol per atom.
            away = (positions - positions.mean(axis=0)) / ANGSTROM
            kinetic.append(-0.5 * np.mean(np.sum(away * (spread - forces), axis=2), axis=0))
        table[number] = {name: rms([one[:, atoms] for one in differences]) for name, atoms in groups.items()}
        table[number] |= {"energy": float(np.mean(energies)), "energy spread": float(np.std(energies))}
        means = np.mean(kinetic, axis=0)
        table[number] |= {"kinetic H": means[list(HYDROGEN)].mean(), "kinetic heavy": means[list(HEAVY)].mean()}
    return table


def rms(arrays):
    """Of one component of one atom."""
    return float(np.sqrt(np.mean(np.square(arrays))))


def times(folder, frames, cells, substeps=10, rounds=8):
    """Processor time of an evaluation, ms: medians along paths of steps as small as those of a run."""
    config = read_config(folder / "config.toml")
    parts = {
        "mm, dftb 8": (load_potential(config, terms=("mm", "dftb")), BEADS),
        **{f"correction {n}": (load_potential(config, terms=("correction",)), n) for n in (BEADS, CONTRACTED, 2)},
    }
    spent = {name: [] for name in parts}
    noise = np.random.default_rng(1).normal(scale=0.002, size=frames[0].shape)
    for positions, cell in zip(frames[:rounds], cells, strict=False):
        for step in range(substeps):
            moved = positions + step * noise
            for name, (potential, number) in parts.items():
                start = time.process_time()
                potential.evaluate(np.repeat(cell[None], number, axis=0), np.ascontiguousarray(moved[:number]))
                if step > 3:
                    spent[name].append(1000.0 * (time.process_time() - start))
    found = {name: float(np.median(values)) for name, values in spent.items()}
    whole = found["mm, dftb 8"] + found["correction 8"]
    found["saving contracted"] = 1.0 - (found["mm, dftb 8"] + found[f"correction {CONTRACTED}"]) / whole
    found["saving mts"] = 0.5 * found["correction 8"] / whole
    return found


def draw(file, folder, numbers):
    """Distribution of the N-H bond, errors of the forces, and the conserved quantity."""
    figure, (left, middle, right) = figures.panels(1, 3, 6.5)
    for name, colour in zip(RUNS, figures.COLOURS, strict=False):
        prefix = "mts" if name == "mts" else "run"
        lengths = bond_lengths(folder / name, prefix)["N-H"][1]
        density, edges = np.histogram(lengths, bins=np.linspace(0.8, 1.4, 25), density=True)
        left.plot(0.5 * (edges[1:] + edges[:-1]), density, color=colour, label=name)
        table = read_properties(folder / name / f"{prefix}.out")
        conserved = table["conserved"] / KJ_PER_MOL
        settled = table["time"] / 1000.0 > DISCARDED
        right.plot(
            table["time"][settled] / 1000.0, (conserved - conserved[settled][0])[settled], color=colour, linewidth=0.8
        )
    left.set_xlim(0.8, 1.6)
    left.set_xlabel(r"N-H bond ($\mathrm{\AA}$)")
    left.set_ylabel(r"density ($\mathrm{\AA}^{-1}$)")
    figures.legend(left, loc="upper right")
    fewer = (1, 2, 4)
    for group, colour, label in (("H", 0, "QM, hydrogen"), ("heavy", 1, "QM, other"), ("MM", 2, "MM")):
        errors = [numbers["forces"][number][group] for number in fewer]
        middle.semilogy(fewer, errors, "o-", color=figures.COLOURS[colour], markersize=3, label=label)
        middle.axhline(numbers["forces"][BEADS][group], color=figures.COLOURS[colour], linewidth=0.8, linestyle="--")
    middle.set_xticks(fewer)
    middle.set_xlabel("beads of the correction")
    middle.set_ylabel(r"RMS force (kJ/mol/$\mathrm{\AA}$)")
    figures.legend(middle, loc="center right")
    right.set_xlabel("time (ps)")
    right.set_ylabel("conserved quantity (kJ/mol)")
    figures.save(figure, file)


def report(numbers):
    """Print what README.md says."""
    for key in numbers["full"]:
        row = []
        for name in RUNS:
            value = numbers[name][key]
            row.append(f"{value:10.3f}" if isinstance(value, float) else f"{value.mean:12.4f} +- {value.error:.4f}")
        print(f"{key:16}", *row)
    for key, value in numbers["paired"].items():
        print(f"{key:20} {value.mean:8.3f} +- {value.error:.3f}")
    for number, errors in numbers["forces"].items():
        print(number, {name: round(float(value), 3) for name, value in errors.items()})
    print({name: round(value, 3) for name, value in numbers["times"].items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--model", type=Path, default=MODEL)
    given = parser.parse_args()
    report(main(given.folder, given.steps, given.model, HERE / "figure.png"))
