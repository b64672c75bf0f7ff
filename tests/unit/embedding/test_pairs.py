"""Pair distances and potentials: values, gradients, parts of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from deltaqmmm.embedding import pairs


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return random(3, 4, 3), 3.0 * random(3, 7, 3) + 50.0 * torch.eye(3, dtype=torch.float64)[0], random(3, 7)


def test_distances(points):
    centres, others, _ = points
    expected = (centres[:, :, None] - others[:, None]).norm(dim=-1)
    torch.testing.assert_close(pairs.pair_distances(centres, others), expected, rtol=1e-13, atol=0.0)
    arguments = centres.requires_grad_(), (others - others.mean(dim=1, keepdim=True)).requires_grad_()
    assert torch.autograd.gradcheck(pairs.pair_distances, arguments)
    assert torch.autograd.gradgradcheck(pairs.pair_distances, arguments)


@pytest.mark.parametrize("blur_width", [0.0, 1.5])
@pytest.mark.parametrize("pairs_at_once", [1, 60, 10**6])
def test_potentials(points, blur_width, pairs_at_once, monkeypatch):
    monkeypatch.setattr(pairs, "_PAIRS_AT_ONCE", pairs_at_once)
    centres, others, charges = points
    others = others - others.mean(dim=1, keepdim=True)
    r = torch.cdist(centres, others).numpy()
    kernel = erf(r / blur_width) / r if blur_width else 1.0 / r
    potentials, smallest = pairs.charge_potentials(centres, others, charges, blur_width)
    np.testing.assert_allclose(potentials, np.einsum("bak,bk->ba", kernel, charges), rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(smallest, r.min(axis=(1, 2)), rtol=1e-12)
    arguments = [tensor.detach().requires_grad_() for tensor in (centres, others, charges)]
    assert torch.autograd.gradcheck(lambda *a: pairs.charge_potentials(*a, blur_width)[0], arguments)


def test_no_points():
    centres = torch.zeros((2, 3, 3), dtype=torch.float64, requires_grad=True)
    potentials, smallest = pairs.charge_potentials(centres, centres.new_zeros((2, 0, 3)), centres.new_zeros((2, 0)))
    assert potentials.tolist() == [[0.0] * 3] * 2
    assert torch.isinf(smallest).all()
    potentials.sum().backward()
    assert not centres.grad.any()
