"""What DFTB+ understood of the user's input, and what of it cannot go with an external potential."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ase.data import atomic_masses, atomic_numbers

from deltaqmmm.errors import ParameterError
from deltaqmmm.results import FloatArray
from deltaqmmm.units import DALTON

_MASS_TOLERANCE = 0.3
"""Dalton: elements are told by their masses, and those of parameter files are of tables of other years."""

_ENTRY = re.compile(r"^\s*([A-Za-z]\w*)(?:\s*\[[^]]*\])?\s*=\s*(.*?)\s*$")


@dataclass(frozen=True)
class _Refusal:
    """A setting that cannot be used.

    Attributes:
        key: Path of its block or value in the processed input, in lower case.
        allowed: The values, in lower case, with which it is no obstacle; a block that is empty never is one.
        reason: Why, and what to do.
    """

    key: str
    allowed: tuple[str, ...]
    reason: str


_REFUSALS = (
    _Refusal("hamiltonian/scc", ("yes",), "without it the charges do not feel the external potential. Set SCC = Yes."),
    _Refusal(
        "hamiltonian/convergentscconly",
        ("yes",),
        "DFTB+ would give back unconverged energies without saying so, and nothing unconverged may leave. Remove it.",
    ),
    _Refusal("reks", (), "DFTB+ has REKS in the field of point charges only, not in an external potential."),
    _Refusal(
        "excitedstate",
        (),
        "the energy is that of the ground state and the charges are those of the excited one, so that they are not "
        "its derivative by the external potential. Remove the block.",
    ),
    _Refusal(
        "hamiltonian/solvation",
        (),
        "the surroundings of the QM region are the MM atoms, and DFTB+'s solvent models do not take the external "
        "potential that these give. Remove the block.",
    ),
    _Refusal(
        "hamiltonian/electricfield",
        (),
        "a field of the input would act on the QM region alone, and its charges would stay where they are and get no "
        "forces: the field of the MM charges comes through the external potential. Remove the block.",
    ),
    _Refusal(
        "hamiltonian/atomsitepotential",
        (),
        "a potential of the input would act on the QM region alone: that of the MM charges comes through the external "
        "potential. Remove the block.",
    ),
    _Refusal("hamiltonian/mdftb", (), "DFTB+ has no multipole expansion in the field of external charges."),
    _Refusal(
        "hamiltonian/filling/fixedfermilevel",
        (),
        "the number of electrons would change from frame to frame. Give a temperature alone.",
    ),
    _Refusal("hamiltonian/kpointsandweights", (), "the QM region is isolated: its geometry must not be periodic."),
    _Refusal("driver", (), "i-PI moves the atoms. Remove the block (extended Lagrangians are part of it)."),
    _Refusal("transport", (), "the QM region is isolated. Remove the block."),
)


def check_user_input(
    file: Path,
    processed: str | None,
    n_atoms: int,
    masses: FloatArray | None,
    symbols: Sequence[str],
    charge: int,
) -> float | None:
    """Refuse an input whose results would not be those of the QM region in its external potential.

    Args:
        file: The user's input, for messages.
        processed: What DFTB+ made of it.
        n_atoms: Number of atoms in its geometry.
        masses: Their masses, atomic units; None where DFTB+ does not tell them.
        symbols: Elements of the QM region.
        charge: Total charge of the QM region, e.

    Returns:
        Its SCC tolerance, e, where DFTB+ tells it.

    Raises:
        ParameterError: A setting is not possible here, or it is for another molecule.
    """
    if processed is None:
        raise ParameterError(
            f"{file}: has WriteHSDInput = No, but what DFTB+ understood must be looked through. Remove that setting "
            "(nothing is written beside your input)."
        )
    found = entries(processed)
    for refusal in _REFUSALS:
        value = _given(found, refusal.key)
        if value is not None and value.lower() not in refusal.allowed:
            name = refusal.key.rpartition("/")[2]
            raise ParameterError(f"{file}: {_spelt(processed, name)} = {value or '{...}'}: {refusal.reason}")
    forces = [found.get(f"analysis/{name}", "").lower() for name in ("calculateforces", "printforces")]
    if "yes" not in forces:
        raise ParameterError(
            f"{file}: asks for no forces. Add Analysis {{ PrintForces = Yes }}, or CalculateForces = Yes with a "
            "ParserVersion below 14."
        )
    given = found.get("hamiltonian/charge", "0")
    if abs(float(given) - charge) > 1e-6:
        raise ParameterError(
            f"{file}: Charge = {float(given):g}, but the QM region has the charge {charge}: correct [qm] charge or "
            "the file."
        )
    _check_atoms(file, n_atoms, masses, symbols)
    tolerance = found.get("hamiltonian/scctolerance")
    return None if tolerance is None else float(tolerance)


def entries(processed: str) -> Mapping[str, str]:
    """Values by path.

    Values are without quotes, paths in lower case. Of a block the value is its type, if any, and "data" in it the last
    line of its data. The text is in the plain form in which DFTB+ writes: one value, one opening or one closing brace
    in a line.
    """
    found: dict[str, str] = {}
    path: list[str] = []
    for line in processed.splitlines():
        entry = _ENTRY.match(line)
        if entry is not None:
            name, value = entry[1].lower(), entry[2]
            opens = value.endswith("{")
            value = value.removesuffix("{").removesuffix("{}").strip().strip('"')
            key = "/".join([*path, name])
            if opens:
                path.append(name)
            found[key] = value
        elif line.strip() == "}" and path:
            path.pop()
        elif line.strip():
            found["/".join([*path, "data"])] = line.strip()
    return found


def _given(found: Mapping[str, str], key: str) -> str | None:
    """The value or type of what is given; None where it is not, or is an empty block."""
    inside = any(name.startswith(f"{key}/") for name in found)
    value = found.get(key)
    return None if value is None or value.lower() == "none" or (value == "" and not inside) else value


def _spelt(processed: str, name: str) -> str:
    """A name as DFTB+ writes it."""
    found = re.search(rf"(?im)^\s*({name})\b", processed)
    return found[1] if found else name


def _check_atoms(file: Path, n_atoms: int, masses: FloatArray | None, symbols: Sequence[str]) -> None:
    if n_atoms != len(symbols):
        raise ParameterError(
            f"{file}: its geometry has {n_atoms} atoms, and the QM region has {len(symbols)}: it must hold the atoms "
            "of the QM region in the order of the topology (positions do not matter). Without a block Geometry it is "
            "made for you."
        )
    if masses is None:
        return
    for index, (symbol, mass) in enumerate(zip(symbols, masses / DALTON, strict=True)):
        expected = float(atomic_masses[atomic_numbers[symbol]])
        if abs(mass - expected) > _MASS_TOLERANCE:
            raise ParameterError(
                f"{file}: atom {index + 1} of its geometry has a mass of {mass:.2f}, and that of the QM region is "
                f"{symbol} ({expected:.2f}): the atoms must stand in the order of the topology, and masses of their "
                "own are i-PI's to give. Without a block Geometry it is made for you."
            )
