"""The symmetry functions of one system: from positions to features, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltaqmmm.errors import ModelError
from deltaqmmm.ml.derivatives import MomentDerivatives
from deltaqmmm.ml.features import combine, pull_back_features
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.network import InferenceNetwork
from deltaqmmm.ml.structure import Neighbours, Structure
from deltaqmmm.ml.surroundings import Surroundings
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    # numba takes half a second to import, and is only needed where a correction is evaluated on the CPU.
    from deltaqmmm.ml.compiled import CompiledCorrection

PAIRS_AT_ONCE = 100_000_000
"""Radial functions between QM atoms and MM sites that are held at once."""


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
        compiled: Whether compiled loops take the place of `describe`, which they can in float64 on the CPU.
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
        self.compiled = self.device.type == "cpu" and dtype == torch.float64
        self._symbols = tuple(elements), tuple(qm_symbols)

    def surroundings(
        self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor
    ) -> tuple[Surroundings, Tensor]:
        """The sums over MM sites, and the derivative of the weights by the charges, shape (B, K)."""
        factors, numbers = self._factors[mm_sites], self._numbers[mm_sites]
        one_hot = torch.nn.functional.one_hot(numbers, self._n_types).to(self.dtype).transpose(1, 2)
        weights = mm_charges * factors
        return Surroundings.between(self.functions, qm_positions, mm_positions, weights, one_hot), factors

    def describe(self, qm_positions: Tensor, mm_positions: Tensor, mm_charges: Tensor, mm_sites: Tensor) -> WholeArrays:
        """The features of B frames and the way back; see `Correction.evaluate` for the arguments."""
        given = (qm_positions, mm_positions, mm_charges, mm_sites)
        # What is held at once is bounded.
        per_frame = max(1, qm_positions.shape[1] * mm_positions.shape[1] * len(self.functions.mm_radial))
        step = max(1, PAIRS_AT_ONCE // per_frame)
        slices = [slice(start, start + step) for start in range(0, len(qm_positions), step)]
        parts = [(part, *self.surroundings(*(tensor[part] for tensor in given))) for part in slices]
        return WholeArrays(self.structure(qm_positions), parts)

    def compile(self, network: InferenceNetwork) -> CompiledCorrection:
        """The same, with networks for its features, by compiled loops."""
        from deltaqmmm.ml.compiled import CompiledCorrection

        types = self._n_types, self._numbers, self._factors
        return CompiledCorrection(self.functions, self._symbols, types, network)


@dataclass(frozen=True, eq=False)
class WholeArrays:
    """A description by arrays of all pairs, on any device.

    Attributes:
        neighbours: The QM atoms.
        parts: Slices of the frames with their surroundings and the derivatives of weights by charges, (b, K).
    """

    neighbours: Neighbours
    parts: Sequence[tuple[slice, Surroundings, Tensor]]

    @cached_property
    def features(self) -> Tensor:
        """Shape (B, n, `n_features`)."""
        return combine(self._moments)

    @cached_property
    def _moments(self) -> list[Tensor]:
        shells = zip(*(around.moments() for _, around, _ in self.parts), strict=True)
        return [*self.neighbours.moments(), *map(torch.cat, shells)]

    def pull_back(self, slopes: Tensor) -> tuple[Tensor, MomentDerivatives]:
        """From derivatives by the features of C energies to those by positions and charges.

        Args:
            slopes: dE/d(features), shape (C, B, n, `n_features`).

        Returns:
            dE/dR of the QM atoms, shape (C, B, n, 3), hartree/bohr, and what gives the others.
        """
        by_radial, by_angular, *by_moment = pull_back_features(self._moments, slopes)
        qm_gradients = self.neighbours.pull_back(by_radial, by_angular)
        for part, around, _ in self.parts:
            for gradients, jacobian in zip(by_moment, around.jacobians(), strict=True):
                qm_gradients[:, part] += torch.einsum("cbifxt,bifxty->cbiy", gradients[:, part], jacobian)
        return qm_gradients, MomentDerivatives(by_moment, self.parts)
