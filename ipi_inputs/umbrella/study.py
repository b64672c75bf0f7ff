"""The numbers and the figure of README.md: umbrella sampling of the proton transfer of malonaldehyde against
metadynamics.

    python study.py [FOLDER [METADYNAMICS]]    runs (or goes on, or reads what is there), prints the table, writes
    figure.png

METADYNAMICS is the folder of the runs of ../metadynamics/study.py.
"""

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.analysis import figures
from deltaqmmm.ipi.simulation import read_simulation

HERE = Path(__file__).resolve().parent
MOLECULE = HERE.parent / "malonaldehyde"


def module(file, name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


metadynamics = module(HERE.parent / "metadynamics" / "study.py", "metadynamics_study")
windows = module(HERE / "windows.py", "umbrella_windows")


@dataclass(frozen=True)
class Umbrella:
    """Of umbrella sampling.

    Attributes:
        profile: As metadynamics has it.
        overlap: Of each window with the next.
    """

    profile: metadynamics.Profile
    overlap: np.ndarray


def main(folder, steps=6000, skipped=windows.SKIPPED):
    """The free-energy profile from umbrella sampling.

    Args:
        folder: Where the run is, or will be.
        steps: Its length.
        skipped: Steps at the beginning that do not count.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # As a user does it; cv.dat has the atoms of malonaldehyde.
        deltaqmmm("new", "umbrella", folder, "--system", MOLECULE, "-q")
        metadynamics.edited(folder)
    restart = folder / "RESTART"
    if not restart.is_file() or read_simulation(restart).step < steps:
        deltaqmmm("run", folder, "--steps", steps, "-q")
    found = windows.profile(folder, skipped)
    numbers = metadynamics.numbers(np.exp(-found.energies / metadynamics.KT))
    others = [metadynamics.numbers(np.exp(-energies / metadynamics.KT)) for energies in found.left_out]
    errors = [np.sqrt((len(others) - 1) * np.var([one[index] for one in others], axis=0)) for index in range(3)]
    profile = metadynamics.Profile(
        numbers[0], errors[0], (numbers[1], float(errors[1])), (numbers[2], float(errors[2]))
    )
    return Umbrella(profile, found.overlap)


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def difference(one, other, within=0.8):
    """Root mean square difference of two profiles, kJ/mol, where both sampled well, and in units of their errors."""
    inside = np.abs(metadynamics.CENTRES) < within
    away = (one.energies - other.energies)[inside]
    errors = np.hypot(one.errors, other.errors)[inside]
    return float(np.sqrt(np.mean(away**2))), float(np.sqrt(np.mean((away / errors) ** 2)))


def draw(umbrella, other, file):
    """Both profiles with bands of one standard error, and where each is sure."""
    figure, (axis,) = figures.panels(1, 1, 8.0)
    for colour, label, one in (
        (figures.COLOURS[0], "umbrella sampling, MBAR", umbrella.profile),
        (figures.COLOURS[1], "metadynamics", other),
    ):
        axis.plot(metadynamics.CENTRES, one.energies, color=colour, label=label)
        low, high = one.energies - one.errors, one.energies + one.errors
        axis.fill_between(metadynamics.CENTRES, low, high, color=colour, alpha=0.25, lw=0)
    axis.set_xlabel("d(O5-H9) - d(O1-H9) / angstrom")
    axis.set_ylabel("free energy / kJ/mol")
    axis.set_xlim(-1.0, 1.0)
    axis.set_ylim(-1.0, 20.0)
    figures.legend(axis, loc="upper center")
    figures.save(figure, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("metadynamics", nargs="?", type=Path, default=HERE.parent / "metadynamics" / "study")
    options = parser.parse_args()
    result = main(options.folder / "windows")
    classical = metadynamics.main(options.metadynamics, beads_steps=0)["classical"]
    for name, one in (("umbrella", result.profile), ("metadynamics", classical)):
        print(f"{name:13} barrier {one.barrier[0]:6.2f} +- {one.barrier[1]:.2f} kJ/mol, ", end="")
        print(f"right - left {one.asymmetry[0]:6.2f} +- {one.asymmetry[1]:.2f} kJ/mol")
    print("overlap of neighbouring windows", np.round(result.overlap, 2))
    print(
        "profiles differ by {:.2f} kJ/mol (root mean square), {:.1f} errors".format(
            *difference(result.profile, classical)
        )
    )
    draw(result, classical, HERE / "figure.png")
