"""Which MM sites enter the loss, and what is kept of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame, LabelSettings, Source, SystemTable
from deltaqmmm.errors import DatasetError
from deltaqmmm.ml import Descriptor, SiteTypes
from deltaqmmm.training import preparation
from deltaqmmm.training.preparation import _sampled_sites, prepare
from deltaqmmm.units import ANGSTROM
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    KNOWN_TYPES,
    NEAR_CUTOFF,
    SITE_CHARGES,
    SITE_SYMBOLS,
    SITE_TYPES,
    make_frames,
    plain_moments,
    plain_neighbours,
    shells_of,
    small_functions,
)

QM = np.zeros((1, 3))
CUTOFF, NEAR = 14.0 * ANGSTROM, 6.0 * ANGSTROM


def frame_of(distances, identity="0" * 32):
    """Sites at distances (angstrom) from the only QM atom."""
    positions = np.zeros((len(distances), 3))
    positions[:, 0] = np.asarray(distances) * ANGSTROM
    label = EnergyLabel(0.0, np.zeros((1, 3)), np.zeros_like(positions), np.zeros(len(positions)))
    return LabelledFrame(
        identity=identity,
        source=Source("run.xyz", 0),
        qm_positions=QM,
        mm_positions=positions,
        mm_charges=np.ones(len(positions)),
        mm_sites=np.arange(len(positions)),
        reference=label,
        baseline=label,
        baseline_charges=np.zeros(1),
    )


@pytest.mark.parametrize(("cutoff", "near"), [(14.0, 6.0), (14.0, 9.0), (5.0, 6.0)])
def test_all_near_sites_and_a_part_of_the_far_ones(cutoff, near):
    distances = np.linspace(2.0, 16.0, 4000)
    places = _sampled_sites(frame_of(distances), cutoff * ANGSTROM, near * ANGSTROM).tolist()
    assert len(set(places)) == len(places)
    within = distances < min(cutoff, near)
    assert set(np.flatnonzero(within)) <= set(places)
    assert distances[places].max() < cutoff
    assert (len(places) > within.sum()) == (near < cutoff)


def test_far_sites_are_drawn_by_the_third_power_of_the_distance():
    distances = np.linspace(2.0, 16.0, 500)
    drawn = np.zeros(500)
    n_frames = 1000
    for number in range(n_frames):
        drawn[_sampled_sites(frame_of(distances, f"{number:08x}" * 4), CUTOFF, NEAR).numpy()] += 1.0
    expected = np.where(distances < 14.0, np.minimum(1.0, (6.0 / distances) ** 3), 0.0)
    # By bins of ten sites.
    found, expected = drawn.reshape(50, 10).mean(axis=1) / n_frames, expected.reshape(50, 10).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=4.5 * 0.5 / np.sqrt(10.0 * n_frames))


def test_the_sample_belongs_to_the_frame():
    distances = np.linspace(2.0, 14.0, 300)
    first, again, other = (
        _sampled_sites(frame_of(distances, identity), CUTOFF, NEAR).tolist()
        for identity in ("1" * 32, "1" * 32, "2" * 32)
    )
    assert first == again
    assert first != other
    assert len(_sampled_sites(frame_of([]), CUTOFF, NEAR)) == 0


ELEMENTS = ("C", "H", "O")
COUNTS = (7, 0, 3, 5, 1)
FUNCTIONS = small_functions(angular_order=2)


def make_dataset():
    """Frames with different numbers of sites, none in the second; the fourth has none near. Labels are arbitrary."""
    rng = np.random.default_rng(3)
    qm, mm, charges, sites = (tensor.numpy() for tensor in make_frames(len(COUNTS), 7, seed=21))
    mm[3] *= 10.0 / np.linalg.norm(mm[3], axis=-1, keepdims=True)
    frames = []
    for index, count in enumerate(COUNTS):
        labels = [
            EnergyLabel(
                float(rng.normal()), rng.normal(size=(4, 3)), rng.normal(size=(count, 3)), rng.normal(size=count)
            )
            for _ in range(2)
        ]
        # In no order: those that count are not the first ones.
        order = rng.permutation(count)
        given = qm[index], mm[index, order], charges[index, order], sites[index, order]
        frames.append(LabelledFrame(f"{index:032x}", Source("run.xyz", index), *given, *labels, np.zeros(4)))
    table = SystemTable(FORMALDEHYDE, 0, np.arange(4), SITE_TYPES, SITE_SYMBOLS, SITE_CHARGES)
    return Dataset(table, LabelSettings({"kind": "cutoff"}, {}, {}), tuple(frames))


@pytest.fixture(params=["element", "none"])
def functions(request):
    return replace(FUNCTIONS, mm_type_by=request.param, mm_weight="count" if request.param == "none" else "charge")


def prepared(functions, cutoff, target="delta"):
    types = SiteTypes.of(functions, KNOWN_TYPES[functions.mm_type_by], SITE_SYMBOLS, SITE_TYPES, SITE_CHARGES)
    seen = []
    frames = prepare(make_dataset(), Descriptor(functions, ELEMENTS, FORMALDEHYDE, types), target, cutoff, seen.append)
    assert sum(seen) == len(frames) == len(COUNTS)
    return frames


def plain_case(frame, functions):
    """Leaves (QM positions, MM positions, weights) and the moments of all kinds from plain loops."""
    known = KNOWN_TYPES[functions.mm_type_by]
    kinds = [0 if len(known) == 1 else known.index(SITE_SYMBOLS[site]) for site in frame.mm_sites]
    weights = frame.mm_charges / (SITE_CHARGES[frame.mm_sites] if functions.mm_weight == "count" else 1.0)
    leaves = [torch.tensor(array, requires_grad=True) for array in (frame.qm_positions, frame.mm_positions, weights)]
    moments = list(plain_neighbours(functions, ELEMENTS, FORMALDEHYDE, leaves[0]))
    moments += [plain_moments(shell, *leaves, kinds, len(known)) for shell in shells_of(functions)]
    return leaves, moments


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_moments_and_their_derivatives_are_kept(monkeypatch, functions, at_once):
    # Parts with inner shells of different widths, one of them empty, are joined.
    monkeypatch.setattr(preparation, "FRAMES_AT_ONCE", at_once)
    frames = prepared(functions, 8.0)
    generator = torch.Generator().manual_seed(8)
    for index, frame in enumerate(make_dataset().frames):
        leaves, moments = plain_case(frame, functions)
        sums = [torch.randn(m.shape, generator=generator, dtype=torch.float64) for m in moments]
        for found, expected in zip(frames.moments(), moments, strict=True):
            assert found.dtype == torch.float32
            scale = max(1.0, float(expected.detach().abs().max()))
            torch.testing.assert_close(found[index].double(), expected.detach(), rtol=0.0, atol=1e-6 * scale)
        value = sum((own * other).sum() for own, other in zip(sums, moments, strict=True))
        (expected,) = torch.autograd.grad(value, leaves[:1])
        flat = torch.cat([own.flatten(1) for own in sums], dim=1)
        found = torch.einsum("iq,iqx->x", flat, frames.jacobian[index].double()).reshape(4, 3)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("at_once", [1, 2, 8])
@pytest.mark.parametrize("cutoff", [8.0, 3.5])
def test_sites_that_count_are_pulled_back_to(monkeypatch, functions, cutoff, at_once):
    # The second cutoff leaves out sites of the inner shell, which are no part of the sums here.
    monkeypatch.setattr(preparation, "FRAMES_AT_ONCE", at_once)
    frames = prepared(functions, cutoff)
    generator = torch.Generator().manual_seed(9)
    gradients = [torch.randn(2, *m.shape, generator=generator, dtype=torch.float64) for m in frames.moments()[2:]]
    found = frames.pull_back(*(own.float() for own in gradients))
    width = frames.counted.shape[1]
    assert [tensor.shape for tensor in found] == [(2, len(COUNTS), width, 3), (2, len(COUNTS), width)]
    left_out = 0
    for index, frame in enumerate(make_dataset().frames):
        if len(frame.mm_sites) == 0:
            assert not frames.counted[index].any()
            continue
        leaves, moments = plain_case(frame, functions)
        distances = np.linalg.norm(frame.mm_positions[:, None] - frame.qm_positions, axis=-1).min(axis=1)
        near = np.flatnonzero(distances < cutoff)
        left_out += int(((distances >= cutoff) & (distances < NEAR_CUTOFF)).sum())
        np.testing.assert_array_equal(frames.counted[index], np.arange(width) < len(near))
        for member in range(2):
            value = sum((own[member, index] * m).sum() for own, m in zip(gradients, moments[2:], strict=True))
            for tensor, expected in zip(found, torch.autograd.grad(value, leaves[1:], retain_graph=True), strict=True):
                atol = 1e-5 * float(expected.abs().max())
                own = tensor[member, index].double()
                torch.testing.assert_close(own[: len(near)], expected[near], rtol=0.0, atol=atol)
    assert (left_out > 0) == (cutoff < NEAR_CUTOFF)


@pytest.mark.parametrize("target", ["delta", "direct"])
def test_targets_are_those_of_the_sites_that_count(target):
    frames = prepared(FUNCTIONS, 8.0, target)
    for index, frame in enumerate(make_dataset().frames):
        label = preparation.label_of(frame, target)
        distances = [np.linalg.norm(site - frame.qm_positions, axis=1).min() for site in frame.mm_positions]
        near = np.flatnonzero(np.array(distances) < 8.0)
        assert float(frames.energies[index]) == label.energy
        np.testing.assert_allclose(frames.qm_gradients[index], label.qm_gradients, rtol=1e-6)
        np.testing.assert_allclose(frames.mm_gradients[index, : len(near)], label.mm_gradients[near], rtol=1e-6)
        np.testing.assert_allclose(frames.mm_potentials[index, : len(near)], label.mm_potentials[near], rtol=1e-6)
        assert not frames.mm_gradients[index, len(near) :].any()


def test_frames_are_taken_by_their_numbers():
    frames = prepared(FUNCTIONS, 8.0)
    some = frames.take(torch.tensor([3, 0]))
    assert len(some) == 2
    assert torch.equal(some.inner.values, frames.inner.values[[3, 0]])
    assert torch.equal(some.places, frames.places[[3, 0]])


def test_a_dataset_without_frames_is_refused():
    types = SiteTypes.of(FUNCTIONS, KNOWN_TYPES["element"], SITE_SYMBOLS, SITE_TYPES, SITE_CHARGES)
    descriptor = Descriptor(FUNCTIONS, ELEMENTS, FORMALDEHYDE, types)
    with pytest.raises(DatasetError, match="no frames"):
        prepare(make_dataset().with_frames([], ()), descriptor, "delta", 8.0)
