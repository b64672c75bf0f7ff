"""Which MM sites enter the loss, and how many each one stands for."""

import numpy as np
import pytest

from deltaqmmm.dataset import EnergyLabel, LabelledFrame, Source
from deltaqmmm.training.preparation import _sampled_sites
from deltaqmmm.units import ANGSTROM

QM = np.zeros((1, 3))
CUTOFF = 14.0 * ANGSTROM


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


def test_all_near_sites_and_a_part_of_the_far_ones():
    distances = np.linspace(2.0, 16.0, 4000)
    places, counts = (array.numpy() for array in _sampled_sites(frame_of(distances), CUTOFF))
    near = distances[places] < 6.0
    assert near.sum() == (distances < 6.0).sum()
    assert (counts[near] == 1.0).all()
    # One over the probability (6 / r)^3.
    np.testing.assert_allclose(counts[~near], (distances[places][~near] / 6.0) ** 3, rtol=1e-12)
    assert distances[places].max() < 14.0
    assert len(set(places.tolist())) == len(places)


def test_sums_over_the_sample_are_right_on_average():
    distances = np.linspace(2.0, 16.0, 500)
    weights = distances**-2.0
    sums = []
    for number in range(400):
        places, counts = _sampled_sites(frame_of(distances, f"{number:08x}" * 4), CUTOFF)
        sums.append((counts.numpy() * weights[places.numpy()]).sum())
    exact = weights[distances < 14.0].sum()
    error = np.std(sums) / np.sqrt(len(sums))
    assert error < 0.005 * exact
    assert np.mean(sums) == pytest.approx(exact, abs=4.0 * error)


def test_the_sample_belongs_to_the_frame():
    distances = np.linspace(2.0, 14.0, 300)
    first, again, other = (
        _sampled_sites(frame_of(distances, identity), CUTOFF)[0].tolist() for identity in ("1" * 32, "1" * 32, "2" * 32)
    )
    assert first == again
    assert first != other
    assert [len(array) for array in _sampled_sites(frame_of([]), CUTOFF)] == [0, 0]
