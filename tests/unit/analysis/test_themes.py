"""What stands in the figures: the numbers of their lines, the words of their axes."""

from dataclasses import replace

import numpy as np
import pytest

from deltaqmmm.analysis import themes
from deltaqmmm.analysis.figures import WIDTH_CM, thinned
from deltaqmmm.analysis.records import Record, Series, conserved_drift
from deltaqmmm.analysis.sampling_themes import variable_figure, windows_figure
from deltaqmmm.units import KELVIN, KJ_PER_MOL

TIMES = np.linspace(0.0, 2.0, 201)


def record(label="", **properties):
    series = {name: Series(TIMES, values) for name, values in properties.items()}
    return Record(label, 0.0005, 300.0, ["O", "H", "H"], series)


def test_energies_are_drawn_from_their_zero_with_the_drift():
    rng = np.random.default_rng(0)
    one = record(conserved=-50.0 + 0.5 * TIMES, potential=rng.normal(-60.0, 1.0, 201))
    figure = themes.energies_figure([one])
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), 0.5 * TIMES)
    # Only over the part that counts: from 0.4 ps on.
    np.testing.assert_allclose(above.lines[1].get_xdata(), TIMES[40:])
    np.testing.assert_allclose(above.lines[1].get_ydata(), 0.5 * TIMES[40:], atol=1e-12)
    assert above.get_title(loc="right") == "drift 0.5 kJ/mol per ps, 0.167 per atom"
    assert abs(below.lines[0].get_ydata().mean()) < 1e-9
    assert below.get_xlabel() == "time (ps)"
    assert "kJ/mol" in above.get_ylabel()
    assert figure.get_size_inches()[0] * 2.54 == pytest.approx(WIDTH_CM)


def test_the_drift_is_that_of_what_is_not_skipped():
    one = record(conserved=np.where(TIMES < 1.0, 50.0, 0.0) + 2.0 * TIMES)
    axis = themes.energies_figure([one], 1.0).axes[0]
    assert axis.get_title(loc="right").startswith("drift 2 kJ/mol per ps")
    assert axis.lines[1].get_xdata()[0] == 1.0
    found = conserved_drift(one, 1.0)
    assert (found.slope, found.scatter) == pytest.approx((2.0, 0.0), abs=1e-9)
    # Four rows tell no drift.
    assert conserved_drift(one, 1.97) is None
    assert len(themes.energies_figure([one], 1.97).axes[0].lines) == 1


def test_many_systems_have_a_colour_bar_and_few_a_legend():
    few, many = ([record(str(k), potential=TIMES + k) for k in range(n)] for n in (6, 7))
    figure = themes.energies_figure(few)
    assert len(figure.axes) == 1
    # Outside of the axes, where there are no data.
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"system {k}" for k in range(6)]
    figure = themes.energies_figure(many)
    axis, bar = figure.axes
    assert not figure.legends
    assert [text.get_text() for text in bar.get_yticklabels()] == [f"system {k}" for k in range(7)]
    assert len({line.get_color() for line in axis.lines}) == 7


def test_the_ladder_stands_in_the_temperature():
    two = [replace(record(str(k), temperature=300.0 + TIMES), target=None, kind="replica") for k in range(2)]
    figure = themes.temperature_figure(two, (300.0, 320.0))
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert levels == [300.0, 320.0]
    assert {"replica 0", "replica 1"} <= {text.get_text() for text in figure.legends[0].get_texts()}


def test_qm_atoms_have_names_and_colours_of_their_own():
    charges = Series(TIMES, np.tile(np.arange(9.0), (201, 1)))
    one = Record("", 0.0005, None, [], {}, {"qm_charges": [charges]})
    names = [f"H{k}" for k in range(9)]
    lines = themes.qm_figure(one, names).axes[0].lines
    assert [line.get_label() for line in lines] == names
    assert len({line.get_color() for line in lines}) == 9
    assert themes.qm_figure(one, names[:8]).axes[0].lines[0].get_label() == "QM atom 0"


def test_windows_and_hills_are_drawn():
    figure = windows_figure({"a": np.linspace(0.0, 1.0, 50), "b": np.linspace(0.5, 2.0, 50)}, "cv")
    assert figure.axes[0].get_xlim()[0] < 0.0 < 2.0 < figure.axes[0].get_xlim()[1]
    above, below = variable_figure(Series(TIMES, TIMES), Series(TIMES[:5], np.ones(5)), "cv", "time (ps)").axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), TIMES)
    assert set(below.lines[0].get_ydata()) == {1.0}


def test_temperature_has_its_running_mean_and_the_target():
    axis = themes.temperature_figure([record(temperature=np.linspace(290.0, 310.0, 201))]).axes[0]
    each, running, target = axis.lines[:3]
    assert each.get_ydata()[-1] == 310.0
    assert running.get_ydata()[-1] == pytest.approx(300.0)
    assert set(target.get_ydata()) == {300.0}


def test_kinetic_energy_is_of_an_atom_and_beside_the_classical():
    classical = 1.5 * 300.0 * KELVIN / KJ_PER_MOL
    values = {"kinetic_cv": np.full(201, 30.0), "kinetic_td(H)": np.full(201, 22.0), "kinetic_cv(0)": np.full(201, 5.0)}
    one = Record("", 0.0005, 300.0, ["O", "H", "H"], {name: Series(TIMES, y) for name, y in values.items()})
    left, right = themes.quantum_kinetic_figure([one]).axes
    assert [line.get_ydata()[-1] for line in left.lines] == pytest.approx([10.0, 11.0, classical])
    assert [text.get_text() for text in right.get_yticklabels()] == list(values)
    # Of three atoms, of two, of one.
    points = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    assert points == pytest.approx([10.0, 11.0, 5.0])


def test_the_worst_bead_of_a_committee_is_drawn():
    beads = [Series(TIMES, np.full((201, 1), value)) for value in (1.0, 3.0)]
    one = Record("", 0.0005, None, [], {}, {"committee_energy_spread": beads, "wb_mixing": beads})
    spread, weight = themes.committee_figure([one]).axes
    assert set(spread.lines[0].get_ydata()) == {3.0}
    assert set(weight.lines[0].get_ydata()) == {1.0}
    assert weight.get_ylim()[0] > 0.5
    assert spread.get_ylim()[0] == 0.0


def test_without_a_time_step_the_axis_is_of_steps():
    one = Record("", None, None, [], {"potential": Series(np.arange(5.0), np.arange(5.0))})
    assert themes.energies_figure([one]).axes[0].get_xlabel() == "step"


def test_long_lines_are_thinned_to_what_can_be_seen():
    assert len(np.arange(100000)[thinned(100000)]) == 4000
    assert len(np.arange(100)[thinned(100)]) == 100
