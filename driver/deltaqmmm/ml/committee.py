"""A trained committee, and the same bound to one system: energies with all partial derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltaqmmm.errors import ModelError
from deltaqmmm.ml.derivatives import SiteDerivatives
from deltaqmmm.ml.descriptor import Descriptor, SiteTypes
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.network import CommitteeNetwork, InferenceNetwork
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    # numba takes half a second to import, and is only needed where a correction is evaluated on the CPU.
    from deltaqmmm.ml.compiled import CompiledCorrection

TARGETS = ("delta", "direct")


@dataclass(frozen=True)
class ModelInfo:
    """What a model is and what it fits to: the header of its file.

    Attributes:
        target: "delta" corrects the baseline, "direct" replaces it.
        elements: The elements of QM atoms that it knows, sorted.
        mm_types: The types of MM sites that it knows; ("*",) is one type for all.
        embedding: Table of the embedding that the labels were made with.
        level: Table of the reference method.
        baseline: Table of the baseline.
        n_members: Members of the committee.
        n_parameters: Fitted parameters of one member.
        provenance: Versions, dates, settings and errors of the training, for the reader.
    """

    target: str
    elements: tuple[str, ...]
    mm_types: tuple[str, ...]
    embedding: Mapping[str, object]
    level: Mapping[str, object]
    baseline: Mapping[str, object]
    n_members: int
    n_parameters: int
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CommitteeResult:
    """Energies of C members for B frames and their partial derivatives: positions and charges are independent.

    The derivatives by the K sites and their charges are computed when they are asked for: those of one weighted sum of
    the members take a fraction of the time of those of all members.

    Attributes:
        energies: Shape (C, B), hartree.
        qm_gradients: Shape (C, B, n, 3), hartree/bohr.
        sites: Gives the derivatives by sites and charges.
    """

    energies: Tensor
    qm_gradients: Tensor
    sites: SiteDerivatives

    @cached_property
    def _all_members(self) -> tuple[Tensor, Tensor]:
        n_members, n_frames = self.energies.shape
        each = torch.eye(n_members, dtype=self.qm_gradients.dtype, device=self.qm_gradients.device)
        return self.sites.weighted(each[..., None].expand(-1, -1, n_frames))

    @property
    def mm_gradients(self) -> Tensor:
        """Of each member, shape (C, B, K, 3), hartree/bohr."""
        return self._all_members[0]

    @property
    def charge_gradients(self) -> Tensor:
        """Derivatives by the effective charges of each member, shape (C, B, K), hartree/e."""
        return self._all_members[1]


@dataclass(frozen=True, eq=False)
class CommitteeModel:
    """A trained committee.

    Attributes:
        info: The header.
        functions: The symmetry functions.
        network: The networks.
        offsets: Energy of one atom of each element that was taken off before training, shape (E,), hartree, float64.
    """

    info: ModelInfo
    functions: SymmetryFunctions
    network: CommitteeNetwork
    offsets: Tensor

    @property
    def n_members(self) -> int:
        """Members of the committee."""
        return self.info.n_members

    def bind(
        self,
        qm_symbols: Sequence[str],
        site_symbols: Sequence[str],
        site_types: Sequence[str],
        site_charges: FloatArray,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Correction:
        """Make the model ready for one system.

        Args:
            qm_symbols: Elements of the n QM atoms.
            site_symbols: Element of each of the M MM sites, "" for a virtual site.
            site_types: ``residue:atom`` of each MM site.
            site_charges: Full charges of the sites, shape (M,), e.
            device: Where it computes.
            dtype: Floating type of the computation.

        Raises:
            ModelError: An element or MM type that the model does not know.
        """
        unknown = sorted(set(qm_symbols) - set(self.info.elements))
        if unknown:
            raise ModelError(
                f"the model knows the QM elements {', '.join(self.info.elements)}, and the QM region also has "
                f"{', '.join(unknown)}: train a model with them, or choose another QM region."
            )
        types = SiteTypes.of(self.functions, self.info.mm_types, site_symbols, site_types, site_charges)
        return Correction(self, qm_symbols, types, torch.device(device), dtype)

    def member(self, index: int) -> CommitteeModel:
        """A committee of one."""
        return replace(self, info=replace(self.info, n_members=1), network=self.network.member(index))


class Correction:
    """A model bound to one system; made by `CommitteeModel.bind`.

    Attributes:
        model: The model.
        n_members: Members of the committee.
    """

    def __init__(
        self,
        model: CommitteeModel,
        qm_symbols: Sequence[str],
        types: SiteTypes,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model = model
        self.n_members = model.n_members
        elements = model.info.elements
        self._descriptor = Descriptor(model.functions, elements, qm_symbols, types, device, dtype)
        self._network = InferenceNetwork(model.network, self._descriptor.atoms, device, dtype)
        self._offset = sum(float(model.offsets[elements.index(symbol)]) for symbol in qm_symbols)

    def evaluate(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> CommitteeResult:
        """Energies and partial derivatives of all members.

        Args:
            qm_positions: The QM region, made whole, shape (B, n, 3), bohr.
            mm_positions: Shape (B, K, 3), bohr; padding is far away.
            mm_charges: Effective charges, shape (B, K), e; 0 on padding.
            mm_sites: Number of the site, shape (B, K); -1 on padding.
        """
        descriptor = self._descriptor
        if descriptor.compiled:
            found = self._loops.evaluate(qm_positions, mm_positions, mm_charges, mm_sites)
            return CommitteeResult(found[0] + self._offset, found[1], found[2])
        device, dtype = descriptor.device, descriptor.dtype
        # Around the QM region first: in single precision the digits are for what is near.
        qm, mm = qm_positions.detach().to(device), mm_positions.detach().to(device)
        centre = qm.mean(dim=1, keepdim=True)
        qm, mm = (qm - centre).to(dtype), (mm - centre).to(dtype)
        charges, sites = mm_charges.detach().to(device=device, dtype=dtype), mm_sites.to(device)
        described = descriptor.describe(qm, mm, charges, sites)
        energies, slopes = self._network.energies_and_slopes(described.features)
        qm_gradients, by_site = described.pull_back(slopes)
        return CommitteeResult(energies.to(torch.float64) + self._offset, qm_gradients.to(torch.float64), by_site)

    @property
    def compiled(self) -> bool:
        """Whether compiled loops do the work."""
        return self._descriptor.compiled

    @cached_property
    def _loops(self) -> CompiledCorrection:
        return self._descriptor.compile(self._network)
