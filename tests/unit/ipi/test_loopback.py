"""The server's side within one process: what the driver gets, what comes back, and what happens when it fails."""

import threading
import time

import numpy as np
import pytest

from deltaqmmm.errors import FrameError
from deltaqmmm.ipi import ExpectedFrames
from deltaqmmm.ipi.loopback import Loopback
from deltaqmmm.results import Evaluation

EXPECTED = ExpectedFrames(5, True)


@pytest.mark.parametrize("batch", [1, 3])
def test_frames_arrive_as_they_were_given(batch):
    seen = []

    def evaluate(cells, positions):
        seen.append((cells.copy(), positions.copy()))
        return Evaluation(np.ones(batch), positions, None, {"mm": np.ones(batch)}, {"name": np.ones((batch, 2))})

    generator = np.random.default_rng(0)
    cells = np.eye(3) + 0.1 * generator.standard_normal((batch, 3, 3))
    frames = [generator.standard_normal((batch, 5, 3)) for _ in range(4)]
    with Loopback(evaluate, EXPECTED, batch) as server:
        for positions in frames:
            server.step(cells, positions)
    assert len(seen) == 4
    for (found_cells, found), positions in zip(seen, frames, strict=True):
        assert np.array_equal(found, positions)
        assert np.array_equal(found_cells, cells)
    assert "driver" not in [thread.name for thread in threading.enumerate()]


def test_the_time_holds_the_evaluation():
    def evaluate(cells, positions):
        time.sleep(0.05)
        return Evaluation(np.ones(2), positions, None, {}, {})

    with Loopback(evaluate, EXPECTED, 2) as server:
        assert 0.05 <= server.step(np.stack([np.eye(3)] * 2), np.random.default_rng(1).random((2, 5, 3))) < 5.0


def test_errors_of_the_evaluation_come_through():
    def evaluate(cells, positions):
        raise FrameError("atoms 1 and 2 coincide")

    with Loopback(evaluate, EXPECTED, 1) as server, pytest.raises(FrameError, match="atoms 1 and 2 coincide"):
        server.step(np.eye(3)[None], np.random.default_rng(1).random((1, 5, 3)))
