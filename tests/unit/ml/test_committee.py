"""A model bound to a system: energies against plain loops, all partial derivatives, invariances, committees."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaqmmm.errors import ModelError
from deltaqmmm.ml import COULOMB, StoredDerivatives
from deltaqmmm.ml import descriptor as descriptor_module
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    FORMALDEHYDE_POSITIONS,
    MM_CUTOFF,
    NEAR_CUTOFF,
    SITE_CHARGES,
    SITE_SYMBOLS,
    SITE_TYPES,
    bind,
    make_frames,
    make_model,
    plain_energies,
    random_rotation,
    small_functions,
)

STEPS = (4e-3, 2e-3, 1e-3)
CHOICES = [(by, weight) for by in ("element", "name", "none") for weight in ("charge", "count")]
RESULTS = ("energies", "qm_gradients", "mm_gradients", "charge_gradients")


def pad(frames, count=3):
    """The same frames with padded places between and after the sites."""
    qm, mm, charges, sites = frames
    far = 1e4 + torch.arange(3.0 * count * len(qm), dtype=torch.float64).reshape(len(qm), count, 3)
    return (
        qm,
        torch.cat([mm, far], dim=1),
        torch.cat([charges, charges.new_zeros(len(qm), count)], dim=1),
        torch.cat([sites, sites.new_full((len(qm), count), -1)], dim=1),
    )


def assert_close(found, expected, **tolerances):
    for name in RESULTS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **tolerances)


@pytest.mark.parametrize(("mm_type_by", "mm_weight"), CHOICES)
def test_energies_are_those_of_plain_loops(mm_type_by, mm_weight):
    model = make_model(small_functions(mm_type_by=mm_type_by, mm_weight=mm_weight), n_members=2)
    frames = make_frames(n_frames=1)
    found = bind(model).evaluate(*pad(frames)).energies
    expected = plain_energies(model, FORMALDEHYDE, *(tensor[0] for tensor in frames))
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-12, atol=1e-13)
    assert found.dtype == torch.float64
    assert (found[0] - found[1]).abs().min() > 1e-5


SHELLS = [
    {"mm_near_radial": (), "mm_near_rank": 1},
    {"mm_rank": 2, "mm_near_rank": 1},
    {"mm_rank": 2, "mm_near_cutoff": MM_CUTOFF},
    {"mm_radial": ()},
    {"mm_radial": (COULOMB,)},
    {"angular_order": 2},
    {"angular_order": 5},
]


@pytest.mark.parametrize("changes", SHELLS, ids=str)
def test_other_shells_and_orders_are_those_of_plain_loops(changes):
    model = make_model(small_functions(**changes), n_members=2)
    frames = make_frames(n_frames=1, seed=11)
    result = bind(model).evaluate(*pad(frames))
    leaves = [tensor[0].clone().requires_grad_() for tensor in frames[:3]]
    energies = plain_energies(model, FORMALDEHYDE, *leaves, frames[3][0])
    torch.testing.assert_close(result.energies[:, 0], energies.detach(), rtol=1e-12, atol=1e-13)
    for member in range(2):
        expected = torch.autograd.grad(energies[member], leaves, retain_graph=True)
        torch.testing.assert_close(result.qm_gradients[member, 0], expected[0], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(result.mm_gradients[member, 0, :7], expected[1], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(result.charge_gradients[member, 0, :7], expected[2], rtol=1e-10, atol=1e-13)


OUTER = {"functions of r": {}, "potential and field": {"mm_radial": (COULOMB,)}}
each_outer_shell = pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER.keys())


@each_outer_shell
@pytest.mark.parametrize("mm_weight", ["charge", "count"])
def test_all_partial_derivatives_by_finite_differences(mm_weight, outer):
    model = make_model(small_functions(mm_weight=mm_weight, **outer), n_members=2)
    correction = bind(model)
    frames = make_frames(n_frames=1, seed=4)
    result = correction.evaluate(*frames)
    gradients = (result.qm_gradients, result.mm_gradients, result.charge_gradients)
    distances = torch.cdist(frames[1], frames[0])[0].min(dim=1).values
    near, tail = int(distances.argmin()), 6
    assert MM_CUTOFF - 2.0 < distances[tail] < MM_CUTOFF
    chosen = [(0, (0, atom, axis)) for atom, axis in ((0, 0), (1, 2), (3, 1))]
    chosen += [(1, (0, site, axis)) for site in (near, tail) for axis in range(3)]
    chosen += [(2, (0, site)) for site in (near, tail)]
    resolved = 0
    for which, place in chosen:
        analytic = gradients[which][(slice(None), *place)]
        values = []
        for step in STEPS:
            energies = []
            for sign in (1, -1):
                moved = [tensor.clone() for tensor in frames]
                moved[which][place] += sign * step
                energies.append(correction.evaluate(*moved).energies[:, 0])
            values.append((energies[0] - energies[1]) / (2 * step))
        limit = (4.0 * values[2] - values[1]) / 3.0
        torch.testing.assert_close(limit, analytic, rtol=1e-6, atol=2e-10)
        errors = torch.stack([(value - analytic).abs() for value in values])
        for large, small in itertools.pairwise(errors):
            clear = large > 1e-9
            resolved += int(clear.sum())
            ratio = large[clear] / small[clear]
            torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), rtol=0.06, atol=0.0)
    assert resolved > 10
    # What was tested is not zero, in the tail of the cutoff neither.
    assert result.mm_gradients[:, 0, near].abs().max() > 1e-5
    assert result.mm_gradients[:, 0, tail].abs().max() > 1e-9
    assert result.charge_gradients[:, 0, tail].abs().max() > 1e-9


@pytest.mark.parametrize(("mm_type_by", "mm_weight"), CHOICES)
def test_derivatives_are_those_of_the_plain_loops(mm_type_by, mm_weight):
    model = make_model(small_functions(mm_type_by=mm_type_by, mm_weight=mm_weight), n_members=2)
    frames = make_frames(n_frames=1, seed=6)
    result = bind(model).evaluate(*frames)
    leaves = [tensor[0].clone().requires_grad_() for tensor in frames[:3]]
    energies = plain_energies(model, FORMALDEHYDE, *leaves, frames[3][0])
    for member in range(2):
        expected = torch.autograd.grad(energies[member], leaves, retain_graph=True)
        torch.testing.assert_close(result.qm_gradients[member, 0], expected[0], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(result.mm_gradients[member, 0], expected[1], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(result.charge_gradients[member, 0], expected[2], rtol=1e-10, atol=1e-13)


@each_outer_shell
@pytest.mark.parametrize("mm_weight", ["charge", "count"])
def test_without_neighbours_it_is_exactly_the_isolated_molecule(mm_weight, outer):
    correction = bind(make_model(small_functions(mm_weight=mm_weight, **outer)))
    qm, mm, charges, sites = make_frames(n_sites=6)
    nothing = torch.zeros(2, 0, 3).double(), torch.zeros(2, 0).double(), torch.zeros(2, 0, dtype=torch.int64)
    isolated = correction.evaluate(qm, *nothing)
    assert isolated.mm_gradients.shape == (3, 2, 0, 3)
    assert isolated.charge_gradients.shape == (3, 2, 0)
    cases = {
        "beyond the cutoff": (mm * (5.0 + MM_CUTOFF / mm.norm(dim=-1, keepdim=True)), charges, sites),
        "no charge": (mm, 0.0 * charges, sites),
        "padding": (mm + 1e4, 0.0 * charges, torch.full_like(sites, -1)),
    }
    for name, case in cases.items():
        found = correction.evaluate(qm, *case)
        assert torch.equal(found.energies, isolated.energies), name
        assert torch.equal(found.qm_gradients, isolated.qm_gradients), name
        assert found.mm_gradients.abs().max() == 0.0, name
    # And what is near does count.
    assert (correction.evaluate(qm, mm, charges, sites).energies - isolated.energies).abs().min() > 1e-6


def test_padded_batch_equals_singles():
    correction = bind(make_model())
    shorter, longer = make_frames(n_frames=1, n_sites=4, seed=1), make_frames(n_frames=1, n_sites=9, seed=2)
    padded = [torch.cat(pair) for pair in zip(pad(shorter, 5), longer, strict=True)]
    together = correction.evaluate(*padded)
    for frame, single in enumerate((shorter, longer)):
        alone = correction.evaluate(*single)
        count = single[1].shape[1]
        for name in RESULTS:
            found = getattr(together, name)[:, frame]
            if name in ("mm_gradients", "charge_gradients"):
                assert name != "mm_gradients" or not found[:, count:].any()
                found = found[:, :count]
            torch.testing.assert_close(found, getattr(alone, name)[:, 0], rtol=1e-12, atol=1e-15)


def test_frames_computed_in_parts_are_the_same(monkeypatch):
    correction = bind(make_model())
    correction._descriptor.compiled = False
    frames = make_frames(n_frames=5)
    expected = correction.evaluate(*frames)
    monkeypatch.setattr(descriptor_module, "PAIRS_AT_ONCE", 2 * 4 * 7 * 4)
    assert_close(correction.evaluate(*frames), expected, rtol=1e-12, atol=1e-15)


def test_a_committee_is_its_members():
    model = make_model(n_members=4)
    frames = make_frames(n_frames=3)
    together = bind(model).evaluate(*frames)
    for member in range(4):
        single = model.member(member)
        assert single.n_members == single.info.n_members == 1
        alone = bind(single).evaluate(*frames)
        for name in RESULTS:
            torch.testing.assert_close(getattr(together, name)[member], getattr(alone, name)[0], rtol=1e-12, atol=1e-15)
    assert (together.energies.std(dim=0) > 1e-5).all()


def test_weighted_sums_of_the_members():
    # One weight for each sum, member and frame.
    frames = make_frames(n_frames=3)
    result = bind(make_model(n_members=4)).evaluate(*frames)
    weights = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    stored = StoredDerivatives(result.mm_gradients, result.charge_gradients)
    for derivatives in (result.sites, stored):
        by_site, by_charge = derivatives.weighted(weights)
        for sum_, frame in itertools.product(range(2), range(3)):
            expected = sum(weights[sum_, m, frame] * result.mm_gradients[m, frame] for m in range(4))
            torch.testing.assert_close(by_site[sum_, frame], expected, rtol=1e-11, atol=1e-15)
            expected = sum(weights[sum_, m, frame] * result.charge_gradients[m, frame] for m in range(4))
            torch.testing.assert_close(by_charge[sum_, frame], expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("parts", [1, 2])
def test_derivatives_of_the_near_sites_alone(parts, monkeypatch):
    # In one frame no site is near.
    frames = make_frames(n_frames=4, n_sites=8)
    frames[1][2] *= 30.0 / frames[1][2].norm(dim=-1, keepdim=True)
    correction = bind(make_model())
    if parts == 2:
        correction._descriptor.compiled = False
        monkeypatch.setattr(descriptor_module, "PAIRS_AT_ONCE", 2 * 4 * 8 * 4)
    result = correction.evaluate(*frames)
    if parts == 2:
        assert len(result.sites.parts) == parts
    nearest = torch.cdist(frames[1], frames[0]).min(dim=2).values
    sums = torch.tensor([[0.5, -0.2, 1.0], [0.0, 2.0, -0.3]], dtype=torch.float64)
    for distance in (2.0, 4.0, NEAR_CUTOFF, 100.0):
        # At most those of the inner shell.
        near = nearest < min(distance, NEAR_CUTOFF)
        found = result.sites.near(distance, sums)
        assert found.shape == (2, 4, int(near.sum(dim=1).max()), 3)
        # Which sites come in which place is not promised: each near one is there once, besides zeros.
        for frame in range(4):
            expected = torch.einsum("mc,ckx->mkx", sums, result.mm_gradients[:, frame][:, near[frame]])
            rows = found[:, frame]
            rows = rows[:, rows.abs().amax(dim=(0, 2)) > 0.0]
            assert expected.abs().amax(dim=(0, 2)).gt(0.0).all()
            assert rows.shape == expected.shape
            order, other = rows[0, :, 0].argsort(), expected[0, :, 0].argsort()
            torch.testing.assert_close(rows[:, order], expected[:, other], rtol=1e-11, atol=1e-15)
    assert 0 < int((nearest < 4.0).sum()) < int((nearest < NEAR_CUTOFF).sum()) < nearest.numel()
    nothing = bind(make_model()).evaluate(frames[0], frames[1] + 100.0, *frames[2:])
    assert nothing.sites.near(5.0, sums).shape == (2, 4, 0, 3)


@each_outer_shell
@pytest.mark.parametrize("shell", ["outer", "inner"])
@pytest.mark.parametrize("mm_weight", ["charge", "count"])
def test_smooth_where_a_site_crosses_a_cutoff(shell, mm_weight, outer):
    # One QM atom, so that the site crosses the cutoff of all at once.
    model = make_model(small_functions(mm_weight=mm_weight, **outer))
    correction = bind(model, ("O",))
    # The same networks, with an inner shell that never counts.
    background = bind(replace(model, functions=replace(model.functions, mm_near_cutoff=1e-3)), ("O",))
    cutoff = MM_CUTOFF if shell == "outer" else NEAR_CUTOFF
    qm = torch.zeros(1, 1, 3, dtype=torch.float64)

    def of(correction, distance):
        mm = torch.tensor([[[0.0, 0.6, 0.8]]], dtype=torch.float64) * distance
        result = correction.evaluate(qm, mm, torch.ones(1, 1).double(), torch.zeros(1, 1, dtype=torch.int64))
        torch.testing.assert_close(result.qm_gradients[:, 0, 0], -result.mm_gradients[:, 0, 0], rtol=1e-9, atol=1e-14)
        slope = (result.mm_gradients[:, 0, 0] * mm[0, 0] / distance).sum(dim=-1)
        return torch.stack([result.energies[:, 0], slope, result.charge_gradients[:, 0, 0]])

    def at(distance):
        found = of(correction, distance)
        return found - of(background, distance) if shell == "inner" else found

    beyond = at(cutoff + 1e-9)
    for distance in (cutoff + 1e-3, cutoff + 0.1):
        assert torch.equal(at(distance), beyond)
    assert beyond[1:].abs().max() == 0.0
    assert shell == "outer" or beyond.abs().max() == 0.0
    previous = None
    for gap in (2e-3, 1e-3, 5e-4):
        inside = at(cutoff - gap)
        curvature = (at(cutoff - gap + 1e-4 * gap)[1] - at(cutoff - gap - 1e-4 * gap)[1]) / (2e-4 * gap)
        # As the third power of the distance from the cutoff, and so the derivative by the charge; the slope as the
        # second power, and the second derivative as the first.
        powers = torch.tensor([[gap**3], [gap**2], [gap**3], [gap]], dtype=torch.float64)
        found = torch.stack([*(inside - beyond), curvature]) / powers
        largest = found.abs().amax(dim=1, keepdim=True)
        assert largest.min() > 1e-6
        if previous is not None:
            assert ((found - previous).abs() < 0.05 * largest).all()
        previous = found


def test_count_is_the_weight_of_the_group_whatever_the_charge():
    functions = small_functions(mm_type_by="none", mm_weight="count")
    model = make_model(functions)
    qm, mm, _, sites = make_frames(n_frames=1, n_sites=6)
    weights = torch.linspace(0.0, 1.0, 6, dtype=torch.float64)[None]
    energies, gradients = [], []
    for charges in (SITE_CHARGES, np.array([0.3, -1.0, 0.7, 2.0, 0.1, -0.2, 1.0, 0.0])):
        correction = model.bind(FORMALDEHYDE, SITE_SYMBOLS, SITE_TYPES, charges)
        full = torch.as_tensor(charges)[sites]
        result = correction.evaluate(qm, mm, weights * full, sites)
        energies.append(result.energies)
        gradients.append(result.charge_gradients * full)
        assert torch.isfinite(result.charge_gradients).all()
    torch.testing.assert_close(energies[0], energies[1], rtol=1e-13, atol=0.0)
    # By the weight of the group, the derivatives agree too: also for the site that is switched off.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-15)
    assert gradients[0][..., 0].abs().min() > 1e-9


def test_count_is_smooth_while_a_group_is_switched_off():
    correction = bind(make_model(small_functions(mm_weight="count")))
    qm, mm, charges, sites = make_frames(n_frames=1)
    off = charges.clone()
    off[:, :3] = 0.0
    limit = correction.evaluate(qm, mm, off, sites)
    previous = None
    for weight in (1e-2, 1e-3, 1e-4):
        partly = off.clone()
        partly[:, :3] = weight * torch.as_tensor(SITE_CHARGES[:3])
        change = (correction.evaluate(qm, mm, partly, sites).energies - limit.energies).abs()
        linear = (limit.charge_gradients[:, :, :3] * torch.as_tensor(SITE_CHARGES[:3])).sum(dim=-1).abs() * weight
        torch.testing.assert_close(change, linear, rtol=50 * weight, atol=1e-14)
        previous = change
    assert previous.max() > 0.0


def test_charge_weights_scale_with_the_effective_charge():
    functions = small_functions(mm_weight="charge")
    correction = bind(make_model(functions))
    _, _, charges, sites = frames = make_frames(n_frames=1)
    around, factors = correction._descriptor.surroundings(*frames)
    assert torch.equal(factors, torch.ones_like(charges))
    assert torch.equal(around.outer.weights, charges)
    doubled, _ = correction._descriptor.surroundings(*frames[:2], 2.0 * charges, sites)
    for found, sums in zip(doubled.moments(), around.moments(), strict=True):
        assert sums.any()
        torch.testing.assert_close(found, 2.0 * sums, rtol=1e-14, atol=0.0)


def test_types_tell_sites_apart_or_do_not():
    qm, mm, charges, _ = make_frames(n_frames=1, n_sites=2)
    pairs = {"H1 and H2": (1, 2), "O and H": (0, 1)}
    same = {("element", "H1 and H2"), ("none", "H1 and H2"), ("none", "O and H")}
    for by, (name, sites) in itertools.product(("element", "name", "none"), pairs.items()):
        correction = bind(make_model(small_functions(mm_type_by=by)))
        first, second = (
            correction.evaluate(qm, mm, charges, torch.tensor([order])).energies for order in (sites, sites[::-1])
        )
        assert torch.equal(first, second) == ((by, name) in same), (by, name)


def test_unknown_elements_and_types_are_refused():
    model = make_model(elements=("C", "H", "O"))
    with pytest.raises(ModelError, match=r"C, H, O.* Cl, N"):
        bind(model, ("C", "N", "Cl"))
    with pytest.raises(ModelError, match=r"H, Na, O \(by element\).*K"):
        model.bind(FORMALDEHYDE, ("O", "K"), ("WAT:O", "K+:K+"), np.array([-1.0, 1.0]))
    with pytest.raises(ModelError, match=r"virtual WAT:EPW"):
        model.bind(FORMALDEHYDE, ("O", ""), ("WAT:O", "WAT:EPW"), np.array([-1.0, 1.0]))
    named = make_model(small_functions(mm_type_by="name"))
    with pytest.raises(ModelError, match=r"\(by name\).*HOH:O"):
        named.bind(FORMALDEHYDE, ("O",), ("HOH:O",), np.array([-0.8]))
    # Without charge a site makes no field, and what it is does not matter.
    model.bind(FORMALDEHYDE, ("O", "K"), ("WAT:O", "K+:K+"), np.array([-1.0, 0.0]))
    # And where all sites are one type, every element is known.
    blind = make_model(small_functions(mm_type_by="none"))
    blind.bind(FORMALDEHYDE, ("O", "K", ""), ("WAT:O", "K+:K+", "LIG:EP"), np.array([-1.0, 1.0, 0.3]))


def test_single_precision_is_close_to_double():
    model = make_model()
    frames = make_frames(n_frames=3)
    double, single = bind(model).evaluate(*frames), bind(model, dtype=torch.float32).evaluate(*frames)
    assert single.energies.dtype == torch.float64
    for name in RESULTS:
        expected = getattr(double, name)
        found = getattr(single, name).double()
        torch.testing.assert_close(found, expected, rtol=0.0, atol=3e-6 * max(1.0, float(expected.abs().max())))
    assert not torch.equal(double.energies, single.energies)


def test_energies_of_the_elements_are_added_for_each_atom():
    model = make_model()
    shifted = replace(model, offsets=model.offsets + torch.tensor([100.0, 10.0, 1.0, 1000.0]).double())
    frames = make_frames()
    change = bind(shifted).evaluate(*frames).energies - bind(model).evaluate(*frames).energies
    # C O H H among C, H, N, O.
    torch.testing.assert_close(change, torch.full_like(change, 100.0 + 1000.0 + 2 * 10.0), rtol=1e-13, atol=0.0)


def test_evaluating_leaves_the_model_and_its_input_alone():
    model = make_model()
    correction = bind(model)
    frames = make_frames()
    copies = [tensor.clone() for tensor in frames]
    before = correction.evaluate(*frames)
    with torch.no_grad():
        model.network.get_buffer("scale").mul_(2.0)
        again = correction.evaluate(*(tensor.clone().requires_grad_() for tensor in frames[:3]), frames[3])
    assert all(torch.equal(*pair) for pair in zip(frames, copies, strict=True))
    assert all(torch.equal(getattr(before, name), getattr(again, name)) for name in RESULTS)
    assert not any(getattr(again, name).requires_grad for name in RESULTS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), mirrored=st.booleans())
def test_invariances(seed, mirrored):
    rng = np.random.default_rng(seed)
    correction = INVARIANT
    qm, mm, charges, sites = make_frames(n_frames=1, seed=seed)
    expected = correction.evaluate(qm, mm, charges, sites)
    rotation = random_rotation(rng) * (-1.0 if mirrored else 1.0)
    shift = torch.as_tensor(rng.normal(scale=20.0, size=3))
    atoms, order = [0, 1, 3, 2], torch.as_tensor(rng.permutation(sites.shape[1]))
    found = correction.evaluate(
        (qm @ rotation.T + shift)[:, atoms],
        (mm @ rotation.T + shift)[:, order],
        charges[:, order],
        sites[:, order],
    )
    tolerance = {"rtol": 1e-8, "atol": 1e-12}
    torch.testing.assert_close(found.energies, expected.energies, **tolerance)
    torch.testing.assert_close(found.qm_gradients, expected.qm_gradients[:, :, atoms] @ rotation.T, **tolerance)
    torch.testing.assert_close(found.mm_gradients, expected.mm_gradients[:, :, order] @ rotation.T, **tolerance)
    torch.testing.assert_close(found.charge_gradients, expected.charge_gradients[:, :, order], **tolerance)
    # No net force and no torque.
    total = found.qm_gradients.sum(dim=2) + found.mm_gradients.sum(dim=2)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0.0, atol=1e-12)


INVARIANT = bind(make_model(n_members=2))


def test_equal_molecules_far_apart_add_up():
    # The energy is a sum over atoms: two molecules beyond all cutoffs have twice the energy.
    model = make_model()
    nothing = torch.zeros(1, 1, 3).double() + 1e4, torch.zeros(1, 1).double(), torch.full((1, 1), -1)
    one = FORMALDEHYDE_POSITIONS[None]
    single = bind(model).evaluate(one, *nothing)
    double = bind(model, FORMALDEHYDE * 2).evaluate(torch.cat([one, one + 40.0], dim=1), *nothing)
    torch.testing.assert_close(double.energies, 2.0 * single.energies, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("mm_weight", ["charge", "count"])
def test_compiled_loops_and_whole_arrays_agree(mm_weight):
    frames = make_frames(n_frames=3, n_sites=8)
    correction = bind(make_model(small_functions(mm_weight=mm_weight)))
    assert correction._descriptor.compiled
    found = correction.evaluate(*frames)
    correction._descriptor.compiled = False
    expected = correction.evaluate(*frames)
    for name in ("energies", "qm_gradients", "mm_gradients", "charge_gradients"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-13)
