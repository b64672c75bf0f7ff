"""The input of DFTB+: written from our settings, or the user's own file made ready."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.dftb.parameters import MolecularParameters
from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.dftb.slater_koster import find_file
from deltaqmmm.errors import ParameterError
from deltaqmmm.results import FloatArray

PARSER_VERSION = 12
"""Of DFTB+ 22.2; later releases still read it."""

_SHELLS = "spd"
_SPACING = 5.0
"""Angstrom between the atoms of the placeholder for the geometry."""
_INPUT = """\
{geometry}Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = {tolerance:.17g}
  MaxSCCIterations = {iterations}
  Charge = {charge}
{third_order}  MaxAngularMomentum {{
{shells}
  }}
  SlaterKosterFiles {{
{files}
  }}
  Filling = Fermi {{ Temperature [Hartree] = {temperature:.17g} }}
{start}{solution}}}
Analysis {{
  CalculateForces = Yes
  WriteBandOut = No
}}
Options {{
  WriteDetailedOut = No
  WriteCharges = No
}}
ParserOptions {{
  ParserVersion = {version}
  WriteHSDInput = No
}}
"""


@dataclass(frozen=True)
class Variation:
    """How the SCC is solved; the defaults are DFTB+'s own.

    Attributes:
        iterations: Most SCC cycles.
        temperature: k_B T of the Fermi filling, hartree.
        mixer: The block Mixer, in DFTB+'s words.
        solver: The block Solver, in DFTB+'s words.
        start: Gross charges to start from, shape (n,), e; None for neutral atoms.
    """

    iterations: int
    temperature: float
    mixer: str | None = None
    solver: str | None = None
    start: FloatArray | None = None


def write_input(
    symbols: Sequence[str],
    charge: int,
    parameters: MolecularParameters,
    settings: DFTBSettings,
    variation: Variation,
) -> str:
    """The text of an input for our settings; atoms on a line stand for the geometry, which every frame brings.

    Args:
        symbols: Elements of the n atoms.
        charge: Total charge, e.
        parameters: Of these atoms.
        settings: Model, parameters and tolerance. Their dispersion is left to the caller.
        variation: How the SCC is solved.
    """
    elements = sorted(set(symbols))
    highest = dict(zip(symbols, parameters.highest_shells, strict=True))
    files = [f'    {a}-{b} = "{_quotable(find_file(settings, a, b))}"' for a in elements for b in elements]
    third_order = start = ""
    if settings.third_order:
        derivatives = dict(zip(symbols, parameters.hubbard_derivatives, strict=True))
        lines = "\n".join(f"    {element} = {derivatives[element]:.17g}" for element in elements)
        third_order = f"  ThirdOrderFull = Yes\n  HubbardDerivs {{\n{lines}\n  }}\n"
        if settings.damping_exponent is not None:
            third_order += f"  HCorrection = Damping {{ Exponent = {settings.damping_exponent:.17g} }}\n"
    if variation.start is not None:
        lines = "\n".join(f"    {value:.17g}" for value in variation.start)
        start = f"  InitialCharges {{ AllAtomCharges {{\n{lines}\n  }} }}\n"
    return _INPUT.format(
        geometry=placeholder(symbols),
        tolerance=settings.scc_tolerance,
        iterations=variation.iterations,
        charge=charge,
        third_order=third_order,
        shells="\n".join(f'    {element} = "{_SHELLS[highest[element]]}"' for element in elements),
        files="\n".join(files),
        temperature=variation.temperature,
        start=start,
        solution="".join(
            f"  {name} = {words}\n"
            for name, words in (("Solver", variation.solver), ("Mixer", variation.mixer))
            if words
        ),
        version=PARSER_VERSION,
    )


def placeholder(symbols: Sequence[str]) -> str:
    """A block Geometry with these elements in a line."""
    elements = sorted(set(symbols))
    rows = "\n".join(
        f"{number + 1} {elements.index(symbol) + 1} {_SPACING * number:.1f} 0.0 0.0"
        for number, symbol in enumerate(symbols)
    )
    return f"Geometry = GenFormat {{\n{len(symbols)} C\n{' '.join(elements)}\n{rows}\n}}\n"


def read_user_input(file: Path, symbols: Sequence[str]) -> str:
    """The user's input as it is; a block Geometry is added where it has none.

    Raises:
        ParameterError: The file cannot be read.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{file} cannot be read as the input of DFTB+ ({error}).") from error
    # It may also come in with a file that is included as a part of the input ("<<+").
    has_geometry = re.search(r"(?im)^\s*[+*/!]?geometry\b", text) or "<<+" in text
    return text if has_geometry else f"{text}\n{placeholder(symbols)}"


def _quotable(file: Path) -> Path:
    if '"' in str(file):
        raise ParameterError(f"DFTB+ cannot read Slater-Koster files from a path with a quotation mark: {file}.")
    return file
