"""The model file: a round trip bit for bit, whole files or none, and refusals in one clear sentence."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deltaqmmm.errors import ModelError, OutputError
from deltaqmmm.ml import load_model, save_model
from tests.unit.ml.helpers import bind, make_frames, make_model, small_functions

DATA = Path(__file__).parent / "data"


@pytest.fixture
def file(tmp_path):
    """A model that was saved."""
    path = tmp_path / "model.safetensors"
    save_model(path, make_model(hidden=(4,), n_members=2))
    return path


def parts_of(file):
    with safe_open(file, framework="pt") as document:
        header = json.loads(document.metadata()["deltaqmmm"])
        return header, {name: document.get_tensor(name) for name in document.keys()}  # noqa: SIM118


def write_parts(file, header, tensors):
    save_file(tensors, file, metadata={"deltaqmmm": json.dumps(header)})


def refusal(file):
    """The message of the one error, which names the file and is one line."""
    with pytest.raises(ModelError) as caught:
        load_model(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert message.count(str(file)) == 1
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize(
    "model",
    [
        make_model(),
        make_model(
            small_functions(mm_type_by="name", mm_weight="count"), n_members=1, hidden=(3, 4, 2), target="direct"
        ),
    ],
)
def test_round_trip_is_exact(tmp_path, model):
    file = tmp_path / "model.safetensors"
    save_model(file, model)
    found = load_model(file)
    assert found.info == model.info
    assert found.functions == model.functions
    assert torch.equal(found.offsets, model.offsets)
    expected = model.network.state_dict()
    state = found.network.state_dict()
    assert list(state) == list(expected)
    for name, tensor in state.items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, expected[name]), name
    frames = make_frames()
    before, after = bind(model).evaluate(*frames), bind(found).evaluate(*frames)
    for name in ("energies", "qm_gradients", "mm_gradients", "charge_gradients"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    again = tmp_path / "again.safetensors"
    save_model(again, found)
    assert again.read_bytes() == file.read_bytes()


def test_single_precision_is_kept_exactly(tmp_path):
    model = make_model()
    model.network.to(torch.float32)
    save_model(tmp_path / "model", model)
    for name, tensor in load_model(tmp_path / "model").network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name].double())


def test_saving_does_not_change_the_model(tmp_path):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    save_model(tmp_path / "model", model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


def test_the_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    previous = os.umask(0o027)
    try:
        save_model(tmp_path / "model", make_model(n_members=1))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


def test_a_link_goes_on_being_one(tmp_path, file):
    link = tmp_path / "link"
    link.symlink_to(file)
    save_model(link, make_model(n_members=3))
    assert link.is_symlink()
    assert load_model(file).n_members == 3


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "os.fdopen"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(file, monkeypatch, where):
    before = file.read_bytes()

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, fail)
    with pytest.raises(OutputError, match="the disk is full"):
        save_model(file, make_model(n_members=3))
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "model", make_model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "offset"])
def test_a_model_that_is_not_finite_is_not_written(tmp_path, where, value):
    model = make_model()
    if where == "offset":
        model = replace(model, offsets=torch.tensor([1.0, value, 1.0, 1.0]).double())
    else:
        with torch.no_grad():
            model.network.get_parameter("weight_H_0")[1, 2, 3] = value
    with pytest.raises(ModelError, match="not finite"):
        save_model(tmp_path / "model", model)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such" in refusal(tmp_path / "none.safetensors")
    refusal(tmp_path)


def test_a_truncated_file(file):
    content = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 8, len(content) - 1):
        file.write_bytes(content[:length])
        assert "damaged" in refusal(file), length
    file.write_bytes(content + b"\0")
    assert "damaged" in refusal(file)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(tmp_path, seed):
    file = tmp_path / "model"
    file.write_bytes(np.random.default_rng(seed).bytes(3000))
    assert "no model" in refusal(file)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"deltaqmmm": "{not json"}, {"deltaqmmm": "{}"}, {"deltaqmmm": "[1]"}, {"deltaqmmm": "3"}],
)
def test_a_foreign_file(tmp_path, metadata):
    file = tmp_path / "model"
    save_file({"weight": torch.zeros(2)}, file, metadata=metadata)
    assert "no model" in refusal(file)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("version", 1, "version 1, and this deltaqmmm reads versions 2 to 4: it has to be trained again"),
        ("version", 5, "version 5, and this deltaqmmm reads versions 2 to 4: take the newer deltaqmmm"),
        ("version", None, "version None, and this deltaqmmm reads versions 2 to 4: it has to be trained again"),
        ("units", "angstrom, kJ/mol, e", "angstrom, kJ/mol, e"),
        ("format", "deltaqmmm checkpoint 1", "deltaqmmm checkpoint 1"),
        ("functions", {}, "functions"),
        ("functions", None, ""),
        ("info", {}, ""),
        ("info", [], ""),
        ("info", 3, ""),
        ("hidden", [5], ""),
        ("hidden", [], ""),
        ("hidden", None, ""),
        ("hidden", ["4"], ""),
        ("n_inputs", [1], ""),
        ("n_inputs", [2, 2, 2, 2], ""),
    ],
)
def test_another_header(file, key, value, word):
    header, tensors = parts_of(file)
    write_parts(file, {**header, key: value}, tensors)
    assert word in refusal(file)
    del header[key]
    write_parts(file, header, tensors)
    refusal(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "both"),
        ("elements", ["C", "H", "N"]),
        ("elements", ["C", "F", "N", "O"]),
        ("elements", 4),
        ("mm_types", ["H"]),
        ("n_members", 3),
        ("n_members", 0),
        ("n_members", -1),
        ("n_members", "two"),
        ("n_members", 2.5),
        ("colour", "blue"),
    ],
)
def test_other_information(file, key, value):
    header, tensors = parts_of(file)
    header["info"][key] = value
    write_parts(file, header, tensors)
    refusal(file)


@pytest.mark.parametrize("name", ["weight_H_0", "bias_O_1", "transform_C", "mean_C", "reach_C", "scale", "offsets"])
def test_tensors_that_do_not_fit(file, name):
    header, tensors = parts_of(file)
    cases = {
        "another shape": {**tensors, name: torch.zeros(7, 7, dtype=torch.float64)},
        "missing": {key: tensor for key, tensor in tensors.items() if key != name},
        "not a number": {**tensors, name: torch.full_like(tensors[name], math.nan)},
        "infinite": {**tensors, name: torch.full_like(tensors[name], math.inf)},
        "one too many": {**tensors, name + "_more": tensors[name].clone()},
    }
    for case, changed in cases.items():
        write_parts(file, header, changed)
        assert refusal(file), case
    write_parts(file, header, tensors)
    load_model(file)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_old_file_goes_on_loading(version, tmp_path):
    expected = json.loads((DATA / f"model_v{version}.json").read_text())
    file = DATA / f"model_v{version}.safetensors"
    assert parts_of(file)[0]["version"] == version
    model = load_model(file)
    assert model.info.target == "delta"
    assert model.info.elements == ("C", "H", "O")
    assert model.info.mm_types == ("H", "O")
    assert model.info.embedding == {"kind": "cutoff", "inner_angstrom": 12.0}
    assert model.n_members == 2
    correction = model.bind(
        expected["qm_symbols"], expected["site_symbols"], expected["site_types"], np.array(expected["site_charges"])
    )
    frames = [torch.tensor(expected[name], dtype=torch.float64) for name in ("qm_positions", "mm_positions")]
    charges = torch.tensor(expected["mm_charges"], dtype=torch.float64)
    result = correction.evaluate(*frames, charges, torch.tensor(expected["mm_sites"]))
    for name in ("energies", "qm_gradients", "mm_gradients", "charge_gradients"):
        value = torch.tensor(expected[name], dtype=torch.float64)
        torch.testing.assert_close(getattr(result, name), value, rtol=0.0, atol=1e-12)
        assert value.abs().max() > 1e-4
    # What is saved again is of the newest version, and the same.
    save_model(tmp_path / "again", model)
    again = load_model(tmp_path / "again").network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.network.state_dict().items())
