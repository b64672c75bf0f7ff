"""DFTB+ through its Python API, as one of the programs that take turns.

The library is searched in this order: the environment variable DFTBPLUS_LIBRARY (the file libdftbplus.so), beside an
installed module `dftbplus`, the folders of LD_LIBRARY_PATH, the lib folder of this Python. The module `dftbplus` is
imported from Python's path, else from the site-packages beside the library.
"""

import importlib
import importlib.util
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.programs import ProgramMissingError

LIBRARY = "libdftbplus.so"
SOLVERS = ("RelativelyRobust {}", "DivideAndConquer {}", "QR {}")
MIXERS = ("Broyden {}", "Broyden { MixingParameter = 0.5 }", "DIIS {}")
"""The first of each is DFTB+'s default; the fastest is taken."""

_SHELLS = "spd"
_INPUT = """\
Geometry = GenFormat {{
{n_atoms} C
{species}
{atoms}
}}
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = {tolerance}
  MaxSCCIterations = 200
  Charge = {charge}
  ThirdOrderFull = Yes
  HubbardDerivs {{
{derivatives}
  }}
  HCorrection = Damping {{ Exponent = {damping} }}
  MaxAngularMomentum {{
{shells}
  }}
  SlaterKosterFiles = Type2FileNames {{
    Prefix = "{folder}/"
    Separator = "-"
    Suffix = ".skf"
  }}
  Solver = {solver}
  Mixer = {mixer}
}}
Analysis {{
  CalculateForces = Yes
  WriteBandOut = No
}}
Options {{
  WriteDetailedOut = No
  WriteCharges = No
}}
ParserOptions {{
  ParserVersion = 12
  WriteHSDInput = No
}}
"""


def find_library():
    """The path of the shared library.

    Raises:
        ProgramMissingError: There is none; the message says where it was searched.
    """
    given = os.environ.get("DFTBPLUS_LIBRARY")
    if given:
        if not Path(given).is_file():
            raise ProgramMissingError(f"DFTBPLUS_LIBRARY = {given} is not a file")
        return Path(given)
    folders = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    spec = importlib.util.find_spec("dftbplus")
    if spec is not None and spec.origin:
        folders = [*Path(spec.origin).parents[1:5], *folders]
    for folder in [*folders, Path(sys.prefix) / "lib"]:
        if (folder / LIBRARY).is_file():
            return folder / LIBRARY
    raise ProgramMissingError(
        "DFTB+ is not installed: no module 'dftbplus' with its library, DFTBPLUS_LIBRARY is not set, and "
        f"LD_LIBRARY_PATH has no {LIBRARY}"
    )


def version(library):
    """The release, as the library's package file tells it."""
    for file in (library.parent / "pkgconfig").glob("dftb*.pc"):
        found = re.search(r"(?m)^Version: (\S+)", file.read_text())
        if found:
            return found[1]
    return "unknown"


def import_module(library):
    """The module `dftbplus`.

    Raises:
        ProgramMissingError: It is neither on Python's path nor beside the library.
    """
    beside = sorted(library.parent.glob("python3*/site-packages"))
    if importlib.util.find_spec("dftbplus") is None:
        sys.path.extend(str(folder) for folder in beside)
    try:
        return importlib.import_module("dftbplus")
    except ImportError as error:
        raise ProgramMissingError(
            f"the library {library.name} is there, but not DFTB+'s Python module: {error}"
        ) from error


def input_text(symbols, charge, positions, settings, solver, mixer):
    """The input file: the settings of our engine, in DFTB+'s words. Positions in bohr serve as a placeholder."""
    from deltaqmmm.dftb.slater_koster import find_file

    species = sorted(set(symbols))
    rows = [
        f"{number + 1} {species.index(symbol) + 1} {x:.8f} {y:.8f} {z:.8f}"
        for number, (symbol, (x, y, z)) in enumerate(zip(symbols, 0.529177249 * positions, strict=True))
    ]
    return _INPUT.format(
        n_atoms=len(symbols),
        species=" ".join(species),
        atoms="\n".join(rows),
        tolerance=settings.scc_tolerance,
        charge=charge,
        derivatives="\n".join(f"{name} = {settings.hubbard_derivative(name)}" for name in species),
        damping=settings.damping_exponent,
        shells="\n".join(f'{name} = "{_SHELLS[settings.highest_shell(name)]}"' for name in species),
        folder=find_file(settings, species[0], species[0]).parent,
        solver=solver,
        mixer=mixer,
    )


class DFTBPlus:
    """DFTB+ on the frames of one replica, with the eigensolver and mixer that are fastest on the first of them.

    Args:
        frames_file: The recorded frames.
        symbols: Elements of the atoms.
        charge: Total charge, e.
        settings: The settings of our engine.
    """

    def __init__(self, frames_file, symbols, charge, settings):
        self._library = find_library()
        self._module = import_module(self._library)
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
        positions = self._frames.positions[0]
        words = (self._symbols, self._charge, positions, self._settings, self._solver, self._mixer)
        Path("dftb_in.hsd").write_text(input_text(*words))
        library = str(self._library.with_suffix(""))
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
            "version": version(self._library),
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
