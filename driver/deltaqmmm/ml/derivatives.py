"""Derivatives of the energies of a committee by sites and their charges, made on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from deltaqmmm.ml.surroundings import Surroundings


class SiteDerivatives(Protocol):
    """Derivatives of members' energies by sites and their charges, made on demand."""

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of M sums of the members with weights (M, C, B): by sites (M, B, K, 3), and by charges (M, B, K)."""

    def near(self, distance: float, weights: Tensor) -> Tensor:
        """Of M sums of the members with weights (M, C), by the sites near a QM atom.

        Args:
            distance: How near, bohr.
            weights: Shape (M, C).

        Returns:
            Shape (M, B, K', 3), filled up with zeros.
        """


@dataclass(frozen=True, eq=False)
class StoredDerivatives:
    """Derivatives that are there already.

    Attributes:
        mm_gradients: Shape (C, B, K, 3), hartree/bohr.
        charge_gradients: Shape (C, B, K), hartree/e.
    """

    mm_gradients: Tensor
    charge_gradients: Tensor

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        return (
            torch.einsum("mcb,cbkx->mbkx", weights.to(self.mm_gradients), self.mm_gradients),
            torch.einsum("mcb,cbk->mbk", weights.to(self.charge_gradients), self.charge_gradients),
        )

    def near(self, distance: float, weights: Tensor) -> Tensor:
        """See `SiteDerivatives`; gives all sites."""
        del distance
        return torch.einsum("mc,cbkx->mbkx", weights.to(self.mm_gradients), self.mm_gradients)


@dataclass(frozen=True, eq=False)
class MomentDerivatives:
    """Derivatives by the moments, and the surroundings that take them back to sites.

    Attributes:
        by_moment: Of both shells, shape (C, B, n, F, R, T).
        parts: Slices of the frames with their surroundings and the derivatives of weights by charges, (b, K).
    """

    by_moment: Sequence[Tensor]
    parts: Sequence[tuple[slice, Surroundings, Tensor]]

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        outer, inner = (
            torch.einsum("mcb,cbifxt->mbifxt", weights.to(gradients), gradients) for gradients in self.by_moment
        )
        by_site, by_charge = [], []
        for part, around, factors in self.parts:
            site, weight = around.pull_back(outer[:, part], inner[:, part])
            by_site.append(site)
            by_charge.append(weight * factors)
        return torch.cat(by_site, dim=1), torch.cat(by_charge, dim=1)

    def near(self, distance: float, weights: Tensor) -> Tensor:
        """See `SiteDerivatives`."""
        outer, inner = (
            torch.einsum("mc,cbifxt->mbifxt", weights.to(gradients), gradients) for gradients in self.by_moment
        )
        found = [around.pull_back_near(outer[:, part], inner[:, part], distance) for part, around, _ in self.parts]
        width = max(gradients.shape[2] for gradients in found)
        padded = [nn.functional.pad(gradients, (0, 0, 0, width - gradients.shape[2])) for gradients in found]
        return torch.cat(padded, dim=1)
