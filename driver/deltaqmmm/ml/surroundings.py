"""Sums over the MM sites around each QM atom, and their derivatives.

For QM atom i, radial function f and MM type t, with w_k the weight of site k and d = r_k - R_i,

    S_i,f,t = sum_k w_k g_f(|d|)        V_i,f,t = sum_k w_k g_f(|d|) d

S are the radial symmetry functions G1, G2, G3 over MM sites. V are vectors; their products with each other and with
the directions of QM neighbours are angular functions over MM-MM and QM-MM pairs. Both are zero without MM sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.ml.functions import RadialFunction, radial_values_and_slopes


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Radial functions between n QM atoms and K MM sites in B frames, kept for the derivatives.

    Attributes:
        values: g_f, shape (B, n, F, K).
        slopes: dg_f/d(r^2), shape (B, n, F, K), 1/bohr^2.
        vectors: 1 and the components of d, shape (B, n, 4, K), bohr.
        weights: w_k, shape (B, K).
        types: 1 where site k is of type t, shape (B, T, K).
    """

    values: Tensor
    slopes: Tensor
    vectors: Tensor
    weights: Tensor
    types: Tensor

    @classmethod
    def between(
        cls,
        functions: Sequence[RadialFunction],
        cutoff: float,
        qm_positions: Tensor,
        mm_positions: Tensor,
        weights: Tensor,
        types: Tensor,
    ) -> Surroundings:
        """Compute the radial functions.

        Args:
            functions: F radial functions.
            cutoff: Their cutoff, bohr.
            qm_positions: Shape (B, n, 3), bohr.
            mm_positions: Shape (B, K, 3), bohr.
            weights: Shape (B, K).
            types: One-hot, shape (B, T, K).
        """
        vectors = mm_positions.transpose(1, 2)[:, None] - qm_positions[..., None]
        values, slopes = radial_values_and_slopes(functions, (vectors * vectors).sum(dim=2), cutoff)
        return cls(values, slopes, torch.cat([torch.ones_like(vectors[:, :, :1]), vectors], dim=2), weights, types)

    def moments(self) -> Tensor:
        """S and V, shape (B, n, F, 4, T): S first, then the components of V (bohr)."""
        n_frames, n_qm, n_functions, n_sites = self.values.shape
        n_types = self.types.shape[1]
        typed = self.types * self.weights[:, None]
        factors = torch.einsum("bixk,btk->bixtk", self.vectors, typed).reshape(n_frames, n_qm, 4 * n_types, n_sites)
        sums = self.values @ factors.transpose(-1, -2)
        return sums.reshape(n_frames, n_qm, n_functions, 4, n_types)

    def jacobian(self) -> Tensor:
        """Derivatives of the moments of atom i with respect to R_i, shape (B, n, F, 4, T, 3)."""
        n_frames, n_qm, n_functions, n_sites = self.values.shape
        n_types = self.types.shape[1]
        typed = self.types * self.weights[:, None]
        products = torch.einsum("bixk,biyk,btk->bixtyk", self.vectors, self.vectors[:, :, 1:], typed)
        products = products.reshape(n_frames, n_qm, 12 * n_types, n_sites)
        steep = (self.slopes @ products.transpose(-1, -2)).reshape(n_frames, n_qm, n_functions, 4, n_types, 3)
        plain = (self.values @ typed[:, None].transpose(-1, -2)).reshape(n_frames, n_qm, n_functions, 1, n_types, 1)
        unit = torch.eye(3, dtype=plain.dtype, device=plain.device)[:, None]
        steep *= 2.0
        steep[:, :, :, 1:] += plain * unit
        return steep.neg_()

    def pull_back(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives with respect to the moments to those with respect to sites and their weights.

        Linear in its argument, and differentiable in it.

        Args:
            gradients: dE/d(moments) of C energies, shape (C, B, n, F, 4, T).

        Returns:
            dE/dr_k, shape (C, B, K, 3), and dE/dw_k, shape (C, B, K).
        """
        n_members, n_frames, n_qm, n_functions, _, n_types = gradients.shape
        # One product of matrices for each pair of frame and QM atom, over all members, components and types.
        rows = gradients.permute(1, 2, 0, 4, 5, 3).reshape(n_frames, n_qm, -1, n_functions)
        shape = (n_frames, n_qm, n_members, 4, n_types, -1)
        steep = self._of_type((rows @ self.slopes).reshape(shape))
        plain = self._of_type((rows @ self.values).reshape(shape))
        vectors = self.vectors[:, :, None]
        along = (steep * vectors).sum(dim=3)
        by_weight = (plain * vectors).sum(dim=(1, 3))
        by_vector = 2.0 * (along[:, :, :, None] * vectors[:, :, :, 1:]).sum(dim=1) + plain[:, :, :, 1:].sum(dim=1)
        by_vector = by_vector * self.weights[:, None, None]
        return by_vector.permute(1, 0, 3, 2), by_weight.permute(1, 0, 2)

    def nearer(self, distance: float) -> Surroundings:
        """Only the sites nearer than a distance (bohr) to any QM atom, padded with sites of weight 0."""
        squared = self.vectors[:, :, 1:].square().sum(dim=2).amin(dim=1)
        near = (squared < distance**2) & (self.weights != 0.0)
        width = max(1, int(near.sum(dim=1).max())) if near.shape[1] > 0 else 0
        places = near.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        n_qm, n_functions = self.values.shape[1:3]
        return Surroundings(
            self.values.gather(3, places[:, None, None].expand(-1, n_qm, n_functions, -1)),
            self.slopes.gather(3, places[:, None, None].expand(-1, n_qm, n_functions, -1)),
            self.vectors.gather(3, places[:, None, None].expand(-1, n_qm, 4, -1)),
            self.weights.gather(1, places) * near.gather(1, places),
            self.types.gather(2, places[:, None].expand(-1, self.types.shape[1], -1)),
        )

    def _of_type(self, values: Tensor) -> Tensor:
        """Of (B, n, C, 4, T, K), for each site the entry of its type: (B, n, C, 4, K)."""
        if self.types.shape[1] == 1:
            return values[:, :, :, :, 0]
        return (values * self.types[:, None, None, None]).sum(dim=4)
