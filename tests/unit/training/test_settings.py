"""Settings that no training can use."""

import math

import pytest

from deltaqmmm.errors import ConfigError
from deltaqmmm.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"target": "gamma"}, "target"),
        ({"members": 0}, "members"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"hidden": ()}, "hidden"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"validation_fraction": 0.0}, "validation_fraction"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"energy_weight": -1.0}, "weights"),
        ({f"{name}_weight": 0.0 for name in ("energy", "qm_gradient", "mm_gradient", "mm_potential")}, "weights"),
        ({"mm_gradient_weight": math.nan}, "weights"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"weight_decay": -1e-3}, "weight_decay"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"weight_decay": 100.0}, "weight_decay"),
        ({"smallest_variance": 0.0}, "smallest_variance"),
        ({"smallest_variance": 1.0}, "smallest_variance"),
        ({"smallest_variance": math.nan}, "smallest_variance"),
        ({"whitening": -0.1}, "whitening"),
        ({"whitening": 0.6}, "whitening"),
        ({"whitening": math.nan}, "whitening"),
        ({"averaging": -0.1}, "averaging"),
        ({"averaging": 1.0}, "averaging"),
        ({"averaging": math.nan}, "averaging"),
    ],
)
def test_bad_settings_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        TrainingSettings(**changes)
