"""Means of correlated series with their statistical errors, and drifts."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaqmmm.errors import DeltaqmmmError, InputError
from deltaqmmm.results import FloatArray

_FEWEST_MEANS = 32
"""Fewer values do not tell their autocorrelation."""


class PymbarMissingError(DeltaqmmmError):
    """`pymbar`, which is optional, is not installed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over a time series.

    Attributes:
        mean: In the unit of the series.
        error: Standard error of the mean.
        n_effective: Number of independent values that the series is worth.
    """

    mean: float
    error: float
    n_effective: float


def mean_and_error(series: npt.ArrayLike) -> Estimate:
    """The mean of a stationary series, with its standard error from the autocorrelation.

    The error is sqrt(variance / n_effective), n_effective = n / g with the statistical inefficiency g = 1 + 2 tau of
    `pymbar.timeseries`: Chodera, Swope, Pitera, Seok and Dill, J. Chem. Theory Comput. 3, 26 (2007), DOI
    10.1021/ct0502864, equation 20. It sums the autocorrelation to where that first crosses zero, which in a fast
    oscillation is at once, however slowly the amplitude changes. So the same is done for means of 2, 4, 8, ...
    values, as long as there are 32 of them, and the largest error counts.

    It is too small where the series is not much longer than its slowest correlation.

    Args:
        series: Values at equal intervals, shape (n,), n at least 2.

    Raises:
        InputError: The series is not one-dimensional, has fewer than two values, or one that is not finite.
        PymbarMissingError: pymbar is not installed.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise InputError(f"A mean with its error needs a series of two values or more; got the shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError(f"A mean with its error needs finite values; {np.sum(~np.isfinite(values))} are not.")
    mean = float(values.mean())
    variance = float(values.var(ddof=1))
    if math.sqrt(variance) <= 1e-14 * abs(mean):
        return Estimate(mean, 0.0, float(len(values)))
    squared = _squared_error(values)
    while len(values) >= 2 * _FEWEST_MEANS:
        values = values[: len(values) // 2 * 2].reshape(-1, 2).mean(axis=1)
        squared = max(squared, _squared_error(values))
    return Estimate(mean, math.sqrt(squared), variance / squared)


def _squared_error(values: FloatArray) -> float:
    variance = float(values.var(ddof=1))
    return variance * _statistical_inefficiency(values) / len(values) if variance > 0.0 else 0.0


def drift(times: npt.ArrayLike, series: npt.ArrayLike) -> float:
    """The slope of the straight line through a series (least squares), in units of the series per unit of time.

    Args:
        times: Shape (n,), n at least 2.
        series: Shape (n,).
    """
    x, y = np.asarray(times, dtype=np.float64), np.asarray(series, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or np.ptp(x) == 0.0:
        raise InputError(f"A drift needs two times or more with a value each; got the shapes {x.shape} and {y.shape}.")
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def running_mean(series: npt.ArrayLike) -> FloatArray:
    """The mean of all values up to each one, shape (n,)."""
    values = np.asarray(series, dtype=np.float64)
    return np.cumsum(values) / np.arange(1, len(values) + 1)


def _statistical_inefficiency(values: FloatArray) -> float:
    # pymbar tells at its import what it could do with other packages.
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from pymbar.timeseries import statistical_inefficiency  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise PymbarMissingError(
            "Statistical errors need pymbar, which is not installed: pip install '.[analysis]', or pip install pymbar."
        ) from None
    finally:
        logger.setLevel(level)
    return float(statistical_inefficiency(values))
