"""Gamma against high-precision arithmetic."""

import mpmath
import numpy as np
import pytest
import torch

from deltaqmmm.dftb.gamma import EQUAL_BELOW, SERIES_BELOW, gamma_function

mpmath.mp.dps = 60


def short_range(a, b, r):
    """S(r; a, b) of the module's docstring in 60 digits."""

    def half(x, y):
        d = x * x - y * y
        return mpmath.exp(-x * r) * (y**4 * x / (2 * d**2) - (y**6 - 3 * y**4 * x**2) / (d**3 * r))

    return half(a, b) + half(b, a)


def exact(u_a, u_b, r, zeta):
    """Gamma and its two Hubbard derivatives."""

    def gamma(x, y):
        damping = mpmath.exp(-(((x + y) / 2) ** zeta) * r**2) if zeta else 1
        return 1 / mpmath.mpf(r) - damping * short_range(mpmath.mpf("3.2") * x, mpmath.mpf("3.2") * y, mpmath.mpf(r))

    u_a, u_b = mpmath.mpf(u_a), mpmath.mpf(u_b)
    h = mpmath.mpf("1e-20")
    by_a = (gamma(u_a + h, u_b) - gamma(u_a - h, u_b)) / (2 * h)
    by_b = (gamma(u_a, u_b + h) - gamma(u_a, u_b - h)) / (2 * h)
    return [float(v) for v in (gamma(u_a, u_b), by_a, by_b)]


def computed(u_a, u_b, r, zeta):
    function = gamma_function(
        np.array([u_a, u_b]), np.array([[0, 1]]), np.array([zeta is not None]), zeta, torch.device("cpu")
    )
    return function(torch.tensor([[r]], dtype=torch.float64))[0, 0].numpy()


@pytest.mark.parametrize("r", [0.5, 1.8, 3.0, 9.0])
@pytest.mark.parametrize("zeta", [None, 4.0])
@pytest.mark.parametrize(
    "difference", [2e-5, 1e-3, 0.99 * SERIES_BELOW, 1.01 * SERIES_BELOW, 0.1, 0.4], ids=lambda d: f"{d:g}"
)
def test_gamma_and_its_derivatives_at_any_difference_of_hubbard_values(difference, zeta, r):
    u_a, u_b = 0.42 * (1 + difference), 0.42 * (1 - difference)
    np.testing.assert_allclose(computed(u_a, u_b, r, zeta), exact(u_a, u_b, r, zeta or 0), rtol=2e-9, atol=1e-13)
    np.testing.assert_allclose(computed(u_b, u_a, r, zeta)[[0, 2, 1]], computed(u_a, u_b, r, zeta), rtol=1e-12)


def test_equal_values_follow_the_convention_of_the_common_derivative():
    r, u, h = 2.5, 0.3647, 1e-5
    gamma, by_a, by_b = computed(u, u, r, None)
    common = (computed(u + h, u + h, r, None)[0] - computed(u - h, u - h, r, None)[0]) / (2 * h)
    assert by_a == pytest.approx(common, rel=1e-7)
    assert by_b == pytest.approx(common, rel=1e-7)
    assert gamma == pytest.approx(computed(u, u + 2 * EQUAL_BELOW, r, None)[0], rel=1e-4)


def test_long_range_is_coulomb():
    assert computed(0.42, 0.36, 60.0, None)[0] == pytest.approx(1 / 60.0, rel=1e-12)
