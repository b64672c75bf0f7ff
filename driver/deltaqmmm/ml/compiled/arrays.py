"""Arrays as the compiled loops need them: these look at nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deltaqmmm.results import FloatArray, IntArray


def array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor on the CPU as an array: contiguous, and without a copy of what is."""
    return tensor.detach().contiguous().numpy()


def checked_frames(qm: FloatArray, mm: FloatArray, weights: FloatArray, types: IntArray) -> list[npt.NDArray[Any]]:
    """Contiguous arrays of the QM and MM positions, (B, n, 3) and (B, K, 3), and the weights and types, (B, K).

    Raises:
        ValueError: They have other shapes or kinds.
    """
    n_frames, n_sites = mm.shape[:2]
    check("the QM positions", qm, (n_frames, qm.shape[1], 3))
    check("the MM positions", mm, (n_frames, n_sites, 3))
    check("the weights", weights, (n_frames, n_sites))
    check("the types", types, (n_frames, n_sites), np.int64)
    return [np.ascontiguousarray(array) for array in (qm, mm, weights, types)]


def check(name: str, array: npt.NDArray[Any], shape: tuple[int, ...], kind: type = np.float64) -> None:
    """Refuse an array of another shape or kind with a ValueError."""
    if array.shape != shape or array.dtype != kind:
        raise ValueError(
            f"{name} have shape {array.shape} and type {array.dtype}: {shape} and {kind.__name__} are needed."
        )
