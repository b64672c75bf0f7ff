"""Anderson mixing of the charges of a batch of frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

REGULARISATION = 1e-5
"""Of the normal equations; see below."""


@dataclass
class AndersonMixer:
    """Anderson's method.

    J. ACM 12, 547 (1965), doi 10.1145/321296.321305; the notation is that of Eyert, J. Comput. Phys. 124, 271 (1996),
    doi 10.1006/jcph.1996.0059.

    With F(q) = q_out - q_in it takes the combination of the last inputs that makes the linearly predicted F smallest,
    and steps along that F. Every frame has its own combination.

    Attributes:
        fraction: Share of the remaining F that is added.
        depth: Earlier inputs that are remembered.
        regularisation: Weight added to the unit diagonal of the normalised normal equations, which keeps nearly
            parallel histories from blowing up.
    """

    fraction: float = 0.5
    depth: int = 8
    regularisation: float = REGULARISATION
    _inputs: list[Tensor] = field(default_factory=list)
    _residuals: list[Tensor] = field(default_factory=list)

    def keep(self, frames: Tensor) -> None:
        """Forget all frames but these, given as a boolean mask or as indices into the present batch."""
        self._inputs = [q[frames] for q in self._inputs]
        self._residuals = [f[frames] for f in self._residuals]

    def next(self, charges: Tensor, residual: Tensor, fraction: Tensor | None = None) -> Tensor:
        """The next input charges.

        Args:
            charges: Input of the last cycle, shape (B, n), e.
            residual: Output minus input of the last cycle, shape (B, n), e.
            fraction: In place of the mixer's own, for each frame, shape (B, 1).
        """
        mixed_charges, mixed_residual = charges, residual
        if self._inputs:
            # (B, m, n): how input and residual differed in earlier cycles.
            residual_change = residual.unsqueeze(1) - torch.stack(self._residuals, dim=1)
            charge_change = charges.unsqueeze(1) - torch.stack(self._inputs, dim=1)
            # Rows of unit length make the normal matrix independent of how small the residuals have become.
            length = residual_change.norm(dim=-1, keepdim=True).clamp(min=1e-150)
            residual_change, charge_change = residual_change / length, charge_change / length
            normal = residual_change @ residual_change.transpose(1, 2)
            normal.diagonal(dim1=1, dim2=2).add_(self.regularisation)
            weights = torch.linalg.solve_ex(normal, residual_change @ residual.unsqueeze(-1)).result
            mixed_charges = charges - (weights * charge_change).sum(1)
            mixed_residual = residual - (weights * residual_change).sum(1)
        self._inputs = [*self._inputs[-self.depth + 1 :], charges]
        self._residuals = [*self._residuals[-self.depth + 1 :], residual]
        return mixed_charges + (self.fraction if fraction is None else fraction) * mixed_residual
