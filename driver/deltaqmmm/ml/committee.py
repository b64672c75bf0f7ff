"""A trained committee, and the same bound to one system: energies with all partial derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from deltaqmmm.errors import ModelError
from deltaqmmm.ml.features import combine, pull_back_features
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.network import CommitteeNetwork, InferenceNetwork
from deltaqmmm.ml.structure import Neighbours, Structure
from deltaqmmm.ml.surroundings import Surroundings
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    # numba takes half a second to import, and is only needed where a correction is evaluated on the CPU.
    from deltaqmmm.ml.compiled import CompiledSurroundings
    from deltaqmmm.ml.kernels import ShellTable

TARGETS = ("delta", "direct")
PAIRS_AT_ONCE = 100_000_000
"""Radial functions between QM atoms and MM sites that are held at once."""


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


class SiteDerivatives(Protocol):
    """Derivatives of members' energies by sites and their charges, made on demand."""

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of M sums of the members with weights (M, C, B): by sites (M, B, K, 3), and by charges (M, B, K)."""

    def near(self, distance: float) -> Tensor:
        """Of each member, by the sites nearer than a distance (bohr) to a QM atom, zero-padded: (C, B, K', 3)."""


@dataclass(frozen=True, eq=False)
class StoredDerivatives:
    """Derivatives that are there already.

    Attributes:
        mm_gradients: Shape (C, B, K, 3), hartree/bohr.
        charge_gradients: Shape (C, B, K), hartree/e.
    """

    mm_gradients: Tensor
    charge_gradients: Tensor

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        return (
            torch.einsum("mcb,cbkx->mbkx", weights, self.mm_gradients),
            torch.einsum("mcb,cbk->mbk", weights, self.charge_gradients),
        )

    def near(self, distance: float) -> Tensor:
        """See `SiteDerivatives`; gives all sites."""
        del distance
        return self.mm_gradients


@dataclass(frozen=True, eq=False)
class MomentDerivatives:
    """Derivatives by the moments, and the surroundings that take them back to sites.

    Attributes:
        by_moment: Of both shells, shape (C, B, n, F, R, T).
        parts: Slices of the frames with their surroundings and the derivatives of weights by charges, (b, K).
    """

    by_moment: Sequence[Tensor]
    parts: Sequence[tuple[slice, Surroundings | CompiledSurroundings, Tensor]]

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteDerivatives`."""
        outer, inner = (
            torch.einsum("mcb,cbifxt->mbifxt", weights.to(gradients), gradients) for gradients in self.by_moment
        )
        by_site, by_charge = [], []
        for part, around, factors in self.parts:
            site, weight = around.pull_back(outer[:, part], inner[:, part])
            by_site.append(site)
            by_charge.append(weight * factors)
        return torch.cat(by_site, dim=1), torch.cat(by_charge, dim=1)

    def near(self, distance: float) -> Tensor:
        """See `SiteDerivatives`."""
        outer, inner = self.by_moment
        found = [around.pull_back_near(outer[:, part], inner[:, part], distance) for part, around, _ in self.parts]
        width = max(gradients.shape[2] for gradients in found)
        padded = [nn.functional.pad(gradients, (0, 0, 0, width - gradients.shape[2])) for gradients in found]
        return torch.cat(padded, dim=1)


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


@dataclass(frozen=True, eq=False)
class SiteTypes:
    """MM sites as the network sees them.

    Attributes:
        numbers: Type of each of the M sites, shape (M,), int64.
        factors: What makes a site's weight of its effective charge, shape (M,): 1, or one over the full charge.
        n_types: Number of types T.
    """

    numbers: Tensor
    factors: Tensor
    n_types: int

    @classmethod
    def of(
        cls,
        functions: SymmetryFunctions,
        known: Sequence[str],
        site_symbols: Sequence[str],
        site_types: Sequence[str],
        site_charges: FloatArray,
    ) -> SiteTypes:
        """Types of sites by the rules of a model.

        Args:
            functions: Say what makes a type, and what weights a site.
            known: The types that the model knows.
            site_symbols: Element of each of the M sites, "" for a virtual site.
            site_types: ``residue:atom`` of each.
            site_charges: Full charges, shape (M,), e.

        Raises:
            ModelError: A type that the model does not know.
        """
        names = type_names(functions.mm_type_by, site_symbols, site_types)
        charges = torch.as_tensor(site_charges, dtype=torch.float64)
        # A site without charge makes no field; it is no neighbour either, so that weights stay functions of charges.
        counts = charges.abs() > 0.0
        present = {name for name, counted in zip(names, counts.tolist(), strict=True) if counted}
        unknown = sorted(present - set(known))
        if unknown:
            raise ModelError(
                f"the model knows the MM types {', '.join(known)} (by {functions.mm_type_by}), and the surroundings "
                f"also have {', '.join(unknown)}: train a model with them in its dataset."
            )
        places = {name: number for number, name in enumerate(known)}
        numbers = torch.tensor([places.get(name, 0) for name in names], dtype=torch.int64)
        ones = torch.ones_like(charges)
        if functions.mm_weight == "count":
            factors = torch.where(counts, 1.0 / torch.where(counts, charges, ones), 0.0)
        else:
            factors = ones
        return cls(numbers, factors, len(known))


def type_names(mm_type_by: str, site_symbols: Sequence[str], site_types: Sequence[str]) -> list[str]:
    """The name of the type of each site."""
    if mm_type_by == "none":
        return ["*"] * len(site_symbols)
    if mm_type_by == "name":
        return list(site_types)
    return [symbol or f"virtual {name}" for symbol, name in zip(site_symbols, site_types, strict=True)]


class Descriptor:
    """The symmetry functions of one system; needs no network.

    Args:
        functions: Which ones.
        elements: The elements of the model, sorted.
        qm_symbols: Elements of the n QM atoms.
        types: The MM sites.
        device: Where it computes.
        dtype: Floating type.

    Attributes:
        compiled: Whether the compiled loops can do it: in float64 on the CPU.
    """

    def __init__(
        self,
        functions: SymmetryFunctions,
        elements: Sequence[str],
        qm_symbols: Sequence[str],
        types: SiteTypes,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.functions = functions
        self.device, self.dtype = torch.device(device), dtype
        self.structure = Structure(functions, elements, qm_symbols, self.device, dtype)
        self.atoms = [
            torch.tensor([index for index, symbol in enumerate(qm_symbols) if symbol == element], dtype=torch.int64)
            .to(self.device)
            for element in elements
        ]  # fmt: skip
        # The last entry is that of padding, which has the number -1.
        self._numbers = torch.cat([types.numbers, types.numbers.new_zeros(1)]).to(self.device)
        self._factors = torch.cat([types.factors, types.factors.new_zeros(1)]).to(device=self.device, dtype=dtype)
        self._n_types = types.n_types
        self._tables: tuple[ShellTable, ShellTable] | None = None
        self.compiled = self.device.type == "cpu" and dtype == torch.float64

    def surroundings(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> tuple[Surroundings, Tensor]:
        """The sums over MM sites, and the derivative of the weights by the charges, shape (B, K)."""
        factors, numbers = self._factors[mm_sites], self._numbers[mm_sites]
        one_hot = torch.nn.functional.one_hot(numbers, self._n_types).to(self.dtype).transpose(1, 2)
        weights = mm_charges * factors
        return Surroundings.between(self.functions, qm_positions, mm_positions, weights, one_hot), factors

    def compiled_surroundings(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> tuple[CompiledSurroundings, Tensor]:
        """The same by compiled loops: float64 on the CPU only."""
        from deltaqmmm.ml.compiled import CompiledSurroundings, shell_tables

        if self._tables is None:
            self._tables = shell_tables(self.functions)
        factors, numbers = self._factors[mm_sites], self._numbers[mm_sites]
        given = (qm_positions, mm_positions, mm_charges * factors, numbers)
        return CompiledSurroundings.between(self._tables, *given, self._n_types), factors

    def pull_back_neighbours(self, neighbours: Neighbours, radial: Tensor, angular: Tensor) -> Tensor:
        """See `Neighbours.pull_back`."""
        if not self.compiled:
            return neighbours.pull_back(radial, angular)
        from deltaqmmm.ml.kernels import neighbour_pull_back

        return neighbour_pull_back(neighbours, radial, angular)


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
        device, dtype = descriptor.device, descriptor.dtype
        # Around the QM region first: in single precision the digits are for what is near.
        qm, mm = qm_positions.detach().to(device), mm_positions.detach().to(device)
        centre = qm.mean(dim=1, keepdim=True)
        qm, mm = (qm - centre).to(dtype), (mm - centre).to(dtype)
        charges, sites = mm_charges.detach().to(device=device, dtype=dtype), mm_sites.to(device)
        parts: list[tuple[slice, Surroundings | CompiledSurroundings, Tensor]] = []
        if descriptor.compiled:
            parts.append((slice(0, len(qm)), *descriptor.compiled_surroundings(qm, mm, charges, sites)))
        else:
            # What is held at once is bounded.
            per_frame = max(1, qm.shape[1] * mm.shape[1] * len(self.model.functions.mm_radial))
            step = max(1, PAIRS_AT_ONCE // per_frame)
            for start in range(0, len(qm), step):
                part = slice(start, start + step)
                parts.append((part, *descriptor.surroundings(qm[part], mm[part], charges[part], sites[part])))
        neighbours = descriptor.structure(qm)
        shells = [torch.cat(shell) for shell in zip(*(around.moments() for _, around, _ in parts), strict=True)]
        moments = [*neighbours.moments(), *shells]
        energies, slopes = self._network.energies_and_slopes(combine(moments))
        by_radial, by_angular, *by_moment = pull_back_features(moments, slopes)
        qm_gradients = descriptor.pull_back_neighbours(neighbours, by_radial, by_angular)
        for part, around, _ in parts:
            for gradients, jacobian in zip(by_moment, around.jacobians(), strict=True):
                qm_gradients[:, part] += torch.einsum("cbifxt,bifxty->cbiy", gradients[:, part], jacobian)
        return CommitteeResult(
            energies=energies.to(torch.float64) + self._offset,
            qm_gradients=qm_gradients.to(torch.float64),
            sites=MomentDerivatives(by_moment, parts),
        )
