"""The numbers and the figure of README.md: umbrella sampling of the proton transfer of malonaldehyde against
metadynamics.

    python study.py [FOLDER [METADYNAMICS]]    runs (or goes on, or reads what is there), prints the table, writes
    figure.png

METADYNAMICS is the folder of the runs of ../metadynamics/study.py.
"""

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        metadynamics.deltaqmmm("new", "umbrella", folder, "--system", MOLECULE, "-q")
        metadynamics.edited(folder)
    restart = folder / "RESTART"
    if not restart.is_file() or read_simulation(restart).step < steps:
        metadynamics.deltaqmmm("run", folder, "--steps", steps, "-q")
    found = windows.profile(folder, skipped)
    numbers = metadynamics.numbers(np.exp(-found.energies / metadynamics.KT))
    others = [metadynamics.numbers(np.exp(-energies / metadynamics.KT)) for energies in found.left_out]
    return Umbrella(metadynamics.jackknifed(numbers, others), found.overlap)


def difference(one, other, within=0.8):
    """Root mean square difference of two profiles, kJ/mol, where both sampled well, and in units of their errors."""
    inside = np.abs(metadynamics.CENTRES) < within
    away = (one.energies - other.energies)[inside]
    errors = np.hypot(one.errors, other.errors)[inside]
    return float(np.sqrt(np.mean(away**2))), float(np.sqrt(np.mean((away / errors) ** 2)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("metadynamics", nargs="?", type=Path, default=HERE.parent / "metadynamics" / "study")
    options = parser.parse_args()
    result = main(options.folder / "windows")
    classical = metadynamics.main(options.metadynamics, beads_steps=0)["classical"]
    profiles = {"umbrella sampling, MBAR": result.profile, "metadynamics": classical}
    metadynamics.show(profiles)
    print("overlap of neighbouring windows", np.round(result.overlap, 2))
    print(
        "profiles differ by {:.2f} kJ/mol (root mean square), {:.1f} errors".format(
            *difference(result.profile, classical)
        )
    )
    metadynamics.draw(profiles, HERE / "figure.png")
