"""Both shells of sums over MM sites against plain loops, and their derivatives against automatic ones of the loops."""

from __future__ import annotations

import pytest
import torch

from deltaqmmm.ml import COULOMB, RadialFunction, Surroundings
from tests.unit.ml.helpers import MM_CUTOFF, NEAR_CUTOFF, make_frames, plain_moments, shells_of, small_functions

BOTH = small_functions()
CASES = {
    "both shells": BOTH,
    "tensors outside": small_functions(mm_rank=2, mm_near_rank=1),
    "one shell": small_functions(mm_near_radial=(), mm_near_rank=1),
    "near sites alone": small_functions(mm_radial=()),
    "potential and field": small_functions(mm_radial=(COULOMB,)),
    "near as far as all": small_functions(mm_near_cutoff=MM_CUTOFF, mm_rank=2),
}
each_case = pytest.mark.parametrize("functions", CASES.values(), ids=CASES.keys())
each_number_of_types = pytest.mark.parametrize("n_types", [1, 2, 3])


def make_case(n_types, n_frames=2, n_sites=6, n_padded=2):
    """Frames with padding: positions, weights and kinds of sites. The second frame has more near sites."""
    qm, mm, weights, sites = make_frames(n_frames, n_sites + n_padded, seed=5)
    kinds = sites % n_types
    mm[0, 0] *= 2.0
    mm[:, n_sites:] = 1e4 + 10.0 * torch.arange(n_padded)[:, None]
    weights[:, n_sites:] = 0.0
    return qm, mm, weights, kinds


def between(qm, mm, weights, kinds, n_types, functions=BOTH):
    one_hot = torch.nn.functional.one_hot(kinds, n_types).to(qm.dtype).transpose(1, 2)
    return Surroundings.between(functions, qm, mm, weights, one_hot)


def random_like(tensors, n_members=3, seed=2):
    """Derivatives of energies that are linear in the moments of both shells."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n_members, *t.shape, generator=generator, dtype=torch.float64).to(t) for t in tensors]


def near_sites(qm, mm, weights, cutoff=NEAR_CUTOFF):
    """For each frame, the numbers of sites with weight within the cutoff of any QM atom."""
    return [
        {
            k
            for k in range(mm.shape[1])
            if weights[frame, k] != 0.0 and (mm[frame, k] - qm[frame]).norm(dim=1).min() < cutoff
        }
        for frame in range(len(qm))
    ]


def test_the_case_has_sites_in_every_place():
    qm, mm, weights, _ = make_case(1)
    near = near_sites(qm, mm, weights)
    assert 0 < len(near[0]) < len(near[1]) < 6
    distances = torch.cdist(qm, mm)
    # Near one QM atom and beyond the cutoff of another; and beyond the cutoff of all functions.
    assert ((distances < NEAR_CUTOFF).any(dim=1) & (distances > NEAR_CUTOFF).any(dim=1)).any()
    assert (distances[:, :, :6] > MM_CUTOFF).any()


@each_case
@each_number_of_types
def test_moments_are_the_sums(functions, n_types):
    case = make_case(n_types)
    found = between(*case, n_types, functions).moments()
    for frame in range(2):
        qm, mm, weights, kinds = (tensor[frame] for tensor in case)
        for shell, sums in zip(shells_of(functions), found, strict=True):
            expected = plain_moments(shell, qm, mm, weights, kinds.tolist(), n_types)
            torch.testing.assert_close(sums[frame], expected, rtol=1e-12, atol=1e-14)


@each_case
@each_number_of_types
def test_jacobian_is_the_derivative_by_the_own_position(functions, n_types):
    case = make_case(n_types)
    around = between(*case, n_types, functions)
    generator = torch.Generator().manual_seed(6)
    for shell, found in zip(shells_of(functions), (around.outer.jacobian(), around.inner.jacobian()), strict=True):
        for frame in range(2):
            qm, mm, weights, kinds = (tensor[frame] for tensor in case)
            leaf = qm.clone().requires_grad_()
            moments = plain_moments(shell, leaf, mm, weights, kinds.tolist(), n_types)
            assert found[frame].shape == (*moments.shape, 3)
            if moments.numel() == 0:
                continue
            # Random sums of all moments of all atoms: those of other atoms do not depend on this one.
            for _ in range(4):
                sums = torch.randn(moments.shape, generator=generator, dtype=torch.float64)
                (expected,) = torch.autograd.grad((moments * sums).sum(), leaf, retain_graph=True)
                projected = torch.einsum("ifxt,ifxty->iy", sums, found[frame])
                torch.testing.assert_close(projected, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n_types", [1, 2])
def test_derivatives_by_finite_differences(n_types):
    qm, mm, weights, kinds = make_case(n_types)
    around = between(qm, mm, weights, kinds, n_types)
    gradients = random_like(around.moments(), n_members=1)

    def value(qm, mm, weights):
        moments = between(qm, mm, weights, kinds, n_types).moments()
        return sum(float((sums * own[0]).sum()) for sums, own in zip(moments, gradients, strict=True))

    shells = around.outer, around.inner
    by_atom = sum(
        torch.einsum("bifxt,bifxty->biy", own[0], shell.jacobian())
        for own, shell in zip(gradients, shells, strict=True)
    )
    by_site, by_weight = (tensor[0] for tensor in around.pull_back(*gradients))
    step = 1e-4
    places = [(0, (0, 1, 2)), (0, (1, 3, 0)), *((1, (1, site, axis)) for site in range(6) for axis in range(3))]
    places += [(2, (1, site)) for site in range(6)]
    for which, place in places:
        values = []
        for sign in (1, -1):
            moved = [qm.clone(), mm.clone(), weights.clone()]
            moved[which][place] += sign * step
            values.append(value(*moved))
        found = float((by_atom, by_site, by_weight)[which][place])
        assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-6), (which, place)


@each_case
@each_number_of_types
def test_pull_back_is_the_derivative_by_sites_and_weights(functions, n_types):
    case = make_case(n_types)
    around = between(*case, n_types, functions)
    gradients = random_like(around.moments())
    by_site, by_weight = around.pull_back(*gradients)
    assert by_site.shape == (3, 2, 8, 3)
    assert by_weight.shape == (3, 2, 8)
    for frame in range(2):
        qm, mm, weights, kinds = (tensor[frame] for tensor in case)
        leaves = mm.clone().requires_grad_(), weights.clone().requires_grad_()
        moments = [plain_moments(shell, qm, *leaves, kinds.tolist(), n_types) for shell in shells_of(functions)]
        for member in range(3):
            value = sum((sums * own[member, frame]).sum() for sums, own in zip(moments, gradients, strict=True))
            expected = torch.autograd.grad(value, leaves, retain_graph=True)
            torch.testing.assert_close(by_site[member, frame], expected[0], rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(by_weight[member, frame], expected[1], rtol=1e-11, atol=1e-13)


@each_case
@pytest.mark.parametrize("n_types", [1, 2])
def test_each_shell_alone_is_pulled_back(functions, n_types):
    qm, mm, weights, kinds = make_case(n_types)
    around = between(qm, mm, weights, kinds, n_types, functions)
    outer, inner = random_like(around.moments())
    whole = around.pull_back(outer, inner)
    parts = around.pull_back(outer, 0.0 * inner), around.pull_back(0.0 * outer, inner)
    for together, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(first + second, together, rtol=1e-11, atol=1e-13)
    # The sites beyond the near cutoff have nothing of the inner shell.
    near = near_sites(qm, mm, weights, functions.mm_near_cutoff)
    for frame, numbers in enumerate(near):
        others = [k for k in range(8) if k not in numbers]
        for tensor in parts[1]:
            assert tensor[:, frame, others].abs().max() == 0.0


def test_the_weight_of_a_site_that_is_switched_off():
    # Its derivative is that of a tiny weight: the moments are linear in the weights.
    qm, mm, weights, kinds = make_case(2)
    number = min(near_sites(qm, mm, weights)[1])
    found = []
    for weight in (0.0, 1e-12):
        weights[1, number] = weight
        around = between(qm, mm, weights, kinds, 2)
        gradients = random_like(around.moments())
        found.append(around.pull_back(*gradients)[1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@each_case
@pytest.mark.parametrize("n_types", [1, 2])
def test_the_inner_shell_holds_the_near_sites_once(functions, n_types):
    qm, mm, weights, kinds = make_case(n_types)
    around = between(qm, mm, weights, kinds, n_types, functions)
    near = near_sites(qm, mm, weights, functions.mm_near_cutoff)
    assert around.places.shape == around.inner.weights.shape
    gradients = random_like(around.moments())
    found = around.pull_back_near(*gradients, 100.0)
    assert found.shape == (3, 2, around.places.shape[1], 3)
    by_site, _ = around.pull_back(*gradients)
    for frame, numbers in enumerate(near):
        places = around.places[frame].tolist()
        assert len(set(places)) == len(places)
        counted = {place for place, weight in zip(places, around.inner.weights[frame], strict=True) if weight != 0.0}
        assert counted == numbers
        for place, column in zip(places, found[:, frame].unbind(dim=1), strict=True):
            expected = by_site[:, frame, place] if place in numbers else torch.zeros(3, 3).double()
            torch.testing.assert_close(column, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("distance", [0.0, 2.0, 3.5, 4.5, NEAR_CUTOFF, 20.0])
def test_the_sites_within_a_distance(distance):
    qm, mm, weights, kinds = make_case(2)
    around = between(qm, mm, weights, kinds, 2)
    gradients = random_like(around.moments())
    by_site, _ = around.pull_back(*gradients)
    found = around.pull_back_near(*gradients, distance)
    near = near_sites(qm, mm, weights, min(distance, NEAR_CUTOFF))
    assert found.shape == (3, 2, max(map(len, near)), 3)
    for frame, numbers in enumerate(near):
        lengths = (mm[frame, :, None] - qm[frame]).norm(dim=-1).amin(dim=1)
        order = sorted(numbers, key=lambda number: float(lengths[number]))
        expected = torch.zeros(3, found.shape[2], 3, dtype=torch.float64)
        expected[:, : len(order)] = by_site[:, frame, order]
        torch.testing.assert_close(found[:, frame], expected, rtol=1e-11, atol=1e-13)
        distances = around.distances[frame, : len(order)]
        torch.testing.assert_close(distances, lengths[order], rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("n_types", [1, 2])
def test_some_of_the_sites_with_other_weights(n_types):
    case = make_case(n_types)
    around = between(*case, n_types)
    places = torch.tensor([[4, 0, 2], [5, 1, 0]])
    weights = torch.tensor([[0.3, -0.2, 0.0], [1.0, 0.5, 0.7]], dtype=torch.float64)
    chosen = around.outer.at(places, weights)
    qm, mm, _, kinds = case
    rows = torch.arange(2)[:, None]
    expected = between(qm, mm[rows, places], weights, kinds[rows, places], n_types).outer
    gradients = random_like([expected.moments()])
    torch.testing.assert_close(chosen.moments(), expected.moments(), rtol=1e-13, atol=1e-15)
    for found, other in zip(chosen.pull_back(*gradients), expected.pull_back(*gradients), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_types", [1, 2])
def test_pull_back_is_differentiable_in_its_argument(n_types):
    around = between(*make_case(n_types), n_types)
    gradients = [own.requires_grad_() for own in random_like(around.moments(), n_members=2, seed=3)]
    by_site, by_weight = around.pull_back(*gradients)
    weights = torch.randn(by_site.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    value = (by_site * weights).sum() + by_weight.sum()
    found = torch.autograd.grad(value, gradients)
    # It is linear, so that the derivative at any place gives the value, also at another one.
    for place in (gradients, random_like(around.moments(), n_members=2, seed=11)):
        by_site, by_weight = around.pull_back(*place)
        value = (by_site * weights).sum() + by_weight.sum()
        products = sum((slope * own).sum() for slope, own in zip(found, place, strict=True))
        torch.testing.assert_close(products, value, rtol=1e-11, atol=0.0)


@each_case
def test_padding_and_far_sites_count_nothing(functions):
    qm, mm, weights, kinds = make_case(2)
    around = between(qm, mm, weights, kinds, 2, functions)
    short = between(qm, mm[:, :6], weights[:, :6], kinds[:, :6], 2, functions)
    for shell in ("outer", "inner"):
        one, other = getattr(around, shell), getattr(short, shell)
        torch.testing.assert_close(one.moments(), other.moments(), rtol=1e-14, atol=1e-16)
        torch.testing.assert_close(one.jacobian(), other.jacobian(), rtol=1e-14, atol=1e-16)
    gradients = [torch.ones(1, *sums.shape, dtype=torch.float64) for sums in around.moments()]
    by_site, by_weight = around.pull_back(*gradients)
    assert by_site[:, :, 6:].abs().max() == 0.0
    assert by_weight[:, :, 6:].abs().max() == 0.0
    far = between(qm, mm + 100.0, weights, kinds, 2, functions)
    for shell in (far.outer, far.inner):
        assert not shell.moments().any()
        assert not shell.jacobian().any()
    assert not any(tensor.any() for tensor in far.pull_back(*gradients))
    assert not far.pull_back_near(*gradients, 100.0).any()


@each_case
@pytest.mark.parametrize("n_types", [1, 2])
def test_no_sites_at_all(functions, n_types):
    qm = make_frames()[0]
    nothing = torch.zeros(2, 0, 3).double(), torch.zeros(2, 0).double(), torch.zeros(2, 0, dtype=torch.int64)
    around = between(qm, *nothing, n_types, functions)
    gradients = []
    for shell, (radial, _, rank) in zip((around.outer, around.inner), shells_of(functions), strict=True):
        shape = 2, 4, len(radial), 10 if rank == 2 else 4, n_types
        assert torch.equal(shell.moments(), torch.zeros(shape).double())
        assert torch.equal(shell.jacobian(), torch.zeros(*shape, 3).double())
        gradients.append(torch.ones(3, *shape).double())
    by_site, by_weight = around.pull_back(*gradients)
    assert by_site.shape == (3, 2, 0, 3)
    assert by_weight.shape == (3, 2, 0)
    near = around.pull_back_near(*gradients, 100.0)
    assert near.shape[:2] == (3, 2)
    assert not near.any()


@each_number_of_types
def test_no_near_sites(n_types):
    # In the first frame, or in both.
    qm, mm, weights, kinds = make_case(n_types)
    beyond = mm * (1.42 * NEAR_CUTOFF / mm.norm(dim=-1, keepdim=True))
    assert near_sites(qm, beyond, weights) == [set(), set()]
    some = torch.stack([beyond[0], mm[1]])
    whole = between(qm, mm, weights, kinds, n_types)
    gradients = random_like(whole.moments())
    expected = whole.pull_back(*gradients)
    for sites, frames in ((beyond, [0, 1]), (some, [0])):
        around = between(qm, sites, weights, kinds, n_types)
        outer, inner = around.moments()
        assert outer[:, :, 0, 0].any()
        assert not inner[frames].any()
        assert not around.inner.jacobian()[frames].any()
        found = around.pull_back(*gradients)
        alone = around.outer.pull_back(gradients[0])
        for tensor, other in zip(found, alone, strict=True):
            torch.testing.assert_close(tensor[:, frames], other[:, frames], rtol=1e-13, atol=1e-15)
        assert not around.pull_back_near(*gradients, 100.0)[:, frames].any()
    for tensor, other in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor[:, 1], other[:, 1], rtol=1e-12, atol=1e-14)


@each_case
def test_sums_add_up(functions):
    qm, mm, weights, kinds = make_case(2)
    parts = [
        between(qm, mm[:, part], weights[:, part], kinds[:, part], 2, functions)
        for part in (slice(0, 3), slice(3, None))
    ]
    together = between(qm, mm, weights, kinds, 2, functions)
    for name in ("outer", "inner"):
        first, second, both = (getattr(around, name) for around in (*parts, together))
        torch.testing.assert_close(first.moments() + second.moments(), both.moments(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(first.jacobian() + second.jacobian(), both.jacobian(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_types", [1, 2])
def test_single_precision_is_close_to_double(n_types):
    qm, mm, weights, kinds = make_case(n_types)
    double = between(qm, mm, weights, kinds, n_types)
    single = between(qm.float(), mm.float(), weights.float(), kinds, n_types)
    gradients = random_like(double.moments())
    pairs = list(zip(single.moments(), double.moments(), strict=True))
    pairs += [(getattr(single, name).jacobian(), getattr(double, name).jacobian()) for name in ("outer", "inner")]
    shorter = [own.float() for own in gradients]
    pairs += list(zip(single.pull_back(*shorter), double.pull_back(*gradients), strict=True))
    pairs.append((single.pull_back_near(*shorter, 100.0), double.pull_back_near(*gradients, 100.0)))
    for found, expected in pairs:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("shell", ["outer", "inner"])
def test_everything_vanishes_smoothly_at_the_cutoffs(shell):
    # As the third power of the distance from the cutoff; the derivatives as the second.
    functions = small_functions(mm_near_radial=(RadialFunction("g1"), *BOTH.mm_near_radial))
    cutoff = MM_CUTOFF if shell == "outer" else NEAR_CUTOFF
    qm = torch.zeros(1, 1, 3, dtype=torch.float64)
    direction = torch.tensor([[[0.48, 0.6, 0.64]]], dtype=torch.float64)

    def at(distance):
        case = direction * distance, torch.ones(1, 1).double(), torch.zeros(1, 1, dtype=torch.int64)
        around = between(qm, *case, 1, functions)
        own = getattr(around, shell)
        gradients = [torch.ones(1, *sums.shape).double() for sums in around.moments()]
        gradients[shell == "outer"] *= 0.0
        by_site, by_weight = around.pull_back(*gradients)
        return own.moments(), by_weight, own.jacobian(), by_site

    for distance in (cutoff * (1.0 + 1e-9), cutoff + 0.1):
        assert not any(tensor.any() for tensor in at(distance))
    coarse, fine = at(cutoff - 2e-3), at(cutoff - 1e-3)
    for power, (large, small) in zip((8.0, 8.0, 4.0, 4.0), zip(coarse, fine, strict=True), strict=True):
        assert small.any()
        torch.testing.assert_close(large, power * small, rtol=0.02, atol=1e-3 * float(large.abs().max()))
