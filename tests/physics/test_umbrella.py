"""Umbrella sampling and metadynamics find the same free energy (ipi_inputs/umbrella)."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics

pytest.importorskip("plumed", reason="PLUMED is not installed: pip install --no-deps hillclimber")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study, folder = load("umbrella"), tmp_path_factory.mktemp("umbrella")
    umbrella = study.main(folder / "windows", steps=3000)
    return study, umbrella, study.metadynamics.main(folder / "metadynamics", steps=6000, beads_steps=0)["classical"]


def test_the_profiles_agree(results):
    study, umbrella, metadynamics = results
    distance, in_errors = study.difference(umbrella.profile, metadynamics)
    assert distance < 2.0
    assert in_errors < 2.5
    away = umbrella.profile.barrier[0] - metadynamics.barrier[0]
    assert abs(away) < 4 * np.hypot(umbrella.profile.barrier[1], metadynamics.barrier[1])


def test_umbrella_sampling_is_symmetric(results):
    value, error = results[1].profile.asymmetry
    # Five parts of one run tell the error itself only roughly.
    assert abs(value) < 4 * max(error, 0.4)


def test_windows_overlap(results):
    assert results[1].overlap.min() > 0.1
