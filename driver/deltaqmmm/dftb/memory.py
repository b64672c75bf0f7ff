"""Remembers converged charges, so that the next calculation starts near its end."""

from __future__ import annotations

import torch
from torch import Tensor


class ChargeMemory:
    """The charges of the last frames, found again by geometry.

    Frames are compared by their interatomic distances, which neither rotation nor translation changes. i-PI does not
    say which bead or replica a frame belongs to, so geometry is the only key.
    """

    def __init__(self, capacity: int = 128) -> None:
        """Keep the last `capacity` frames."""
        self._capacity = capacity
        self._distances: Tensor | None = None
        self._charges: Tensor | None = None

    def recall(self, distances: Tensor, default: Tensor) -> Tensor:
        """Charges of the nearest remembered frame, shape (B, n), or `default` where there is none.

        Args:
            distances: Pair distances of the B frames, shape (B, P), bohr.
            default: Shape (B, n).
        """
        if self._distances is None or self._charges is None:
            return default
        nearest = torch.cdist(distances, self._distances).argmin(dim=1)
        return self._charges[nearest]

    def store(self, distances: Tensor, charges: Tensor) -> None:
        """Remember B frames; the oldest are forgotten."""
        # All frames of the newest batch are kept, however large it is.
        capacity = max(self._capacity, len(charges))
        if self._distances is not None and self._charges is not None:
            distances = torch.cat([self._distances, distances])
            charges = torch.cat([self._charges, charges])
        self._distances, self._charges = distances[-capacity:].clone(), charges[-capacity:].clone()
