"""Cells in OpenMM's form, and molecules made whole in the home cell."""

import numpy as np
import pytest

from deltaqmmm.errors import FrameError
from deltaqmmm.mm.imaging import Imager, reduce_box, standard_cell

CELLS = {
    "cubic": np.eye(3) * 20.0,
    "orthorhombic": np.diag([20.0, 25.0, 31.0]),
    "hexagonal": np.array([[20.0, 0.0, 0.0], [10.0, 10.0 * 3**0.5, 0.0], [0.0, 0.0, 30.0]]),
    "truncated octahedron": np.array(
        [[30.0, 0.0, 0.0], [-10.0, 28.284271247461902, 0.0], [-10.0, -14.142135623730951, 24.49489742783178]]
    ),
    "sheared": np.array([[20.0, 0.0, 0.0], [53.0, 22.0, 0.0], [-37.0, 45.0, 19.0]]),
    "upper": np.array([[20.0, 5.0, 3.0], [0.0, 22.0, -7.0], [0.0, 0.0, 24.0]]),
    "left-handed": np.array([[0.0, 20.0, 1.0], [22.0, 0.0, 2.0], [3.0, 1.0, 24.0]]),
    "negative": -np.diag([20.0, 25.0, 31.0]),
}


@pytest.mark.parametrize("name", CELLS)
def test_standard_cell_is_the_same_lattice(name):
    cell = CELLS[name]
    standard = standard_cell(cell, 10.0)
    box = standard.box
    rotation = np.eye(3) if standard.rotation is None else standard.rotation
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert np.all(np.triu(box, 1) == 0.0)
    assert np.all(box.diagonal() >= 10.0)
    assert abs(box[1, 0]) <= 0.5 * box[0, 0] * (1 + 1e-12)
    assert abs(box[2, 0]) <= 0.5 * box[0, 0] * (1 + 1e-12)
    assert abs(box[2, 1]) <= 0.5 * box[1, 1] * (1 + 1e-12)
    # rows of the box are integer combinations of the rows of the rotated cell, and the volume is the same
    combination = box @ np.linalg.inv(cell @ rotation)
    np.testing.assert_allclose(combination, np.rint(combination), atol=1e-10)
    assert abs(np.linalg.det(combination)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["cubic", "orthorhombic", "sheared"])
def test_lower_triangular_cells_are_not_rotated(name):
    assert standard_cell(CELLS[name], 10.0).rotation is None


def test_narrow_basis_is_replaced_by_a_wider_one():
    """A lower triangular cell whose last diagonal element is short, of a lattice that is wide in another basis."""
    wide = np.array([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [7.0, 6.0, 20.0]])
    # a long first vector makes the rest of the diagonal short
    bad = np.array([[1, 2, 3], [0, 1, 1], [0, 0, 1]]) @ wide
    lower = standard_cell(bad, 0.0).box
    assert lower.diagonal().min() < 14.0
    assert standard_cell(bad, 16.0).box.diagonal().min() >= 16.0


def test_cell_too_small_for_the_cutoff():
    with pytest.raises(FrameError, match=r"10\.584 angstrom wide, and the MM cutoff of 6\.615 angstrom needs 13\.229"):
        standard_cell(CELLS["cubic"], 25.0)


def test_reduce_box_keeps_a_reduced_box():
    np.testing.assert_array_equal(reduce_box(CELLS["truncated octahedron"]), CELLS["truncated octahedron"])


def test_molecules_are_whole_and_at_home():
    generator = np.random.default_rng(5)
    box = standard_cell(CELLS["sheared"], 10.0).box
    imager = Imager(7, [(0, 1), (1, 2), (2, 0), (3, 4)], [(4, 5), (3, 5)])
    whole = generator.uniform(size=(7, 3)) * 2.0 + np.array([6.0, 7.0, 8.0])
    shifted = whole + generator.integers(-300, 300, size=(7, 3)) @ box
    result = imager(shifted, box)
    # two molecules and the link that joins 5 to the second, each moved as one
    for members in ([0, 1, 2], [3, 4, 5], [6]):
        np.testing.assert_allclose(np.diff(result[members] - whole[members], axis=0), 0.0, atol=1e-9)
    fractional = result[[0, 3, 6]] @ np.linalg.inv(box)
    assert np.all((fractional >= -1e-9) & (fractional < 1.0 + 1e-9))


def test_molecule_bonded_to_its_own_image():
    box = np.eye(3) * 12.0
    positions = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    with pytest.raises(FrameError, match=r"bond between atoms 1 and 2 closes on a periodic image"):
        Imager(3, [(0, 1), (1, 2), (2, 0)], [])(positions, box)


def test_molecules_at_a_face_stay_where_they_were():
    """A molecule that crosses a face by a little does not jump by a cell; one that has strayed comes home."""
    box = np.diag([10.0, 12.0, 14.0])
    imager = Imager(3, [(0, 1)], [])
    start = np.array([[9.9, 5.0, 5.0], [10.5, 5.0, 5.0], [0.1, 3.0, 3.0]])
    np.testing.assert_allclose(imager(start, box), start)
    across = start + np.array([0.3, 0.0, 0.0])
    np.testing.assert_allclose(imager(across, box), across)
    below = start - np.array([0.3, 0.0, 0.0]) + np.array([1, -2, 3]) @ box
    np.testing.assert_allclose(imager(below, box), start - np.array([0.3, 0.0, 0.0]))
    for step in range(1, 20):
        moved = imager(start + np.array([step * 1.0, 0.0, 0.0]), box)
        assert np.all(moved[[0, 2]] > -0.5 * box[0, 0])
        assert np.all(moved[[0, 2], 0] < 1.5 * box[0, 0])
        np.testing.assert_allclose(moved[1] - moved[0], start[1] - start[0], atol=1e-12)
