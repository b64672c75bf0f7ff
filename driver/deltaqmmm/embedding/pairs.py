"""Distances between the QM atoms and points around them, and the potentials of charges there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PAIRS_AT_ONCE = 2**17
"""One megabyte of float64 pairs."""


class _PairDistances(torch.autograd.Function):
    """All distances |R_a - r_j| with a backward pass that never stores the difference vectors.

    With c_aj = (dL/dd_aj) / d_aj the gradients are sums of c_aj (R_a - r_j), which are matrix products. Written in
    differentiable operations, so second derivatives work too.
    """

    @staticmethod
    def forward(ctx: Any, centres: Tensor, points: Tensor) -> Tensor:  # noqa: ANN401 - torch types its context so
        """Return the distances, shape (B, n, K)."""
        distances = _distances(centres, points)
        ctx.save_for_backward(centres, points, distances)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        """Return the gradients with respect to centres and points."""
        centres, points, distances = ctx.saved_tensors
        # Sums of differences are taken as differences of sums: near the origin, so that little cancels.
        origin = centres[:, :1].detach()
        centres, points = centres - origin, points - origin
        coefficients = gradient / distances
        centre_gradient = point_gradient = None
        if ctx.needs_input_grad[0]:
            centre_gradient = coefficients.sum(dim=2)[..., None] * centres - coefficients @ points
        if ctx.needs_input_grad[1]:
            point_gradient = coefficients.sum(dim=1)[..., None] * points - coefficients.transpose(1, 2) @ centres
        return centre_gradient, point_gradient


def pair_distances(centres: Tensor, points: Tensor) -> Tensor:
    """All distances between two sets of points of each frame.

    Args:
        centres: R, shape (B, n, 3), bohr.
        points: r, shape (B, K, 3), bohr. No point may coincide with a centre: the gradient is not defined there.

    Returns:
        |R_a - r_j|, shape (B, n, K), bohr, differentiable (also twice).
    """
    distances: Tensor = _PairDistances.apply(centres, points)  # type: ignore[no-untyped-call]
    return distances


class _ChargePotentials(torch.autograd.Function):
    """Potentials of charges at centres, with all sums over pairs in the backward pass as matrix products.

    With g_a = dL/dphi_a and h(d) = -f'(d) / d the gradients are

        dL/dq_j = sum_a g_a f(d_aj)
        dL/dr_j = q_j sum_a g_a h(d_aj) (R_a - r_j),    dL/dR_a = -g_a sum_j q_j h(d_aj) (R_a - r_j).

    Frames are taken a few at a time, so that the pair matrices stay in a processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        centres: Tensor,
        points: Tensor,
        charges: Tensor,
        blur_width: float,
    ) -> tuple[Tensor, Tensor]:
        """Return the potentials (B, n) and the smallest distance of each frame (B,)."""
        n_frames, n_pairs = len(centres), centres.shape[1] * points.shape[1]
        inverses = centres.new_empty((n_frames, centres.shape[1], points.shape[1]))
        potentials = centres.new_zeros(centres.shape[:2])
        smallest = centres.new_full((n_frames,), torch.inf)
        for part in _parts(n_frames, n_pairs, centres.device):
            distances = _distances(centres[part], points[part])
            torch.reciprocal(distances, out=inverses[part])
            smallest[part] = distances.amin(dim=(1, 2))
            kernel = inverses[part] if blur_width == 0.0 else torch.erf(distances / blur_width) * inverses[part]
            potentials[part] = (kernel @ charges[part, :, None]).squeeze(-1)
        ctx.save_for_backward(centres, points, charges, inverses)
        ctx.blur_width = blur_width
        ctx.mark_non_differentiable(smallest)
        return potentials, smallest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        gradient: Tensor,
        _: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients with respect to centres, points and charges."""
        centres, points, charges, inverses = ctx.saved_tensors
        gradients = torch.zeros_like(centres), torch.zeros_like(points), torch.zeros_like(charges)
        for part in _parts(len(centres), centres.shape[1] * points.shape[1], centres.device):
            # Sums of differences are taken as differences of sums: near the origin, so that little cancels.
            here, there = centres[part] - centres[part, :1], points[part] - centres[part, :1]
            kernel, slope = _kernel_and_slope(inverses[part], ctx.blur_width)
            given, held = gradient[part, :, None], charges[part, :, None]
            gradients[2][part] = (kernel.mT @ given).squeeze(-1)
            sums = slope.mT @ torch.cat([given, given * here], dim=2)
            gradients[1][part] = held * (sums[..., 1:] - sums[..., :1] * there)
            sums = slope @ torch.cat([held, held * there], dim=2)
            gradients[0][part] = given * (sums[..., 1:] - sums[..., :1] * here)
        return *gradients, None


def _kernel_and_slope(inverses: Tensor, blur_width: float) -> tuple[Tensor, Tensor]:
    """Return f and h = -f' / d from inverse distances, of the same shape."""
    if blur_width == 0.0:
        return inverses, inverses.square().mul_(inverses)
    scaled = 1.0 / (blur_width * inverses)
    kernel = torch.erf(scaled) * inverses
    bell = torch.exp(-scaled.square()) * (2.0 / (math.sqrt(math.pi) * blur_width))
    return kernel, (kernel - bell) * inverses.square()


def _distances(centres: Tensor, points: Tensor) -> Tensor:
    squares = (centres[:, :, None, 0] - points[:, None, :, 0]).square_()
    for axis in (1, 2):
        difference = centres[:, :, None, axis] - points[:, None, :, axis]
        squares.addcmul_(difference, difference)
    return squares.sqrt_()


def _parts(n_frames: int, n_pairs: int, device: torch.device) -> Iterator[slice]:
    """Slices of a batch whose pair matrices fit a processor's cache; on other devices the whole batch is one."""
    if n_pairs == 0:
        return
    step = n_frames if device.type != "cpu" else max(1, _PAIRS_AT_ONCE // n_pairs)
    for start in range(0, n_frames, step):
        yield slice(start, min(start + step, n_frames))


def charge_potentials(
    centres: Tensor, points: Tensor, charges: Tensor, blur_width: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Electrostatic potentials of point charges, or of charges with a Gaussian blur.

    phi_a = sum_j q_j / d_aj, or sum_j q_j erf(d_aj / width) / d_aj, which is the potential of the density
    exp(-(r / width)^2) of unit charge; d_aj = |R_a - r_j|.

    Args:
        centres: R, shape (B, n, 3), bohr.
        points: r, shape (B, K, 3), bohr.
        charges: q, shape (B, K), e.
        blur_width: Width of the blur, bohr; 0 for point charges.

    Returns:
        phi, shape (B, n), hartree/e, differentiable once in the three tensors; and the smallest distance of each frame,
        shape (B,), bohr, infinite if there are no points. Where it is zero, phi and its gradient are not defined.
    """
    potentials, smallest = _ChargePotentials.apply(centres, points, charges, blur_width)  # type: ignore[no-untyped-call]
    return potentials, smallest
