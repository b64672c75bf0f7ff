"""The correction from positions to energies, and from derivatives by the features back, by compiled loops alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.ml.compiled.arrays import array
from deltaqmmm.ml.compiled.feature_loops import combine_sums, feature_table, pull_back_features
from deltaqmmm.ml.compiled.lanes import MEMBERS, by_member
from deltaqmmm.ml.compiled.neighbour_pull_back import neighbour_pull_back
from deltaqmmm.ml.compiled.neighbour_sums import neighbour_sums
from deltaqmmm.ml.compiled.network_loops import CompiledNetwork
from deltaqmmm.ml.compiled.shell_pull_back import add_by_atom
from deltaqmmm.ml.compiled.structure_table import structure_table
from deltaqmmm.ml.compiled.surroundings import CompiledSurroundings, shell_tables
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.network import InferenceNetwork
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.threads import side_by_side, threads_of_loops


class CompiledCorrection:
    """The correction of one system in float64 on the CPU.

    Args:
        functions: The symmetry functions.
        symbols: The E elements of the model, sorted, and the elements of the n QM atoms.
        types: Number of types of MM sites T; type of each of the M sites, then that of padding, shape (M + 1,), int64;
            likewise what makes the weight of a site of its effective charge, shape (M + 1,), 1/e.
        network: The networks.
    """

    def __init__(
        self,
        functions: SymmetryFunctions,
        symbols: tuple[Sequence[str], Sequence[str]],
        types: tuple[int, Tensor, Tensor],
        network: InferenceNetwork,
    ) -> None:
        (elements, qm_symbols), (n_types, numbers, factors) = symbols, types
        species = np.array([elements.index(symbol) for symbol in qm_symbols], dtype=np.int64)
        self._structure = structure_table(functions, species)
        self._shells = shell_tables(functions)
        self._features = feature_table(functions, len(elements), n_types)
        self._n_elements, self._n_types = len(elements), n_types
        self._numbers, self._factors = array(numbers), array(factors)
        self._network = CompiledNetwork(network)

    def evaluate(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> tuple[Tensor, Tensor, CompiledDerivatives]:
        """Evaluate B frames, side by side on the threads of `threads_of_loops`.

        Args:
            qm_positions: See `Correction.evaluate`, also for the others.
            mm_positions: Likewise.
            mm_charges: Likewise.
            mm_sites: Likewise.

        Returns:
            Energies without the offsets of the elements, shape (C, B), hartree, dE/dR of the QM atoms, shape
            (C, B, n, 3), hartree/bohr, and what gives the derivatives by the sites.
        """
        qm, mm, charges, sites = map(array, (qm_positions, mm_positions, mm_charges, mm_sites))

        def work(part: slice) -> tuple[FloatArray, FloatArray, PartDerivatives]:
            return self._evaluate(qm[part], mm[part], charges[part], sites[part])

        threads = threads_of_loops()
        energies, gradients, parts = zip(*side_by_side(work, len(qm), threads), strict=True)
        return _joined(energies), _joined(gradients), CompiledDerivatives(parts, threads)

    def _evaluate(
        self, qm: FloatArray, mm: FloatArray, charges: FloatArray, sites: IntArray
    ) -> tuple[FloatArray, FloatArray, PartDerivatives]:
        factors = self._factors[sites]
        around = CompiledSurroundings.between(
            self._shells, qm, mm, charges * factors, self._numbers[sites], self._n_types
        )
        inside, pairs = neighbour_sums(self._structure, qm, self._n_elements)
        features = combine_sums(self._features, inside, *around.moments)
        energies, slopes = self._network.energies_and_slopes(features)
        by_inside, *by_shells = pull_back_features(self._features, inside, *around.moments, slopes)
        gradients = neighbour_pull_back(self._structure, pairs, by_inside)
        for by_moment, jacobian in zip(by_shells, around.jacobians, strict=True):
            add_by_atom(by_moment, jacobian, gradients)
        derivatives = PartDerivatives(around, (by_shells[0], by_shells[1]), factors)
        return energies, by_member(gradients, len(energies)), derivatives


def _joined(parts: Sequence[FloatArray]) -> Tensor:
    """The frames of all parts, which are the second axis, as one tensor."""
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))


def weighted_sums(weights: FloatArray, gradients: FloatArray) -> FloatArray:
    """Of weights (M, C, B) and derivatives of members in groups (G, B, ..., 4): sums, shape (M, B, ...)."""
    n_groups, n_frames, *shape, _ = gradients.shape
    count = math.prod(shape)
    found: FloatArray = np.zeros((n_frames, count, len(weights)))
    for group in range(n_groups):
        own = weights[:, group * MEMBERS : (group + 1) * MEMBERS].transpose(2, 1, 0)
        found += gradients[group].reshape(n_frames, count, MEMBERS)[:, :, : own.shape[1]] @ own
    return np.ascontiguousarray(found.transpose(2, 0, 1)).reshape(len(weights), n_frames, *shape)


@dataclass(frozen=True, eq=False)
class PartDerivatives:
    """Derivatives of C members' energies by the sites of some frames.

    Attributes:
        around: What takes derivatives by the moments back to sites.
        by_moment: These derivatives, of both shells, each of shape (G, b, n, F, R, T, 4); see `lanes`.
        factors: Derivatives of the weights by the effective charges, shape (b, K), 1/e.
    """

    around: CompiledSurroundings
    by_moment: tuple[FloatArray, FloatArray]
    factors: FloatArray

    def weighted(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `SiteDerivatives`."""
        outer, inner = (weighted_sums(weights, gradients) for gradients in self.by_moment)
        by_site, by_weight = self.around.pull_back(outer, inner)
        by_weight *= self.factors
        return by_site, by_weight

    def near(self, distance: float, weights: FloatArray) -> FloatArray:
        """See `SiteDerivatives`."""
        found = by_member(self.around.pull_back_near(*self.by_moment, distance), weights.shape[1])
        return np.tensordot(weights, found, axes=1)


@dataclass(frozen=True, eq=False)
class CompiledDerivatives:
    """Derivatives of C members' energies by sites and their charges; see `SiteDerivatives`.

    Attributes:
        parts: Of consecutive frames.
        threads: Parts computed side by side.
    """

    parts: Sequence[PartDerivatives]
    threads: int

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        given = array(weights.to(torch.float64))
        starts = np.cumsum([0, *(len(part.factors) for part in self.parts)])

        def work(which: slice) -> list[tuple[FloatArray, FloatArray]]:
            return [
                self.parts[part].weighted(given[:, :, starts[part] : starts[part + 1]])
                for part in range(which.start, which.stop)
            ]

        found = [one for part in side_by_side(work, len(self.parts), self.threads) for one in part]
        by_site, by_charge = zip(*found, strict=True)
        return _joined(by_site), _joined(by_charge)

    def near(self, distance: float, weights: Tensor) -> Tensor:
        """See `SiteDerivatives`."""
        given = array(weights.to(torch.float64))

        def work(which: slice) -> list[FloatArray]:
            return [part.near(distance, given) for part in self.parts[which]]

        found = [one for part in side_by_side(work, len(self.parts), self.threads) for one in part]
        if len(found) == 1:
            return torch.from_numpy(found[0])
        joined = np.zeros((len(given), sum(one.shape[1] for one in found), max(one.shape[2] for one in found), 3))
        first = 0
        for one in found:
            joined[:, first : first + one.shape[1], : one.shape[2]] = one
            first += one.shape[1]
        return torch.from_numpy(joined)
