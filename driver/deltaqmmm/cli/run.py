"""`deltaqmmm run`: i-PI and its drivers together, from the start to the end of a simulation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltaqmmm.cli.output import positive_integer, positive_number
from deltaqmmm.cli.signals import Interruption

DESCRIPTION = """\
Run a simulation: start i-PI and a driver for every <ffsocket> of its input, show their progress, and end them together.

  deltaqmmm run mine                the folder has input.xml and config.toml, as `deltaqmmm build` makes it

Ctrl-C, or SIGTERM, ends both in order, and the same command goes on where they stopped: from i-PI's RESTART, or the
newest file of a <checkpoint> (run.checkpoint.kept is the last whole one, should a kill come while i-PI writes over it).
If one of them fails the others are ended, and the message says why. Nothing is left
running, and no socket. The logs are ipi.log and driver.log; of several drivers driver_NAME.log, driver_1.log, ...

An <ffsocket> whose name is made of the names of terms (mm, dftb, correction), as name='mm_dftb', is served these terms;
any other is served the whole potential. Without an <ffsocket> i-PI runs alone."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "run",
        parents=parents,
        help="run i-PI and its drivers together",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="where the input is, and where i-PI writes")
    add("--input", default="input.xml", metavar="FILE", help="i-PI's input, in the folder (default input.xml)")
    add("--config", default="config.toml", metavar="FILE", help="the drivers' configuration, in the folder")
    add("--drivers", type=positive_integer, default=1, metavar="N", help="drivers for each <ffsocket> (default 1)")
    add("--steps", type=positive_integer, metavar="N", help="total steps, in place of <total_steps>; extends a run")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--continue", dest="go_on", action="store_true", help="go on from a checkpoint older than the input"
    )
    again.add_argument("--fresh", action="store_true", help="begin anew; what is there goes to a folder before_N")
    add(
        "--stall",
        type=positive_number,
        default=1800.0,
        metavar="S",
        help="give up when nothing has happened for so many seconds (default 1800)",
    )
    add("-q", "--quiet", action="store_true", help="print only errors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.cli.run_checks import alone_in
    from deltaqmmm.cli.run_group import conclude, simulate
    from deltaqmmm.cli.run_plan import clear_the_way, make_plan

    with alone_in(options.folder) as lock:
        plan = make_plan(options)
        if plan is None:
            return 0
        clear_the_way(plan, options)
        with Interruption() as interruption:
            ending, seconds = simulate(plan, options, lock, interruption)
    return conclude(plan, options, ending, seconds, interrupted=interruption.came)
