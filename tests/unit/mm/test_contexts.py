"""Frames side by side on several OpenMM contexts: the same results, each its own, and how threads are shared out."""

import threading

import numpy as np
import openmm
import pytest

from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.mm import OpenMMSettings
from deltaqmmm.mm.contexts import Contexts


def small_contexts(threads, platform="CPU"):
    system = openmm.System()
    system.addParticle(1.0)
    return Contexts(system, OpenMMSettings(platform, threads=threads), None)


@pytest.mark.parametrize(
    ("threads", "n_frames", "expected"),
    [
        (1, 8, [1]),  # one after the other
        (4, 1, [4]),
        (4, 2, [2, 2]),
        (4, 4, [1, 1, 1, 1]),
        (4, 6, [1, 1, 1]),  # two turns on three are no slower than on four
        (7, 3, [2, 2, 2]),
        (2, 0, [2]),
    ],
)
def test_threads_are_shared_out(threads, n_frames, expected):
    contexts = small_contexts(threads)
    lanes = contexts._of_batch(n_frames)
    found = [int(lane.context.getPlatform().getPropertyValue(lane.context, "Threads")) for lane in lanes]
    assert found == expected
    assert contexts._of_batch(n_frames) == lanes


def test_other_platforms_have_one_context():
    contexts = small_contexts(4, "Reference")
    assert contexts._of_batch(8) == [contexts.whole]


def test_batches_of_many_sizes_share_contexts():
    contexts = small_contexts(8)
    for n_frames in range(1, 40):
        contexts._of_batch(n_frames)
    assert {threads: len(lanes) for threads, lanes in contexts._opened.items()} == {1: 8, 2: 4, 4: 2}


def test_frames_run_at_the_same_time_and_each_once():
    contexts = small_contexts(3)
    together, done = threading.Barrier(3, timeout=30.0), []

    def work(lane, frame):
        if frame % 2 == 0:  # the first of the two of each context
            together.wait()
        done.append((frame, id(lane)))

    contexts.side_by_side(work, 6)
    assert sorted(frame for frame, _ in done) == list(range(6))
    assert len({lane for _, lane in done}) == 3


def test_nothing_goes_on_behind_an_error():
    contexts, slow, done = small_contexts(2), threading.Event(), []

    def work(lane, frame):
        if frame == 0:
            raise FrameError("the first frame")
        slow.wait(0.2)
        done.append(frame)

    with pytest.raises(FrameError, match="the first frame"):
        contexts.side_by_side(work, 2)
    assert done == [1]


@pytest.mark.parametrize("virial", [False, True])
def test_every_result_is_its_own_frame_s(box, virial):
    """Against one frame after the other; molecules wrapped otherwise from frame to frame."""
    generator = np.random.default_rng(3)
    frames = box.positions + 0.05 * generator.standard_normal((5, *box.positions.shape))
    frames += generator.integers(-2, 3, size=(5, 1, 3)) @ box.cell
    cells = box.cell * (1.0 + 0.01 * np.arange(5))[:, None, None]
    expected = box.engine(platform="CPU", threads=1, virial=virial)
    engine = box.engine(platform="CPU", threads=3, virial=virial)
    for _ in range(2):
        found = engine.evaluate(frames, cells)
        for frame in range(5):
            single = expected.evaluate(frames[frame : frame + 1], cells[frame : frame + 1])
            assert found.energies[frame] == pytest.approx(single.energies[0], abs=2e-6)
            np.testing.assert_allclose(found.forces[frame], single.forces[0], atol=2e-6)
            if virial:
                np.testing.assert_allclose(found.strain_derivatives[frame], single.strain_derivatives[0], atol=5e-3)
    assert len(set(np.round(found.energies, 4))) == 5


def test_errors_name_the_frame(box):
    engine = box.engine(platform="CPU", threads=2)
    frames = np.stack([box.positions] * 4)
    frames[2, 20] = frames[2, 40]
    with pytest.raises(NonFiniteError, match=r"frame 2 "):
        engine.evaluate(frames, np.stack([box.cell] * 4))
    with pytest.raises(FrameError):
        engine.evaluate(frames, np.stack([box.cell * 1.5] * 4))
    good = engine.evaluate(frames[:2], np.stack([box.cell] * 2))
    assert np.isfinite(good.energies).all()
