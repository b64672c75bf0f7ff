"""The MM sites around the QM atoms by compiled loops: `surroundings.Surroundings` on the CPU, several times faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltaqmmm.jit import Kernel
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
    """

    tables: tuple[ShellTable, ShellTable]
    moments: tuple[FloatArray, FloatArray]
    jacobians: tuple[FloatArray, FloatArray]
    qm_positions: FloatArray
    mm_positions: FloatArray
    weights: FloatArray
    types: IntArray

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
        given = (qm_positions, mm_positions, weights, types)
        outer, inner = (shell_sums(table, *given, n_types) for table in tables)
        return cls(tables, (outer[0], inner[0]), (outer[1], inner[1]), *given)

    def pull_back(self, outer: FloatArray, inner: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Surroundings.pull_back`."""
        return self._pull_back(outer, inner, self.mm_positions, self.weights, self.types)

    def pull_back_near(self, outer: FloatArray, inner: FloatArray, distance: float) -> FloatArray:
        """See `Surroundings.pull_back_near`; the sites are in the order in which they were given."""
        places, counts = near_sites(self.qm_positions, self.mm_positions, min(distance, self.tables[1].radial.cutoff))
        shape = len(counts), int(counts.max(initial=0))
        chosen = np.empty((*shape, 3)), np.empty(shape), np.empty(shape, dtype=np.int64)
        _pick(places, counts, self.mm_positions, self.weights, self.types, *chosen)
        return self._pull_back(outer, inner, *chosen)[0]

    def _pull_back(
        self, outer: FloatArray, inner: FloatArray, positions: FloatArray, weights: FloatArray, types: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        by_site, by_weight = np.zeros((len(outer), *positions.shape)), np.zeros((len(outer), *weights.shape))
        for table, gradients in zip(self.tables, (outer, inner), strict=True):
            shell_pull_back(table, self.qm_positions, positions, weights, types, gradients, by_site, by_weight)
        return by_site, by_weight


@Kernel
def _list_near_sites(distance: float, qm: FloatArray, mm: FloatArray, places: IntArray, counts: IntArray) -> bool:
    for frame in range(len(mm)):
        counts[frame] = list_near(distance, qm[frame], mm[frame], places[frame])
    return True


@Kernel
def _pick(
    places: IntArray,
    counts: IntArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    own_mm: FloatArray,
    own_weights: FloatArray,
    own_types: IntArray,
) -> bool:
    """Fill in positions, weights and types of some sites; what fills up is the first site, without weight."""
    for frame in range(len(own_mm)):
        for place in range(own_mm.shape[1]):
            site = places[frame, place]
            for axis in range(3):
                own_mm[frame, place, axis] = mm[frame, site, axis]
            own_weights[frame, place] = weights[frame, site] if place < counts[frame] else 0.0
            own_types[frame, place] = types[frame, site]
    return True


def near_sites(qm: FloatArray, mm: FloatArray, distance: float) -> tuple[IntArray, IntArray]:
    """The sites nearer than a distance (bohr) to a QM atom.

    Args:
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr.
        distance: How near, bohr.

    Returns:
        Their numbers, ascending and filled up with zeros, shape (B, K), and how many there are, shape (B,).
    """
    places, counts = np.zeros(mm.shape[:2], dtype=np.int64), np.zeros(len(mm), dtype=np.int64)
    _list_near_sites(distance, qm, mm, places, counts)
    return places, counts
