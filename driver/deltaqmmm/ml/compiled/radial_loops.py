"""Radial functions and monomials of many pairs at a time."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.jit import inlined
from deltaqmmm.ml.compiled.tables import Block, RadialTable, RowTable
from deltaqmmm.ml.functions import KINDS
from deltaqmmm.results import FloatArray

_G1, _G2, _G3 = (KINDS.index(kind) for kind in ("g1", "g2", "g3"))

# exp(-x) = 2^n exp(s), |s| < 0.35; adding the shifter rounds to integers, which are then its lowest bits.
_SHIFTER = 1.5 * 2.0**52
_LOG2_E = 1.4426950408889634
_LN_2_HIGH, _LN_2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_TAYLOR = tuple(1.0 / math.factorial(power) for power in range(14))
_SMALLEST_EXPONENT, _EXPONENT_BIT = -700.0, 52
_TINY = 1e-200


@inlined("contract")  # reassociation would undo the rounding
def exponential(work: FloatArray, found: FloatArray, index: int, size: int) -> None:
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


@inlined("contract")
def radial_functions(radial: RadialTable, block: Block, size: int) -> None:
    """Values and slopes; see `functions.radial_values_and_slopes`."""
    pairs, common, gaussians, values, slopes = block.pairs, block.common, block.gaussians, block.values, block.slopes
    scale = 1.0 / radial.cutoff**2
    for pair in range(size):
        ratio = pairs[4, pair] * scale
        power = ratio * ratio
        inside = 1.0 - power * ratio
        # Nothing beyond the cutoff; what is not a number stays so.
        inside = 0.0 if inside < 0.0 else inside
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
                exponential(common, gaussians, index, size)
            for pair in range(size):
                values[index, pair] = gaussians[index, pair] * common[1, pair]
                slopes[index, pair] = gaussians[index, pair] * common[2, pair] - eta * values[index, pair]
            if shift != 0.0:
                for pair in range(size):
                    slopes[index, pair] += eta * shift / common[3, pair] * values[index, pair]


@inlined("contract")
def multiply_rows(table: RowTable, n_rows: int, pairs: FloatArray, rows: FloatArray, size: int) -> None:
    """All rows after the first one, which multiplies them."""
    for row in range(1, n_rows):
        parent, along, factor = table.parents[row], table.along[row], table.factors[row]
        for pair in range(size):
            rows[row, pair] = rows[parent, pair] * (factor * pairs[along, pair])
