"""`deltaqmmm plot`: the figures that a person looks at first."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Draw what a simulation has written so far, and print means with their errors. It may still be running.

  deltaqmmm plot mine                           from the files that mine/input.xml names
  deltaqmmm plot mine --distance 4-8            and the distance of the atoms 4 and 8, counted from 0 as i-PI does

One PNG for each theme that there is something of, in FOLDER/figures: energies with the drift of what is conserved,
temperature, quantum kinetic energy, distances, charges and dipole of the QM region, spread of the committee, walks of
replica exchange, variable, hills and free energy of metadynamics or OPES, overlap of the windows of umbrella sampling.
Several systems (T0_run.out, ...) have a colour each. Means of replica exchange are by temperature, with the share of
swaps accepted, where ensemble_temperature is written.

Errors are standard errors of the mean, from the autocorrelation (pymbar, pip install '.[analysis]')."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plot",
        parents=parents,
        help="draw energies, temperature, distances, replica walks, free energy of a simulation",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="where i-PI runs or ran")
    add("-o", "--output", type=Path, metavar="FOLDER", help="where the figures go (default FOLDER/figures)")
    add(
        "--input",
        default="input.xml",
        metavar="FILE",
        help="i-PI's input, in the folder (default input.xml, or else RESTART)",
    )
    add(
        "--distance",
        type=_pair,
        action="append",
        default=[],
        metavar="I-J",
        help="distance of two atoms, counted from 0; may be given several times",
    )
    add(
        "--skip",
        type=_time,
        metavar="PS",
        help="leave so many picoseconds out of the means (default: the first fifth)",
    )
    add("-q", "--quiet", action="store_true", help="print only errors")
    parser.set_defaults(run=run)


def _pair(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: two numbers of atoms are needed, as 4-8, counted from 0")
    return int(found[1]), int(found[2])


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a time in picoseconds is needed, as 0.5")
    return value


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.analysis.figures import save
    from deltaqmmm.cli.plot_figures import figures
    from deltaqmmm.cli.plot_folder import find
    from deltaqmmm.cli.plot_table import check_skip, table

    found = find(options.folder, options.input)
    check_skip(found.records, options.skip)
    drawn, notes = figures(found, options.distance, options.skip)
    output = options.output or options.folder / "figures"
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        save(figure, output / f"{name}.png")
    if not options.quiet:
        for line in table(found, options.skip):
            print(line)
        for note in notes:
            print(f"Note: {note}")
        print(f"{output}: {', '.join(f'{name}.png' for name in drawn)}")
    return 0
