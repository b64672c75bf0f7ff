"""Room that is kept from call to call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deltaqmmm.ml.compiled.rooms import kept


@kept
def room(size, kind="plain"):
    return np.zeros(size), kind


def test_the_same_room_for_the_same_arguments():
    assert room(3) is room(3)
    assert room(3) is not room(4)
    assert room(4, "other")[1] == "other"


def test_every_thread_has_its_own():
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(room, 3).result()
        assert other is pool.submit(room, 3).result()
    assert other is not room(3)


def test_no_more_than_some_are_kept():
    made = []

    @kept
    def counted(size):
        made.append(size)
        return np.zeros(size)

    for size in range(1000):
        counted(size)
    counted(0)
    assert made == [*range(1000), 0]
