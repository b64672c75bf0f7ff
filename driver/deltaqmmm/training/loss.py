"""Predictions of energies and gradients from prepared frames, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.ml import CommitteeNetwork, combine
from deltaqmmm.training.preparation import PreparedFrames
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

GRADIENT_UNIT = KJ_PER_MOL / ANGSTROM


@dataclass(frozen=True, eq=False)
class SquaredErrors:
    """Mean squared errors of each of C members for each of B frames, shape (C, B).

    Attributes:
        energy: (kJ/mol)^2.
        qm_gradient: Over components, (kJ/mol/angstrom)^2.
        mm_gradient: Over components at the sites that count, (kJ/mol/angstrom)^2.
        mm_potential: Of the derivatives by the charges of these sites, (kJ/mol/e)^2.
    """

    energy: Tensor
    qm_gradient: Tensor
    mm_gradient: Tensor
    mm_potential: Tensor

    def stacked(self) -> Tensor:
        """All of them, shape (C, B, 4), without a graph."""
        parts = (self.energy, self.qm_gradient, self.mm_gradient, self.mm_potential)
        return torch.stack(parts, dim=-1).detach().to(torch.float64)


def squared_errors(
    network: CommitteeNetwork,
    frames: PreparedFrames,
    atoms: Sequence[Tensor],
    energies: Tensor,
    *,
    differentiable: bool,
) -> SquaredErrors:
    """Compare a committee with the targets.

    Args:
        network: The committee.
        frames: B frames.
        atoms: For each element, the numbers of its atoms.
        energies: Target energies less the offsets of the elements, shape (B,), hartree.
        differentiable: Whether the errors are to be differentiated with respect to the network's weights.
    """
    n_members, n_frames = network.n_members, len(frames)
    inputs = [tensor.expand(n_members, *tensor.shape).detach().requires_grad_() for tensor in frames.moments()]
    with torch.enable_grad():
        predicted = network(combine(inputs), atoms)
        slopes = torch.autograd.grad(predicted.sum(), inputs, create_graph=differentiable)
    flat = torch.cat([slope.flatten(3) for slope in slopes], dim=-1)
    # (B, C, n P) times (B, n P, 3 n): one product of matrices for each frame.
    flat = flat.reshape(n_members, n_frames, -1).transpose(0, 1)
    qm_gradients = (flat @ frames.jacobian.reshape(n_frames, flat.shape[-1], -1)).transpose(0, 1)
    mm_gradients, by_weight = frames.pull_back(slopes[2], slopes[3])
    qm_errors = (qm_gradients - frames.qm_gradients.reshape(n_frames, -1)) / GRADIENT_UNIT
    mm_errors = (mm_gradients - frames.mm_gradients) / GRADIENT_UNIT
    potential_errors = (by_weight * frames.charge_factors - frames.mm_potentials) / KJ_PER_MOL
    share = frames.counted / frames.counted.sum(dim=1, keepdim=True).clamp(min=1.0)
    return SquaredErrors(
        energy=((predicted - energies) / KJ_PER_MOL) ** 2,
        qm_gradient=(qm_errors**2).mean(dim=-1),
        mm_gradient=((mm_errors**2).mean(dim=-1) * share).sum(dim=-1),
        mm_potential=(potential_errors**2 * share).sum(dim=-1),
    )
