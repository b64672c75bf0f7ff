"""Symmetry functions among the QM atoms against plain loops over the formulas of J. Behler (2011)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.ml import RadialFunction
from deltaqmmm.ml.structure import Structure
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    FORMALDEHYDE_POSITIONS,
    plain_structure,
    random_rotation,
    small_functions,
)

ELEMENTS = ("C", "H", "N", "O")
SYMBOLS = ("O", "H", "C", "H", "N", "C", "O")


def structure_of(symbols=SYMBOLS, functions=None, elements=ELEMENTS):
    return Structure(functions or small_functions(), elements, symbols, torch.device("cpu"), torch.float64)


def cluster(n_frames=1, seed=3, size=4.0):
    """Random atoms, none closer than 1.2 bohr; some pairs are beyond the cutoffs."""
    rng = np.random.default_rng(seed)
    frames = []
    while len(frames) < n_frames:
        points = rng.uniform(-size, size, size=(len(SYMBOLS), 3))
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 10.0 * np.eye(len(SYMBOLS))
        if distances.min() > 1.2:
            frames.append(points)
    return torch.as_tensor(np.array(frames))


@pytest.mark.parametrize("seed", [3, 4])
def test_plain_loops_give_the_same(seed):
    positions = cluster(seed=seed)
    distances = torch.cdist(positions, positions)
    assert distances.max() > 7.0
    found, directions = structure_of()(positions)
    expected, expected_directions = plain_structure(small_functions(), ELEMENTS, SYMBOLS, positions[0])
    assert found.shape[-1] == 4 * 3 + 10 * 2 * 4
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(directions[0], expected_directions, rtol=1e-12, atol=1e-14)


def test_a_right_angle_by_hand():
    # H at (2,0,0) and (0,2,0) around O: cos = 0, so 2^(1-zeta) g^2 for both signs.
    functions = small_functions(
        angular_radial=(RadialFunction("g1"),), angular_zetas=(1, 3), angular_cutoff=4.0, qm_radial=(), directions=()
    )
    positions = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]], dtype=torch.float64)
    found, directions = structure_of(("O", "H", "H"), functions, ("H", "O"))(positions)
    square = (63 / 64) ** 6
    # Pairs HH, HO, OO; of each zeta 1 (+, -), then zeta 3 (+, -).
    expected = torch.zeros(12, dtype=torch.float64)
    expected[:4] = torch.tensor([square, square, square / 4, square / 4], dtype=torch.float64)
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-13, atol=0.0)
    assert directions.shape == (1, 3, 0, 3)


def test_collinear_atoms_are_finite_with_finite_derivatives():
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, -2.1]]], dtype=torch.float64)
    positions.requires_grad_()
    found, _ = structure_of(("C", "O", "O"))(positions)
    (gradient,) = torch.autograd.grad(found.sum(), positions)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()
    # By symmetry nothing pushes sideways.
    torch.testing.assert_close(gradient[..., :2], torch.zeros(1, 3, 2).double(), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed):
    rng = np.random.default_rng(seed)
    positions = cluster(seed=seed)
    structure = structure_of()
    found, directions = structure(positions)
    rotation = random_rotation(rng)
    shift = torch.as_tensor(rng.normal(scale=20.0, size=3))
    moved, moved_directions = structure(positions @ rotation.T + shift)
    torch.testing.assert_close(moved, found, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(moved_directions, directions @ rotation.T, rtol=1e-10, atol=1e-12)
    # Atoms of equal elements change places: the same rows in another order.
    order = [6, 3, 5, 1, 4, 2, 0]
    assert [SYMBOLS[place] for place in order] == list(SYMBOLS)
    swapped, swapped_directions = structure(positions[:, order])
    torch.testing.assert_close(swapped, found[:, order], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(swapped_directions, directions[:, order], rtol=1e-12, atol=1e-14)
    # Any other order of the atoms, the elements with them.
    order = rng.permutation(len(SYMBOLS)).tolist()
    other, _ = structure_of([SYMBOLS[place] for place in order])(positions[:, order])
    torch.testing.assert_close(other, found[:, order], rtol=1e-12, atol=1e-14)


def test_batch_equals_single():
    # The frames differ in which triples are within the cutoff.
    positions = torch.cat([cluster(n_frames=3, size=size) for size in (2.5, 4.0, 7.0)])
    structure = structure_of()
    together, directions = structure(positions)
    for frame, (values, rows) in enumerate(zip(together, directions, strict=True)):
        alone, own = structure(positions[frame : frame + 1])
        torch.testing.assert_close(values, alone[0], rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(rows, own[0], rtol=1e-13, atol=1e-15)


def test_one_atom_has_no_neighbours():
    found, directions = structure_of(("O",))(torch.zeros(2, 1, 3, dtype=torch.float64))
    assert found.shape == (2, 1, 92)
    assert directions.shape == (2, 1, 8, 3)
    assert found.abs().max() == 0.0
    assert directions.abs().max() == 0.0


def test_two_atoms_have_no_angles():
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]], dtype=torch.float64)
    found, directions = structure_of(("O", "H"))(positions)
    expected, expected_directions = plain_structure(small_functions(), ELEMENTS, ("O", "H"), positions[0])
    torch.testing.assert_close(found[0], expected, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(directions[0], expected_directions, rtol=1e-13, atol=0.0)
    assert found[..., 12:].abs().max() == 0.0
    assert found[..., :12].abs().max() > 0.1


@pytest.mark.parametrize("cutoff_name", ["qm_cutoff", "angular_cutoff"])
def test_smooth_where_an_atom_crosses_a_cutoff(cutoff_name):
    functions = small_functions()
    cutoff = getattr(functions, cutoff_name)
    structure = structure_of(("C", "H", "O"), functions)

    def at(distance):
        positions = torch.tensor([[0.0, 0.0, 0.0], [1.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        positions = positions * torch.tensor([[1.0], [1.0], [distance]], dtype=torch.float64)
        positions.requires_grad_()
        found, directions = structure(positions[None])
        total = (found**2).sum() + found.sum() + directions.sum()
        (gradient,) = torch.autograd.grad(total, positions)
        return total.item(), gradient

    (inside, gradient_inside), (outside, gradient_outside) = at(cutoff - 1e-5), at(cutoff + 1e-5)
    slope = (gradient_inside + gradient_outside)[2, 2].item() / 2
    assert abs(outside - inside - 2e-5 * slope) < 1e-10
    torch.testing.assert_close(gradient_inside, gradient_outside, rtol=0.0, atol=2e-5 * 5.0)
    # The third difference of a function that is only smooth to first order would be larger.
    values = [at(cutoff + offset * 0.002)[0] for offset in (-2, -1, 0, 1, 2)]
    curvature_inside = values[0] - 2 * values[1] + values[2]
    curvature_outside = values[2] - 2 * values[3] + values[4]
    assert abs(curvature_inside - curvature_outside) < 1e-5


def test_first_and_second_derivatives():
    functions = small_functions(qm_cutoff=6.0, angular_cutoff=4.2)
    structure = structure_of(FORMALDEHYDE, functions)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(4, 92, generator=generator, dtype=torch.float64)
    more = torch.randn(4, 8, 3, generator=generator, dtype=torch.float64)

    def function(positions):
        found, directions = structure(positions)
        return (found * weights).sum() + (directions * more).sum()

    positions = FORMALDEHYDE_POSITIONS[None].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (positions,), eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(function, (positions,), eps=1e-5, atol=1e-6)
