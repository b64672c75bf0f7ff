"""Replica exchange against plain NVT: the same distributions, and the acceptance that these lead to."""

import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


def test_distributions_and_acceptance(tmp_path):
    found = load("remd").main(tmp_path, names=("classical",), figure=tmp_path / "figure.png")["classical"]
    for one in found["energies"]:
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
