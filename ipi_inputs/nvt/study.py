"""The numbers and the figure of this case's README: do QM and MM atoms have the same temperature?

    python study.py [FOLDER]

Uracil in 64 waters (../small): stochastic velocity rescaling from the minimised start, then the GLE from its end. It
goes on where it stopped. The studies of other cases use the functions too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from deltaqmmm.analysis.figures import COLOURS, legend, panels, save
from deltaqmmm.analysis.outputs import read_properties, read_trajectory
from deltaqmmm.analysis.statistics import Estimate, drift, mean_and_error, running_mean
from deltaqmmm.cli.main import main as deltaqmmm
from deltaqmmm.units import KELVIN, KJ_PER_MOL

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parent
SMALL = LIBRARY / "small"
TEMPERATURE = 300.0
N_QM = 12
STEPS = {"svr": 20000, "gle": 8000}
EQUILIBRATION = 2.0
"""Picoseconds at the beginning of the first run that are left out of its means; a quarter as many of the second."""
NAMES = {"svr": "velocity rescaling", "gle": "GLE"}


def command(*words: object) -> None:
    """Run `deltaqmmm`.

    Raises:
        RuntimeError: It failed; it has said why.
    """
    if deltaqmmm([str(word) for word in words]) != 0:
        raise RuntimeError(f"deltaqmmm {' '.join(str(word) for word in words)} failed")


def simulate(
    folder: Path, case: str, steps: int, start: Path | None = None, source: str = "input.xml", **options: object
) -> None:
    """Make a folder of a case for the small system, if it is not there, and run it, or what is left of it.

    Args:
        folder: To make.
        case: Name of the case.
        steps: Of the whole run.
        start: Folder of a run whose checkpoint it starts from.
        source: Which input of the case.
        options: Of `deltaqmmm new`.
    """
    if not folder.exists():
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        command("new", case, folder, "--system", SMALL, "--steps", steps, "--quiet", *words)
        if start is not None:
            file = folder / source
            new = f"<file mode='chk'> ../{start.name}/RESTART </file>"
            text, count = re.subn(r"<file mode='xyz'>[^<]*</file>", new, file.read_text())
            if count != 1:
                raise RuntimeError(f"{file}: no <file mode='xyz'> to replace")
            file.write_text(text)
    command("run", folder, "--input", source, "--quiet")


def seconds_per_step(folder: Path) -> float:
    """The wall time of a step, from the quickest hundred: others may have used the machine too."""
    found = re.findall(r"t/step: (\S+)", (folder / "ipi.log").read_text())
    return min(float(word) for word in found[1:] or found)


def cost(folder: Path, case: str, source: str = "input.xml", steps: int = 81) -> float:
    """The wall time of a step of a case as it stands in ipi_inputs/, 1,062 atoms, on the cores of its config.toml.

    That which a tenth of the steps stays below: the machine may have had other work too.
    """
    run = folder / f"cost_{case}"
    if not run.exists():
        run.mkdir(parents=True)
        for name in (source, "config.toml"):
            text = (LIBRARY / case / name).read_text().replace("verbosity='medium'", "verbosity='high'")
            (run / name).write_text(text.replace("../system/", f"{LIBRARY / 'system'}/"))
        command("run", run, "--input", source, "--steps", steps, "--quiet")
    found = re.findall(r"t/step: (\S+)", (run / "ipi.log").read_text())
    return float(np.quantile([float(word) for word in found[10:]], 0.1))


@dataclass(frozen=True)
class Temperatures:
    """What a run says.

    Attributes:
        qm: Kinetic temperature of the QM atoms, kelvin.
        mm: Of the MM atoms.
        drift: Of the conserved quantity, kJ/mol an atom and picosecond.
        seconds: Of a step.
        times: Picoseconds, shape (n,).
        series: Temperature of QM and MM atoms, shape (n, 2).
    """

    qm: Estimate
    mm: Estimate
    drift: float
    seconds: float
    times: np.ndarray
    series: np.ndarray


def analyse(folder: Path, prefix: str, skip: float) -> Temperatures:
    """The temperatures of QM and MM atoms: twice the kinetic energy of each group by its degrees of freedom and k.

    The centre of mass of all atoms is at rest, which takes from a group 3 times its part of the mass.
    """
    groups = read_properties(folder / f"{prefix}.groups")
    qm = np.sum([groups[f"kinetic_md({atom})"] for atom in range(N_QM)], axis=0)
    symbols = read_trajectory(folder / f"{prefix}.pos_0.xyz", limit=1).symbols
    masses = atomic_masses[[atomic_numbers[symbol] for symbol in symbols]]
    share = masses[:N_QM].sum() / masses.sum()
    freedom = np.array([3.0 * N_QM - 3.0 * share, 3.0 * (len(symbols) - N_QM) - 3.0 * (1.0 - share)])
    series = 2.0 * np.stack([qm, groups["kinetic_md"] - qm], axis=1) / (freedom * KELVIN)
    times = groups["time"] / 1000.0
    kept = times >= skip
    out = read_properties(folder / f"{prefix}.out")
    late = out["time"] / 1000.0 >= skip
    slope = drift(out["time"][late] / 1000.0, out["conserved"][late] / KJ_PER_MOL) / len(symbols)
    means = [mean_and_error(series[kept, group]) for group in (0, 1)]
    return Temperatures(*means, slope, seconds_per_step(folder), times, series)


def main(
    folder: Path, steps: Mapping[str, int] = STEPS, skip: float = EQUILIBRATION, figure: Path | None = None
) -> dict[str, Temperatures]:
    """Run, analyse, draw.

    Args:
        folder: Where the simulations are.
        steps: Of each thermostat, 0.5 fs each.
        skip: Picoseconds at the beginning of the first run that are left out of its means; a quarter as many of the
            second.
        figure: File to draw; None for none.

    Returns:
        What each thermostat gives: "svr" and "gle".
    """
    folder.mkdir(parents=True, exist_ok=True)
    simulate(folder / "svr", "nvt", steps["svr"], seed=11)
    simulate(folder / "gle", "nvt", steps["gle"], folder / "svr", source="gle.xml", seed=12)
    result = {"svr": analyse(folder / "svr", "run", skip), "gle": analyse(folder / "gle", "gle", skip / 4.0)}
    if figure is not None:
        draw(result, figure)
    return result


def draw(result: Mapping[str, Temperatures], file: Path) -> None:
    """Running means of the temperatures of QM and MM atoms."""
    drawing, axes = panels(1, 2, 7.0)
    for axis, (name, one) in zip(axes, result.items(), strict=True):
        for group, label in enumerate(("QM atoms", "MM atoms")):
            width = max(len(one.times) // 40, 1)
            n = len(one.times) // width * width
            block = one.series[:n, group].reshape(-1, width).mean(axis=1)
            middle = one.times[:n].reshape(-1, width).mean(axis=1)
            axis.plot(middle, block, color=COLOURS[group], linewidth=0.7, alpha=0.5)
            axis.plot(one.times, running_mean(one.series[:, group]), color=COLOURS[group], linewidth=1.6, label=label)
        axis.axhline(TEMPERATURE, color="0.45", linewidth=0.9, linestyle="--")
        axis.set_title(NAMES[name], fontsize=9)
        axis.set_xlabel("time (ps)")
        axis.set_ylabel("temperature (K)")
        axis.set_ylim(200.0, 425.0)
    legend(axes[0], loc="upper right")
    save(drawing, file)


def report(result: Mapping[str, Temperatures]) -> None:
    """Print what the README says."""
    for name, one in result.items():
        print(
            f"{NAMES[name]:<20} QM atoms {one.qm.mean:.1f} +- {one.qm.error:.1f} K, MM atoms {one.mm.mean:.1f} +- "
            f"{one.mm.error:.1f} K, drift {one.drift:.1e} kJ/mol per atom and ps, {1000.0 * one.seconds:.1f} ms/step"
        )


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "study"
    report(main(place, figure=HERE / "figure.png"))
    print(f"ipi_inputs/nvt as it stands: {1000.0 * cost(place, 'nvt'):.1f} ms/step")
