"""The radial functions against their formulas."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from deltaqmmm.errors import ConfigError, ModelError
from deltaqmmm.ml import COULOMB, RadialFunction, SymmetryFunctions, default_functions
from deltaqmmm.ml.functions import cutoff_function, potential_and_field, radial_values_and_slopes, widening_functions
from deltaqmmm.units import ANGSTROM
from tests.unit.ml.helpers import plain_radial, small_functions

CUTOFF = 8.0
FUNCTIONS = (
    RadialFunction("g1"),
    RadialFunction("g2", eta=0.3),
    RadialFunction("g2", eta=0.7, shift=2.5),
    RadialFunction("g2", eta=0.7, shift=-1.0),
    RadialFunction("g3", kappa=1.3),
    RadialFunction("g3", kappa=math.pi / CUTOFF),
    RadialFunction("g2", eta=0.0),
    # The square of one that came before, and of this one in turn; and half of one that came before.
    RadialFunction("g2", eta=0.6),
    RadialFunction("g2", eta=1.2),
    RadialFunction("g2", eta=0.15),
)
DISTANCES = (0.05, 0.9, 2.0, 2.5, 4.4, 7.0, 7.99, 8.0, 8.01, 30.0, 2e4)


def closed_form(function, r):
    if r >= CUTOFF:
        return 0.0
    window = (1.0 - (r / CUTOFF) ** 6) ** 3
    if function.kind == "g1":
        return window
    if function.kind == "g2":
        return math.exp(-function.eta * (r - function.shift) ** 2) * window
    return math.cos(function.kappa * r) * window


def squared_distances(distances=DISTANCES):
    return torch.tensor(distances, dtype=torch.float64) ** 2


def test_values_are_those_of_the_formulas():
    expected = torch.tensor([[closed_form(f, r) for f in FUNCTIONS] for r in DISTANCES], dtype=torch.float64)
    values, _ = radial_values_and_slopes(FUNCTIONS, squared_distances(), CUTOFF)
    torch.testing.assert_close(values, expected.T, rtol=1e-13, atol=1e-15)


def test_a_known_value_by_hand():
    # r = 4 of 8: (1 - 1/64)^3.
    values, _ = radial_values_and_slopes(FUNCTIONS[:1], torch.tensor([16.0], dtype=torch.float64), CUTOFF)
    assert values.item() == (63 / 64) ** 3
    values, _ = radial_values_and_slopes(
        (RadialFunction("g2", eta=0.5, shift=3.0),), torch.tensor([16.0], dtype=torch.float64), CUTOFF
    )
    assert values.item() == pytest.approx(math.exp(-0.5) * (63 / 64) ** 3, rel=1e-14)


def test_functions_are_computed_alike_alone_and_together():
    # Alone, a Gaussian around zero takes a way without the distance.
    _, together = radial_values_and_slopes(FUNCTIONS, squared_distances(), CUTOFF)
    for index, function in enumerate(FUNCTIONS):
        _, alone = radial_values_and_slopes((function,), squared_distances(), CUTOFF)
        torch.testing.assert_close(alone[0], together[index], rtol=1e-13, atol=0.0)


def test_slopes_are_the_derivatives_by_the_squared_distance():
    _, slopes = radial_values_and_slopes(FUNCTIONS, squared_distances(), CUTOFF)
    for index, function in enumerate(FUNCTIONS):
        squared = squared_distances().requires_grad_()
        values = torch.stack([plain_radial(function, square.sqrt(), CUTOFF) for square in squared])
        (expected,) = torch.autograd.grad(values.sum(), squared)
        torch.testing.assert_close(slopes[index], expected, rtol=1e-11, atol=1e-15)


def test_slopes_by_finite_differences():
    squared = squared_distances(DISTANCES[1:6])
    step = 1e-5
    above, _ = radial_values_and_slopes(FUNCTIONS, squared + step, CUTOFF)
    below, _ = radial_values_and_slopes(FUNCTIONS, squared - step, CUTOFF)
    _, slopes = radial_values_and_slopes(FUNCTIONS, squared, CUTOFF)
    torch.testing.assert_close(slopes, (above - below) / (2 * step), rtol=1e-7, atol=1e-10)
    window_above, _ = cutoff_function(squared + step, CUTOFF)
    window_below, _ = cutoff_function(squared - step, CUTOFF)
    _, slope = cutoff_function(squared, CUTOFF)
    torch.testing.assert_close(slope, (window_above - window_below) / (2 * step), rtol=1e-7, atol=1e-10)


def test_potential_and_field_are_those_of_the_formulas():
    squared = squared_distances().requires_grad_()
    found = potential_and_field(squared.detach(), CUTOFF)
    for rank in (0, 1):
        # Beside 1/r and 1/r^3 by hand, for one.
        values = torch.stack([plain_radial(COULOMB, square.sqrt(), CUTOFF, rank) for square in squared])
        (slopes,) = torch.autograd.grad(values.sum(), squared)
        torch.testing.assert_close(found[0][rank], values.detach(), rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(found[1][rank], slopes, rtol=1e-11, atol=1e-15)
        by_hand, _ = potential_and_field(torch.tensor([16.0], dtype=torch.float64), CUTOFF)
        assert by_hand[rank].item() == pytest.approx((63 / 64) ** 3 / 4.0 ** (1 + 2 * rank), rel=1e-14)
    # In the very place of an atom they are numbers.
    assert all(tensor.isfinite().all() for tensor in potential_and_field(torch.zeros(1).double(), CUTOFF))


def test_value_and_two_derivatives_vanish_at_the_cutoff():
    previous = None
    for gap in (1e-2, 1e-3):
        r = torch.tensor(CUTOFF - gap, dtype=torch.float64, requires_grad=True)
        window, _ = cutoff_function(r**2, CUTOFF)
        (first,) = torch.autograd.grad(window, r, create_graph=True)
        (second,) = torch.autograd.grad(first, r)
        found = torch.stack([window.detach(), first.detach(), second])
        # About (6 gap / r_c)^3 and its derivatives.
        x = 6.0 / CUTOFF
        expected = torch.tensor([(x * gap) ** 3, -3 * x**3 * gap**2, 6 * x**3 * gap], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=2 * gap, atol=0.0)
        if previous is not None:
            torch.testing.assert_close(previous / found, torch.tensor([1e3, 1e2, 1e1]).double(), rtol=0.02, atol=0.0)
        previous = found
    for distance in (CUTOFF, CUTOFF + 1e-9, 1e5):
        values, slopes = radial_values_and_slopes(FUNCTIONS, squared_distances((distance,)), CUTOFF)
        assert values.abs().max() == 0.0
        assert slopes.abs().max() == 0.0


def test_no_function_gives_an_empty_axis():
    values, slopes = radial_values_and_slopes((), squared_distances(), CUTOFF)
    assert values.shape == slopes.shape == (0, len(DISTANCES))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "g4"},
        {"kind": "g2", "eta": -0.1},
        {"kind": "g2", "eta": math.nan},
        {"kind": "g2", "eta": math.inf},
        {"kind": "g2", "shift": math.inf},
        {"kind": "g3", "kappa": math.nan},
    ],
)
def test_bad_radial_functions_are_refused(values):
    with pytest.raises(ConfigError):
        RadialFunction(**values)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"qm_cutoff": 0.0}, "qm_cutoff"),
        ({"angular_cutoff": -1.0}, "angular_cutoff"),
        ({"mm_cutoff": math.nan}, "mm_cutoff"),
        ({"mm_cutoff": math.inf}, "mm_cutoff"),
        ({"mm_type_by": "residue"}, "mm_type_by"),
        ({"mm_weight": "mass"}, "mm_weight"),
        ({"mm_near_cutoff": 0.0}, "mm_near_cutoff"),
        ({"mm_near_cutoff": math.inf}, "mm_near_cutoff"),
        ({"angular_radial": ()}, "radial part"),
        ({"angular_order": 1}, "angular_order"),
        ({"angular_order": 7}, "angular_order"),
        ({"angular_order": 2.5}, "angular_order"),
        ({"mm_rank": 0}, "ranks"),
        ({"mm_rank": 3}, "ranks"),
        ({"mm_near_rank": 0}, "ranks"),
        ({"mm_near_rank": 3}, "ranks"),
        ({"mm_near_rank": 1.5}, "ranks"),
        ({"qm_radial": (COULOMB,)}, "qm_radial .* 'coulomb' stands alone"),
        ({"angular_radial": (COULOMB,)}, "angular_radial .* 'coulomb' stands alone"),
        ({"mm_near_radial": (COULOMB,)}, "mm_near_radial .* 'coulomb' stands alone"),
        ({"mm_radial": (COULOMB, RadialFunction("g1"))}, "mm_radial .* 'coulomb' stands alone"),
        ({"mm_radial": (COULOMB,), "mm_rank": 2}, "mm_radial .* 'coulomb' stands alone"),
    ],
)
def test_bad_sets_of_functions_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        small_functions(**changes)


@pytest.mark.parametrize(
    "functions",
    [
        small_functions(mm_type_by="name", mm_weight="count", mm_rank=2, mm_near_rank=1),
        small_functions(mm_near_radial=(), angular_order=6),
        default_functions(),
    ],
)
def test_json_round_trip_is_exact(functions):
    assert SymmetryFunctions.from_json(json.loads(json.dumps(functions.to_json()))) == functions


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("mm_radial"),
        lambda values: values.update(extra=1),
        lambda values: values.update(mm_cutoff=-1.0),
        lambda values: values.update(mm_cutoff="far"),
        lambda values: values.update(angular_order=0),
        lambda values: values.update(angular_order="three"),
        lambda values: values.update(mm_near_cutoff=0.0),
        lambda values: values.update(mm_near_rank=3),
        lambda values: values.update(mm_rank=None),
        lambda values: values.update(mm_near_radial=[{"kind": "g9"}]),
        lambda values: values.update(mm_near_radial=[{"eta": 1.0}]),
        lambda values: values.update(mm_near_radial=3),
    ],
)
def test_bad_json_is_a_model_error(change):
    values = small_functions().to_json()
    change(values)
    with pytest.raises(ModelError, match="symmetry functions"):
        SymmetryFunctions.from_json(values)


def test_default_functions_are_what_is_asked_for():
    functions = default_functions(
        mm_cutoff=20.0,
        qm_radial=5,
        angular_radial=3,
        angular_order=2,
        mm_radial=4,
        mm_waves=3,
        mm_near_cutoff=9.0,
        mm_near_radial=5,
    )
    assert (functions.mm_cutoff, functions.angular_order, functions.mm_near_cutoff) == (20.0, 2, 9.0)
    assert (functions.mm_rank, functions.mm_near_rank) == (1, 2)
    assert len(functions.qm_radial) == 1 + 5
    assert len(functions.angular_radial) == 3
    assert [f.kind for f in functions.mm_radial] == ["g1"] + ["g2"] * 4 + ["g3"] * 3
    assert [f.kind for f in functions.mm_near_radial] == ["g2"] * 5
    for radial in (functions.mm_radial, functions.mm_near_radial):
        # Each is the square of the one before, exactly.
        etas = [f.eta for f in radial if f.kind == "g2"]
        assert all(second == 2.0 * first for first, second in itertools.pairwise(etas))
    assert all(0.0 < f.shift < functions.qm_cutoff for f in functions.qm_radial if f.kind == "g2")
    # The widest over all sites has its width at 0.45 of the cutoff; the narrowest over near ones at 0.8 angstrom.
    assert functions.mm_radial[1].eta == pytest.approx(0.5 / 9.0**2)
    assert functions.mm_near_radial[-1].eta == pytest.approx(0.5 / (0.8 * ANGSTROM) ** 2)


def test_without_gaussians_and_waves_it_is_potential_and_field():
    assert default_functions().mm_radial == (COULOMB,)
    assert [f.kind for f in default_functions(mm_waves=1).mm_radial] == ["g1", "g3"]
    assert [f.kind for f in default_functions(mm_radial=1).mm_radial] == ["g1", "g2"]


def test_near_sites_are_within_all_sites():
    assert default_functions(mm_cutoff=8.0, mm_near_cutoff=9.0).mm_near_cutoff == 8.0
    assert default_functions(mm_near_radial=0).mm_near_radial == ()


def test_widening_functions():
    functions = widening_functions(1.5, 4)
    widths = [math.sqrt(0.5 / function.eta) for function in functions]
    assert widths == pytest.approx([1.5 * 2.0 ** (0.5 * index) for index in range(4)])
    assert all((function.kind, function.shift) == ("g2", 0.0) for function in functions)
    assert widening_functions(1.0, 0) == ()
