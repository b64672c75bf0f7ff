"""The potentials of a block of charges at the QM atoms, and the way back: what `pairs.charge_potentials` does."""

from __future__ import annotations

import math

from deltaqmmm.embedding.frames import CLOSEST_APPROACH
from deltaqmmm.jit import inlined, inverse_root
from deltaqmmm.results import FloatArray

N_ROWS = 10
"""Rows of a block of sites: x, y, z, charge, derivatives by these four, and two for the kernel of a blurred charge."""
_CLOSEST_SQUARE = CLOSEST_APPROACH**2

_SHARP = 6.5
"""From so many widths on, a blurred charge is a point charge in double precision."""
_BELL = 2.0 / math.sqrt(math.pi)


@inlined("contract", "reassoc", "nsz")
def point_potential(x: float, y: float, z: float, size: int, block: FloatArray) -> tuple[float, int]:
    """The potential of point charges at one place, and how many of them lie there."""
    total, n_close = 0.0, 0
    for k in range(size):
        squared = (block[0, k] - x) ** 2 + (block[1, k] - y) ** 2 + (block[2, k] - z) ** 2
        total += block[3, k] * inverse_root(squared)
        n_close += int(squared < _CLOSEST_SQUARE)
    return total, n_close


@inlined("contract")
def fill_blurred(width: float, x: float, y: float, z: float, size: int, block: FloatArray) -> int:
    """Kernels f = erf(r / width) / r and slopes -f' / r of the charges of a block; how many of them lie there."""
    n_close = 0
    for k in range(size):
        squared = (block[0, k] - x) ** 2 + (block[1, k] - y) ** 2 + (block[2, k] - z) ** 2
        n_close += int(squared < _CLOSEST_SQUARE)
        inverse = 1.0 / math.sqrt(squared)
        block[8, k] = inverse
        block[9, k] = inverse * inverse * inverse
    for k in range(size):
        inverse = block[8, k]
        if inverse * width * _SHARP > 1.0:
            scaled = 1.0 / (width * inverse)
            kernel = math.erf(scaled) * inverse
            block[8, k] = kernel
            block[9, k] = (kernel - _BELL / width * math.exp(-scaled * scaled)) * inverse * inverse
    return n_close


@inlined("contract", "reassoc", "nsz")
def blurred_potential(size: int, block: FloatArray) -> float:
    """The potential of charges whose kernels have been filled in."""
    total = 0.0
    for k in range(size):
        total += block[3, k] * block[8, k]
    return total


@inlined("contract", "reassoc", "nsz")
def pull_back_points(
    given: float, x: float, y: float, z: float, size: int, block: FloatArray
) -> tuple[float, float, float]:
    """Add the derivatives by the sites of a block, and return those by the place; given is dL/dphi there."""
    a = b = c = 0.0
    for k in range(size):
        u, v, w = x - block[0, k], y - block[1, k], z - block[2, k]
        inverse = inverse_root(u * u + v * v + w * w)
        part = given * inverse
        block[7, k] += part
        part *= block[3, k] * (inverse * inverse)
        u, v, w = part * u, part * v, part * w
        block[4, k] += u
        block[5, k] += v
        block[6, k] += w
        a -= u
        b -= v
        c -= w
    return a, b, c


@inlined("contract", "reassoc", "nsz")
def pull_back_blurred(
    given: float, x: float, y: float, z: float, size: int, block: FloatArray
) -> tuple[float, float, float]:
    """Likewise, where the kernels have been filled in."""
    a = b = c = 0.0
    for k in range(size):
        block[7, k] += given * block[8, k]
        part = given * block[3, k] * block[9, k]
        u, v, w = part * (x - block[0, k]), part * (y - block[1, k]), part * (z - block[2, k])
        block[4, k] += u
        block[5, k] += v
        block[6, k] += w
        a -= u
        b -= v
        c -= w
    return a, b, c
