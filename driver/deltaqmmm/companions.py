"""Processes that compute for this one, and end with it.

`Companion` is such a process as its owner sees it. Both ends talk through a pair of sockets; beside them the owner
holds the other end of what the companion has for standard input, and when that closes, however the owner died, it ends
at once. Its program begins with `attend`. This module and the errors need the standard library alone.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from deltaqmmm.errors import ExternalToolError

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that come to whole groups of processes; how a companion ends is its owner's to say."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What libraries ask, when they are loaded, for how many threads they have."""

_LOOK_SECONDS = 5.0
"""How often a companion looks whether its parent is still its owner."""


class Companion:
    """A process of this Python that serves the one that started it.

    Args:
        program: What the interpreter is told to run, as on its command line.
        arguments: What follows the descriptor of the socket there.
        threads: Of the libraries that it loads.
        folder: Where it runs; None for the folder of this process.
        output: Where its standard output and standard error go; None for those of this process.
        descriptors: What it inherits beside the socket.

    Attributes:
        connection: To it.
        process: The process.

    Raises:
        ExternalToolError: It cannot be started: too many processes or open files.
    """

    def __init__(
        self,
        program: Sequence[str],
        arguments: Sequence[str] = (),
        *,
        threads: int = 1,
        folder: Path | None = None,
        output: IO[bytes] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._owner = os.getpid()
        try:
            self._start(program, arguments, threads, folder, output, descriptors)
        except OSError as error:
            raise ExternalToolError(
                f"a process to compute in cannot be started ({error.strerror}): look at `ulimit -n`, `ulimit -u` and "
                "the memory, or have fewer processes at a time (threads under [mm], workers under [dftb], --processes)."
            ) from error

    def _start(
        self,
        program: Sequence[str],
        arguments: Sequence[str],
        threads: int,
        folder: Path | None,
        output: IO[bytes] | None,
        descriptors: Sequence[int],
    ) -> None:
        with ExitStack() as if_it_fails:
            with ExitStack() as at_the_end:
                here, there = socket.socketpair()
                if_it_fails.callback(here.close)
                at_the_end.callback(there.close)
                # Not the pipe that subprocess makes: an interruption in its course would leave that open until the
                # process has ended, and the process waits for its closing.
                life, its_life = socket.socketpair()
                if_it_fails.callback(life.close)
                at_the_end.callback(its_life.close)
                descriptor = lifted(there.detach())
                at_the_end.callback(os.close, descriptor)
                # Until it ignores them itself; what a thread blocks is blocked in what it starts. That does not keep
                # an interruption from here, which another thread may take.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                at_the_end.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
                signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
                self.process = subprocess.Popen(
                    # -P: the folder of the program is none to import from.
                    [sys.executable, "-P", *program, str(descriptor), *arguments],
                    stdin=its_life.fileno(),
                    stdout=output,
                    stderr=None if output is None else subprocess.STDOUT,
                    cwd=folder,
                    env=_environment(threads),
                    pass_fds=[descriptor, *descriptors],
                )
                # One that is dropped ends too.
                self._let_go = weakref.finalize(self, life.close)
                self.connection = Connection(here.detach())
            # Not before: where signals are let through again, an interruption that has come is raised.
            if_it_fails.pop_all()

    def status(self, seconds: float) -> int | None:
        """The exit status of a process whose socket has closed, or None if it does not end within that time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> bool:
        """End the process; what it was computing is dropped. A process forked from the owner leaves it alone.

        Returns:
            Whether this is the owner.
        """
        if os.getpid() != self._owner:
            return False
        self.process.kill()
        self.process.wait()
        self._let_go()
        self.connection.close()
        return True


def refuse_fork(owner: int, what: str) -> None:
    """Keep a process that was forked off what is its parent's: the sockets of companions, and threads that it lacks.

    Args:
        owner: The process that made it.
        what: What it is, for the message.

    Raises:
        ExternalToolError: This is another process.
    """
    if os.getpid() != owner:
        raise ExternalToolError(
            f"this {what} was made before the process was forked: make another one in the new process."
        )


def _environment(threads: int) -> Mapping[str, str]:
    """Of a companion: it finds every module where this process does."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def lifted(descriptor: int) -> int:
    """The same file under a number that does not stand for standard input or output, should these be closed here."""
    if descriptor > 2:
        return descriptor
    found = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return found


def attend(descriptor: int, at_the_end: Callable[[], None] | None = None) -> Connection:
    """Begin as a companion.

    Args:
        descriptor: Of the socket to the owner.
        at_the_end: What is done when the owner has gone, before the process ends.

    Returns:
        The connection to the owner.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    owner = os.getppid()

    def watch() -> None:
        # In a thread of its own: what computes in the meantime leaves Python to others. Where the owner was forked,
        # its child keeps the other end of standard input open, and only the parent tells.
        while os.getppid() == owner:
            if select.select([0], [], [], _LOOK_SECONDS)[0] and not os.read(0, 1):
                break
        if at_the_end is not None:
            at_the_end()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return Connection(descriptor)


def ending(status: int | None) -> str:
    """How a companion whose socket has closed has ended, in words; None if it has not."""
    if status is None:
        return "its process closed its socket and did not end"
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # most of the real-time signals have none
        name = str(-status)
    return f"its process was ended by the signal {name}" + (
        " (by hand, or for want of memory)" if name == "SIGKILL" else ""
    )
