"""D3 dispersion with Becke-Johnson damping, from the library tad-dftd3.

Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010), doi 10.1063/1.3382344; Grimme, Ehrlich, Goerigk, J.
Comput. Chem. 32, 1456 (2011), doi 10.1002/jcc.21759. Two-body terms only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import atomic_numbers
from tad_dftd3.disp import dftd3
from torch import Tensor

PARAMETERS_DFTB3 = {"s6": 1.0, "s8": 0.5883, "a1": 0.5719, "a2": 3.6017, "s9": 0.0}
"""Damping parameters of DFTB3, the same that DFTB+ takes by default and that s-dftd3 lists as "dftb3"."""


class D3Dispersion:
    """Dispersion energies of the frames of one molecule."""

    def __init__(self, symbols: Sequence[str], device: torch.device) -> None:
        """Prepare for atoms of the given elements."""
        self._numbers = torch.tensor([atomic_numbers[symbol] for symbol in symbols], device=device)
        self._parameters = {
            key: torch.tensor(value, dtype=torch.float64, device=device) for key, value in PARAMETERS_DFTB3.items()
        }

    def __call__(self, positions: Tensor) -> Tensor:
        """Energies, shape (B,), hartree, of positions (B, n, 3) in bohr; differentiable."""
        numbers = self._numbers.expand(len(positions), -1)
        energies: Tensor = dftd3(numbers, positions, self._parameters)
        return energies.sum(-1)
