"""`deltaqmmm drive`: serve forces to i-PI over a socket."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from deltaqmmm.cli.console import WARMING_UP, describe
from deltaqmmm.cli.frames import read_frames
from deltaqmmm.cli.order import CheckedOrder
from deltaqmmm.config import Config, read_config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi import (
    DEFAULT_SOCKET_PREFIX,
    Client,
    ClientSettings,
    ExpectedFrames,
    InetAddress,
    StepReport,
    UnixAddress,
)

if TYPE_CHECKING:
    from deltaqmmm.config.loading import LoadedPotential

DESCRIPTION = """\
Connect to i-PI as a driver and serve energies, forces and virials until i-PI ends.

  deltaqmmm drive config.toml -u -a uracil            <ffsocket mode='unix'>   <address>uracil</address>
  deltaqmmm drive config.toml --shm -a uracil         <ffsocket mode='shm'>    <address>uracil</address>
  deltaqmmm drive config.toml -a node17 -p 31415      <ffsocket mode='inet'>   on host node17, port 31415

The driver may start before i-PI: it loads, warms up, and then waits for the socket.

With --terms, several drivers serve parts of the potential, each on a socket of its own, and i-PI adds them up: with the
correction on fewer beads, or on a longer time step, or as the committee of an <ffcommittee>."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "drive",
        parents=parents,
        help="serve forces to i-PI over a socket",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument("-u", "--unix", action="store_true", help="a unix socket; without it (and --shm) an inet one")
    parser.add_argument("--shm", action="store_true", help="a unix socket with the arrays in shared memory: mode='shm'")
    parser.add_argument(
        "-a", "--address", default="localhost", help="<address> of i-PI: a name, or a host for inet (default localhost)"
    )
    parser.add_argument("-p", "--port", type=int, help="<port> of i-PI, for inet (default 31415)")
    parser.add_argument(
        "-S", "--sockets-prefix", metavar="PREFIX", help=f"path before the name (default {DEFAULT_SOCKET_PREFIX})"
    )
    parser.add_argument(
        "--frames",
        type=Path,
        help="warm up on the first frame of this file instead of the coordinates of the configuration",
    )
    parser.add_argument(
        "--terms",
        type=term_names,
        metavar="TERM,...",
        help="serve a part: one or more of mm, dftb, correction (default: all that the configuration has)",
    )
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="how long to wait for i-PI ([driver] wait_seconds)"
    )
    parser.add_argument(
        "--reconnect",
        type=float,
        metavar="SECONDS",
        help="how long to look for i-PI again after a lost connection ([driver] reconnect_seconds)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.config.loading import load_potential

    config = read_config(options.config)
    address = make_address(options)
    settings = client_settings(options, config)
    say: Callable[[str], None] = (lambda text: None) if options.quiet else (lambda text: print(text, flush=True))
    loaded = load_potential(config, options.terms)
    say(describe(loaded))
    say(WARMING_UP)
    say(warm_up(loaded, options.frames))
    system = loaded.system
    status = StatusLine(sys.stderr, config.driver.status_seconds, enabled=not options.quiet)
    checked = CheckedOrder(loaded.evaluate, loaded.topology, system)

    def start_again() -> None:
        checked.start_again()
        loaded.potential.start_again()

    client = Client(
        address,
        checked,
        ExpectedFrames(system.n_atoms, system.periodic),
        settings,
        on_step=status.update,
        on_connect=start_again,
        notify=say,
    )
    try:
        outcome = client.run()
    finally:
        status.finish()
        guard = None if loaded.correction is None else loaded.correction.guard
        if guard is not None and guard.n_frames:
            say(guard.summary())
    say(outcome.message)
    return outcome.exit_code


def term_names(text: str) -> tuple[str, ...]:
    """The words of a list with commas: "mm, dftb"."""
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def make_address(options: argparse.Namespace) -> UnixAddress | InetAddress:
    """The address that the flags name.

    Raises:
        InputError: Flags that exclude each other.
    """
    if options.unix or options.shm:
        if options.port is not None:
            raise InputError("-p names a port, which a unix socket (-u, --shm) does not have: leave one of them out.")
        prefix = DEFAULT_SOCKET_PREFIX if options.sockets_prefix is None else options.sockets_prefix
        unix = UnixAddress(options.address, prefix)
        unix.check()
        return unix
    if options.sockets_prefix is not None:
        raise InputError("-S is the path before the name of a unix socket: give -u or --shm too.")
    inet = InetAddress(options.address, 31415 if options.port is None else options.port)
    inet.check()
    return inet


def client_settings(options: argparse.Namespace, config: Config) -> ClientSettings:
    """The client's settings: flags before the configuration.

    Raises:
        InputError: A negative time.
    """
    wait = config.driver.wait_seconds if options.wait is None else options.wait
    reconnect = config.driver.reconnect_seconds if options.reconnect is None else options.reconnect
    for flag, seconds in (("--wait", wait), ("--reconnect", reconnect)):
        if not 0.0 <= seconds < float("inf"):
            raise InputError(f"{flag} {seconds:g}: zero or a positive number of seconds is needed.")
    return ClientSettings(shared_memory=options.shm, wait_seconds=wait, reconnect_seconds=reconnect)


def warm_up(loaded: LoadedPotential, frames: Path | None) -> str:
    """Evaluate one frame before connecting, so that i-PI never waits for what is made on first use.

    Args:
        loaded: What was loaded.
        frames: File whose first frame to take; None takes the coordinate file of the configuration.

    Returns:
        A sentence for the user.
    """
    start = time.perf_counter()
    if frames is not None:
        frame = next(read_frames(frames, loaded.system))
        positions, cell, origin = frame.positions, frame.cell, str(frames)
    elif loaded.topology.positions is not None and loaded.config.system.coordinates is not None:
        positions = loaded.topology.positions[loaded.system.atom_particles]
        cell, origin = loaded.topology.cell, loaded.config.system.coordinates.name
    else:
        return "No warm-up: the configuration names no [system] coordinates. The first step will take longer."
    evaluation = loaded.potential.warm_up((np.eye(3) if cell is None else cell)[None], positions[None])
    seconds = time.perf_counter() - start
    return f"Warmed up on {origin} in {seconds:.1f} s: energy {float(evaluation.energies[0]):.6f} hartree."


@dataclass
class StatusLine:
    """One line about the progress of the run, now and then.

    On a terminal the line is rewritten in place; in a log file lines follow each other, more rarely.

    Attributes:
        stream: Where to write.
        interval: Seconds between two lines.
        enabled: Whether to write at all.
        clock: A monotonic clock, seconds.
    """

    stream: TextIO
    interval: float
    enabled: bool = True
    clock: Callable[[], float] = time.monotonic
    _due: float = field(init=False)
    _steps: int = field(init=False, default=0)
    _frames: int = field(init=False, default=0)
    _evaluated: int = field(init=False, default=0)
    _waiting: float = field(init=False, default=0.0)
    _computing: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._tty = self.stream.isatty()
        if not self._tty:
            self.interval = max(self.interval, 60.0)
        self._due = self.clock() + self.interval

    def update(self, report: StepReport) -> None:
        """Take in one exchange, and write if a line is due."""
        self._steps = report.step
        self._frames += report.n_frames
        self._evaluated += report.n_evaluated
        self._waiting += report.waiting_seconds
        self._computing += report.computing_seconds
        now = self.clock()
        if self.enabled and now >= self._due:
            self._due = now + self.interval
            self._write()

    def text(self) -> str:
        """The line: steps, frames, and averages over the whole run."""
        total = self._waiting + self._computing
        per_step = 1000.0 * self._computing / max(self._steps, 1)
        per_frame = 1000.0 * self._computing / max(self._evaluated, 1)
        padding = self._frames - self._evaluated
        padded = f" (and {padding} of padding)" if padding else ""
        share = 100.0 * self._waiting / total if total > 0.0 else 0.0
        return (
            f"{self._steps} steps, {self._evaluated} frames{padded}, {per_step:.1f} ms per step, {per_frame:.1f} ms "
            f"per frame, {share:.0f}% waiting for i-PI"
        )

    def finish(self) -> None:
        """Write the last line, and leave the terminal on a fresh one."""
        if self.enabled and self._steps > 0:
            self._write()
            if self._tty:
                self.stream.write("\n")
            self.stream.flush()

    def _write(self) -> None:
        if self._tty:
            # The line may get shorter: clear to its end.
            self.stream.write(f"\r{self.text()}\x1b[K")
        else:
            self.stream.write(self.text() + "\n")
        self.stream.flush()
