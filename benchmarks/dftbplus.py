"""DFTB+ through its Python API, as one of the programs that take turns."""

import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.programs import ProgramMissingError
from deltaqmmm.dftb.dftbplus import find_library
from deltaqmmm.dftb.dftbplus.hsd import Variation, write_input
from deltaqmmm.dftb.dftbplus.worker import load_module
from deltaqmmm.dftb.parameters import load_parameters
from deltaqmmm.errors import ExternalToolError

MAX_ITERATIONS = 200
SOLVERS = ("RelativelyRobust {}", "DivideAndConquer {}", "QR {}")
MIXERS = ("Broyden {}", "Broyden { MixingParameter = 0.5 }", "DIIS {}")
"""The first of each is DFTB+'s default; the fastest is taken."""


def find():
    """The library and its Python module, as the package finds them.

    Raises:
        ProgramMissingError: One of them is not there; the message says where it was searched.
    """
    try:
        return find_library()
    except ExternalToolError as error:
        raise ProgramMissingError(str(error)) from error


class DFTBPlus:
    """DFTB+ on the frames of one replica, with the eigensolver and mixer that are fastest on the first of them.

    Args:
        frames_file: The recorded frames.
        symbols: Elements of the atoms.
        charge: Total charge, e.
        settings: The settings of our engine.
    """

    def __init__(self, frames_file, symbols, charge, settings):
        self._library = find()
        self._module = load_module(str(self._library.module))
        self._frames_file = frames_file
        self._calculator = None
        self._symbols, self._charge, self._settings = symbols, charge, settings
        # The folder is the process's own and goes with it.
        self._folder = tempfile.TemporaryDirectory(prefix="dftbplus_")
        os.chdir(self._folder.name)

    def choose(self, gas):
        """Leave the field out, or take it in, and find the fastest settings for these frames."""
        if self._calculator is not None:
            self._calculator.close()
        self._frames = Frames(self._frames_file, gas)
        self._tried = {}
        self._solver = self._fastest([(solver, MIXERS[0]) for solver in SOLVERS])[0]
        self._mixer = self._fastest([(self._solver, mixer) for mixer in MIXERS])[1]
        self._start()

    def _start(self, log="/dev/null"):
        variation = Variation(MAX_ITERATIONS, 0.0, mixer=self._mixer, solver=self._solver)
        parameters = load_parameters(self._symbols, self._settings)
        text = write_input(self._symbols, self._charge, parameters, self._settings, variation)
        Path("dftb_in.hsd").write_text(text)
        library = str(self._library.file)
        self._calculator = self._module.DftbPlus(libpath=library, hsdpath="dftb_in.hsd", logfile=log)

    def _fastest(self, pairs, count=6, rounds=2):
        for self._solver, self._mixer in rounds * pairs:
            self._start()
            seconds = [row["seconds"] for row in self.turn(0, count)[2:]]
            self._calculator.close()
            name = f"{self._solver} {self._mixer}"
            self._tried[name] = min([*seconds, self._tried.get(name, float("inf"))])
        return min(pairs, key=lambda pair: self._tried[" ".join(pair)])

    def facts(self, count=12):
        """Version, settings, and SCC cycles per frame on consecutive frames, from DFTB+'s own output."""
        self._calculator.close()
        self._start("dftb.log")
        self.turn(0, count)
        self._calculator.close()
        text = Path("dftb.log").read_text(errors="replace")
        self._start()
        cycles = [int(word) for word in re.findall(r"(?m)^\s+(\d+)\s+-?\d\.\d+E[+-]\d+", text)]
        last = [number for number, after in zip(cycles, [*cycles[1:], 1], strict=True) if after <= number]
        return {
            "version": self._library.version,
            "solver": self._solver,
            "mixer": self._mixer,
            "tried_ms": {name: 1000.0 * seconds for name, seconds in self._tried.items()},
            "scc_cycles": last[2:],
        }

    def turn(self, first, last):
        """Evaluate frames `first` to `last` - 1 of the first replica: seconds, energy and gradient of each."""
        rows = []
        for index in range(first, last):
            positions = np.ascontiguousarray(self._frames.positions[index])
            # DFTB+ takes the potential that an electron feels.
            potential = np.ascontiguousarray(-self._frames.potentials[index])
            gradient = np.ascontiguousarray(-self._frames.potential_gradients[index])
            start = time.perf_counter()
            self._calculator.set_geometry(positions)
            self._calculator.set_external_potential(potential, gradient)
            energy = self._calculator.get_energy()
            gradients = self._calculator.get_gradients()
            charges = self._calculator.get_gross_charges()
            seconds = time.perf_counter() - start
            row = {"seconds": seconds, "energy": energy, "gradients": gradients, "charges": charges}
            rows.append({**row, "potential_gradients": -gradient})
        return rows


class Frames:
    """The recorded frames of the first replica: positions, potentials and their gradients."""

    def __init__(self, file, gas):
        with np.load(file) as data:
            self.positions = data["qm_positions"][:, 0]
            self.potentials = data["potentials"][:, 0]
            self.potential_gradients = data["potential_gradients"]
        if gas:
            self.potentials = np.zeros_like(self.potentials)
            self.potential_gradients = np.zeros_like(self.potential_gradients)
