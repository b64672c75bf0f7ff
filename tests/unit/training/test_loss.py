"""The loss, and what is learned, on synthetic labels."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deltaqmmm.ml import COULOMB, Descriptor, Shell, SiteTypes
from deltaqmmm.training import preparation
from deltaqmmm.training.loss import squared_errors
from deltaqmmm.training.preparation import PreparedFrames, label_of, prepare
from tests.unit.ml.helpers import FORMALDEHYDE, SITE_CHARGES, SITE_SYMBOLS, SITE_TYPES, make_model
from tests.unit.training.helpers import (
    BASELINE_ENERGY,
    FUNCTIONS,
    ONE_SHELL,
    REFERENCE_ENERGY,
    SETTINGS,
    errors_of,
    make_dataset,
)


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
