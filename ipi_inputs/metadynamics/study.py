"""The numbers and the figure of README.md: the free energy of proton transfer in malonaldehyde, classical and with
beads.

    python study.py [FOLDER]             runs (or goes on, or reads what is there), prints the table, writes figure.png
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from deltaqmmm.analysis import figures
from deltaqmmm.ipi.simulation import read_simulation

HERE = Path(__file__).resolve().parent
MOLECULE = HERE.parent / "malonaldehyde"
KT = 0.0083144626 * 300.0  # kJ/mol
EDGES = np.arange(-1.025, 1.0251, 0.05)  # of the bins, angstrom: an odd number of them, one in the middle
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])
MIDDLE = len(CENTRES) // 2
TOP = 4  # bins on either side of the middle that the parabola of the barrier goes through
FILLING = 0.3  # part of a run in which the hills fill the wells, left out
BLOCKS = 2  # of a run, for the errors
LABELS = {"classical": "classical", "beads": "16 beads, centroid", "opes": "classical, OPES"}


@dataclass(frozen=True)
class Profile:
    """A free energy along the coordinate.

    Attributes:
        energies: Of the bins around CENTRES, kJ/mol, 0 at the mean of both wells.
        errors: Standard errors (jackknife over blocks of independent runs).
        barrier: In the middle over the mean of both wells, with its error.
        asymmetry: Free energy of the right half minus that of the left, 0 by symmetry, with its error.
    """

    energies: np.ndarray
    errors: np.ndarray
    barrier: tuple[float, float]
    asymmetry: tuple[float, float]


def main(folder, runs=4, steps=9000, beads_steps=7000, opes_steps=0):
    """Free-energy profiles from several runs each.

    Args:
        folder: Where the runs are, or will be.
        runs: Of each kind, with other random numbers.
        steps: Of a classical run.
        beads_steps: Of a run with 16 beads; 0 for none.
        opes_steps: Of an OPES run; 0 for none.

    Returns:
        A `Profile` by the name of each kind: "classical", "beads", "opes".
    """
    wanted = {"classical": ("input.xml", steps), "beads": ("beads.xml", beads_steps), "opes": ("opes.xml", opes_steps)}
    profiles = {}
    for kind, (file, length) in wanted.items():
        if length:
            simulate(folder / kind, file, length, runs)
            colvars = [folder / kind / f"COLVAR_{index}" for index in range(runs)]
            profiles[kind] = profile([block for colvar in colvars for block in blocks(colvar)])
    return profiles


def simulate(folder, file, steps, runs):
    """Independent runs, side by side in one i-PI so that they share the driver's batches; goes on where it stopped."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # As a user does it; plumed.dat has the atoms of malonaldehyde.
        deltaqmmm("new", "metadynamics", folder, "--system", MOLECULE, "-q")
        edited(folder)
        side_by_side(folder, file, runs)
    restart = folder / "RESTART"
    if not restart.is_file() or read_simulation(restart).step < steps:
        deltaqmmm("run", folder, "--input", f"several_{file}", "--steps", steps, "-q")


def edited(folder):
    """Take the lines out of PLUMED's inputs that ask for other atoms."""
    for file in folder.glob("*.dat"):
        file.write_text(re.sub(r"# EDIT BEFORE RUNNING:.*\n", "", file.read_text()))


def side_by_side(folder, file, runs):
    """Write an input with the system of another one several times, each with its own PLUMED, hills and COLVAR."""
    text = (folder / file).read_text()
    dat = re.search(r"<plumed_dat> (\S+) </plumed_dat>", text)[1]
    for index in range(runs):
        plumed = re.sub(r"FILE=(\w+)", rf"FILE=\1_{index}", (folder / dat).read_text())
        (folder / f"{index}_{dat}").write_text(plumed)
    one = re.search(r" *<ffplumed name='plumed'>.*?</ffplumed>\n", text, re.DOTALL)[0]
    each = [one.replace("'plumed'", f"'plumed_{index}'").replace(dat, f"{index}_{dat}") for index in range(runs)]
    system = re.search(r" *<system>.*</system>\n", text, re.DOTALL)[0]
    template = system.replace("<system>", "<system prefix='INDEX'>").replace("'plumed'", "'plumed_INDEX'")
    instances = "".join(f"<instance> [ {index} ] </instance>\n" for index in range(runs))
    template = f"<labels> [ INDEX ] </labels>\n{instances}<template>\n{template}</template>\n"
    template = f"<system_template>\n{template}</system_template>\n"
    # A batch is a ring polymer, or all classical runs: these are not ready at once, and batches that are not full
    # waste time.
    beads = int(re.search(r"nbeads='(\d+)'>", text)[1])
    batch, latency = (beads, "1e-3") if beads > 1 else (runs, "2e-2")
    text = text.replace(one, "".join(each)).replace(system, template)
    text = text.replace("[ plumed ]", f"[ {', '.join(f'plumed_{index}' for index in range(runs))} ]")
    text = re.sub(r" *<batch_size>.*</batch_size>\n", "", text)
    text = re.sub(r"<latency>.*</latency>", f"<batch_size> {batch} </batch_size> <latency> {latency} </latency>", text)
    # All systems move at once, each in a thread.
    (folder / f"several_{file}").write_text(text.replace("threading='False'", "threading='True'"))


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def read_colvar(file):
    """The columns of a file of PLUMED by their names, as its last header has them."""
    with file.open() as stream:
        names = next(line for line in stream if line.startswith("#! FIELDS")).split()[2:]
    return dict(zip(names, np.loadtxt(file, ndmin=2).T, strict=True))


def blocks(file):
    """Parts of a run, each a pair: coordinate (angstrom), and logarithms of the weights that take the bias out.

    The weights are those of Tiwary and Parrinello, exp((V(s, t) - c(t)) / kT), doi 10.1021/jp504920s; walls are
    biases too.
    """
    colvar = read_colvar(file)
    bias = next(
        colvar[name] - colvar[name.replace("bias", "rct")] for name in ("metad.bias", "opes.bias") if name in colvar
    )
    if "opes.bias" in colvar:
        bias = colvar["opes.bias"]
    logarithms = (bias + colvar["low.bias"] + colvar["high.bias"]) / KT
    begin = int(FILLING * len(bias))
    return list(
        zip(np.array_split(colvar["cv"][begin:], BLOCKS), np.array_split(logarithms[begin:], BLOCKS), strict=True)
    )


def profile(parts):
    """The free energy from independent parts, with jackknife errors."""
    histograms = np.array([histogram(*part) for part in parts])
    left_out = (histograms.sum(axis=0) - histograms) / (len(parts) - 1)
    return jackknifed(numbers(histograms.mean(axis=0)), [numbers(one) for one in left_out])


def jackknifed(whole, others):
    """A `Profile` of the `numbers` of all parts, with errors from those with one part left out each."""
    errors = [
        np.sqrt((len(others) - 1) * np.var([one[index] for one in others], axis=0)) for index in range(len(whole))
    ]
    return Profile(whole[0], errors[0], (whole[1], float(errors[1])), (whole[2], float(errors[2])))


def histogram(coordinate, logarithms):
    """Probability of each bin."""
    weights = np.exp(logarithms - logsumexp(logarithms))
    return np.histogram(coordinate, EDGES, weights=weights)[0]


def numbers(probabilities):
    """Profile, barrier and asymmetry, kJ/mol."""
    with np.errstate(divide="ignore"):
        energies = -KT * np.log(probabilities)
    wells = 0.5 * (smoothed_minimum(energies[:MIDDLE]) + smoothed_minimum(energies[MIDDLE + 1 :]))
    top = parabola(energies[MIDDLE - TOP : MIDDLE + TOP + 1])[0]
    left, right = probabilities[:MIDDLE].sum(), probabilities[MIDDLE + 1 :].sum()
    return energies - wells, float(top - wells), float(-KT * np.log(right / left))


def smoothed_minimum(energies):
    """The lowest value of a parabola through the seven bins around the lowest: noise would pull the lowest bin down."""
    lowest = int(np.clip(np.argmin(energies), 3, len(energies) - 4))
    a, b, c = parabola(energies[lowest - 3 : lowest + 4])
    place = np.clip(-b / (2 * c), -3.0, 3.0) if c > 0 else 0.0
    return float(a + b * place + c * place**2)


def parabola(energies):
    """Coefficients of a parabola through an odd number of bins, from the middle one."""
    half = len(energies) // 2
    return np.polynomial.Polynomial.fit(np.arange(-half, half + 1), energies, 2).convert().coef


def show(profiles):
    """Print the numbers of profiles by their names."""
    width = max(map(len, profiles))
    for name, one in profiles.items():
        print(f"{name:{width}} barrier {one.barrier[0]:6.2f} +- {one.barrier[1]:.2f} kJ/mol, ", end="")
        print(f"right - left {one.asymmetry[0]:6.2f} +- {one.asymmetry[1]:.2f} kJ/mol")


def draw(profiles, file):
    """Profiles by their names, with bands of one standard error."""
    figure, (axis,) = figures.panels(1, 1, 8.0)
    for colour, (name, one) in zip(figures.COLOURS, profiles.items(), strict=False):
        axis.plot(CENTRES, one.energies, color=colour, label=name)
        axis.fill_between(CENTRES, one.energies - one.errors, one.energies + one.errors, color=colour, alpha=0.25, lw=0)
    axis.set_xlabel("d(O5-H9) - d(O1-H9) / angstrom")
    axis.set_ylabel("free energy / kJ/mol")
    axis.set_xlim(-1.0, 1.0)
    axis.set_ylim(-1.0, 20.0)
    figures.legend(axis, loc="upper center")
    figures.save(figure, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    found = main(parser.parse_args().folder)
    show(found)
    draw({LABELS[kind]: one for kind, one in found.items()}, HERE / "figure.png")
