"""What the compiled loops know of functions and monomials, and the room in which they work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deltaqmmm.ml.compiled.rooms import kept
from deltaqmmm.ml.functions import KINDS, RadialFunction
from deltaqmmm.ml.monomials import derivative, raising
from deltaqmmm.results import FloatArray, IntArray

BLOCK = 256
"""Pairs at a time."""
LANES = 8
"""Pairs at a time are filled up to a multiple of this, the numbers in the longest vector registers."""
GROUP = 5
"""Rows at a time in the innermost loops; what has rows is filled up to a multiple of this."""
FUNCTIONS = 4
"""Functions at a time likewise."""
BINS = 64
"""Steps along the QM region in which sites are ordered."""
_SITES = 512
"""Room for sites is filled up to a multiple of this: their number changes from step to step."""


class RadialTable(NamedTuple):
    """F radial functions.

    Attributes:
        cutoff: r_c, bohr.
        kinds: Shape (F,), numbers in `KINDS`.
        etas: Shape (F,), 1/bohr^2.
        shifts: Shape (F,), bohr.
        kappas: Shape (F,), 1/bohr.
        order: The functions in the order in which they are computed, shape (F,).
        need_distances: Whether any function needs r, not only r^2.
        roots: The function, computed before, whose square the Gaussian of each is; -1 if there is none. Shape (F,).
    """

    cutoff: float
    kinds: IntArray
    etas: FloatArray
    shifts: FloatArray
    kappas: FloatArray
    order: IntArray
    need_distances: bool
    roots: IntArray


class RowTable(NamedTuple):
    """How monomials are made of each other; R rows up to the rank of the sums, Q up to the next rank.

    Attributes:
        parents: Each row but the first is the product of an earlier one, a component and a factor. Shape (Q,).
        along: Which component, shape (Q,).
        factors: Shape (Q,).
        raised: d_y row_r is this row, shape (R, 3), ...
        raised_by: ... times this, shape (R, 3).
        lowered: d row_r / d d_y is this row, shape (R, 3), ...
        lowered_by: ... times this, shape (R, 3); 0 if it vanishes.
    """

    parents: IntArray
    along: IntArray
    factors: FloatArray
    raised: IntArray
    raised_by: FloatArray
    lowered: IntArray
    lowered_by: FloatArray


class Sites(NamedTuple):
    """Room for the sites of one frame, type after type, each filled up to a multiple of the lanes: K' places.

    Those of a type are ordered by bins along the QM region: most of those that are beyond the cutoff of an atom because
    of that are left out without a look at each.

    Attributes:
        table: x, y, z and weights, shape (4, K').
        numbers: What their numbers are among all sites, -1 for what fills up, shape (K',).
        starts: Where each type starts, shape (T + 1,).
        bins: Where each bin of a type starts, and where the last one ends, shape (T, `BINS` + 2); the last is room.
        axis: The number of the bin at a point is its scalar product with the first three, plus the fourth. Shape (4,).
        steps: The number of the bin of each site, for sorting, shape (K',).
        squared: Their squared distances from one QM atom, shape (K',).
        within: The places of those within the cutoff of this atom, shape (K',).
    """

    table: FloatArray
    numbers: IntArray
    starts: IntArray
    bins: IntArray
    axis: FloatArray
    steps: IntArray
    squared: FloatArray
    within: IntArray


class Block(NamedTuple):
    """Room for a block of pairs; functions and rows are filled up with zeros.

    Attributes:
        pairs: x, y, z, weight and r^2, shape (5, pairs).
        common: Arguments of an exponential function, the cutoff function, its slope, and r, shape (4, pairs).
        gaussians: Shape (F, pairs).
        values: Radial functions, shape (F, pairs).
        slopes: Their derivatives by r^2, shape (F, pairs).
        rows: Monomials, shape (Q, pairs).
        plain: Sums of values and rows, shape (F, Q).
        steep: Sums of slopes and rows, shape (F, Q).
        factors: Derivatives by moments, shape (F, R).
        by_row: Derivatives by the weighted monomials, shape (R, pairs).
        steep_by_row: The same with slopes in place of the values, shape (R, pairs).
        found: Derivatives by x, y, z, weight, and r^2, shape (5, pairs).
        flat: The numbers of pairs and found in one row, shape (10 pairs,). Where the places of rows are known when
            loops are compiled, it is certain that what is written is not read later: otherwise pair after pair is done.
    """

    pairs: FloatArray
    common: FloatArray
    gaussians: FloatArray
    values: FloatArray
    slopes: FloatArray
    rows: FloatArray
    plain: FloatArray
    steep: FloatArray
    factors: FloatArray
    by_row: FloatArray
    steep_by_row: FloatArray
    found: FloatArray
    flat: FloatArray


@dataclass(frozen=True, eq=False)
class ShellTable:
    """A shell's functions as the compiled loops need them; made by `of`.

    Attributes:
        rank: The highest rank of the monomials in the sums.
        radial: The radial functions.
        rows: The monomials.
    """

    rank: int
    radial: RadialTable
    rows: RowTable

    @classmethod
    def of(cls, functions: Sequence[RadialFunction], cutoff: float, rank: int) -> ShellTable:
        """Make the tables.

        Args:
            functions: F radial functions.
            cutoff: Their cutoff, bohr.
            rank: The highest rank of the monomials in the sums.
        """
        return cls(rank, radial_table(functions, cutoff), row_table(rank))

    @property
    def n_functions(self) -> int:
        """F."""
        return len(self.radial.kinds)

    @property
    def n_rows(self) -> int:
        """R."""
        return len(self.rows.raised)

    def block_room(self, n_pairs: int) -> Block:
        """Room for so many pairs at a time."""
        return block_room(self.n_functions, len(self.rows.parents), n_pairs)


def radial_table(functions: Sequence[RadialFunction], cutoff: float) -> RadialTable:
    """The table of radial functions with a cutoff (bohr)."""
    order = sorted(range(len(functions)), key=lambda index: functions[index].eta)
    centred: dict[float, int] = {}
    roots = np.full(len(functions), -1, dtype=np.int64)
    for index in order:
        function = functions[index]
        if function.kind == "g2" and function.shift == 0.0:
            roots[index] = centred.get(0.5 * function.eta, -1)
            centred[function.eta] = index
    return RadialTable(
        float(cutoff),
        np.array([KINDS.index(function.kind) for function in functions], dtype=np.int64),
        np.array([function.eta for function in functions], dtype=np.float64),
        np.array([function.shift for function in functions], dtype=np.float64),
        np.array([function.kappa for function in functions], dtype=np.float64),
        np.array(order, dtype=np.int64),
        any(function.kind == "g3" or function.shift != 0.0 for function in functions),
        roots,
    )


def row_table(rank: int) -> RowTable:
    """The table of the monomials up to a rank."""
    up, down = raising(rank).numpy(), derivative(rank).numpy()
    parents, along = np.zeros(up.shape[2], dtype=np.int64), np.zeros(up.shape[2], dtype=np.int64)
    factors = np.ones(up.shape[2])
    for row in range(1, up.shape[2]):
        parents[row], along[row] = np.argwhere(up[:, :, row])[0]
        factors[row] = 1.0 / up[parents[row], along[row], row]
    # No more than one column is not zero.
    if rank == 0:
        lowered, lowered_by = np.zeros((1, 3), dtype=np.int64), np.zeros((1, 3))
    else:
        lowered, lowered_by = down.argmax(axis=2), down.max(axis=2)
    return RowTable(parents, along, factors, up.argmax(axis=2), up.max(axis=2), lowered, lowered_by)


def site_room(n_sites: int, n_types: int) -> Sites:
    """Room for so many sites; kept, see `rooms`."""
    return _site_room(filled(n_sites, _SITES), n_types)


@kept
def _site_room(n_sites: int, n_types: int) -> Sites:
    size = n_sites + n_types * LANES
    return Sites(
        table=np.empty((4, size)),
        numbers=np.empty(size, dtype=np.int64),
        starts=np.empty(n_types + 1, dtype=np.int64),
        bins=np.empty((n_types, BINS + 2), dtype=np.int64),
        axis=np.empty(4),
        steps=np.empty(size, dtype=np.int64),
        squared=np.empty(size),
        within=np.empty(size, dtype=np.int64),
    )


@kept
def block_room(n_functions: int, n_rows: int, n_pairs: int) -> Block:
    """Room for so many pairs at a time, filled up; rows and functions that fill up are zero and must stay so. Kept."""
    count, width, size = filled(n_functions, FUNCTIONS), filled(n_rows, GROUP), filled(n_pairs, LANES)
    flat = np.zeros((10, size))
    return Block(
        pairs=flat[:5],
        common=np.empty((4, size)),
        gaussians=np.empty((count, size)),
        values=np.zeros((count, size)),
        slopes=np.zeros((count, size)),
        rows=np.zeros((width, size)),
        plain=np.empty((count, width)),
        steep=np.empty((count, width)),
        factors=np.zeros((count, width)),
        by_row=np.empty((width, size)),
        steep_by_row=np.empty((width, size)),
        found=flat[5:],
        flat=flat.reshape(-1),
    )


def filled(count: int, step: int) -> int:
    """The count, or the next multiple of the step."""
    return step * -(-count // step)
