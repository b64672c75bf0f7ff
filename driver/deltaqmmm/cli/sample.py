"""`deltaqmmm sample`: frames worth a reference calculation, from runs with i-PI."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from deltaqmmm.cli.output import check_output, positive_integer, write_whole
from deltaqmmm.cli.signals import interrupted_by_signals
from deltaqmmm.config import Config, read_config
from deltaqmmm.config.threads import available_cores
from deltaqmmm.errors import InputError

if TYPE_CHECKING:
    from deltaqmmm.cli.sample_folders import RunPlan

DESCRIPTION = """\
Run i-PI with this driver at every combination of temperatures and beads, and choose frames for `deltaqmmm label`.

A run of a few picoseconds sees few arrangements of the molecules around the solute. Many short runs (--replicas) from
start structures of a long simulation with the force field alone see more, and such frames make better networks.

Each run has a folder below --folder (for `-o train.xyz` train.runs). The same command goes on after any interruption:
finished runs are kept, one that was under way goes on from i-PI's last checkpoint. With another --count, --pick or
--discard the runs are not repeated.

Chosen are frames of single beads, the same number from each run, in turns, so that any first part of OUTPUT holds every
condition. `farthest` takes the frame that is least like all before, by the distances within the QM region and the
field of its surroundings; `random` is for test sets (take another --seed, so that the runs are others too).

  deltaqmmm sample config.toml -o train.xyz --temperatures 300 400 --beads 1 8 --picoseconds 5 0.75 --count 320
  deltaqmmm sample config.toml starts.xyz -o more.xyz --replicas 20 --picoseconds 0.25 --discard 100 --count 60
  deltaqmmm sample config.toml -o test.xyz  --temperatures 300 400 --beads 1 8 --pick random --count 64 --seed 2"""

CLASSICAL_PICOSECONDS, QUANTUM_PICOSECONDS = 5.0, 1.0
CLASSICAL_DISCARD, QUANTUM_DISCARD = 500.0, 100.0


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sample",
        parents=parents,
        help="run i-PI and choose diverse frames to label",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    add(
        "init",
        type=Path,
        nargs="?",
        help="start structures: the runs take the frames of this file in turn (default: [system] coordinates)",
    )
    add("-o", "--output", type=Path, required=True, help="extended xyz file to write")
    add("--folder", type=Path, help="where the runs are kept (default: OUTPUT without its ending, with .runs)")
    add(
        "--replicas",
        type=positive_integer,
        default=1,
        metavar="N",
        help="runs of each condition; give them several start structures (default 1)",
    )
    add("--temperatures", type=float, nargs="+", default=[300.0], metavar="K", help="default: 300")
    add("--beads", type=positive_integer, nargs="+", default=[1], metavar="N", help="1 is classical (default)")
    length = parser.add_mutually_exclusive_group()
    each = "one value, or one for each of --beads"
    length.add_argument(
        "--picoseconds",
        type=float,
        nargs="+",
        metavar="PS",
        help=f"length of a run: {each} (default {CLASSICAL_PICOSECONDS:g}, {QUANTUM_PICOSECONDS:g} with several beads)",
    )
    length.add_argument("--steps", type=positive_integer, nargs="+", metavar="N", help=f"the same in steps: {each}")
    add("--timestep", type=float, default=0.5, metavar="FS", help="default 0.5")
    add(
        "--discard",
        type=float,
        nargs="+",
        metavar="FS",
        help=f"start of a run that is left out: {each} (default {CLASSICAL_DISCARD:g} classical, {QUANTUM_DISCARD:g} "
        "with beads)",
    )
    add("--every", type=float, default=10.0, metavar="FS", help="time between two frames to choose from (default 10)")
    add("--count", type=positive_integer, default=100, metavar="N", help="frames to choose in all (default 100)")
    add("--pick", choices=("farthest", "random"), default="farthest", help="how frames are chosen (default farthest)")
    add("--seed", type=int, default=1, metavar="N", help="from which the seeds of all runs and choices follow")
    add("--parallel", type=positive_integer, metavar="N", help="runs at once (default: cores / threads of a driver)")
    add("--avoid", type=Path, nargs="+", default=[], metavar="FILE", help="frames that count as chosen before")
    add(
        "--stall", type=float, default=900.0, metavar="S", help="give up a run without a step for so long (default 900)"
    )
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_output(options.output)
    if options.output.exists():
        raise InputError(f"{options.output}: exists already; name another output, or remove it.")
    plans = make_plans(options)
    check_count(options.count, plans)
    from deltaqmmm.ipi.processes import find_ipi

    find_ipi()
    config = read_config(options.config)
    from deltaqmmm.cli.sample_folders import RunFolder
    from deltaqmmm.cli.sample_frames import SampledSystem, describe_all, picked_atoms, start_texts
    from deltaqmmm.cli.sample_runs import run_all

    sampled = SampledSystem.load(config)
    starts = start_texts(sampled, options.init, len(plans))
    avoided = sampled.read_all(options.avoid)
    folder = options.folder or options.output.with_name(options.output.stem + ".runs")
    parallel, threads = shared_cores(config, len(plans), options.parallel)
    with RunFolder(folder, plans, starts, config) as runs, interrupted_by_signals():
        complete = [plan for plan in plans if runs.is_complete(plan)]
        todo = [plan for plan in plans if plan not in complete]
        with _Progress(plans, complete, quiet=options.quiet) as progress:
            run_all(runs, todo, parallel, threads, options.stall, progress)
        candidates = describe_all(sampled, runs, avoided, _bar(options.quiet, sum(plan.n_candidates for plan in plans)))
        chosen = candidates.choose(options.count, options.pick, options.seed)
        write_whole(options.output, picked_atoms(sampled, runs, candidates, chosen), ["symbols", "positions"])
    if not options.quiet:
        print(f"{len(chosen)} of {candidates.n_free} frames are chosen: {options.output}. The runs stand in {folder}.")
    return 0


def make_plans(options: argparse.Namespace) -> list[RunPlan]:
    """The runs that the options ask for: replicas of each temperature with each number of beads.

    Raises:
        InputError: A number is not positive, values are doubled, or lengths do not fit each other.
    """
    for flag, values in (
        ("--temperatures", options.temperatures),
        ("--picoseconds", options.picoseconds or ()),
        ("--timestep", [options.timestep]),
        ("--every", [options.every]),
        ("--stall", [options.stall]),
    ):
        for value in values:
            if not 0.0 < value < math.inf:
                raise InputError(f"{flag} {value:g}: a positive number is needed.")
    for value in options.discard or ():
        if not 0.0 <= value < math.inf:
            raise InputError(f"--discard {value:g}: zero or a positive number is needed.")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: zero or a positive number is needed.")
    for flag, values in (("--temperatures", options.temperatures), ("--beads", options.beads)):
        if len(set(values)) < len(values):
            raise InputError(f"{flag} {' '.join(f'{value:g}' for value in values)}: a value stands there twice.")
    stride = round(options.every / options.timestep)
    if stride < 1 or abs(stride * options.timestep - options.every) > 1e-6 * options.every:
        raise InputError(f"--every {options.every:g}: a multiple of the time step, {options.timestep:g} fs, is needed.")
    plans: list[RunPlan] = []
    for replica in range(options.replicas):
        for temperature in options.temperatures:
            for place in range(len(options.beads)):
                plan = _plan(options, temperature, place, replica, stride)
                plans.append(plan)
    return plans


def _plan(options: argparse.Namespace, temperature: float, place: int, replica: int, stride: int) -> RunPlan:
    """One run."""
    from deltaqmmm.cli.sample_folders import RunPlan

    beads = options.beads[place]
    steps, discard = _length(options, place, beads)
    seed = [options.seed, round(1000 * temperature), beads] + ([replica] if replica else [])
    plan = RunPlan(
        name=f"{temperature:g}K_{beads}" + (f"_{replica + 1}" if options.replicas > 1 else ""),
        temperature=temperature,
        beads=beads,
        steps=steps,
        timestep=options.timestep,
        stride=stride,
        # The first frame is the start structure.
        first=max(1, math.ceil(discard / options.every - 1e-9)),
        seed=int(np.random.SeedSequence(seed).generate_state(1)[0]) % 1_000_000_000,
    )
    if plan.n_candidates == 0:
        raise InputError(
            f"the run {plan.name} takes {steps * options.timestep:g} fs, of which the first {discard:g} are left out "
            f"(--discard), with a frame every {options.every:g} fs: nothing remains to choose from. Run longer "
            "(--picoseconds, --steps), or discard less."
        )
    return plan


def _length(options: argparse.Namespace, place: int, beads: int) -> tuple[int, float]:
    """Steps and discarded femtoseconds of a run with so many beads."""
    discard = _for_beads("--discard", options.discard, options.beads, place)
    if discard is None:
        discard = CLASSICAL_DISCARD if beads == 1 else QUANTUM_DISCARD
    steps = _for_beads("--steps", options.steps, options.beads, place)
    if steps is not None:
        return int(steps), discard
    picoseconds = _for_beads("--picoseconds", options.picoseconds, options.beads, place)
    if picoseconds is None:
        picoseconds = CLASSICAL_PICOSECONDS if beads == 1 else QUANTUM_PICOSECONDS
    return round(1000.0 * picoseconds / options.timestep), discard


def _for_beads(flag: str, values: Sequence[float] | None, beads: Sequence[int], place: int) -> float | None:
    if values is None:
        return None
    if len(values) not in (1, len(beads)):
        raise InputError(
            f"{flag} has {len(values)} values: one is needed, or one for each of --beads, which are {len(beads)}."
        )
    return values[place] if len(values) > 1 else values[0]


def check_count(count: int, plans: Sequence[RunPlan]) -> None:
    """Raise `InputError` if a run has too few frames for its share."""
    from deltaqmmm.sampling import shares

    for plan, share in zip(plans, shares(count, len(plans)), strict=True):
        if share > plan.n_candidates:
            raise InputError(
                f"--count {count}: {share} frames are to come from each of {len(plans)} runs, and {plan.name} has "
                f"{plan.n_candidates} to choose from. Run longer, discard less, or take frames more often (--every)."
            )


def shared_cores(config: Config, n_runs: int, parallel: int | None) -> tuple[int, int]:
    """How many runs at once, and threads of each driver where the configuration leaves them open."""
    cores = available_cores()
    fixed = max(config.mm.threads or config.driver.threads, config.dftb.threads, 1)
    at_once = min(n_runs, parallel or max(1, cores // fixed))
    return at_once, max(1, cores // at_once)


def _bar(quiet: bool, total: int, **more: Any) -> Any:  # noqa: ANN401 - tqdm ships no types
    # Without a terminal a line now and then is enough.
    interval = 0.5 if sys.stderr.isatty() else 60.0
    return tqdm(
        total=total, unit="frame", disable=quiet, mininterval=interval, maxinterval=interval, dynamic_ncols=True, **more
    )


class _Progress:
    """The progress bar over the frames that all runs evaluate, with an estimate of the time left."""

    def __init__(self, plans: Sequence[RunPlan], complete: Sequence[RunPlan], *, quiet: bool) -> None:
        if complete and not quiet:
            print(f"{len(complete)} of {len(plans)} runs are complete already.", flush=True)
        done = sum(plan.cost for plan in complete)
        self._bar = _bar(quiet, sum(plan.cost for plan in plans), initial=done, desc="running", smoothing=0.05)
        self._quiet = quiet

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, evaluations: int) -> None:
        """So many more frames were evaluated (fewer if a run was lost)."""
        self._bar.update(evaluations)

    def tell(self, text: str) -> None:
        """Something worth a line."""
        if not self._quiet:
            self._bar.write(text, file=sys.stderr)
