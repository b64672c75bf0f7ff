"""Farthest-point selection: each frame taken is the one least like all those taken before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray


def describe_frames(
    embedding: CutoffEmbedding, frames: Iterable[tuple[FloatArray, FloatArray | None]]
) -> tuple[FloatArray, FloatArray]:
    """Describe the QM region of each frame and the field that its surroundings make.

    Both parts are invariant under translation, rotation and the choice of periodic images.

    Args:
        embedding: Makes the QM region whole and gives the potentials.
        frames: Positions (N, 3) and cell (3, 3) of each of F frames, bohr.

    Returns:
        Inverse distances of all pairs of the n QM atoms, shape (F, n (n - 1) / 2), 1/bohr; and the potentials of the
        effective MM charges at the QM atoms, shape (F, n), hartree/e. Inverse distances, as short ones matter most.
    """
    inside, outside = [], []
    for positions, cell in frames:
        cells = None if cell is None else torch.tensor(cell, dtype=torch.float64)[None]
        with torch.no_grad():
            embedded = embedding(torch.tensor(positions, dtype=torch.float64)[None], cells)
        inside.append((1.0 / torch.pdist(embedded.qm_positions[0])).numpy())
        outside.append(embedded.potentials[0].numpy())
    return np.array(inside), np.array(outside)


def standardise(*parts: FloatArray) -> FloatArray:
    """Join descriptors so that each weighs the same.

    Args:
        parts: Each of shape (F, D_k): one descriptor of all frames.

    Returns:
        Shape (F, sum of D_k): each column with mean 0; the mean square length of each part's rows is 1, and columns
        within a part keep their relative sizes.
    """
    scaled = []
    for part in parts:
        centred = part - part.mean(axis=0)
        size = np.sqrt((centred**2).sum(axis=1).mean()) if part.size else 0.0
        scaled.append(centred / size if size > 0.0 else centred)
    return np.concatenate(scaled, axis=1)


def farthest_points(descriptors: FloatArray, count: int, taken: IntArray | None = None) -> IntArray:
    """Take frames one after the other, each farthest from all that are taken.

    T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985), doi 10.1016/0304-3975(85)90224-5.

    Args:
        descriptors: Shape (F, D).
        count: How many to take.
        taken: Indices taken before, by another criterion or in an earlier run; they are not returned. Without any, the
            first is the frame nearest to the mean of all.

    Returns:
        Indices in the order of their choice, shape (count,). So the first k of them are the choice of k frames.

    Raises:
        InputError: More are asked for than there are frames left, or a descriptor is not finite.
    """
    total = len(descriptors)
    before = np.zeros(0, dtype=np.int64) if taken is None else np.asarray(taken, dtype=np.int64)
    if not 0 < count <= total - len(set(before.tolist())):
        raise InputError(
            f"{count} frames are to be chosen, and there are {total - len(set(before.tolist()))} to choose from."
        )
    if not np.isfinite(descriptors).all():
        bad = int(np.flatnonzero(~np.isfinite(descriptors).all(axis=1))[0])
        raise InputError(f"frame {bad} (counted from 0) has a descriptor that is not finite: two atoms coincide.")
    nearest = np.full(total, np.inf)
    for index in before:
        nearest = np.minimum(nearest, _squared_distances(descriptors, int(index)))
    chosen: list[int] = []
    if not len(before):
        chosen.append(int(np.argmin(((descriptors - descriptors.mean(axis=0)) ** 2).sum(axis=1))))
        nearest = _squared_distances(descriptors, chosen[0])
        nearest[chosen[0]] = -1.0
    nearest[before] = -1.0
    while len(chosen) < count:
        # Duplicates have distance 0 and still come before those taken, which have -1.
        index = int(np.argmax(nearest))
        chosen.append(index)
        nearest = np.where(nearest < 0.0, nearest, np.minimum(nearest, _squared_distances(descriptors, index)))
        nearest[index] = -1.0
    return np.array(chosen, dtype=np.int64)


def _squared_distances(descriptors: FloatArray, index: int) -> FloatArray:
    distances: FloatArray = ((descriptors - descriptors[index]) ** 2).sum(axis=1)
    return distances
