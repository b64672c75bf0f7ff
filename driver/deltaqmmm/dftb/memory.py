"""Remembers converged charges along trajectories, so that the next calculation starts near its end."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TypeVar, cast

import numpy as np

from deltaqmmm.results import FloatArray, IntArray

_Array = TypeVar("_Array", FloatArray, IntArray)

DEPTH = 8
"""Frames of a trajectory that a prediction is made from. More gave no better ones for 12 to 63 atoms at 0.5 fs."""
REGULARISATION = 1e-10
"""Added to the unit diagonal of the normal equations: differences of high order are nearly parallel."""
LARGEST_COEFFICIENT = 20.0
"""A polynomial in time has coefficients 1. Far larger ones mean that the frames do not follow from each other."""
EXPLAINED = 0.5
"""Share of the distance to the last frame above which what the fit leaves open discredits it."""


@dataclass(frozen=True)
class Recollection:
    """What is remembered about the B frames of a batch.

    Attributes:
        excess: Predicted excess electrons, shape (B, n).
        screening: The inverse dielectric matrices of the last frames, shape (B, n, n); None where nothing is known.
        descriptors: Of these frames and those before them, latest first, shape (B, K, F).
        history: Excess electrons of the frames before them, shape (B, K - 1, n).
        length: How many of the K frames there are, these included, shape (B,).
    """

    excess: FloatArray
    screening: FloatArray | None
    descriptors: FloatArray
    history: FloatArray
    length: IntArray


class TrajectoryMemory:
    """The last frames of every trajectory that a run follows, found again by geometry.

    i-PI does not say which bead or replica a frame belongs to, so geometry is the only key: a frame continues the
    trajectory whose last frame is nearest in its descriptor. The charges are then extrapolated by the combination of
    backward differences of that trajectory that carries the descriptors of the past to the present one (least
    squares). For equal time steps this is a polynomial extrapolation or better; it assumes nothing on the steps, and
    where it does not fit, the charges of the last frame are taken.
    """

    def __init__(self, capacity: int = 128, depth: int = DEPTH) -> None:
        """Keep the last `capacity` trajectories, `depth` frames of each."""
        self._capacity = capacity
        self._differences = _backward_differences(depth)
        self._depth = depth
        self._descriptors: FloatArray | None = None
        self._excess: FloatArray | None = None
        self._screening: FloatArray | None = None
        self._length: IntArray | None = None

    def recall(self, descriptors: FloatArray, default: FloatArray) -> Recollection:
        """Predict the charges of B frames.

        Args:
            descriptors: What the charges are functions of, shape (B, F).
            default: Excess electrons where nothing is remembered, shape (B, n).
        """
        n_frames = len(descriptors)
        if self._descriptors is None or self._excess is None or self._length is None:
            past = np.zeros((n_frames, self._depth, descriptors.shape[1]))
            past[:, 0] = descriptors
            history = np.zeros((n_frames, self._depth - 1, default.shape[1]))
            return Recollection(default, None, past, history, np.ones(n_frames, dtype=np.int64))
        nearest = _nearest(descriptors, self._descriptors[:, 0])
        past, excess, length = self._descriptors[nearest], self._excess[nearest], self._length[nearest]
        return Recollection(
            excess=self._extrapolate(descriptors, past, excess, length),
            screening=None if self._screening is None else self._screening[nearest],
            descriptors=np.concatenate([descriptors[:, None], past[:, :-1]], axis=1),
            history=excess[:, :-1],
            length=np.minimum(length + 1, self._depth),
        )

    def store(self, recollection: Recollection, excess: FloatArray, screening: FloatArray) -> None:
        """Remember the outcome for the B frames of a recollection; the oldest trajectories are forgotten.

        Args:
            recollection: What `recall` gave for them.
            excess: Converged excess electrons, shape (B, n).
            screening: Inverse dielectric matrices, shape (B, n, n).
        """
        # All frames of the newest batch are kept, however large it is.
        capacity = max(self._capacity, len(excess))
        self._descriptors = _newest(self._descriptors, recollection.descriptors, capacity)
        chain = np.concatenate([excess[:, None], recollection.history], axis=1)
        self._excess = _newest(self._excess, chain, capacity)
        self._screening = _newest(self._screening, screening, capacity)
        self._length = _newest(self._length, recollection.length, capacity)

    def _extrapolate(
        self, descriptors: FloatArray, past: FloatArray, excess: FloatArray, length: IntArray
    ) -> FloatArray:
        """Charges (B, n) from descriptors (B, F) and pasts (B, K, F) and (B, K, n), of which `length` count."""
        # At most half as many coefficients as numbers to fit: three atoms have few.
        known = np.arange(1, self._depth) <= np.minimum(length[:, None] - 1, past.shape[2] // 2)
        steps = (self._differences @ past) * known[..., None]
        gap = descriptors - past[:, 0]
        # Rows of unit length make the normal matrix independent of how small the differences are.
        scale = np.maximum(np.sqrt(np.einsum("bkf,bkf->bk", steps, steps)), 1e-150)
        rows = steps / scale[..., None]
        normal = rows @ rows.transpose(0, 2, 1)
        normal += REGULARISATION * np.eye(self._depth - 1)
        coefficients = np.linalg.solve(normal, rows @ gap[..., None])[..., 0] / scale
        left = gap - np.einsum("bkf,bk->bf", steps, coefficients)
        trusted = np.linalg.norm(left, axis=1) <= EXPLAINED * np.linalg.norm(gap, axis=1)
        trusted &= np.abs(coefficients).max(axis=1) <= LARGEST_COEFFICIENT
        change = np.einsum("bkn,bk->bn", self._differences @ excess, coefficients)
        predicted: FloatArray = excess[:, 0] + np.where(trusted[:, None], change, 0.0)
        return predicted


def _nearest(points: FloatArray, others: FloatArray) -> IntArray:
    """Index of the nearest of the others, for each point."""
    squares = np.einsum("ij,ij->i", others, others) - 2.0 * (points @ others.T)
    found: IntArray = squares.argmin(axis=1)
    return found


def _newest(old: _Array | None, new: _Array, capacity: int) -> _Array:
    room = capacity - len(new)
    return cast(_Array, new.copy() if old is None or room == 0 else np.concatenate([old[-room:], new]))


def _backward_differences(depth: int) -> FloatArray:
    """The matrix that takes values of the last frames to their differences of order 1 ... depth - 1."""
    return np.array([[(-1.0) ** k * comb(order, k) for k in range(depth)] for order in range(1, depth)])
