"""Symmetry functions among the QM atoms: radial and angular ones, and weighted directions to the neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions, radial_values


class Structure:
    """Symmetry functions of the n atoms of one QM region; their number does not depend on the molecule.

    Args:
        functions: Which ones.
        elements: The E elements of the model, sorted.
        symbols: Elements of the atoms.
        device: Where it computes.
        dtype: Floating type.
    """

    def __init__(
        self,
        functions: SymmetryFunctions,
        elements: Sequence[str],
        symbols: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._functions = functions
        n_atoms, n_elements = len(symbols), len(elements)
        species = torch.tensor([elements.index(symbol) for symbol in symbols], device=device)
        self._species = species
        self._n_elements = n_elements
        others = [[j for j in range(n_atoms) if j != i] for i in range(n_atoms)]
        self._neighbours = torch.tensor(others, device=device, dtype=torch.int64).reshape(n_atoms, max(n_atoms - 1, 0))
        self._one_hot = torch.nn.functional.one_hot(species[self._neighbours], n_elements).to(dtype)
        first, second = torch.triu_indices(n_elements, n_elements, device=device)
        self._n_pairs = len(first)
        self._pairs = torch.zeros(n_elements, n_elements, dtype=torch.int64, device=device)
        self._pairs[first, second] = torch.arange(self._n_pairs, device=device)
        self._pairs[second, first] = self._pairs[first, second]

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the functions, differentiably.

        Args:
            positions: Shape (B, n, 3), bohr.

        Returns:
            Radial, then angular functions, shape (B, n, G); and the weighted directions, shape (B, n, D, 3).
        """
        functions = self._functions
        n_frames, n_atoms = positions.shape[:2]
        vectors = positions[:, self._neighbours] - positions[:, :, None]
        squared = (vectors * vectors).sum(dim=-1)
        radial = radial_values(functions.qm_radial, squared, functions.qm_cutoff)
        radial = torch.einsum("bijf,ije->bief", radial, self._one_hot)
        unit = vectors / squared.sqrt()[..., None]
        weights = radial_values(functions.directions, squared, functions.angular_cutoff)
        directions = torch.einsum("bijf,ije,bijx->biefx", weights, self._one_hot, unit)
        angular = self._angular(unit, squared)
        return (
            torch.cat([radial.reshape(n_frames, n_atoms, -1), angular], dim=-1),
            directions.reshape(n_frames, n_atoms, -1, 3),
        )

    def _angular(self, unit: Tensor, squared: Tensor) -> Tensor:
        """Angular functions over pairs of neighbours within the cutoff, shape (B, n, G_angular)."""
        functions = self._functions
        n_frames, n_atoms, n_neighbours = squared.shape
        count = len(functions.angular_radial) * 2 * len(functions.angular_zetas)
        near = (squared.detach() < functions.angular_cutoff**2).any(dim=0)
        pairs = torch.triu(torch.ones(n_neighbours, n_neighbours, dtype=torch.bool, device=unit.device), diagonal=1)
        centres, first, second = (near[:, :, None] & near[:, None, :] & pairs).nonzero(as_tuple=True)
        if len(centres) == 0 or count == 0:
            return unit.new_zeros(n_frames, n_atoms, self._n_pairs * count)
        radial = radial_values(functions.angular_radial, squared, functions.angular_cutoff)
        products = radial[:, centres, first] * radial[:, centres, second]
        cosines = (unit[:, centres, first] * unit[:, centres, second]).sum(dim=-1)
        bases = torch.stack([1.0 + cosines, 1.0 - cosines], dim=-1).clamp(min=0.0)
        powers = torch.cat([2.0 ** (1 - zeta) * bases**zeta for zeta in functions.angular_zetas], dim=-1)
        values = (products[..., None] * powers[..., None, :]).reshape(n_frames, len(centres), count)
        species = self._species[self._neighbours]
        kinds = self._pairs[species[centres, first], species[centres, second]]
        # Triples first: rows of many numbers are added faster.
        sums = unit.new_zeros(n_atoms * self._n_pairs, n_frames, count)
        sums = sums.index_add(0, centres * self._n_pairs + kinds, values.transpose(0, 1))
        return sums.transpose(0, 1).reshape(n_frames, n_atoms, -1)
