"""The switch and the smooth minimum."""

from __future__ import annotations

import math

import pytest
import torch

from deltaqmmm.embedding.switching import quintic_switch, smooth_minimum


def switch_and_derivatives(values):
    d = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    s = quintic_switch(d, 3.0, 5.0)
    (first,) = torch.autograd.grad(s.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), d)
    return s.detach(), first.detach(), second


def test_values():
    s, _, _ = switch_and_derivatives([0.0, 3.0, 4.0, 5.0, 9.0])
    assert s.tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("edge", [3.0, 5.0])
def test_two_continuous_derivatives_at_the_edges(edge):
    for eps in (1e-3, 1e-5):
        s, first, second = switch_and_derivatives([edge - eps, edge + eps])
        assert abs(s[0] - s[1]) < 2.0 * eps**3 + 1e-14
        assert abs(first[0] - first[1]) < 5.0 * eps**2
        assert abs(second[0] - second[1]) < 10.0 * eps
    inside = 4.0
    _, first, second = switch_and_derivatives([inside, 3.5])
    assert first[0] == pytest.approx(-1.875 / 2.0)
    assert abs(second[1]) > 0.5


def test_it_falls_monotonically():
    s, first, _ = switch_and_derivatives(torch.linspace(2.5, 5.5, 301).tolist())
    assert (s.diff() <= 0.0).all()
    assert (first <= 0.0).all()


def test_smooth_minimum_bounds_and_overflow():
    values = torch.tensor([[3.0, 4.0, 3.5], [500.0, 500.0, 500.0], [2000.0, 1.0, 3000.0]], dtype=torch.float64)
    smooth = smooth_minimum(values, 4.0, dim=1)
    smallest = values.min(dim=1).values
    assert (smooth <= smallest).all()
    assert (smooth >= smallest - math.log(3) / 4.0 - 1e-12).all()
    assert smooth[1] == pytest.approx(500.0 - math.log(3) / 4.0)
    assert smooth[2] == 1.0
    one = torch.tensor([[7.25]], dtype=torch.float64)
    assert smooth_minimum(one, 4.0, dim=1).item() == 7.25
