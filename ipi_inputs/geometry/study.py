"""The numbers and the figure of README.md: minimum and harmonic vibrations of uracil, alone and in frozen water.

python study.py [FOLDER]             runs (or reads what is there), prints the table, writes figure.png
python study.py --reference          computes tests/data/uracil_dftbplus_modes.json with DFTB+ (see `reference`)
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from deltaqmmm.analysis import figures
from deltaqmmm.analysis.outputs import read_trajectory
from deltaqmmm.analysis.spectra import harmonic_wavenumbers, normal_modes
from deltaqmmm.build.amber import run_program
from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.config import read_config
from deltaqmmm.config.parts import dftb_settings, read_topology
from deltaqmmm.units import ANGSTROM, DALTON

HERE = Path(__file__).resolve().parent
SMALL = HERE.parent / "small"
DATA = HERE.parents[1] / "tests" / "data" / "uracil_dftbplus_modes.json"
RIGID = 6
START, CHECKPOINT = "<file mode='xyz'> init.xyz </file>", "<file mode='chk'> RESTART </file>"
STEP = 0.005  # of the finite differences, bohr, as in vibrations.xml
# For cpptraj: uracil without the water and without a box.
ALONE = """\
parm box.prmtop
trajin box.rst7
strip !:URA nobox parmout system.prmtop
trajout system.rst7 restart
"""


def main(folder, system=SMALL, figure=None):
    """Both systems minimised, and their vibrations.

    Args:
        folder: Where the runs are, or will be.
        system: Uracil in water, as `deltaqmmm build` makes it.
        figure: Where the figure goes; None: nowhere.

    Returns:
        Numbers of README.md: wavenumbers in cm-1, forces in hartree/bohr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gas, water = folder / "gas", folder / "water"
    vibrate(gas, gas_system(system, folder / "gas_system"))
    vibrate(water, system)
    data = json.loads(DATA.read_text())
    here = np.sort(harmonic_wavenumbers(np.loadtxt(gas / "vibrations.phonons.eigval")))
    there, _ = normal_modes(np.array(data["hessian_hartree_per_bohr2"]), masses(data["symbols"]))
    solvated = np.sort(harmonic_wavenumbers(np.loadtxt(water / "vibrations.phonons.eigval")))
    minimisations = {name: largest_forces(folder / name, len(here) // 3) for name in ("gas", "water")}
    if figure is not None:
        draw(figure, minimisations, here, there, solvated)
    # The rigid motions are those nearest to zero; the rest is compared in order.
    inner = [np.sort(values[np.argsort(np.abs(values))[RIGID:]]) for values in (here, there)]
    return {
        "steps": {name: len(forces) - 1 for name, forces in minimisations.items()},
        "largest_force": {name: forces[-1] for name, forces in minimisations.items()},
        "rigid": np.sort(np.abs(here))[:RIGID],
        "gas": inner[0],
        "dftbplus": inner[1],
        "water": solvated,
        "displacement_from_dftbplus": np.abs(distances(last_positions(gas)) - distances(data["positions_bohr"])).max(),
    }


def gas_system(system, folder):
    """The QM molecule of a system alone: a folder like those of `deltaqmmm build`."""
    if not (folder / "init.xyz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # cpptraj takes no path with a blank in it.
        for suffix in ("prmtop", "rst7"):
            shutil.copy(system / f"system.{suffix}", folder / f"box.{suffix}")
        (folder / "alone.in").write_text(ALONE)
        run_program("cpptraj", ["-i", "alone.in"], folder, f"Look at {folder / 'alone.in'}.")
        lines = (system / "config.toml").read_text().splitlines()
        # Without a box there is no cutoff.
        kept = [line for line in lines if not line.startswith(("cutoff_angstrom", "switch_angstrom"))]
        (folder / "config.toml").write_text("\n".join(kept) + "\n")
        molecule = read_topology(read_config(folder / "config.toml"))
        (folder / "init.xyz").write_text(init_xyz(molecule.symbols, molecule.positions, None))
    return folder


def vibrate(folder, system):
    """Minimise, then the vibrations, as README.md says."""
    if (folder / "vibrations.phonons.mode").is_file():
        return
    if not folder.is_dir():
        deltaqmmm("new", "geometry", folder, "--system", system, "-q")
    deltaqmmm("run", folder, "-q")
    file = folder / "vibrations.xml"
    text = file.read_text()
    begin, end = text.index("<!-- Where input.xml ended"), text.index(START) + len(START)
    file.write_text(text[:begin] + CHECKPOINT + text[end:])
    deltaqmmm("run", folder, "--input", "vibrations.xml", "-q")


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def masses(symbols):
    return np.array([atomic_masses[atomic_numbers[symbol]] for symbol in symbols]) * DALTON


def largest_forces(folder, n_free):
    """Of each step of a minimisation, over the atoms that move, hartree/bohr."""
    forces = read_trajectory(folder / "minimise.forces_0.xyz").values
    return np.abs(forces[:, :n_free]).max(axis=(1, 2))


def last_positions(folder):
    return read_trajectory(folder / "minimise.pos_0.xyz").values[-1] * ANGSTROM


def distances(positions):
    positions = np.asarray(positions)
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def draw(file, minimisations, here, there, solvated):
    """Left: how the minimisations converge; right: the vibrations as sticks."""
    figure, (left, right) = figures.panels(1, 2, 7.0)
    for (_, forces), colour, label in zip(
        minimisations.items(), figures.COLOURS, ("gas phase", "frozen water"), strict=False
    ):
        left.semilogy(forces, color=colour, label=label)
    left.set_xlabel("step of the minimisation")
    left.set_ylabel("largest force (hartree/bohr)")
    figures.legend(left)
    rows = (("frozen water", solvated, 1), ("gas phase", here, 0), ("gas phase, DFTB+ 25.1", there, 3))
    for row, (name, values, colour) in enumerate(rows):
        right.vlines(values, row, row + 0.7, color=figures.COLOURS[colour], linewidth=1.0)
        right.text(0, row + 0.74, name, fontsize=figures.SMALL_SIZE, va="bottom")
    right.set_ylim(-0.1, 3.1)
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    right.set_xlim(-50, 3700)
    right.set_xlabel("wavenumber (cm$^{-1}$)")
    figures.save(figure, file)


def reference():
    """The Hessian of DFTB+ by finite differences of its forces, at its own minimum.

    Needs DFTB+ as `benchmarks/dftbplus.py` finds it (DFTBPLUS_LIBRARY). The molecule is that of ipi_inputs/small.
    """
    import os

    from scipy.optimize import minimize

    root = HERE.parents[1]
    sys.path.insert(0, str(root))
    from benchmarks.dftbplus import MIXERS, SOLVERS, find_library, import_module, input_text, version

    molecule = read_topology(read_config(gas_system(SMALL, root / "build" / "uracil") / "config.toml"))
    symbols, start = molecule.symbols, molecule.positions
    settings = dftb_settings(read_config(SMALL / "config.toml"))
    library = find_library()
    module = import_module(library)
    work = root / "build" / "dftbplus"
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    text = input_text(tuple(symbols), 0, start, settings, SOLVERS[0], MIXERS[0])
    Path("dftb_in.hsd").write_text(re.sub(r"SCCTolerance = \S+", "SCCTolerance = 1e-11", text))
    calculator = module.DftbPlus(libpath=str(library.with_suffix("")), hsdpath="dftb_in.hsd", logfile="/dev/null")

    def energy_and_gradient(flat):
        calculator.set_geometry(np.ascontiguousarray(flat.reshape(-1, 3)))
        return calculator.get_energy(), calculator.get_gradients().ravel().copy()

    found = minimize(energy_and_gradient, start.ravel(), jac=True, method="BFGS", options={"gtol": 1e-6})
    rows = []
    for place in range(found.x.size):
        shift = np.zeros(found.x.size)
        shift[place] = STEP
        ahead, behind = energy_and_gradient(found.x + shift)[1], energy_and_gradient(found.x - shift)[1]
        rows.append((ahead - behind) / (2.0 * STEP))
    hessian = np.array(rows)
    hessian = 0.5 * (hessian + hessian.T)
    content = {
        "origin": "Hessian of uracil in the gas phase at its minimum, DFTB3/3ob-3-1, by central differences of forces",
        "program": f"DFTB+ {version(library)}, Python API",
        "generator": "python ipi_inputs/geometry/study.py --reference",
        "step_bohr": STEP,
        "scc_tolerance": 1e-11,
        "energy_hartree": found.fun,
        "largest_gradient_hartree_per_bohr": float(np.abs(found.jac).max()),
        "symbols": symbols,
        "positions_bohr": found.x.reshape(-1, 3).round(8).tolist(),
        "hessian_hartree_per_bohr2": hessian.round(9).tolist(),
    }
    DATA.write_text(json.dumps(content, indent=1) + "\n")
    print(normal_modes(hessian, masses(symbols))[0].round(2))


def report(numbers):
    """Print what README.md says."""
    for name, steps in numbers["steps"].items():
        print(f"{name}: {steps} steps, largest force {numbers['largest_force'][name]:.1e} hartree/bohr")
    print("rigid motions (cm-1):", *numbers["rigid"].round(2))
    print("lowest vibration, gas and water (cm-1):", numbers["gas"][0].round(1), numbers["water"][0].round(1))
    off = np.abs(numbers["gas"] - numbers["dftbplus"])
    print(f"against DFTB+: largest difference {off.max():.3f} cm-1, mean {off.mean():.3f} cm-1")
    print(f"distances at the two minima differ by {numbers['displacement_from_dftbplus']:.1e} bohr at most")
    for name in ("gas", "dftbplus", "water"):
        print(f"{name:9}", *numbers[name].round(1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    parser.add_argument("--reference", action="store_true")
    given = parser.parse_args()
    if given.reference:
        reference()
    else:
        report(main(given.folder, figure=HERE / "figure.png"))
