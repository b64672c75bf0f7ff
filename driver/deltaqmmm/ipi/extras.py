"""The extras of each frame: one JSON object, in forms that i-PI can write into a trajectory.

i-PI collects the objects of all beads by key and writes the whole text, or, with
``<trajectory filename='charges' extra_type='qm_charges'> extras </trajectory>``, one key (or several, separated by
commas: their numbers then stand side by side on one line). For that a value must be a number, a list, or a list of
lists of one length. Energy terms become numbers under ``energy_<term>``, in hartree; extras keep their names and units.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from deltaqmmm.errors import NonFiniteError
from deltaqmmm.results import Evaluation

TERM_PREFIX = "energy_"
_RESERVED = frozenset({"raw"})  # i-PI stores the whole text under this key and refuses an object that has it
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # extra_type is split at commas


def encode_frame_extras(evaluation: Evaluation, n_frames: int) -> list[str]:
    """Return one JSON object per frame, with the same keys for every frame.

    Args:
        evaluation: Its terms and extras all have the frames as first axis.
        n_frames: The number of frames B.

    Raises:
        NonFiniteError: A number is not finite.
        ValueError: A name cannot be used as a key, is used twice, or an array has another number of frames.
    """
    named = _named_arrays(evaluation)
    for key, array in named.items():
        _check(key, array, n_frames)
    columns = {key: array.tolist() for key, array in named.items()}
    return [
        json.dumps({key: values[frame] for key, values in columns.items()}, allow_nan=False)
        for frame in range(n_frames)
    ]


def _named_arrays(evaluation: Evaluation) -> Mapping[str, npt.NDArray[np.generic]]:
    named: dict[str, npt.NDArray[np.generic]] = {
        TERM_PREFIX + name: np.asarray(values) for name, values in evaluation.terms.items()
    }
    for name, values in evaluation.extras.items():
        if name in named:
            raise ValueError(f"The name '{name}' stands for both an energy term and another extra; rename one of them.")
        named[name] = np.asarray(values)
    return named


def _check(key: str, array: npt.NDArray[np.generic], n_frames: int) -> None:
    if key in _RESERVED or not _KEY.fullmatch(key):
        raise ValueError(
            f"The name '{key}' cannot be a key of i-PI's extras: needed are letters, digits and underscores, not 'raw'."
        )
    if array.ndim == 0 or len(array) != n_frames:
        raise ValueError(f"The extra '{key}' has shape {array.shape}; its first axis must be the {n_frames} frames.")
    if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise NonFiniteError(
            f"The extra '{key}' of frame {frame} (counted from 0) is not finite; nothing was sent to i-PI."
        )
