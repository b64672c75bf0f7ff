"""The memory of converged charges and what it predicts."""

import numpy as np
import pytest

from deltaqmmm.dftb.memory import TrajectoryMemory

IDENTITY = np.eye(1)


def frames(*values):
    return np.array([[float(value)] for value in values])


def keep(memory, descriptors, charges):
    recollection = memory.recall(descriptors, np.zeros_like(charges))
    memory.store(recollection, charges, np.broadcast_to(IDENTITY, (len(charges), 1, 1)))


def test_nothing_is_remembered_at_first():
    recollection = TrajectoryMemory().recall(frames(1, 2), frames(-1, -1))
    assert np.array_equal(recollection.excess, frames(-1, -1))
    assert recollection.screening is None


def test_the_nearest_frame_is_recalled():
    memory = TrajectoryMemory()
    keep(memory, frames(1.0, 5.0), frames(10, 50))
    recollection = memory.recall(frames(4, 0), frames(-1, -1))
    assert np.array_equal(recollection.excess, frames(50, 10))
    assert np.array_equal(recollection.screening, np.broadcast_to(IDENTITY, (2, 1, 1)))


def trajectory(phase, times):
    """Descriptors (T, 24) that oscillate, and charges (T, 2) that follow them, not linearly."""
    angles = np.outer(times, np.linspace(0.1, 0.2, 24)) + phase
    descriptors = np.sin(angles * np.linspace(1.0, 1.3, 24))
    first = descriptors[:, 0] * descriptors[:, 1] + 0.3 * descriptors[:, 2]
    return descriptors, np.stack([first, np.exp(descriptors[:, 3])], axis=1)


@pytest.mark.parametrize(("unevenness", "gain"), [(0.0, 100.0), (0.1, 10.0)])
def test_charges_are_extrapolated_along_each_trajectory(unevenness, gain):
    """Two trajectories in a batch whose order changes at every step; the errors are those of the last prediction."""
    memory = TrajectoryMemory()
    times = np.arange(14.0) + unevenness * np.sin(5.0 * np.arange(14.0))
    paths = [trajectory(phase, times) for phase in (0.0, 2.0)]
    for step in range(len(times)):
        order = [0, 1] if step % 2 else [1, 0]
        descriptors = np.stack([path[0][step] for path in paths])[order]
        charges = np.stack([path[1][step] for path in paths])[order]
        recollection = memory.recall(descriptors, np.zeros_like(charges))
        if step == len(times) - 1:
            nearest = np.stack([path[1][step - 1] for path in paths])[order]
            predicted, last = (np.abs(guess - charges).max() for guess in (recollection.excess, nearest))
            assert float(last) > 0.05
            assert float(predicted) < float(last) / gain
        memory.store(recollection, charges, np.broadcast_to(np.eye(2), (2, 2, 2)))


def test_a_jump_is_not_extrapolated():
    """Frames that do not follow from the past get the charges of the nearest one."""
    memory = TrajectoryMemory()
    path = trajectory(0.0, range(6))
    for descriptors, charges in zip(*path, strict=True):
        recollection = memory.recall(descriptors[None], charges[None])
        memory.store(recollection, charges[None], np.eye(2)[None])
    far = path[0][-1:] + np.linspace(-30.0, 40.0, 24) * (-1.0) ** np.arange(24)
    predicted = memory.recall(far, np.zeros((1, 2))).excess
    assert bool((predicted == path[1]).all(axis=1).any())


def test_old_frames_are_forgotten():
    memory = TrajectoryMemory(capacity=4)
    for step in range(10):
        # So far from each other that none continues another.
        keep(memory, frames(1000.0 * step**3, -(1000.0 * step**3) - 500.0), frames(2 * step, 2 * step + 1))
    assert len(memory._length) == 4
    assert np.array_equal(memory.recall(frames(0), frames(-1)).excess, frames(16))
    keep(memory, np.random.default_rng(1).random((9, 1)), np.random.default_rng(1).random((9, 1)))
    assert len(memory._length) == 9
    keep(memory, frames(1), frames(1))
    assert len(memory._length) == 4
