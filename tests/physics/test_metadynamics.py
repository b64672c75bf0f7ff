"""The free energy of proton transfer in malonaldehyde, which is symmetric, classical and with beads
(ipi_inputs/metadynamics)."""

import numpy as np
import pytest

from tests.physics.studies import load

pytestmark = pytest.mark.physics

pytest.importorskip("plumed", reason="PLUMED is not installed: pip install --no-deps hillclimber")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    study = load("metadynamics")
    return study, study.main(tmp_path_factory.mktemp("metadynamics"), steps=6000, beads_steps=3000)


@pytest.mark.parametrize("kind", ["classical", "beads"])
def test_both_wells_are_the_same(profiles, kind):
    study, found = profiles
    value, error = found[kind].asymmetry
    assert abs(value) < 4 * error
    away = found[kind].energies - found[kind].energies[::-1]
    errors = np.hypot(found[kind].errors, found[kind].errors[::-1])
    inside = np.abs(study.CENTRES) < 0.9
    assert np.sqrt(np.mean((away / errors)[inside] ** 2)) < 2.5


def test_the_wells_are_where_the_minima_are(profiles):
    study, found = profiles
    energies = found["classical"].energies
    for side in (study.CENTRES < 0, study.CENTRES > 0):
        lowest = study.CENTRES[side][np.argmin(energies[side])]
        # The minimum of the potential is at 0.664 angstrom; thermal motion moves it out a little.
        assert 0.5 < abs(lowest) < 0.95


def test_the_classical_barrier(profiles):
    # 13.4 +- 0.4 kJ/mol by umbrella sampling (ipi_inputs/umbrella); that of the potential energy is 11.0.
    value, error = profiles[1]["classical"].barrier
    assert error < 1.5
    assert abs(value - 13.4) < 4 * np.hypot(error, 0.4)


def test_quantum_nuclei_lower_it(profiles):
    (classical, one), (beads, other) = (profiles[1][kind].barrier for kind in ("classical", "beads"))
    assert classical - beads > 3.0 + 2 * np.hypot(one, other)
    assert beads > -2 * other
