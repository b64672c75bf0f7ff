import struct

import numpy as np
import pytest

from deltaqmmm.dataset import EnergyLabel, LabelledFrame, Source
from deltaqmmm.errors import OutputError
from deltaqmmm.training.figures import (
    WIDTH,
    Curve,
    cutoff_figure,
    learning_figure,
    loss_figure,
    parity_figure,
    save_figure,
    spread_figure,
)
from deltaqmmm.training.metrics import check_spreads
from deltaqmmm.training.predictions import CommitteePredictions, Predictions, baseline_predictions
from deltaqmmm.units import KJ_PER_MOL


@pytest.fixture
def frames():
    rng = np.random.default_rng(3)
    made = []
    for number in range(8):
        labels = [
            EnergyLabel(0.01 * rng.normal() + shift, 0.01 * rng.normal(size=(3, 3)), 0.01 * rng.normal(size=(5, 3)),
                        np.zeros(5))
            for shift in (0.0, 50.0)
        ]  # fmt: skip
        made.append(
            LabelledFrame(
                str(number), Source("x", number), rng.normal(size=(3, 3)), rng.normal(scale=6.0, size=(5, 3)),
                np.ones(5), np.arange(5), *labels, np.zeros(3),
            )
        )  # fmt: skip
    return made


def noisy(frames, seed):
    rng = np.random.default_rng(seed)
    return Predictions(
        np.array([frame.reference.energy + 1e-3 * rng.normal() for frame in frames]),
        np.array([frame.reference.qm_gradients + 1e-3 * rng.normal(size=(3, 3)) for frame in frames]),
        tuple(frame.reference.mm_gradients + 1e-3 * rng.normal(size=(5, 3)) for frame in frames),
    )


def check_png(figure, file):
    save_figure(figure, file, dpi=50)
    content = file.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content.rstrip()[-8:-4] == b"IEND"
    width, _ = struct.unpack(">II", content[16:24])
    assert width == int(50 * WIDTH)


def labels_of(figure):
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


def test_parity(frames, tmp_path):
    figure = parity_figure(frames, noisy(frames, 1), baseline_predictions(frames), "Delta", "DFTB3")
    check_png(figure, tmp_path / "parity.png")
    assert len(figure.axes) == 3
    assert all("kJ mol" in x and "reference" in x and "predicted" in y for x, y in labels_of(figure))
    assert all("Å" in x for x, _ in labels_of(figure)[1:])
    energy = figure.axes[0]
    texts = [text.get_text() for text in energy.get_legend().get_texts()]
    differences = np.array([f.baseline.energy - f.reference.energy for f in frames]) / KJ_PER_MOL
    assert texts[0] == f"DFTB3: {differences.std():.3g}"
    assert texts[1].startswith("Delta: ")
    # With the offset taken off, the baseline is where the reference is.
    points = energy.collections[0].get_offsets()
    assert abs(points[:, 0].mean() - points[:, 1].mean()) < 1e-6
    assert np.abs(points[:, 1]).max() < 200.0


def test_parity_without_sites_or_baseline(frames, tmp_path):
    bare = [
        LabelledFrame(
            f.identity, f.source, f.qm_positions, np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=int),
            EnergyLabel(f.reference.energy, f.reference.qm_gradients, np.zeros((0, 3)), np.zeros(0)), f.baseline,
            np.zeros(3),
        )
        for f in frames[:1]
    ]  # fmt: skip
    model = Predictions(np.zeros(1), np.zeros((1, 3, 3)), (np.zeros((0, 3)),))
    check_png(parity_figure(bare, model, None), tmp_path / "parity.png")


@pytest.mark.parametrize("epochs", [1, 40])
def test_losses(tmp_path, epochs):
    numbers = list(range(1, epochs + 1))
    errors = np.random.default_rng(0).uniform(1.0, 2.0, size=(epochs, 4, 3))
    rates = [1e-3 if number < 20 else 1e-4 for number in numbers]
    figure = loss_figure(numbers, rates, errors, 2.0 * errors)
    check_png(figure, tmp_path / "loss.png")
    assert all(x == "epoch" and "RMSE" in y for x, y in labels_of(figure))
    for axis in figure.axes:
        assert axis.get_yscale() == "log"
        # Two curves of each member, two for the legend, and a line where the rate drops.
        assert len(axis.lines) == 10 + (epochs > 1)
    if epochs > 1:
        assert figure.axes[0].lines[0].get_xdata() == [20, 20]


def test_a_rate_that_always_falls_is_not_marked():
    figure = loss_figure(list(range(1, 41)), np.linspace(1, 0.1, 40), np.ones((40, 1, 3)), np.ones((40, 1, 3)))
    assert len(figure.axes[0].lines) == 4


@pytest.mark.parametrize(
    ("draw", "label"), [(learning_figure, "training frames"), (cutoff_figure, "MM cutoff of the network (Å)")]
)
def test_curves(tmp_path, draw, label):
    values = [4, 6, 9, 14]
    curves = {name: Curve(values, np.ones((4, 3)) * scale) for name, scale in (("Delta", 1.0), ("direct", 5.0))}
    figure = draw(curves, [8.0, 40.0, 3.0])
    check_png(figure, tmp_path / "curves.png")
    assert all(x == label and y.startswith("MAE, ") and "kJ mol" in y for x, y in labels_of(figure))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["baseline", "Delta", "direct"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["4", "6", "9", "14"]
    np.testing.assert_array_equal(figure.axes[1].lines[2].get_ydata(), 5.0)


def test_spreads(frames, tmp_path):
    predictions = CommitteePredictions.from_members([noisy(frames, seed) for seed in range(4)])
    figure = spread_figure(check_spreads(predictions, frames))
    check_png(figure, tmp_path / "spread.png")
    assert all("committee spread (kJ" in x and "true error (kJ" in y for x, y in labels_of(figure))
    assert len(figure.axes[0].collections[0].get_offsets()) == len(frames)
    assert "Pearson" in figure.axes[0].get_title()
    # A single member agrees with itself: nothing to draw, and no failure.
    check_png(
        spread_figure(check_spreads(CommitteePredictions.from_members([noisy(frames, 1)]), frames)),
        tmp_path / "none.png",
    )


def test_a_folder_that_is_not_there(frames, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere.*cannot be written"):
        save_figure(parity_figure(frames, noisy(frames, 1), None), tmp_path / "nowhere" / "x.png")
