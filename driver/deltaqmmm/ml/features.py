"""The input of the networks: invariants made of what structure and surroundings give."""

from __future__ import annotations

import torch
from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions


def n_features(functions: SymmetryFunctions, n_elements: int, n_types: int) -> int:
    """How many features each atom has."""
    pairs = n_elements * (n_elements + 1) // 2
    inside = n_elements * len(functions.qm_radial)
    inside += pairs * len(functions.angular_radial) * 2 * len(functions.angular_zetas)
    directions = n_elements * len(functions.directions)
    type_pairs = n_types * (n_types + 1) // 2
    return inside + len(functions.mm_radial) * (n_types + directions * n_types + type_pairs)


def combine(structure: Tensor, directions: Tensor, moments: Tensor) -> Tensor:
    """Join what describes each atom.

    The scalar products of the vector sums with the directions of QM neighbours and with each other are angular
    functions over QM-MM and MM-MM pairs: sum_jk h(r_ij) w_k g(r_ik) r_ik cos theta_jik, and the like. Every feature is
    smooth, and those of the surroundings are zero without MM sites.

    Args:
        structure: Functions among the QM atoms, shape (..., n, G).
        directions: Weighted directions to the QM neighbours, shape (..., n, D, 3).
        moments: Sums over MM sites, shape (..., n, F, 4, T); see `surroundings.Surroundings`.

    Returns:
        Shape (..., n, `n_features`).
    """
    sums, vectors = moments[..., 0, :], moments[..., 1:, :]
    with_neighbours = torch.einsum("...dx,...fxt->...dft", directions, vectors)
    with_each_other = torch.einsum("...fxt,...fxs->...fts", vectors, vectors)
    first, second = torch.triu_indices(moments.shape[-1], moments.shape[-1], device=moments.device)
    parts = (sums, with_neighbours, with_each_other[..., first, second])
    leading = structure.shape[:-1]
    return torch.cat([structure, *(part.reshape(*leading, -1) for part in parts)], dim=-1)
