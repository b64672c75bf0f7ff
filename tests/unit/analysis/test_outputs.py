"""Properties, extras and trajectories as i-PI writes them, whole and cut off."""

import numpy as np
import pytest

from deltaqmmm.analysis.outputs import (
    bead_files,
    property_units,
    read_extras,
    read_positions,
    read_properties,
    read_trajectory,
)
from deltaqmmm.errors import InputError

HEADER = """\
# column   1     --> step : The current simulation time step.
# column   2     --> time{picosecond} : The elapsed simulation time.
# cols.    3-5   --> dipole : The beads-averaged electric dipole moment or : of a bead.
# column   6     --> kinetic_cv{electronvolt}(H) : The centroid-virial quantum kinetic energy.
# column   7     --> temperature(atom=H; nm=0){kelvin} : The current temperature.
"""


def row(step, *numbers):
    return "  ".join(f"{x: .8e}" for x in (step, 0.5 * step, *numbers)) + "   \n"


def frame(step, x, cell=10.0, quantity="positions{angstrom}"):
    head = f"# CELL(abcABC): {cell} {2 * cell} {cell} 90.00 90.00 60.00  Step: {step:10d}  Bead:       0 "
    return f"2\n{head}{quantity}  cell{{angstrom}}\n       O {x} 2.0 3.0\n       H -4.0e+00 5.0 6.0\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="run.out"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_columns_are_named_without_units_and_vectors_stay_together(written):
    file = written(HEADER + row(0, 1, 2, 3, 4, 5) + row(1, 6, 7, 8, 9, 10))
    read = read_properties(file)
    assert list(read) == ["step", "time", "dipole", "kinetic_cv(H)", "temperature(atom=H;nm=0)"]
    np.testing.assert_array_equal(read["dipole"], [[1, 2, 3], [6, 7, 8]])
    np.testing.assert_array_equal(read["kinetic_cv(H)"], [4, 9])
    np.testing.assert_array_equal(read["temperature(atom=H;nm=0)"], [5, 10])
    units = property_units(file)
    assert [units[name] for name in read] == ["", "picosecond", "", "electronvolt", "kelvin"]


def test_of_two_units_the_first_is_read(written):
    header = "# column 1 --> potential{kelvin} : x\n# column   2     --> potential : x\n"
    file = written(header + "1.0 2.0\n")
    assert list(read_properties(file)["potential"]) == [1.0]
    assert property_units(file) == {"potential": "kelvin"}


def test_half_a_last_row_is_left_out(written):
    whole = HEADER + row(0, 1, 2, 3, 4, 5) + row(1, 6, 7, 8, 9, 10)
    for cut in range(len(HEADER) + 2, len(whole)):
        n = len(read_properties(written(whole[:cut]))["step"])
        assert n == (1 if cut >= len(HEADER + row(0, 1, 2, 3, 4, 5)) else 0)
    assert len(read_properties(written(HEADER))["dipole"]) == 0


def test_a_step_written_twice_counts_once_as_it_was_written_last(written):
    rows = [row(step, value, 0, 0, 0, 0) for step, value in [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (3, 6), (4, 7)]]
    read = read_properties(written(HEADER + "".join(rows)))
    np.testing.assert_array_equal(read["step"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(read["dipole"][:, 0], [1, 2, 5, 6, 7])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n", "no header"),
        (HEADER + "1 2 3\n", "3 numbers"),
        (HEADER + row(0, 1, 2, 3, 4, 5) + "1 2\n", "a row is not made"),
        (HEADER + row(0, 1, 2, 3, 4, 5).replace("3.0", "x.0"), "a row is not made"),
    ],
)
def test_other_files_are_refused(written, text, message):
    with pytest.raises(InputError, match=message):
        read_properties(written(text))


def test_a_missing_file_is_named(tmp_path):
    for read in (read_properties, read_extras, read_positions):
        with pytest.raises(InputError, match="nothing: there is no such file"):
            read(tmp_path / "nothing")


def test_extras_of_one_row_and_of_several(written):
    text = (
        " #EXTRAS(qm_charges)# Step:           0 \n 1.0e+00 2.0 3.0\n #EXTRAS(qm_charges)# Step:          10 \n 4 5 6\n"
    )
    steps, values = read_extras(written(text))
    np.testing.assert_array_equal(steps, [0, 10])
    np.testing.assert_array_equal(values, [[1, 2, 3], [4, 5, 6]])
    text = " #EXTRAS(f)# Step: 2 \n1 2 3\n4 5 6\n #EXTRAS(f)# Step: 4 \n7 8 9\n1 2 3\n"
    np.testing.assert_array_equal(read_extras(written(text))[1], [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]])
    # The last one is half written.
    assert list(read_extras(written(text[:-6]))[0]) == [2]
    assert list(read_extras(written(text + " #EXTRAS(f)# Step: 6 \n"))[0]) == [2, 4]
    assert read_extras(written(""))[1].shape == (0, 0)


def test_extras_that_are_no_numbers_are_refused(written):
    with pytest.raises(InputError, match="step 3 holds"):
        read_extras(written(" #EXTRAS(raw)# Step: 3 \n{'a': 1}\n"))
    with pytest.raises(InputError, match="no extras file"):
        read_extras(written(HEADER))
    with pytest.raises(InputError, match="step 1 holds 1 numbers"):
        read_extras(written("".join(f"#EXTRAS(f)# Step: {i} \n{x}\n" for i, x in enumerate(["1 2", "1", "1 2"]))))


def test_positions_in_angstrom_with_steps_and_cells(written):
    file = written(frame(0, 1.0) + frame(5, 7.0, cell=12.0))
    steps, symbols, positions = read_positions(file)
    assert list(steps) == [0, 5]
    assert symbols == ["O", "H"]
    np.testing.assert_array_equal(positions[:, 0], [[1, 2, 3], [7, 2, 3]])
    np.testing.assert_array_equal(positions[1, 1], [-4, 5, 6])
    cells = read_trajectory(file).cells
    np.testing.assert_allclose(cells[1], [[12, 0, 0], [12, 24 * np.sqrt(0.75), 0], [0, 0, 12]], atol=1e-12)


def test_atomic_units_are_converted(written):
    text = "1\n# CELL(abcABC): 10 10 10 90 90 90  Step: 0  Bead: 0 positions{atomic_unit}  cell{atomic_unit}\nH 1 0 0\n"
    file = written(text)
    assert read_positions(file)[2][0, 0, 0] == pytest.approx(0.529177210544)
    assert read_trajectory(file).cells[0, 0, 0] == pytest.approx(5.29177210544)
    with pytest.raises(InputError, match="velocities"):
        read_positions(written(text.replace("positions", "velocities")))
    with pytest.raises(InputError, match="furlong"):
        read_positions(written(text.replace("positions{atomic_unit}", "positions{furlong}")))


def test_half_a_frame_is_left_out(written):
    whole = frame(0, 1.0) + frame(5, 7.0)
    for cut in range(len(frame(0, 1.0)), len(whole)):
        assert list(read_positions(written(whole[:cut]))[0]) == [0]
    assert len(read_positions(written(""))[0]) == 0


def test_what_is_no_trajectory_is_refused(written):
    with pytest.raises(InputError, match="frame 0"):
        read_positions(written(HEADER))
    with pytest.raises(InputError, match=r"frame 1 .* other atoms"):
        read_positions(written(frame(0, 1.0) + frame(1, 1.0).replace("H", "F")))


def test_beads_come_in_their_order(tmp_path):
    for number in range(12):
        (tmp_path / f"run.pos_{number:02d}.xyz").touch()
    for name in ("T1_run.pos_0.xyz", "run.pos_00.xyz~", "#run.pos_00.xyz#0#", "run.pos_x.xyz"):
        (tmp_path / name).touch()
    assert [file.name for file in bead_files(tmp_path, "run", "pos")] == [f"run.pos_{n:02d}.xyz" for n in range(12)]
    assert [file.name for file in bead_files(tmp_path, "T1_run", "pos")] == ["T1_run.pos_0.xyz"]
    assert bead_files(tmp_path, "run", "qm_charges") == []
