"""Drivers that come and go in a longer run: the trajectory of one driver alone."""

import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics


def test_the_trajectory_is_that_of_one_driver(tmp_path):
    study = load("cluster")
    found = study.main(tmp_path, figure=tmp_path / "figure.png")
    # 80 fs: errors of the SCC, 1e-8 e, grow with the chaos of the trajectory.
    assert found["energy"] < 1e-6
    # As many digits as i-PI writes.
    assert found["position"] < 1e-4
    shares = study.served(tmp_path / "changing" / "ipi.log")
    assert len(shares) == 3
    assert all(sum(counts) > study.BEADS * study.STEPS // 10 for counts in shares)
