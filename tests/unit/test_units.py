import pytest
from scipy import constants

from deltaqmmm import units

HARTREE = constants.value("Hartree energy")
BOHR = constants.value("Bohr radius")


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (units.BOHR_IN_ANGSTROM, BOHR * 1e10),
        (units.ANGSTROM, 1e-10 / BOHR),
        (units.NANOMETRE, 1e-9 / BOHR),
        (units.HARTREE_IN_ELECTRONVOLT, constants.value("Hartree energy in eV")),
        (units.ELECTRONVOLT, constants.e / HARTREE),
        (units.HARTREE_IN_KJ_PER_MOL, HARTREE * constants.N_A / 1000.0),
        (units.KJ_PER_MOL, 1000.0 / constants.N_A / HARTREE),
        (units.KCAL_PER_MOL, 4184.0 / constants.N_A / HARTREE),
        (units.KELVIN, constants.k / HARTREE),
        (units.ATOMIC_TIME_IN_FEMTOSECOND, constants.value("atomic unit of time") * 1e15),
        (units.FEMTOSECOND, 1e-15 / constants.value("atomic unit of time")),
        (units.DALTON, constants.value("atomic mass constant") / constants.m_e),
        (units.E_BOHR_IN_DEBYE, constants.e * BOHR / (1e-21 / constants.c)),
    ],
)
def test_constants_are_those_of_scipy(ours, expected):
    # 1e-9 tells CODATA 2018 from 2022 apart where they differ, and takes either: scipy's set depends on its version.
    assert ours == pytest.approx(expected, rel=1e-9)
