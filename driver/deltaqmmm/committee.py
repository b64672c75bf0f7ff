"""A committee of corrections as one term: the mean, how far the members disagree, and fading by that.

The members' gradients are partial ones, with the effective charges and the positions independent of each other. What is
made of them here keeps that form, so that one pass back through the embedding does the rest.

Energies, and the gradients of QM atoms and near sites, are few numbers: they are brought to the processor, where NumPy
takes a fraction of the time that torch does for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.errors import ConfigError
from deltaqmmm.ml import CommitteeResult
from deltaqmmm.results import FloatArray
from deltaqmmm.units import ANGSTROM

NEAR = 4.0 * ANGSTROM
"""MM sites this close to a QM atom count in the spread of forces, bohr."""


class Correction(Protocol):
    """A learned energy of the QM region in its surroundings, by a committee.

    Attributes:
        n_members: The number of members C.
    """

    n_members: int

    def evaluate(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> CommitteeResult:
        """Evaluate B frames as `EmbeddedFrames` describes them, detached."""


@dataclass(frozen=True)
class Fade:
    """The correction is scaled down where its members disagree.

    E = c + s(x) (mean - c), with c the constant part of the energies, sigma the energy spread,
    x = (sigma - begin) / (end - begin), and s(x) = 1 - x^3 (10 - 15 x + 6 x^2) between 0 and 1. The constant part is
    left alone: it only is the distance between the zeros of two methods, hundreds of hartree.

    Attributes:
        begin: Energy spread where the scale leaves 1, hartree.
        end: Energy spread where it reaches 0, hartree.
    """

    begin: float
    end: float

    def scale(self, spreads: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return s (between 0 and 1) and ds/dsigma (1/hartree), of the shape of the spreads."""
        width = self.end - self.begin
        x = np.clip((spreads - self.begin) / width, 0.0, 1.0)
        return 1.0 - x**3 * (10.0 + x * (6.0 * x - 15.0)), -30.0 * (x * (1.0 - x)) ** 2 / width


@dataclass(frozen=True)
class CommitteeSettings:
    """What is made of a committee.

    Attributes:
        energy_offset: The constant part c of every member's energy, hartree.
        include_offset: Whether that part belongs to the energy that is given.
        fade: How the mean is scaled down where members disagree; None leaves it as it is.
        extras: Give every member's whole energy, forces and virial as extras, in the form that i-PI's `<ffcommittee>`
            reads.
    """

    energy_offset: float = 0.0
    include_offset: bool = True
    fade: Fade | None = None
    extras: bool = False

    def check(self, n_members: int) -> None:
        """Refuse what needs more members.

        Raises:
            ConfigError: A single member is to fade or to be shown as a committee.
        """
        if n_members < 2 and (self.fade is not None or self.extras):
            raise ConfigError("the correction has one member: fading and committee extras need two or more.")


@dataclass(frozen=True)
class Committee:
    """What a committee contributes to the potential.

    With fading the energy depends on every member's energy: E = E(E_1, ..., E_C). So its gradient is the sum of the
    members' gradients times dE/dE_m, whatever the gradient is with respect to.

    Attributes:
        result: What the members say.
        energies: E, shape (B,), hartree.
        scales: s of the fading, shape (B,); None without fading.
        energy_spreads: Sample standard deviation of the members' energies, shape (B,), hartree; None for one member.
        weights: dE/dE_m, shape (C, B).
        own: The members' energies without the constant part of all, shape (C, B), hartree.
        base: What of that part is in the energies, hartree.
        scale_gradients: ds/dE_m, shape (C, B), 1/hartree; None without fading.
    """

    result: CommitteeResult
    energies: FloatArray
    scales: FloatArray | None
    energy_spreads: FloatArray | None
    weights: FloatArray
    own: FloatArray
    base: float
    scale_gradients: FloatArray | None

    @property
    def member_energies(self) -> FloatArray:
        """The members, faded as their mean is (which makes E their mean), shape (C, B), hartree."""
        return self.base + (self.own if self.scales is None else self.scales * self.own)

    @property
    def member_weights(self) -> FloatArray:
        """How each of these depends on the members' energies: d(member m)/dE_k, shape (C, C, B)."""
        identity = np.eye(len(self.own))[..., None]
        if self.scales is None or self.scale_gradients is None:
            return np.broadcast_to(identity, (*identity.shape[:2], self.own.shape[1]))
        found: FloatArray = self.scales * identity + self.own[:, None] * self.scale_gradients[None]
        return found

    def seeds(self, weights: FloatArray) -> tuple[Tensor, Tensor, Tensor]:
        """Partial gradients of sum_m weights_m E_m.

        Args:
            weights: Shape (C, B).

        Returns:
            With respect to `qm_positions` (B, n_qm, 3), `mm_positions` (B, K, 3) and `mm_charges` (B, K).
        """
        gradients = self.result.qm_gradients
        by_qm = torch.from_numpy(np.einsum("cb,cbnx->bnx", weights, on_host(gradients))).to(gradients)
        by_site, by_charge = self.result.sites.weighted(torch.from_numpy(weights[None]).to(gradients.device))
        return by_qm, by_site[0], by_charge[0]


def combine(result: CommitteeResult, settings: CommitteeSettings) -> Committee:
    """Take the mean of a committee, or fade it by its spread.

    The spread is sigma = sqrt(sum_m (E_m - mean)^2 / (C - 1)), so dsigma/dE_m = (E_m - mean) / ((C - 1) sigma).

    Args:
        result: What the members say.
        settings: What is made of it.
    """
    energies = on_host(result.energies) - settings.energy_offset
    base = settings.energy_offset if settings.include_offset else 0.0
    n_members = len(energies)
    mean = energies.mean(axis=0)
    deviations = energies - mean
    spreads = np.sqrt(np.square(deviations).sum(axis=0) / (n_members - 1)) if n_members > 1 else None
    uniform = np.full_like(energies, 1.0 / n_members)
    if settings.fade is None or spreads is None:
        return Committee(result, base + mean, None, spreads, uniform, energies, base, None)
    scales, slopes = settings.fade.scale(spreads)
    # Where the spread is zero the slope is zero too: any finite number does for the quotient.
    safe = np.where(spreads > 0.0, spreads, 1.0)
    gradients = slopes * deviations / ((n_members - 1) * safe)
    weights = scales * uniform + mean * gradients
    return Committee(result, base + scales * mean, scales, spreads, weights, energies, base, gradients)


@dataclass(frozen=True)
class MemberDeviations:
    """How C members differ from what is sent.

    Attributes:
        energies: Shape (B, C), hartree.
        forces: Shape (B, C, N, 3), hartree/bohr.
        strain_derivatives: Shape (B, C, 3, 3), hartree; None where they are not computed.
    """

    energies: FloatArray
    forces: FloatArray
    strain_derivatives: FloatArray | None

    @classmethod
    def joined(cls, parts: Sequence[MemberDeviations]) -> MemberDeviations:
        """The parts of a batch as one."""
        strains = [part.strain_derivatives for part in parts if part.strain_derivatives is not None]
        return cls(
            np.concatenate([part.energies for part in parts]),
            np.concatenate([part.forces for part in parts]),
            np.concatenate(strains) if strains else None,
        )

    def extras(
        self, energies: FloatArray, forces: FloatArray, strain_derivatives: FloatArray | None
    ) -> dict[str, FloatArray]:
        """The members as i-PI's `<ffcommittee>` reads them from JSON.

        Args:
            energies: What is sent, shape (B,), hartree: the mean of "committee_pot" (B, C).
            forces: Shape (B, N, 3), hartree/bohr: the mean of "committee_force" (B, C, N, 3).
            strain_derivatives: Shape (B, 3, 3), hartree. "committee_virial" (B, C, 3, 3) is, as on the socket, minus
                that, transposed like the cell; zeros without strain derivatives, also as on the socket.
        """
        virials = np.zeros((*self.energies.shape, 3, 3))
        if strain_derivatives is not None and self.strain_derivatives is not None:
            virials = 0.0 - (strain_derivatives[:, None] + self.strain_derivatives).transpose(0, 1, 3, 2)
        return {
            "committee_pot": energies[:, None] + self.energies,
            "committee_force": forces[:, None] + self.forces,
            "committee_virial": virials,
        }


def member_deviations(
    committee: Committee, pull_back: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
) -> MemberDeviations:
    """The members one by one, through the whole embedding: as many passes back as there are members.

    Args:
        committee: The committee.
        pull_back: From gradients as `Committee.seeds` gives them to those by positions (B, N, 3) and, where strain
            derivatives are wanted, by strains (B, 3, 3).
    """
    gradients, strains = [], []
    for weights in committee.member_weights - committee.weights:
        by_position, by_strain = pull_back(*committee.seeds(weights))
        gradients.append(by_position)
        strains += [] if by_strain is None else [by_strain]
    energies = (committee.member_energies - committee.energies).T
    forces = -torch.stack(gradients, dim=1).cpu().numpy()
    return MemberDeviations(energies, forces, torch.stack(strains, dim=1).cpu().numpy() if strains else None)


def force_spreads(result: CommitteeResult) -> FloatArray | None:
    """How far the members' forces disagree where they disagree most.

    For one atom the spread is the root of the summed sample variances of the three components of its force, at fixed
    effective charges: what is left out is the pull of the groups in the switch of the embedding, which are the farthest
    from the QM region. Looked at are the QM atoms and the MM sites within `NEAR` of them (each image and each virtual
    site by itself); beyond that the members differ by less than they do nearer.

    Args:
        result: What the members say.

    Returns:
        The largest spread of each frame, shape (B,), hartree/bohr; None for one member.
    """
    n_members = len(result.energies)
    if n_members < 2:
        return None
    # Sums of squared deviations from the mean are sums of squared contrasts, of which there is one less than members.
    contrasts = _contrasts(n_members)
    largest = _largest(np.tensordot(contrasts, on_host(result.qm_gradients), axes=1))
    near = on_host(result.sites.near(NEAR, torch.from_numpy(contrasts).to(result.qm_gradients.device)))
    if near.shape[2] > 0:
        largest = np.maximum(largest, _largest(near))
    spreads: FloatArray = np.sqrt(largest / (n_members - 1))
    return spreads


def _largest(gradients: FloatArray) -> FloatArray:
    """Of (M, B, n, 3), the largest sum of squares of an atom, shape (B,)."""
    largest: FloatArray = np.einsum("mbnx,mbnx->bn", gradients, gradients).max(axis=1)
    return largest


@cache
def _contrasts(count: int) -> FloatArray:
    """Orthonormal rows (count - 1, count), each with the sum 0: those of Helmert's matrix."""
    rows: FloatArray = np.tril(np.ones((count - 1, count)))
    for row in range(count - 1):
        rows[row, row + 1] = -(row + 1)
    rows /= np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return rows


def on_host(tensor: Tensor) -> FloatArray:
    """The numbers of a tensor, wherever it is."""
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
