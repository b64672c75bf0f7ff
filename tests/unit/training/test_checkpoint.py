"""Training that is interrupted and goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaqmmm.errors import ModelError
from deltaqmmm.training import trainer as trainer_module
from deltaqmmm.training.trainer import Trainer
from tests.unit.training.helpers import FUNCTIONS, LABELS, SETTINGS, make_dataset, same, states_of, trained, with_frame


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_is_the_unbroken_one(tmp_path, stop_after):
    settings = replace(SETTINGS, epochs=6)
    unbroken_trainer, unbroken = trained(settings)
    checkpoint = tmp_path / "checkpoint"
    trainer = Trainer(make_dataset(), settings, FUNCTIONS, checkpoint)

    def stop(report):
        if report.epoch == stop_after:
            trainer.save()
            raise StopError

    with pytest.raises(StopError):
        trainer.run(stop)
    resumed = Trainer(make_dataset(), settings, FUNCTIONS, checkpoint)
    assert resumed.epochs_done == stop_after
    found = resumed.run()
    for name, tensor in unbroken.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor), name
    assert torch.equal(found.offsets, unbroken.offsets)
    assert found.info == unbroken.info
    assert len(resumed.history) == 6
    for left, right in zip(resumed.history, unbroken_trainer.history, strict=True):
        np.testing.assert_array_equal(left.training, right.training)
        np.testing.assert_array_equal(left.validation, right.validation)
        assert (left.epoch, left.learning_rate) == (right.epoch, right.learning_rate)
        assert left.best_epochs == right.best_epochs
    # What is finished stays so.
    finished = Trainer(make_dataset(), settings, FUNCTIONS, checkpoint)
    assert finished.epochs_done == 6
    assert same(states_of(finished.run())[1], states_of(unbroken)[1])


def test_checkpoints_are_written_as_time_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", -1.0)
    checkpoint = tmp_path / "checkpoint"
    seen = []
    Trainer(make_dataset(), SETTINGS, FUNCTIONS, checkpoint).run(lambda report: seen.append(checkpoint.exists()))
    assert seen == [False, True, True, True]
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.fixture
def checkpoint(tmp_path):
    """Of a run of one epoch."""
    file = tmp_path / "checkpoint"
    trained(replace(SETTINGS, epochs=1), checkpoint=file)
    return file


@pytest.mark.parametrize(
    ("word", "settings", "functions", "dataset"),
    [
        ("settings seed", replace(SETTINGS, epochs=1, seed=5), FUNCTIONS, None),
        ("settings energy_weight", replace(SETTINGS, epochs=1, energy_weight=2.5), FUNCTIONS, None),
        ("functions mm_cutoff", SETTINGS, replace(FUNCTIONS, mm_cutoff=8.5), None),
        ("functions mm_near_cutoff", SETTINGS, replace(FUNCTIONS, mm_near_cutoff=6.0), None),
        ("frames", SETTINGS, FUNCTIONS, "fewer"),
        ("frames", SETTINGS, FUNCTIONS, "labelled again"),
        ("labels level of theory", SETTINGS, FUNCTIONS, "level"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(checkpoint, word, settings, functions, dataset):
    data = make_dataset()
    if dataset == "fewer":
        data = data.with_frames(data.frames[:-1], ())
    elif dataset == "labelled again":
        data = with_frame(data, 4, lambda label: replace(label, energy=label.energy + 1e-6))
    elif dataset == "level":
        data = replace(data, settings=replace(LABELS, level={"functional": "b3lyp"}))
    with pytest.raises(ModelError, match=rf"another run \(different: {word}\)\. Remove it"):
        Trainer(data, replace(settings, epochs=1), functions, checkpoint)


def test_a_damaged_checkpoint_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    for damaged in (b"", content[:8], content[: len(content) // 2], content[:-1], b"\x07" * 500):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            Trainer(make_dataset(), replace(SETTINGS, epochs=1), FUNCTIONS, checkpoint)
    checkpoint.write_bytes(content)
    assert Trainer(make_dataset(), replace(SETTINGS, epochs=1), FUNCTIONS, checkpoint).epochs_done == 1
