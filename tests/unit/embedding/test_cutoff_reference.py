"""The cutoff embedding against a plain sum over many images, and against an explicit supercell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import erf

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings

CELL_NAMES = ["cubic", "orthorhombic", "triclinic", "truncated octahedron", "skewed", "left-handed"]


def brute_force(case, settings, reach):
    """Potentials, and total effective charge, by explicit loops over all lattice shifts up to `reach` on whole
    positions."""
    system = case.system
    qm = case.positions[system.qm_atoms]
    lattice = np.zeros((1, 3))
    if case.cell is not None:
        lattice = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3))) @ case.cell
    sites = case.positions[system.site_atoms]
    for k, site in enumerate(system.virtual_site_sites):
        first, second, third = case.positions[system.site_parents[k]]
        sites[site] = system.site_weights[k] @ np.array([first, second, third])
        sites[site] += system.site_cross[k] * np.cross(second - first, third - first)
    potentials, total = np.zeros(len(qm)), 0.0
    for group in range(system.n_groups):
        members = np.flatnonzero(system.site_groups == group)
        reference = case.positions[system.group_references[group]] + lattice
        distances = np.linalg.norm(reference[:, None] - qm, axis=-1)
        beta = settings.smooth_minimum_sharpness
        smooth = -np.log(np.exp(-beta * distances).sum(axis=1)) / beta
        x = np.clip((smooth - settings.inner) / (settings.outer - settings.inner), 0.0, 1.0)
        weights = 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5
        for image in np.flatnonzero(weights > 0.0):
            r = np.linalg.norm(qm[:, None] - (sites[members] + lattice[image]), axis=-1)
            kernel = 1.0 / r if settings.blur_width == 0.0 else erf(r / settings.blur_width) / r
            potentials += weights[image] * kernel @ system.site_charges[members]
            total += weights[image] * system.site_charges[members].sum()
    return potentials, total


@pytest.mark.parametrize("blur_width", [0.0, 1.5])
@pytest.mark.parametrize("name", CELL_NAMES)
def test_equals_a_sum_over_all_images(tools, name, blur_width):
    case = tools.mixed_case(name)
    settings = CutoffSettings(8.0, 12.0, 2.0, blur_width)
    # The skewed basis needs long shifts; brute force takes the same lattice in a short basis.
    reach = 2
    short = case
    if name == "skewed":
        short = type(case)(case.system, case.positions, np.diag([21.0, 22.0, 23.0]))
    expected, total = brute_force(short, settings, reach)
    frames = CutoffEmbedding(case.system, settings)(*case.tensors())
    np.testing.assert_allclose(frames.potentials[0].numpy(), expected, rtol=0.0, atol=1e-12)
    assert float(frames.mm_charges.sum()) == pytest.approx(total, abs=1e-11)


def test_no_cell_with_and_without_cutoff(tools):
    case = tools.mixed_case(None, n=5)
    frames = CutoffEmbedding(case.system, tools.settings)(*case.tensors())
    expected, _ = brute_force(case, tools.settings, 0)
    np.testing.assert_allclose(frames.potentials[0].numpy(), expected, rtol=0.0, atol=1e-12)
    everything = CutoffEmbedding(case.system, CutoffSettings(inner=None))(*case.tensors())
    expected, _ = brute_force(case, CutoffSettings(1e3, 2e3), 0)
    np.testing.assert_allclose(everything.potentials[0].numpy(), expected, rtol=0.0, atol=1e-12)
    assert everything.mm_sites[0].tolist() == list(range(len(case.system.site_atoms)))
    np.testing.assert_array_equal(everything.mm_charges[0].numpy(), case.system.site_charges)


def test_a_cell_sent_with_a_system_without_one_is_ignored(tools):
    case = tools.mixed_case(None)
    embedding = CutoffEmbedding(case.system, tools.settings)
    positions, _ = case.tensors()
    plain = embedding(positions, None).potentials
    assert torch.equal(embedding(positions, torch.eye(3, dtype=torch.float64)[None]).potentials, plain)


def test_a_small_box_equals_an_explicit_supercell(tools):
    """Potentials, and forces summed over the images, of a box in which one water shows up several times."""
    rng = np.random.default_rng(3)
    cell = np.array([[9.0, 0.0, 0.0], [2.0, 10.0, 0.0], [-3.0, 1.0, 11.0]])
    kinds = [tools.water, tools.four_site, tools.five_site, tools.ion]
    places = np.array([[4.5, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.5, 5.5], [4.0, 5.0, 5.0]])
    coordinates = [
        kind.geometry @ tools.random_rotation(rng) + place for kind, place in zip(kinds, places, strict=True)
    ]
    qm = tools.qm_large.geometry
    small = tools.assemble([tools.qm_large, *kinds], [qm, *coordinates], cell)
    shifts = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    pairs = list(zip(kinds, coordinates, strict=True))
    images = [(kind, xyz + shift @ cell) for shift in shifts for kind, xyz in pairs]
    large = tools.assemble([tools.qm_large, *(kind for kind, _ in images)], [qm, *(xyz for _, xyz in images)], None)
    results = []
    for case in (small, large):
        positions, cells = case.tensors()
        positions.requires_grad_()
        embedding = CutoffEmbedding(case.system, tools.settings)
        frames = embedding(positions, cells)
        (gradient,) = torch.autograd.grad(tools.model_energy(embedding, positions, cells).sum(), positions)
        results.append((frames, gradient[0].numpy()))
    (frames, gradient), (frames_large, gradient_large) = results
    assert frames.mm_sites.shape == frames_large.mm_sites.shape
    assert np.bincount(frames.mm_sites[0].numpy()).min() > 5
    torch.testing.assert_close(frames.potentials, frames_large.potentials, rtol=0.0, atol=1e-12)
    n_qm = len(qm)
    np.testing.assert_allclose(gradient[:n_qm], gradient_large[:n_qm], rtol=0.0, atol=1e-12)
    summed = gradient_large[n_qm:].reshape(len(shifts), -1, 3).sum(axis=0)
    np.testing.assert_allclose(gradient[n_qm:], summed, rtol=0.0, atol=1e-12)


def test_ions_are_groups_of_one_site(tools):
    near, far = np.array([[6.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 30.0]])
    case = tools.assemble([tools.qm_large, tools.ion, tools.ion], [tools.qm_large.geometry, near, far], None)
    frames = CutoffEmbedding(case.system, tools.settings)(*case.tensors())
    assert frames.mm_sites.tolist() == [[0]]
    assert frames.mm_charges.tolist() == [[1.0]]
    expected = 1.0 / np.linalg.norm(tools.qm_large.geometry - near, axis=1)
    np.testing.assert_allclose(frames.potentials[0].numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_system_of_qm_atoms_only_has_no_potential(tools, periodic):
    case = tools.assemble([tools.qm_large], [tools.qm_large.geometry], np.diag([30.0] * 3) if periodic else None)
    positions, cells = case.tensors(3)
    positions.requires_grad_()
    frames = CutoffEmbedding(case.system, tools.settings)(positions, cells)
    assert frames.mm_positions.shape == (3, 0, 3)
    assert not frames.potentials.any()
    outputs = [frames.qm_positions, frames.potentials, frames.mm_positions, frames.mm_charges]
    cotangents = [torch.ones_like(output) for output in outputs]
    (gradient,) = torch.autograd.grad(outputs, [positions], grad_outputs=cotangents)
    assert torch.equal(gradient, torch.ones_like(gradient))
