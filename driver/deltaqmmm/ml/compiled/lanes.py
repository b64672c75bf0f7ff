"""Derivatives of several members' energies side by side.

What leads from features back to positions is the same for all C members. Their numbers lie next to each other, in the
last axis, of four, with the G groups of four in the first one: each part of the way is found once for all of a group.
"""

from __future__ import annotations

import numpy as np

from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

MEMBERS = 4
"""Members side by side; groups of as many are filled up with zeros."""


def n_groups(n_members: int) -> int:
    """Groups for so many members."""
    return -(-n_members // MEMBERS)


def by_member(array: FloatArray, n_members: int) -> FloatArray:
    """From (G, ..., 4) to (C, ...)."""
    members = np.moveaxis(array, -1, 1)
    return members.reshape(len(array) * MEMBERS, *members.shape[2:])[:n_members]


@inlined("contract")
def add(found: FloatArray, to: int, factor: float, given: FloatArray, of: int) -> None:
    """Add a factor times one row of what is given (F, 4) to one row of what is found (R, 4)."""
    a = found[to, 0] + factor * given[of, 0]
    b = found[to, 1] + factor * given[of, 1]
    c = found[to, 2] + factor * given[of, 2]
    d = found[to, 3] + factor * given[of, 3]
    found[to, 0], found[to, 1], found[to, 2], found[to, 3] = a, b, c, d


@inlined()
def put(found: FloatArray, to: int, given: FloatArray, of: int) -> None:
    """Set one row to another."""
    a, b, c, d = given[of, 0], given[of, 1], given[of, 2], given[of, 3]
    found[to, 0], found[to, 1], found[to, 2], found[to, 3] = a, b, c, d


@inlined()
def clear_rows(found: FloatArray, begin: int, end: int) -> None:
    """Set rows to zero."""
    for row in range(begin, end):
        found[row, 0] = found[row, 1] = found[row, 2] = found[row, 3] = 0.0
