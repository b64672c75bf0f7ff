"""The images that are found, and the room in which they are sought."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.results import FloatArray, IntArray

BLOCK = 256
"""Groups, candidates or sites at a time."""


class Images(NamedTuple):
    """The group images that count in each of B frames, ordered by group; there is room for I of them in each frame.

    Attributes:
        groups: Shape (B, I).
        shifts: Lattice shift of each from where its reference atom is given, shape (B, I, 3).
        weights: Shape (B, I).
        slots: Where the slopes of each image in the switch are, -1 for one with the weight 1, shape (B, I).
        slopes: For each slot, s_a of dw/dR_a = s_a (R_a - r) and dw/dr = -sum_a s_a (R_a - r), with r the position of
            the reference atom of its image, shape (B, n, I), 1/bohr^2.
        counts: Candidates, images, sites and slots of each frame, shape (B, 4). Nothing else is there to be read if one
            of the first two is larger than I.
    """

    groups: IntArray
    shifts: FloatArray
    weights: FloatArray
    slots: IntArray
    slopes: FloatArray
    counts: IntArray


class Room(NamedTuple):
    """Room for the groups of a block and for the candidates of one frame.

    Attributes:
        points: Some groups: x, y, z from the centre, and for `weigh` two more, shape (5, block).
        squares: Squared distances from the centre, 0 for a group that may have other images, shape (block,).
        kept: The groups of a block that are looked at further, shape (block,).
        places: x, y, z of the candidates, and their shifts in the reduced basis, shape (6, I).
        groups: Their groups, shape (I,).
        nearest: Squared distance of each from the nearest QM atom, shape (I,).
        weights: Shape (I,).
        slots: Shape (I,).
        shell: The candidates that may be in the switch, shape (I + 1,).
        terms: Terms of their smooth minimum, shape (block,).
    """

    points: FloatArray
    squares: FloatArray
    kept: IntArray
    places: FloatArray
    groups: IntArray
    nearest: FloatArray
    weights: FloatArray
    slots: IntArray
    shell: IntArray
    terms: FloatArray


def image_room(n_frames: int, capacity: int, n_qm: int) -> Images:
    """Room for so many images in each of B frames."""
    return Images(
        groups=np.empty((n_frames, capacity), dtype=np.int64),
        shifts=np.empty((n_frames, capacity, 3)),
        weights=np.empty((n_frames, capacity)),
        slots=np.empty((n_frames, capacity), dtype=np.int64),
        slopes=np.empty((n_frames, n_qm, capacity)),
        counts=np.zeros((n_frames, 4), dtype=np.int64),
    )


def search_room(capacity: int) -> Room:
    """Room for so many candidates. Allocated here: in the compiled loops it would take seconds to compile."""
    return Room(
        points=np.empty((5, BLOCK)),
        squares=np.empty(BLOCK),
        kept=np.empty(BLOCK + 1, dtype=np.int64),
        places=np.empty((6, capacity)),
        groups=np.empty(capacity, dtype=np.int64),
        nearest=np.empty(capacity),
        weights=np.empty(capacity),
        slots=np.empty(capacity, dtype=np.int64),
        shell=np.empty(capacity + 1, dtype=np.int64),
        terms=np.empty(BLOCK),
    )
