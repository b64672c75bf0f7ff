"""D3(BJ) energies against the simple-dftd3 program.

Origin of the numbers: the ``dftd3`` package 1.7.0 (simple-dftd3), RationalDampingParam(s6=1.0, s8=0.5883, a1=0.5719,
a2=3.6017, s9=0.0), at the geometries of tests/data/dftbplus_reference.json with 1 bohr = 0.529177210544 angstrom.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.dispersion import DFTB3, Dispersion
from deltaqmmm.units import ANGSTROM

CASES = json.loads((Path(__file__).parents[1] / "data" / "dftbplus_reference.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("molecule", "hartree"),
    [
        ("benzene", -0.01138856649142),
        ("uracil", -0.01239992012113),
        ("dihydrogen_phosphate", -0.00521351646466),
    ],
)
def test_energy(molecule, hartree):
    case = CASES[f"{molecule}/gas"]
    positions = np.array(case["positions_angstrom"])[None] * ANGSTROM
    (energy,), _ = Dispersion(case["symbols"], DFTB3).evaluate(positions)
    assert energy == pytest.approx(hartree, abs=1e-13)
