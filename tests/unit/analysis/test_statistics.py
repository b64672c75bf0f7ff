"""Means, errors and drifts of series whose own are known."""

import builtins

import numpy as np
import pytest

from deltaqmmm.analysis.statistics import PymbarMissingError, drift, mean_and_error, running_mean
from deltaqmmm.errors import InputError


def correlated(n, tau, rng):
    """A series with the autocorrelation exp(-t / tau), mean 3 and variance 1."""
    keep = np.exp(-1.0 / tau)
    noise = rng.normal(size=n) * np.sqrt(1.0 - keep**2)
    values = [rng.normal()]
    for x in noise[1:]:
        values.append(keep * values[-1] + x)
    return 3.0 + np.array(values)


def test_the_error_grows_with_the_correlation():
    pytest.importorskip("pymbar")
    rng = np.random.default_rng(1)
    tau, n = 10.0, 20000
    estimate = mean_and_error(correlated(n, tau, rng))
    # g = (1 + a) / (1 - a) with a = exp(-1 / tau).
    exact = n * np.tanh(0.5 / tau)
    assert estimate.n_effective == pytest.approx(exact, rel=0.4)
    assert estimate.error == pytest.approx(1.0 / np.sqrt(exact), rel=0.25)
    assert abs(estimate.mean - 3.0) < 4.0 / np.sqrt(exact)


def test_errors_are_those_of_repeated_runs():
    pytest.importorskip("pymbar")
    rng = np.random.default_rng(2)
    runs = [mean_and_error(correlated(2000, 5.0, rng)) for _ in range(60)]
    scatter = np.std([run.mean for run in runs], ddof=1)
    assert np.mean([run.error for run in runs]) == pytest.approx(scatter, rel=0.3)


def test_a_fast_oscillation_does_not_hide_a_slow_change():
    pytest.importorskip("pymbar")
    rng = np.random.default_rng(3)
    slow = correlated(20000, 200.0, rng) - 3.0
    series = 5.0 + 3.0 * np.cos(1.4 * np.arange(20000)) + slow
    assert mean_and_error(series).error == pytest.approx(np.sqrt(2.0 * 200.0 / 20000), rel=0.4)


def test_what_never_changes_has_no_error():
    assert mean_and_error([300.0, 300.0, 300.0]) == mean_and_error(np.full(3, 300.0))
    assert mean_and_error([300.0, 300.0]).error == 0.0


@pytest.mark.parametrize("series", [[1.0], [[1.0, 2.0]], [1.0, np.nan, 2.0]])
def test_what_has_no_mean_is_refused(series):
    with pytest.raises(InputError):
        mean_and_error(series)


def test_missing_pymbar_is_said_with_its_remedy(monkeypatch):
    imported = builtins.__import__

    def without(name, *others, **more):
        if name.startswith("pymbar"):
            raise ImportError(name)
        return imported(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PymbarMissingError, match=r"pip install '\.\[analysis\]'"):
        mean_and_error([1.0, 2.0, 4.0])


def test_drift_is_the_slope():
    times = np.linspace(5.0, 9.0, 41)
    assert drift(times, 2.0 - 0.25 * times) == pytest.approx(-0.25)
    with pytest.raises(InputError):
        drift([1.0], [2.0])
    with pytest.raises(InputError):
        drift([1.0, 1.0], [2.0, 3.0])


def test_running_mean():
    np.testing.assert_allclose(running_mean([1.0, 3.0, 8.0]), [1.0, 2.0, 4.0])
