"""The settings of an embedding, and what it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from deltaqmmm.errors import ConfigError
from deltaqmmm.units import ANGSTROM

CLOSEST_APPROACH = 1e-6
"""A charge nearer to a QM atom than this is refused, bohr."""

FAR = 1000.0
"""Padding starts at this distance from the first QM atom, bohr..."""
FAR_STEP = 10.0
"""... and its points lie this far from each other, bohr, so that no two of them coincide."""


@dataclass(frozen=True)
class CutoffSettings:
    """How the surroundings are cut off.

    Attributes:
        inner: Distance below which an MM group has its full charges, bohr. None: no cutoff at all, every group counts
            fully (not possible in a periodic system).
        outer: Distance from which on an MM group has no charges, bohr. Unused when `inner` is None.
        smooth_minimum_sharpness: beta of the smooth minimum of distances, 1/bohr. The smooth distance is below the
            distance to the nearest QM atom by at most ln(n_qm) / beta: 0.3 angstrom for 12 QM atoms at the default.
        blur_width: Width of the Gaussian blur of the MM charges, bohr: their potential is erf(r / width) / r, which is
            DFTB+'s convention for ``GaussianBlurWidth``. 0: point charges.
    """

    inner: float | None = 12.0 * ANGSTROM
    outer: float | None = 14.0 * ANGSTROM
    smooth_minimum_sharpness: float = 4.0
    blur_width: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not (math.isfinite(self.smooth_minimum_sharpness) and self.smooth_minimum_sharpness > 0.0):
            raise ConfigError(
                f"The sharpness of the smooth minimum is {self.smooth_minimum_sharpness}; a positive number is needed."
            )
        if not (math.isfinite(self.blur_width) and self.blur_width >= 0.0):
            raise ConfigError(
                f"The blur width of the MM charges is {self.blur_width}; zero or a positive number is needed."
            )
        if self.inner is None:
            return
        if self.outer is None or not (math.isfinite(self.outer) and 0.0 <= self.inner < self.outer):
            raise ConfigError(
                f"The embedding switches from {self.inner} to {self.outer} bohr; needed is 0 <= inner < outer, both "
                "finite. Set both cutoffs, or neither for an isolated system."
            )


class WayBack(Protocol):
    """The chain rule through an embedding."""

    def __call__(
        self, by_qm: Tensor | None, by_site: Tensor | None, by_charge: Tensor | None, by_potential: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """From derivatives of L by what the QM side sees to those by what it was made of.

        Args:
            by_qm: dL/d(qm_positions), shape (B, n_qm, 3); None for zeros.
            by_site: dL/d(mm_positions), shape (B, K, 3); None for zeros.
            by_charge: dL/d(mm_charges), shape (B, K); None for zeros.
            by_potential: dL/d(potentials), shape (B, n_qm); None for zeros.

        Returns:
            dL/d(positions), shape (B, N, 3), and dL/d(cells), shape (B, 3, 3), or None where it was not asked for.
        """


@dataclass(frozen=True)
class EmbeddedFrames:
    """What the QM side sees of a batch of B frames; every float tensor is differentiable in positions and cells.

    Attributes:
        qm_positions: The QM region, made whole, shape (B, n_qm, 3), bohr.
        mm_positions: The charge sites of every group image that counts, shape (B, K, 3), bohr. Frames with fewer sites
            than K are padded with distinct points far away.
        mm_charges: Effective charges (weight of the group times charge of the site), shape (B, K), e; 0 on padding.
        mm_sites: Which site of the system each one is, shape (B, K), int64; -1 on padding. Images of one site repeat
            it.
        potentials: Electrostatic potential of the effective charges at the QM atoms, shape (B, n_qm), hartree/e.
        way_back: Takes derivatives by these back to positions and cells, without automatic differentiation where the
            loops are compiled: that takes as long as a third of them.
    """

    qm_positions: Tensor
    mm_positions: Tensor
    mm_charges: Tensor
    mm_sites: Tensor
    potentials: Tensor
    way_back: WayBack
