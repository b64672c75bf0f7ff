"""Checks around an evaluation, and padding frames."""

from __future__ import annotations

import numpy as np
import pytest

from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.ipi.frames import ExpectedFrames, count_distinct, evaluate_frames, results_from
from deltaqmmm.ipi.wire import Frames
from deltaqmmm.results import Evaluation

EXPECTED = ExpectedFrames(2)


def _frames(numbers):
    """Frames that differ where the numbers do."""
    numbers = np.array(numbers, float)
    return Frames(np.tile(np.eye(3) * 10.0, (len(numbers), 1, 1)), np.tile(numbers[:, None, None], (1, 2, 3)))


def _evaluate(cells, positions):
    """Energy x, forces 2x, strain derivative with its elements counted."""
    x = positions[:, 0, 0]
    strain = x[:, None, None] * np.arange(9.0).reshape(3, 3)
    return Evaluation(x, 2.0 * positions, strain, {"all": x}, {"charges": positions[:, :, 0]})


@pytest.mark.parametrize(
    ("numbers", "distinct"),
    [([1], 1), ([1, 1], 1), ([1, 2], 2), ([1, 2, 2, 2], 2), ([1, 1, 2], 3), ([1, 2, 1], 3), ([2, 2, 1, 1], 3)],
)
def test_trailing_copies(numbers, distinct):
    calls = []

    def counted(cells, positions):
        calls.append(len(positions))
        assert len(cells) == len(positions)
        return _evaluate(cells, positions)

    frames = _frames(numbers)
    assert count_distinct(frames) == distinct
    results, evaluated = evaluate_frames(frames, counted, EXPECTED)
    assert calls == [evaluated] == [distinct]
    np.testing.assert_array_equal(results.energies, numbers)
    np.testing.assert_array_equal(results.forces[:, 0, 0], 2.0 * np.array(numbers))
    assert results.virials.shape == (len(numbers), 3, 3)
    assert all(f'"energy_all": {number:.1f}' in extra for number, extra in zip(numbers, results.extras, strict=True))
    assert len(results.extras) == len(numbers)


def test_equal_positions_in_another_cell_are_another_frame():
    frames = _frames([1, 1])
    frames.cells[1, 0, 0] = 11.0
    assert count_distinct(frames) == 2


def test_virial_is_minus_the_strain_derivative():
    results, _ = evaluate_frames(_frames([1]), _evaluate, EXPECTED)
    np.testing.assert_array_equal(results.virials[0], -np.arange(9.0).reshape(3, 3))
    assert not np.signbit(results.virials[0, 0, 0])


def test_virial_is_zero_where_none_was_computed():
    evaluation = Evaluation(np.ones(1), np.zeros((1, 2, 3)), None)
    results = results_from(evaluation, 1, 2)
    np.testing.assert_array_equal(results.virials, np.zeros((1, 3, 3)))
    assert results.extras == ["{}"]


def test_wrong_number_of_atoms():
    with pytest.raises(FrameError, match="2 atoms, but the topology has 3"):
        evaluate_frames(_frames([1]), _evaluate, ExpectedFrames(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_results(value):
    good = _evaluate(None, _frames([1, 2]).positions)
    forces = good.forces.copy()
    forces[1, 0, 2] = value
    with pytest.raises(NonFiniteError, match="force of frame 1, atom 0"):
        results_from(Evaluation(good.energies, forces, None), 2, 2)


@pytest.mark.parametrize("field", ["energy", "force", "strain"])
def test_wrong_shapes(field):
    shapes = {"energy": (2,), "force": (2, 2, 3), "strain": (2, 3, 3)}
    shapes[field] = (1, *shapes[field][1:])
    evaluation = Evaluation(*(np.zeros(shape) for shape in shapes.values()))
    with pytest.raises(ValueError, match=f"{field}.*needed"):
        results_from(evaluation, 2, 2)
