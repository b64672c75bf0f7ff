"""Sums over MM sites against plain loops, and their derivatives against automatic ones of the loops."""

from __future__ import annotations

import pytest
import torch

from deltaqmmm.ml import Surroundings
from tests.unit.ml.helpers import MM_CUTOFF, make_frames, plain_moments, small_functions

FUNCTIONS = small_functions().mm_radial


def make_case(n_types, n_frames=2, n_sites=6, n_padded=2):
    """Frames with padding: positions, weights and kinds of sites."""
    qm, mm, weights, sites = make_frames(n_frames, n_sites + n_padded, seed=5)
    kinds = sites % n_types
    mm[:, n_sites:] = 1e4 + 10.0 * torch.arange(n_padded)[:, None]
    weights[:, n_sites:] = 0.0
    return qm, mm, weights, kinds


def between(qm, mm, weights, kinds, n_types):
    one_hot = torch.nn.functional.one_hot(kinds, n_types).to(qm.dtype).transpose(1, 2)
    return Surroundings.between(FUNCTIONS, MM_CUTOFF, qm, mm, weights, one_hot)


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_moments_are_the_sums(n_types):
    case = make_case(n_types)
    found = between(*case, n_types).moments()
    for frame in range(2):
        qm, mm, weights, kinds = (tensor[frame] for tensor in case)
        expected = plain_moments(FUNCTIONS, MM_CUTOFF, qm, mm, weights, kinds.tolist(), n_types)
        torch.testing.assert_close(found[frame], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_jacobian_is_the_derivative_by_the_own_position(n_types):
    case = make_case(n_types)
    found = between(*case, n_types).jacobian()
    generator = torch.Generator().manual_seed(6)
    for frame in range(2):
        qm, mm, weights, kinds = (tensor[frame] for tensor in case)
        leaf = qm.clone().requires_grad_()
        moments = plain_moments(FUNCTIONS, MM_CUTOFF, leaf, mm, weights, kinds.tolist(), n_types)
        # Random sums of all moments of all atoms: those of other atoms do not depend on this one.
        for _ in range(4):
            sums = torch.randn(moments.shape, generator=generator, dtype=torch.float64)
            (expected,) = torch.autograd.grad((moments * sums).sum(), leaf, retain_graph=True)
            projected = torch.einsum("ifxt,ifxty->iy", sums, found[frame])
            torch.testing.assert_close(projected, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_pull_back_is_the_derivative_by_sites_and_weights(n_types):
    case = make_case(n_types)
    around = between(*case, n_types)
    generator = torch.Generator().manual_seed(2)
    # Three energies that are linear in the moments.
    gradients = torch.randn(3, *around.moments().shape, generator=generator, dtype=torch.float64)
    by_site, by_weight = around.pull_back(gradients)
    assert by_site.shape == (3, 2, 8, 3)
    assert by_weight.shape == (3, 2, 8)
    for frame in range(2):
        qm, mm, weights, kinds = (tensor[frame] for tensor in case)
        leaves = mm.clone().requires_grad_(), weights.clone().requires_grad_()
        moments = plain_moments(FUNCTIONS, MM_CUTOFF, qm, *leaves, kinds.tolist(), n_types)
        for member in range(3):
            expected = torch.autograd.grad((moments * gradients[member, frame]).sum(), leaves, retain_graph=True)
            torch.testing.assert_close(by_site[member, frame], expected[0], rtol=1e-11, atol=1e-14)
            torch.testing.assert_close(by_weight[member, frame], expected[1], rtol=1e-11, atol=1e-14)
    assert by_site.abs().max() > 0.1


def test_pull_back_is_differentiable_in_its_argument():
    around = between(*make_case(2), 2)
    gradients = torch.randn(2, *around.moments().shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients.requires_grad_()
    by_site, by_weight = around.pull_back(gradients)
    weights = torch.randn(by_site.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (found,) = torch.autograd.grad((by_site * weights).sum() + by_weight.sum(), gradients)
    # It is linear, so that <found, gradients> is the value itself.
    value = (by_site * weights).sum() + by_weight.sum()
    torch.testing.assert_close((found * gradients).sum(), value, rtol=1e-12, atol=0.0)


def test_padding_and_far_sites_count_nothing():
    qm, mm, weights, kinds = make_case(2)
    around = between(qm, mm, weights, kinds, 2)
    short = between(qm, mm[:, :6], weights[:, :6], kinds[:, :6], 2)
    torch.testing.assert_close(around.moments(), short.moments(), rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(around.jacobian(), short.jacobian(), rtol=1e-14, atol=1e-16)
    gradients = torch.ones(1, *around.moments().shape, dtype=torch.float64)
    by_site, by_weight = around.pull_back(gradients)
    assert by_site[:, :, 6:].abs().max() == 0.0
    assert by_weight[:, :, 6:].abs().max() == 0.0
    far = between(qm, mm + 100.0, weights, kinds, 2)
    assert far.moments().abs().max() == 0.0
    assert far.jacobian().abs().max() == 0.0


@pytest.mark.parametrize("n_types", [1, 2])
def test_no_sites_at_all(n_types):
    qm = make_frames()[0]
    nothing = torch.zeros(2, 0, 3).double(), torch.zeros(2, 0).double(), torch.zeros(2, 0, dtype=torch.int64)
    around = between(qm, *nothing, n_types)
    assert torch.equal(around.moments(), torch.zeros(2, 4, 4, 4, n_types).double())
    assert torch.equal(around.jacobian(), torch.zeros(2, 4, 4, 4, n_types, 3).double())
    by_site, by_weight = around.pull_back(torch.ones(3, 2, 4, 4, 4, n_types).double())
    assert by_site.shape == (3, 2, 0, 3)
    assert by_weight.shape == (3, 2, 0)


def test_sums_add_up():
    qm, mm, weights, kinds = make_case(2)
    parts = [between(qm, mm[:, part], weights[:, part], kinds[:, part], 2) for part in (slice(0, 3), slice(3, None))]
    together = between(qm, mm, weights, kinds, 2)
    torch.testing.assert_close(parts[0].moments() + parts[1].moments(), together.moments(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts[0].jacobian() + parts[1].jacobian(), together.jacobian(), rtol=1e-12, atol=1e-14)
