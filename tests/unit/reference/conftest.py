from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def water():
    """A water molecule among seven charges, one of them within its density."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(7, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    distances = np.array([3.2, 4.0, 4.5, 5.0, 6.0, 9.0, 20.0])
    return SimpleNamespace(
        symbols=("O", "H", "H"),
        qm_positions=np.array([[0.0, 0.1, 0.22], [0.1, 1.43, -0.9], [-0.1, -1.5, -0.8]]),
        mm_positions=directions * distances[:, None],
        mm_charges=np.array([0.4, -0.8, 0.4, 0.7, -0.3, 1.0, -1.0]),
    )
