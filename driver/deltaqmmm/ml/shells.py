"""Sums over neighbours of an atom, and their derivatives.

For QM atom i, radial function f and type t of neighbours, with w_k the weight of neighbour k and d = r_k - R_i,

    M_i,f,p,t = sum_k w_k g_f(|d|) m_p(d)        or with m_p(d / |d|)

with m_p the monomials of `monomials.rows_of`: 1, the components, their products. The sums of 1 are the radial symmetry
functions G1, G2, G3; products of the others with each other are angular functions over pairs of neighbours, since
(d . d')^n is the scalar product of the monomials of rank n. Of the function "coulomb" g_f depends on the rank: f_c / r
for 1, f_c / r^3 for the components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deltaqmmm.ml.functions import COULOMB, RadialFunction, potential_and_field, radial_values_and_slopes
from deltaqmmm.ml.monomials import derivative, n_rows, raising, rows_of


@dataclass(frozen=True, eq=False)
class Shell:
    """Radial functions and monomials between n QM atoms and K neighbours in B frames, kept for the derivatives.

    Attributes:
        rank: The highest rank P of the monomials in the sums.
        coulomb: Whether it is of the function "coulomb" alone. Then values and slopes are of two functions, one for
            each rank, and all else is of one.
        values: g_f, shape (B, n, F, K).
        slopes: dg_f/d(r^2), shape (B, n, F, K), 1/bohr^2.
        vectors: d, shape (B, n, 3, K), bohr.
        rows: Monomials of d or of its direction, up to rank P or higher, shape (B, n, Q, K).
        weights: w_k, shape (B, K).
        types: 1 where neighbour k is of type t, shape (B, T, K).
        inverse: 1/|d| where the rows are of directions, shape (B, n, K), 1/bohr; None where they are of d.
    """

    rank: int
    coulomb: bool
    values: Tensor
    slopes: Tensor
    vectors: Tensor
    rows: Tensor
    weights: Tensor
    types: Tensor
    inverse: Tensor | None = None

    @classmethod
    def between(
        cls,
        functions: Sequence[RadialFunction],
        cutoff: float,
        rank: int,
        vectors: Tensor,
        squared: Tensor,
        weights: Tensor,
        types: Tensor,
        *,
        directions: bool = False,
    ) -> Shell:
        """Compute the radial functions.

        Args:
            functions: F radial functions.
            cutoff: Their cutoff, bohr.
            rank: The highest rank of the sums.
            vectors: d, shape (B, n, 3, K), bohr.
            squared: Their squared lengths, shape (B, n, K), bohr^2; more than the cutoff for what does not count.
            weights: Shape (B, K).
            types: One-hot, shape (B, T, K).
            directions: Take monomials of directions, without those for `jacobian`.
        """
        coulomb = COULOMB in functions
        if coulomb:
            values, slopes = potential_and_field(squared, cutoff)
        else:
            values, slopes = radial_values_and_slopes(functions, squared, cutoff)
        if directions:
            inverse = squared.rsqrt()
            rows = rows_of(vectors * inverse[:, :, None], rank, axis=2)
            return cls(rank, coulomb, values, slopes, vectors, rows, weights, types, inverse)
        return cls(rank, coulomb, values, slopes, vectors, rows_of(vectors, rank + 1, axis=2), weights, types)

    def moments(self) -> Tensor:
        """The sums M, shape (B, n, F, R, T), R the number of rows up to the rank."""
        return self._by_rank(self._sums(self.values, n_rows(self.rank)))

    def jacobian(self) -> Tensor:
        """Derivatives of the moments of atom i with respect to R_i, shape (B, n, F, R, T, 3); not of directions."""
        steep = self._sums(self.slopes, n_rows(self.rank + 1))
        plain = self._sums(self.values, n_rows(self.rank - 1))
        along = torch.einsum("ryc,bifct->bifrty", raising(self.rank).to(steep), steep)
        turning = torch.einsum("ryc,bifct->bifrty", derivative(self.rank).to(plain), plain)
        return self._by_rank(along.mul_(-2.0).sub_(turning))

    def by_pair(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives with respect to the moments to those with respect to each vector and each weight in it.

        Linear in its argument, and differentiable in it.

        Args:
            gradients: dE/d(moments) of C energies, shape (C, B, n, F, R, T).

        Returns:
            dE/dd without the factor w_k, shape (B, n, C, 3, K), and dE/dw_k, shape (B, n, C, K).
        """
        if self.coulomb:
            both = gradients.new_zeros(*gradients.shape[:3], 2, *gradients.shape[4:])
            both[:, :, :, 0, :1], both[:, :, :, 1, 1:] = gradients[:, :, :, 0, :1], gradients[:, :, :, 0, 1:]
            gradients = both
        n_members, n_frames, n_qm, _, n_moments, n_types = gradients.shape
        lower = n_rows(self.rank - 1)
        # What multiplies the gradients of the monomials, for each component and each monomial in them.
        turned = torch.einsum("cbifrt,ryp->cbifypt", gradients, derivative(self.rank).to(gradients))
        turned = turned.reshape(*gradients.shape[:4], 3 * lower, n_types)
        steep = self._spread(gradients, self.slopes)
        plain = self._spread(torch.cat([gradients, turned], dim=4), self.values)
        own, vectors = self.rows[:, :, None, :n_moments], self.vectors[:, :, None]
        by_weight = (plain[:, :, :, :n_moments] * own).sum(dim=3)
        by_vector = (2.0 * (steep * own).sum(dim=3, keepdim=True)) * vectors
        if lower > 0:
            rest = plain[:, :, :, n_moments:].reshape(n_frames, n_qm, n_members, 3, lower, self.rows.shape[-1])
            by_row = (rest * self.rows[:, :, None, None, :lower]).sum(dim=4)
            if self.inverse is not None:
                # Along itself a vector does not change its direction.
                inverse = self.inverse[:, :, None, None]
                by_row = by_row * inverse
                by_row = by_row - ((by_row * vectors).sum(dim=3, keepdim=True) * inverse.square()) * vectors
            by_vector = by_vector + by_row
        return by_vector, by_weight

    def pull_back(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives with respect to the moments to those with respect to neighbours and their weights.

        Args:
            gradients: dE/d(moments) of C energies, shape (C, B, n, F, R, T).

        Returns:
            dE/dr_k, shape (C, B, K, 3), and dE/dw_k, shape (C, B, K).
        """
        by_vector, by_weight = self.by_pair(gradients)
        by_neighbour = by_vector.sum(dim=1) * self.weights[:, None, None]
        return by_neighbour.permute(1, 0, 3, 2), by_weight.sum(dim=1).transpose(0, 1)

    def at(self, places: Tensor, weights: Tensor) -> Shell:
        """Only some of the neighbours, with other weights and without what `jacobian` needs.

        Args:
            places: Their numbers, shape (B, K').
            weights: Shape (B, K').
        """

        def chosen(tensor: Tensor) -> Tensor:
            index = places.reshape(len(places), *(1,) * (tensor.dim() - 2), -1)
            return tensor.gather(-1, index.expand(*tensor.shape[:-1], -1))

        return replace(self.without_jacobian().each(chosen), weights=weights)

    def first(self, count: int, weights: Tensor) -> Shell:
        """Only the first so many neighbours, with other weights and without what `jacobian` needs."""
        return replace(self.without_jacobian().each(lambda tensor: tensor[..., :count]), weights=weights)

    def without_jacobian(self) -> Shell:
        """Without the monomials that `jacobian` alone needs."""
        return replace(self, rows=self.rows[:, :, : n_rows(self.rank)])

    def each(self, function: Callable[[Tensor], Tensor]) -> Shell:
        """With something done to all its tensors."""
        changes: dict[str, Any] = {
            name: function(tensor) for name, tensor in vars(self).items() if isinstance(tensor, Tensor)
        }
        return replace(self, **changes)

    @classmethod
    def joined(cls, shells: Sequence[Shell], join: Callable[[Sequence[Tensor]], Tensor]) -> Shell:
        """The frames of several shells of the same functions, their tensors joined by a function."""
        names = [name for name, value in vars(shells[0]).items() if isinstance(value, Tensor)]
        every: dict[str, Any] = {name: join([getattr(shell, name) for shell in shells]) for name in names}
        return replace(shells[0], **every)

    def _by_rank(self, sums: Tensor) -> Tensor:
        """Sums over the radial functions (B, n, F, R, ...): of "coulomb" the part of each rank as one function's."""
        return torch.cat([sums[:, :, :1, :1], sums[:, :, 1:, 1:]], dim=3) if self.coulomb else sums

    def _sums(self, radial: Tensor, count: int) -> Tensor:
        """Sums of weighted radial functions times the first so many rows, shape (B, n, F, count, T)."""
        n_frames, n_qm, n_functions, _ = radial.shape
        rows = self.rows[:, :, :count]
        if self.types.shape[1] == 1:
            factors = rows * self.weights[:, None, None]
        else:
            typed = self.types * self.weights[:, None]
            factors = torch.einsum("bipk,btk->biptk", rows, typed).flatten(2, 3)
        sums = radial @ factors.transpose(-1, -2)
        return sums.reshape(n_frames, n_qm, n_functions, count, self.types.shape[1])

    def _spread(self, gradients: Tensor, radial: Tensor) -> Tensor:
        """Of (C, B, n, F, R, T), for each neighbour the sum over the functions, with its type: (B, n, C, R, K)."""
        n_members, n_frames, n_qm, _, n_moments, n_types = gradients.shape
        # One product of matrices for each pair of frame and QM atom, over all members, monomials and types.
        rows = gradients.permute(1, 2, 0, 4, 5, 3).flatten(2, 4)
        values = (rows @ radial).reshape(n_frames, n_qm, n_members, n_moments, n_types, radial.shape[-1])
        if n_types == 1:
            return values[:, :, :, :, 0]
        return (values * self.types[:, None, None, None]).sum(dim=4)
