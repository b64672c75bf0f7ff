"""Sums over the QM neighbours against plain loops, and their derivatives against automatic ones of the loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.ml import RadialFunction
from deltaqmmm.ml.structure import Structure
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    FORMALDEHYDE_POSITIONS,
    plain_neighbours,
    random_rotation,
    small_functions,
    tensor_of,
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


def random_like(tensors, n_members=3, seed=2):
    """Derivatives of energies that are linear in the moments."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n_members, *t.shape, generator=generator, dtype=torch.float64).to(t) for t in tensors]


@pytest.mark.parametrize("seed", [3, 4])
def test_plain_loops_give_the_same(seed):
    positions = cluster(seed=seed)
    distances = torch.cdist(positions, positions)
    assert distances.max() > 7.0
    found = structure_of()(positions).moments()
    expected = plain_neighbours(small_functions(), ELEMENTS, SYMBOLS, positions[0])
    assert [tensor.shape for tensor in found] == [(1, 7, 3, 1, 4), (1, 7, 2, 20, 4)]
    for tensor, other in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor[0], other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [2, 3])
def test_derivatives_are_those_of_the_plain_loops(order):
    functions = small_functions(angular_order=order)
    positions = cluster(n_frames=2)
    neighbours = structure_of(functions=functions)(positions)
    gradients = random_like(neighbours.moments())
    found = neighbours.pull_back(*gradients)
    jacobian = neighbours.jacobian()
    assert found.shape == (3, 2, 7, 3)
    assert jacobian.shape == (2, 7, 12 + 8 * (10 if order == 2 else 20), 7, 3)
    # Of each atom the radial sums first, then the angular ones.
    flat = torch.cat([tensor.flatten(3) for tensor in gradients], dim=3)
    projected = torch.einsum("cbiq,biqnx->cbnx", flat, jacobian)
    for frame in range(2):
        leaf = positions[frame].clone().requires_grad_()
        moments = plain_neighbours(functions, ELEMENTS, SYMBOLS, leaf)
        for member in range(3):
            value = sum((sums * own[member, frame]).sum() for sums, own in zip(moments, gradients, strict=True))
            (expected,) = torch.autograd.grad(value, leaf, retain_graph=True)
            torch.testing.assert_close(found[member, frame], expected, rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(projected[member, frame], expected, rtol=1e-11, atol=1e-12)


def test_derivatives_by_finite_differences():
    positions = cluster(n_frames=1)
    structure = structure_of(functions=small_functions(angular_order=5))
    gradients = random_like(structure(positions).moments(), n_members=1)
    found = structure(positions).pull_back(*gradients)[0]
    for atom, axis in ((0, 0), (2, 1), (6, 2)):
        values = []
        for sign in (1, -1):
            moved = positions.clone()
            moved[0, atom, axis] += sign * 1e-4
            moments = structure(moved).moments()
            values.append(sum(float((m * own[0]).sum()) for m, own in zip(moments, gradients, strict=True)))
        expected = (values[0] - values[1]) / 2e-4
        assert float(found[0, atom, axis]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_one_neighbour_by_hand():
    # C at distance 2, in the direction (0, 0.6, 0.8), of O.
    functions = small_functions(
        angular_radial=(RadialFunction("g1"),), angular_order=2, angular_cutoff=4.0, qm_radial=(RadialFunction("g1"),)
    )
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.2, 1.6]]], dtype=torch.float64)
    radial, angular = structure_of(("O", "C"), functions, ("C", "O"))(positions).moments()
    expected = torch.tensor([[[(1.0 - (2.0 / 7.0) ** 6) ** 3, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(radial[0, 0], expected, rtol=1e-13, atol=0.0)
    rows = [1.0, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 0.36, 0.48 * 2.0**0.5, 0.64]
    expected = (63 / 64) ** 3 * torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(angular[0, 0, 0, :, 0], expected, rtol=1e-13, atol=1e-16)
    assert angular[0, 0, 0, :, 1].abs().max() == 0.0


def test_collinear_atoms_are_finite_with_finite_derivatives():
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, -2.1]]], dtype=torch.float64)
    neighbours = structure_of(("C", "O", "O"))(positions)
    moments = neighbours.moments()
    assert all(torch.isfinite(tensor).all() for tensor in moments)
    assert torch.isfinite(neighbours.jacobian()).all()
    # By symmetry nothing pushes sideways what has no component there.
    along = [torch.zeros(1, *tensor.shape).double() for tensor in moments]
    along[0] += 1.0
    along[1][:, :, :, :, 3] = along[1][:, :, :, :, 9] = along[1][:, :, :, :, 4] = 1.0
    gradient = neighbours.pull_back(*along)
    assert gradient[..., 2].abs().max() > 0.01
    torch.testing.assert_close(gradient[..., :2], torch.zeros(1, 1, 3, 2).double(), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_moments_turn_with_the_atoms(seed, sign):
    rng = np.random.default_rng(seed)
    positions = cluster(seed=seed)
    structure = structure_of()
    radial, angular = structure(positions).moments()
    rotation = sign * random_rotation(rng)
    shift = torch.as_tensor(rng.normal(scale=20.0, size=3))
    moved_radial, moved = structure(positions @ rotation.T + shift).moments()
    angular, moved = angular.transpose(-1, -2), moved.transpose(-1, -2)
    torch.testing.assert_close(moved_radial, radial, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(moved[..., 0], angular[..., 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(moved[..., 1:4], angular[..., 1:4] @ rotation.T, rtol=1e-10, atol=1e-12)
    turned = rotation @ tensor_of(angular[..., 4:10]) @ rotation.T
    torch.testing.assert_close(tensor_of(moved[..., 4:10]), turned, rtol=1e-10, atol=1e-12)
    # Of any rank the scalar products stay.
    for rows in (slice(4, 10), slice(10, 20)):
        products = (tensor[..., rows] @ tensor[..., rows].transpose(-1, -2) for tensor in (moved, angular))
        torch.testing.assert_close(*products, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_atoms_may_change_places(seed):
    rng = np.random.default_rng(seed)
    positions = cluster(seed=seed)
    structure = structure_of()
    moments = structure(positions).moments()
    # Atoms of equal elements: the same rows in another order.
    order = [6, 3, 5, 1, 4, 2, 0]
    assert [SYMBOLS[place] for place in order] == list(SYMBOLS)
    for found, expected in zip(structure(positions[:, order]).moments(), moments, strict=True):
        torch.testing.assert_close(found, expected[:, order], rtol=1e-12, atol=1e-14)
    # Any other order of the atoms, the elements with them.
    order = rng.permutation(len(SYMBOLS)).tolist()
    other = structure_of([SYMBOLS[place] for place in order])(positions[:, order])
    for found, expected in zip(other.moments(), moments, strict=True):
        torch.testing.assert_close(found, expected[:, order], rtol=1e-12, atol=1e-14)


def test_batch_equals_single():
    # The frames differ in which pairs are within the cutoff.
    positions = torch.cat([cluster(n_frames=3, size=size) for size in (2.5, 4.0, 7.0)])
    structure = structure_of()
    together = structure(positions)
    gradients = random_like(together.moments())
    pulled, jacobian = together.pull_back(*gradients), together.jacobian()
    for frame in range(9):
        alone = structure(positions[frame : frame + 1])
        for found, expected in zip(together.moments(), alone.moments(), strict=True):
            torch.testing.assert_close(found[frame], expected[0], rtol=1e-13, atol=1e-15)
        own = alone.pull_back(*(tensor[:, frame : frame + 1] for tensor in gradients))
        torch.testing.assert_close(pulled[:, frame], own[:, 0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(jacobian[frame], alone.jacobian()[0], rtol=1e-12, atol=1e-14)


def test_one_atom_has_no_neighbours():
    neighbours = structure_of(("O",))(torch.zeros(2, 1, 3, dtype=torch.float64))
    radial, angular = neighbours.moments()
    assert torch.equal(radial, torch.zeros(2, 1, 3, 1, 4).double())
    assert torch.equal(angular, torch.zeros(2, 1, 2, 20, 4).double())
    assert torch.equal(neighbours.jacobian(), torch.zeros(2, 1, 172, 1, 3).double())
    assert torch.equal(neighbours.pull_back(*random_like((radial, angular))), torch.zeros(3, 2, 1, 3).double())


def test_atoms_beyond_the_cutoffs_are_alone():
    positions = 20.0 * cluster(n_frames=1)
    neighbours = structure_of()(positions)
    assert not any(tensor.any() for tensor in neighbours.moments())
    assert not neighbours.jacobian().any()
    assert not neighbours.pull_back(*random_like(neighbours.moments())).any()


@pytest.mark.parametrize("cutoff_name", ["qm_cutoff", "angular_cutoff"])
def test_everything_vanishes_smoothly_at_the_cutoffs(cutoff_name):
    # As the third power of the distance from the cutoff; the derivatives as the second.
    functions = small_functions()
    cutoff = getattr(functions, cutoff_name)
    structure = structure_of(("C", "O"), functions, ("C", "O"))
    place = ("qm_cutoff", "angular_cutoff").index(cutoff_name)
    direction = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)

    def at(distance):
        neighbours = structure(torch.stack([0.0 * direction, direction * distance])[None])
        moments = neighbours.moments()
        gradients = [torch.zeros(1, *tensor.shape).double() for tensor in moments]
        gradients[place] += 1.0
        jacobian = neighbours.jacobian().split([moments[0][0, 0].numel(), moments[1][0, 0].numel()], dim=2)
        return moments[place], neighbours.pull_back(*gradients), jacobian[place]

    for distance in (cutoff * (1.0 + 1e-9), cutoff + 0.1):
        assert not any(tensor.any() for tensor in at(distance))
    coarse, fine = at(cutoff - 2e-3), at(cutoff - 1e-3)
    for power, (large, small) in zip((8.0, 4.0, 4.0), zip(coarse, fine, strict=True), strict=True):
        assert small.any()
        torch.testing.assert_close(large, power * small, rtol=0.02, atol=1e-3 * float(large.abs().max()))


def test_pull_back_is_differentiable_in_its_argument():
    neighbours = structure_of(FORMALDEHYDE)(FORMALDEHYDE_POSITIONS[None])
    gradients = [own.requires_grad_() for own in random_like(neighbours.moments(), n_members=2)]
    weights = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((neighbours.pull_back(*gradients) * weights).sum(), gradients)
    other = random_like(neighbours.moments(), n_members=2, seed=8)
    expected = (neighbours.pull_back(*other) * weights).sum()
    products = sum((slope * own).sum() for slope, own in zip(found, other, strict=True))
    torch.testing.assert_close(products, expected, rtol=1e-11, atol=0.0)


def test_single_precision_is_close_to_double():
    positions = cluster(n_frames=2)
    double = structure_of()(positions)
    single = Structure(small_functions(), ELEMENTS, SYMBOLS, torch.device("cpu"), torch.float32)(positions.float())
    gradients = random_like(double.moments())
    pairs = list(zip(single.moments(), double.moments(), strict=True))
    pairs.append((single.pull_back(*(own.float() for own in gradients)), double.pull_back(*gradients)))
    pairs.append((single.jacobian(), double.jacobian()))
    for found, expected in pairs:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=2e-6 * float(expected.abs().max()))
