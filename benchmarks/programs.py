"""Programs that take turns, each in a process of its own with a number of threads and as many cores of its own choice.

A process is started afresh for each number of threads: OpenMP, BLAS and OpenMM read theirs from the environment when
they are loaded. What a program prints (DFTB+ prints much) goes to a file and is shown only if it fails.
"""

import contextlib
import multiprocessing
import os
import tempfile
import traceback
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENMM_CPU_THREADS",
)


class ProgramMissingError(Exception):
    """A program to compare with is not installed; the message is the reason that tables and JSON give."""


class ProgramFailedError(Exception):
    """A program ended or raised; the message has the end of what it printed."""


class Cores:
    """Whether programs are bound to as many cores as they have threads."""

    bound = True


def cores(threads):
    """The cores that a program with this many threads may use: the last ones, as most else runs on the first.

    None where it is left to the system.
    """
    if not Cores.bound or not hasattr(os, "sched_getaffinity"):
        return None
    return set(sorted(os.sched_getaffinity(0))[-threads:])


def thread_environment(threads):
    """The environment of a program with this many threads."""
    return os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))


class Program:
    """An object that lives in a process of its own: `call` runs its methods there.

    Args:
        factory: A class of this package; it is called in the new process.
        threads: Threads and cores of the process.
        arguments: For the factory.
    """

    def __init__(self, factory, threads, /, **arguments):
        self.name = factory.__name__
        self._folder = tempfile.TemporaryDirectory(prefix="deltaqmmm_benchmark_")
        self._log = Path(self._folder.name) / "output.log"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, str(self._log), cores(threads), factory, arguments), daemon=True
        )
        before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        try:
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method, *arguments, **keywords):
        """Run a method of the object and return its result."""
        self._connection.send((method, arguments, keywords))
        return self._answer()

    def _answer(self):
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise ProgramFailedError(
                f"{self.name} ended with status {self._process.exitcode}; it had printed:\n{self._tail()}"
            ) from None
        if kind == "missing":
            raise ProgramMissingError(value)
        if kind == "failed":
            raise ProgramFailedError(value)
        if kind == "error":
            raise ProgramFailedError(f"{self.name} failed:\n{value}\nIt had printed:\n{self._tail()}")
        return value

    def _tail(self):
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:]) if self._log.exists() else ""

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError, OSError):
            self._connection.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(10)
        self._connection.close()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _serve(connection, log, allowed, factory, arguments):
    """The life of the process: make the object, then answer calls until None comes."""
    if allowed is not None:
        os.sched_setaffinity(0, allowed)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        target = factory(**arguments)
        connection.send(("result", None))
        while (message := connection.recv()) is not None:
            method, positional, keywords = message
            connection.send(("result", getattr(target, method)(*positional, **keywords)))
    except ProgramMissingError as error:
        connection.send(("missing", str(error)))
    except ProgramFailedError as error:
        connection.send(("failed", str(error)))
    except EOFError:
        pass
    except BaseException:  # noqa: BLE001 - the other process raises it again
        connection.send(("error", traceback.format_exc()))
