"""All parameters that a molecule needs, collected from its Slater-Koster files and the settings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.dftb.slater_koster import RepulsiveSpline, SlaterKosterFile, find_file, read_slater_koster
from deltaqmmm.errors import ParameterError
from deltaqmmm.results import FloatArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MolecularParameters:
    """Parameters of the n atoms of a molecule, hartree and e.

    Attributes:
        files: Slater-Koster files by ordered pair of elements.
        highest_shells: Highest angular momentum of each atom.
        onsite: Shell energies of each atom, each of shape (3,).
        hubbard: Hubbard value of each atom (of its s shell), shape (n,).
        hubbard_derivatives: dU/dq of each atom, shape (n,); zero for DFTB2.
        electrons: Valence electrons of the neutral atoms, shape (n,).
    """

    files: dict[tuple[str, str], SlaterKosterFile]
    highest_shells: tuple[int, ...]
    onsite: tuple[FloatArray, ...]
    hubbard: FloatArray
    hubbard_derivatives: FloatArray
    electrons: FloatArray


def load_parameters(symbols: Sequence[str], settings: DFTBSettings) -> MolecularParameters:
    """Read what the elements of a molecule need.

    Raises:
        ParameterError: A file is missing or malformed, or an element has no Hubbard derivative.
    """
    elements = sorted(set(symbols))
    files = {}
    for first in elements:
        for second in elements:
            path = find_file(settings, first, second)
            files[first, second] = read_slater_koster(path, homonuclear=first == second)
    for (first, second), file in files.items():
        if file.spacing != files[second, first].spacing:
            raise ParameterError(f"the files {first}-{second}.skf and {second}-{first}.skf have different grid steps.")
        if isinstance(file.repulsion, RepulsiveSpline) and file.repulsion.head[0] <= 0.0:
            logger.warning(
                "The repulsion in %s-%s.skf grows with distance below %.2f bohr (spline head a1 = %g): atoms nearer "
                "than that get nonsense energies. Use another set for this pair.",
                first,
                second,
                file.repulsion.knots[0],
                file.repulsion.head[0],
            )
    atoms = {}
    highest = {}
    for element in elements:
        atom = files[element, element].atom
        if atom is None:
            raise ParameterError(f"{element}-{element}.skf holds no atomic parameters.")
        atoms[element] = atom
        shell = settings.highest_shell(element)
        highest[element] = int(np.flatnonzero(atom.occupations).max()) if shell is None else shell
    derivatives = {
        element: settings.hubbard_derivative(element) if settings.third_order else 0.0 for element in elements
    }
    return MolecularParameters(
        files=files,
        highest_shells=tuple(highest[symbol] for symbol in symbols),
        onsite=tuple(atoms[symbol].onsite_energies for symbol in symbols),
        hubbard=np.array([atoms[symbol].hubbard[0] for symbol in symbols]),
        hubbard_derivatives=np.array([derivatives[symbol] for symbol in symbols]),
        electrons=np.array([atoms[symbol].occupations.sum() for symbol in symbols]),
    )
