"""i-PI's calling convention for PES drivers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deltaqmmm.errors import FrameError
from deltaqmmm.ipi import DirectDriver, ExpectedFrames
from deltaqmmm.results import Evaluation

GENERATOR = np.random.default_rng(11)
COLUMNS = np.triu(GENERATOR.normal(size=(3, 3))) + 10.0 * np.eye(3)


def _evaluate(cells, positions):
    """The strain derivative of sum_i r_i . A r_i / 2 for a full A has no symmetry; the energy sees the first row of "
    "the cell."""
    matrix = np.arange(9.0).reshape(3, 3)
    gradient = positions @ (matrix + matrix.T) / 2.0
    strain = np.einsum("bia,bid->bad", positions, gradient)
    return Evaluation(cells[:, 0, 1], -gradient, strain, {}, {"numbers": positions[:, :, 0]})


DRIVER = DirectDriver(_evaluate, ExpectedFrames(4))


def test_single_structure():
    positions = GENERATOR.normal(size=(4, 3))
    energy, forces, virial, extras = DRIVER(COLUMNS, positions)
    assert type(energy) is float
    assert energy == COLUMNS[1, 0], "the second component of the first lattice vector"
    expected = _evaluate(COLUMNS.T[None], positions[None])
    np.testing.assert_array_equal(forces, expected.forces[0])
    np.testing.assert_array_equal(virial, -expected.strain_derivatives[0].T)
    assert json.loads(extras) == {"numbers": positions[:, 0].tolist()}
    virial[1, 0] = 0.0  # i-PI does this


def test_list_of_structures_equals_single_ones():
    positions = [GENERATOR.normal(size=(4, 3)) for _ in range(3)]
    cells = [COLUMNS * scale for scale in (1.0, 1.1, 0.9)]
    batch = DRIVER(cells, positions)
    assert len(batch) == 3
    for result, cell, frame in zip(batch, cells, positions, strict=True):
        single = DRIVER(cell, frame)
        assert result[0] == single[0]
        np.testing.assert_array_equal(result[1], single[1])
        np.testing.assert_array_equal(result[2], single[2])
        assert result[3] == single[3]


def test_results_are_independent_arrays():
    positions = GENERATOR.normal(size=(4, 3))
    first, second = DRIVER([COLUMNS, COLUMNS], [positions, positions])
    first[1][:] = 0.0
    first[2][:] = 0.0
    assert second[1].any()
    assert second[2].any()


def test_flat_positions():
    positions = GENERATOR.normal(size=(4, 3))
    np.testing.assert_array_equal(DRIVER([COLUMNS], [positions.ravel()])[0][1], DRIVER(COLUMNS, positions)[1])


def test_errors():
    with pytest.raises(ValueError, match="2 cells but 1"):
        DRIVER([COLUMNS, COLUMNS], [np.zeros((4, 3))])
    with pytest.raises(FrameError, match="3 atoms, but the topology has 4"):
        DRIVER(COLUMNS, np.zeros((3, 3)))
    with pytest.raises(FrameError, match="singular"):
        DRIVER(np.zeros((3, 3)), np.zeros((4, 3)))
