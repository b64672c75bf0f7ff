"""What must not change the embedding: lattice shifts, translations, rotations, order, batching."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding

CELL_NAMES = ["cubic", "triclinic", "truncated octahedron", "skewed", "left-handed"]


def evaluate(tools, case, positions=None, cell=None):
    """Energy, gradient and strain derivative of one frame."""
    x = torch.tensor(case.positions if positions is None else positions)[None].requires_grad_()
    strain = torch.zeros((1, 3, 3), dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    cells = torch.tensor(case.cell if cell is None else cell)[None] @ deformation
    energy = tools.model_energy(CutoffEmbedding(case.system, tools.settings), x @ deformation, cells)
    gradient, virial = torch.autograd.grad(energy.sum(), [x, strain])
    return energy.item(), gradient[0].numpy(), virial[0].numpy()


def check_same(first, second, energy=1e-9, derivative=1e-9):
    assert first[0] == pytest.approx(second[0], abs=energy)
    np.testing.assert_allclose(first[1], second[1], rtol=0.0, atol=derivative)
    np.testing.assert_allclose(first[2], second[2], rtol=0.0, atol=100 * derivative)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_whole_cell_shifts(tools, name):
    case = tools.mixed_case(name)
    expected = evaluate(tools, case)
    rng = np.random.default_rng(4)
    n_atoms = len(case.positions)
    shifts = {
        "every atom by itself": rng.integers(-2, 3, size=(n_atoms, 3)),
        "one QM atom": np.eye(n_atoms)[case.system.qm_atoms[1]][:, None] * [1, -1, 2],
        "one MM reference atom": np.eye(n_atoms)[case.system.group_references[5]][:, None] * [0, 0, 1],
        "one MM hydrogen": np.eye(n_atoms)[case.system.group_references[-2] + 1][:, None] * [-1, 0, 0],
        "a hundred cells away": rng.integers(-100, 101, size=(n_atoms, 3)),
        "all by one shift": np.tile([300, -200, 100], (n_atoms, 1)),
    }
    whole = np.zeros((n_atoms, 3))
    for members in case.molecules:
        whole[members] = rng.integers(-3, 4, size=3)
    shifts["every molecule by itself"] = whole
    for shift in shifts.values():
        check_same(evaluate(tools, case, case.positions + shift @ case.cell), expected)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_wrapping_every_atom(tools, name):
    case = tools.mixed_case(name)
    fractional = case.positions @ np.linalg.inv(case.cell)
    wrapped = (fractional - np.floor(fractional)) @ case.cell
    assert np.abs(wrapped - case.positions).max() > 10.0
    check_same(evaluate(tools, case, wrapped), evaluate(tools, case))


@pytest.mark.parametrize("name", CELL_NAMES)
def test_another_basis_of_the_same_lattice(tools, name):
    case = tools.mixed_case(name)
    other = np.array([[1, 2, -1], [0, 1, 3], [0, 0, -1]]) @ case.cell
    check_same(evaluate(tools, case, cell=other), evaluate(tools, case))


@pytest.mark.parametrize("name", CELL_NAMES)
def test_translation_and_rotation(tools, name):
    case = tools.mixed_case(name)
    energy, gradient, virial = evaluate(tools, case)
    check_same(
        evaluate(tools, case, case.positions + np.array([3.1, -7.7, 50.3])), (energy, gradient, virial), 1e-12, 1e-11
    )
    rotation = tools.random_rotation(np.random.default_rng(8))
    turned = evaluate(tools, case, case.positions @ rotation, case.cell @ rotation)
    check_same(turned, (energy, gradient @ rotation, rotation.T @ virial @ rotation), 1e-12, 1e-11)
    # No net force and no net torque: the strain derivative is symmetric.
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(virial, virial.T, atol=1e-11)


def test_order_of_molecules(tools):
    """The same waters listed the other way round give the same energy and forces."""
    rng = np.random.default_rng(5)
    kinds = [tools.water, tools.five_site, tools.chain, tools.ion, tools.water, tools.four_site] * 5
    coordinates = [
        kind.geometry @ tools.random_rotation(rng) + rng.permutation([0.0, 5.5, -5.5]) + 3 * rng.normal(size=3)
        for kind in kinds
    ]
    cell = np.diag([20.0, 21.0, 22.0])
    qm = (tools.qm_large, tools.qm_large.geometry + 20.0)
    forward = tools.assemble([qm[0], *kinds], [qm[1], *coordinates], cell)
    backward = tools.assemble([*kinds[::-1], qm[0]], [*coordinates[::-1], qm[1]], cell)
    order = np.concatenate([forward.molecules[k] for k in [*range(len(kinds), 0, -1), 0]])
    np.testing.assert_array_equal(forward.positions[order], backward.positions)
    energy, gradient, virial = evaluate(tools, forward)
    check_same(evaluate(tools, backward), (energy, gradient[order], virial), 1e-12, 1e-11)


def test_batch_equals_single_frames(tools):
    case = tools.mixed_case("triclinic")
    rng = np.random.default_rng(6)
    frames = case.positions + rng.normal(scale=0.3, size=(5, *case.positions.shape))
    scales = [1.0, 1.0, 1.2, 0.95, 1.0]
    cells = np.stack([scale * case.cell for scale in scales])
    embedding = CutoffEmbedding(case.system, tools.settings)
    x = torch.tensor(frames, requires_grad=True)
    h = torch.tensor(cells, requires_grad=True)
    energies = tools.model_energy(embedding, x, h)
    gradient, cell_gradient = torch.autograd.grad(energies.sum(), [x, h])
    for k in range(5):
        one, cell = x.detach()[k : k + 1].requires_grad_(), h.detach()[k : k + 1].requires_grad_()
        energy = tools.model_energy(embedding, one, cell)
        single, single_cell = torch.autograd.grad(energy.sum(), [one, cell])
        torch.testing.assert_close(energy[0], energies[k], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(single[0], gradient[k], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(single_cell[0], cell_gradient[k], rtol=0.0, atol=1e-11)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(tools.model_energy(embedding, x[order], h[order]), energies[order], rtol=0.0, atol=1e-12)


def test_one_group_weight_for_all_its_sites(tools):
    """The sites of an image share one weight, so every neutral molecule stays neutral."""
    case = tools.mixed_case("cubic")
    frames = CutoffEmbedding(case.system, tools.settings)(*case.tensors())
    sites, charges = frames.mm_sites[0].numpy(), frames.mm_charges[0].numpy()
    ions = np.array(case.system.site_symbols)[sites] == "Na"
    assert abs(charges[~ions].sum()) < 1e-13
    switched = ~np.isin(charges, case.system.site_charges)
    assert 20 < switched.sum() < len(charges) - 20


def test_qm_molecules_are_put_next_to_the_first(tools):
    cell = np.diag([20.0, 20.0, 20.0])
    first, second = tools.qm_large.geometry, tools.qm_small.geometry + np.array([16.0, 1.0, -18.0])
    case = tools.assemble([tools.qm_large, tools.qm_small], [first, second], cell)
    frames = CutoffEmbedding(case.system, tools.settings)(*case.tensors())
    expected = np.concatenate([first, second + np.array([-20.0, 0.0, 20.0])])
    np.testing.assert_allclose(frames.qm_positions[0].numpy(), expected, atol=1e-12)
    torn = case.positions + np.random.default_rng(0).integers(-3, 4, size=case.positions.shape) @ cell
    again = CutoffEmbedding(case.system, tools.settings)(torch.tensor(torn)[None], torch.tensor(cell)[None])
    np.testing.assert_allclose(torch.pdist(again.qm_positions[0]), torch.pdist(frames.qm_positions[0]), atol=1e-11)


def test_order_of_sites(tools):
    """The sites of a group need not be neighbours in the list of sites."""
    case = tools.mixed_case("cubic")
    system = case.system
    order = np.random.default_rng(9).permutation(len(system.site_charges))
    shuffled = dataclasses.replace(
        system,
        site_particles=system.site_particles[order],
        site_charges=system.site_charges[order],
        site_atoms=system.site_atoms[order],
        site_groups=system.site_groups[order],
        virtual_site_sites=np.argsort(order)[system.virtual_site_sites],
    )
    again = type(case)(shuffled, case.positions, case.cell)
    check_same(evaluate(tools, again), evaluate(tools, case), 1e-12, 1e-11)


def test_single_precision(tools):
    case = tools.mixed_case("triclinic")
    positions, cells = case.tensors(2)
    exact = CutoffEmbedding(case.system, tools.settings)(positions, cells)
    coarse = CutoffEmbedding(case.system, tools.settings, dtype=torch.float32)(positions, cells)
    assert coarse.potentials.dtype == torch.float32
    torch.testing.assert_close(coarse.potentials.double(), exact.potentials, rtol=0.0, atol=1e-5)


@pytest.mark.gpu
def test_gpu_equals_cpu(tools):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    case = tools.mixed_case("triclinic")
    results = []
    for device in ("cpu", "cuda"):
        positions, cells = case.tensors(3)
        positions.requires_grad_()
        frames = CutoffEmbedding(case.system, tools.settings, device)(positions, cells)
        assert frames.potentials.device.type == frames.mm_sites.device.type == device
        (gradient,) = torch.autograd.grad(frames.potentials.square().sum() + frames.mm_charges.sum(), positions)
        results.append((frames.potentials.detach().cpu(), gradient))
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=0.0, atol=1e-12)
