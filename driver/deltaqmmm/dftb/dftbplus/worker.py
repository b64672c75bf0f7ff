"""One instance of DFTB+ in a process of its own; a program that imports little, so that it starts at once.

`python worker.py DESCRIPTOR [SNAPSHOT]` is a companion (see `deltaqmmm.companions`) of what
`deltaqmmm.dftb.dftbplus.process` runs in: when its owner dies it removes its folder, and that of the snapshot of the
user's input. DFTB+ ends the process when a calculation fails, with a message on standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from deltaqmmm.companions import attend

INPUT = "dftb_in.hsd"
PROCESSED = "dftb_pin.hsd"
"""What DFTB+ understood of its input, with all defaults."""
MAX_OUTPUT = 1 << 20
"""Bytes of DFTB+'s output beyond which it is begun afresh: its end is what tells about a failure."""
CALLS_PER_CYCLE = 2
"""DFTB+ asks for the external potential with the charges that go into an SCC cycle and with those that come out."""

FloatArray = npt.NDArray[np.float64]


class Instance:
    """DFTB+ with one input; geometry and external potential vary."""

    def __init__(self, library: str, module: str) -> None:
        """Let DFTB+ read its input in the current folder."""
        self._library = library
        self._calculator: Any = load_module(module).DftbPlus(libpath=library, hsdpath=INPUT, logfile=None)
        self.n_atoms = int(self._calculator.get_nr_atoms())
        self._potential = np.zeros(self.n_atoms)
        self._calls = 0
        # Through `set_external_potential` DFTB+ 25.1 would leave the spin part of the potential as it finds it in
        # memory; through this generator it is zero.
        self._calculator.register_ext_pot_generator(None, self._give_potential, self._give_gradient)

    def masses(self) -> FloatArray | None:
        """Masses of the atoms, atomic units; None where the library does not tell them."""
        handler = getattr(self._calculator, "_dftb_handler", None)
        if handler is None:
            return None
        function = getattr(ctypes.CDLL(self._library), "dftbp_get_masses", None)
        if function is None:
            return None
        function.restype = None
        found = np.empty(self.n_atoms)
        function(ctypes.byref(handler), found.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
        return found

    def evaluate(self, positions: FloatArray, potential: FloatArray) -> tuple[float, FloatArray, FloatArray, int]:
        """Energy, gradient at fixed potential (n, 3), gross charges (n,) and SCC cycles of one frame.

        Args:
            positions: Shape (n, 3), bohr.
            potential: Shape (n,), hartree/e, as a positive charge feels it.
        """
        self._potential[:] = potential
        self._calls = 0
        self._calculator.set_geometry(np.ascontiguousarray(positions))
        energy = float(self._calculator.get_energy())
        gradients = self._calculator.get_gradients()
        charges = self._calculator.get_gross_charges()
        return energy, gradients, charges, self._calls // CALLS_PER_CYCLE

    def _give_potential(self, _: object, excess: FloatArray, potential: FloatArray) -> None:
        """DFTB+ takes the potential that an electron feels."""
        self._calls += 1
        potential[:] = -self._potential

    def _give_gradient(self, _: object, excess: FloatArray, gradient: FloatArray) -> None:
        """None: the embedding differentiates the potential."""
        gradient[:] = 0.0


def main(descriptor: int, *folders: str) -> None:
    """Compute what is asked for, until the owner closes the socket or its end of standard input.

    Args:
        descriptor: Of the socket.
        folders: What is removed beside the current folder if the owner dies.
    """
    ours = (os.getcwd(), *folders)
    connection = attend(descriptor, lambda: _remove(ours))
    setup = connection.recv()
    try:
        instance = Instance(setup["library"], setup["module"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the owner must hear of it
        connection.send(("refused", f"{type(error).__name__}: {error}"))
        return
    processed = Path(PROCESSED).read_text(errors="replace") if Path(PROCESSED).is_file() else None
    connection.send(("ready", instance.n_atoms, instance.masses(), processed))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            positions, potentials = connection.recv()
            for frame in range(len(positions)):
                try:
                    answer = instance.evaluate(positions[frame], potentials[frame])
                except Exception as error:  # noqa: BLE001 - whatever it is, the owner must hear of it
                    connection.send(f"{type(error).__name__}: {error}")
                    break
                connection.send((*answer, memory()))
                if os.fstat(1).st_size > MAX_OUTPUT:
                    os.ftruncate(1, 0)
    # The owner has gone: what attends to that puts things in order, and ends the process.
    signal.pause()


def memory() -> int:
    """Memory that this process holds, bytes."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    # Where there is no /proc: the most that it ever held, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load_module(file: str) -> ModuleType:
    """The module `dftbplus` of that file and no other; its environment may be that of another Python."""
    spec = importlib.util.spec_from_file_location("dftbplus", file, submodule_search_locations=[str(Path(file).parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dftbplus"] = module
    spec.loader.exec_module(module)
    return module


def _remove(folders: tuple[str, ...]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
