"""The functions between the QM atoms, and the pairs of these atoms.

The sums of one QM atom over its neighbours of one element are Q numbers: F radial functions, then for each of F'
angular functions the R monomials of directions. A pair of atoms is looked at once, for both: seen from the second one
monomials of odd rank have the other sign.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.ml.compiled.lanes import MEMBERS
from deltaqmmm.ml.compiled.tables import LANES, RadialTable, RowTable, filled, radial_table, row_table
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.results import FloatArray, IntArray

PAIRS = 64
"""Pairs at a time, so that what is known of them stays in the fastest cache."""


class StructureTable(NamedTuple):
    """The functions between QM atoms.

    Attributes:
        radial: F radial functions.
        angular: Radial parts of the F' angular functions.
        rows: The R monomials up to the order of the angular functions.
        signs: Of each sum of one atom, seen from the other atom of a pair, shape (Q,).
        lane_signs: The same, four times each, see `lanes`, shape (4 Q,).
        species: Element of each QM atom among those of the model, shape (n,).
    """

    radial: RadialTable
    angular: RadialTable
    rows: RowTable
    signs: FloatArray
    lane_signs: FloatArray
    species: IntArray

    @property
    def n_sums(self) -> int:
        """Q, the sums over the neighbours of one element."""
        return len(self.signs)


def structure_table(functions: SymmetryFunctions, species: IntArray) -> StructureTable:
    """Make the tables; species are the elements of the QM atoms, shape (n,)."""
    rows = row_table(functions.angular_order)
    signs = np.ones(len(rows.raised))
    for row in range(1, len(signs)):
        signs[row] = -signs[rows.parents[row]]
    of_sums = np.concatenate([np.ones(len(functions.qm_radial)), np.tile(signs, len(functions.angular_radial))])
    return StructureTable(
        radial_table(functions.qm_radial, functions.qm_cutoff),
        radial_table(functions.angular_radial, functions.angular_cutoff),
        rows,
        of_sums,
        np.repeat(of_sums, MEMBERS),
        species,
    )


class Pairs(NamedTuple):
    """The pairs of QM atoms within the cutoffs of B frames; there is room for P of them.

    Attributes:
        counts: How many pairs there are, and how many of these, the first ones, are within the cutoff of the angular
            functions, shape (B, 2).
        atoms: The first and the second atom of each, shape (B, 2, P).
        directions: From the first to the second one, and the distance, shape (B, 4, P).
        slopes: Of the radial functions, by r^2, shape (B, F, P).
        angular: Radial parts of the angular functions, then their slopes, shape (B, 2 F', P).
        rows: Monomials, shape (B, R, P).
    """

    counts: IntArray
    atoms: IntArray
    directions: FloatArray
    slopes: FloatArray
    angular: FloatArray
    rows: FloatArray


def no_pairs(table: StructureTable, n_frames: int) -> Pairs:
    """Room for all pairs; memory is taken for those that are found."""
    n_atoms = len(table.species)
    n_pairs = filled(n_atoms * (n_atoms - 1) // 2, LANES)

    def room(n_rows: int) -> FloatArray:
        return np.empty((n_frames, n_rows, n_pairs))

    return Pairs(
        np.zeros((n_frames, 2), dtype=np.int64),
        np.empty((n_frames, 2, n_pairs), dtype=np.int64),
        room(4),
        room(len(table.radial.kinds)),
        room(2 * len(table.angular.kinds)),
        room(len(table.rows.raised)),
    )
