"""The energy is smooth where groups cross the switch, and where images come and go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding


def along(tools, embedding, case, atoms, path, n):
    """Energies and gradients along a straight path of some atoms, at n + 1 equidistant points."""
    s = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
    positions, cells = case.tensors(n + 1)
    positions[:, atoms] += s[:, None, None] * torch.tensor(path)
    positions.requires_grad_()
    energies = tools.model_energy(embedding, positions, cells)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    return energies.detach().numpy(), gradient[:, atoms].sum(dim=1).numpy() @ np.asarray(path)


@pytest.mark.parametrize("kind", ["water", "ion", "five_site"])
def test_a_group_crosses_the_switch(tools, kind):
    """Third differences fall as the cube of the step: the second derivative has no jump."""
    molecule = getattr(tools, kind)
    case = tools.assemble(
        [tools.qm_large, molecule], [tools.qm_large.geometry, molecule.geometry + np.array([5.0, 1.0, 0.5])], None
    )
    embedding = CutoffEmbedding(case.system, tools.settings)
    atoms = np.arange(4, len(case.positions))
    largest = []
    for n in (200, 400, 800):
        energies, slopes = along(tools, embedding, case, atoms, [10.0, 1.0, -0.7], n)
        assert abs(energies[0] - energies[-1]) > 1e-4
        assert slopes[-1] == 0.0
        trapezoid = 0.5 * (slopes[1:] + slopes[:-1]) / n
        largest.append([np.abs(np.diff(energies, 3)).max(), np.abs(np.diff(energies) - trapezoid).max()])
    assert (np.array(largest[:-1]) / np.array(largest[1:]) > 6.5).all()


@pytest.mark.parametrize("name", ["cubic", "skewed"])
def test_a_water_moves_through_the_whole_cell(tools, name):
    """In a small cell, where images enter and leave all along the way; at the end the energy is the first one again."""
    case = tools.mixed_case(name, seed=1)
    # An ion: it may pass close to others, which do not interact with it here.
    group = next(g for g in range(case.system.n_groups) if (case.system.site_groups == g).sum() == 1)
    atom = int(case.system.group_references[group])
    case.positions[atom] = case.positions[case.system.qm_atoms].mean(axis=0) + np.array([10.0, 5.0, 0.0])
    embedding = CutoffEmbedding(case.system, tools.settings)
    path = np.array([0.0, 0.0, 22.0 if name == "cubic" else 23.0])
    energies, slopes = along(tools, embedding, case, np.array([atom]), path, 200)
    assert energies[0] == pytest.approx(energies[-1], abs=1e-11)
    assert np.ptp(energies) > 1e-3
    # The trapezoid rule over a period of a smooth function converges fast; a jump would leave a residue.
    assert abs(slopes[:-1].mean()) < 1e-6
    steps = np.diff(energies) - 0.5 * (slopes[1:] + slopes[:-1]) / 200
    assert np.abs(steps).max() < 1e-4
    finer, finer_slopes = along(tools, embedding, case, np.array([atom]), path, 400)
    finer_steps = np.diff(finer) - 0.5 * (finer_slopes[1:] + finer_slopes[:-1]) / 400
    assert np.abs(steps).max() / np.abs(finer_steps).max() > 6.5
