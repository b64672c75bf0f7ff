"""What `deltaqmmm run` is going to do: begin or go on, with which files, and what stands in the way."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.cli.console import print_warnings
from deltaqmmm.cli.run_checks import (
    check_atoms,
    check_edited,
    check_files,
    check_model,
    check_plumed,
    check_sockets,
    find_doubts,
    served_terms,
    unserved_terms,
)
from deltaqmmm.config import Config, read_config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.plumed import restore_states, warnings
from deltaqmmm.ipi.processes import find_ipi, make_socket_folder
from deltaqmmm.ipi.restart import Found, cut_back, find_checkpoint, made_no_step, old_files, plumed_runs, set_aside
from deltaqmmm.ipi.simulation import Simulation, read_simulation

_LOGS = re.compile(r"#?(ipi|driver(_.+)?)\.log(#\d+#)?")


@dataclass(frozen=True)
class Plan:
    """What is going to be run.

    Attributes:
        folder: Where; an absolute path.
        start: What the input says.
        simulation: What i-PI is given: the input, or a checkpoint.
        total_steps: Where it ends.
        config: Of the drivers; None where none is needed.
        old: Files of an earlier simulation that go out of the way.
        doubts: What the drivers will warn of, for each doubt some lines.
    """

    folder: Path
    start: Simulation
    simulation: Simulation
    total_steps: int
    config: Config | None
    old: tuple[Path, ...]
    doubts: tuple[list[str], ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether it begins from a checkpoint, and what is written goes on where it ended."""
        return self.simulation.step > 0 and not self.old


def make_plan(options: argparse.Namespace) -> Plan | None:
    """Read and check everything; None if the simulation is finished.

    Raises:
        InputError: Something is missing or does not fit.
        ExternalToolError: There is no i-PI.
    """
    folder = options.folder.resolve()
    start = read_simulation(folder / options.input)
    found = find_checkpoint(folder, start)
    simulation = start if options.fresh else choose(start, found, options)
    total = simulation.total_steps if options.steps is None else options.steps
    if simulation.step >= total:
        at = f"{simulation.file}: is at step {simulation.step}, and {total} are asked for"
        if options.steps is not None or simulation.step == 0:
            raise InputError(f"{at}: give a larger number ({'<total_steps>' if options.steps is None else '--steps'}).")
        say(
            options,
            f"{options.folder}: finished, {simulation.file.name} is at step {simulation.step} of {total}. "
            f"`{command(options)} --steps {2 * total}` goes on, `{command(options)} --fresh` begins anew.",
        )
        return None
    check_files(folder, simulation)
    check_edited(folder, simulation)
    check_plumed(simulation, find_ipi())
    plumed_runs(folder, simulation)
    sockets = make_socket_folder()
    try:
        check_sockets(simulation, f"{sockets}{os.sep}")
    finally:
        sockets.rmdir()
    config, doubts = None, []
    if simulation.sockets:
        config = read_config(folder / options.config)
        served = [served_terms(one, config) for one in simulation.sockets]
        for term in unserved_terms(served, config):
            say(options, f"Note: no <ffsocket> is served the term '{term}'; see the names of those of {options.input}.")
        model = check_model(config)
        doubts = find_doubts(config, check_atoms(folder, simulation, config), model, served)
    old: list[Path] = []
    if options.fresh or simulation.step == 0:
        old += [file for one in (start, found.simulation) if one for file in old_files(folder, one, start)]
    return Plan(folder, start, simulation, total, config, tuple(dict.fromkeys(old)), tuple(doubts))


def choose(start: Simulation, found: Found, options: argparse.Namespace) -> Simulation:
    """The checkpoint to go on from, or the input.

    Raises:
        InputError: The input was changed after the checkpoint was written, or there is no checkpoint that was asked
            for.
    """
    for file in found.unreadable:
        say(options, f"{file}: is cut short, and left out.")
    simulation = found.simulation
    if simulation is None:
        if options.go_on:
            raise InputError(f"{options.folder}: has no checkpoint to go on from: leave out --continue.")
        return start
    check_same(start, simulation, options)
    newer = start.file.stat().st_mtime_ns > simulation.file.stat().st_mtime_ns
    if newer and not options.go_on:
        raise InputError(
            f"{start.file.name} was changed after {simulation.file.name} (step {simulation.step} of "
            f"{simulation.total_steps}) was written. `{command(options)} --continue` goes on from it with the settings "
            f"that it holds, to more steps with --steps N; `{command(options)} --fresh` begins anew with those of "
            f"{start.file.name}, and keeps what is there."
        )
    return simulation


def check_same(start: Simulation, checkpoint: Simulation, options: argparse.Namespace) -> None:
    """Raise `InputError` if a checkpoint is of another simulation: i-PI would take nothing from the input."""
    for what, get in _MARKS.items():
        here, there = get(start), get(checkpoint)
        if here != there:
            raise InputError(
                f"{checkpoint.file}: is not of {start.file.name}: {what} {there or 'none'} there, and {here or 'none'} "
                f"in {start.file.name}. Give each input a folder of its own; or `{command(options)} --fresh` begins "
                "anew, and keeps what is there."
            )


_MARKS: dict[str, Callable[[Simulation], str]] = {
    "beads of the systems": lambda one: ", ".join(map(str, one.n_beads)),
    "modes of <ffsocket>": lambda one: ", ".join(sorted(socket.mode for socket in one.sockets)),
    "input of PLUMED": lambda one: ", ".join(
        sorted(file.name for file in one.start_files if file.element.startswith("<plumed_dat>"))
    ),
}
"""What no restart changes, and what tells the inputs of one folder apart."""


def clear_the_way(plan: Plan, options: argparse.Namespace) -> None:
    """Say what is going to be done and what is in doubt, and see to the files of what was there before."""
    _clear_the_way(plan, options)
    if not options.quiet:
        print_warnings(plan.doubts)


def _clear_the_way(plan: Plan, options: argparse.Namespace) -> None:
    name, total = plan.simulation.file.name, plan.total_steps
    if plan.goes_on:
        say(options, f"{options.folder}: goes on from {name}, at step {plan.simulation.step} of {total}.")
        cut, kept = cut_back(plan.folder, plan.simulation, plan.simulation.step)
        if kept is not None:
            names = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
            say(
                options,
                f"The outputs were further than that, or ended in half a line: what is later than step "
                f"{plan.simulation.step} in {names} now stands in {kept.name}/.",
            )
        runs = plumed_runs(plan.folder, plan.simulation)
        restore_states(plan.folder, runs)
        for text in warnings(plan.folder, runs):
            say(options, f"Note: {text}")
        return
    if plan.old and made_no_step(plan.old, plan.start):
        for file in plan.old:
            file.unlink()
        say(options, "The files of a start that made no step are removed.")
    elif plan.old:
        logs = [file for file in plan.folder.iterdir() if _LOGS.fullmatch(file.name)]
        kept = set_aside([*plan.old, *logs], plan.folder)
        why = "" if options.fresh else ", without a checkpoint to go on from,"
        say(options, f"{len(plan.old)} files of an earlier run{why} now stand in {kept.name}/.")
    say(options, f"{options.folder}: begins with {name}, {total} steps.")


def command(options: argparse.Namespace) -> str:
    """The command as it was given, without what is only for once."""
    words = ["deltaqmmm", "run", str(options.folder)]
    words += ["--input", options.input] if options.input != "input.xml" else []
    words += ["--config", options.config] if options.config != "config.toml" else []
    words += ["--drivers", str(options.drivers)] if options.drivers != 1 else []
    return shlex.join(words)


def say(options: argparse.Namespace, text: str) -> None:
    """Print a line."""
    if not options.quiet:
        print(text, flush=True)
