"""Filling of the orbitals of a closed shell."""

from __future__ import annotations

import torch
from torch import Tensor

BISECTIONS = 60
"""Halvings of the interval that holds the Fermi level: from 10 hartree to less than its last digit."""
DEGENERATE = 1e-4
"""Difference of two energies in units of the temperature below which the slope between them is the derivative."""


def lowest(n_electrons: int, eigenvalues: Tensor) -> Tensor:
    """Two electrons in each of the lowest orbitals; shape of `eigenvalues` (B, n), ascending."""
    occupations = torch.zeros_like(eigenvalues)
    occupations[:, : n_electrons // 2] = 2.0
    return occupations


def fermi(n_electrons: int, eigenvalues: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Fermi-Dirac filling (Mermin, Phys. Rev. 137, A1441 (1965), doi 10.1103/PhysRev.137.A1441).

    Args:
        n_electrons: Number of electrons.
        eigenvalues: Shape (B, n), hartree.
        temperature: k_B T, hartree, > 0.

    Returns:
        Occupations between 0 and 2, shape (B, n), and -T S, shape (B,), hartree.
    """
    lower = eigenvalues[:, 0] - 50.0 * temperature
    upper = eigenvalues[:, -1] + 50.0 * temperature
    for _ in range(BISECTIONS):
        middle = 0.5 * (lower + upper)
        too_many = 2.0 * torch.sigmoid((middle[:, None] - eigenvalues) / temperature).sum(-1) > n_electrons
        lower, upper = torch.where(too_many, lower, middle), torch.where(too_many, middle, upper)
    filling = torch.sigmoid((0.5 * (lower + upper)[:, None] - eigenvalues) / temperature)
    entropy = -2.0 * (torch.xlogy(filling, filling) + torch.xlogy(1.0 - filling, 1.0 - filling)).sum(-1)
    return 2.0 * filling, -temperature * entropy


def fill(n_electrons: int, eigenvalues: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Occupations (B, n) and -T S (B,), by `lowest` at zero temperature and by `fermi` above."""
    if temperature == 0.0:
        return lowest(n_electrons, eigenvalues), torch.zeros_like(eigenvalues[:, 0])
    return fermi(n_electrons, eigenvalues, temperature)


def slopes(eigenvalues: Tensor, occupations: Tensor, temperature: float) -> Tensor:
    """(f_i - f_j) / (e_i - e_j) for all pairs of orbitals of a Fermi filling, df/de where they are degenerate.

    Args:
        eigenvalues: Shape (B, n), hartree.
        occupations: Between 0 and 2, shape (B, n).
        temperature: k_B T, hartree, > 0.

    Returns:
        Shape (B, n, n), 1/hartree, never positive.
    """
    energy = eigenvalues.unsqueeze(-1) - eigenvalues.unsqueeze(-2)
    filling = 0.25 * (occupations.unsqueeze(-1) + occupations.unsqueeze(-2))
    degenerate = energy.abs() < DEGENERATE * temperature
    difference = (occupations.unsqueeze(-1) - occupations.unsqueeze(-2)) / torch.where(degenerate, 1.0, energy)
    return torch.where(degenerate, -2.0 * filling * (1.0 - filling) / temperature, difference)
