"""The weight of an MM group: a smooth minimum of distances, and a switch."""

from __future__ import annotations

import torch
from torch import Tensor


def quintic_switch(distances: Tensor, inner: float, outer: float) -> Tensor:
    """Switch from 1 to 0 with continuous first and second derivatives.

    S = 1 - x^3 (10 - 15 x + 6 x^2), x = (d - inner) / (outer - inner), clamped to [0, 1].

    Args:
        distances: d, any shape, bohr.
        inner: Where S leaves 1, bohr.
        outer: Where S reaches 0, bohr.

    Returns:
        S, of the shape of `distances`, between 0 and 1.
    """
    x = ((distances - inner) / (outer - inner)).clamp(0.0, 1.0)
    return 1.0 - x**3 * (10.0 + x * (6.0 * x - 15.0))


def smooth_minimum(values: Tensor, sharpness: float, dim: int) -> Tensor:
    """Smooth minimum over one dimension: -ln(sum_a exp(-beta v_a)) / beta.

    It is below the smallest of n values by at most ln(n) / beta, and exact for one value.

    Args:
        values: v, any shape.
        sharpness: beta, in the inverse unit of the values.
        dim: The dimension that is reduced.

    Returns:
        The smooth minimum, with `dim` removed.
    """
    return -torch.logsumexp(-sharpness * values, dim=dim) / sharpness
