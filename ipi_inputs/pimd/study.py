"""The numbers and the figure of this case's README: quantum kinetic energy and spread of the beads against their
number.

    python study.py [FOLDER]

Uracil in 64 waters (../small), classical equilibration first, then each number of beads from the last structure of the
one before. It goes on where it stopped. About 10 minutes on one free core; `main(folder, steps=...)` for less.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from deltaqmmm.analysis.figures import COLOURS, legend, panels, save
from deltaqmmm.analysis.outputs import read_properties
from deltaqmmm.analysis.statistics import Estimate, mean_and_error
from deltaqmmm.units import ELECTRONVOLT, KELVIN

HERE = Path(__file__).resolve().parent
TEMPERATURE = 300.0
HYDROGENS = (8, 9, 10, 11)
SPREADS = {"H, all": "H", "H at C": "8", "C": "1", "N": "4", "O": "0"}
STEPS = {2: 4000, 4: 2000, 8: 1200, 16: 500, 32: 800}
"""Number of steps of 0.5 fs for each number of beads."""
EQUILIBRATION = 20000
LEFT_OUT = 100.0
"""Femtoseconds at the beginning of each run: the beads, which begin with fewer of them, spread."""
MILLIELECTRONVOLT = ELECTRONVOLT / 1000.0


def of_case(name: str) -> ModuleType:
    """The study of another case."""
    spec = importlib.util.spec_from_file_location(f"{name}_study", HERE.parent / name / "study.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{HERE.parent / name}: no study.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nvt = of_case("nvt")


def averaged(file: Path, names: Sequence[str], unit: float) -> Estimate:
    """Mean and error of the mean of some properties, after what is left out."""
    read = read_properties(file)
    series = np.mean([read[name] for name in names], axis=0)
    return mean_and_error(series[read["time"] >= LEFT_OUT] / unit)


def extrapolated(coarse: Estimate, fine: Estimate) -> Estimate:
    """The limit of many beads from P / 2 and P beads: the error of a primitive path integral falls as 1 / P^2."""
    error = float(np.hypot(4.0 * fine.error, coarse.error)) / 3.0
    return Estimate(fine.mean + (fine.mean - coarse.mean) / 3.0, error, fine.n_effective)


def main(
    folder: Path, steps: Mapping[int, int] = STEPS, equilibration: int = EQUILIBRATION, figure: Path | None = None
) -> dict[str, dict[int, Estimate]]:
    """Run, analyse, draw.

    Args:
        folder: Where the simulations are.
        steps: Number of steps by number of beads, rising.
        equilibration: Steps of the classical run before.
        figure: File to draw; None for none.

    Returns:
        By quantity and number of beads: "kinetic_cv", "kinetic_td" (hydrogens of the QM region, meV an atom), one
        "spread ..." for each of `SPREADS` (angstrom), "potential" (meV an atom), "seconds" (of a step).
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = folder / "equilibration"
    nvt.simulate(before, "nvt", equilibration, seed=11)
    result: dict[str, dict[int, Estimate]] = {name: {} for name in ("kinetic_cv", "kinetic_td", "seconds")}
    for beads, count in steps.items():
        run = folder / f"beads_{beads}"
        nvt.simulate(run, "pimd", count, before, beads=beads, seed=100 + beads)
        for name in ("kinetic_cv", "kinetic_td"):
            columns = [f"{name}({atom})" for atom in HYDROGENS]
            result[name][beads] = averaged(run / "run.kinetic", columns, MILLIELECTRONVOLT)
        for label, atom in SPREADS.items():
            spread = averaged(run / "run.spread", [f"r_gyration({atom})"], 1.0)
            result.setdefault(f"spread {label}", {})[beads] = spread
        seconds = nvt.seconds_per_step(run)
        result["seconds"][beads] = Estimate(seconds, 0.0, 1.0)
        before = run
    if figure is not None:
        draw(result, figure)
    return result


def draw(result: Mapping[str, Mapping[int, Estimate]], file: Path) -> None:
    """Kinetic energies and spreads against the number of beads."""
    drawing, (left, right) = panels(1, 2, 7.0)
    classical = 1.5 * TEMPERATURE * KELVIN / MILLIELECTRONVOLT
    left.axhline(classical, color="0.6", linewidth=0.8, linestyle="--")
    left.text(
        0.98, classical + 1.5, "classical", fontsize=8, color="0.4", ha="right", transform=left.get_yaxis_transform()
    )
    for name, label, colour, shift, mark in (
        ("kinetic_cv", "centroid virial", COLOURS[0], 0.97, "o"),
        ("kinetic_td", "thermodynamic", COLOURS[1], 1.03, "s"),
    ):
        beads = np.array(list(result[name]))
        means = [one.mean for one in result[name].values()]
        errors = [one.error for one in result[name].values()]
        left.errorbar(beads * shift, means, errors, fmt=mark, markersize=4, capsize=2, color=colour, label=label)
    left.set_ylabel("kinetic energy of H in uracil (meV)")
    legend(left, loc="lower right", bbox_to_anchor=(1.0, 0.12))
    for colour, label in zip(COLOURS, SPREADS, strict=False):
        spread = result[f"spread {label}"]
        means, errors = [one.mean for one in spread.values()], [one.error for one in spread.values()]
        right.errorbar(
            list(spread), means, errors, fmt="o-", markersize=3, linewidth=1, capsize=2, color=colour, label=label
        )
    right.set_ylabel("radius of gyration (Å)")
    right.set_ylim(bottom=0.0)
    legend(right, ncols=3, loc="upper left", bbox_to_anchor=(0.1, 0.52))
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(result["kinetic_cv"]), [str(beads) for beads in result["kinetic_cv"]])
        axis.set_xlabel("number of beads")
    save(drawing, file)


def report(result: Mapping[str, Mapping[int, Estimate]]) -> None:
    """Print what the README says."""
    print("beads  kinetic energy of H in uracil (meV)      difference   radius of gyration (angstrom)     ms/step")
    print("       centroid virial   thermodynamic                       " + "  ".join(SPREADS))
    for beads, cv in result["kinetic_cv"].items():
        td = result["kinetic_td"][beads]
        spread = "  ".join(f"{result[f'spread {label}'][beads].mean:.3f}" for label in SPREADS)
        print(
            f"{beads:5d}  {cv.mean:7.2f} +- {cv.error:4.2f}  {td.mean:7.2f} +- {td.error:4.2f}  "
            f"{td.mean - cv.mean:+6.2f} +- {np.hypot(td.error, cv.error):4.2f}  {spread}  "
            f"{1000.0 * result['seconds'][beads].mean:6.1f}"
        )
    (_, coarse), (beads, fine) = list(result["kinetic_cv"].items())[-2:]
    limit = extrapolated(coarse, fine)
    print(f"many beads, extrapolated from {beads // 2} and {beads}: {limit.mean:.2f} +- {limit.error:.2f} meV")
    print(f"classical, 3/2 kT: {1.5 * TEMPERATURE * KELVIN / MILLIELECTRONVOLT:.2f} meV")


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "study"
    report(main(place, figure=HERE / "figure.png"))
    print(f"ipi_inputs/pimd as it stands: {1000.0 * nvt.cost(place, 'pimd'):.1f} ms/step")
