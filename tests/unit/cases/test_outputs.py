"""Items of <properties> that name atoms: those of another system take their place, and all else stays as it is."""

from pathlib import Path

import pytest

from deltaqmmm.cases.outputs import fill_outputs
from deltaqmmm.cases.values import Values
from deltaqmmm.errors import InputError

FILE = Path("pimd/input.xml")
TEXT = """\
<simulation>
  <output>
    <properties filename='out'> [ step, kinetic_cv, temperature(atom=H;nm=0) ] </properties>
    <!-- why -->
    <properties filename='kinetic'>
      [ step, kinetic_cv(8), kinetic_cv(9), potential, kinetic_cv{kelvin}(8), r_gyration{angstrom}(H),
      r_gyration{angstrom}(O),
        r_gyration{angstrom}(0), r_gyration{angstrom}(4) ]
    </properties>
    <trajectory> positions{angstrom} </trajectory>
  </output>
</simulation>
"""
LISTS = {"kinetic_cv": "qm_hydrogens", "r_gyration": "qm_elements"}


def values(symbols, qm):
    return Values(start="", address="", qm_atoms=tuple(qm), symbols=tuple(symbols))


def test_groups():
    found = values("OHHCHCN", range(2, 7)).groups()
    assert found == {"qm_atoms": (2, 3, 4, 5, 6), "qm_hydrogens": (2, 4), "qm_elements": (2, 3, 6)}


def test_each_run_of_items_becomes_one_of_the_group():
    text, found = fill_outputs(TEXT, FILE, LISTS, values("OHHCHCN", range(2, 7)))
    assert found == {"kinetic_cv", "r_gyration"}
    before, after = TEXT[: TEXT.index("      [ step, k")], TEXT[TEXT.index("    </properties>\n    <traj") :]
    assert text.startswith(before)
    assert text.endswith(after)
    assert text[len(before) : -len(after)] == (
        "      [ step, kinetic_cv(2), kinetic_cv(4), potential, kinetic_cv{kelvin}(2), kinetic_cv{kelvin}(4), "
        "r_gyration{angstrom}(H),\n        r_gyration{angstrom}(O), r_gyration{angstrom}(2), r_gyration{angstrom}(3), "
        "r_gyration{angstrom}(6) ]\n"
    )


def test_the_same_atoms_change_nothing():
    lists = {"kinetic_md": "qm_atoms"}
    text = "<a>\n<properties>\n [step,\n   kinetic_md(0),kinetic_md(1)]</properties></a>"
    assert fill_outputs(text, FILE, lists, values("OH", (0, 1)))[0] == text


def test_what_the_system_lacks_is_left_out():
    text, found = fill_outputs(TEXT, FILE, LISTS, values("HCNH", (1, 2)))
    assert found == {"kinetic_cv", "r_gyration"}
    assert "[ step, potential, r_gyration{angstrom}(H), r_gyration{angstrom}(1), r_gyration{angstrom}(2) ]" in text


def test_a_group_that_is_not_known():
    with pytest.raises(InputError, match=r"pimd: \[lists\] names 'hydrogens': known are qm_atoms, qm_hydrogens"):
        fill_outputs(TEXT, FILE, {"kinetic_cv": "hydrogens"}, values("OH", (0,)))
