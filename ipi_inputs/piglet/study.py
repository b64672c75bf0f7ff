"""The numbers and the figure of this case's README: PIGLET with 6 beads against plain path integrals with 6 to 32.

    python study.py [FOLDER]

Uracil in 64 waters (../small). The runs of plain path integrals are those of ../pimd/study.py: with its folder as
FOLDER they are made once. It goes on where it stopped.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from deltaqmmm.analysis.figures import COLOURS, legend, panels, save
from deltaqmmm.analysis.outputs import read_properties
from deltaqmmm.analysis.statistics import Estimate, drift, mean_and_error
from deltaqmmm.units import KJ_PER_MOL

HERE = Path(__file__).resolve().parent
BEADS = 6
STEPS = {"piglet": 2200, "pimd": 500}
LEFT_OUT = {"piglet": 150.0, "pimd": 100.0}
"""Femtoseconds at the beginning of each run."""
QUANTITIES = {"kinetic_cv": "kinetic energy of H in uracil (meV)", "total": "kinetic energy per atom (meV)"}


def of_case(name: str) -> ModuleType:
    """The study of another case."""
    spec = importlib.util.spec_from_file_location(f"{name}_study", HERE.parent / name / "study.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{HERE.parent / name}: no study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pimd = of_case("pimd")


def quantities(run: Path, left_out: float, n_atoms: int = 204) -> dict[str, Estimate]:
    """Kinetic energies by the centroid-virial estimator, meV an atom, and the potential energy, meV an atom."""
    kinetic = read_properties(run / "run.kinetic")
    kept = kinetic["time"] >= left_out
    hydrogens = np.mean([kinetic[f"kinetic_cv({atom})"] for atom in pimd.HYDROGENS], axis=0)
    out = read_properties(run / "run.out")
    late = out["time"] >= left_out
    unit = pimd.MILLIELECTRONVOLT
    return {
        "kinetic_cv": mean_and_error(hydrogens[kept] / unit),
        "total": mean_and_error(kinetic["kinetic_cv"][kept] / (n_atoms * unit)),
        "potential": mean_and_error(out["potential"][late] / (n_atoms * unit)),
    }


def main(
    folder: Path,
    steps: Mapping[str, int] = STEPS,
    chain: Mapping[int, int] = pimd.STEPS,
    equilibration: int = pimd.EQUILIBRATION,
    figure: Path | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Run, analyse, draw.

    Args:
        folder: Where the simulations are.
        steps: Of 6 beads with PIGLET and without.
        chain: Number of steps of plain path integrals by number of beads, as in ../pimd/study.py.
        equilibration: Steps of the classical run before.
        figure: File to draw; None for none.

    Returns:
        By run ("piglet", "pimd 6", "pimd 32") and quantity: "kinetic_cv" (hydrogens of the QM region), "total",
        "potential", meV an atom. "limit" is the limit of many beads, extrapolated from the two largest numbers.
    """
    pimd.main(folder, chain, equilibration)
    start = folder / "beads_4"
    pimd.nvt.simulate(folder / "beads_6", "pimd", steps["pimd"], start, beads=BEADS, seed=106)
    pimd.nvt.simulate(folder / "piglet", "piglet", steps["piglet"], folder / "beads_6", seed=206)
    result = {"piglet": quantities(folder / "piglet", LEFT_OUT["piglet"])}
    for beads in sorted({BEADS, *chain}):
        result[f"pimd {beads}"] = quantities(folder / f"beads_{beads}", LEFT_OUT["pimd"])
    coarse, fine = (result[f"pimd {beads}"] for beads in sorted(chain)[-2:])
    result["limit"] = {name: pimd.extrapolated(coarse[name], fine[name]) for name in fine}
    if figure is not None:
        draw(result, figure)
    return result


def drift_of(run: Path, left_out: float, n_atoms: int = 204) -> float:
    """Drift of the conserved quantity, kJ/mol an atom and picosecond."""
    out = read_properties(run / "run.out")
    kept = out["time"] >= left_out
    return drift(out["time"][kept] / 1000.0, out["conserved"][kept] / (n_atoms * KJ_PER_MOL))


def draw(result: Mapping[str, Mapping[str, Estimate]], file: Path) -> None:
    """Kinetic energies against the number of beads, with and without PIGLET."""
    drawing, axes = panels(1, 2, 7.0)
    plain = {int(name.split()[1]): one for name, one in result.items() if name.startswith("pimd ")}
    for axis, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        limit = result["limit"][name]
        axis.axhspan(limit.mean - limit.error, limit.mean + limit.error, color="0.85", label="many beads, extrapolated")
        means, errors = [one[name].mean for one in plain.values()], [one[name].error for one in plain.values()]
        axis.errorbar(list(plain), means, errors, fmt="o-", markersize=4, capsize=2, color=COLOURS[0], label="plain")
        piglet = result["piglet"][name]
        axis.errorbar(
            [BEADS], [piglet.mean], [piglet.error], fmt="s", markersize=5, capsize=2, color=COLOURS[1], label="PIGLET"
        )
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(plain), [str(beads) for beads in plain])
        axis.minorticks_off()
        axis.set_xlabel("number of beads")
        axis.set_ylabel(label)
    legend(axes[0], loc="lower right")
    save(drawing, file)


def report(result: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Print what the README says."""
    print("                kinetic energy (meV an atom)              potential energy")
    print("                H in uracil          all atoms            from the limit (meV an atom)")
    zero = result["limit"]["potential"].mean
    for name, one in result.items():
        cv, total, potential = one["kinetic_cv"], one["total"], one["potential"]
        print(
            f"{name:<12} {cv.mean:9.2f} +- {cv.error:5.2f}  {total.mean:9.2f} +- {total.error:5.2f}  "
            f"{potential.mean - zero:9.2f} +- {potential.error:5.2f}"
        )


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "study"
    report(main(place, figure=HERE / "figure.png"))
    # What half the time step does to the drift.
    pimd.nvt.simulate(place / "piglet_quarter", "piglet", 700, place / "piglet", seed=207, timestep=0.25)
    for name, left_out in (("piglet", LEFT_OUT["piglet"]), ("piglet_quarter", 30.0)):
        print(f"drift of {name}: {drift_of(place / name, left_out):.2f} kJ/mol per atom and ps")
    seconds = pimd.nvt.seconds_per_step(place / "piglet")
    print(f"small system: {1000.0 * seconds:.1f} ms/step")
    print(f"ipi_inputs/piglet as it stands: {1000.0 * pimd.nvt.cost(place, 'piglet'):.1f} ms/step")
