"""Remembers converged charges along trajectories, so that the next calculation starts near its end."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

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

    excess: Tensor
    screening: Tensor | None
    descriptors: Tensor
    history: Tensor
    length: Tensor


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
        self._depth = depth
        self._descriptors: Tensor | None = None
        self._excess: Tensor | None = None
        self._screening: Tensor | None = None
        self._length: Tensor | None = None

    def recall(self, descriptors: Tensor, default: Tensor) -> Recollection:
        """Predict the charges of B frames.

        Args:
            descriptors: What the charges are functions of, shape (B, F).
            default: Excess electrons where nothing is remembered, shape (B, n).
        """
        n_frames = len(descriptors)
        if self._descriptors is None or self._excess is None or self._length is None:
            before = descriptors.new_zeros(n_frames, self._depth - 1, descriptors.shape[1])
            history = default.new_zeros(n_frames, self._depth - 1, default.shape[1])
            length = torch.ones(n_frames, dtype=torch.int64, device=default.device)
            return Recollection(default, None, torch.cat([descriptors[:, None], before], 1), history, length)
        nearest = torch.cdist(descriptors, self._descriptors[:, 0]).argmin(dim=1)
        past, excess, length = self._descriptors[nearest], self._excess[nearest], self._length[nearest]
        return Recollection(
            excess=_extrapolate(descriptors, past, excess, length),
            screening=None if self._screening is None else self._screening[nearest],
            descriptors=torch.cat([descriptors[:, None], past[:, :-1]], dim=1),
            history=excess[:, :-1],
            length=(length + 1).clamp(max=self._depth),
        )

    def store(self, recollection: Recollection, excess: Tensor, screening: Tensor) -> None:
        """Remember the outcome for the B frames of a recollection; the oldest trajectories are forgotten.

        Args:
            recollection: What `recall` gave for them.
            excess: Converged excess electrons, shape (B, n).
            screening: Inverse dielectric matrices, shape (B, n, n).
        """
        # All frames of the newest batch are kept, however large it is.
        capacity = max(self._capacity, len(excess))
        self._descriptors = _newest(self._descriptors, recollection.descriptors, capacity)
        self._excess = _newest(self._excess, torch.cat([excess[:, None], recollection.history], dim=1), capacity)
        self._screening = _newest(self._screening, screening, capacity)
        self._length = _newest(self._length, recollection.length, capacity)


def _newest(old: Tensor | None, new: Tensor, capacity: int) -> Tensor:
    room = capacity - len(new)
    return new.clone() if old is None or room == 0 else torch.cat([old[-room:], new])


def _extrapolate(descriptors: Tensor, past: Tensor, excess: Tensor, length: Tensor) -> Tensor:
    """Charges (B, n) of frames with descriptors (B, F) from pasts (B, K, F) and (B, K, n), of which `length` count."""
    depth = past.shape[1]
    differences = _backward_differences(depth, past)
    # At most half as many coefficients as numbers to fit: three atoms have few.
    known = torch.arange(1, depth, device=past.device) <= (length[:, None] - 1).clamp(max=past.shape[2] // 2)
    steps = (differences @ past) * known[..., None]
    gap = descriptors - past[:, 0]
    # Rows of unit length make the normal matrix independent of how small the differences are.
    scale = steps.norm(dim=-1, keepdim=True).clamp(min=1e-150)
    rows = steps / scale
    normal = rows @ rows.mT
    normal.diagonal(dim1=1, dim2=2).add_(REGULARISATION)
    coefficients = torch.linalg.solve_ex(normal, rows @ gap[..., None]).result / scale
    left = gap - (steps * coefficients).sum(1)
    trusted = (left.norm(dim=-1) <= EXPLAINED * gap.norm(dim=-1)) & (
        coefficients.abs().amax(dim=(1, 2)) <= LARGEST_COEFFICIENT
    )
    change = (coefficients * (differences @ excess)).sum(1)
    return excess[:, 0] + torch.where(trusted[:, None], change, torch.zeros_like(change))


def _backward_differences(depth: int, like: Tensor) -> Tensor:
    """The matrix that takes values of the last frames to their differences of order 1 ... depth - 1."""
    rows = [[(-1.0) ** k * comb(order, k) for k in range(depth)] for order in range(1, depth)]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
