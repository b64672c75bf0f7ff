"""Derivatives of the embedding by finite differences, on every class of atom, and with respect to strain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings

STEPS = (4e-3, 2e-3, 1e-3)


def classes_of_atoms(case, settings):
    """One atom of every class, by name."""
    system = case.system
    frames = CutoffEmbedding(system, settings)(*case.tensors())
    sites, charges = frames.mm_sites[0].numpy(), frames.mm_charges[0].numpy()
    weights = np.divide(
        charges, system.site_charges[sites], out=np.full(len(sites), np.nan), where=system.site_charges[sites] != 0
    )
    near = {int(system.site_groups[site]) for site, weight in zip(sites, weights, strict=True) if weight == 1.0}
    switched = {int(system.site_groups[s]) for s, w in zip(sites, weights, strict=True) if 0.1 < w < 0.9}
    outside = set(range(system.n_groups)) - {int(g) for g in system.site_groups[sites]}

    def group_of(kind, groups):
        return next(
            g
            for g in sorted(groups)
            if tuple(s for s in np.array(system.site_symbols)[system.site_groups == g]) == kind
        )

    water, five = ("O", "H", "H"), ("O", "H", "H", "", "")
    chosen = {
        "QM, molecule 1": int(system.qm_atoms[0]),
        "QM, molecule 2": int(system.qm_atoms[-1]),
        "near MM oxygen": int(system.group_references[group_of(water, near)]),
        "near MM hydrogen": int(system.group_references[group_of(water, near)]) + 1,
        "near ion": int(system.group_references[group_of(("Na",), near)]),
        "parent of virtual sites": int(system.group_references[group_of(five, near | switched)]) + 2,
        "MM reference atom in the switch": int(system.group_references[group_of(water, switched)]),
        "MM hydrogen in the switch": int(system.group_references[group_of(water, switched)]) + 1,
        "reference and parent in the switch": int(system.group_references[group_of(five, switched)]),
    }
    if outside:
        chosen["MM outside the cutoff"] = int(system.group_references[min(outside)])
    return chosen


def check_order(analytic, numerical_at):
    """The error of central differences falls as the square of the step, and vanishes in the limit."""
    values = [numerical_at(step) for step in STEPS]
    errors = [np.abs(value - analytic) for value in values]
    limit = (4.0 * values[2] - values[1]) / 3.0
    np.testing.assert_allclose(limit, analytic, rtol=0.0, atol=2e-10)
    for large, small in itertools.pairwise(errors):
        resolved = large > 1e-9
        np.testing.assert_allclose(large[resolved] / small[resolved], 4.0, rtol=0.06)
    assert errors[-1].max() < 1e-6
    return errors[0].max() > 1e-9


@pytest.mark.parametrize("blur_width", [0.0, 2.0])
@pytest.mark.parametrize("name", ["cubic", "skewed", None])
def test_gradient_on_every_class_of_atom(tools, name, blur_width):
    case = tools.mixed_case(name, seed=2, n=4 if name else 6)
    settings = CutoffSettings(6.0, 11.0, 2.0, blur_width)
    embedding = CutoffEmbedding(case.system, settings)
    positions, cells = case.tensors()
    positions.requires_grad_()
    (gradient,) = torch.autograd.grad(tools.model_energy(embedding, positions, cells).sum(), positions)
    chosen = classes_of_atoms(case, settings)
    if name is None:
        assert "MM outside the cutoff" in chosen
    resolved = 0
    for label, atom in chosen.items():
        analytic = gradient[0, atom].numpy()
        assert label == "MM outside the cutoff" or np.abs(analytic).max() > 1e-5, label
        resolved += check_order(analytic, lambda h, atom=atom: displaced(tools, embedding, case, atom, h))
    assert resolved >= 6


def displaced(tools, embedding, case, atom, step):
    """Central differences for the three directions of one atom, computed as one batch of six frames."""
    positions, cells = case.tensors(6)
    for axis in range(3):
        positions[2 * axis, atom, axis] += step
        positions[2 * axis + 1, atom, axis] -= step
    energies = tools.model_energy(embedding, positions, cells).numpy()
    return (energies[::2] - energies[1::2]) / (2.0 * step)


@pytest.mark.parametrize("name", ["cubic", "triclinic", "skewed", None])
def test_strain_derivative(tools, name):
    case = tools.mixed_case(name, seed=2)
    embedding = CutoffEmbedding(case.system, CutoffSettings(6.0, 11.0, 2.0))

    def energies(strains):
        positions, cells = case.tensors(len(strains))
        deformation = torch.eye(3, dtype=torch.float64) + strains
        return tools.model_energy(embedding, positions @ deformation, None if cells is None else cells @ deformation)

    strain = torch.zeros((1, 3, 3), dtype=torch.float64, requires_grad=True)
    (analytic,) = torch.autograd.grad(energies(strain).sum(), strain)

    def numerical(step):
        step = step / 30.0
        units = step * torch.eye(9, dtype=torch.float64).reshape(9, 3, 3)
        values = energies(torch.cat([units, -units])).detach().numpy()
        return ((values[:9] - values[9:]) / (2.0 * step)).reshape(3, 3)

    assert analytic.abs().max() > 1e-2
    values = [numerical(step) for step in STEPS]
    errors = [np.abs(value - analytic[0].numpy()) for value in values]
    np.testing.assert_allclose((4.0 * values[2] - values[1]) / 3.0, analytic[0].numpy(), rtol=0.0, atol=5e-9)
    for large, small in itertools.pairwise(errors):
        resolved = large > 2e-7
        assert resolved.any() or large is not errors[0]
        np.testing.assert_allclose(large[resolved] / small[resolved], 4.0, rtol=0.06)


ALL_OUTPUTS = ("qm_positions", "potentials", "mm_positions", "mm_charges")
CUTOFFS = {
    "cutoff": CutoffSettings(8.0, 12.0, 2.0),
    "none": CutoffSettings(inner=None),
    "nothing near": CutoffSettings(1e-3, 2e-3),
}


@pytest.mark.parametrize("outputs", [ALL_OUTPUTS[:2], ALL_OUTPUTS])
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_some_outputs_with_given_cotangents(tools, outputs, cutoff):
    """The way in which the potential asks, with respect to positions and strain, against a directional derivative."""
    # Edges of different length: the order of the images of a group, which means nothing, does not change on the way.
    case = tools.mixed_case("orthorhombic" if cutoff != "none" else None)
    embedding = CutoffEmbedding(case.system, CUTOFFS[cutoff])
    generator = torch.Generator().manual_seed(1)
    start, cells = case.tensors(2)
    start += 0.1 * torch.randn(start.shape, dtype=torch.float64, generator=generator)
    directions = [
        torch.randn(start.shape, dtype=torch.float64, generator=generator),
        0.1 * torch.randn((2, 3, 3), dtype=torch.float64, generator=generator),
    ]

    def values_at(positions, strain):
        deformation = torch.eye(3, dtype=torch.float64) + strain
        frames = embedding(positions @ deformation, None if cells is None else cells @ deformation)
        return [getattr(frames, name) for name in outputs]

    arguments = [start.requires_grad_(), torch.zeros((2, 3, 3), dtype=torch.float64, requires_grad=True)]
    values = values_at(*arguments)
    cotangents = [torch.randn(value.shape, dtype=torch.float64, generator=generator) for value in values]
    # Padding moves with the QM region but has no gradient; nothing may depend on where it is.
    for cotangent, name in zip(cotangents, outputs, strict=True):
        if name.startswith("mm"):
            cotangent[embedding(start, cells).mm_sites < 0] = 0.0
    gradients = torch.autograd.grad(values, arguments, grad_outputs=cotangents)
    analytic = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, directions, strict=True))

    def total(step):
        with torch.no_grad():
            moved = [argument + step * way for argument, way in zip(arguments, directions, strict=True)]
            return sum(float((v * c).sum()) for v, c in zip(values_at(*moved), cotangents, strict=True))

    step = 1e-5
    assert (total(step) - total(-step)) / (2.0 * step) == pytest.approx(analytic, rel=1e-8, abs=1e-8)


def test_padding_is_far_distinct_and_has_no_gradient(tools):
    case = tools.mixed_case("cubic")
    embedding = CutoffEmbedding(case.system, tools.settings)
    positions, cells = case.tensors(2)
    cells[1] *= 1.3
    positions.requires_grad_()
    frames = embedding(positions, cells)
    padding = frames.mm_sites < 0
    assert padding[1].any()
    assert not padding[0].any()
    assert not frames.mm_charges[padding].any()
    points = frames.mm_positions[padding].detach()
    assert torch.cdist(points, positions.detach()[1]).min() > 500.0
    assert torch.pdist(points).min() > 1.0
    (gradient,) = torch.autograd.grad(frames.mm_positions[padding].sum() + frames.mm_charges[padding].sum(), positions)
    assert not gradient.any()
