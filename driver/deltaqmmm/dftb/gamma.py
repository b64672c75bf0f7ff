r"""The charge-charge function gamma of SCC-DFTB and its derivative with respect to the Hubbard values.

Formulas: Elstner et al., Phys. Rev. B 58, 7260 (1998), doi 10.1103/PhysRevB.58.7260 (gamma); Gaus, Cui, Elstner, J.
Chem. Theory Comput. 7, 931 (2011), doi 10.1021/ct100684s (third order, damped gamma of pairs with hydrogen).

    gamma_ab(r)   = 1/r - h(r) S(r; tau_a, tau_b),          tau = 16/5 U
    h(r)          = exp(-((U_a + U_b)/2)^zeta r^2)          for a pair with hydrogen in DFTB3, else 1
    Gamma_ab      = (d gamma_ab / d U_a) (d U_a / d q_a)

S is the short-range part of the repulsion of two exponential charge clouds. For well separated exponents it is

    S = exp(-a r) (k(a,b) + m(a,b)/r) + exp(-b r) (k(b,a) + m(b,a)/r)
    k(a,b) = b^4 a / (2 (a^2 - b^2)^2),   m(a,b) = -(b^6 - 3 b^4 a^2) / (a^2 - b^2)^3

which loses all digits where a and b are close. There S is expanded in the half difference delta about the mean tau,

    S = exp(-tau r) / r  sum_k (delta/tau)^(2k) P_k(tau r)

with the rational polynomials P_k below. In either form S is a sum of exponentials times powers of r from r^-1 up, and
so are its derivatives with respect to a and b: a table of coefficients for each atom pair, made once.

One convention is not a matter of mathematics. For two atoms of equal Hubbard value DFTB+ takes for dS/dU_a the
derivative with respect to the common value, twice the partial derivative. It is followed here: only so are the
energies of DFTB+ reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deltaqmmm.results import FloatArray, IntArray

EXPONENT_PER_HUBBARD = 16.0 / 5.0
SERIES_BELOW = 0.02
"""Relative half difference of two exponents below which the series is used; both forms have nine digits there."""

# P_k(x) of the docstring, lowest power first: the Taylor expansion of S in (delta/tau)^2.
_SERIES = (
    (1.0, 11 / 16, 3 / 16, 1 / 48),
    (0.0, 3 / 8, 3 / 8, 5 / 32, 1 / 32, 1 / 480),
    (0.0, -1 / 16, -1 / 16, 0.0, 1 / 48, 19 / 1920, 1 / 640, 1 / 13440),
    (0.0, 0.0, 0.0, -1 / 96, -1 / 96, -1 / 320, 1 / 2880, 23 / 80640, 1 / 26880, 1 / 725760),
)
EQUAL_BELOW = 0.3125e-5
"""Difference of two Hubbard values in hartree below which they count as equal, as in DFTB+."""

_N_POWERS = 11
"""Powers r^-1 ... r^9 that any of the coefficient tables can hold."""


def _powers(**coefficients: float) -> FloatArray:
    """A coefficient row from named powers: m1, p0, p1 are r^-1, r^0, r^1."""
    row = np.zeros(_N_POWERS)
    for name, value in coefficients.items():
        row[int(name[1:]) * (-1 if name[0] == "m" else 1) + 1] = value
    return row


def _separated(a: float, b: float) -> tuple[FloatArray, FloatArray]:
    """Coefficients of S for well separated exponents a and b.

    Returns:
        Shape (2, 3, powers): [exp(-a r) or exp(-b r), (S, dS/da, dS/db), power]; and the two exponents, shape (2,).
    """

    def k(x: float, y: float) -> tuple[float, float, float]:
        d = x * x - y * y
        value = y**4 * x / (2 * d**2)
        by_x = y**4 / (2 * d**2) - 2 * y**4 * x**2 / d**3
        by_y = 2 * y**3 * x / d**2 + 2 * y**5 * x / d**3
        return value, by_x, by_y

    def m(x: float, y: float) -> tuple[float, float, float]:
        d = x * x - y * y
        numerator = -(y**6 - 3 * y**4 * x**2)
        by_x = 6 * y**4 * x / d**3 - 6 * x * numerator / d**4
        by_y = -(6 * y**5 - 12 * y**3 * x**2) / d**3 + 6 * y * numerator / d**4
        return numerator / d**3, by_x, by_y

    rows = []
    for x, y in ((a, b), (b, a)):
        k0, k_x, k_y = k(x, y)
        m0, m_x, m_y = m(x, y)
        value = _powers(p0=k0, m1=m0)
        by_x = _powers(p0=k_x - m0, m1=m_x, p1=-k0)
        by_y = _powers(p0=k_y, m1=m_y)
        rows.append([value, by_x, by_y])
    # In the second row the first argument is b.
    rows[1][1], rows[1][2] = rows[1][2], rows[1][1]
    return np.array(rows), np.array([a, b])


def _close(a: float, b: float) -> tuple[FloatArray, FloatArray]:
    """As `_separated`, from the series in the half difference; everything stands with the one exponent (a + b)/2."""
    tau, delta = 0.5 * (a + b), 0.5 * (a - b)
    value, by_tau, by_delta = np.zeros(_N_POWERS), np.zeros(_N_POWERS), np.zeros(_N_POWERS)
    for k, polynomial in enumerate(_SERIES):
        for n, p in enumerate(polynomial):
            # Term p delta^2k tau^(n - 2k) r^(n - 1) exp(-tau r); index n of a row is the power n - 1.
            scale = p * tau ** (n - 2 * k)
            value[n] += scale * delta ** (2 * k)
            by_tau[n] += scale * delta ** (2 * k) * (n - 2 * k) / tau
            by_tau[n + 1] -= scale * delta ** (2 * k)
            if k > 0:
                by_delta[n] += 2 * k * scale * delta ** (2 * k - 1)
    rows = np.zeros((2, 3, _N_POWERS))
    rows[0] = value, 0.5 * (by_tau + by_delta), 0.5 * (by_tau - by_delta)
    return rows, np.array([tau, tau])


def short_range_coefficients(hubbard_a: float, hubbard_b: float) -> tuple[FloatArray, FloatArray]:
    """Coefficients of S and of its derivatives with respect to the two Hubbard values.

    Args:
        hubbard_a: U_a in hartree.
        hubbard_b: U_b in hartree.

    Returns:
        Shape (2, 3, 11): [exponential, (S, dS/dU_a, dS/dU_b), power r^-1 ... r^9]; and the two exponents, shape (2,),
        1/bohr. For equal Hubbard values the derivatives are those with respect to the common value (see above).
    """
    a, b = EXPONENT_PER_HUBBARD * hubbard_a, EXPONENT_PER_HUBBARD * hubbard_b
    rows, exponents = _close(a, b) if abs(a - b) < SERIES_BELOW * (a + b) else _separated(a, b)
    rows[:, 1:] *= EXPONENT_PER_HUBBARD
    if abs(hubbard_a - hubbard_b) < EQUAL_BELOW:
        rows[:, 1:] *= 2.0
    return rows, exponents


@dataclass(frozen=True)
class GammaFunction:
    """gamma and its Hubbard derivatives for a fixed list of P pairs (a, b) of different atoms.

    Attributes:
        coefficients: Shape (2, P, 3, n_powers); powers start at r^-1.
        exponents: Shape (2, P), 1/bohr.
        damping: ((U_a + U_b)/2)^zeta for damped pairs, 0 for others, shape (P,), 1/bohr^2.
        damping_slope: d(damping)/dU_a = d(damping)/dU_b, shape (P,).
    """

    coefficients: Tensor
    exponents: Tensor
    damping: Tensor
    damping_slope: Tensor

    def __call__(self, distances: Tensor) -> Tensor:
        """gamma, d gamma/dU_a and d gamma/dU_b.

        Args:
            distances: Shape (B, P), bohr.

        Returns:
            Shape (B, P, 3), in hartree, hartree/hartree, hartree/hartree (per e^2).
        """
        r = distances.unsqueeze(-1)
        short = torch.zeros_like(r)
        for coefficients, exponents in zip(self.coefficients, self.exponents, strict=True):
            polynomial = coefficients[..., -1]
            for k in range(coefficients.shape[-1] - 2, -1, -1):
                polynomial = torch.addcmul(coefficients[..., k], polynomial, r)
            short = short + torch.exp(-exponents * distances).unsqueeze(-1) * polynomial / r
        squared = r * r
        damped = torch.exp(-self.damping.unsqueeze(-1) * squared) * short
        # The damping function itself depends on both Hubbard values alike.
        by_damping = self.damping_slope.unsqueeze(-1) * squared * damped[..., :1]
        return torch.cat([1.0 / r - damped[..., :1], by_damping - damped[..., 1:]], dim=-1)


def gamma_function(
    hubbard: FloatArray,
    pairs: IntArray,
    damped: npt.NDArray[np.bool_],
    damping_exponent: float | None,
    device: torch.device,
) -> GammaFunction:
    """Prepare gamma for the pairs of a molecule.

    Args:
        hubbard: Hubbard value of every atom, shape (n,), hartree.
        pairs: Atom pairs, shape (P, 2).
        damped: Whether a pair is damped (one of its atoms is hydrogen), shape (P,).
        damping_exponent: zeta, or None for no damping at all.
        device: Where the evaluation happens.
    """
    cache: dict[tuple[float, float], tuple[FloatArray, FloatArray]] = {}
    rows, exponents = [], []
    for i, j in pairs:
        key = (float(hubbard[i]), float(hubbard[j]))
        if key not in cache:
            cache[key] = short_range_coefficients(*key)
        rows.append(cache[key][0])
        exponents.append(cache[key][1])
    table = np.array(rows).reshape(-1, 2, 3, _N_POWERS).transpose(1, 0, 2, 3)
    # Powers that no pair of this molecule needs are left out.
    used = np.flatnonzero(np.abs(table).max(axis=(0, 1, 2), initial=0.0) > 0.0)
    table = table[..., : (used.max() + 1 if len(used) else 1)]
    mean = 0.5 * (hubbard[pairs[:, 0]] + hubbard[pairs[:, 1]])
    zeta = damping_exponent if damping_exponent is not None else 0.0
    active = damped.astype(float) * (damping_exponent is not None)

    def tensor(array: FloatArray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float64, device=device)

    return GammaFunction(
        coefficients=tensor(table),
        exponents=tensor(np.array(exponents).reshape(-1, 2).T),
        damping=tensor(active * mean**zeta),
        damping_slope=tensor(active * 0.5 * zeta * mean ** (zeta - 1.0)),
    )
