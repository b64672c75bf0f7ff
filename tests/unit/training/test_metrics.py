import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deltaqmmm.dataset import EnergyLabel, LabelledFrame, Source
from deltaqmmm.errors import DatasetError
from deltaqmmm.training.judging import held_out_mean
from deltaqmmm.training.metrics import (
    GRADIENT_UNIT,
    Errors,
    check_spreads,
    compute_metrics,
    correlate,
    metrics_table,
)
from deltaqmmm.training.predictions import CommitteePredictions, Predictions, baseline_predictions, predict
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

OFFSETS = (100.0, 101.0, 109.0)
"""Baseline minus reference, kJ/mol: median 101, mean 103 1/3."""


def make_frame(number, distances):
    """Two QM atoms; a site on the z axis at each distance (angstrom) from the second one."""
    sites = len(distances)
    mm = np.zeros((sites, 3))
    mm[:, 2] = (np.array(distances) + 2.0) * ANGSTROM
    reference = EnergyLabel(-3.0 - number, np.full((2, 3), 0.1), np.full((sites, 3), 0.2), np.zeros(sites))
    errors = np.array([1.0, -3.0] * 3).reshape(2, 3) * GRADIENT_UNIT
    baseline = EnergyLabel(
        reference.energy + OFFSETS[number] * KJ_PER_MOL,
        reference.qm_gradients + errors,
        reference.mm_gradients + np.arange(1, sites + 1)[:, None] * GRADIENT_UNIT,
        np.zeros(sites),
    )
    qm = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0 * ANGSTROM]])
    return LabelledFrame(
        f"{number}", Source("x", number), qm, mm, np.full(sites, 0.5), np.arange(sites), reference, baseline,
        np.zeros(2),
    )  # fmt: skip


@pytest.fixture
def frames():
    """Sites at 1, 5.9 and 6.1 angstrom; at 13.9 and 14.1; and none."""
    return [make_frame(0, [1.0, 5.9, 6.1]), make_frame(1, [13.9, 14.1]), make_frame(2, [])]


def test_errors_by_hand(frames):
    found = compute_metrics("baseline", baseline_predictions(frames), frames, remove_offset=True)
    # From the median 1, 0, 8; from the mean -10/3, -7/3, 17/3.
    assert found.energy.mae == pytest.approx(3.0)
    assert found.energy.rmse == pytest.approx(math.sqrt((100 + 49 + 289) / 27))
    assert found.qm_gradients.mae == pytest.approx(2.0)
    assert found.qm_gradients.rmse == pytest.approx(math.sqrt(5.0))
    # Within 6: errors 1 and 2. Within 14: 1, 2, 3 of the first frame and 1 of the second.
    assert (found.near_mm_gradients.mae, found.near_mm_gradients.rmse) == pytest.approx((1.5, math.sqrt(2.5)))
    assert (found.mm_gradients.mae, found.mm_gradients.rmse) == pytest.approx((1.75, math.sqrt(15 / 4)))


def test_nothing_is_taken_off_a_model(frames):
    found = compute_metrics("model", baseline_predictions(frames), frames)
    assert found.energy.mae == pytest.approx(310 / 3)
    assert found.energy.rmse == pytest.approx(math.sqrt((100**2 + 101**2 + 109**2) / 3))


def test_no_sites_and_no_frames(frames):
    found = compute_metrics("model", baseline_predictions(frames[2:]), frames[2:])
    assert math.isnan(found.near_mm_gradients.mae)
    assert str(found.near_mm_gradients) == "-"
    assert found.to_json()["mm_gradients"] == {"mae": None, "rmse": None}
    with pytest.raises(DatasetError, match="no frames"):
        compute_metrics("model", baseline_predictions([]), [])


@pytest.mark.parametrize(("reach", "near", "far"), [(14.0, True, True), (13.0, True, False), (5.0, False, False)])
def test_what_is_not_labelled_is_not_judged(frames, reach, near, far):
    found = compute_metrics("model", baseline_predictions(frames), frames, labelled_within=reach * ANGSTROM)
    assert math.isnan(found.near_mm_gradients.rmse) != near
    assert math.isnan(found.mm_gradients.rmse) != far


def test_the_table(frames):
    rows = [
        compute_metrics("DFTB3", baseline_predictions(frames), frames, remove_offset=True),
        compute_metrics("Delta", baseline_predictions(frames), frames, n_parameters=12345, milliseconds=7.0),
    ]
    lines = metrics_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "DFTB3", "3.00 / 4.03", "2.00 / 2.24", "1.50 / 1.58", "1.75 / 1.94", "-", "-",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]][-2:] == ["12,345", "7.00"]
    assert str(Errors(0.0, 1234.5)) == "0.00 / 1,234"
    assert str(Errors(0.001234, 123.4)) == "0.00123 / 123"


class Toy:
    """A committee of two: E_m = (m + 1) sum_k q_k x_k, with gradients to match in x of the sites."""

    n_members = 2

    def __init__(self):
        self.batches = []

    def evaluate(self, qm_positions, mm_positions, mm_charges, mm_sites):
        self.batches.append(tuple(mm_charges.shape))
        padded = mm_sites == -1
        assert (mm_charges[padded] == 0.0).all()
        assert (mm_positions[padded].norm(dim=-1) > 1000.0).all()
        scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
        energies = scales[:, None] * mm_charges.sum(dim=1)
        rows = scales[:, None, None, None] * mm_charges[None, :, :, None].expand(2, -1, -1, 3)
        qm = scales[:, None, None, None] * torch.ones_like(qm_positions)[None]
        return SimpleNamespace(energies=energies, qm_gradients=qm, mm_gradients=rows)


@pytest.mark.parametrize("target", ["delta", "direct"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_predictions_do_not_depend_on_batches(frames, target, batch):
    toy = Toy()
    found = predict(toy, frames, target, batch)
    assert sum(shape[0] for shape in toy.batches[1:]) == 3
    base = baseline_predictions(frames)
    share = 1.0 if target == "delta" else 0.0
    charges = np.array([1.5, 1.0, 0.0])
    for member, scale in zip(found.members, (1.0, 2.0), strict=True):
        np.testing.assert_allclose(member.energies, scale * charges + share * base.energies)
        np.testing.assert_allclose(member.qm_gradients, scale + share * base.qm_gradients)
        for one, two in zip(member.mm_gradients, base.mm_gradients, strict=True):
            assert one.shape == two.shape
            np.testing.assert_allclose(one, 0.5 * scale + share * two)
    np.testing.assert_allclose(found.mean.energies, 1.5 * charges + share * base.energies)
    # Two members that are d apart: sample deviation d / sqrt(2), and three such components for an atom.
    np.testing.assert_allclose(found.energy_spreads, charges / math.sqrt(2.0))
    np.testing.assert_allclose(found.gradient_spreads, math.sqrt(1.5))
    assert found.seconds_per_frame > 0.0


def test_the_time_per_frame_leaves_out_what_is_set_up_once(frames):
    class SlowAtFirst(Toy):
        """As the loops, which a process compiles at their first call."""

        def evaluate(self, *tensors):
            if not self.batches:
                time.sleep(0.5)
            return super().evaluate(*tensors)

    assert 0.0 < predict(SlowAtFirst(), frames, "direct").seconds_per_frame < 0.1


def test_a_single_member_has_no_spread(frames):
    found = CommitteePredictions.from_members([baseline_predictions(frames)])
    assert not found.energy_spreads.any()
    assert not found.gradient_spreads.any()


def test_held_out_frames_are_judged_by_the_right_members(frames):
    found = predict(Toy(), frames, "direct")
    chosen = held_out_mean(found, [[1], [0], [0, 1]])
    np.testing.assert_allclose(chosen.energies, [3.0, 1.0, 0.0])
    np.testing.assert_allclose(chosen.qm_gradients[:, 0, 0], [2.0, 1.0, 1.5])
    assert [gradients.shape for gradients in chosen.mm_gradients] == [(3, 3), (2, 3), (0, 3)]
    np.testing.assert_allclose(chosen.mm_gradients[0], 1.0)


def test_correlations():
    found = correlate(np.array([1.0, 2.0, 3.0, 10.0]), np.array([-1.0, 2.0, -3.0, 4.0]))
    assert found.spearman == pytest.approx(1.0)
    # Deviations -3, -2, -1, 6 and -1.5, -0.5, 0.5, 1.5: 14 / sqrt(50 * 5).
    assert found.pearson == pytest.approx(14.0 / math.sqrt(250.0))
    assert str(correlate(np.zeros(4), np.arange(4.0))) == "undefined"
    assert str(correlate(np.arange(2.0), np.arange(2.0))) == "undefined"


def test_spreads_beside_errors(frames):
    reference = Predictions(
        np.array([frame.reference.energy for frame in frames]),
        np.array([frame.reference.qm_gradients for frame in frames]),
        tuple(frame.reference.mm_gradients for frame in frames),
    )
    moved = Predictions(
        reference.energies + np.array([2.0, -4.0, 8.0]) * KJ_PER_MOL, reference.qm_gradients, reference.mm_gradients
    )
    moved.qm_gradients[1, 0] += np.array([3.0, 0.0, 4.0]) * GRADIENT_UNIT
    found = check_spreads(CommitteePredictions.from_members([moved, reference]), frames)
    np.testing.assert_allclose(found.energy_errors, [1.0, 2.0, 4.0])
    np.testing.assert_allclose(found.energy_spreads, np.array([2.0, 4.0, 8.0]) / math.sqrt(2.0))
    assert found.energy.pearson == pytest.approx(1.0)
