"""From positions to features, and from derivatives by the features back to positions, by compiled loops alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.ml.compiled.arrays import array
from deltaqmmm.ml.compiled.feature_loops import FeatureTable, combine_sums, feature_table, pull_back_features
from deltaqmmm.ml.compiled.structure_loops import (
    StructureTable,
    neighbour_pull_back,
    neighbour_sums,
    structure_table,
)
from deltaqmmm.ml.compiled.surroundings import CompiledSurroundings, shell_tables
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.results import FloatArray


class CompiledDescriptor:
    """The symmetry functions of one system in float64 on the CPU.

    Args:
        functions: Which ones.
        elements: The E elements of the model, sorted.
        qm_symbols: Elements of the n QM atoms.
        n_types: Number of types of MM sites T.
        numbers: Type of each of the M sites, then that of padding, shape (M + 1,), int64.
        factors: Likewise what makes the weight of a site of its effective charge, shape (M + 1,), 1/e.
    """

    def __init__(
        self,
        functions: SymmetryFunctions,
        elements: Sequence[str],
        qm_symbols: Sequence[str],
        n_types: int,
        numbers: Tensor,
        factors: Tensor,
    ) -> None:
        species = np.array([elements.index(symbol) for symbol in qm_symbols], dtype=np.int64)
        self._structure = structure_table(functions, species)
        self._shells = shell_tables(functions)
        self._features = feature_table(functions, len(elements), n_types)
        self._n_elements, self._n_types = len(elements), n_types
        self._numbers, self._factors = array(numbers), array(factors)

    def describe(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> CompiledDescription:
        """Compute all sums and features of B frames; see `Correction.evaluate` for the arguments."""
        qm, mm, charges, sites = map(array, (qm_positions, mm_positions, mm_charges, mm_sites))
        factors = self._factors[sites]
        given = (qm, mm, charges * factors, self._numbers[sites])
        around = CompiledSurroundings.between(self._shells, *given, self._n_types)
        inside, pairs = neighbour_sums(self._structure, qm, self._n_elements)
        features = torch.from_numpy(combine_sums(self._features, inside, *around.moments))
        return CompiledDescription(self._structure, self._features, inside, pairs, around, features, factors)


@dataclass(frozen=True, eq=False)
class CompiledDescription:
    """The features of B frames, and the way back.

    Attributes:
        structure: The functions between QM atoms.
        table: What the features are made of.
        inside: Sums over QM neighbours, shape (B, n, E, Q).
        pairs: What is kept of pairs of QM atoms; see `structure_loops`.
        around: Sums over MM sites.
        features: Shape (B, n, `n_features`).
        factors: Derivatives of the weights by the effective charges, shape (B, K), 1/e.
    """

    structure: StructureTable
    table: FeatureTable
    inside: FloatArray
    pairs: FloatArray
    around: CompiledSurroundings
    features: Tensor
    factors: FloatArray

    def pull_back(self, slopes: Tensor) -> tuple[Tensor, CompiledDerivatives]:
        """From derivatives by the features to those by positions and charges.

        Args:
            slopes: dE/d(features) of C energies, shape (C, B, n, `n_features`).

        Returns:
            dE/dR of the QM atoms, shape (C, B, n, 3), hartree/bohr, and what gives the others.
        """
        around = self.around
        by_inside, *by_shells = pull_back_features(self.table, self.inside, *around.moments, array(slopes))
        found = np.zeros((*by_inside.shape[:3], 3))
        neighbour_pull_back(self.structure, self.pairs, by_inside, found)
        for gradients, jacobian in zip(by_shells, around.jacobians, strict=True):
            found += contract(gradients, jacobian)
        return torch.from_numpy(found), CompiledDerivatives(around, (by_shells[0], by_shells[1]), self.factors)


def contract(gradients: FloatArray, jacobian: FloatArray) -> FloatArray:
    """Of (C, B, n, F, R, T) and (B, n, F, R, T, 3): dE/dR through the moments of each atom, shape (C, B, n, 3)."""
    n_members, n_frames, n_atoms = gradients.shape[:3]
    rows = gradients.reshape(n_members, n_frames, n_atoms, -1).transpose(1, 2, 0, 3)
    by_position: FloatArray = np.matmul(rows, jacobian.reshape(n_frames, n_atoms, -1, 3))
    return by_position.transpose(2, 0, 1, 3)


@dataclass(frozen=True, eq=False)
class CompiledDerivatives:
    """Derivatives of C members' energies by sites and their charges; see `SiteDerivatives`.

    Attributes:
        around: What takes derivatives by the moments back to sites.
        by_moment: These derivatives, of both shells, each of shape (C, B, n, F, R, T).
        factors: Derivatives of the weights by the effective charges, shape (B, K), 1/e.
    """

    around: CompiledSurroundings
    by_moment: tuple[FloatArray, FloatArray]
    factors: FloatArray

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        given = array(weights.to(torch.float64))
        outer, inner = (np.einsum("mcb,cbifrt->mbifrt", given, gradients) for gradients in self.by_moment)
        by_site, by_weight = self.around.pull_back(outer, inner)
        return torch.from_numpy(by_site), torch.from_numpy(by_weight * self.factors)

    def near(self, distance: float, weights: Tensor) -> Tensor:
        """See `SiteDerivatives`."""
        given = array(weights.to(torch.float64))
        outer, inner = (np.tensordot(given, gradients, axes=1) for gradients in self.by_moment)
        return torch.from_numpy(self.around.pull_back_near(outer, inner, distance))
