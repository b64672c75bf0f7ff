"""Replica exchange against plain NVT: the same distributions, and the acceptance that these lead to."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import ks_2samp

from tests.physics.studies import load

pytestmark = pytest.mark.physics


def test_distributions_and_acceptance(tmp_path):
    found = load("remd").main(tmp_path, names=("classical",), figure=tmp_path / "figure.png", repeats=1)["classical"]
    for temperature, one in zip((300.0, 400.0, 530.0), found["energies"], strict=True):
        # The error is itself uncertain by a quarter in a run of this length.
        assert abs(one["kinetic"] - temperature) < 5.0 * one["kinetic_error"] < 0.25 * temperature
        # Three temperatures: 4 standard errors are passed by chance once in 5,000 times.
        assert abs(one["sigmas"]) < 4.0
        assert one["p"] > 1e-3
        assert one["spread_ratio"] == pytest.approx(1.0, abs=0.25)
        assert one["plain_error"] < 0.2 * one["plain"]
    for share, error, path, plain in zip(
        found["accepted"], found["accepted_error"], found["from_path"], found["from_plain"], strict=True
    ):
        assert 0.1 < share < 0.9
        assert abs(share - path[0]) < 4.0 * (error**2 + path[1] ** 2) ** 0.5
        assert abs(share - plain[0]) < 4.0 * (error**2 + plain[1] ** 2) ** 0.5
    assert found["round_trips"] > 3
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_acceptance_with_beads_has_the_springs_in_it(tmp_path):
    found = load("remd").main(tmp_path, names=("beads",))["beads"]
    for share, error, path in zip(found["accepted"], found["accepted_error"], found["from_path"], strict=True):
        assert abs(share - path[0]) < 4.0 * (error**2 + path[1] ** 2) ** 0.5


def test_the_probability_of_kolmogorov_and_smirnov_takes_correlation_into_account():
    study = load("remd")
    rng = np.random.default_rng(5)
    # Autocorrelation 0.8^k: nine rows are worth one.
    series = lfilter([0.6], [1.0, -0.8], rng.standard_normal((400, 700)))[:, 200:]
    pairs = list(zip(series[::2], series[1::2], strict=True))
    chance = np.array([study.same_distribution(one, other) for one, other in pairs])
    assert np.mean(chance < 0.05) < 0.1
    assert chance.min() > 1e-4
    assert np.mean([ks_2samp(one, other).pvalue < 0.05 for one, other in pairs]) > 0.3
    # 0.7 standard deviations apart, with 55 independent values each; and a whole one.
    assert np.mean([study.same_distribution(one, other + 0.7) < 0.05 for one, other in pairs]) > 0.5
    assert np.mean([study.same_distribution(one, other + 1.0) < 1e-3 for one, other in pairs]) > 0.7
