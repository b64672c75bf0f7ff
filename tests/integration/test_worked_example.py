"""The committees that the repository ships are as good as the example says, and know where they are not."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.committee import force_spreads
from deltaqmmm.dataset import read_dataset
from deltaqmmm.ml import load_model
from deltaqmmm.training.judging import judge
from deltaqmmm.training.predictions import pad_frames
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

EXAMPLE = Path(__file__).parents[2] / "examples" / "uracil_water"


@pytest.fixture(scope="module")
def test_set():
    return read_dataset(EXAMPLE / "test.h5")


@pytest.fixture(scope="module")
def judged(test_set):
    return {name: judge(load_model(EXAMPLE / f"{name}.safetensors"), test_set, name, "DFTB3-D3")
            for name in ("delta", "direct")}  # fmt: skip


def test_the_errors_that_the_example_tells(judged):
    baseline, delta = judged["delta"].rows
    direct = judged["direct"].rows[1]
    assert delta.energy.mae <= 1.0
    assert delta.qm_gradients.mae <= 4.2
    assert delta.near_mm_gradients.mae <= 0.35 * baseline.near_mm_gradients.mae
    assert delta.mm_gradients.mae < 0.5 * baseline.mm_gradients.mae
    assert direct.energy.mae >= 3.0 * delta.energy.mae


def test_the_spread_goes_with_the_error(judged):
    spreads = judged["delta"].spreads
    assert spreads.gradient.pearson > 0.3


@pytest.fixture(scope="module")
def stretched(test_set):
    """Energy spread (kJ/mol) and force spread (kJ/mol/angstrom): the largest on the test frames, shape (2,), and those
    of a test frame whose C=O bond is stretched by 0, 0.3, 0.6 and 1 angstrom, shape (4, 2)."""
    table = test_set.system
    correction = load_model(EXAMPLE / "delta.safetensors").bind(
        table.qm_symbols, table.site_symbols, table.site_types, table.site_charges
    )

    def spreads(*frames):
        result = correction.evaluate(*frames)
        pair = result.energies.numpy().std(axis=0, ddof=1) / KJ_PER_MOL, force_spreads(result) * ANGSTROM / KJ_PER_MOL
        return np.stack(pair, axis=1)

    usual = spreads(*pad_frames(test_set.frames)).max(axis=0)
    qm, *rest = pad_frames(test_set.frames[:1])
    distances = torch.cdist(qm[0], qm[0])
    oxygen = table.qm_symbols.index("O")
    carbon = int(distances[oxygen].topk(2, largest=False).indices[1])
    bond = qm[0, oxygen] - qm[0, carbon]
    found = []
    for stretch in (0.0, 0.3, 0.6, 1.0):
        moved = qm.clone()
        moved[0, oxygen] += stretch * ANGSTROM * bond / bond.norm()
        found.append(spreads(moved, *rest)[0])
    found = np.array(found)
    print(f"test frames: energy spread at most {usual[0]:.2f}, force spread at most {usual[1]:.1f}")
    print("stretched by 0, 0.3, 0.6 and 1 angstrom:", found.round(1).tolist())
    return usual, found


def test_a_frame_far_outside_the_training_set_shows(stretched):
    """The guard of the example's configuration flags it, as one on the force spread would, and the energy spread leaves
    that of the test frames far behind."""
    usual, found = stretched
    limit = tomllib.loads((EXAMPLE / "box" / "config.toml").read_text())["correction"]["energy_spread_limit_kj_per_mol"]
    assert usual[0] < limit
    assert (found[1:, 0] > limit).all()
    assert (found[0] <= usual).all()
    assert (found[2:, 0] > 3.0 * usual[0]).all()
    assert (found[1:, 1] > 1.5 * usual[1]).all()


@pytest.mark.xfail(
    strict=True,
    reason="2.3 times at 0.6 and 2.0 at 1 angstrom: where inputs reach their bounds, slopes of all members go to zero",
)
def test_the_force_spread_shows_it_too(stretched):
    usual, found = stretched
    assert (found[2:, 1] > 3.0 * usual[1]).all()
