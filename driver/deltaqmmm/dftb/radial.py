"""Radial functions of pair distances as piecewise polynomials: Slater-Koster integrals and repulsive potentials.

All pairs of a molecule are evaluated at once: every pair knows which table it uses, and a table is a run of intervals
in one common array of polynomial coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.dftb.slater_koster import RepulsivePolynomial, RepulsiveSpline
from deltaqmmm.errors import ParameterError
from deltaqmmm.results import FloatArray, IntArray

N_POINTS = 8
"""Points of the interpolating polynomial inside the grid, as in DFTB+."""
N_RIGHT = 4
"""How many of these points lie to the right of the interval."""
TAIL = 1.0
"""Length in bohr of the polynomial that takes an integral from its last grid value to zero, as in DFTB+."""


class _PolynomialValue(torch.autograd.Function):
    """sum_k c_k x^k and its derivative by Horner's rule in one pass.

    Only first derivatives are supported, and only with respect to x, which is all that a gradient needs.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, coefficients: Tensor) -> Tensor:
        value = coefficients[..., -1, :]
        slope = torch.zeros_like(value)
        x = x.unsqueeze(-1)
        for k in range(coefficients.shape[-2] - 2, -1, -1):
            slope = torch.addcmul(value, slope, x)
            value = torch.addcmul(coefficients[..., k, :], value, x)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradient * slope).sum(-1), None


def _polynomial_value(x: Tensor, coefficients: Tensor) -> Tensor:
    """sum_k c_k x^k for x of shape (...) and coefficients (..., k, C); returns (..., C)."""
    value: Tensor = _PolynomialValue.apply(x, coefficients)  # type: ignore[no-untyped-call]
    return value


@dataclass(frozen=True)
class UniformTables:
    """Several tables on uniform grids, one per species pair, for a fixed list of P atom pairs.

    Attributes:
        coefficients: Polynomials of all intervals of all tables, shape (n_intervals, 8, C).
        left: Left end of each interval, shape (n_intervals,), bohr.
        inverse_width: One over the width of each interval, shape (n_intervals,), 1/bohr.
        offset: First interval of the table of each atom pair, shape (P,).
        n_inner: Number of grid intervals of the table of each atom pair, shape (P,).
        inverse_spacing: One over the grid step, shape (P,), 1/bohr.
        cutoff: Distance beyond which all is zero, shape (P,), bohr.
    """

    coefficients: Tensor
    left: Tensor
    inverse_width: Tensor
    offset: Tensor
    n_inner: Tensor
    inverse_spacing: Tensor
    cutoff: Tensor

    def __call__(self, distances: Tensor) -> Tensor:
        """Values at distances of shape (B, P) in bohr; returns shape (B, P, C)."""
        with torch.no_grad():
            inner = torch.minimum((distances * self.inverse_spacing).long(), self.n_inner)
            # Behind the grid intervals of a table follow its tail and one interval of zeros.
            interval = self.offset + torch.where(distances < self.cutoff, inner, self.n_inner + 1)
            left, inverse_width = self.left[interval], self.inverse_width[interval]
            coefficients = self.coefficients[interval]
        return _polynomial_value((distances - left) * inverse_width, coefficients)


def table_intervals(values: FloatArray, spacing: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Interval polynomials of one table.

    Inside the grid each interval carries the polynomial of degree 7 through its eight nearest points (four to the
    right where there are as many). Behind the last point a quintic takes value, slope and curvature to zero within 1
    bohr. Then follow zeros. Both choices are those of DFTB+, so that energies agree to the last digits.

    Args:
        values: Shape (n, C); row i lies at (i + 1) * spacing.
        spacing: bohr.

    Returns:
        Coefficients (n + 2, 8, C) in powers of (r - left) / width, left ends (n + 2,) and widths (n + 2,) in bohr.

    Raises:
        ParameterError: The table has too few points.
    """
    n, n_columns = values.shape
    if n < N_POINTS + 1:
        raise ParameterError(f"a Slater-Koster table has {n} grid points; at least {N_POINTS + 1} are needed.")
    coefficients = np.zeros((n + 2, N_POINTS, n_columns))
    # Grid interval k covers [k, k + 1) * spacing; its stencil ends at point min(n, k + 4), counted from one.
    last = np.maximum(np.minimum(n, np.arange(n) + N_RIGHT), N_POINTS)
    stencil = last[:, None] - np.arange(N_POINTS)[::-1]
    for shift in np.unique(stencil[:, 0] - np.arange(n)):
        rows = np.flatnonzero(stencil[:, 0] - np.arange(n) == shift)
        vandermonde = np.vander((shift + np.arange(N_POINTS)).astype(float), N_POINTS, increasing=True)
        coefficients[rows] = np.einsum("kp,rpc->rkc", np.linalg.inv(vandermonde), values[stencil[rows] - 1])
    end = coefficients[n - 1]
    powers = np.arange(N_POINTS)
    slope = np.einsum("k,kc->c", powers, end) / spacing
    curvature = np.einsum("k,kc->c", powers * (powers - 1), end) / spacing**2
    value, slope, curvature = values[-1], slope * TAIL, curvature * TAIL**2
    coefficients[n, 0], coefficients[n, 1], coefficients[n, 2] = value, slope, curvature / 2
    coefficients[n, 3] = -10 * value - 6 * slope - 1.5 * curvature
    coefficients[n, 4] = 15 * value + 8 * slope + 1.5 * curvature
    coefficients[n, 5] = -6 * value - 3 * slope - 0.5 * curvature
    left = np.concatenate([np.arange(n + 1) * spacing, [0.0]])
    width = np.concatenate([np.full(n, spacing), [TAIL, 1.0]])
    return coefficients, left, width


def uniform_tables(
    tables: list[tuple[FloatArray, float]], table_of_pair: list[int], device: torch.device
) -> UniformTables:
    """Join tables (values of shape (n, C), spacing in bohr) for the atom pairs that use them.

    Args:
        tables: Values and spacing of each species pair.
        table_of_pair: Index into `tables` for each of the P atom pairs.
        device: Where the evaluation happens.
    """
    intervals = [table_intervals(values, spacing) for values, spacing in tables]
    sizes = np.array([len(left) for _, left, _ in intervals])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    spacings = np.array([spacing for _, spacing in tables])
    pair = np.array(table_of_pair, dtype=np.int64)

    def tensor(array: FloatArray | IntArray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=device)

    return UniformTables(
        coefficients=tensor(np.concatenate([c for c, _, _ in intervals])),
        left=tensor(np.concatenate([left for _, left, _ in intervals])),
        inverse_width=tensor(1.0 / np.concatenate([width for _, _, width in intervals])),
        offset=tensor(starts[pair]),
        n_inner=tensor(sizes[pair] - 2),
        inverse_spacing=tensor(1.0 / spacings[pair]),
        cutoff=tensor(((sizes - 2) * spacings + TAIL)[pair]),
    )


@dataclass(frozen=True)
class RepulsiveTables:
    """Repulsive potentials of a fixed list of P atom pairs.

    Attributes:
        head: a1, a2, a3 of exp(-a1 r + a2) + a3 below the first knot, shape (P, 3).
        knots: Left ends of the intervals; after the last comes the cutoff, then infinity, shape (P, K), bohr.
        origins: Point about which each interval's polynomial is expanded, shape (P, K), bohr.
        coefficients: Shape (P, K, D); the interval that starts at the cutoff is zero.
    """

    head: Tensor
    knots: Tensor
    origins: Tensor
    coefficients: Tensor

    def __call__(self, distances: Tensor) -> Tensor:
        """Energies of the pairs at distances of shape (B, P) in bohr; returns shape (B, P), hartree."""
        with torch.no_grad():
            interval = torch.searchsorted(self.knots, distances.T.contiguous().detach(), right=True).T - 1
            inside = interval.clamp(min=0)
            pair = torch.arange(distances.shape[1], device=distances.device)
            coefficients = self.coefficients[pair, inside].unsqueeze(-1)
            origins = self.origins[pair, inside]
        tail = _polynomial_value(distances - origins, coefficients).squeeze(-1)
        head = torch.exp(self.head[:, 1] - self.head[:, 0] * distances) + self.head[:, 2]
        return torch.where(interval < 0, head, tail)


def repulsive_tables(
    potentials: list[RepulsiveSpline | RepulsivePolynomial | None], potential_of_pair: list[int], device: torch.device
) -> RepulsiveTables:
    """Join the repulsive potentials of species pairs for the atom pairs that use them."""
    n_intervals = 1 + max([len(p.coefficients) if isinstance(p, RepulsiveSpline) else 1 for p in potentials], default=1)
    degree = 10 if any(isinstance(p, RepulsivePolynomial) for p in potentials) else 6
    n = len(potentials)
    head = np.zeros((n, 3))
    knots, origins = np.full((n, n_intervals), np.inf), np.zeros((n, n_intervals))
    coefficients = np.zeros((n, n_intervals, degree))
    for i, potential in enumerate(potentials):
        if potential is None:
            knots[i, 0] = 0.0
        elif isinstance(potential, RepulsiveSpline):
            size = len(potential.coefficients)
            head[i] = potential.head
            knots[i, : size + 1] = origins[i, : size + 1] = potential.knots
            coefficients[i, :size, :6] = potential.coefficients
        else:
            knots[i, :2] = 0.0, potential.cutoff
            origins[i, :2] = potential.cutoff
            coefficients[i, 0, 2:] = potential.coefficients * (-1.0) ** np.arange(2, 10)
    pair = np.array(potential_of_pair, dtype=np.int64)

    def tensor(array: FloatArray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array[pair]), device=device)

    return RepulsiveTables(tensor(head), tensor(knots), tensor(origins), tensor(coefficients))
