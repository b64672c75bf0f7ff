"""Cells: checks, minimum images, making whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deltaqmmm.errors import FrameError
from deltaqmmm.periodic import (
    check_cell,
    check_positions,
    make_whole,
    minimum_image_shifts,
    reduce_cell,
    whole_shifts,
)

SKEWED = np.array([[1, 0, 0], [7, 1, 0], [-4, 9, 1]]) @ np.diag([10.0, 11.0, 12.0])
SHIFTS = np.array(list(itertools.product(range(-3, 4), repeat=3)))


def test_reduced_cell():
    reduced = reduce_cell(SKEWED)
    np.testing.assert_allclose(sorted(np.linalg.norm(reduced.vectors, axis=1)), [10.0, 11.0, 12.0], rtol=1e-12)
    np.testing.assert_allclose(reduced.operation @ SKEWED, reduced.vectors, atol=1e-12)
    assert abs(np.linalg.det(reduced.operation)) == pytest.approx(1.0)
    np.testing.assert_allclose(sorted(reduced.heights), [10.0, 11.0, 12.0], rtol=1e-12)
    assert reduced.safe_radius == pytest.approx(5.0)
    assert reduce_cell(SKEWED.copy()) is reduced
    with pytest.raises(ValueError, match="read-only"):
        reduced.vectors[0, 0] = 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_the_reduction_does_not_depend_on_the_unit(scale):
    np.testing.assert_array_equal(reduce_cell(scale * SKEWED).operation, reduce_cell(SKEWED).operation)


@pytest.mark.parametrize(
    "cell",
    [
        np.diag([10.0, 11.0, 12.0]),
        np.array([[10.0, 0, 0], [5.0, 8.66, 0], [5.0, 2.89, 8.16]]),
        np.array([[10.0, 0, 0], [-4.9, 10.0, 0], [4.9, -4.9, 10.0]]),
        np.array([[10.0, 0, 0], [0, 40.0, 0], [5.0, 20.0, 60.0]]),
        np.array([[0, 11.0, 0], [10.0, 0, 0], [0, 0, 12.0]]),
    ],
)
def test_minimum_image_is_exact(cell):
    vectors = np.random.default_rng(0).uniform(-1.5, 1.5, size=(500, 3)) @ cell
    images = vectors + minimum_image_shifts(vectors, cell) @ cell
    reduced = vectors - np.floor(vectors @ np.linalg.inv(cell)) @ cell
    best = np.linalg.norm(reduced[:, None] + SHIFTS @ cell, axis=-1).min(axis=1)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), best, rtol=0.0, atol=1e-11)


def test_rounding_alone_would_fail_here():
    """A cell, already reduced, in which rounded fractional coordinates do not give the nearest image."""
    cell = np.array([[10.0, 0, 0], [5.0, 8.66, 0], [5.0, 2.89, 8.16]])
    vectors = np.random.default_rng(0).uniform(-0.5, 0.5, size=(500, 3)) @ cell
    rounded = vectors - np.rint(vectors @ np.linalg.inv(cell)) @ cell
    images = vectors + minimum_image_shifts(vectors, cell) @ cell
    gain = np.linalg.norm(rounded, axis=1) - np.linalg.norm(images, axis=1)
    assert (gain > 0.1).sum() > 20
    assert (gain > -1e-12).all()


def test_shapes_and_batches_of_cells():
    rng = np.random.default_rng(1)
    vectors = rng.normal(scale=30.0, size=(3, 4, 5, 3))
    cells = np.stack([SKEWED, np.diag([10.0, 11.0, 12.0]), 1.1 * SKEWED])
    shifts = minimum_image_shifts(vectors, cells)
    assert shifts.shape == vectors.shape
    assert shifts.dtype == np.int64
    for frame in range(3):
        np.testing.assert_array_equal(shifts[frame], minimum_image_shifts(vectors[frame], cells[frame]))
    same = np.stack([SKEWED] * 3)
    np.testing.assert_array_equal(minimum_image_shifts(vectors, same), minimum_image_shifts(vectors, SKEWED))
    assert minimum_image_shifts(np.zeros((2, 0, 3)), cells[:2]).shape == (2, 0, 3)
    with pytest.raises(FrameError, match="2 cells for 3 frames"):
        minimum_image_shifts(vectors, cells[:2])


def test_the_input_is_not_changed():
    vectors = np.random.default_rng(1).normal(scale=30.0, size=(50, 3))
    before = vectors.copy()
    minimum_image_shifts(vectors, SKEWED)
    np.testing.assert_array_equal(vectors, before)


def test_make_whole():
    """A chain longer than the cell, torn apart, in two frames with different cells."""
    rng = np.random.default_rng(2)
    chain = np.cumsum(rng.uniform(-2.5, 2.5, size=(12, 3)), axis=0)
    levels = [np.array([[6 + k + 1, 6 + k], [6 - k - 1, 6 - k]]) for k in range(5)]
    cells = np.stack([SKEWED, np.diag([10.0, 11.0, 12.0])])
    torn = chain + rng.integers(-9, 10, size=(2, 12, 3)) @ cells
    whole = make_whole(torn, cells, levels)
    joined = np.setdiff1d(np.arange(12), [0])
    np.testing.assert_allclose(
        whole[:, joined] - whole[:, 6:7], np.stack([chain[joined] - chain[6]] * 2), rtol=0.0, atol=1e-9
    )
    np.testing.assert_array_equal(whole[:, 6], torn[:, 6])
    np.testing.assert_array_equal(whole[:, 0], torn[:, 0])
    assert not whole_shifts(whole, cells, levels).any()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.zeros((3, 3)), "singular"),
        (np.array([[1.0, 2, 3], [2, 4, 6], [0, 0, 1]]), "singular"),
        (np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, np.nan]]), "not finite"),
        (np.eye(2), "shape"),
        (np.stack([np.eye(3), np.zeros((3, 3))]), "frame 1.*singular"),
    ],
)
def test_bad_cells(cell, message):
    with pytest.raises(FrameError, match=message):
        check_cell(cell)


def test_good_cells():
    np.testing.assert_array_equal(check_cell(SKEWED.tolist()), SKEWED)
    assert check_cell(np.stack([np.eye(3) * 1e-4, -SKEWED])).shape == (2, 3, 3)


def test_bad_positions():
    good = np.zeros((2, 5, 3))
    assert check_positions(good.tolist(), 5).shape == (2, 5, 3)
    with pytest.raises(FrameError, match="shape"):
        check_positions(good[0], 5)
    with pytest.raises(FrameError, match="5 atoms, but the topology has 6"):
        check_positions(good, 6)
    good[1, 3, 2] = np.nan
    with pytest.raises(FrameError, match="atom 3 in frame 1"):
        check_positions(good, 5)
    good[1, 3, 2] = 1e22
    with pytest.raises(FrameError, match=r"atom 3 in frame 1 .* beyond 1e\+08 bohr"):
        check_positions(good, 5)
