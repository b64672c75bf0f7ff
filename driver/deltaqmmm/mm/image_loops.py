"""Molecules that are whole brought near the home cell, by compiled loops: these leave Python to the other frames."""

from __future__ import annotations

import math

import numpy as np

from deltaqmmm.jit import Kernel
from deltaqmmm.results import FloatArray, IntArray

STRAY = 0.5
"""How far, in cell lengths, a molecule may leave the home cell before it is moved back."""


@Kernel
def place(
    positions: FloatArray,
    box: FloatArray,
    inverse: FloatArray,
    molecules: tuple[IntArray, IntArray],
    bonds: IntArray,
    safe_square: float,
    remembers: bool,
    last: FloatArray,
    shifts: FloatArray,
    found: FloatArray,
) -> bool:
    """Fill in the positions of whole molecules near the home cell; False where a bond may not be its shortest image.

    Args:
        positions: Shape (N, 3), bohr.
        box: Lattice vectors as rows, shape (3, 3), bohr.
        inverse: Its inverse, 1/bohr.
        molecules: The first atom of each of the M molecules, shape (M,), and the molecule of each atom, shape (N,).
        bonds: Pairs of atoms that hold the molecules together, shape (P, 2).
        safe_square: Up to this squared length a vector is its own shortest image, bohr^2.
        remembers: Whether `last` holds the frame before.
        last: Fractional coordinates of the first atoms, as they were placed, shape (M, 3); those of this frame replace
            them.
        shifts: Room for the vectors by which molecules are moved, shape (M, 3).
        found: Gets the positions, shape (N, 3), bohr.
    """
    first_atoms, molecule_of = molecules
    for bond in range(len(bonds)):
        one, other = positions[bonds[bond, 0]], positions[bonds[bond, 1]]
        x, y, z = one[0] - other[0], one[1] - other[1], one[2] - other[2]
        if x * x + y * y + z * z > safe_square:
            return False
    for molecule in range(len(first_atoms)):
        root, moved, before = positions[first_atoms[molecule]], shifts[molecule], last[molecule]
        stray = False
        for axis in range(3):
            fraction = root[0] * inverse[0, axis] + root[1] * inverse[1, axis] + root[2] * inverse[2, axis]
            moved[axis] = np.rint(fraction - before[axis]) if remembers else math.floor(fraction)
            before[axis] = fraction
            stray |= abs(fraction - moved[axis] - 0.5) > 0.5 + STRAY
        a, b, c = moved[0], moved[1], moved[2]
        if stray:
            a, b, c = math.floor(before[0]), math.floor(before[1]), math.floor(before[2])
        before[0] -= a
        before[1] -= b
        before[2] -= c
        for axis in range(3):
            moved[axis] = a * box[0, axis] + b * box[1, axis] + c * box[2, axis]
    for atom in range(len(positions)):
        moved = shifts[molecule_of[atom]]
        for axis in range(3):
            found[atom, axis] = positions[atom, axis] - moved[axis]
    return True
