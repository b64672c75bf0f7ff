"""D3 dispersion with Becke-Johnson damping, from the library tad-dftd3.

Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010), doi 10.1063/1.3382344; Grimme, Ehrlich, Goerigk, J.
Comput. Chem. 32, 1456 (2011), doi 10.1002/jcc.21759. Two-body terms only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor


@contextmanager
def _without_dynamo() -> Iterator[None]:
    """Let nothing import torch's compiler of Python code, which takes longer to import than torch itself.

    The library imports it to ask whether it is being compiled, and asks in another way where it is not there.
    """
    modules: dict[str, Any] = sys.modules
    missing = "torch._dynamo" not in modules
    if missing:
        # By this Python says that there is no such module.
        modules["torch._dynamo"] = None
    try:
        yield
    finally:
        if missing:
            del modules["torch._dynamo"]


with _without_dynamo():
    from tad_dftd3 import data
    from tad_dftd3.cutoff import Cutoff
    from tad_dftd3.disp import dispersion
    from tad_dftd3.model import gaussian_weight, weight_references
    from tad_dftd3.ncoord import coordination_number, exp_count
    from tad_dftd3.reference import Reference

PARAMETERS_DFTB3 = {"s6": 1.0, "s8": 0.5883, "a1": 0.5719, "a2": 3.6017, "s9": 0.0}
"""Damping parameters of DFTB3, the same that DFTB+ takes by default and that s-dftd3 lists as "dftb3"."""


class D3Dispersion:
    """Dispersion energies of the frames of one molecule: what the library's `dftd3` computes from its parts.

    What does not depend on positions is prepared once; that took half of the time. The sum over pairs of reference
    systems is done one after the other, without an array of all pairs of them for all pairs of atoms.
    """

    def __init__(self, symbols: Sequence[str], device: torch.device) -> None:
        """Prepare for atoms of the given elements."""
        numbers = torch.tensor([atomic_numbers[symbol] for symbol in symbols], device=device)
        self._numbers = numbers
        self._reference = Reference(device=device, dtype=torch.float64)
        self._cutoff = Cutoff(device=device, dtype=torch.float64)
        self._expectations = data.R4R2(device=device, dtype=torch.float64)[numbers]
        # C6 of atom i in state a and atom j in state b, shape (n, S, n, S).
        self._coefficients = self._reference.c6[numbers[:, None], numbers[None]].transpose(1, 2).contiguous()
        self._parameters = {
            key: torch.tensor(value, dtype=torch.float64, device=device) for key, value in PARAMETERS_DFTB3.items()
        }

    def __call__(self, positions: Tensor) -> Tensor:
        """Energies, shape (B,), hartree, of positions (B, n, 3) in bohr; differentiable."""
        shape = positions.shape[:2]
        numbers = self._numbers.expand(shape)
        cutoff = self._cutoff
        counts = coordination_number(numbers, positions, counting_function=exp_count, cutoff=cutoff.cn)
        weights = weight_references(numbers, counts, self._reference, gaussian_weight)
        halves = torch.einsum("iajb,fjb->fiaj", self._coefficients, weights)
        c6 = (halves * weights[..., None]).sum(2)
        expectations = self._expectations.expand(shape)
        energies: Tensor = dispersion(numbers, positions, self._parameters, c6, r4r2=expectations, cutoff=cutoff)
        return energies.sum(-1)

    def with_gradients(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies, shape (B,), hartree, and their gradients, shape (B, n, 3), hartree/bohr; neither is recorded.

        Args:
            positions: Shape (B, n, 3), bohr.
        """
        leaf = positions.detach().requires_grad_()
        with torch.enable_grad():
            energies = self(leaf)
            (gradients,) = torch.autograd.grad(energies.sum(), leaf)
        return energies.detach(), gradients
