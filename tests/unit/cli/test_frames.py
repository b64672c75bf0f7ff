from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import cellpar_to_cell
from ase.io import write

from deltaqmmm.cli.frames import check_atoms, is_ipi_xyz, read_frames
from deltaqmmm.errors import FrameError
from deltaqmmm.units import ANGSTROM

POSITIONS = np.array([[0.1, 0.2, 0.3], [1.1, 0.2, 0.3], [-0.2, 1.2, 0.3]])
CELL = cellpar_to_cell([10.0, 11.0, 12.0, 80.0, 95.0, 100.0])


def ipi_text(comment: str, positions=POSITIONS) -> str:
    rows = [f"{s} {x:.8f} {y:.8f} {z:.8f}" for s, (x, y, z) in zip("OHH", positions, strict=True)]
    return "\n".join(["3", comment, *rows]) + "\n"


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz"])
def test_extended_xyz(name, tmp_path, three_atoms):
    frames = [Atoms("OHH", positions=POSITIONS + shift, cell=CELL, pbc=True) for shift in (0.0, 1.0)]
    write(tmp_path / name, frames, format="extxyz")
    read = list(read_frames(tmp_path / name, three_atoms))
    assert [frame.label for frame in read] == [f"frame {i} of {tmp_path / name}" for i in (0, 1)]
    np.testing.assert_allclose(read[1].positions, (POSITIONS + 1.0) * ANGSTROM, atol=1e-7)
    np.testing.assert_allclose(read[0].cell, CELL * ANGSTROM, rtol=1e-7)
    assert read[0].symbols == ("O", "H", "H")


def test_pdb(tmp_path, three_atoms):
    write(tmp_path / "a.pdb", Atoms("OHH", positions=POSITIONS, cell=[10, 11, 12], pbc=True))
    (frame,) = read_frames(tmp_path / "a.pdb", three_atoms)
    np.testing.assert_allclose(frame.positions, POSITIONS * ANGSTROM, atol=2e-3)
    np.testing.assert_allclose(frame.cell, np.diag([10, 11, 12]) * ANGSTROM, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "factor"), [("angstrom", ANGSTROM), ("atomic_unit", 1.0), ("nanometer", 10 * ANGSTROM)]
)
def test_ipi_units(unit, factor, tmp_path, three_atoms):
    comment = f"# CELL(abcABC): 10 11 12 80 95 100 Step: 0 Bead: 1 positions{{{unit}}} cell{{angstrom}}"
    (tmp_path / "a.xyz").write_text(ipi_text(comment))
    (frame,) = read_frames(tmp_path / "a.xyz", three_atoms)
    np.testing.assert_allclose(frame.positions, POSITIONS * factor)
    np.testing.assert_allclose(frame.cell, CELL * ANGSTROM, rtol=1e-12)


def test_ipi_default_unit_is_bohr(tmp_path, three_atoms):
    (tmp_path / "a.xyz").write_text(ipi_text("# CELL(abcABC): 10 11 12 80 95 100") * 2)
    first, second = read_frames(tmp_path / "a.xyz", three_atoms)
    np.testing.assert_allclose(first.positions, POSITIONS)
    np.testing.assert_allclose(second.cell, CELL, rtol=1e-12)
    assert second.label.startswith("frame 1 of")


def test_ipi_cell_matrices_are_columns_for_h_and_rows_for_genh(tmp_path, three_atoms):
    numbers = [10.0, 1.0, 2.0, 0.0, 11.0, 3.0, 0.0, 0.0, 12.0]
    text = " ".join(map(str, numbers))
    (tmp_path / "h.xyz").write_text(ipi_text(f"# CELL{{H}}: {text} cell{{atomic_unit}}"))
    (tmp_path / "genh.xyz").write_text(ipi_text(f"# CELL(GENH): {text}"))
    (h,) = read_frames(tmp_path / "h.xyz", three_atoms)
    (genh,) = read_frames(tmp_path / "genh.xyz", three_atoms)
    np.testing.assert_array_equal(h.cell, np.reshape(numbers, (3, 3)).T)
    np.testing.assert_array_equal(genh.cell, np.reshape(numbers, (3, 3)))


def test_ipi_reads_the_same(tmp_path, three_atoms):
    io = pytest.importorskip("ipi.utils.io", reason="i-PI is not installed")
    file = tmp_path / "a.xyz"
    file.write_text(ipi_text("# CELL(abcABC): 10 11 12 80 95 100 positions{angstrom} cell{angstrom}"))
    (ours,) = read_frames(file, three_atoms)
    with file.open() as stream:
        theirs = io.read_file("xyz", stream)
    # i-PI's angstrom has fewer digits.
    np.testing.assert_allclose(ours.positions.reshape(-1), theirs["atoms"].q, rtol=1e-7)
    np.testing.assert_allclose(ours.cell, theirs["cell"].h.T, rtol=1e-7, atol=1e-12)


def test_which_xyz_files_are_those_of_ipi(tmp_path):
    file = tmp_path / "a.xyz"
    for comment, expected in [
        ("# CELL(abcABC): 1 1 1 90 90 90", True),
        ("positions{angstrom}", True),
        ('Lattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3', False),
        ("water", False),
    ]:
        file.write_text(ipi_text(comment))
        assert is_ipi_xyz(file) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ipi_text("# CELL(abcABC): 1 1 1 90 90 90 velocities{atomic_unit}"), "holds velocities"),
        (ipi_text("# CELL(abcABC): 1 1 1 90 90 90 positions{parsec}"), "the unit 'parsec' is unknown"),
        (ipi_text("# CELL(abcABC): 1 1 1"), r"CELL\(abcABC\) needs 6 numbers"),
        (ipi_text("# CELL(H): 1 1 1"), r"CELL\(H\) needs 9 numbers"),
        (ipi_text("# CELL(abcABC): 9 9 9 90 90 90")[:-30], "cut short"),
        (ipi_text("# CELL(abcABC): 9 9 9 90 90 90").replace("0.2", "abc"), "not in the xyz format of i-PI"),
        (ipi_text("# CELL(abcABC): 9 9 9 90 90 90") + "rubbish\n", "frame 1 .* not in the xyz format"),
        (ipi_text("positions{angstrom}"), "has no cell, and the system is periodic"),
        ("", "cannot read it|holds no frames"),
        ("3\nwater\nO 0 0\n", "ASE cannot read it"),
    ],
)
def test_files_that_cannot_be_used(text, expected, tmp_path, three_atoms):
    file = tmp_path / "a.xyz"
    file.write_text(text)
    with pytest.raises(FrameError, match=expected):
        list(read_frames(file, three_atoms))


def test_missing_file(three_atoms):
    with pytest.raises(FrameError, match=r"absent.xyz: no such file"):
        list(read_frames(Path("absent.xyz"), three_atoms))


def test_an_isolated_system_needs_no_cell(tmp_path, three_atoms):
    write(tmp_path / "a.xyz", Atoms("OHH", positions=POSITIONS), format="xyz")
    isolated = type(three_atoms)(**{**vars(three_atoms), "periodic": False})
    (frame,) = read_frames(tmp_path / "a.xyz", isolated)
    assert frame.cell is None


def test_wrong_number_of_atoms(three_atoms):
    with pytest.raises(FrameError, match="frame 4 of x has 2 atoms, and the topology has 3"):
        check_atoms(("O", "H"), three_atoms, "frame 4 of x")


def test_wrong_order_names_the_first_atom_that_differs(three_atoms):
    with pytest.raises(FrameError, match=r"atom 0 \(counted from 0\) is H, and in the topology it is O"):
        check_atoms(("H", "O", "H"), three_atoms, "frame 0 of x")
    check_atoms(("O", "H", "H"), three_atoms, "frame 0 of x")
