"""Frames of a batch side by side."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch

from deltaqmmm.threads import choose_threads, parts_of, rows_of, side_by_side, threads_of_loops


@pytest.mark.parametrize(("n_frames", "threads"), [(1, 1), (8, 1), (8, 2), (7, 3), (2, 4), (0, 2), (5, 0)])
def test_every_frame_once_and_in_order(n_frames, threads):
    found = side_by_side(lambda part: list(range(n_frames))[part], n_frames, threads)
    assert [frame for part in found for frame in part] == list(range(n_frames))
    assert len(found) == max(1, min(n_frames, threads))
    lengths = [len(part) for part in found]
    assert max(lengths) - min(lengths) <= 1
    assert [part.stop - part.start for part in parts_of(n_frames, threads)] == lengths


@pytest.mark.parametrize("count", [2, 3])
def test_parts_run_at_the_same_time(count):
    # Each waits for all others: on fewer threads the barrier breaks.
    together = threading.Barrier(count, timeout=20.0)
    names = side_by_side(lambda _: (together.wait(), threading.current_thread().name)[1], count, count)
    assert names[0] == threading.current_thread().name
    assert len(set(names)) == count


@pytest.mark.parametrize("wrong", [0, 1])
def test_errors_come_out_after_all_have_ended(wrong):
    done = []

    def work(part):
        if part.start == wrong:
            raise ValueError("this part")
        threading.Event().wait(0.05)
        done.append(part.start)

    with pytest.raises(ValueError, match="this part"):
        side_by_side(work, 2, 2)
    assert done == [1 - wrong]
    assert side_by_side(lambda part: part.start, 2, 2) == [0, 1]


def test_a_forked_process_makes_threads_of_its_own():
    assert side_by_side(lambda part: part.start, 2, 2) == [0, 1]
    child = os.fork()
    if child == 0:
        os._exit(0 if side_by_side(lambda part: part.start, 2, 2) == [0, 1] else 1)
    ended = threading.Event()
    status = []

    def wait():
        status.append(os.waitpid(child, 0)[1])
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    if not ended.wait(20.0):
        os.kill(child, 9)
    ended.wait(5.0)
    assert status == [0]


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield
    choose_threads(before, compiled=False)


def test_loops_have_the_threads_that_torch_has_not(torch_threads):
    choose_threads(3, compiled=True)
    assert (threads_of_loops(), torch.get_num_threads()) == (3, 1)
    # What cannot be compiled is done by torch.
    choose_threads(2, compiled=False)
    assert (threads_of_loops(), torch.get_num_threads()) == (2, 2)
    torch.set_num_threads(1)
    assert threads_of_loops() == 1


def test_rows_of_named_tuples():
    class Pair(NamedTuple):
        left: np.ndarray
        right: np.ndarray

    found = rows_of(Pair(np.arange(6).reshape(3, 2), np.zeros((3, 0))), slice(1, 3))
    assert isinstance(found, Pair)
    assert found.left.tolist() == [[2, 3], [4, 5]]
    assert found.right.shape == (2, 0)
