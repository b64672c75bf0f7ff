"""The memory of converged charges and what it predicts."""

import pytest
import torch

from deltaqmmm.dftb.memory import TrajectoryMemory

IDENTITY = torch.eye(1, dtype=torch.float64)


def frames(*values):
    return torch.tensor([[float(value)] for value in values], dtype=torch.float64)


def keep(memory, descriptors, charges):
    recollection = memory.recall(descriptors, torch.zeros_like(charges))
    memory.store(recollection, charges, IDENTITY.expand(len(charges), 1, 1))


def test_nothing_is_remembered_at_first():
    recollection = TrajectoryMemory().recall(frames(1, 2), frames(-1, -1))
    assert torch.equal(recollection.excess, frames(-1, -1))
    assert recollection.screening is None


def test_the_nearest_frame_is_recalled():
    memory = TrajectoryMemory()
    keep(memory, frames(1.0, 5.0), frames(10, 50))
    recollection = memory.recall(frames(4, 0), frames(-1, -1))
    assert torch.equal(recollection.excess, frames(50, 10))
    assert torch.equal(recollection.screening, IDENTITY.expand(2, 1, 1))


def trajectory(phase, times):
    """Descriptors (T, 24) that oscillate, and charges (T, 2) that follow them, not linearly."""
    angles = torch.outer(torch.as_tensor(times, dtype=torch.float64), torch.linspace(0.1, 0.2, 24).double()) + phase
    descriptors = torch.sin(angles * torch.linspace(1.0, 1.3, 24))
    first = descriptors[:, 0] * descriptors[:, 1] + 0.3 * descriptors[:, 2]
    return descriptors, torch.stack([first, descriptors[:, 3].exp()], dim=1)


@pytest.mark.parametrize(("unevenness", "gain"), [(0.0, 100.0), (0.1, 10.0)])
def test_charges_are_extrapolated_along_each_trajectory(unevenness, gain):
    """Two trajectories in a batch whose order changes at every step; the errors are those of the last prediction."""
    memory = TrajectoryMemory()
    times = torch.arange(14.0) + unevenness * torch.sin(5.0 * torch.arange(14.0))
    paths = [trajectory(phase, times) for phase in (0.0, 2.0)]
    for step in range(len(times)):
        order = torch.tensor([0, 1] if step % 2 else [1, 0])
        descriptors = torch.stack([path[0][step] for path in paths])[order]
        charges = torch.stack([path[1][step] for path in paths])[order]
        recollection = memory.recall(descriptors, torch.zeros_like(charges))
        if step == len(times) - 1:
            nearest = torch.stack([path[1][step - 1] for path in paths])[order]
            predicted, last = ((guess - charges).abs().max() for guess in (recollection.excess, nearest))
            assert float(last) > 0.05
            assert float(predicted) < float(last) / gain
        memory.store(recollection, charges, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_a_jump_is_not_extrapolated():
    """Frames that do not follow from the past get the charges of the nearest one."""
    memory = TrajectoryMemory()
    path = trajectory(0.0, range(6))
    for descriptors, charges in zip(*path, strict=True):
        recollection = memory.recall(descriptors[None], charges[None])
        memory.store(recollection, charges[None], torch.eye(2, dtype=torch.float64)[None])
    far = path[0][-1:] + torch.linspace(-30.0, 40.0, 24, dtype=torch.float64) * (-1.0) ** torch.arange(24)
    predicted = memory.recall(far, torch.zeros(1, 2)).excess
    assert bool((predicted == path[1]).all(dim=1).any())


def test_old_frames_are_forgotten():
    memory = TrajectoryMemory(capacity=4)
    for step in range(10):
        # So far from each other that none continues another.
        keep(memory, frames(1000.0 * step**3, -(1000.0 * step**3) - 500.0), frames(2 * step, 2 * step + 1))
    assert len(memory._length) == 4
    assert torch.equal(memory.recall(frames(0), frames(-1)).excess, frames(16))
    keep(memory, torch.rand(9, 1).double(), torch.rand(9, 1).double())
    assert len(memory._length) == 9
    keep(memory, frames(1), frames(1))
    assert len(memory._length) == 4
