"""Every image within the cutoff is found once, in cells much smaller than the cutoff too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deltaqmmm.embedding.search import find_group_images
from deltaqmmm.periodic import reduce_cell

CELLS = {
    "cubic": 5.0 * np.eye(3),
    "thin": np.diag([3.0, 9.0, 14.0]),
    "triclinic": np.array([[5.0, 0.0, 0.0], [2.4, 5.0, 0.0], [-2.4, 2.4, 5.5]]),
    "left-handed": np.array([[0.0, 5.0, 1.0], [4.0, 0.0, 0.0], [0.0, 1.0, 7.0]]),
}


@pytest.mark.parametrize("n_qm", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_all_images_of_small_cells(name, n_qm):
    cell, (inner, outer, sharpness) = CELLS[name], (6.0, 10.0, 1.5)
    rng = np.random.default_rng(7)
    references = rng.uniform(-1.0, 2.0, size=(20, 3)) @ cell
    qm = 100.0 + rng.normal(scale=2.0, size=(n_qm, 3))
    skew = np.array([[1, 0, 0], [4, 1, 0], [-3, 2, 1]])
    images = find_group_images(references, qm, reduce_cell(skew @ cell), inner, outer, sharpness)
    found = references[images.groups] + images.shifts @ skew @ cell

    def smooth(points):
        distances = np.linalg.norm(points[..., None, :] - qm, axis=-1)
        return -np.log(np.exp(-sharpness * distances).sum(axis=-1)) / sharpness

    # Brute force starts from the image of each reference that lies next to the QM region.
    near = references - np.rint((references - qm[0]) @ np.linalg.inv(cell)) @ cell
    shifts = np.array(list(itertools.product(range(-7, 8), repeat=3)))
    everything = near[:, None] + shifts @ cell
    expected = smooth(everything)
    assert np.bincount(images.groups, minlength=20).tolist() == (expected < outer).sum(axis=1).tolist()
    assert len({(g, *s) for g, s in zip(images.groups.tolist(), images.shifts.tolist(), strict=True)}) == len(found)
    np.testing.assert_allclose(np.sort(smooth(found)), np.sort(expected[expected < outer]), rtol=0.0, atol=1e-10)
    np.testing.assert_array_equal(images.switched, smooth(found) > inner)
    assert (np.diff(images.groups) >= 0).all()


def test_without_a_cell():
    references = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 8.0], [0.0, 0.0, 10.001]])
    images = find_group_images(references, np.zeros((1, 3)), None, 6.0, 10.0, 2.0)
    assert images.groups.tolist() == [0, 1]
    assert images.switched.tolist() == [False, True]
    assert not images.shifts.any()
    assert find_group_images(references[:0], np.zeros((1, 3)), None, 6.0, 10.0, 2.0).groups.size == 0
