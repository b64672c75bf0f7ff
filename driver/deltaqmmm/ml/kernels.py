"""The sums of `shells.Shell` and their derivatives on the CPU in double precision, by compiled loops.

What `Shell` computes with whole arrays of all pairs is done here for the sites within the cutoff of one QM atom, some
hundred at a time, so that the work stays in the fastest cache: several times faster, for inference. Importing this
module imports numba; the loops are compiled at the first call, and kept on disk where numba finds a place for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deltaqmmm.ml.functions import KINDS, RadialFunction
from deltaqmmm.ml.monomials import derivative, raising
from deltaqmmm.ml.structure import Neighbours
from deltaqmmm.results import FloatArray, IntArray

_BLOCK = 256
"""Pairs at a time."""
_LANES = 8
"""Pairs at a time are filled up to a multiple of this, the numbers in the longest vector registers."""
_GROUP = 5
"""Rows at a time in the innermost loops; what has rows is filled up to a multiple of this."""

_G1, _G2, _G3 = (KINDS.index(kind) for kind in ("g1", "g2", "g3"))

# exp(-x) = 2^n exp(s), |s| < 0.35; adding the shifter rounds to integers, which are then its lowest bits.
_SHIFTER = 1.5 * 2.0**52
_LOG2_E = 1.4426950408889634
_LN_2_HIGH, _LN_2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_TAYLOR = tuple(1.0 / math.factorial(power) for power in range(14))
_SMALLEST_EXPONENT, _EXPONENT_BIT = -700.0, 52
_TINY = 1e-200

# Division by zero is not looked for: a branch in a loop is in the way of vector instructions.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _inlined(*flags: str) -> Callable[[_Function], _Function]:
    """Compile a function for use in others; the flags say how floating-point operations may be rearranged."""

    def compiled(function: _Function) -> _Function:
        found: Any = numba.njit(fastmath=set(flags), **_OPTIONS)(function)
        return cast(_Function, found)

    return compiled


class _Kernel:
    """A compiled function that is kept on disk if possible, and compiled anew in each process if not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: Callable[..., Any]
        try:
            self._compiled = numba.njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # no folder to keep it in
            self._compiled = numba.njit(**_OPTIONS)(function)

    def __call__(self, *arguments: object) -> bool:
        try:
            return bool(self._compiled(*arguments))
        except OSError:  # the folder can no longer be written: a full disk. The loops themselves use no files.
            self._compiled = numba.njit(**_OPTIONS)(self._function)
            return bool(self._compiled(*arguments))


# ------------------------------------------------------------------------------------------------------------- tables


class _Radial(NamedTuple):
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


class _Rows(NamedTuple):
    """How monomials are made of each other; R rows up to the rank of the sums, Q up to the next rank.

    Attributes:
        parents: Each row but the first is the product of an earlier one, a component and a factor. Shape (Q,).
        along: Which component, shape (Q,).
        factors: Shape (Q,).
        raised: d_y row_r is this row, shape (R, 3), ...
        raised_by: ... times this, shape (R, 3).
        lowered: d row_r / d d_y is this row, shape (R, 3), ...
        lowered_by: ... times this, shape (R, 3); 0 if it vanishes.
        n_lower: Rows up to the rank before.
    """

    parents: IntArray
    along: IntArray
    factors: FloatArray
    raised: IntArray
    raised_by: FloatArray
    lowered: IntArray
    lowered_by: FloatArray
    n_lower: int


class _Sites(NamedTuple):
    """Room for the sites of one frame, type after type.

    Attributes:
        table: x, y, z and weights, shape (4, K).
        numbers: What their numbers are among all sites, shape (K,).
        starts: Where each type starts, shape (T + 1,).
        ends: For sorting, shape (T,).
        squared: Their squared distances from one QM atom, shape (K,).
        within: The places of those within the cutoff of this atom, shape (K,).
    """

    table: FloatArray
    numbers: IntArray
    starts: IntArray
    ends: IntArray
    squared: FloatArray
    within: IntArray


class _Block(NamedTuple):
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
        turned: Factors of rows in the derivatives by components, shape (3, F, R).
        found: Derivatives by x, y, z, weight, and r^2, shape (5, pairs).
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
    turned: FloatArray
    found: FloatArray


@dataclass(frozen=True, eq=False)
class ShellTable:
    """A shell's functions as the compiled loops need them; made by `of`.

    Attributes:
        rank: The highest rank of the monomials in the sums.
        radial: The radial functions.
        rows: The monomials.
    """

    rank: int
    radial: _Radial
    rows: _Rows

    @classmethod
    def of(cls, functions: Sequence[RadialFunction], cutoff: float, rank: int) -> ShellTable:
        """Make the tables.

        Args:
            functions: F radial functions.
            cutoff: Their cutoff, bohr.
            rank: The highest rank of the monomials in the sums.
        """
        return cls(rank, _radial_table(functions, cutoff), _row_table(rank))

    @property
    def n_functions(self) -> int:
        """F."""
        return len(self.radial.kinds)

    @property
    def n_rows(self) -> int:
        """R."""
        return len(self.rows.raised)


def _radial_table(functions: Sequence[RadialFunction], cutoff: float) -> _Radial:
    order = sorted(range(len(functions)), key=lambda index: functions[index].eta)
    centred: dict[float, int] = {}
    roots = np.full(len(functions), -1, dtype=np.int64)
    for index in order:
        function = functions[index]
        if function.kind == "g2" and function.shift == 0.0:
            roots[index] = centred.get(0.5 * function.eta, -1)
            centred[function.eta] = index
    return _Radial(
        float(cutoff),
        np.array([KINDS.index(function.kind) for function in functions], dtype=np.int64),
        np.array([function.eta for function in functions], dtype=np.float64),
        np.array([function.shift for function in functions], dtype=np.float64),
        np.array([function.kappa for function in functions], dtype=np.float64),
        np.array(order, dtype=np.int64),
        any(function.kind == "g3" or function.shift != 0.0 for function in functions),
        roots,
    )


def _row_table(rank: int) -> _Rows:
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
    return _Rows(parents, along, factors, up.argmax(axis=2), up.max(axis=2), lowered, lowered_by, down.shape[2])


def _room(table: ShellTable, n_sites: int, n_types: int) -> tuple[_Sites, _Block]:
    """Allocated here: in the compiled loops it would take seconds to compile."""

    def whole(*shape: int) -> IntArray:
        return np.empty(shape, dtype=np.int64)

    sites = _Sites(
        np.empty((4, n_sites)), whole(n_sites), whole(n_types + 1), whole(n_types), np.empty(n_sites), whole(n_sites)
    )
    count, width = _filled(table.n_functions, 2), _filled(len(table.rows.parents), _GROUP)
    # Rows and functions that fill up must be zero.
    block = _Block(
        pairs=np.empty((5, _BLOCK)),
        common=np.empty((4, _BLOCK)),
        gaussians=np.empty((count, _BLOCK)),
        values=np.zeros((count, _BLOCK)),
        slopes=np.zeros((count, _BLOCK)),
        rows=np.zeros((width, _BLOCK)),
        plain=np.empty((count, width)),
        steep=np.empty((count, width)),
        factors=np.zeros((count, width)),
        turned=np.zeros((3, count, width)),
        found=np.empty((5, _BLOCK)),
    )
    return sites, block


def _filled(count: int, step: int) -> int:
    return step * -(-count // step)


# -------------------------------------------------------------------------------------------- which sites, and vectors


@_inlined("contract")
def _sort_sites(
    cutoff: float,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    weightless: bool,
    sites: _Sites,
) -> bool:
    """Those sites of one frame that may be within the cutoff of a QM atom; False for a type that there is not."""
    x0 = y0 = z0 = widest = 0.0
    for atom in range(len(qm)):
        x0, y0, z0 = x0 + qm[atom, 0] / len(qm), y0 + qm[atom, 1] / len(qm), z0 + qm[atom, 2] / len(qm)
    for atom in range(len(qm)):
        widest = max(widest, (qm[atom, 0] - x0) ** 2 + (qm[atom, 1] - y0) ** 2 + (qm[atom, 2] - z0) ** 2)
    # A little more, for roundings.
    furthest = (cutoff + math.sqrt(widest)) ** 2 * (1.0 + 1e-6)
    n_types = len(sites.starts) - 1
    for kind in range(n_types):
        sites.ends[kind] = 0
    count = 0
    for site in range(len(mm)):
        beyond = (mm[site, 0] - x0) ** 2 + (mm[site, 1] - y0) ** 2 + (mm[site, 2] - z0) ** 2 > furthest
        # What is not a number goes on, so that it shows.
        if beyond or (weights[site] == 0.0 and not weightless):
            continue
        if types[site] < 0 or types[site] >= n_types:
            return False
        sites.ends[types[site]] += 1
        sites.within[count] = site
        count += 1
    sites.starts[0] = 0
    for kind in range(n_types):
        sites.starts[kind + 1] = sites.starts[kind] + sites.ends[kind]
        sites.ends[kind] = sites.starts[kind]
    for index in range(count):
        site = sites.within[index]
        place = sites.ends[types[site]]
        sites.ends[types[site]] += 1
        sites.table[0, place], sites.table[1, place], sites.table[2, place] = mm[site, 0], mm[site, 1], mm[site, 2]
        sites.table[3, place] = weights[site]
        sites.numbers[place] = site
    return True


@_inlined("contract")
def _find_within(cutoff: float, centre: FloatArray, kind: int, sites: _Sites) -> int:
    """List the sites of one type that are within the cutoff of a centre; how many there are."""
    x, y, z, limit = centre[0], centre[1], centre[2], cutoff**2
    start, stop, table = sites.starts[kind], sites.starts[kind + 1], sites.table
    for site in range(start, stop):
        sites.squared[site] = (table[0, site] - x) ** 2 + (table[1, site] - y) ** 2 + (table[2, site] - z) ** 2
    count = 0
    for site in range(start, stop):
        # Without a branch that cannot be foretold.
        sites.within[count] = site
        count += 1 - int(sites.squared[site] >= limit)
    return count


@_inlined("contract")
def _load(centre: FloatArray, sites: _Sites, begin: int, end: int, pairs: FloatArray) -> int:
    """Make pairs of a centre and some of the sites within the cutoff.

    Returns their number, filled up to a multiple of the lanes with pairs of no weight.
    """
    x, y, z, size, table = centre[0], centre[1], centre[2], end - begin, sites.table
    for pair in range(size):
        site = sites.within[begin + pair]
        pairs[0, pair] = table[0, site] - x
        pairs[1, pair] = table[1, site] - y
        pairs[2, pair] = table[2, site] - z
        pairs[3, pair] = table[3, site]
    filled = _LANES * ((size + _LANES - 1) // _LANES)
    for pair in range(size, filled):
        pairs[0, pair] = pairs[1, pair] = pairs[2, pair] = pairs[3, pair] = 0.0
    for pair in range(filled):
        pairs[4, pair] = pairs[0, pair] ** 2 + pairs[1, pair] ** 2 + pairs[2, pair] ** 2
    return filled


# --------------------------------------------------------------------------------------------------- radial functions


@_inlined("contract")  # reassociation would undo the rounding
def _exponential(work: FloatArray, found: FloatArray, index: int, size: int) -> None:
    """Exp of not positive work[0], to the last digit or two; math.exp is not done for several numbers at once."""
    for pair in range(size):
        x = max(work[0, pair], _SMALLEST_EXPONENT)
        shifted = x * _LOG2_E + _SHIFTER
        power = shifted - _SHIFTER
        s = (x - power * _LN_2_HIGH) - power * _LN_2_LOW
        value = _TAYLOR[13]
        for term in range(12, -1, -1):
            value = value * s + _TAYLOR[term]
        found[index, pair] = value
        work[0, pair] = shifted
    bits, integers = found.view(np.int64), work.view(np.int64)
    for pair in range(size):
        bits[index, pair] += integers[0, pair] << _EXPONENT_BIT


@_inlined("contract")
def _radial_functions(radial: _Radial, block: _Block, size: int) -> None:
    """Values and slopes; see `functions.radial_values_and_slopes`."""
    pairs, common, gaussians, values, slopes = block.pairs, block.common, block.gaussians, block.values, block.slopes
    scale = 1.0 / radial.cutoff**2
    for pair in range(size):
        ratio = pairs[4, pair] * scale
        power = ratio * ratio
        inside = 1.0 - power * ratio
        square = inside * inside
        common[1, pair] = square * inside
        common[2, pair] = -9.0 * scale * power * square
    if radial.need_distances:
        for pair in range(size):
            # A site in the very place of an atom has no direction, and needs none: its vector is zero.
            common[3, pair] = math.sqrt(max(pairs[4, pair], _TINY))
    for index in radial.order:
        kind, eta, shift, kappa = radial.kinds[index], radial.etas[index], radial.shifts[index], radial.kappas[index]
        if kind == _G1:
            for pair in range(size):
                values[index, pair] = common[1, pair]
                slopes[index, pair] = common[2, pair]
        elif kind == _G3:
            for pair in range(size):
                argument = kappa * common[3, pair]
                wave = math.cos(argument)
                steep = 0.5 * kappa * math.sin(argument) / common[3, pair]
                values[index, pair] = wave * common[1, pair]
                slopes[index, pair] = wave * common[2, pair] - steep * common[1, pair]
        else:
            root = radial.roots[index]
            if root >= 0:
                for pair in range(size):
                    gaussians[index, pair] = gaussians[root, pair] * gaussians[root, pair]
            else:
                if shift == 0.0:
                    for pair in range(size):
                        common[0, pair] = -eta * pairs[4, pair]
                else:
                    for pair in range(size):
                        common[0, pair] = -eta * (common[3, pair] - shift) ** 2
                _exponential(common, gaussians, index, size)
            for pair in range(size):
                values[index, pair] = gaussians[index, pair] * common[1, pair]
                slopes[index, pair] = gaussians[index, pair] * common[2, pair] - eta * values[index, pair]
            if shift != 0.0:
                for pair in range(size):
                    slopes[index, pair] += eta * shift / common[3, pair] * values[index, pair]


# ------------------------------------------------------------------------------------------------ monomials, and sums


@_inlined("contract")
def _multiply_rows(table: _Rows, n_rows: int, pairs: FloatArray, rows: FloatArray, size: int) -> None:
    """All rows after the first one, which multiplies them."""
    for row in range(1, n_rows):
        parent, along, factor = table.parents[row], table.along[row], table.factors[row]
        for pair in range(size):
            rows[row, pair] = rows[parent, pair] * (factor * pairs[along, pair])


@_inlined("contract", "reassoc", "nsz")
def _add_dots(left: FloatArray, index: int, rows: FloatArray, row: int, size: int, sums: FloatArray) -> None:
    """Add the scalar products of two of the left with a group of rows."""
    a0 = a1 = a2 = a3 = a4 = b0 = b1 = b2 = b3 = b4 = 0.0
    for pair in range(size):
        a, b = left[index, pair], left[index + 1, pair]
        r0, r1, r2 = rows[row, pair], rows[row + 1, pair], rows[row + 2, pair]
        r3, r4 = rows[row + 3, pair], rows[row + 4, pair]
        a0 += a * r0
        a1 += a * r1
        a2 += a * r2
        a3 += a * r3
        a4 += a * r4
        b0 += b * r0
        b1 += b * r1
        b2 += b * r2
        b3 += b * r3
        b4 += b * r4
    first, second = sums[index], sums[index + 1]
    first[row] += a0
    first[row + 1] += a1
    first[row + 2] += a2
    first[row + 3] += a3
    first[row + 4] += a4
    second[row] += b0
    second[row + 1] += b1
    second[row + 2] += b2
    second[row + 3] += b3
    second[row + 4] += b4


@_inlined()
def _clear(array: FloatArray, n_rows: int, n_columns: int) -> None:
    for row in range(n_rows):
        for column in range(n_columns):
            array[row, column] = 0.0


@_Kernel
def _add_shell_sums(
    radial: _Radial,
    table: _Rows,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    moments: FloatArray,
    jacobian: FloatArray,
    sites: _Sites,
    block: _Block,
) -> bool:
    """Fill in moments (B, n, F, R, T) and jacobian (B, n, F, R, T, 3). False for a type that there is not."""
    n_functions, n_moments, n_rows = len(radial.kinds), len(table.raised), len(table.parents)
    values, slopes, rows, plain, steep = block.values, block.slopes, block.rows, block.plain, block.steep
    for frame in range(len(qm)):
        if not _sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], False, sites):
            return False
        for atom in range(qm.shape[1]):
            centre = qm[frame, atom]
            for kind in range(moments.shape[4]):
                _clear(plain, *plain.shape)
                _clear(steep, *steep.shape)
                count = _find_within(radial.cutoff, centre, kind, sites)
                for begin in range(0, count, _BLOCK):
                    size = _load(centre, sites, begin, min(begin + _BLOCK, count), block.pairs)
                    _radial_functions(radial, block, size)
                    for pair in range(size):
                        rows[0, pair] = block.pairs[3, pair]
                    _multiply_rows(table, n_rows, block.pairs, rows, size)
                    for index in range(0, n_functions, 2):
                        for row in range(0, n_moments, _GROUP):
                            _add_dots(values, index, rows, row, size, plain)
                        for row in range(0, n_rows, _GROUP):
                            _add_dots(slopes, index, rows, row, size, steep)
                for index in range(n_functions):
                    for row in range(n_moments):
                        moments[frame, atom, index, row, kind] = plain[index, row]
                        for y in range(3):
                            along = table.raised_by[row, y] * steep[index, table.raised[row, y]]
                            turning = table.lowered_by[row, y] * plain[index, table.lowered[row, y]]
                            jacobian[frame, atom, index, row, kind, y] = -2.0 * along - turning
    return True


# ---------------------------------------------------------------------------------------------------------- pull-back


@_inlined("contract", "reassoc", "nsz")
def _add_scaled(
    factors: FloatArray,
    rows: FloatArray,
    row: int,
    left: FloatArray,
    right: FloatArray,
    index: int,
    size: int,
    found: FloatArray,
) -> None:
    """Add linear combinations of a group of rows, times two of the left to found[3], of the right to found[4]."""
    a, b = factors[index], factors[index + 1]
    a0, a1, a2, a3, a4 = a[row], a[row + 1], a[row + 2], a[row + 3], a[row + 4]
    b0, b1, b2, b3, b4 = b[row], b[row + 1], b[row + 2], b[row + 3], b[row + 4]
    for pair in range(size):
        r0, r1, r2 = rows[row, pair], rows[row + 1, pair], rows[row + 2, pair]
        r3, r4 = rows[row + 3, pair], rows[row + 4, pair]
        first = (a0 * r0 + a1 * r1 + a2 * r2) + (a3 * r3 + a4 * r4)
        second = (b0 * r0 + b1 * r1 + b2 * r2) + (b3 * r3 + b4 * r4)
        found[3, pair] += left[index, pair] * first + left[index + 1, pair] * second
        found[4, pair] += right[index, pair] * first + right[index + 1, pair] * second


@_inlined("contract", "reassoc", "nsz")
def _add_turned(
    factors: FloatArray, rows: FloatArray, row: int, left: FloatArray, index: int, size: int, found: FloatArray
) -> None:
    """Add for each component a linear combination of a group of rows, times one of the left, to found."""
    x, y, z = factors[0, index], factors[1, index], factors[2, index]
    x0, x1, x2, x3, x4 = x[row], x[row + 1], x[row + 2], x[row + 3], x[row + 4]
    y0, y1, y2, y3, y4 = y[row], y[row + 1], y[row + 2], y[row + 3], y[row + 4]
    z0, z1, z2, z3, z4 = z[row], z[row + 1], z[row + 2], z[row + 3], z[row + 4]
    for pair in range(size):
        r0, r1, r2 = rows[row, pair], rows[row + 1, pair], rows[row + 2, pair]
        r3, r4 = rows[row + 3, pair], rows[row + 4, pair]
        value = left[index, pair]
        found[0, pair] += value * ((x0 * r0 + x1 * r1 + x2 * r2) + (x3 * r3 + x4 * r4))
        found[1, pair] += value * ((y0 * r0 + y1 * r1 + y2 * r2) + (y3 * r3 + y4 * r4))
        found[2, pair] += value * ((z0 * r0 + z1 * r1 + z2 * r2) + (z3 * r3 + z4 * r4))


@_inlined("contract", "reassoc", "nsz")
def _add_constant(factors: FloatArray, left: FloatArray, index: int, size: int, found: FloatArray) -> None:
    """`_add_turned` with the first row alone, which is 1, for all three components."""
    x0, y0, z0 = factors[0, index, 0], factors[1, index, 0], factors[2, index, 0]
    x1, y1, z1 = factors[0, index + 1, 0], factors[1, index + 1, 0], factors[2, index + 1, 0]
    for pair in range(size):
        a, b = left[index, pair], left[index + 1, pair]
        found[0, pair] += x0 * a + x1 * b
        found[1, pair] += y0 * a + y1 * b
        found[2, pair] += z0 * a + z1 * b


@_inlined("contract")
def _turn(table: _Rows, gradients: FloatArray, kind: int, factors: FloatArray, turned: FloatArray) -> None:
    """Copy gradients (F, R, T) to factors, and make of them what multiplies rows in the derivatives by components."""
    for index in range(gradients.shape[0]):
        for row in range(gradients.shape[1]):
            factors[index, row] = gradients[index, row, kind]
    for lower in range(table.n_lower):
        for y in range(3):
            # The only row whose derivative by this component is the lower one, times a factor.
            row = table.raised[lower, y]
            for index in range(gradients.shape[0]):
                turned[y, index, lower] = table.lowered_by[row, y] * factors[index, row]


@_inlined("contract")
def _scatter(pairs: FloatArray, found: FloatArray, sites: _Sites, begin: int, end: int, sums: FloatArray) -> None:
    """Add to some of the sites within the cutoff (K, 4) the derivatives by the vectors to them and by their weights."""
    size = end - begin
    for y in range(3):
        for pair in range(size):
            found[y, pair] += 2.0 * found[4, pair] * pairs[y, pair]
    for pair in range(size):
        place = sites.within[begin + pair]
        sums[place, 0] += found[0, pair]
        sums[place, 1] += found[1, pair]
        sums[place, 2] += found[2, pair]
        sums[place, 3] += found[3, pair]


@_Kernel
def _add_pull_back(
    radial: _Radial,
    table: _Rows,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
    sites: _Sites,
    block: _Block,
    sums: FloatArray,
) -> bool:
    """Add to by_site (C, B, K, 3) and by_weight (C, B, K). False for a type that there is not.

    Sums (C, K, 4) are for the derivatives of one frame, without the factors w_k.
    """
    n_functions, n_moments, n_members = len(radial.kinds), len(table.raised), len(gradients)
    values, slopes, rows, found = block.values, block.slopes, block.rows, block.found
    for pair in range(_BLOCK):
        rows[0, pair] = 1.0
    for frame in range(len(qm)):
        if not _sort_sites(radial.cutoff, qm[frame], mm[frame], weights[frame], types[frame], True, sites):
            return False
        n_sites = sites.starts[len(sites.starts) - 1]
        for member in range(n_members):
            _clear(sums[member], n_sites, 4)
        for atom in range(qm.shape[1]):
            centre = qm[frame, atom]
            for kind in range(gradients.shape[5]):
                count = _find_within(radial.cutoff, centre, kind, sites)
                for begin in range(0, count, _BLOCK):
                    end = min(begin + _BLOCK, count)
                    size = _load(centre, sites, begin, end, block.pairs)
                    _radial_functions(radial, block, size)
                    _multiply_rows(table, n_moments, block.pairs, rows, size)
                    for member in range(n_members):
                        _turn(table, gradients[member, frame, atom], kind, block.factors, block.turned)
                        _clear(found, len(found), size)
                        for index in range(0, n_functions, 2):
                            for row in range(0, n_moments, _GROUP):
                                _add_scaled(block.factors, rows, row, values, slopes, index, size, found)
                            if table.n_lower == 1:
                                _add_constant(block.turned, values, index, size, found)
                            else:
                                for row in range(0, table.n_lower, _GROUP):
                                    _add_turned(block.turned, rows, row, values, index, size, found)
                                    _add_turned(block.turned, rows, row, values, index + 1, size, found)
                        _scatter(block.pairs, found, sites, begin, end, sums[member])
        for member in range(n_members):
            for place in range(n_sites):
                site = sites.numbers[place]
                for y in range(3):
                    by_site[member, frame, site, y] += sites.table[3, place] * sums[member, place, y]
                by_weight[member, frame, site] += sums[member, place, 3]
    return True


# --------------------------------------------------------------------------------------------------------- to be used


def shell_sums(
    table: ShellTable, qm: FloatArray, mm: FloatArray, weights: FloatArray, types: IntArray, n_types: int
) -> tuple[FloatArray, FloatArray]:
    """`Shell.moments` and `Shell.jacobian` of monomials of vectors.

    Args:
        table: The functions.
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr.
        weights: Shape (B, K).
        types: Type of each site with weight, from 0 up, shape (B, K).
        n_types: Number of types T.

    Returns:
        Moments, shape (B, n, F, R, T), and their derivatives by the position of their atom, shape (B, n, F, R, T, 3).

    Raises:
        ValueError: Arrays of other shapes or kinds, or a type that there is not.
    """
    given = _checked(qm, mm, weights, types)
    moments = np.empty((*qm.shape[:2], table.n_functions, table.n_rows, n_types))
    jacobian = np.empty((*moments.shape, 3))
    room = _room(table, mm.shape[1], n_types)
    if not _add_shell_sums(table.radial, table.rows, *given, moments, jacobian, *room):
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")
    return moments, jacobian


def shell_pull_back(
    table: ShellTable,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    gradients: FloatArray,
    by_site: FloatArray,
    by_weight: FloatArray,
) -> None:
    """`Shell.pull_back` of monomials of vectors; what is found is added.

    Args:
        table: The functions.
        qm: Shape (B, n, 3), bohr.
        mm: Shape (B, K, 3), bohr; all sites or some.
        weights: Shape (B, K).
        types: Type of each site, from 0 up, shape (B, K).
        gradients: dE/d(moments) of C energies, shape (C, B, n, F, R, T).
        by_site: Gets dE/dr_k, shape (C, B, K, 3).
        by_weight: Gets dE/dw_k, shape (C, B, K).

    Raises:
        ValueError: Arrays of other shapes or kinds, or a type that there is not.
    """
    given = _checked(qm, mm, weights, types)
    n_members, n_types = gradients.shape[0], gradients.shape[-1]
    _check("the gradients", gradients, (n_members, *qm.shape[:2], table.n_functions, table.n_rows, n_types))
    for name, array, shape in (("by_site", by_site, mm.shape), ("by_weight", by_weight, weights.shape)):
        _check(name, array, (n_members, *shape))
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is added to in place: it must be contiguous.")
    room = _room(table, mm.shape[1], n_types)
    sums = np.empty((n_members, mm.shape[1], 4))
    given.append(np.ascontiguousarray(gradients))
    if not _add_pull_back(table.radial, table.rows, *given, by_site, by_weight, *room, sums):
        raise ValueError(f"the types of sites must be from 0 to {n_types - 1}.")


def tensor_sums(
    table: ShellTable, qm: Tensor, mm: Tensor, weights: Tensor, types: Tensor, n_types: int
) -> tuple[Tensor, Tensor]:
    """`shell_sums` of tensors on the CPU, without copies of contiguous ones."""
    moments, jacobian = shell_sums(table, _array(qm), _array(mm), _array(weights), _array(types), n_types)
    return torch.from_numpy(moments), torch.from_numpy(jacobian)


def tensor_pull_back(
    table: ShellTable, qm: Tensor, mm: Tensor, weights: Tensor, types: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """`shell_pull_back` of tensors on the CPU: the derivatives, as `Shell.pull_back` gives them."""
    by_site = np.zeros((len(gradients), *mm.shape))
    by_weight = np.zeros((len(gradients), *weights.shape))
    given = (_array(qm), _array(mm), _array(weights), _array(types), _array(gradients))
    shell_pull_back(table, *given, by_site, by_weight)
    return torch.from_numpy(by_site), torch.from_numpy(by_weight)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().numpy()


def _checked(qm: FloatArray, mm: FloatArray, weights: FloatArray, types: IntArray) -> list[npt.NDArray[Any]]:
    """Contiguous arrays of the right kinds and shapes: the loops look at nothing."""
    n_frames, n_sites = mm.shape[:2]
    _check("the QM positions", qm, (n_frames, qm.shape[1], 3))
    _check("the MM positions", mm, (n_frames, n_sites, 3))
    _check("the weights", weights, (n_frames, n_sites))
    _check("the types", types, (n_frames, n_sites), np.int64)
    return [np.ascontiguousarray(array) for array in (qm, mm, weights, types)]


def _check(name: str, array: npt.NDArray[Any], shape: tuple[int, ...], kind: type = np.float64) -> None:
    if array.shape != shape or array.dtype != kind:
        raise ValueError(
            f"{name} have shape {array.shape} and type {array.dtype}: {shape} and {kind.__name__} are needed."
        )


# ------------------------------------------------------------------------------------------------ between the QM atoms


@_Kernel
def _add_neighbour_pull_back(
    types: IntArray,
    vectors: FloatArray,
    inverse: FloatArray,
    rows: FloatArray,
    radial_slopes: FloatArray,
    values: FloatArray,
    slopes: FloatArray,
    by_radial: FloatArray,
    by_angular: FloatArray,
    lowered: IntArray,
    lowered_by: FloatArray,
    found: FloatArray,
) -> bool:
    n_members, n_frames, n_atoms = by_radial.shape[:3]
    n_radial, n_angular, n_rows = by_radial.shape[3], by_angular.shape[3], by_angular.shape[4]
    monomials, factors = np.empty(n_rows), np.empty(n_rows)
    unit, turning = np.empty(3), np.empty(3)
    for frame in range(n_frames):
        for atom in range(n_atoms):
            for other in range(n_atoms):
                if other == atom:
                    continue
                kind = types[other]
                reciprocal = inverse[frame, atom, other]
                for axis in range(3):
                    unit[axis] = vectors[frame, atom, axis, other] * reciprocal
                for row in range(n_rows):
                    monomials[row] = rows[frame, atom, row, other]
                for member in range(n_members):
                    steep = 0.0
                    for index in range(n_radial):
                        steep += (
                            by_radial[member, frame, atom, index, 0, kind] * radial_slopes[frame, atom, index, other]
                        )
                    factors[:] = 0.0
                    for index in range(n_angular):
                        value, slope = values[frame, atom, index, other], slopes[frame, atom, index, other]
                        total = 0.0
                        for row in range(n_rows):
                            gradient = by_angular[member, frame, atom, index, row, kind]
                            total += gradient * monomials[row]
                            factors[row] += gradient * value
                        steep += total * slope
                    along = 0.0
                    for axis in range(3):
                        turning[axis] = 0.0
                        for row in range(1, n_rows):
                            turning[axis] += factors[row] * lowered_by[row, axis] * monomials[lowered[row, axis]]
                        along += turning[axis] * unit[axis]
                    for axis in range(3):
                        # Along itself a vector does not change its direction.
                        part = (turning[axis] - along * unit[axis]) * reciprocal
                        part += 2.0 * steep * vectors[frame, atom, axis, other]
                        found[member, frame, other, axis] += part
                        found[member, frame, atom, axis] -= part
    return True


def neighbour_pull_back(neighbours: Neighbours, radial: Tensor, angular: Tensor) -> Tensor:
    """`Neighbours.pull_back` in float64 on the CPU.

    Args:
        neighbours: The QM atoms of B frames.
        radial: dE/d(moments) of the radial functions of C energies, shape (C, B, n, F, 1, E).
        angular: Of the angular functions, shape (C, B, n, F', R, E).

    Returns:
        dE/dR, shape (C, B, n, 3), hartree/bohr.
    """
    shell = neighbours.angular
    if shell.inverse is None:
        raise ValueError("the rows of the angular functions must be of directions.")
    table = _row_table(shell.rank)
    found = np.zeros((*radial.shape[:3], 3))
    given = (shell.vectors, shell.inverse, shell.rows, neighbours.radial.slopes, shell.values, shell.slopes)
    tensors = (shell.types[0].argmax(dim=0), *given, radial, angular)
    arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
    _add_neighbour_pull_back(*arrays, table.lowered, table.lowered_by, found)
    return torch.from_numpy(found)
