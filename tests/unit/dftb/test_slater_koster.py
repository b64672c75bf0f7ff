"""Slater-Koster files: both formats, both repulsions, interpolation and its tail, rotation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.dftb.radial import repulsive_tables, uniform_tables
from deltaqmmm.dftb.rotation import blocks, channels
from deltaqmmm.dftb.slater_koster import RepulsivePolynomial, RepulsiveSpline, find_file, read_slater_koster
from deltaqmmm.errors import ParameterError

CPU = torch.device("cpu")
SPLINE = """Spline
2 3.0
1.5 2.0 -0.01
1.0 2.0 0.1 -0.2 0.3 -0.4
2.0 3.0 0.05 -0.1 0.05 0.0 0.0 0.0
"""


def simple_file(
    rows=12, atom="0.0 -0.2 -0.5 0.0 0.4 0.41 0.42 0.0 2.0 2.0", polynomial="12.0 8*0.0 0.0 10*0.0", tail=SPLINE
):
    table = "\n".join(" ".join(f"{0.01 * c + 0.1 * r:.4f}" for c in range(20)) for r in range(rows))
    return "\n".join([f"0.5, {rows + 1}", *([atom] if atom else []), polynomial, table, tail])


def test_simple_format(tmp_path):
    path = tmp_path / "C-C.skf"
    path.write_text(simple_file())
    file = read_slater_koster(path, homonuclear=True)
    assert file.spacing == 0.5
    # Columns from the left: dd(0..2) pd(0,1) pp(0,1) sd sp ss, Hamiltonian and then overlap.
    order = [
        (2, 2, 0),
        (2, 2, 1),
        (2, 2, 2),
        (1, 2, 0),
        (1, 2, 1),
        (1, 1, 0),
        (1, 1, 1),
        (0, 2, 0),
        (0, 1, 0),
        (0, 0, 0),
    ]
    for column, channel in enumerate(order):
        assert file.hamiltonian[channel][0] == pytest.approx(0.01 * column)
        assert file.overlap[channel][0] == pytest.approx(0.01 * (column + 10))
    assert file.hamiltonian[0, 0, 0][0] == pytest.approx(0.09)
    assert file.overlap[1, 1, 1][2] == pytest.approx(0.16 + 0.2)
    np.testing.assert_allclose(file.atom.onsite_energies, [-0.5, -0.2, 0.0])
    np.testing.assert_allclose(file.atom.hubbard, [0.42, 0.41, 0.4])
    np.testing.assert_allclose(file.atom.occupations, [2.0, 2.0, 0.0])
    assert isinstance(file.repulsion, RepulsiveSpline)
    np.testing.assert_allclose(file.repulsion.knots, [1.0, 2.0, 3.0])


def test_extended_format_gives_the_same_integrals(tmp_path):
    """The columns of the simple format, moved to where the extended one has them."""
    (tmp_path / "simple.skf").write_text(simple_file())
    simple = read_slater_koster(tmp_path / "simple.skf", homonuclear=True)
    columns = {(2, 2, 0): 7, (2, 2, 1): 8, (2, 2, 2): 9, (1, 2, 0): 12, (1, 2, 1): 13, (1, 1, 0): 14, (1, 1, 1): 15}
    columns |= {(0, 2, 0): 17, (0, 1, 0): 18, (0, 0, 0): 19}
    table = np.full((12, 40), 7.0)
    for key, column in columns.items():
        table[:, column], table[:, 20 + column] = simple.hamiltonian[key], simple.overlap[key]
    rows = "\n".join(" ".join(map(str, row)) for row in table)
    atom = "9.0 0.0 -0.2 -0.5 0.0 9.0 0.4 0.41 0.42 9.0 0.0 2.0 2.0"
    (tmp_path / "extended.skf").write_text(f"@ extended\n0.5 13\n{atom}\n12.0 8*0.0 0.0 10*0.0\n{rows}\n{SPLINE}")
    extended = read_slater_koster(tmp_path / "extended.skf", homonuclear=True)
    for key in simple.hamiltonian:
        np.testing.assert_array_equal(extended.hamiltonian[key], simple.hamiltonian[key])
        np.testing.assert_array_equal(extended.overlap[key], simple.overlap[key])
    np.testing.assert_array_equal(extended.atom.occupations, simple.atom.occupations)


def test_polynomial_repulsion(tmp_path):
    (tmp_path / "x.skf").write_text(simple_file(atom=None, polynomial="12.0 0.3 -0.1 6*0.0 4.0 10*0.0", tail=""))
    repulsion = read_slater_koster(tmp_path / "x.skf", homonuclear=False).repulsion
    assert isinstance(repulsion, RepulsivePolynomial)
    distances = torch.tensor([[1.0], [3.5], [4.0], [5.0]], dtype=torch.float64)
    values = repulsive_tables([repulsion], [0], CPU)(distances).squeeze(1).numpy()
    d = np.clip(4.0 - distances.numpy().ravel(), 0.0, None)
    np.testing.assert_allclose(values, 0.3 * d**2 - 0.1 * d**3, atol=1e-14)


def test_spline_repulsion_in_every_interval(tmp_path):
    (tmp_path / "x.skf").write_text(simple_file(atom=None))
    repulsion = read_slater_koster(tmp_path / "x.skf", homonuclear=False).repulsion
    r = np.array([0.4, 1.0, 1.7, 2.0, 2.5, 3.0, 3.1])
    expected = [np.exp(-1.5 * 0.4 + 2.0) - 0.01]
    expected += [0.1 - 0.2 * d + 0.3 * d**2 - 0.4 * d**3 for d in (0.0, 0.7)]
    expected += [0.05 - 0.1 * d + 0.05 * d**2 for d in (0.0, 0.5)] + [0.0, 0.0]
    values = repulsive_tables([repulsion], [0], CPU)(torch.tensor(r[:, None])).squeeze(1)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize(
    "text", ["", "0.5 13\n", simple_file()[:300], simple_file(rows=12).replace("0.5, 13", "0.5, 50")]
)
def test_truncated_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "C-C.skf"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"C-C\.skf is not a complete Slater-Koster file"):
        read_slater_koster(path, homonuclear=True)


def test_folders_are_searched_in_the_documented_order(tmp_path, monkeypatch):
    (tmp_path / "3ob-3-1").mkdir()
    (tmp_path / "3ob-3-1" / "H-H.skf").write_text("x")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "H-H.skf").write_text("x")
    monkeypatch.setenv("DFTB_PREFIX", str(tmp_path))
    assert find_file(DFTBSettings(), "H", "H") == tmp_path / "3ob-3-1" / "H-H.skf"
    assert find_file(DFTBSettings(parameter_folder=tmp_path / "own"), "H", "H") == tmp_path / "own" / "H-H.skf"
    # What the first folder lacks is found in a later one (the wheel's).
    assert find_file(DFTBSettings(), "O", "H").parent.name == "3ob-3-1"
    with pytest.raises(ParameterError, match=str(tmp_path / "own")):
        find_file(DFTBSettings(parameter_folder=tmp_path / "own"), "O", "H")


def test_interpolation_is_exact_for_a_polynomial_and_ends_smoothly():
    grid = 0.1 * np.arange(1, 41)
    values = np.stack([grid**5 - 3 * grid**2, np.exp(-grid)], axis=1)
    tables = uniform_tables([(values, 0.1)], [0], CPU)
    r = torch.tensor([[0.95], [2.222], [3.999]], dtype=torch.float64, requires_grad=True)
    result = tables(r)
    assert torch.allclose(result[..., 0], r**5 - 3 * r**2, atol=1e-11)
    (slope,) = torch.autograd.grad(result[..., 1].sum(), r)
    assert torch.allclose(slope, -torch.exp(-r), atol=1e-9)
    # Value, slope and curvature are continuous at the last grid point and vanish 1 bohr behind it.
    h = 1e-4

    def derivatives(x):
        around = tables(torch.tensor([[x - h], [x], [x + h]], dtype=torch.float64))[:, 0, 1].numpy()
        return around[1], (around[2] - around[0]) / (2 * h), (around[2] - 2 * around[1] + around[0]) / h**2

    np.testing.assert_allclose(derivatives(4.0), [np.exp(-4.0), -np.exp(-4.0), np.exp(-4.0)], rtol=2e-3)
    np.testing.assert_allclose(derivatives(5.0), 0.0, atol=1e-4)
    assert float(tables(torch.tensor([[5.0 + 1e-12]], dtype=torch.float64)).abs().max()) == 0.0


def test_rotation_of_the_bond_leaves_singular_values_of_every_block_unchanged():
    generator = np.random.default_rng(0)
    integrals = torch.tensor(generator.standard_normal(len(channels(2, 2)))).expand(1, 6, 1, -1)
    directions = torch.tensor(generator.standard_normal((1, 6, 3)))
    directions[0, 0] = torch.tensor([0.0, 0.0, 1.0])
    directions = directions / directions.norm(dim=-1, keepdim=True)
    values = torch.linalg.svdvals(blocks(directions, integrals, 2, 2))
    assert torch.allclose(values, values[:, :1].expand_as(values), atol=1e-12)


def test_blocks_along_z_are_the_bare_integrals():
    names = channels(2, 2)
    integrals = torch.arange(1.0, len(names) + 1.0, dtype=torch.float64).reshape(1, 1, 1, -1)
    block = blocks(torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64), integrals, 2, 2)[0, 0, 0]
    value = {name: float(i + 1) for i, name in enumerate(names)}
    # Orbitals: 0 s; 1-3 x, y, z; 4-8 xy, yz, z2, zx, x2-y2.
    assert float(block[0, 3]) == value[0, 1, 0]
    assert float(block[6, 0]) == value[2, 0, 0]
    assert float(block[1, 1]) == value[1, 1, 1]
    assert float(block[1, 7]) == pytest.approx(value[1, 2, 1])
    assert float(block[3, 6]) == pytest.approx(value[1, 2, 0])
    assert float(block[4, 4]) == pytest.approx(value[2, 2, 2])
    assert float(block[5, 5]) == pytest.approx(value[2, 2, 1])
    assert abs(float(block[0, 1])) == 0.0


def test_parameters_without_repulsion_mean_no_repulsion(tmp_path, monkeypatch):
    path = find_file(DFTBSettings(), "H", "H")
    lines = path.read_text().splitlines()
    spline = next(i for i, line in enumerate(lines) if line.strip() == "Spline")
    (tmp_path / "H-H.skf").write_text("\n".join(lines[:spline]))
    settings = replace(DFTBSettings(), parameter_folder=tmp_path)
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]], dtype=torch.float64)
    result = DFTBEngine(["H", "H"], 0, settings).evaluate(positions, torch.zeros(1, 2, dtype=torch.float64))
    assert float(result.terms["repulsion"]) == 0.0
