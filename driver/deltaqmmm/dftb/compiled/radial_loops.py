"""Functions of one distance and their derivatives: integrals, repulsion and gamma (see `radial` and `gamma`)."""

from __future__ import annotations

import math

from deltaqmmm.dftb.compiled.tables import GammaTable, PairTable
from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray


@inlined("contract")
def integrals(pairs: PairTable, pair: int, distance: float, values: FloatArray, slopes: FloatArray) -> None:
    """Values and derivatives of all integrals of a pair: the Hamiltonian's channels, then those of the overlap."""
    width = 2 * pairs.n_channels[pair]
    interval = pairs.n_inner[pair] + 1
    if distance < pairs.cutoffs[pair]:
        interval = min(int(distance * pairs.inverse_spacing[pair]), pairs.n_inner[pair])
    place = pairs.offsets[pair] + interval
    scale = pairs.inverse_width[place]
    x = (distance - pairs.left[place]) * scale
    start = pairs.starts[pair] + 8 * width * interval
    for channel in range(width):
        values[channel] = pairs.coefficients[start + 7 * width + channel]
        slopes[channel] = 0.0
    for power in range(6, -1, -1):
        for channel in range(width):
            slopes[channel] = slopes[channel] * x + values[channel]
            values[channel] = values[channel] * x + pairs.coefficients[start + power * width + channel]
    for channel in range(width):
        slopes[channel] *= scale


@inlined("contract")
def repulsion(pairs: PairTable, pair: int, distance: float) -> tuple[float, float]:
    """The repulsive energy of a pair, and its derivative."""
    knots = pairs.knots[pair]
    if distance < knots[0]:
        head = pairs.heads[pair]
        value = math.exp(head[1] - head[0] * distance)
        return value + head[2], -head[0] * value
    interval = 0
    while interval + 1 < len(knots) and distance >= knots[interval + 1]:
        interval += 1
    x = distance - pairs.origins[pair, interval]
    coefficients = pairs.repulsion[pair, interval]
    value, slope = coefficients[-1], 0.0
    for power in range(len(coefficients) - 2, -1, -1):
        slope = slope * x + value
        value = value * x + coefficients[power]
    return value, slope


@inlined("contract")
def gammas(table: GammaTable, pair: int, r: float, values: FloatArray, slopes: FloatArray) -> None:
    """gamma, d gamma/dU_a and d gamma/dU_b of a pair, and their derivatives by the distance."""
    inverse = 1.0 / r
    for kind in range(3):
        values[kind] = slopes[kind] = 0.0
    for cloud in range(2):
        exponent = table.exponents[cloud, pair]
        factor = math.exp(-exponent * r) * inverse
        for kind in range(3):
            coefficients = table.coefficients[cloud, pair, kind]
            value, slope = coefficients[-1], 0.0
            for power in range(len(coefficients) - 2, -1, -1):
                slope = slope * r + value
                value = value * r + coefficients[power]
            values[kind] += factor * value
            slopes[kind] += factor * (slope - (exponent + inverse) * value)
    damping, damping_slope = table.damping[pair], table.damping_slope[pair]
    damp = math.exp(-damping * r * r)
    for kind in range(3):
        slopes[kind] = damp * (slopes[kind] - 2.0 * damping * r * values[kind])
        values[kind] *= damp
    # The damping function itself depends on both Hubbard values alike.
    by_damping = damping_slope * r * r * values[0]
    by_damping_slope = damping_slope * (2.0 * r * values[0] + r * r * slopes[0])
    for kind in range(1, 3):
        values[kind] = by_damping - values[kind]
        slopes[kind] = by_damping_slope - slopes[kind]
    values[0], slopes[0] = inverse - values[0], -inverse * inverse - slopes[0]
