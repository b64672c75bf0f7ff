"""Extras as JSON that i-PI accepts and can write."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deltaqmmm.errors import NonFiniteError
from deltaqmmm.ipi.extras import encode_frame_extras
from deltaqmmm.results import Evaluation


def _evaluation(terms=None, extras=None, n_frames=2):
    return Evaluation(np.zeros(n_frames), np.zeros((n_frames, 1, 3)), None, terms or {}, extras or {})


def test_one_object_per_frame():
    evaluation = _evaluation(
        {"mm": np.array([0.1, -1.0 / 3.0]), "dftb": np.array([1e-300, -4.5e10])},
        {
            "qm_charges": np.array([[0.25, -0.25], [1.0, -1.0]]),
            "qm_dipole": np.arange(6.0).reshape(2, 3),
            "scc_iterations": np.array([7, 12]),
            "per_state": np.arange(8.0, dtype=np.float32).reshape(2, 2, 2),
        },
    )
    first, second = (json.loads(text) for text in encode_frame_extras(evaluation, 2))
    assert list(first) == list(second)
    assert first["energy_mm"] == 0.1
    assert second["energy_mm"] == -1.0 / 3.0, "numbers must survive to the last bit"
    assert second["energy_dftb"] == -4.5e10
    assert first["qm_charges"] == [0.25, -0.25]
    assert second["qm_dipole"] == [3.0, 4.0, 5.0]
    assert (first["scc_iterations"], second["scc_iterations"]) == (7, 12)
    assert isinstance(first["scc_iterations"], int)
    assert second["per_state"] == [[4.0, 5.0], [6.0, 7.0]]


def test_nothing_to_say():
    assert encode_frame_extras(_evaluation(), 2) == ["{}", "{}"]


@pytest.mark.parametrize("key", ["raw", "", "a,b", "qm charges", "1st", "bead(0)", "é"])
def test_keys_that_ipi_cannot_use(key):
    with pytest.raises(ValueError, match="key of i-PI's extras"):
        encode_frame_extras(_evaluation(extras={key: np.zeros(2)}), 2)


def test_a_key_used_twice():
    with pytest.raises(ValueError, match="energy_mm"):
        encode_frame_extras(_evaluation({"mm": np.zeros(2)}, {"energy_mm": np.zeros(2)}), 2)


@pytest.mark.parametrize("array", [np.zeros(3), np.float64(1.0), np.zeros((1, 2))])
def test_wrong_number_of_frames(array):
    with pytest.raises(ValueError, match="first axis must be the 2 frames"):
        encode_frame_extras(_evaluation(extras={"x": array}), 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite(value):
    with pytest.raises(NonFiniteError, match="'qm_charges' of frame 1"):
        encode_frame_extras(_evaluation(extras={"qm_charges": np.array([[0.0], [value]])}), 2)
    with pytest.raises(NonFiniteError, match="'energy_mm' of frame 0"):
        encode_frame_extras(_evaluation({"mm": np.array([value, 0.0])}), 2)
