"""`deltaqmmm train` as a user runs it, on labels of one QM water in a droplet that a formula makes; stopped and
resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.labels import label_settings
from deltaqmmm.config.parts import cutoff_settings, load_split
from deltaqmmm.config.training import baseline_name, symmetry_functions, training_settings
from deltaqmmm.dataset import Dataset, EnergyLabel, LabelledFrame, Source, SystemTable, write_dataset
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.ml import default_functions, load_model
from deltaqmmm.training import TrainingSettings
from deltaqmmm.units import ANGSTROM

CONFIG = """\
[system]
topology = "{systems}/uracil_droplet.prmtop"
coordinates = "{systems}/uracil_droplet.rst7"
[qm]
atoms = "12-14"
[embedding]
inner_angstrom = 4.0
outer_angstrom = 6.0
[training]
epochs = {epochs}
members = 2
batch_size = 8
hidden = [8]
threads = 1
{training}
[network]
mm_cutoff_angstrom = 6.0
qm_radial_functions = 4
mm_radial_functions = 2
mm_near_cutoff_angstrom = 4.0
mm_near_radial_functions = 2
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_folder):
    """Datasets of 24 training and 6 test frames: a bond energy on top of what stands for the baseline."""
    folder = tmp_path_factory.mktemp("labels")
    file = folder / "config.toml"
    file.write_text(CONFIG.format(systems=data_folder / "mm_systems", epochs=1, training=""))
    config = read_config(file)
    topology, system = load_split(config)
    embedding = CutoffEmbedding(system, cutoff_settings(config), torch.device("cpu"))
    start = topology.positions[system.atom_particles]
    rng = np.random.default_rng(4)
    frames = []
    for number in range(30):
        embedded = embedding(torch.tensor(start + rng.normal(scale=0.05, size=start.shape))[None], None)
        qm = embedded.qm_positions[0].numpy()
        mm = embedded.mm_positions[0].numpy().astype(np.float32).astype(np.float64)
        bonds = qm[1:] - qm[0]
        lengths = np.linalg.norm(bonds, axis=1)
        slopes = (0.2 * (lengths - 1.8) / lengths)[:, None] * bonds
        reference = EnergyLabel(
            -76.0 + 0.1 * float(((lengths - 1.8) ** 2).sum()),
            np.concatenate([-slopes.sum(axis=0, keepdims=True), slopes]),
            np.zeros_like(mm),
            np.zeros(len(mm)),
        )
        baseline = EnergyLabel(-4.0, np.zeros((3, 3)), np.zeros_like(mm), np.zeros(len(mm)))
        frames.append(
            LabelledFrame(
                f"{number:032x}", Source("made", number), qm, mm, embedded.mm_charges[0].numpy(),
                embedded.mm_sites[0].numpy(), reference, baseline, np.zeros(3),
            )
        )  # fmt: skip
    whole = Dataset(SystemTable.from_system(system), label_settings(config, system))
    return SimpleNamespace(training=whole.with_frames(frames[:24], []), test=whole.with_frames(frames[24:], []))


@pytest.fixture
def work(tmp_path, made, data_folder):
    """A folder with a configuration, train.h5 and test.h5; `run` trains there."""
    write_dataset(tmp_path / "train.h5", made.training)
    write_dataset(tmp_path / "test.h5", made.test)

    def configure(training="", epochs=30):
        text = CONFIG.format(systems=data_folder / "mm_systems", epochs=epochs, training=training)
        (tmp_path / "config.toml").write_text(text)

    def run(*flags, output="model.safetensors", dataset="train.h5"):
        words = ["train", tmp_path / "config.toml", tmp_path / dataset, "-o", tmp_path / output, *flags]
        return main([str(word) for word in words])

    configure()
    return SimpleNamespace(folder=tmp_path, configure=configure, run=run, test=tmp_path / "test.h5")


def test_a_model_with_all_that_stands_beside_it(work, capsys, made):
    assert work.run("--test", work.test) == 0
    shown = capsys.readouterr()
    assert "training" in shown.err
    assert {path.name for path in work.folder.iterdir()} == {
        "config.toml", "train.h5", "test.h5", "model.safetensors", "model_metrics.md", "model_history.json",
        "model_parity.png", "model_loss.png", "model_spread.png",
    }  # fmt: skip
    text = (work.folder / "model_metrics.md").read_text()
    assert text.strip() in shown.out
    assert "on 6 test frames" in text
    assert "| DFTB3, uncorrected |" in text
    assert "Correlation of the committee's spread" in text
    history = json.loads((work.folder / "model_history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, 31))
    info = load_model(work.folder / "model.safetensors").info
    assert (info.target, info.n_members) == ("delta", 2)
    assert info.level == made.training.settings.level
    assert info.provenance["dataset"] == "train.h5"
    assert info.provenance["qm_region"] == "H2 O, charge +0"
    baseline, model = info.provenance["metrics"]["rows"]
    # What is to be learned is smooth: some epochs take most of the error away.
    assert model["qm_gradients"]["rmse"] < 0.6 * baseline["qm_gradients"]["rmse"]
    assert model["n_parameters"] == info.n_parameters


def test_without_test_frames_the_held_out_ones_are_judged(work, capsys):
    work.configure('target = "direct"', epochs=2)
    assert work.run("-q", "--frames", "20", "--members", "3") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    text = (work.folder / "model_metrics.md").read_text()
    assert "on 6 validation frames, each by the members that have not learned it" in text
    assert "| direct " in text
    assert "Correlation" not in text
    assert not (work.folder / "model_spread.png").exists()
    info = load_model(work.folder / "model.safetensors").info
    assert (info.target, info.n_members, info.provenance["frames"]) == ("direct", 3, 20)


def test_an_interrupted_run_goes_on(work, capsys):
    """Interrupted and resumed, the model is that of an unbroken run."""
    work.configure(epochs=300)
    command = [
        sys.executable,
        "-m",
        "deltaqmmm.cli.main",
        "train",
        "config.toml",
        "train.h5",
        "-o",
        "model.safetensors",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=work.folder, stderr=subprocess.PIPE, env=environment)
    seen = b""
    deadline = time.monotonic() + 100.0
    while b"training:" not in seen and time.monotonic() < deadline and process.poll() is None:
        seen += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert b"the same command with --resume goes on" in rest
    left = {path.name for path in work.folder.iterdir()}
    assert left == {"config.toml", "train.h5", "test.h5", "model.safetensors.checkpoint"}
    # Not by mistake, and not with other settings.
    assert work.run("-q") == 1
    assert "--resume" in capsys.readouterr().err
    assert work.run("-q", "--resume", "--members", "3") == 1
    assert "checkpoint of another run" in capsys.readouterr().err
    assert work.run("-q", "--resume") == 0
    assert not (work.folder / "model.safetensors.checkpoint").exists()
    assert work.run("-q", output="unbroken.safetensors") == 0
    one, two = (load_model(work.folder / f"{name}.safetensors") for name in ("model", "unbroken"))
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(tensor, two.network.state_dict()[name], rtol=1e-5, atol=1e-7)
    history = json.loads((work.folder / "model_history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, len(history) + 1))


def test_fewer_frames_are_among_more(made, tmp_path):
    from deltaqmmm.cli.train import choose_frames

    chosen = [
        {frame.identity for frame in choose_frames(made.training, count, 1, tmp_path).frames} for count in (10, 15, 24)
    ]
    assert [len(names) for names in chosen] == [10, 15, 24]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[0] != {frame.identity for frame in made.training.frames[:10]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frames", "25"], "has 24 frames, and --frames 25"),
        (["--frames", "9"], "9 frames to train 2 members on, and at least 10"),
        (["--frames", "11", "--members", "12"], "at least 12"),
        (["--test", "train.h5"], "24 of its 24 frames are among the training frames"),
        (["--test", "none.h5"], "no such dataset"),
    ],
)
def test_bad_input_is_one_clear_error(work, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(work.folder)
    before = set(work.folder.iterdir())
    assert work.run("-q", *flags) == 1
    assert message in capsys.readouterr().err
    assert set(work.folder.iterdir()) == before


def test_labels_of_other_settings_are_refused(work, capsys, made):
    settings = made.training.settings
    for name, table in (
        ("level", {**settings.level, "functional": "b3lyp"}),
        ("embedding", {**settings.embedding, "outer_angstrom": 9.0}),
    ):
        other = replace(made.training, settings=replace(settings, **{name: table}))
        write_dataset(work.folder / "other.h5", other)
        assert work.run("-q", dataset="other.h5") == 1
        assert "was made with other settings" in capsys.readouterr().err
        assert work.run("-q", "--test", work.folder / "other.h5") == 1
        assert "other.h5 was made with other settings" in capsys.readouterr().err


def test_labels_of_another_qm_region_say_so(work, capsys, made):
    # Its elements, and with them its baseline, are others as well: the cause comes first.
    training = made.training
    system = replace(training.system, qm_charge=training.system.qm_charge - 2)
    settings = replace(training.settings, baseline={**training.settings.baseline, "highest_shells": {"S": 2}})
    write_dataset(work.folder / "other.h5", replace(training, system=system, settings=settings))
    assert work.run("-q", dataset="other.h5") == 1
    error = capsys.readouterr().err
    assert "QM region" in error
    assert "charge -2 there, and" in error


def test_dropped_mm_gradients_are_not_learned(work, capsys, made):
    write_dataset(work.folder / "thin.h5", made.training.thinned(5.0 * ANGSTROM))
    assert work.run("-q", dataset="thin.h5") == 1
    assert (
        "within 5 angstrom of the QM region, and [training] mm_gradient_cutoff_angstrom is 14"
        in capsys.readouterr().err
    )


def test_outputs_that_cannot_be(work, capsys):
    assert work.run(output="nowhere/model.safetensors") == 1
    assert "there is no folder" in capsys.readouterr().err
    assert work.run(output="train.h5") == 1
    assert "both input and output" in capsys.readouterr().err
    work.configure("energy_weight = 0\nqm_gradient_weight = 0.0\nmm_gradient_weight = 0.0\nmm_potential_weight = 0")
    assert work.run() == 1
    assert "nothing would be learned" in capsys.readouterr().err


def test_the_functions_are_what_is_configured(tmp_path, data_folder):
    text = CONFIG.format(systems=data_folder / "mm_systems", epochs=1, training="")
    (tmp_path / "config.toml").write_text(
        text + "angular_order = 4\nangular_radial_functions = 3\nmm_wave_functions = 1\n"
    )
    assert symmetry_functions(read_config(tmp_path / "config.toml")) == default_functions(
        mm_cutoff=6.0 * ANGSTROM,
        mm_near_cutoff=4.0 * ANGSTROM,
        qm_radial=4,
        angular_radial=3,
        angular_order=4,
        mm_radial=2,
        mm_waves=1,
        mm_near_radial=2,
    )


def test_settings_are_what_is_configured(tmp_path, data_folder):
    """Each setting has its key, and none takes another's value."""
    values = {
        "target": "direct",
        "members": 3,
        "seed": 5,
        "validation_fraction": 0.25,
        "epochs": 17,
        "batch_size": 6,
        "learning_rate": 0.02,
        "weight_decay": 0.04,
        "energy_weight": 2.5,
        "qm_gradient_weight": 1.5,
        "mm_gradient_weight": 150.0,
        "mm_potential_weight": 15.0,
        "mm_gradient_cutoff": 5.0,
        "patience": 9,
        "hidden": [12, 10],
        "smallest_variance": 0.002,
        "whitening": 0.3,
        "averaging": 0.9,
    }
    assert set(values) == {field.name for field in fields(TrainingSettings)}
    keys = {
        {"mm_gradient_cutoff": "mm_gradient_cutoff_angstrom"}.get(name, name): value for name, value in values.items()
    }
    text = CONFIG.format(systems=data_folder / "mm_systems", epochs=1, training="").partition("[training]")[0]
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in keys.items()]
    (tmp_path / "config.toml").write_text(text + "[training]\n" + "".join(lines))
    settings = training_settings(read_config(tmp_path / "config.toml"))
    assert settings.to_json() == {**values, "mm_gradient_cutoff": pytest.approx(5.0 * ANGSTROM)}


def test_defaults_are_those_of_the_library(tmp_path, data_folder):
    text = CONFIG.format(systems=data_folder / "mm_systems", epochs=1, training="").partition("[training]")[0]
    (tmp_path / "config.toml").write_text(text)
    config = read_config(tmp_path / "config.toml")
    assert training_settings(config) == TrainingSettings()
    assert symmetry_functions(config) == default_functions()
    assert baseline_name(config) == "DFTB3"
