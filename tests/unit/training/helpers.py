"""Synthetic labels of a known network: formaldehyde among a few charges."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame, LabelSettings, Source, SystemTable
from deltaqmmm.ml import RadialFunction
from deltaqmmm.training.loss import GRADIENT_UNIT
from deltaqmmm.training.preparation import label_of, pad_frames
from deltaqmmm.training.settings import TrainingSettings
from deltaqmmm.training.trainer import Trainer
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
