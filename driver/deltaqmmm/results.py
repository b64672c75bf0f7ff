"""What every term of the potential, and their sum, gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Energies and their derivatives for a batch of B frames of N atoms, in atomic units.

    Attributes:
        energies: Potential energies, shape (B,), hartree.
        forces: Minus the gradient with respect to the positions, shape (B, N, 3), hartree/bohr.
        strain_derivatives: dE/d(strain), shape (B, 3, 3), hartree: element (a, b) is the sum over atoms (and cell
            vectors) of r_a dE/dr_b under r -> r (1 + strain). None where it was not asked for.
        terms: Named contributions to the energy, each of shape (B,), hartree.
        extras: Further named quantities, first axis B (QM charges in e, dipole in e bohr, SCC iterations, ...).
    """

    energies: FloatArray
    forces: FloatArray
    strain_derivatives: FloatArray | None
    terms: Mapping[str, FloatArray] = field(default_factory=dict)
    extras: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
