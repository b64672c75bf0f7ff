"""Which symmetry functions describe an atom: their parameters, and the radial functions they are made of.

The names are those of J. Behler, J. Chem. Phys. 134, 074106 (2011), doi 10.1063/1.3553717, with r_c the cutoff:

    G1 = f_c(r)        G2 = exp(-eta (r - r_s)^2) f_c(r)        G3 = cos(kappa r) f_c(r)

with f_c(r) = (1 - (r / r_c)^6)^3: flat inside, and its first and second derivatives vanish at r_c. Over all MM sites
there may be, in place of these, one of another kind, "coulomb": its radial sums are those of f_c(r) / r, its vectors
those of f_c(r) d / r^3. Weighted with charges they are the electric potential and field at the atom. The angular
functions are sum_jk g(r_ij) g(r_ik) cos^p theta_jik for p up to an order, g a radial function: those of Behler, with
powers of 1 + lambda cos theta, are linear combinations of them and of radial ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from deltaqmmm.errors import ConfigError, ModelError
from deltaqmmm.units import ANGSTROM

KINDS = ("g1", "g2", "g3", "coulomb")
MM_TYPES_BY = ("element", "name", "none")
MM_WEIGHTS = ("charge", "count")
MM_RANKS = (1, 2)
ANGULAR_ORDERS = range(2, 7)
CLOSEST = 1e-12
"""Inverse powers of r^2 are those of no less than this, bohr^2: for a site in the very place of an atom too."""


@dataclass(frozen=True)
class RadialFunction:
    """One radial symmetry function, without its cutoff.

    Attributes:
        kind: "g1", "g2", "g3" or "coulomb".
        eta: Of G2, 1/bohr^2.
        shift: r_s of G2, bohr.
        kappa: Of G3, 1/bohr.
    """

    kind: str
    eta: float = 0.0
    shift: float = 0.0
    kappa: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no symmetry function."""
        if self.kind not in KINDS:
            raise ConfigError(f"the symmetry function '{self.kind}' is unknown; known are {', '.join(KINDS)}.")
        if not all(math.isfinite(value) for value in (self.eta, self.shift, self.kappa)) or self.eta < 0.0:
            raise ConfigError(f"{self}: finite numbers are needed, and eta must not be negative.")


COULOMB = RadialFunction("coulomb")


@dataclass(frozen=True)
class SymmetryFunctions:
    """All symmetry functions of a model; lengths in bohr.

    Attributes:
        qm_cutoff: r_c of the radial functions over QM neighbours.
        qm_radial: Radial functions over QM neighbours, for each neighbour element.
        angular_cutoff: r_c of the angular functions over pairs of QM neighbours, and of the directions.
        angular_radial: Radial parts g of the angular functions, for each pair of neighbour elements. The first also
            weights the directions to QM neighbours, whose products with the sums over MM sites are angular functions
            over QM-MM pairs.
        angular_order: The highest power of the cosine.
        mm_cutoff: r_c of the functions over all MM sites.
        mm_radial: Radial functions over all MM sites, for each MM type.
        mm_near_cutoff: r_c of more functions, over the MM sites near the QM region.
        mm_near_radial: These, for each MM type.
        mm_type_by: What makes a type of MM sites: "element", "name" (residue:atom), or "none", one for all.
        mm_weight: What weights a site: its effective charge ("charge"), or the weight of its group alone ("count").
        mm_rank: Of the sums over all MM sites: 1 has vectors, 2 also tensors, which cost more.
        mm_near_rank: Of the sums over near MM sites.
    """

    qm_cutoff: float
    qm_radial: tuple[RadialFunction, ...]
    angular_cutoff: float
    angular_radial: tuple[RadialFunction, ...]
    angular_order: int
    mm_cutoff: float
    mm_radial: tuple[RadialFunction, ...]
    mm_near_cutoff: float
    mm_near_radial: tuple[RadialFunction, ...]
    mm_type_by: str = "element"
    mm_weight: str = "charge"
    mm_rank: int = 1
    mm_near_rank: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.mm_rank not in MM_RANKS or self.mm_near_rank not in MM_RANKS:
            raise ConfigError(f"the ranks over MM sites are {self.mm_rank} and {self.mm_near_rank}; known are 1 and 2.")
        for name in ("qm_cutoff", "angular_cutoff", "mm_cutoff", "mm_near_cutoff"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"the {name} of the network is {getattr(self, name)}; a positive length is needed.")
        if self.mm_type_by not in MM_TYPES_BY:
            raise ConfigError(f"mm_type_by = '{self.mm_type_by}' is unknown; known are {', '.join(MM_TYPES_BY)}.")
        if self.mm_weight not in MM_WEIGHTS:
            raise ConfigError(f"mm_weight = '{self.mm_weight}' is unknown; known are {', '.join(MM_WEIGHTS)}.")
        for name in ("qm_radial", "angular_radial", "mm_radial", "mm_near_radial"):
            functions = getattr(self, name)
            fits = name == "mm_radial" and len(functions) == 1 and self.mm_rank == 1
            if COULOMB in functions and not fits:
                raise ConfigError(f"{name} = {functions}: 'coulomb' stands alone, over all MM sites, and with rank 1.")
        if not self.angular_radial:
            raise ConfigError("the angular functions need at least one radial part.")
        if self.angular_order not in ANGULAR_ORDERS:
            raise ConfigError(
                f"angular_order = {self.angular_order}: a number from 2 to {max(ANGULAR_ORDERS)} is needed."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SymmetryFunctions:
        """The inverse of `to_json`.

        Raises:
            ModelError: A value is missing, unknown or impossible.
        """
        try:
            given = dict(values)
            for name in ("qm_radial", "angular_radial", "mm_radial", "mm_near_radial"):
                given[name] = tuple(RadialFunction(**function) for function in given[name])
            return cls(**given)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ModelError(f"the symmetry functions of the model cannot be used: {error}") from error


def even_functions(cutoff: float, count: int, first: float = 0.8 * ANGSTROM) -> tuple[RadialFunction, ...]:
    """G2 functions with centres at even distances, each as wide as the next one is far; cutoff and first in bohr."""
    step = (cutoff - first) / max(count, 1)
    return tuple(RadialFunction("g2", eta=0.5 / step**2, shift=first + index * step) for index in range(count))


def widening_functions(narrowest: float, count: int) -> tuple[RadialFunction, ...]:
    """G2 functions around zero, each sqrt(2) wider than the one before; the narrowest width in bohr.

    Sums of such Gaussians are good fits of 1/r and of its derivatives, and each is the square of the next one: all take
    one exponential.
    """
    return tuple(RadialFunction("g2", eta=0.5 / narrowest**2 * 0.5**index) for index in range(count))


def default_functions(
    *,
    qm_cutoff: float = 6.0 * ANGSTROM,
    angular_cutoff: float = 4.5 * ANGSTROM,
    mm_cutoff: float = 14.0 * ANGSTROM,
    mm_near_cutoff: float = 6.0 * ANGSTROM,
    qm_radial: int = 12,
    angular_radial: int = 2,
    angular_order: int = 3,
    mm_radial: int = 0,
    mm_waves: int = 0,
    mm_near_radial: int = 4,
    mm_type_by: str = "element",
    mm_weight: str = "charge",
) -> SymmetryFunctions:
    """A balanced set; lengths in bohr.

    Args:
        qm_cutoff: Of radial functions over QM neighbours.
        angular_cutoff: Of angular functions.
        mm_cutoff: Of functions over all MM sites.
        mm_near_cutoff: Of functions over near MM sites, at most `mm_cutoff`.
        qm_radial: How many G2 over QM neighbours of each element.
        angular_radial: How many radial parts the angular functions have.
        angular_order: The highest power of the cosine.
        mm_radial: How many G2 over all MM sites of each type.
        mm_waves: How many G3 over all MM sites of each type. Beside G2 and G3 there is one G1; without any of them it
            is potential and field that are taken.
        mm_near_radial: How many G2 over near MM sites of each type.
        mm_type_by: See `SymmetryFunctions`.
        mm_weight: See `SymmetryFunctions`.
    """
    angular_step = (angular_cutoff - 1.1 * ANGSTROM) / (angular_radial + 1)
    angular = tuple(
        RadialFunction("g2", eta=0.5 / angular_step**2, shift=1.1 * ANGSTROM + index * angular_step)
        for index in range(angular_radial)
    )
    outer = (
        RadialFunction("g1"),
        *reversed(widening_functions(0.45 * mm_cutoff * 0.5 ** (0.5 * (mm_radial - 1)), mm_radial)),
        *(RadialFunction("g3", kappa=math.pi * (index + 1) / mm_cutoff) for index in range(mm_waves)),
    )
    return SymmetryFunctions(
        qm_cutoff=qm_cutoff,
        qm_radial=(RadialFunction("g1"), *even_functions(qm_cutoff, qm_radial)),
        angular_cutoff=angular_cutoff,
        angular_radial=angular,
        angular_order=angular_order,
        mm_cutoff=mm_cutoff,
        mm_radial=outer if mm_radial or mm_waves else (COULOMB,),
        mm_type_by=mm_type_by,
        mm_weight=mm_weight,
        mm_near_cutoff=min(mm_near_cutoff, mm_cutoff),
        mm_near_radial=tuple(reversed(widening_functions(0.8 * ANGSTROM, mm_near_radial))),
        mm_near_rank=2,
    )


def cutoff_function(squared: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """f_c of the module's docstring, and its derivative with respect to r^2; zero beyond the cutoff.

    Args:
        squared: r^2, bohr^2, any shape.
        cutoff: r_c, bohr.
    """
    ratio = squared / cutoff**2
    power = ratio * ratio
    inside = (1.0 - power * ratio).clamp(min=0.0)
    square = inside * inside
    return square * inside, (-9.0 / cutoff**2) * power * square


def potential_and_field(squared: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """f_c / r and f_c / r^3, and their derivatives with respect to r^2.

    Args:
        squared: r^2, bohr^2, shape (..., K).
        cutoff: r_c, bohr.

    Returns:
        Values, shape (..., 2, K), 1/bohr and 1/bohr^3, and their derivatives, same shape, each by bohr^2 more.
    """
    window, window_slope = cutoff_function(squared, cutoff)
    inverse = 1.0 / squared.clamp(CLOSEST, cutoff**2)
    root = inverse.sqrt()
    values = torch.stack([root * window, root * inverse * window], dim=-2)
    first, second = (window_slope - factor * inverse * window for factor in (0.5, 1.5))
    return values, torch.stack([root * first, root * inverse * second], dim=-2)


def radial_values_and_slopes(
    functions: Sequence[RadialFunction], squared: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """All radial functions and their derivatives.

    Args:
        functions: F functions, none of them "coulomb".
        squared: r^2, bohr^2, positive, shape (..., K).
        cutoff: r_c, bohr.

    Returns:
        Values, shape (..., F, K), and their derivatives with respect to r^2, same shape, 1/bohr^2.
    """
    window, window_slope = cutoff_function(squared, cutoff)
    shape = (*squared.shape[:-1], len(functions), squared.shape[-1])
    values, slopes = squared.new_empty(shape), squared.new_empty(shape)
    within = squared.clamp(max=cutoff**2)
    # Gaussians around zero need no distance.
    distances = within.sqrt() if any(f.kind == "g3" or f.shift != 0.0 for f in functions) else within
    gaussians: dict[float, Tensor] = {}
    for index, function in enumerate(functions):
        value, slope = values[..., index, :], slopes[..., index, :]
        if function.kind == "g1":
            value.copy_(window)
            slope.copy_(window_slope)
        elif function.kind == "g2" and function.shift == 0.0:
            wider = gaussians.get(0.5 * function.eta)
            gaussian = (within * -function.eta).exp_() if wider is None else wider * wider
            gaussians[function.eta] = gaussian
            torch.mul(gaussian, window, out=value)
            torch.mul(gaussian, window_slope.add(window, alpha=-function.eta), out=slope)
        elif function.kind == "g2":
            difference = distances - function.shift
            gaussian = torch.exp(-function.eta * difference * difference)
            torch.mul(gaussian, window, out=value)
            torch.mul(gaussian, window_slope - function.eta * difference / distances * window, out=slope)
        else:
            argument = function.kappa * distances
            wave = torch.cos(argument)
            torch.mul(wave, window, out=value)
            torch.mul(torch.sin(argument) / distances, window, out=slope)
            slope.mul_(-0.5 * function.kappa).addcmul_(wave, window_slope)
    return values, slopes
