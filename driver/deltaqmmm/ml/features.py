"""The input of the networks: invariants made of the sums over neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.monomials import derivative, first_row, n_rows, rank_of, rows_of

DIRECTION_RANKS = [slice(first_row(rank), n_rows(rank)) for rank in (1, 2)]
"""Rows of the sums over QM neighbours that make the directions, for the ranks of the sums over MM sites."""


def n_features(functions: SymmetryFunctions, n_elements: int, n_types: int) -> int:
    """How many features each atom has."""
    pairs = n_elements * (n_elements + 1) // 2
    count = n_elements * len(functions.qm_radial) + pairs * len(functions.angular_radial) * functions.angular_order
    directions = n_elements
    type_pairs = n_types * (n_types + 1) // 2
    for radial, rank in (
        (functions.mm_radial, functions.mm_rank),
        (functions.mm_near_radial, functions.mm_near_rank),
    ):
        each = n_types + directions * n_types + type_pairs
        if rank > 1:
            each += n_types + 2 * directions * n_types
        count += len(radial) * each
    return count


def combine(moments: Sequence[Tensor]) -> Tensor:
    """Join what describes each atom.

    Products of sums over neighbours are angular functions over pairs of them: of QM atoms sum_jk g(r_ij) g(r_ik) cos^p
    theta_jik, of a QM atom and an MM site, with the first of the radial functions g, sum_jk g(r_ij) w_k g'(r_ik)
    (r_ik cos theta_jik)^p, of two MM sites likewise. Every feature is smooth, and those of the surroundings are zero
    without MM sites.

    Args:
        moments: Sums of radial functions over QM atoms (..., n, F, 1, E), of directions to QM atoms (..., n, F', R, E),
            and over MM sites in the outer and in the inner shell (..., n, F'', R', T).

    Returns:
        Shape (..., n, `n_features`).
    """
    radial, angular, *shells = moments
    parts = [radial]
    first, second = torch.triu_indices(angular.shape[-1], angular.shape[-1], device=angular.device)
    for rank in range(1, rank_of(angular.shape[-2]) + 1):
        rows = angular[..., first_row(rank) : n_rows(rank), :]
        parts.append(torch.einsum("...fxs,...fxt->...fst", rows, rows)[..., first, second])
    linear, quadratic = (angular[..., 0, part, :].transpose(-1, -2) for part in DIRECTION_RANKS)
    for sums in shells:
        vectors = sums[..., 1:4, :]
        parts.append(sums[..., 0, :])
        parts.append(torch.einsum("...dx,...fxt->...dft", linear, vectors))
        first, second = torch.triu_indices(sums.shape[-1], sums.shape[-1], device=sums.device)
        parts.append(torch.einsum("...fxt,...fxs->...fts", vectors, vectors)[..., first, second])
        if sums.shape[-2] > n_rows(1):
            tensors = sums[..., first_row(2) : n_rows(2), :]
            own = rows_of(vectors, 2, axis=-2)[..., first_row(2) :, :]
            parts.append(torch.einsum("...dx,...fxt->...dft", quadratic, torch.cat([tensors, own], dim=-1)))
            # The trace: rows xx, yy and zz.
            parts.append(tensors[..., [0, 3, 5], :].sum(dim=-2))
    leading = radial.shape[:-3]
    return torch.cat([part.flatten(len(leading)) for part in parts], dim=-1)


def pull_back_features(moments: Sequence[Tensor], slopes: Tensor) -> list[Tensor]:
    """From derivatives by the features to those by the moments they are made of, for C energies of the same features.

    Args:
        moments: As `combine` takes them, (B, n, ...).
        slopes: dE/d(features), shape (C, B, n, `n_features`).

    Returns:
        dE/d(moments), each of the shape of its moments with C in front.
    """
    radial, angular, *shells = moments
    n_members, leading = len(slopes), radial.shape[:-3]
    start = 0

    def take(*shape: int) -> Tensor:
        nonlocal start
        stop = start + math.prod(shape)
        part = slopes[..., start:stop].reshape(n_members, *leading, *shape)
        start = stop
        return part

    by_radial = take(*radial.shape[-3:])
    by_angular = angular.new_zeros(n_members, *angular.shape)
    n_radial, n_types = angular.shape[-3], angular.shape[-1]
    for rank in range(1, rank_of(angular.shape[-2]) + 1):
        part = slice(first_row(rank), n_rows(rank))
        pairs = _symmetric(take(n_radial, n_types * (n_types + 1) // 2), n_types)
        by_angular[..., part, :] = torch.einsum("...fxt,c...fst->c...fxs", angular[..., part, :], pairs)
    linear, quadratic = (angular[..., 0, part, :].transpose(-1, -2) for part in DIRECTION_RANKS)
    by_linear, by_quadratic = (tensor.new_zeros(n_members, *tensor.shape) for tensor in (linear, quadratic))
    found = [by_radial, by_angular]
    for sums in shells:
        n_functions, n_sums, n_kinds = sums.shape[-3:]
        by_sums = sums.new_zeros(n_members, *sums.shape)
        vectors = sums[..., 1:4, :]
        by_sums[..., 0, :] = take(n_functions, n_kinds)
        with_directions = take(linear.shape[-2], n_functions, n_kinds)
        by_linear += torch.einsum("c...dft,...fxt->c...dx", with_directions, vectors)
        pairs = _symmetric(take(n_functions, n_kinds * (n_kinds + 1) // 2), n_kinds)
        by_vectors = torch.einsum("c...dft,...dx->c...fxt", with_directions, linear)
        by_vectors += torch.einsum("c...fts,...fxs->c...fxt", pairs, vectors)
        if n_sums > n_rows(1):
            tensors = sums[..., first_row(2) : n_rows(2), :]
            own = rows_of(vectors, 2, axis=-2)[..., first_row(2) :, :]
            both = take(quadratic.shape[-2], n_functions, 2 * n_kinds)
            by_quadratic += torch.einsum("c...dft,...fxt->c...dx", both, torch.cat([tensors, own], dim=-1))
            by_both = torch.einsum("c...dft,...dx->c...fxt", both, quadratic)
            by_tensors = by_both[..., :n_kinds]
            by_tensors[..., [0, 3, 5], :] += take(n_functions, n_kinds)[..., None, :]
            by_sums[..., first_row(2) : n_rows(2), :] = by_tensors
            table = derivative(2)[first_row(2) :, :, 1:].to(vectors)
            by_vectors += torch.einsum("c...frt,ryx,...fxt->c...fyt", by_both[..., n_kinds:], table, vectors)
        by_sums[..., 1:4, :] = by_vectors
        found.append(by_sums)
    for part, by_directions in zip(DIRECTION_RANKS, (by_linear, by_quadratic), strict=True):
        by_angular[..., 0, part, :] += by_directions.transpose(-1, -2)
    return found


def _symmetric(upper: Tensor, size: int) -> Tensor:
    """G + G^T of the upper triangle G of a matrix, given row by row: (..., P) to (..., size, size)."""
    matrix = upper.new_zeros(*upper.shape[:-1], size, size)
    first, second = torch.triu_indices(size, size, device=upper.device)
    matrix[..., first, second] = upper
    return matrix + matrix.transpose(-1, -2)
