"""Corrections for tests: an analytic one for the potential, and a model file with random networks."""

from __future__ import annotations

import math

import torch

from deltaqmmm.config.labels import label_settings
from deltaqmmm.ml import (
    CommitteeModel,
    CommitteeNetwork,
    CommitteeResult,
    ModelInfo,
    StoredDerivatives,
    default_functions,
    n_features,
    save_model,
    type_names,
)
from deltaqmmm.units import ANGSTROM


class PairCorrection:
    """E_m = offset + sum_(a<b) A_m exp(-r_ab) + sum_(a,j) B_m q_j exp(-(r_aj / 3 bohr)^2), for C members.

    `scale` sets how far the members disagree.
    """

    def __init__(self, n_members=3, scale=0.1, offset=0.0):
        self.n_members = n_members
        generator = torch.Generator().manual_seed(7)
        drawn = torch.randn(2, n_members, generator=generator, dtype=torch.float64)
        self.by_pair = 0.3 + scale * drawn[0]
        self.by_charge = 0.2 + scale * drawn[1]
        self.offset = offset
        self.calls = 0

    def energies(self, qm, mm, charges):
        first, second = torch.triu_indices(qm.shape[1], qm.shape[1], offset=1)
        inside = torch.exp(-(qm[:, first] - qm[:, second]).norm(dim=-1)).sum(dim=1)
        squared = (qm[:, :, None] - mm[:, None]).square().sum(dim=-1)
        outside = (charges[:, None] * torch.exp(-squared / 9.0)).sum(dim=(1, 2))
        return self.offset + self.by_pair[:, None] * inside + self.by_charge[:, None] * outside

    def evaluate(self, qm_positions, mm_positions, mm_charges, mm_sites):
        self.calls += 1
        leaves = [t.detach().clone().requires_grad_() for t in (qm_positions, mm_positions, mm_charges)]
        energies = self.energies(*leaves)
        rows = [torch.autograd.grad(member.sum(), leaves, retain_graph=True) for member in energies]
        qm_gradients, *by_sites = (torch.stack(column) for column in zip(*rows, strict=True))
        return CommitteeResult(energies.detach(), qm_gradients, StoredDerivatives(*by_sites))


def write_model(file, config, system, *, target="delta", n_members=3, spread=1.0, offset=-2.0, **changes):
    """Write a model with random networks that fits to a configuration.

    Args:
        file: Where.
        config: The configuration it is for.
        system: Its system.
        target: "delta" or "direct".
        n_members: Members.
        spread: How far the members' weights differ.
        offset: Energy of each atom, hartree.
        changes: Of `ModelInfo`.
    """
    functions = default_functions(
        mm_cutoff=7.0 * ANGSTROM, mm_near_cutoff=5.0 * ANGSTROM, qm_radial=4, mm_radial=3, mm_near_radial=3
    )
    elements = tuple(sorted(set(system.qm_symbols)))
    mm_types = tuple(sorted(set(type_names("element", system.site_symbols, system.site_types))))
    count = n_features(functions, len(elements), len(mm_types))
    network = CommitteeNetwork(elements, count, [count] * len(elements), (8,), n_members).to(torch.float64)
    network.initialise([torch.Generator().manual_seed(1) for _ in range(n_members)])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for element in elements:
            network.get_buffer(f"transform_{element}").copy_(torch.eye(count) / math.sqrt(count))
        for parameter in network.parameters():
            parameter += 0.1 * spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        network.get_buffer("scale").fill_(0.02)
    settings = label_settings(config, system)
    info = ModelInfo(
        target=target,
        elements=elements,
        mm_types=mm_types,
        embedding=settings.embedding,
        level=settings.level,
        baseline=settings.baseline,
        n_members=n_members,
        n_parameters=network.n_parameters,
    )
    info = ModelInfo(**{**vars(info), **changes})
    model = CommitteeModel(info, functions, network, torch.full((len(elements),), offset, dtype=torch.float64))
    save_model(file, model)
    return model
