"""The input of the networks against sums over neighbours and sites, and its invariances one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from deltaqmmm.ml import Descriptor, SiteTypes, combine, n_features
from deltaqmmm.ml.features import pull_back_features
from deltaqmmm.ml.functions import COULOMB, RadialFunction, default_functions
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    NEAR_CUTOFF,
    make_frames,
    plain_around,
    plain_inside,
    random_rotation,
    shells_of,
    small_functions,
)

ELEMENTS = ("C", "H", "O")
OUTER, INNER = shells_of(small_functions())
CASES = {
    "both shells": small_functions(),
    "tensors outside": small_functions(mm_rank=2, mm_near_rank=1),
    "tensors in both": small_functions(mm_rank=2, mm_radial=OUTER[0][:2], mm_near_radial=INNER[0][:1]),
    "vectors in both": small_functions(mm_near_rank=1),
    "one shell": small_functions(mm_near_radial=(), mm_near_rank=1),
    "one shell, with tensors": small_functions(mm_rank=2, mm_near_radial=()),
    "near sites alone": small_functions(mm_radial=()),
    "potential and field": small_functions(mm_radial=(COULOMB,)),
    "potential and field alone": small_functions(mm_radial=(COULOMB,), mm_near_radial=(), mm_near_rank=1),
    "many powers": small_functions(angular_order=6),
}
each_case = pytest.mark.parametrize("functions", CASES.values(), ids=CASES.keys())


def moments_of(functions, qm, mm, weights, kinds, n_types):
    types = SiteTypes(torch.arange(n_types), torch.ones(n_types).double(), n_types)
    descriptor = Descriptor(functions, ELEMENTS, FORMALDEHYDE, types)
    around, _ = descriptor.surroundings(qm, mm, weights, kinds)
    return [*descriptor.structure(qm).moments(), *around.moments()]


def features_of(*case):
    return combine(moments_of(*case))


@each_case
@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_features_are_the_sums_over_neighbours_and_sites(functions, n_types):
    qm, mm, weights, sites = make_frames(n_frames=2, n_sites=6, seed=8)
    kinds = sites % n_types
    found = features_of(functions, qm, mm, weights, kinds, n_types)
    assert found.shape == (2, 4, n_features(functions, len(ELEMENTS), n_types))
    for frame, i in itertools.product(range(2), range(4)):
        inside = plain_inside(functions, ELEMENTS, FORMALDEHYDE, qm[frame], i)
        case = qm[frame], i, mm[frame], weights[frame], kinds[frame].tolist(), n_types
        expected = torch.cat([inside, plain_around(functions, ELEMENTS, FORMALDEHYDE, *case)])
        torch.testing.assert_close(found[frame, i], expected, rtol=1e-11, atol=1e-12)
    distances = torch.cdist(qm, mm).amin(dim=1)
    assert (distances < NEAR_CUTOFF).any()
    assert (distances > NEAR_CUTOFF).any()


def test_one_site_and_one_neighbour_by_hand():
    # O at the origin with C at distance 2; one site at distance 4, at 60 degrees to that.
    flat = (RadialFunction("g1"),)
    changes = {"qm_radial": (), "angular_radial": flat, "mm_radial": flat, "mm_near_radial": flat, "angular_order": 2}
    functions = small_functions(**changes, angular_cutoff=4.0, mm_cutoff=8.0, mm_near_cutoff=5.0, mm_near_rank=2)
    types = SiteTypes(torch.zeros(1, dtype=torch.int64), torch.ones(1).double(), 1)
    descriptor = Descriptor(functions, ("C", "O"), ("O", "C"), types)
    qm = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]], dtype=torch.float64)
    mm = 4.0 * torch.tensor([[[0.0, 0.5, 0.75**0.5]]], dtype=torch.float64)
    weight = 0.7
    around, _ = descriptor.surroundings(
        qm, mm, torch.tensor([[weight]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64)
    )
    found = combine([*descriptor.structure(qm).moments(), *around.moments()])[0, 0]
    h, g, near = ((1.0 - ratio**6) ** 3 for ratio in (2.0 / 4.0, 4.0 / 8.0, 4.0 / 5.0))
    g, near = weight * g, weight * near
    # Pairs CC, CO, OO of QM neighbours, for the first and the second power; the only angle is that of C with itself.
    expected = [h * h, 0.0, 0.0] * 2
    expected += [g, h * g * 2.0, 0.0, g * g * 16.0]
    expected += [near, h * near * 2.0, 0.0, near * near * 16.0]
    # For C: (u.d)^2, then (u.V)^2; nothing for O; then the trace.
    expected += [h * near * 4.0, h * near * near * 4.0, 0.0, 0.0, near * 16.0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-15)


@each_case
def test_every_feature_is_invariant(functions):
    rng = np.random.default_rng(2)
    qm, mm, weights, sites = make_frames(n_frames=2, n_sites=6, seed=9)
    kinds = sites % 2
    expected = features_of(functions, qm, mm, weights, kinds, 2)
    for sign in (1.0, -1.0):
        rotation = sign * random_rotation(rng)
        shift = torch.as_tensor(rng.normal(scale=3.0, size=3))
        order = torch.as_tensor(rng.permutation(6))
        sites = (mm @ rotation.T + shift)[:, order], weights[:, order], kinds[:, order]
        found = features_of(functions, qm @ rotation.T + shift, *sites, 2)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@each_case
@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_derivatives_by_the_moments(functions, n_types):
    qm, mm, weights, sites = make_frames(n_frames=2, n_sites=6, seed=10)
    leaves = [t.requires_grad_() for t in moments_of(functions, qm, mm, weights, sites % n_types, n_types)]
    features = combine(leaves)
    slopes = torch.randn(3, *features.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = pull_back_features([leaf.detach() for leaf in leaves], slopes)
    assert len(found) == 4
    for member in range(3):
        expected = torch.autograd.grad(features, leaves, slopes[member], retain_graph=True)
        for tensor, other in zip(found, expected, strict=True):
            torch.testing.assert_close(tensor[member], other, rtol=1e-11, atol=1e-12)


@each_case
def test_features_of_the_surroundings_are_zero_without_sites(functions):
    qm, mm, weights, sites = make_frames(n_frames=2, n_sites=6, seed=9)
    inside = len(plain_inside(functions, ELEMENTS, FORMALDEHYDE, qm[0], 0))
    found = features_of(functions, qm, mm + 1e3, weights, sites % 2, 2)
    assert found[..., inside:].abs().max() == 0.0
    nothing = torch.zeros(2, 0, 3).double(), torch.zeros(2, 0).double(), torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(features_of(functions, qm, *nothing, 2), found)
    assert features_of(functions, qm, mm, weights, sites % 2, 2)[..., inside:].abs().max() > 0.01


@pytest.mark.parametrize(("n_elements", "n_types"), [(1, 1), (3, 2), (4, 5)])
def test_the_number_of_features_by_hand(n_elements, n_types):
    pairs, type_pairs = n_elements * (n_elements + 1) // 2, n_types * (n_types + 1) // 2
    inside = 13 * n_elements + 2 * 3 * pairs
    outer = n_types + n_elements * n_types + type_pairs
    inner = 4 * (n_types + n_elements * n_types + type_pairs + 2 * n_elements * n_types + n_types)
    assert n_features(default_functions(), n_elements, n_types) == inside + outer + inner
