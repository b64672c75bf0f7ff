"""Units as i-PI names them."""

import pytest

from deltaqmmm.analysis.units import to_atomic_units
from deltaqmmm.errors import InputError
from deltaqmmm.units import ELECTRONVOLT, FEMTOSECOND, KELVIN, KJ_PER_MOL


@pytest.mark.parametrize(
    ("unit", "kind", "value"),
    [
        ("", "energy", 1.0),
        ("atomic_unit", "length", 1.0),
        ("electronvolt", "energy", ELECTRONVOLT),
        ("millielectronvolt", "energy", ELECTRONVOLT / 1000),
        ("kiloj/mol", "energy", KJ_PER_MOL),
        ("kilocal/mol", "energy", 4.1868 * KJ_PER_MOL),
        ("kelvin", "temperature", KELVIN),
        ("femtosecond", "time", FEMTOSECOND),
        ("picosecond", "time", 1000 * FEMTOSECOND),
    ],
)
def test_known_units(unit, kind, value):
    assert to_atomic_units(unit, kind, "x") == pytest.approx(value, rel=1e-12)


def test_they_are_those_of_ipi():
    units = pytest.importorskip("ipi.utils.units")
    for unit, kind in [("kilocal/mol", "energy"), ("picosecond", "time"), ("millielectronvolt", "energy")]:
        # i-PI's constants have eight digits.
        assert to_atomic_units(unit, kind, "x") == pytest.approx(units.unit_to_internal(kind, unit, 1.0), rel=2e-6)


def test_unknown_units_are_named():
    with pytest.raises(InputError, match=r"potential is in 'furlong'"):
        to_atomic_units("furlong", "energy", "potential")
