"""What stands in the figures: the numbers of their lines, the words of their axes."""

import numpy as np
import pytest

from deltaqmmm.analysis import themes
from deltaqmmm.analysis.figures import WIDTH_CM, thinned
from deltaqmmm.analysis.records import Record, Series
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
    np.testing.assert_allclose(above.lines[1].get_ydata(), 0.5 * TIMES, atol=1e-12)
    assert above.get_title(loc="right") == "drift 0.5 kJ/mol per ps, 0.17 per atom"
    assert abs(below.lines[0].get_ydata().mean()) < 1e-9
    assert below.get_xlabel() == "time (ps)"
    assert "kJ/mol" in above.get_ylabel()
    assert figure.get_size_inches()[0] * 2.54 == pytest.approx(WIDTH_CM)


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


def test_without_a_time_step_the_axis_is_of_steps():
    one = Record("", None, None, [], {"potential": Series(np.arange(5.0), np.arange(5.0))})
    assert themes.energies_figure([one]).axes[0].get_xlabel() == "step"


def test_long_lines_are_thinned_to_what_can_be_seen():
    assert len(np.arange(100000)[thinned(100000)]) == 4000
    assert len(np.arange(100)[thinned(100)]) == 100
