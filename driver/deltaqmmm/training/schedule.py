"""Which frames are learned from when, by which member, and how fast."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.training.settings import TrainingSettings


def pieces(indices: Tensor, size: int) -> list[Tensor]:
    """The indices in their order, so many at a time."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """A short rise, then half a cosine down to a hundredth of the first value."""
    rise = min(1.0, (epoch + 1) / 5)
    progress = epoch / max(settings.epochs - 1, 1)
    return settings.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def held_out_frames(count: int, settings: TrainingSettings) -> Tensor:
    """Which frames each member does not learn from, shape (C, F): disjoint sets while there are enough frames."""
    size = min(max(1, round(settings.validation_fraction * count)), count - 1)
    order = np.random.default_rng(settings.seed).permutation(count)
    held = torch.zeros(settings.members, count, dtype=torch.bool)
    for member in range(settings.members):
        held[member, torch.as_tensor(order[(member * size + np.arange(size)) % count])] = True
    return held
