"""Which symmetry functions describe an atom: their parameters, and the radial functions they are made of.

The names are those of J. Behler, J. Chem. Phys. 134, 074106 (2011), doi 10.1063/1.3553717, with r_c the cutoff:

    G1 = f_c(r)        G2 = exp(-eta (r - r_s)^2) f_c(r)        G3 = cos(kappa r) f_c(r)
    angular (G5) = 2^(1-zeta) (1 + lambda cos theta_jik)^zeta  g(r_ij) g(r_ik),   g a G2

with f_c(r) = (1 - (r / r_c)^6)^3: flat inside, and its first and second derivatives vanish at r_c.
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

KINDS = ("g1", "g2", "g3")
MM_TYPES_BY = ("element", "name", "none")
MM_WEIGHTS = ("charge", "count")


@dataclass(frozen=True)
class RadialFunction:
    """One radial symmetry function, without its cutoff.

    Attributes:
        kind: "g1", "g2" or "g3".
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


@dataclass(frozen=True)
class SymmetryFunctions:
    """All symmetry functions of a model; lengths in bohr.

    Attributes:
        qm_cutoff: r_c of the radial functions over QM neighbours.
        qm_radial: Radial functions over QM neighbours, for each neighbour element.
        angular_cutoff: r_c of the angular functions over pairs of QM neighbours, and of the directions.
        angular_radial: Radial parts g of the angular functions, for each pair of neighbour elements.
        angular_zetas: Exponents; each with lambda = +1 and -1.
        directions: Radial functions that weight the unit vectors to QM neighbours, for each element. Their products
            with the vector sums over MM sites are angular functions over QM-MM pairs, resolved by distance.
        mm_cutoff: r_c of all functions over MM sites.
        mm_radial: Radial functions over MM sites, for each MM type.
        mm_type_by: What makes a type of MM sites: "element", "name" (residue:atom), or "none", one for all.
        mm_weight: What weights a site: its effective charge ("charge"), or the weight of its group alone ("count").
    """

    qm_cutoff: float
    qm_radial: tuple[RadialFunction, ...]
    angular_cutoff: float
    angular_radial: tuple[RadialFunction, ...]
    angular_zetas: tuple[int, ...]
    directions: tuple[RadialFunction, ...]
    mm_cutoff: float
    mm_radial: tuple[RadialFunction, ...]
    mm_type_by: str = "element"
    mm_weight: str = "charge"

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        for name in ("qm_cutoff", "angular_cutoff", "mm_cutoff"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"the {name} of the network is {getattr(self, name)}; a positive length is needed.")
        if self.mm_type_by not in MM_TYPES_BY:
            raise ConfigError(f"mm_type_by = '{self.mm_type_by}' is unknown; known are {', '.join(MM_TYPES_BY)}.")
        if self.mm_weight not in MM_WEIGHTS:
            raise ConfigError(f"mm_weight = '{self.mm_weight}' is unknown; known are {', '.join(MM_WEIGHTS)}.")
        if any(zeta < 1 or zeta != int(zeta) for zeta in self.angular_zetas):
            raise ConfigError(f"the exponents zeta are {self.angular_zetas}; whole numbers from 1 on are needed.")

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
            for name in ("qm_radial", "angular_radial", "directions", "mm_radial"):
                given[name] = tuple(RadialFunction(**function) for function in given[name])
            given["angular_zetas"] = tuple(int(zeta) for zeta in given["angular_zetas"])
            return cls(**given)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ModelError(f"the symmetry functions of the model cannot be used: {error}") from error


def even_functions(cutoff: float, count: int, first: float = 0.8 * ANGSTROM) -> tuple[RadialFunction, ...]:
    """G2 functions with centres at even distances, each as wide as the next one is far; cutoff and first in bohr."""
    step = (cutoff - first) / max(count, 1)
    return tuple(RadialFunction("g2", eta=0.5 / step**2, shift=first + index * step) for index in range(count))


def surroundings_functions(cutoff: float, count: int, waves: int = 2) -> tuple[RadialFunction, ...]:
    """Functions over MM sites: G1, `count` G2 around zero and `waves` G3; the cutoff in bohr.

    The widths of the G2 form a geometric series: sums of such Gaussians are good fits of 1/r and of its derivatives.
    """
    narrowest = 0.8 * ANGSTROM
    ratio = (0.45 * cutoff / narrowest) ** (1.0 / max(count - 1, 1))
    widths = [narrowest * ratio**index for index in range(count)]
    return (
        RadialFunction("g1"),
        *(RadialFunction("g2", eta=0.5 / width**2) for width in widths),
        *(RadialFunction("g3", kappa=math.pi * (index + 1) / cutoff) for index in range(waves)),
    )


def default_functions(
    *,
    qm_cutoff: float = 6.0 * ANGSTROM,
    angular_cutoff: float = 4.5 * ANGSTROM,
    mm_cutoff: float = 14.0 * ANGSTROM,
    qm_radial: int = 12,
    angular_radial: int = 2,
    angular_zetas: Sequence[int] = (1, 4),
    mm_radial: int = 8,
    mm_waves: int = 2,
    mm_type_by: str = "element",
    mm_weight: str = "charge",
) -> SymmetryFunctions:
    """A balanced set; lengths in bohr.

    Args:
        qm_cutoff: Of radial functions over QM neighbours.
        angular_cutoff: Of angular functions.
        mm_cutoff: Of functions over MM sites.
        qm_radial: How many G2 over QM neighbours of each element.
        angular_radial: How many radial parts the angular functions have.
        angular_zetas: Their exponents.
        mm_radial: How many G2 over MM sites of each type.
        mm_waves: How many G3 over MM sites of each type.
        mm_type_by: See `SymmetryFunctions`.
        mm_weight: See `SymmetryFunctions`.
    """
    angular_step = (angular_cutoff - 1.1 * ANGSTROM) / (angular_radial + 1)
    angular = tuple(
        RadialFunction("g2", eta=0.5 / angular_step**2, shift=1.1 * ANGSTROM + index * angular_step)
        for index in range(angular_radial)
    )
    return SymmetryFunctions(
        qm_cutoff=qm_cutoff,
        qm_radial=(RadialFunction("g1"), *even_functions(qm_cutoff, qm_radial)),
        angular_cutoff=angular_cutoff,
        angular_radial=angular,
        angular_zetas=tuple(angular_zetas),
        directions=(RadialFunction("g2", eta=0.5 / (1.2 * ANGSTROM) ** 2),),
        mm_cutoff=mm_cutoff,
        mm_radial=surroundings_functions(mm_cutoff, mm_radial, mm_waves),
        mm_type_by=mm_type_by,
        mm_weight=mm_weight,
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


def radial_values(functions: Sequence[RadialFunction], squared: Tensor, cutoff: float) -> Tensor:
    """All radial functions at once, differentiably.

    Args:
        functions: F functions.
        squared: r^2, bohr^2, positive, any shape.
        cutoff: r_c, bohr.

    Returns:
        Values, with a last axis of F functions.
    """
    window, _ = cutoff_function(squared, cutoff)
    # Beyond the cutoff all is zero whatever the distance; clamped, nothing there overflows.
    distances = squared.clamp(max=cutoff**2).sqrt()
    shapes = []
    for function in functions:
        if function.kind == "g1":
            shapes.append(torch.ones_like(window))
        elif function.kind == "g2":
            shapes.append(torch.exp(-function.eta * (distances - function.shift) ** 2))
        else:
            shapes.append(torch.cos(function.kappa * distances))
    return torch.stack(shapes, dim=-1) * window[..., None] if shapes else window[..., None][..., :0]


def radial_values_and_slopes(
    functions: Sequence[RadialFunction], squared: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """All radial functions and their derivatives, for many pairs: written where they are wanted, without a graph.

    Args:
        functions: F functions.
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
    for index, function in enumerate(functions):
        value, slope = values[..., index, :], slopes[..., index, :]
        if function.kind == "g1":
            value.copy_(window)
            slope.copy_(window_slope)
        elif function.kind == "g2" and function.shift == 0.0:
            gaussian = (within * -function.eta).exp_()
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
