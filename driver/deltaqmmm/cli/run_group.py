"""The programs of `deltaqmmm run`: their commands, and following them to their end."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deltaqmmm.cli.run_checks import served_terms
from deltaqmmm.cli.run_plan import Plan, command, say
from deltaqmmm.cli.run_progress import Progress
from deltaqmmm.cli.signals import Interruption
from deltaqmmm.config import Config
from deltaqmmm.config.threads import available_cores
from deltaqmmm.errors import ExternalToolError
from deltaqmmm.ipi.connection import InetAddress, UnixAddress
from deltaqmmm.ipi.keeping import CheckpointKeeper
from deltaqmmm.ipi.processes import (
    Ending,
    Group,
    GroupSettings,
    Program,
    find_ipi,
    last_lines,
    make_socket_folder,
    threads_environment,
)
from deltaqmmm.ipi.progress import PropertyFile, Watch
from deltaqmmm.ipi.restart import find_checkpoint, restore_prefix
from deltaqmmm.ipi.simulation import ForceSocket, parse_input, with_total_steps

EXIT_INTERRUPTED = 130
GRACE_SECONDS = 30.0
_PAUSE = 0.2
_WAIT_SECONDS = "600"
_REASON = re.compile(
    r"EXIT file detected|Wall clock time expired|requested with message: '\s*(?:@\s*\w+\s*:\s*)?(.*?)\s*"
    r"(?:I-PI reports success\. )?Restartable"
)


def simulate(
    plan: Plan, options: argparse.Namespace, lock: int, interruption: Interruption
) -> tuple[Ending | None, float]:
    """Start all, and follow them to their end.

    Returns:
        How they ended (None after a stall), and after how many seconds.
    """
    sockets = make_socket_folder()
    prefix = f"{sockets}{os.sep}"
    began = time.monotonic()
    try:
        settings = group_settings(plan, options, sockets, lock)
        group = Group.start(settings)
    except BaseException:
        shutil.rmtree(sockets, ignore_errors=True)
        raise
    try:
        with Progress(sys.stderr, plan.simulation.step, plan.total_steps, quiet=options.quiet) as progress:
            keeper = CheckpointKeeper(plan.folder, plan.start)
            ending = follow(group, make_watch(plan, settings), keeper, progress, options.stall, interruption)
        if ending is None:
            if interruption.came:
                say(options, "Ending i-PI and the drivers; they finish the step that they are at.")
            stopped = group.stop()
            ending = stopped if interruption.came else None
    finally:
        group.ask_to_stop()
    if group.poll() is not None:
        restore_prefix(plan.folder, plan.start, prefix)
    return ending, time.monotonic() - began


def follow(
    group: Group,
    watch: Watch,
    keeper: CheckpointKeeper,
    progress: Progress,
    stall_seconds: float,
    interruption: Interruption,
) -> Ending | None:
    """Watch until all have ended; None if they are to be stopped."""
    while True:
        ending = group.poll()
        # Looked at after the end was noticed, or the last steps would be missed.
        watch.look()
        keeper.look()
        progress.update(watch)
        if ending is not None:
            return ending
        if interruption.came or watch.seconds_still() > stall_seconds:
            return None
        time.sleep(_PAUSE)


def make_watch(plan: Plan, settings: GroupSettings) -> Watch:
    """Follows the property files of all systems, and the logs of the drivers."""
    files = [
        PropertyFile(plan.folder / output.stem, output.stride, output.prefix or "")
        for output in plan.simulation.outputs
        if output.kind == "properties"
    ]
    return Watch(files, [settings.folder / program.log for program in settings.programs])


def group_settings(plan: Plan, options: argparse.Namespace, sockets: Path, lock: int) -> GroupSettings:
    """The commands of all programs."""
    prefix, simulation = f"{sockets}{os.sep}", plan.simulation
    file = simulation.file
    if plan.total_steps != simulation.total_steps:
        file = sockets / "input.xml"
        file.write_bytes(with_total_steps(parse_input(simulation.file), plan.total_steps))
    drivers = [] if plan.config is None else make_drivers(simulation.sockets, plan.config, prefix, options.drivers)
    elsewhere = [one.under(prefix) for one in simulation.sockets if one.nested]
    # What the user has set holds.
    environment = threads_environment(max(1, available_cores() // max(1, len(drivers)))) | dict(os.environ)
    return GroupSettings(
        folder=plan.folder,
        server=Program("i-PI", [str(find_ipi()), "-S", prefix, str(file)], "ipi.log"),
        drivers=drivers,
        environment=environment,
        socket_folder=sockets,
        sockets=[Path(address.path) for address in elsewhere if isinstance(address, UnixAddress)],
        grace_seconds=GRACE_SECONDS,
        held=[lock],
    )


def make_drivers(sockets: Sequence[ForceSocket], config: Config, prefix: str, number: int) -> list[Program]:
    """The drivers of all sockets."""
    drivers: list[Program] = []
    for one in sockets:
        address = one.under(prefix)
        words = [sys.executable, "-P", "-m", "deltaqmmm.cli.main", "drive", str(config.file), "--wait", _WAIT_SECONDS]
        if isinstance(address, InetAddress):
            words += ["-a", address.host, "-p", str(address.port)]
        else:
            words += ["--shm" if one.mode == "shm" else "-u", "-a", address.name, "-S", address.prefix]
        terms = served_terms(one, config)
        words += [] if terms is None else ["--terms", ",".join(terms)]
        for index in range(number):
            parts = [one.name or one.address] if len(sockets) > 1 else []
            parts += [str(index + 1)] if number > 1 else []
            name = " ".join(["the driver", *parts])
            log = "_".join(["driver", *(re.sub(r"[^A-Za-z0-9-]+", "-", part) for part in parts)]) + ".log"
            if any(log == other.log for other in drivers):
                log = f"driver_{len(drivers) + 1}.log"
            drivers.append(Program(name, words, log))
    return drivers


def conclude(
    plan: Plan, options: argparse.Namespace, ending: Ending | None, seconds: float, *, interrupted: bool
) -> int:
    """Say how it ended; returns the exit status.

    Raises:
        ExternalToolError: Something failed.
    """
    reached = find_checkpoint(plan.folder, plan.start).simulation
    step = 0 if reached is None else reached.step
    place = f"step {step} of {plan.total_steps}"
    if reached is None:
        next_ = f"`{command(options)}` begins anew"
    else:
        next_ = f"`{command(options)}` goes on from there ({reached.file.name})"
    log = plan.folder / "ipi.log"
    if ending is None:
        raise ExternalToolError(
            f"nothing has happened for {options.stall:g} s (--stall), and all were ended, at {place}. {next_}. "
            f"{log} ends with\n{last_lines(log)}"
        )
    stopped = interrupted and ending.first is None and ending.error is None
    if not stopped and not ending.well:
        raise ExternalToolError(f"{ending.explain()}\nAll are ended, at {place}. Correct the cause; {next_}.")
    text = log.read_text(encoding="utf-8", errors="replace")
    if "I-PI reports a problem" in text:
        raise ExternalToolError(f"i-PI reports a problem and ended at {place}; {log} ends with\n{last_lines(log)}")
    if step >= plan.total_steps:
        taken = step - plan.simulation.step
        say(options, f"Finished: {taken} steps in {seconds:.0f} s, {place}. More: `{command(options)} --steps N`.")
        return 0
    if stopped:
        say(options, f"Stopped at {place}; {next_}.")
        return EXIT_INTERRUPTED
    found = _REASON.search(text)
    reason = (found[1] or found[0]).strip(" .") if found else ""
    if found and found[1] and "I-PI reports success" in text:
        # A minimisation that has converged, force constants that are complete.
        say(options, f"Finished at {place}: {reason}.")
        return 0
    say(options, f"i-PI ended by itself at {place}{f' ({reason})' if reason else ''}; {next_}.")
    return 0
