"""A module that stands in for `dftbplus`: atoms on springs, and failures of every kind where the geometry asks for
them.

The x coordinate of the first atom says what happens: below 100 the energy is sum x^2 / 2 + 0.1 sum phi.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

SCC_FAILS, CRASHES_ONCE, CRASHES, HANGS, GROWS, RAISES = 100.0, 200.0, 300.0, 400.0, 500.0, 600.0


class DftbPlus:
    """The methods that a worker calls."""

    def __init__(self, libpath, hsdpath, logfile):
        self._text = Path(hsdpath).read_text()
        if "nonsense" in self._text:
            _fail("Unprocessed node(s) in the input")
        if "unreadable" in self._text:
            raise ValueError("no sense in the input")
        self._n_atoms = int(self._text.split()[0])
        self._potential, self._ballast = np.zeros(self._n_atoms), []

    def get_nr_atoms(self):
        return self._n_atoms

    def register_ext_pot_generator(self, reference, potential, gradient):
        self._give = potential

    def set_geometry(self, positions):
        self._positions = positions

    def get_energy(self):
        # Three SCC cycles.
        for _ in range(6):
            self._give(None, np.zeros(self._n_atoms), self._potential)
        kind = self._positions[0, 0]
        # The folder of the library outlives the worker.
        marker = Path(self._text.split()[1]) / "crashed"
        if kind == SCC_FAILS:
            print("    1   -0.20E+02    0.00E+00    0.11E-03\n    2   -0.20E+02    0.17E-04    0.76E-04")
            _fail("SCC is NOT converged, maximal SCC iterations exceeded")
        elif kind == CRASHES or (kind == CRASHES_ONCE and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == HANGS:
            time.sleep(1000.0)
        elif kind == RAISES:
            raise ValueError("no sense in the frame")
        elif kind == GROWS:
            self._ballast.append(np.ones(8 << 20))
        return 0.5 * np.sum(self._positions**2) - 0.1 * self._potential.sum()

    def get_gradients(self):
        return self._positions.copy()

    def get_gross_charges(self):
        return np.full(self._n_atoms, 0.1)


def _fail(message):
    print(f"ERROR!\n-> {message}")
    sys.stdout.flush()
    print("ERROR STOP", file=sys.stderr)
    os._exit(1)
