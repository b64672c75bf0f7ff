"""Training on synthetic labels of a known network: formaldehyde among a few charges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaqmmm.errors import DatasetError, NonFiniteError
from deltaqmmm.training.preparation import label_of
from deltaqmmm.training.schedule import learning_rate
from deltaqmmm.training.trainer import Trainer
from tests.unit.training.helpers import (
    FUNCTIONS,
    LABELS,
    SETTINGS,
    errors_of,
    make_dataset,
    same,
    states_of,
    trained,
    with_frame,
)


@pytest.mark.parametrize("target", ["delta", "direct"])
def test_training_lowers_the_error(target):
    dataset = make_dataset(40)
    settings = replace(SETTINGS, epochs=100, hidden=(16, 16), target=target, learning_rate=2e-2)
    trainer = Trainer(dataset, settings, FUNCTIONS)
    before = errors_of(trainer.model(), dataset, target).mean(dim=1)
    model = trainer.run()
    after = errors_of(model, dataset, target).mean(dim=1)
    assert (after[:, :2] < 0.1 * before[:, :2]).all(), (before, after)
    assert (after[:, 2] < 0.5 * before[:, 2]).all(), (before, after)
    assert model.info.target == target
    assert [report.epoch for report in trainer.history] == list(range(1, 101))
    assert trainer.history[-1].training.shape == trainer.history[-1].validation.shape == (2, 3)


def test_weights_decay_by_the_learning_rate():
    """In three epochs little is learned: what becomes of the first layer is the decay."""
    settings = replace(SETTINGS, epochs=3, learning_rate=1e-2, averaging=0.0, patience=50)
    steps = math.ceil(len(make_dataset().frames) / settings.batch_size)
    rates = sum(steps * learning_rate(settings, epoch) for epoch in range(settings.epochs))
    sizes = {}
    for decay in (0.0, 20.0):
        trainer = Trainer(make_dataset(), replace(settings, weight_decay=decay), FUNCTIONS)
        trainer.run()
        sizes[decay] = {
            name: float(parameter.detach().norm()) for name, parameter in trainer._network.named_parameters()
        }
    shrunk = {name: sizes[20.0][name] / size for name, size in sizes[0.0].items()}
    inner = [ratio for name, ratio in shrunk.items() if name.startswith("weight") and name.endswith("_0")]
    expected = math.exp(-20.0 * rates)
    assert max(abs(ratio / expected - 1.0) for ratio in inner) < 0.02, (inner, expected)


def test_validation_errors_are_those_of_the_averaged_networks_on_held_out_frames():
    # In the first epochs the last state is the best one, and the model holds it.
    trainer, model = trained(replace(SETTINGS, epochs=2, patience=50))
    expected = errors_of(model, make_dataset(), "delta")
    for member in range(2):
        best = trainer.history[-1].best_epochs[member]
        mean = expected[member, trainer.held_out(member), :3].mean(dim=0).sqrt()
        found = torch.as_tensor(trainer.history[best - 1].validation[member])
        torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-3)


def test_the_header_says_what_the_model_is():
    trainer, model = trained(provenance={"who": "a test"})
    info = model.info
    assert (info.target, info.elements, info.mm_types, info.n_members) == ("delta", ("C", "H", "O"), ("*",), 2)
    assert (info.embedding, info.level, info.baseline) == (LABELS.embedding, LABELS.level, LABELS.baseline)
    assert info.n_parameters == sum(p[0].numel() for p in model.network.parameters())
    assert info.provenance["who"] == "a test"
    assert (info.provenance["frames"], info.provenance["epochs"]) == (20, 4)
    assert info.provenance["training"] == SETTINGS.to_json()
    assert trainer.epochs_done == 4


def test_training_is_deterministic_and_seeds_and_members_differ():
    (first_trainer, first), (_, again) = trained(), trained()
    _, other = trained(replace(SETTINGS, seed=2))
    one, two = states_of(first)
    assert same(one, states_of(again)[0])
    assert same(two, states_of(again)[1])
    for left, right in ((one, two), (one, states_of(other)[0])):
        assert not any(torch.equal(left[name], right[name]) for name in left)
    assert first_trainer.held_out(0) != Trainer(make_dataset(), replace(SETTINGS, seed=2), FUNCTIONS).held_out(0)


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_frames(count):
    dataset = make_dataset()
    with pytest.raises(DatasetError, match=f"{count} frames.* 10"):
        Trainer(dataset.with_frames(dataset.frames[:count], ()), SETTINGS, FUNCTIONS)


def test_held_out_frames_are_never_learnt_from():
    trainer, model = trained()
    first, second, _ = (*trainer.held_out(0), None)[:3]
    assert not set(trainer.held_out(0)) & set(trainer.held_out(1))
    dataset = make_dataset()

    def push(label):
        return replace(label, qm_gradients=label.qm_gradients + 0.05, mm_gradients=label.mm_gradients - 0.05)

    changed_trainer, changed = trained(dataset=with_frame(dataset, first, push))
    # Weights of the last epoch: which epoch is best may change, as validation is there for.
    before, after = (t._network.state_dict() for t in (trainer, changed_trainer))
    for name in before:
        if name.startswith(("weight", "bias")):
            assert torch.equal(before[name][0], after[name][0]), name
    assert not same(states_of(model)[1], states_of(changed)[1])
    # Two energies change places, so that their mean and variance, which all members share, stay.
    energies = [label_of(dataset.frames[place], "delta").energy for place in (first, second)]
    swapped = dataset
    for place, energy in ((first, energies[1]), (second, energies[0])):
        baseline = dataset.frames[place].baseline.energy
        swapped = with_frame(swapped, place, lambda label, e=energy, b=baseline: replace(label, energy=e + b))
    swapped_trainer, _ = trained(dataset=swapped)
    after = swapped_trainer._network.state_dict()
    changes = [
        max(float((before[n][m] - after[n][m]).abs().max()) for n in before if n.startswith(("weight", "bias")))
        for m in range(2)
    ]
    assert changes[0] < 1e-4
    assert changes[1] > 10 * max(changes[0], 1e-5)


def test_training_stops_when_no_member_gets_better(monkeypatch):
    losses = iter([[5.0, 5.0], [4.0, 5.0], [4.0, 4.5], [4.0, 4.5], [4.1, 9.0], [3.0, 3.0], [1.0, 1.0]])
    monkeypatch.setattr(
        Trainer, "_validate", lambda self: (np.zeros((2, 3)), torch.tensor(next(losses), dtype=torch.float64))
    )
    trainer, model = trained(replace(SETTINGS, epochs=50, patience=2))
    assert trainer.epochs_done == 5
    assert trainer.history[-1].best_epochs == (2, 3)
    assert model.info.provenance["best_epochs"] == [2, 3]


def test_the_model_is_each_member_at_its_best(monkeypatch):
    losses = [[5.0, 5.0], [4.0, 6.0], [4.5, 3.0], [9.0, 9.0]]
    snapshots = []

    def validate(self):
        snapshots.append({n: t.clone().double() for n, t in self._averaged.state_dict().items()})
        return np.zeros((2, 3)), torch.tensor(losses[len(snapshots) - 1], dtype=torch.float64)

    monkeypatch.setattr(Trainer, "_validate", validate)
    _, model = trained()
    for member, best in ((0, 1), (1, 2)):
        for name, tensor in states_of(model)[member].items():
            assert torch.equal(tensor, snapshots[best][name][member]), name
            assert not torch.equal(tensor, snapshots[3][name][member]), name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_labels_that_are_not_finite_stop_the_training(value):
    def spoil(label):
        gradients = label.qm_gradients.copy()
        gradients[1, 1] = value
        return replace(label, qm_gradients=gradients)

    with pytest.raises(NonFiniteError, match=r"epoch 1 .*learning_rate"):
        trained(dataset=with_frame(make_dataset(), 4, spoil))


def test_a_learning_rate_that_is_far_too_high_is_an_error_or_finite():
    with pytest.raises(NonFiniteError, match="lower learning_rate"):
        trained(replace(SETTINGS, learning_rate=1e30, weight_decay=0.0))


def test_the_mean_energy_is_taken_off():
    trainer = Trainer(make_dataset(), SETTINGS, FUNCTIONS)
    counts = torch.tensor([1.0, 2.0, 1.0]).double()
    labels = [label_of(frame, "delta") for frame in make_dataset().frames]
    energies = torch.tensor([label.energy for label in labels], dtype=torch.float64)
    torch.testing.assert_close((trainer._offsets * counts).sum(), energies.mean(), rtol=1e-12, atol=0.0)
    assert abs(float(trainer._targets.double().mean())) < 1e-6
    torch.testing.assert_close(
        trainer._targets.double() + (trainer._offsets * counts).sum(), energies, rtol=0.0, atol=1e-8
    )
