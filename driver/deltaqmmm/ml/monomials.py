"""Products of the components of a vector, and how they are raised and differentiated.

The rows up to rank L are sqrt(n! / (a! b! c!)) x^a y^b z^c for all a + b + c = n <= L, rank after rank, x before y
before z. With these factors the scalar product of the rows of one rank of two vectors is (d . d')^n, and turns with
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


@cache
def _exponents(rank: int) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (n - m, m - c, c) for n in range(rank + 1) for m in range(n + 1) for c in range(m + 1)
    )  # m of the n factors are not x, and c of these are z


def _norm(exponents: Sequence[int]) -> float:
    return math.sqrt(math.factorial(sum(exponents)) / math.prod(map(math.factorial, exponents)))


def n_rows(rank: int) -> int:
    """Number of rows up to a rank: 1, 4, 10, 20, ..."""
    return len(_exponents(rank))


def rank_of(count: int) -> int:
    """The rank with so many rows up to it; the inverse of `n_rows`."""
    return next(rank for rank in range(count) if n_rows(rank) == count)


def first_row(rank: int) -> int:
    """Where the rows of a rank begin."""
    return len(_exponents(rank - 1)) if rank > 0 else 0


def rows_of(vectors: Tensor, rank: int, axis: int) -> Tensor:
    """All rows up to a rank.

    Args:
        vectors: Three components along an axis.
        rank: The highest rank.
        axis: Which axis; the result has the rows there.
    """
    components = vectors.unbind(dim=axis)
    found: dict[tuple[int, int, int], Tensor] = {(0, 0, 0): torch.ones_like(components[0])}
    for exponents in _exponents(rank)[1:]:
        along = max(place for place in range(3) if exponents[place])
        parent = (
            exponents[0] - (along == 0),
            exponents[1] - (along == 1),
            exponents[2] - (along == 2),
        )
        factor = _norm(exponents) / _norm(parent)
        product = found[parent] * components[along] if sum(parent) else components[along]
        found[exponents] = product * factor if factor != 1.0 else product
    return torch.stack([found[exponents] for exponents in _exponents(rank)], dim=axis)


@cache
def raising(rank: int) -> Tensor:
    """How components multiply rows: d_y row_r = sum_c raising[r, y, c] row_c.

    Shape (`n_rows(rank)`, 3, `n_rows(rank + 1)`), float64.
    """
    low, high = _exponents(rank), _exponents(rank + 1)
    table = torch.zeros(len(low), 3, len(high), dtype=torch.float64)
    for row, exponents in enumerate(low):
        for along in range(3):
            raised = tuple(power + (place == along) for place, power in enumerate(exponents))
            table[row, along, high.index(raised)] = _norm(exponents) / _norm(raised)
    return table


@cache
def derivative(rank: int) -> Tensor:
    """Derivatives of rows: d row_r / d d_y = sum_c derivative[r, y, c] row_c.

    Shape (`n_rows(rank)`, 3, `n_rows(rank - 1)`), float64; no columns for rank 0.
    """
    high, low = _exponents(rank), _exponents(rank - 1)
    table = torch.zeros(len(high), 3, len(low), dtype=torch.float64)
    for row, exponents in enumerate(high):
        for along in range(3):
            if exponents[along]:
                lowered = tuple(power - (place == along) for place, power in enumerate(exponents))
                factor = exponents[along] * _norm(exponents) / _norm(lowered)
                table[row, along, low.index(lowered)] = factor
    return table
