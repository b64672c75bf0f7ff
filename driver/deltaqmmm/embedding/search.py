"""Which images of which MM groups lie within the cutoff, and how the QM region is put together.

This part is integer bookkeeping on plain numpy arrays: it finds lattice shifts, and nothing here is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaqmmm.periodic import ReducedCell, minimum_image_shifts, whole_shifts
from deltaqmmm.results import FloatArray, IntArray

TIE = 1e-8
"""Squared distances (bohr^2) closer than this count as equal when the closest pair of atoms is sought."""


@dataclass(frozen=True)
class GroupImages:
    """The images of MM groups that have a weight in one frame.

    Attributes:
        groups: Group number of each image, shape (n,).
        shifts: Lattice shift of each image from where the reference atom of the group is given, shape (n, 3).
        switched: Whether the image lies in the switch, so that its weight is not simply 1, shape (n,).
    """

    groups: IntArray
    shifts: IntArray
    switched: npt.NDArray[np.bool_]


def qm_region_shifts(
    positions: FloatArray, cells: FloatArray, tree: Sequence[IntArray], fragments: IntArray
) -> IntArray:
    """Find the lattice shifts that make the QM region one piece.

    Every molecule is made whole through its bonds. Then every further molecule is put, as a whole, where its closest
    pair of atoms with the first molecule is nearest (the first such pair in atom order, should several be equally
    close). The first atom stays where it is. The result is continuous in the positions as long as no further molecule
    is about equally far from two images of the first, so QM molecules are best kept within half a cell of each other.

    Args:
        positions: Positions of the QM atoms, shape (B, n_qm, 3), bohr.
        cells: Lattice vectors as rows, shape (B, 3, 3), bohr.
        tree: Levels of (child, parent) pairs of QM atoms, as `whole_shifts` takes them.
        fragments: Molecule number of each QM atom, shape (n_qm,).

    Returns:
        Integer shifts, shape (B, n_qm, 3).
    """
    shifts = whole_shifts(positions, cells, tree)
    labels = list(dict.fromkeys(fragments.tolist()))
    if len(labels) == 1:
        return shifts
    whole = positions + shifts @ cells
    frames = np.arange(len(positions))
    first = whole[:, fragments == labels[0]]
    for label in labels[1:]:
        atoms = np.flatnonzero(fragments == label)
        vectors = whole[:, atoms, None] - first[:, None]
        pair_shifts = minimum_image_shifts(vectors, cells).reshape(len(frames), -1, 3)
        nearest = vectors.reshape(len(frames), -1, 3) + pair_shifts @ cells
        squares = np.einsum("bpi,bpi->bp", nearest, nearest)
        closest = (squares <= squares.min(axis=1, keepdims=True) + TIE).argmax(axis=1)
        shifts[:, atoms] += pair_shifts[frames, closest][:, None]
    return shifts


def find_group_images(
    references: FloatArray,
    qm_positions: FloatArray,
    reduced: ReducedCell | None,
    inner: float,
    outer: float,
    sharpness: float,
) -> GroupImages:
    """Find every image of every MM group whose smooth distance to the QM region is below the outer cutoff.

    The smooth minimum d of n distances obeys d <= d_min <= d + ln(n) / sharpness, so no group beyond
    d_min = outer + ln(n) / sharpness counts, and none within d_min = inner is switched.

    Args:
        references: Positions of the reference atoms of the groups, shape (G, 3), bohr.
        qm_positions: Positions of the QM atoms, made whole, shape (n_qm, 3), bohr.
        reduced: The reduced cell; None in a system that is not periodic.
        inner: Inner cutoff, bohr.
        outer: Outer cutoff, bohr.
        sharpness: Sharpness of the smooth minimum, 1/bohr.

    Returns:
        The images, ordered by group.
    """
    farthest = outer + math.log(len(qm_positions)) / sharpness
    centre = 0.5 * (qm_positions.min(axis=0) + qm_positions.max(axis=0))
    region = qm_positions - centre
    radius = farthest + math.sqrt(float(np.einsum("ij,ij->i", region, region).max()))
    groups, shifts, vectors = _images_in_sphere(references - centre, reduced, radius)
    # The expanded square loses no more than 1e-12 bohr^2 this near to the origin.
    squares = region @ (-2.0 * vectors.T)
    squares += np.einsum("ij,ij->i", vectors, vectors)
    squares += np.einsum("ij,ij->i", region, region)[:, None]
    nearest = squares.min(axis=0)
    near = nearest <= inner**2
    shell = np.flatnonzero(~near & (nearest <= farthest**2))
    distances = np.sqrt(squares.take(shell, axis=1))
    smallest = np.sqrt(nearest[shell])
    smooth = smallest - np.log(np.exp(sharpness * (smallest - distances)).sum(axis=0)) / sharpness
    switched = np.zeros(len(groups), dtype=np.bool_)
    switched[shell] = (smooth > inner) & (smooth < outer)
    near[shell] = smooth <= inner
    kept = np.flatnonzero(near | switched)
    kept = kept[np.argsort(groups[kept], kind="stable")]
    return GroupImages(groups=groups[kept], shifts=shifts[kept], switched=switched[kept])


def _images_in_sphere(
    vectors: FloatArray, reduced: ReducedCell | None, radius: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """Find all lattice images of points within a sphere around the origin.

    A point of the sphere has fractional coordinates of at most radius / height, so images are enumerated along one axis
    after the other, keeping only points within that bound: few points ever see more than one image.

    Args:
        vectors: The points, shape (G, 3), bohr.
        reduced: The reduced cell, or None for no images.
        radius: Radius of the sphere, bohr.

    Returns:
        Index of the point (n,), lattice shift (n, 3) in the basis of the original cell, and image (n, 3) in bohr.
    """
    points: IntArray = np.arange(len(vectors), dtype=np.int64)
    if reduced is None:
        kept = np.flatnonzero(np.einsum("ij,ij->i", vectors, vectors) <= radius**2)
        return points[kept], np.zeros((len(kept), 3), dtype=np.int64), vectors[kept]
    fractional = reduced.inverse.T @ vectors.T
    base = -np.rint(fractional)
    fractional += base
    steps = np.zeros((0, len(points)))
    for axis, bound in enumerate((radius / reduced.heights).tolist()):
        order = math.floor(bound + 0.5)
        column = fractional[axis].take(points)
        found = [(np.flatnonzero(np.abs(column + n) <= bound), n) for n in range(-order, order + 1)]
        rows = np.concatenate([row for row, _ in found])
        step = np.repeat([float(n) for _, n in found], [len(row) for row, _ in found])
        points, steps = points.take(rows), np.vstack([steps.take(rows, axis=1), step])
    images = reduced.vectors.T @ (fractional.take(points, axis=1) + steps)
    kept = np.flatnonzero(np.einsum("ij,ij->j", images, images) <= radius**2)
    points = points.take(kept)
    shifts = (base.take(points, axis=1) + steps.take(kept, axis=1)).T.astype(np.int64) @ reduced.operation
    return points, shifts, images.take(kept, axis=1).T
