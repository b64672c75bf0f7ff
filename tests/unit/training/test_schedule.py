"""Which frames are learned from by which member, and how fast."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaqmmm.training.schedule import held_out_frames, learning_rate, pieces
from tests.unit.training.helpers import SETTINGS


@pytest.mark.parametrize(("members", "fraction"), [(2, 0.15), (4, 0.25), (4, 0.5), (3, 0.001), (2, 0.999)])
def test_each_member_holds_out_frames_of_its_own(members, fraction):
    held = held_out_frames(20, replace(SETTINGS, members=members, validation_fraction=fraction))
    size = min(max(1, round(20 * fraction)), 19)
    assert held.sum(dim=1).tolist() == [size] * members
    if members * size <= 20:
        assert held.sum(dim=0).max() == 1
    assert not torch.equal(held[0], held[1])


def test_the_learning_rate_rises_and_falls():
    settings = replace(SETTINGS, epochs=100, learning_rate=1.0)
    rates = [learning_rate(settings, epoch) for epoch in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert int(np.argmax(rates)) == 4
    assert all(left > right for left, right in itertools.pairwise(rates[4:]))
    assert rates[-1] == pytest.approx(0.01)
    assert math.isfinite(learning_rate(replace(settings, epochs=1), 0))


def test_pieces_are_all_indices_in_their_order():
    indices = torch.tensor([4, 1, 3, 0, 2])
    assert [part.tolist() for part in pieces(indices, 2)] == [[4, 1], [3, 0], [2]]
    assert pieces(indices[:0], 2) == []
