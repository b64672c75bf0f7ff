"""The memory of converged charges."""

import torch

from deltaqmmm.dftb.memory import ChargeMemory


def frames(*values):
    return torch.tensor([[float(value)] for value in values])


def test_the_nearest_frame_is_recalled():
    memory = ChargeMemory()
    default = frames(-1, -1)
    assert torch.equal(memory.recall(frames(1, 2), default), default)
    memory.store(frames(1.0, 5.0), frames(10, 50))
    assert torch.equal(memory.recall(frames(4, 0), default), frames(50, 10))


def test_old_frames_are_forgotten():
    memory = ChargeMemory(capacity=4)
    for step in range(10):
        memory.store(frames(2 * step, 2 * step + 1), frames(2 * step, 2 * step + 1))
    assert len(memory._charges) == 4
    assert torch.equal(memory.recall(frames(0), frames(-1)), frames(16))
    memory.store(torch.rand(9, 1), torch.rand(9, 1))
    assert len(memory._charges) == 9
    memory.store(frames(1), frames(1))
    assert len(memory._charges) == 4
