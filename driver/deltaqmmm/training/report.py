"""What is known of a training after each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltaqmmm.results import FloatArray


@dataclass(frozen=True, eq=False)
class EpochReport:
    """How far training is.

    Attributes:
        epoch: Epochs done.
        epochs: Of how many at most.
        learning_rate: In this epoch.
        training: Root-mean-square errors of each member over its training frames during the epoch, shape (C, 3):
            energy in kJ/mol, QM and MM gradients in kJ/mol/angstrom.
        validation: The same over its validation frames after the epoch, with the averaged weights.
        best_epochs: Epoch of the best validation loss of each member, shape (C,).
        seconds: Wall time of the epoch.
    """

    epoch: int
    epochs: int
    learning_rate: float
    training: FloatArray
    validation: FloatArray
    best_epochs: tuple[int, ...]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**vars(self), "training": self.training.tolist(), "validation": self.validation.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochReport:
        """The inverse of `to_json`."""
        arrays = {name: np.array(values[name], dtype=np.float64) for name in ("training", "validation")}
        return cls(**{**values, **arrays, "best_epochs": tuple(values["best_epochs"])})
