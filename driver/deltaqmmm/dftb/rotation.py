r"""Slater-Koster transformation: from integrals along the bond to blocks between shells, for s, p and d.

With n the unit vector from the first atom to the second, a shell l is described in the frame of the bond by its sigma
vector and its pi vectors,

    s:  sigma = 1
    p:  sigma_i = n_i                      pi_i = e_i - n_i n
    d:  sigma_m = n.T^m n                  pi_m = sqrt(4/3) (T^m n - sigma_m n)

where T^m are the five symmetric traceless matrices of the real d functions with tr(T^m T^m') = 3/2 delta. A block is
then

    <l1 i|H|l2 j> = V_sigma sigma_i sigma_j + V_pi pi_i . pi_j + V_delta (delta_ij - sigma_i sigma_j - pi_i . pi_j)

which is the table of Slater and Koster, Phys. Rev. 94, 1498 (1954), doi 10.1103/PhysRev.94.1498, without its case by
case listing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Channel = tuple[int, int, int]
"""(l1, l2, m): shells of the first and the second atom, and the projection (0 sigma, 1 pi, 2 delta)."""


def channels(highest_first: int, highest_second: int) -> list[Channel]:
    """The integrals between two atoms with shells up to the given ones, in the order that `blocks` takes."""
    return [
        (first, second, m)
        for first in range(highest_first + 1)
        for second in range(highest_second + 1)
        for m in range(min(first, second) + 1)
    ]


def d_matrices(device: torch.device) -> Tensor:
    """The matrices T^m of the d functions xy, yz, z2, zx, x2-y2; shape (5, 3, 3)."""
    t = torch.zeros(5, 3, 3, dtype=torch.float64, device=device)
    half = math.sqrt(3.0) / 2.0
    for m, (i, j) in ((0, (0, 1)), (1, (1, 2)), (3, (2, 0))):
        t[m, i, j] = t[m, j, i] = half
    t[2] = torch.diag(torch.tensor([-0.5, -0.5, 1.0], dtype=torch.float64, device=device))
    t[4] = torch.diag(torch.tensor([half, -half, 0.0], dtype=torch.float64, device=device))
    return t


def blocks(directions: Tensor, integrals: Tensor, highest_first: int, highest_second: int) -> Tensor:
    """Blocks between all orbitals of the first and all orbitals of the second atom of each pair.

    Orbitals run s; x, y, z; xy, yz, z2, zx, x2-y2.

    Args:
        directions: Unit vectors n, shape (B, P, 3).
        integrals: Shape (B, P, K, C) with C the channels in the order of `channels` and K kinds (Hamiltonian, overlap).
        highest_first: Highest shell of the first atoms.
        highest_second: Highest shell of the second atoms.

    Returns:
        Shape (B, P, K, (highest_first + 1)^2, (highest_second + 1)^2).
    """
    names = channels(highest_first, highest_second)
    integral = {name: integrals[..., i, None, None] for i, name in enumerate(names)}
    sigma, pi = _bond_frame(directions, max(highest_first, highest_second))
    rows = []
    for first in range(highest_first + 1):
        row = []
        for second in range(highest_second + 1):
            along = sigma[first].unsqueeze(-1) * sigma[second].unsqueeze(-2)
            if min(first, second) == 0:
                row.append(integral[first, second, 0] * along)
                continue
            across = pi[first] @ pi[second].transpose(-1, -2)
            block = integral[first, second, 0] * along + integral[first, second, 1] * across
            if min(first, second) == 2:
                identity = torch.eye(5, dtype=along.dtype, device=along.device)
                block = block + integral[first, second, 2] * (identity - along - across)
            row.append(block)
        rows.append(torch.cat(row, dim=-1) if len(row) > 1 else row[0])
    return torch.cat(rows, dim=-2) if len(rows) > 1 else rows[0]


def _bond_frame(n: Tensor, highest: int) -> tuple[list[Tensor], list[Tensor]]:
    """Sigma vectors (B, P, 1, 2l+1) and pi vectors (B, P, 1, 2l+1, 3) of the shells; axis 2 stands for the kinds."""
    n = n.unsqueeze(-2)
    sigma, pi = [torch.ones_like(n[..., :1])], [torch.zeros_like(n).unsqueeze(-2)]
    if highest >= 1:
        sigma.append(n)
        identity = torch.eye(3, dtype=n.dtype, device=n.device)
        pi.append(identity - n.unsqueeze(-1) * n.unsqueeze(-2))
    if highest >= 2:
        tn = torch.einsum("mij,...j->...mi", d_matrices(n.device), n)
        y = (tn * n.unsqueeze(-2)).sum(-1)
        sigma.append(y)
        pi.append(math.sqrt(4.0 / 3.0) * (tn - y.unsqueeze(-1) * n.unsqueeze(-2)))
    return sigma, pi
