"""The MM sites around the QM atoms, in two shells.

The outer shell reaches over all sites with few functions; the inner one has more of them, and of a higher rank, for the
few sites near the QM region.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.shells import Shell


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Both shells of B frames.

    Attributes:
        outer: Over all K sites.
        inner: Over the K' sites near the QM region, the nearest first, padded with sites of weight 0.
        places: Numbers of the sites of the inner shell, shape (B, K').
        distances: From these sites to the nearest QM atom, shape (B, K'), bohr.
    """

    outer: Shell
    inner: Shell
    places: Tensor
    distances: Tensor

    @classmethod
    def between(
        cls, functions: SymmetryFunctions, qm_positions: Tensor, mm_positions: Tensor, weights: Tensor, types: Tensor
    ) -> Surroundings:
        """Compute the radial functions.

        Args:
            functions: Which ones.
            qm_positions: Shape (B, n, 3), bohr.
            mm_positions: Shape (B, K, 3), bohr.
            weights: Shape (B, K).
            types: One-hot, shape (B, T, K).
        """
        vectors = mm_positions.transpose(1, 2)[:, None] - qm_positions[..., None]
        squared = (vectors * vectors).sum(dim=2)
        nearest = squared.amin(dim=1)
        width = int((nearest < functions.mm_near_cutoff**2).sum(dim=1).amax()) if nearest.numel() > 0 else 0
        nearest, places = nearest.topk(width, dim=1, largest=False, sorted=True)
        n_qm = qm_positions.shape[1]
        inner = Shell.between(
            functions.mm_near_radial,
            functions.mm_near_cutoff,
            functions.mm_near_rank,
            vectors.gather(3, places[:, None, None].expand(-1, n_qm, 3, -1)),
            squared.gather(2, places[:, None].expand(-1, n_qm, -1)),
            weights.gather(1, places) * (nearest < functions.mm_near_cutoff**2),
            types.gather(2, places[:, None].expand(-1, types.shape[1], -1)),
        )
        outer = Shell.between(
            functions.mm_radial, functions.mm_cutoff, functions.mm_rank, vectors, squared, weights, types
        )
        return cls(outer, inner, places, nearest.sqrt())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Of the outer and of the inner shell; see `Shell.moments`."""
        return self.outer.moments(), self.inner.moments()

    def jacobians(self) -> tuple[Tensor, Tensor]:
        """Of the outer and of the inner shell; see `Shell.jacobian`."""
        return self.outer.jacobian(), self.inner.jacobian()

    def pull_back(self, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives by the moments of both shells to those by the K sites and weights; see `Shell.pull_back`."""
        return pull_back(self.outer, self.inner, self.places, outer, inner)

    def pull_back_near(self, outer: Tensor, inner: Tensor, distance: float) -> Tensor:
        """The same for the sites of the inner shell within a distance (bohr), by their positions: (C, B, K'', 3)."""
        near = self.distances < distance
        width = int(near.sum(dim=1).amax()) if near.numel() > 0 else 0
        weights = (self.inner.weights * near)[:, :width]
        outer_near = self.outer.at(self.places[:, :width], weights)
        return outer_near.pull_back(outer)[0] + self.inner.first(width, weights).pull_back(inner)[0]


def pull_back(outer: Shell, inner: Shell, places: Tensor, by_outer: Tensor, by_inner: Tensor) -> tuple[Tensor, Tensor]:
    """From derivatives by the moments of two shells to those by the neighbours of the outer one.

    Args:
        outer: Over K sites.
        inner: Over K' of them.
        places: Which, shape (B, K').
        by_outer: dE/d(moments) of the outer shell, shape (C, B, n, F, R, T).
        by_inner: Of the inner shell, likewise.

    Returns:
        dE/dr_k, shape (C, B, K, 3), and dE/dw_k, shape (C, B, K).
    """
    by_site, by_weight = outer.pull_back(by_outer)
    near_site, near_weight = inner.pull_back(by_inner)
    places = places.expand(len(near_weight), -1, -1)
    by_weight = by_weight.scatter_add(2, places, near_weight)
    return by_site.scatter_add(2, places[..., None].expand(-1, -1, -1, 3), near_site), by_weight
