"""Networks before they are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deltaqmmm.training.inputs import features_of
from deltaqmmm.training.trainer import Trainer
from deltaqmmm.units import KJ_PER_MOL
from tests.unit.training.helpers import FUNCTIONS, SETTINGS, make_dataset


def test_whitened_features_have_no_mean_and_no_correlation():
    trainer = Trainer(make_dataset(), replace(SETTINGS, whitening=0.5), FUNCTIONS)
    network = trainer.model().network
    frames = trainer._frames
    features = features_of(frames)
    for element, atoms in zip(trainer.elements, trainer._atoms, strict=True):
        own = features[:, atoms].flatten(0, 1)
        inputs = (own - network.get_buffer(f"mean_{element}")) @ network.get_buffer(f"transform_{element}")
        covariance = inputs.T @ inputs / len(inputs)
        reach = network.get_buffer(f"reach_{element}").double()
        torch.testing.assert_close(reach, 6.0 * covariance.diagonal().sqrt(), rtol=1e-3, atol=0.0)
        assert inputs.shape[1] > 3
        torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(inputs.shape[1]).double(), rtol=0.0, atol=1e-3)
        scaled = covariance / covariance.diagonal().mean()
        torch.testing.assert_close(scaled, torch.eye(len(scaled)).double(), rtol=0.0, atol=1e-2)


def test_energies_are_in_units_of_their_deviation():
    trainer = Trainer(make_dataset(), SETTINGS, FUNCTIONS)
    deviation = float(trainer._targets.std())
    assert deviation > KJ_PER_MOL
    assert float(trainer.model().network.get_buffer("scale")) == pytest.approx(deviation, rel=1e-6)
