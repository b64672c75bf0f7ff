"""The MM sites around the QM atoms by compiled loops: `surroundings.Surroundings` on the CPU, several times faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel
from deltaqmmm.ml.compiled.lanes import MEMBERS
from deltaqmmm.ml.compiled.member_pull_back import member_pull_back
from deltaqmmm.ml.compiled.shell_pull_back import shell_pull_back
from deltaqmmm.ml.compiled.shell_sums import shell_sums
from deltaqmmm.ml.compiled.site_loops import list_near
from deltaqmmm.ml.compiled.tables import ShellTable
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.results import FloatArray, IntArray


def shell_tables(functions: SymmetryFunctions) -> tuple[ShellTable, ShellTable]:
    """What the loops need to know of the outer and of the inner shell."""
    return (
        ShellTable.of(functions.mm_radial, functions.mm_cutoff, functions.mm_rank),
        ShellTable.of(functions.mm_near_radial, functions.mm_near_cutoff, functions.mm_near_rank),
    )


class NearSites(NamedTuple):
    """Some sites of B frames, no more than K' of each; what fills up is the first of all, without weight.

    Attributes:
        places: Where they are among those they were picked from, ascending and filled up with zeros, shape (B, K').
        counts: How many there are, shape (B,).
        positions: Shape (B, K', 3), bohr.
        weights: Shape (B, K').
        types: Shape (B, K').
    """

    places: IntArray
    counts: IntArray
    positions: FloatArray
    weights: FloatArray
    types: IntArray


@dataclass(frozen=True, eq=False)
class CompiledSurroundings:
    """Sums over both shells of B frames, and what takes derivatives back; float64 on the CPU.

    Attributes:
        tables: Of the outer and of the inner shell.
        moments: Of each shell, shape (B, n, F, R, T); see `Shell.moments`.
        jacobians: Of each shell, shape (B, n, F, R, T, 3); see `Shell.jacobian`.
        qm_positions: Shape (B, n, 3), bohr.
        mm_positions: Shape (B, K, 3), bohr.
        weights: Shape (B, K).
        types: Type of each site, shape (B, K), int64.
        near: The sites of the inner shell.
        nearest: Their squared distances to the nearest QM atom, infinite for what fills up, shape (B, K'), bohr^2.
    """

    tables: tuple[ShellTable, ShellTable]
    moments: tuple[FloatArray, FloatArray]
    jacobians: tuple[FloatArray, FloatArray]
    qm_positions: FloatArray
    mm_positions: FloatArray
    weights: FloatArray
    types: IntArray
    near: NearSites
    nearest: FloatArray

    @classmethod
    def between(
        cls,
        tables: tuple[ShellTable, ShellTable],
        qm_positions: FloatArray,
        mm_positions: FloatArray,
        weights: FloatArray,
        types: IntArray,
        n_types: int,
    ) -> CompiledSurroundings:
        """Compute the sums.

        Args:
            tables: Of `shell_tables`.
            qm_positions: Shape (B, n, 3), bohr.
            mm_positions: Shape (B, K, 3), bohr.
            weights: Shape (B, K).
            types: Shape (B, K), int64.
            n_types: Number of types T.
        """
        sites = mm_positions, weights, types
        places, counts, nearest = near_sites(qm_positions, mm_positions, tables[1].radial.cutoff)
        near = _picked(places, counts, *sites)
        outer = shell_sums(tables[0], qm_positions, *sites, n_types)
        inner = shell_sums(tables[1], qm_positions, near.positions, near.weights, near.types, n_types)
        return cls(tables, (outer[0], inner[0]), (outer[1], inner[1]), qm_positions, *sites, near, nearest)

    def pull_back(self, outer: FloatArray, inner: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Surroundings.pull_back`."""
        near = self.near
        by_site, by_weight = self._pull_back(0, outer, self.mm_positions, self.weights, self.types)
        own = self._pull_back(1, inner, near.positions, near.weights, near.types)
        _put_back(near.places, near.counts, *own, by_site, by_weight)
        return by_site, by_weight

    def pull_back_near(self, outer: FloatArray, inner: FloatArray, distance: float) -> FloatArray:
        """See `Surroundings.pull_back_near`; the sites are in the order in which they were given.

        Members are in groups, see `lanes`: from (G, B, n, F, R, T, 4) to (G, B, K', 3, 4).
        """
        nearer = self.nearest < distance**2
        places = np.argsort(~nearer, axis=1, kind="stable")
        chosen = _picked(places, nearer.sum(axis=1), self.near.positions, self.near.weights, self.near.types)
        by_site: FloatArray = np.zeros((len(outer), *chosen.positions.shape, MEMBERS))
        for table, gradients in zip(self.tables, (outer, inner), strict=True):
            member_pull_back(
                table, self.qm_positions, chosen.positions, chosen.weights, chosen.types, gradients, by_site
            )
        return by_site

    def _pull_back(
        self, shell: int, gradients: FloatArray, positions: FloatArray, weights: FloatArray, types: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        found = np.zeros((len(gradients), *positions.shape)), np.zeros((len(gradients), *weights.shape))
        shell_pull_back(self.tables[shell], self.qm_positions, positions, weights, types, gradients, *found)
        return found


@Kernel
def _list_near_sites(
    distance: float,
    qm: FloatArray,
    mm: FloatArray,
    places: IntArray,
    counts: IntArray,
    nearest: FloatArray,
    points: FloatArray,
) -> bool:
    for frame in range(len(mm)):
        counts[frame] = list_near(distance, qm[frame], mm[frame], places[frame], nearest[frame], points)
    return True


@Kernel
def _pick(places: IntArray, mm: FloatArray, weights: FloatArray, types: IntArray, near: NearSites) -> bool:
    """Fill in what is known of sites at some places."""
    for frame in range(len(near.places)):
        for place in range(near.places.shape[1]):
            there = place < near.counts[frame]
            site = places[frame, place] if there else 0
            near.places[frame, place] = site
            for axis in range(3):
                near.positions[frame, place, axis] = mm[frame, site, axis]
            near.weights[frame, place] = weights[frame, site] if there else 0.0
            near.types[frame, place] = types[frame, site]
    return True


@Kernel
def _put_back(
    places: IntArray,
    counts: IntArray,
    near_by_site: FloatArray,
    near_by_weight: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
) -> bool:
    """Add derivatives by near sites (M, B, K', 3) and their weights (M, B, K') to those by all."""
    for member in range(len(by_site)):
        for frame in range(len(places)):
            for place in range(counts[frame]):
                site = places[frame, place]
                for axis in range(3):
                    by_site[member, frame, site, axis] += near_by_site[member, frame, place, axis]
                by_weight[member, frame, site] += near_by_weight[member, frame, place]
    return True


def near_sites(qm: FloatArray, mm: FloatArray, distance: float) -> tuple[IntArray, IntArray, FloatArray]:
    """The sites nearer than a distance (bohr) to a QM atom.

    Args:
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr.
        distance: How near, bohr.

    Returns:
        Their numbers, ascending and filled up with zeros, shape (B, K'), how many there are, shape (B,), and their
        squared distances to the nearest QM atom, filled up with infinity, shape (B, K'), bohr^2.
    """
    n_frames, n_places = mm.shape[0], mm.shape[1] + 1
    places, counts = np.zeros((n_frames, n_places), dtype=np.int64), np.zeros(n_frames, dtype=np.int64)
    nearest, points = np.full((n_frames, n_places), np.inf), np.empty((3, n_places))
    _list_near_sites(distance, qm, mm, places, counts, nearest, points)
    width = int(counts.max(initial=0))
    return places[:, :width], counts, nearest[:, :width]


def _picked(places: IntArray, counts: IntArray, mm: FloatArray, weights: FloatArray, types: IntArray) -> NearSites:
    """The first sites of those at some places (B, ...), as many as the counts (B,) say."""
    shape = places.shape[0], int(counts.max(initial=0))
    near = NearSites(
        places=np.empty(shape, dtype=np.int64),
        counts=counts,
        positions=np.empty((*shape, 3)),
        weights=np.empty(shape),
        types=np.empty(shape, dtype=np.int64),
    )
    _pick(np.ascontiguousarray(places), mm, weights, types, near)
    return near
