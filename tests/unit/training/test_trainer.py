"""Training on synthetic labels of a known network: formaldehyde among a few charges."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame, LabelSettings, Source, SystemTable
from deltaqmmm.errors import DatasetError, ModelError, NonFiniteError
from deltaqmmm.ml import COULOMB, Descriptor, RadialFunction, Shell, SiteTypes
from deltaqmmm.training import preparation
from deltaqmmm.training import trainer as trainer_module
from deltaqmmm.training.loss import GRADIENT_UNIT, squared_errors
from deltaqmmm.training.preparation import PreparedFrames, label_of, pad_frames, prepare
from deltaqmmm.training.settings import TrainingSettings
from deltaqmmm.training.trainer import Trainer, learning_rate
from deltaqmmm.units import KJ_PER_MOL
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    SITE_CHARGES,
    SITE_SYMBOLS,
    SITE_TYPES,
    bind,
    make_frames,
    make_model,
    small_functions,
)

FUNCTIONS = small_functions(
    qm_radial=(RadialFunction("g2", eta=0.4, shift=2.1), RadialFunction("g2", eta=0.4, shift=3.5)),
    angular_radial=(RadialFunction("g2", eta=0.1, shift=1.9),),
    angular_order=2,
    mm_radial=(RadialFunction("g1"), RadialFunction("g2", eta=0.05), RadialFunction("g3", kappa=0.8)),
    mm_near_radial=(RadialFunction("g2", eta=0.06), RadialFunction("g2", eta=0.12)),
    mm_type_by="none",
)
ONE_SHELL = replace(FUNCTIONS, mm_near_radial=(), mm_near_rank=1)
SETTINGS = TrainingSettings(
    members=2,
    epochs=4,
    batch_size=5,
    hidden=(6,),
    validation_fraction=0.15,
    energy_weight=1.0,
    mm_gradient_weight=30.0,
    mm_potential_weight=1.0,
    mm_gradient_cutoff=8.0,
    patience=50,
)
TABLE = SystemTable(FORMALDEHYDE, 0, np.arange(4), SITE_TYPES, SITE_SYMBOLS, SITE_CHARGES)
LABELS = LabelSettings({"kind": "cutoff"}, {"functional": "pbe0"}, {"model": "dftb3"})
BASELINE_ENERGY, REFERENCE_ENERGY = -7.0, -114.0


def label_from(model, case, shift):
    result = bind(model).evaluate(*case)
    return [
        EnergyLabel(float(energy) + shift, qm.numpy(), mm.numpy(), charge.numpy())
        for energy, qm, mm, charge in zip(
            result.energies[0], result.qm_gradients[0], result.mm_gradients[0], result.charge_gradients[0], strict=True
        )
    ]


@functools.cache
def make_dataset(n_frames=20):
    """Frames with 7, 5 and (one of them) no MM sites; labels of random networks."""
    network = make_model(ONE_SHELL, elements=("C", "H", "O"), n_members=1, hidden=(4,), seed=9)
    other = make_model(ONE_SHELL, elements=("C", "H", "O"), n_members=1, hidden=(4,), seed=10)
    for model in (network, other):
        for element in ("C", "H", "O"):
            # Labels without bounds: what is learned need not be as rough as that.
            model.network.get_buffer(f"reach_{element}").fill_(1e6)
    qm, mm, charges, sites = make_frames(n_frames, 7, seed=12, spread=0.15)
    frames = []
    for index in range(n_frames):
        count = 0 if index == 3 else 5 if index % 2 else 7
        case = qm[[index]], mm[[index], :count], charges[[index], :count], sites[[index], :count]
        (baseline,), (reference,) = (
            label_from(other, case, BASELINE_ENERGY),
            label_from(network, case, REFERENCE_ENERGY),
        )
        frames.append(
            LabelledFrame(
                identity=f"{index:032x}",
                source=Source("run.xyz", index),
                qm_positions=case[0][0].numpy(),
                mm_positions=case[1][0].numpy(),
                mm_charges=case[2][0].numpy(),
                mm_sites=case[3][0].numpy(),
                reference=reference,
                baseline=baseline,
                baseline_charges=np.zeros(4),
            )
        )
    return Dataset(TABLE, LABELS, tuple(frames))


def with_frame(dataset, place, change):
    """A dataset in which the reference label of one frame is another."""
    frames = list(dataset.frames)
    frames[place] = replace(frames[place], reference=change(frames[place].reference))
    return dataset.with_frames(frames, ())


def trained(settings=SETTINGS, dataset=None, functions=FUNCTIONS, **options):
    trainer = Trainer(dataset or make_dataset(), settings, functions, **options)
    return trainer, trainer.run()


def states_of(model):
    """The fitted weights of each member."""
    return [
        {n: t[member] for n, t in model.network.state_dict().items() if n.startswith(("weight", "bias"))}
        for member in range(model.n_members)
    ]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def errors_of(model, dataset, target, mm_gradient_cutoff=SETTINGS.mm_gradient_cutoff):
    """(C, F, 4): squared errors as the loss defines them, by way of `Correction.evaluate`."""
    correction = bind(model)
    rows = []
    for frame in dataset.frames:
        label = label_of(frame, target)
        result = correction.evaluate(*pad_frames([frame]))
        count = len(frame.mm_charges)
        energy = ((result.energies[:, 0] - label.energy) / KJ_PER_MOL) ** 2
        qm = (result.qm_gradients[:, 0] - torch.as_tensor(label.qm_gradients)) / GRADIENT_UNIT
        mm = (result.mm_gradients[:, 0, :count] - torch.as_tensor(label.mm_gradients)) / GRADIENT_UNIT
        distances = np.linalg.norm(frame.mm_positions[:, None] - frame.qm_positions[None], axis=-1)
        near = torch.as_tensor(distances.min(axis=1) < mm_gradient_cutoff) if count else torch.zeros(0) > 1
        n_near = max(int(near.sum()), 1)
        mm = (mm[:, near] ** 2).sum(dim=(1, 2)) / (3 * n_near)
        potentials = result.charge_gradients[:, 0, :count] - torch.as_tensor(label.mm_potentials)
        potential = (potentials[:, near] ** 2).sum(dim=1) / KJ_PER_MOL**2 / n_near
        rows.append(torch.stack([energy, (qm**2).mean(dim=(1, 2)), mm, potential], dim=-1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("mm_type_by", ["none", "element", "name"])
@pytest.mark.parametrize("target", ["delta", "direct"])
@pytest.mark.parametrize(
    ("base", "mm_gradient_cutoff"),
    # The last leaves some sites of the inner shell out.
    [
        (FUNCTIONS, SETTINGS.mm_gradient_cutoff),
        (ONE_SHELL, SETTINGS.mm_gradient_cutoff),
        (replace(FUNCTIONS, mm_radial=(COULOMB,)), SETTINGS.mm_gradient_cutoff),
        (FUNCTIONS, 4.0),
    ],
    ids=["both shells", "one shell", "potential and field", "few sites"],
)
def test_the_loss_sees_what_the_correction_gives(monkeypatch, target, mm_type_by, base, mm_gradient_cutoff):
    # In parts whose inner shells are of different widths.
    monkeypatch.setattr(preparation, "FRAMES_AT_ONCE", 2)
    dataset = make_dataset().with_frames(make_dataset().frames[:6], ())
    functions = replace(base, mm_type_by=mm_type_by, mm_weight="count" if target == "direct" else "charge")
    model = make_model(functions, elements=("C", "H", "O"), n_members=2)
    # Without energies of the elements: float32 targets are near zero, as in training.
    model = replace(model, offsets=torch.zeros(3).double())
    shift = (REFERENCE_ENERGY - BASELINE_ENERGY) if target == "delta" else REFERENCE_ENERGY
    types = SiteTypes.of(functions, model.info.mm_types, SITE_SYMBOLS, SITE_TYPES, SITE_CHARGES)
    descriptor = Descriptor(functions, model.info.elements, FORMALDEHYDE, types)
    frames = prepare(dataset, descriptor, target, mm_gradient_cutoff)
    assert len(frames) == 6
    assert {int(count) for count in frames.counted.sum(dim=1)} >= {0}
    assert frames.counted.sum(dim=1).max() < 7
    network = model.network.to(torch.float32)
    found = squared_errors(
        network, frames, descriptor.atoms, (frames.energies - shift).to(torch.float32), differentiable=False
    )
    offsets = torch.tensor([shift / 4] * 3).double()
    expected = errors_of(replace(model, offsets=offsets), dataset, target, mm_gradient_cutoff)
    torch.testing.assert_close(found.stacked(), expected, rtol=2e-3, atol=1e-5 * float(expected[..., :3].max()))
    if mm_gradient_cutoff == SETTINGS.mm_gradient_cutoff:
        assert expected[:, [0, 1, 2, 4, 5]].min() > 1e-6
    assert expected[:, 3, 2:].max() == 0.0


def in_double(value):
    """A tensor, or those of a shell, in double precision; whole numbers stay what they are."""
    if isinstance(value, Shell):
        return value.each(in_double)
    return value.double() if value.is_floating_point() else value


def test_the_loss_is_differentiable():
    frames = make_dataset().frames[:4]
    dataset = make_dataset().with_frames(frames, ())
    model = make_model(FUNCTIONS, elements=("C", "H", "O"), n_members=2)
    types = SiteTypes.of(FUNCTIONS, model.info.mm_types, SITE_SYMBOLS, SITE_TYPES, SITE_CHARGES)
    descriptor = Descriptor(FUNCTIONS, model.info.elements, FORMALDEHYDE, types)
    prepared = prepare(dataset, descriptor, "delta", SETTINGS.mm_gradient_cutoff)
    prepared = PreparedFrames(*(in_double(getattr(prepared, field.name)) for field in fields(prepared)))
    network = model.network
    parameter = network.get_parameter("weight_O_0")

    def loss(differentiable):
        errors = squared_errors(
            network, prepared, descriptor.atoms, 0.0 * prepared.energies, differentiable=differentiable
        )
        parts = (errors.energy, errors.qm_gradient, errors.mm_gradient, errors.mm_potential)
        return torch.stack([part.sum() for part in parts])

    found = [torch.autograd.grad(part, parameter, retain_graph=True)[0][1, 2, 3] for part in loss(True)]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[1, 2, 3] += sign * 1e-5
        values.append(loss(False).detach())
        with torch.no_grad():
            parameter[1, 2, 3] -= sign * 1e-5
    torch.testing.assert_close(torch.stack(found), (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-7)
    assert torch.stack(found).abs().min() > 0.0


def test_what_is_learnt_is_the_difference_or_the_reference():
    frame = make_dataset().frames[0]
    direct, delta = label_of(frame, "direct"), label_of(frame, "delta")
    assert direct is frame.reference
    assert delta.energy == frame.reference.energy - frame.baseline.energy
    for name in ("qm_gradients", "mm_gradients", "mm_potentials"):
        expected = getattr(frame.reference, name) - getattr(frame.baseline, name)
        np.testing.assert_array_equal(getattr(delta, name), expected)


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


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_frames(count):
    dataset = make_dataset()
    with pytest.raises(DatasetError, match=f"{count} frames.* 10"):
        Trainer(dataset.with_frames(dataset.frames[:count], ()), SETTINGS, FUNCTIONS)


@pytest.mark.parametrize(("members", "fraction"), [(2, 0.15), (4, 0.25), (4, 0.5), (3, 0.001), (2, 0.999)])
def test_each_member_holds_out_frames_of_its_own(members, fraction):
    held = trainer_module._held_out_frames(20, replace(SETTINGS, members=members, validation_fraction=fraction))
    size = min(max(1, round(20 * fraction)), 19)
    assert held.sum(dim=1).tolist() == [size] * members
    if members * size <= 20:
        assert held.sum(dim=0).max() == 1
    assert not torch.equal(held[0], held[1])


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


def test_the_learning_rate_rises_and_falls():
    settings = replace(SETTINGS, epochs=100, learning_rate=1.0)
    rates = [learning_rate(settings, epoch) for epoch in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert int(np.argmax(rates)) == 4
    assert all(left > right for left, right in itertools.pairwise(rates[4:]))
    assert rates[-1] == pytest.approx(0.01)
    assert math.isfinite(learning_rate(replace(settings, epochs=1), 0))


def test_whitened_features_have_no_mean_and_no_correlation():
    trainer = Trainer(make_dataset(), replace(SETTINGS, whitening=0.5), FUNCTIONS)
    network = trainer.model().network
    frames = trainer._frames
    features = trainer_module.combine([moments.double() for moments in frames.moments()])
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
