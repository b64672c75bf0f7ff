"""Arrays into others of the same shape.

`target[:] = source` does the same, but where shapes differ it raises an error with both of them, and to compile what
makes its text takes a fifth of the time of all these loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray


@inlined()
def copy_row(source: npt.NDArray[np.floating[Any]], target: FloatArray) -> None:
    """Of shape (n,)."""
    for place in range(len(target)):
        target[place] = source[place]


@inlined()
def copy_matrix(source: npt.NDArray[np.floating[Any]], target: FloatArray) -> None:
    """Of shape (n, m)."""
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            target[row, column] = source[row, column]
