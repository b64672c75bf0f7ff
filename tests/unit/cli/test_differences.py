from types import SimpleNamespace

import numpy as np
import pytest

from deltaqmmm.cli.check import comparison_table, nothing_embedded
from deltaqmmm.cli.differences import Comparison, difference_forces

POSITIONS = np.random.default_rng(5).normal(size=(4, 3))


def compare(evaluate, step=0.01, atoms=(1, 3), tolerance=1e-9):
    return difference_forces("x", evaluate, np.eye(3), POSITIONS, np.array(atoms, dtype=int), step, tolerance)


def test_right_forces_pass(springs):
    result = compare(springs)
    assert result.passed
    assert result.n_atoms == 2
    assert result.error < 1e-10


def test_a_wrong_force_on_a_chosen_atom_fails_by_as_much(springs):
    def wrong(cells, positions):
        plain = springs(cells, positions)
        plain.forces[:, 3, 1] += 1e-3
        return plain

    result = compare(wrong)
    assert not result.passed
    assert result.error == pytest.approx(1e-3, rel=1e-6)
    assert compare(wrong, atoms=(0, 1, 2)).passed


def test_the_formula_is_of_fourth_order():
    def quintic(cells, positions):
        from deltaqmmm.results import Evaluation

        return Evaluation(np.sum(positions**5, axis=(1, 2)), -5.0 * positions**4, None)

    # h^4/30 times the fifth derivative, 120: exactly 4 h^4.
    assert compare(quintic, step=0.1).error == pytest.approx(4e-4, rel=1e-6)
    assert compare(quintic, step=0.05).error == pytest.approx(4e-4 / 16, rel=1e-6)


def test_no_atoms_pass_and_nan_fails(springs):
    assert compare(springs, atoms=()).passed
    assert not Comparison("x", 1, 0.1, float("nan"), 1.0).passed


def test_table():
    text = comparison_table([Comparison("QM atoms", 3, 0.1, 2e-9, 1e-6), Comparison("none there", 0, 0.0, 0.0, 1e-6)])
    assert text.splitlines()[2].split() == ["QM", "atoms", "3", "1.0e-01", "2.0e-09", "1e-06", "ok"]
    assert "none" in text.splitlines()[3]
    assert "OFF" in comparison_table([Comparison("x", 1, 0.1, 1.0, 1e-6)])


@pytest.mark.parametrize(
    ("near", "periodic", "groups", "warned"),
    [(0, True, 20, True), (1, True, 20, False), (0, False, 20, False), (0, True, 0, False)],
)
def test_a_qm_region_that_feels_nothing_is_warned_of(near, periodic, groups, warned):
    names = {
        "DFTB, QM atoms": 3,
        "DFTB, near MM atoms": near,
        "DFTB, MM atoms in the switch": 0,
        "MM, near MM atoms": 1,
    }
    rows = [Comparison(name, n_atoms, 0.1, 1e-9, 1e-6) for name, n_atoms in names.items()]
    loaded = SimpleNamespace(
        system=SimpleNamespace(periodic=periodic, n_groups=groups),
        config=SimpleNamespace(embedding=SimpleNamespace(inner_angstrom=3.0, outer_angstrom=4.0)),
    )
    found = nothing_embedded(loaded, rows)
    assert bool(found) == warned
    if warned:
        assert "no MM atom is near enough to polarise the QM region" in found[0][0]
    # Without a term of the QM side there is nothing to warn of.
    assert nothing_embedded(loaded, rows[-1:]) == []
