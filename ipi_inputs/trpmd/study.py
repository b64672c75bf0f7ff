"""The numbers and the figure of README.md: spectra of uracil in water, TRPMD and classical.

python study.py [FOLDER] [--steps N N]
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from scipy.interpolate import CubicSpline

from deltaqmmm.analysis import figures
from deltaqmmm.analysis.outputs import bead_files, read_extras, read_properties
from deltaqmmm.analysis.spectra import INVERSE_CM_PER_ATOMIC, infrared, normal_modes, vibrational_density
from deltaqmmm.analysis.statistics import mean_and_error
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import DALTON, KELVIN

HERE = Path(__file__).resolve().parent
SMALL = HERE.parent / "small"
DATA = HERE.parents[1] / "tests" / "data" / "uracil_dftbplus_modes.json"
BEADS = {"TRPMD": 8, "classical": 1}
TEMPERATURE = 300.0
STEP = 0.5  # fs
STRIDE = 2
DISCARDED = 1000.0  # fs
WINDOW = 1000.0  # fs
BLOCKS = 4
NITROGEN, CARBON = (10, 11), (8, 9)  # the hydrogens on them
# Name, atoms of the density of states (None: the infrared spectrum), limits (cm-1), modes of the gas phase.
BANDS = (
    ("N-H stretch", NITROGEN, (3050, 3550), (34, 35)),
    ("C-H stretch", CARBON, (2900, 3350), (32, 33)),
    ("C=O stretch, infrared", None, (1600, 1850), (29, 30, 31)),
)


def main(folder, steps=(16000, 12000), figure=None):
    """Both runs and their spectra.

    Args:
        folder: Where the runs are, or will be.
        steps: Of TRPMD and of classical MD.
        figure: Where the figure goes; None: nowhere.

    Returns:
        Numbers of README.md: wavenumbers in cm-1, temperatures in kelvin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = {}
    for (name, beads), total in zip(BEADS.items(), steps, strict=True):
        runs[name] = simulate(folder / name.lower(), beads, total)
    numbers = {name: analyse(run) for name, run in runs.items()}
    numbers["harmonic"], numbers["quantum"] = gas_phase(folder / "gas_system")
    if figure is not None:
        draw(figure, runs, numbers["harmonic"])
    return numbers


def simulate(folder, beads, steps):
    """A run; velocities (n, 12, 3), masses and dipoles (n, 3), all in atomic units."""
    if not folder.is_dir():
        deltaqmmm("new", "trpmd", folder, "--system", SMALL, "--beads", beads, "-q")
    if not (folder / "run.out").is_file() or read_properties(folder / "run.out")["step"][-1] < steps:
        deltaqmmm("run", folder, "--steps", steps, "-q")
    table = read_properties(folder / "run.velocities")
    symbols = json.loads(DATA.read_text())["symbols"]
    velocities = np.stack([table[f"atom_v({atom})"] for atom in range(len(symbols))], axis=1)
    files = bead_files(folder, "run", "qm_dipole")
    dipoles = np.mean([read_extras(file)[1] for file in files], axis=0)
    n = min(len(dipoles), len(velocities))
    kept = table["time"][:n] > DISCARDED
    return {"velocities": velocities[:n][kept], "masses": masses(symbols), "dipoles": dipoles[:n][kept]}


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def masses(symbols):
    return np.array([atomic_masses[atomic_numbers[symbol]] for symbol in symbols]) * DALTON


def density(run, atoms=None, part=slice(None)):
    """The vibrational density of states of some atoms in a part of a run."""
    atoms = list(range(len(run["masses"]))) if atoms is None else list(atoms)
    velocities = run["velocities"][part][:, atoms]
    return vibrational_density(velocities, run["masses"][atoms], TEMPERATURE, STRIDE * STEP, WINDOW)


def analyse(run):
    """Peaks with errors from blocks of the run, the integral, and the kinetic temperature."""
    n = len(run["velocities"])
    parts = [slice(block * n // BLOCKS, (block + 1) * n // BLOCKS) for block in range(BLOCKS)]
    result = {"picoseconds": n * STRIDE * STEP / 1000.0}
    for name, atoms, limits, _ in BANDS:
        found = []
        for part in (slice(None), *parts):
            if atoms is None:
                spectrum = infrared(run["dipoles"][part], STRIDE * STEP, WINDOW)
            else:
                spectrum = density(run, atoms, part)
            found.append(spectrum.peak(*limits))
        result[name] = (found[0], float(np.std(found[1:], ddof=1) / np.sqrt(BLOCKS)))
    kinetic = np.einsum("tix,i->t", run["velocities"] ** 2, run["masses"])
    temperature = mean_and_error(kinetic / (3 * len(run["masses"]) * KELVIN))
    whole = density(run)
    result |= {"temperature": temperature, "integral": whole.integral(), "resolution": whole.resolution}
    return result


def gas_phase(folder):
    """By band: harmonic wavenumbers in the gas phase, and the quantum 0-1 transition along each mode alone."""
    data = json.loads(DATA.read_text())
    weights = np.repeat(masses(data["symbols"]), 3)
    wavenumbers, modes = normal_modes(np.array(data["hessian_hartree_per_bohr2"]), masses(data["symbols"]))
    spec = importlib.util.spec_from_file_location("geometry_study", HERE.parent / "geometry" / "study.py")
    geometry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(geometry)
    potential = load_potential(read_config(geometry.gas_system(SMALL, folder) / "config.toml"))
    minimum = np.array(data["positions_bohr"])
    harmonic, quantum = {}, {}
    for name, _, _, numbers in BANDS:
        harmonic[name] = wavenumbers[list(numbers)]
        quantum[name] = np.array([
            transition(potential, minimum, modes[:, number] / np.sqrt(weights), wavenumbers[number])
            for number in numbers
        ])  # fmt: skip
    return harmonic, quantum


def transition(potential, minimum, mode, wavenumber):
    """The 0-1 transition of the energy along one mode, cm-1.

    By a discrete variable representation on equal steps: Colbert and Miller, J. Chem. Phys. 96, 1982 (1992).
    """
    width = 1.0 / np.sqrt(wavenumber / INVERSE_CM_PER_ATOMIC)
    coordinates = np.linspace(-4.0, 4.0, 81) * width
    frames = minimum + (coordinates[:, None] * mode).reshape(-1, *minimum.shape)
    energies = CubicSpline(coordinates, potential.evaluate(np.zeros((81, 3, 3)), frames).energies)
    grid = np.linspace(-4.0, 4.0, 161) * width
    places = np.arange(len(grid))
    apart = places[:, None] - places
    far = np.where(apart == 0, 1, apart)
    kinetic = np.where(apart == 0, np.pi**2 / 3.0, 2.0 * (-1.0) ** apart / far**2) / (2.0 * (grid[1] - grid[0]) ** 2)
    levels = np.linalg.eigvalsh(kinetic + np.diag(energies(grid)))
    return float((levels[1] - levels[0]) * INVERSE_CM_PER_ATOMIC)


def draw(file, runs, harmonic):
    """Above: density of states; below: infrared; harmonic wavenumbers of the gas phase as ticks."""
    figure, (above, below) = figures.panels(2, 1, 11.0)
    for (name, run), colour in zip(runs.items(), figures.COLOURS, strict=False):
        states = density(run)
        above.plot(states.wavenumbers, states.intensities, color=colour, linewidth=1.0, label=name)
        light = infrared(run["dipoles"], STRIDE * STEP, WINDOW)
        shown = light.intensities / light.intensities[light.wavenumbers > 1000].max()
        below.plot(light.wavenumbers, shown, color=colour, linewidth=1.0, label=name)
    for axis in (above, below):
        for values in harmonic.values():
            axis.vlines(values, 0.94, 1.0, color="0.4", linewidth=1.0, transform=axis.get_xaxis_transform())
        axis.set_xlim(0, 4000)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("wavenumber (cm$^{-1}$)")
    above.set_ylabel("density of states (cm)")
    below.set_ylabel("infrared (arbitrary units)")
    figures.legend(above, loc="upper center")
    figures.save(figure, file)


def report(numbers):
    """Print what README.md says."""
    for name in BEADS:
        own = numbers[name]
        kelvin = f"{own['temperature'].mean:.1f} +- {own['temperature'].error:.1f} K"
        print(f"{name}: {own['picoseconds']:.1f} ps, resolution {own['resolution']:.0f} cm-1, {kelvin}")
        print(f"  integral of the density of states {own['integral']:.2f}")
    for name, *_ in BANDS:
        peaks = [f"{kind} {numbers[kind][name][0]:.0f} +- {numbers[kind][name][1]:.0f}" for kind in BEADS]
        print(name, *peaks, "harmonic", numbers["harmonic"][name].round(), "0-1", numbers["quantum"][name].round())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("--steps", nargs=2, type=int, default=(16000, 12000))
    given = parser.parse_args()
    report(main(given.folder, tuple(given.steps), HERE / "figure.png"))
